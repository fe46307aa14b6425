"""Whole-slide nuclei: tiling, pseudo-detection, MUSE pretraining and slide inference, as plain Python calls."""
