"""Unfinished work on one slide, and its way into the dataset by renames that a second call can finish.

Work waits in `STAGING/<inputs hash>-<pieces>/` until all of the slide is done. From the first step of a commit on, what
the dataset held of the slide is replaced; a commit that was cut short is finished by the next one of the same inputs.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from muse_core.machine.files import whole_file

_DROPPED = ".dropped-"


def drop_other_attempts(staging: Path, attempt: str) -> None:
    """Delete what attempts of other names left staged, before the dataset is changed.

    An attempt that was cut short in its own commit counts on parts that this one is about to replace; it must not be
    taken up again. Each is renamed first, so that a kill leaves it whole or gone.
    """
    for folder in staging.glob("*"):
        if folder.name != attempt:
            dropped = (
                folder if folder.name.startswith(_DROPPED) else folder.rename(folder.with_name(_DROPPED + folder.name))
            )
            shutil.rmtree(dropped, ignore_errors=True)


def commit_files(folder: Path, moves: Iterable[tuple[Path, Path]], replaced: Iterable[Path]) -> None:
    """Put staged files in place of those that the dataset holds of this slide.

    A call that was cut short is finished by the next: what it had moved is no longer staged.

    Args:
        folder: the staging folder of these inputs.
        moves: staged and final path of each file; one that is not staged has been moved already.
        replaced: the dataset's files of this slide so far.
    """
    begun = folder / "committing"
    if not begun.exists():
        remove_files(replaced)
        with whole_file(begun):
            pass
    for staged, final in moves:
        put(staged, final)


def put(staged: Path, final: Path) -> None:
    """Move a file into place, unless an earlier call has."""
    if staged.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(final)


def remove_files(paths: Iterable[Path]) -> None:
    """Delete files of the dataset; those already gone are none the worse."""
    for path in paths:
        path.unlink(missing_ok=True)


def remove_staging(staging: Path) -> None:
    """Delete every unfinished attempt at a slide."""
    shutil.rmtree(staging, ignore_errors=True)
