"""MUSE pretraining: settings, the teacher-student loop of `trainer`, its checkpoints, monitors and curves."""
