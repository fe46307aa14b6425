"""Networks and what turns their maps into points; explicit arguments, no settings objects."""
