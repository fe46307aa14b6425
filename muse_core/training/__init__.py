"""What every training shares: losses, checkpoints, schedules."""
