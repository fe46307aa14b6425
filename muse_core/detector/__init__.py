"""Where nuclei are: what finds them, how the shipped finder is trained and calibrated."""
