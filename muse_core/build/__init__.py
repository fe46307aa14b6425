"""Many slides or patches to the ROI dataset (table 1)."""
