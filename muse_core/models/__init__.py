"""Networks, what turns their maps into points, and the weights that ship; explicit arguments, no settings objects."""
