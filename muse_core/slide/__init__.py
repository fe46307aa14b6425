"""Slides: one interface over cuCIM, OpenSlide and tifffile."""
