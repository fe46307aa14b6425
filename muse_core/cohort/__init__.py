"""Many slides, each taken once: manifest, files, run, records."""
