"""What this machine offers: files, locks, limits, devices, workers."""
