"""Groups of tiles on disk: nuclei that are certain, nuclei at seams that wait for the neighbours, and what failed."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse_core.infer.job import GroupDone
from muse_core.infer.seams import SeamPoints, settle_seams
from muse_core.machine.files import whole_file
from muse_core.nuclei_dataset import NucleiHeader, NucleusPoints, nuclei_table, stage_nuclei
from muse_core.nuclei_dataset.points import join_nuclei, taken

_ARRAYS = ("xy_level0", "class_ids", "scores", "probabilities", "in_tissue", "embeddings", "xy_um", "tile", "owned")


@dataclass(frozen=True, eq=False)
class SeamNuclei:
    """Nuclei near borders of tiles, with what decides which of them stay; `seam.xy` is in µm."""

    nuclei: NucleusPoints
    seam: SeamPoints


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
        """Nuclei near seams."""
        return self.folder / f"group-{self.number:05d}.npz"

    @property
    def done(self) -> Path:
        """What the group came to."""
        return self.folder / f"group-{self.number:05d}.json"


def write_group(
    files: GroupFiles, header: NucleiHeader, certain: NucleusPoints, seam: SeamNuclei, done: GroupDone
) -> None:
    """Stage a group, whole or not at all.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    stage_nuclei(files.certain, nuclei_table(header, certain))
    arrays = {name: array for name, array in _arrays(seam).items() if array is not None}
    stream = io.BytesIO()  # numpy's own writing to a file loses the errno that tells a full disk
    np.savez(stream, allow_pickle=False, **arrays)
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


def settled_seams(groups: Sequence[GroupFiles], distance_um: float) -> NucleusPoints | None:
    """The nuclei at all seams of a slide, each once; None where there is none.

    Args:
        groups: every group, staged.
        distance_um: see `settle_seams`.
    """
    seams = [_read_seam(group.seam) for group in groups]
    if not sum(len(one.seam.score) for one in seams):
        return None
    joined = join_seams(seams)
    return taken(joined.nuclei, settle_seams(joined.seam, distance_um))


def join_seams(parts: Sequence[SeamNuclei]) -> SeamNuclei:
    """The nuclei of some seams after those of others; at least one part."""
    seams = [part.seam for part in parts]
    return SeamNuclei(
        join_nuclei([part.nuclei for part in parts]),
        SeamPoints(
            np.concatenate([seam.xy for seam in seams]),
            np.concatenate([seam.score for seam in seams]),
            np.concatenate([seam.tile for seam in seams]),
            np.concatenate([seam.owned for seam in seams]),
        ),
    )


def _arrays(seam: SeamNuclei) -> dict[str, NDArray[np.generic] | None]:
    nuclei, points = seam.nuclei, seam.seam
    values = (nuclei.xy_level0, nuclei.class_ids, nuclei.scores, nuclei.probabilities, nuclei.in_tissue)
    return dict(zip(_ARRAYS, (*values, nuclei.embeddings, points.xy, points.tile, points.owned), strict=True))


def _read_seam(path: Path) -> SeamNuclei:
    with np.load(path, allow_pickle=False) as file:
        one = {name: file[name] for name in _ARRAYS if name in file.files}
    nuclei = NucleusPoints(
        one["xy_level0"],
        one["class_ids"],
        one["scores"],
        one["probabilities"],
        one["in_tissue"],
        one.get("embeddings"),
    )
    return SeamNuclei(nuclei, SeamPoints(one["xy_um"], one["scores"], one["tile"], one["owned"]))
