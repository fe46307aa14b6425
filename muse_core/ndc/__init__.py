"""Nucleus detection and classification: fine-tuning on labelled nuclei, and scores by every published rule."""
