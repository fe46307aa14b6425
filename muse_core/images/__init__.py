"""Pixels of one image: decoding, colours, stain."""
