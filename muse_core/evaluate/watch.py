"""Who watches an evaluation; light, so that the command line has it without torch."""


class EvaluationWatcher:
    """Told how an evaluation comes on; this one keeps it to itself."""

    def tiles(self, split: str, tiles: int, nuclei: int) -> None:
        """So many more tiles of a split have their features, with their nuclei."""

    def epoch(self, epoch: int, accuracy: float) -> None:
        """An epoch of fine-tuning, counted from 0, is done; accuracy on validation, 0 to 1."""
