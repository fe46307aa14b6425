"""Groups of tiles on disk: nuclei that are certain, nuclei at seams that wait for the neighbours, and what failed."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from muse_core.geometry import level0_to_um
from muse_core.infer.job import GroupDone
from muse_core.infer.seams import settle_seams
from muse_core.machine.files import whole_file
from muse_core.nuclei_dataset import NucleiHeader, NucleusPoints, nuclei_table, stage_nuclei


@dataclass(frozen=True)
class GroupFiles:
    """The files of one group; the last to be written says that it is whole."""

    folder: Path
    number: int

    @property
    def certain(self) -> Path:
        """Nuclei away from seams, as the dataset stages them."""
        return self.folder / f"group-{self.number:05d}.parquet"

    @property
    def seam(self) -> Path:
        """Nuclei near seams, with what decides which of them stay."""
        return self.folder / f"group-{self.number:05d}.npz"

    @property
    def done(self) -> Path:
        """What the group came to."""
        return self.folder / f"group-{self.number:05d}.json"


def write_group(
    files: GroupFiles, header: NucleiHeader, certain: NucleusPoints, seam: NucleusPoints, done: GroupDone
) -> None:
    """Stage a group, whole or not at all.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    stage_nuclei(files.certain, nuclei_table(header, certain))
    stream = io.BytesIO()  # numpy's own writing to a file loses the errno that tells a full disk
    np.savez(stream, allow_pickle=False, **seam.columns)
    with whole_file(files.seam) as path:
        path.write_bytes(stream.getvalue())
    with whole_file(files.done) as path:
        path.write_text(json.dumps(asdict(done)), encoding="utf-8")


def read_done(files: GroupFiles) -> GroupDone | None:
    """What a staged group came to; None where it is not staged whole."""
    try:
        values = json.loads(files.done.read_text(encoding="utf-8"))
        failed = [(int(number), str(text)) for number, text in values["failed"]]
        return GroupDone(int(values["n_tiles"]), failed, float(values["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def settled_seams(
    groups: Sequence[GroupFiles], slide_mpp: tuple[float, float], distance_um: float
) -> NucleusPoints | None:
    """The nuclei at all seams of a slide, each once; None where there is none.

    Args:
        groups: every group, staged.
        slide_mpp: µm per level-0 px along x and y.
        distance_um: see `settle_seams`.
    """
    seams = NucleusPoints.joined([_read_seam(group.seam) for group in groups])
    if not len(seams):
        return None
    return seams.kept(settle_seams(seams, level0_to_um(seams.xy_level0, slide_mpp), distance_um))


def _read_seam(path: Path) -> NucleusPoints:
    with np.load(path, allow_pickle=False) as file:
        return NucleusPoints(**{name: file[name] for name in file.files})
