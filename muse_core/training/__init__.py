"""What every training shares: losses, state on disk, running average, schedules, progress."""
