"""Table 1: ROI rows with image bytes and nuclei, in Parquet."""
