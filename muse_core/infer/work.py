"""One slide's tiles through the network, group by group."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from muse_core.cohort.inputs import hash_of_polygons
from muse_core.cohort.records import package_versions
from muse_core.errors import ConfigError, SlideReadError
from muse_core.geometry import Box, Frame, frame_at
from muse_core.infer.crew import Sizes, Windows, windows_for
from muse_core.infer.doubt import slide_doubt
from muse_core.infer.engine import Clock, Steps, run_groups
from muse_core.infer.groups import GroupFiles, read_done, settled_seams, write_group
from muse_core.infer.job import GroupDone, InferJob, InferPlan
from muse_core.infer.model import describe_engine, shipped_weights
from muse_core.infer.plan import Area
from muse_core.infer.seams import place_in_core
from muse_core.infer.tiles import CELL_PX, Tile, TileGrid, in_batches, in_groups, plan_tiles, seen_px
from muse_core.machine.heap import give_back_memory
from muse_core.models.nucleus_model import NucleiFound, NucleusModel
from muse_core.nuclei_dataset import (
    NucleiHeader,
    NucleusPoints,
    merge_nuclei,
    nuclei_table,
    stage_nuclei,
)
from muse_core.slide import Slide, SlideInfo

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_SIZE_TOLERANCE = 0.06  # relative; nuclei that much smaller or larger cost less than 0.004 of F1 on validation
_SQUARE_TOLERANCE = 1e-4  # of px that count as square
_TRIM_CALLS = 4  # of the network between two clearings of the heap: each costs a tenth of a call, rarer ones 0.2 GiB

Tell = Callable[[int], None]
TileImage: TypeAlias = "NDArray[np.uint8] | Tensor"  # (H, W, 3) uint8
TileNuclei = tuple[NucleusPoints, NucleusPoints]  # certain ones, and those at seams


def grid_of(model: NucleusModel, windows: Windows, bounds: Box, offset_px: tuple[int, int] = (0, 0)) -> TileGrid:
    """How a slide is cut: windows with the model's margin around cores.

    Args:
        model: that sees them.
        windows: their sides.
        bounds: of the slide, px of the model.
        offset_px: shifts the borders of cores.

    Raises:
        ConfigError: the margins leave nothing of a window.
    """
    margin_px, grid_px = _ceil(model.margin_um / model.mpp), _ceil(model.grid_um / model.mpp)
    grid = TileGrid(windows.most_px, margin_px, grid_px, bounds, offset_px, windows.shape_px)
    if grid.cost.most_cells <= 0:
        raise ConfigError(
            f"window_px {grid.window_px}: margins of {margin_px} px leave nothing of it; "
            f"{math.ceil((2 * margin_px + CELL_PX) / grid.step_px) * grid.step_px} or more needed"
        )
    return grid


def seen_mpp(model_mpp: float, slide_mpp: tuple[float, float]) -> float:
    """The µm/px at which a model is shown a slide: a whole multiple of the slide's own where that is near the model's.

    Then a px is the mean of the same whole px whatever window it is in. Resampled by 1.002, it hangs a little on where
    its window starts, and of CMU-1-Small-Region's nuclei (0.499 µm/px) 3 % changed with the windows.

    Args:
        model_mpp: that the model was trained at.
        slide_mpp: along x and y.
    """
    x, y = slide_mpp
    multiple = max(1, round(model_mpp / x)) * x
    near = abs(multiple / model_mpp - 1) <= _SIZE_TOLERANCE and abs(y / x - 1) <= _SQUARE_TOLERANCE
    return multiple if near else model_mpp


class SlideWork:
    """The groups of one open slide."""

    def __init__(self, job: InferJob, plan: InferPlan, slide: Slide, model: NucleusModel, clock: Clock) -> None:
        self._job, self._plan, self._slide, self._model, self._clock = job, plan, slide, model, clock
        settings, mpp = job.settings, (slide.info.mpp.x, slide.info.mpp.y)
        self._area = Area(slide, job)
        on_gpu = job.device != "cpu" and model.takes_tensors
        self._decodes_on_gpu = settings.decode_on_gpu and on_gpu and slide.info.decodes_on_gpu
        self._one_at_a_time = Lock()
        self._calls = count(1)
        self._begun = time.monotonic()
        self._seen_mpp = seen_mpp(model.mpp, mpp)
        self._frame = frame_at(0.0, 0.0, self._seen_mpp, mpp)
        self._mpp = mpp
        self._seam_px = settings.seam_um / self._seen_mpp
        about = _provenance(job, plan, slide.info, model)
        self._header = NucleiHeader(job.slide_id, job.project, mpp, model.class_names, about, model.embedding_size)
        self._bounds = _bounds(slide.info, self._frame)
        windows = windows_for(settings, engine=job.engine, device=job.device)
        grid = grid_of(model, windows, self._bounds, settings.offset_px)
        self._tiles = plan_tiles(_in_frame(self._area.work, self._frame), grid)
        self.n_tiles = len(self._tiles)
        self.seen_mm2 = seen_px(self._tiles) * self._seen_mpp**2 * 1e-6
        self._groups = in_groups(self._tiles, settings.group_tiles)
        self.files = [GroupFiles(job.folder, number) for number in range(len(self._groups))]

    def run(self, tell: Tell, sizes: Sizes) -> list[GroupDone]:
        """Stage the groups that are not staged whole yet; a writer's thread keeps one behind the network.

        A group with tiles that could not be read is done again: what kept them from it may have passed.

        Returns:
            The groups that earlier runs staged.
        """
        earlier = {n: done for n, files in enumerate(self.files) if (done := read_done(files)) and not done.failed}
        missing = [number for number in range(len(self.files)) if number not in earlier]
        tell(sum(len(group) for number, group in enumerate(self._groups) if number not in missing))
        groups = [in_batches(self._groups[number], sizes.batch_tiles) for number in missing]
        steps = Steps(self._read, self._find)
        writing: Future[None] | None = None
        # Closed before the slide is: after a failed write its readers and finders would still be at work.
        with (
            ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
            closing(run_groups(groups, steps, sizes.crew, self._clock)) as found,
        ):
            for number, batches in zip(missing, found, strict=True):
                if writing is not None:
                    writing.result()
                now = time.monotonic()
                results = [tile for batch in batches for tile in batch]
                writing = writer.submit(self._write, number, results, now - self._begun)
                self._begun = now
                tell(len(self._groups[number]))
            if writing is not None:
                writing.result()
        return list(earlier.values())

    def doubt(self) -> dict[str, object]:
        """Columns of the slides table: how unlike what the model knows the slide is; empty where that is not known."""
        if self._model.familiar is None:
            return {}
        staged = [files.certain for files in self.files]
        found = slide_doubt(self._slide, staged, self._model.familiar, self._plan.facts.get("glass_rgb"))
        return {} if found is None else {"doubt": found.share, "doubt_why": ", ".join(found.why)}

    def merge(self) -> int:
        """Write the slide's part from its groups and seams; how many nuclei it holds."""
        seam = settled_seams(self.files, self._mpp, self._job.settings.seam_um)
        staged = [files.certain for files in self.files]
        if seam is not None:
            staged.append(self._job.folder / "seams.parquet")
            stage_nuclei(staged[-1], nuclei_table(self._header, seam))
        about = {**self._header.provenance, "n_tiles": self.n_tiles, "failed_tiles": self._failed_tiles()}
        return merge_nuclei(self._job.staged_part, staged, replace(self._header, provenance=about)).n_nuclei

    def _failed_tiles(self) -> list[dict[str, object]]:
        """What each tile that could not be read owned, level-0 px, and why."""
        failed = [one for files in self.files if (done := read_done(files)) for one in done.failed]
        found: list[dict[str, object]] = []
        for number, message in failed:
            core = self._tiles[number].core
            corners = self._frame.to_level0(np.array([[core.x, core.y], [core.right, core.bottom]]))
            (left, top), (right, bottom) = corners.tolist()
            found.append({"box_level0": [left, top, right - left, bottom - top], "message": message})
        return found

    def _read(self, batch: Sequence[Tile]) -> list["TileImage | SlideReadError"]:
        return [self._read_tile(tile) for tile in batch]

    def _read_tile(self, tile: Tile) -> "TileImage | SlideReadError":
        ((x_level0, y_level0),) = self._frame.to_level0(np.array([[tile.x, tile.y]]))
        # What lies beyond the slide is mirrored, not blank: a blank's rim is an edge, and edges look like nuclei's.
        width = min(tile.width, math.ceil(self._bounds.right) - tile.x)
        height = min(tile.height, math.ceil(self._bounds.bottom) - tile.y)
        whole = (width, height) == (tile.width, tile.height)
        if self._decodes_on_gpu and whole:
            try:
                with self._one_at_a_time:  # the GPU's handle is one
                    return self._slide.read_region_tensor(x_level0, y_level0, width, height, mpp=self._seen_mpp)
            except SlideReadError as error:
                logger.warning("%s: tile %d: tried on the CPU: %s", self._job.slide_id, tile.number, error)
        try:
            # Reads that fail are tried once more on a fresh handle, for one that failed may fail for ever.
            pixels = self._slide.read_region(x_level0, y_level0, width, height, mpp=self._seen_mpp)
        except SlideReadError as error:
            logger.warning("%s: tile %d: %s", self._job.slide_id, tile.number, error)
            return error
        if not whole:
            pixels = np.pad(pixels, ((0, tile.height - height), (0, tile.width - width), (0, 0)), "symmetric")
        return self._on_device(pixels) if self._decodes_on_gpu else pixels

    def _on_device(self, pixels: NDArray[np.uint8]) -> "Tensor":
        import torch

        return torch.from_numpy(pixels).to(self._slide.device)

    def _find(
        self, batch: Sequence[Tile], images: list["TileImage | SlideReadError"]
    ) -> list[tuple[Tile, TileNuclei | SlideReadError]]:
        found = iter(self._model.find(stacked) if (stacked := _stacked(images)) is not None else [])
        if next(self._calls) % _TRIM_CALLS == 0:
            give_back_memory()
        return [
            (tile, image if isinstance(image, SlideReadError) else self._placed(tile, next(found)))
            for tile, image in zip(batch, images, strict=True)
        ]

    def _placed(self, tile: Tile, found: NucleiFound) -> TileNuclei:
        """A tile's nuclei in level-0 px, those it owns for certain and those at its borders."""
        xy = np.asarray(found.xy, np.float64) + np.array([tile.x, tile.y])
        owned, at_border = place_in_core(xy, tile.core, self._seam_px)
        xy_level0 = self._frame.to_level0(xy)
        x, y = np.ascontiguousarray(xy_level0.T)
        inside = (owned | at_border) & shapely.contains_xy(self._area.work, x, y)
        nuclei = NucleusPoints(
            xy_level0,
            found.class_ids,
            found.score,
            found.probabilities,
            shapely.contains_xy(self._area.tissue, x, y),
            found.embedding,
        )
        at_seam = replace(nuclei, tile=np.full(len(nuclei), tile.number), owned=owned)
        return nuclei.kept(inside & ~at_border), at_seam.kept(inside & at_border)

    def _write(self, number: int, results: list[tuple[Tile, TileNuclei | SlideReadError]], seconds: float) -> None:
        with self._clock("write"):
            failed = [(tile.number, str(found)) for tile, found in results if isinstance(found, SlideReadError)]
            found = [found for _, found in sorted(results, key=lambda pair: pair[0].number) if isinstance(found, tuple)]
            empty = self._placed(results[0][0], self._nothing())
            certain, seam = (NucleusPoints.joined([empty[k], *(one[k] for one in found)]) for k in range(2))
            write_group(self.files[number], self._header, certain, seam, GroupDone(len(results), failed, seconds))

    def _nothing(self) -> NucleiFound:
        size, n_classes = self._header.embedding_size, len(self._model.class_names)
        none = np.empty((0, size), np.float16) if size else None
        return NucleiFound(
            np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty((0, n_classes), np.float32), none
        )


def _stacked(images: Sequence["TileImage | SlideReadError"]) -> "TileImage | None":
    """The images of a batch that could be read, (B, H, W, 3), where they are; None where there is none."""
    read = [image for image in images if not isinstance(image, SlideReadError)]
    if not read:
        return None
    if len(read) == 1:
        return read[0][None]
    if isinstance(read[0], np.ndarray):
        return np.stack(read)
    import torch

    return torch.stack(cast("list[Tensor]", read))


def _bounds(info: SlideInfo, frame: Frame) -> Box:
    """The slide, px of the model."""
    corners = frame.from_level0(np.array([[0.0, 0.0], [info.width_level0, info.height_level0]]))
    (left, top), (right, bottom) = corners.tolist()
    return Box(left, top, right - left, bottom - top)


def _in_frame(area: BaseGeometry, frame: Frame) -> list[Polygon]:
    """An area in level-0 px as polygons in network px."""
    return [shapely.transform(part, frame.from_level0) for part in shapely.get_parts(area) if part.area > 0]


def _ceil(length: float) -> int:
    return int(np.ceil(length - 1e-9))


def _file_of(path: Path | None) -> dict[str, str] | None:
    """A file of polygons by its name and content."""
    return None if path is None else {"file": path.name, "sha256": hash_of_polygons(path)}


def _provenance(job: InferJob, plan: InferPlan, info: SlideInfo, model: NucleusModel) -> dict[str, object]:
    bounds = info.bounds_level0
    return {
        **{key: plan.facts[key] for key in ("md5", "size", "reader", "reader_check", "mpp_source", "scene")},
        "bounds_level0": None if bounds is None else [bounds.x, bounds.y, bounds.width, bounds.height],
        "regions": _file_of(job.regions),
        "tissue_edited": _file_of(job.tissue_edited),
        "inputs_hash": job.inputs_hash,
        "checkpoint": (job.checkpoint or shipped_weights()).name,
        "model_id": model.model_id,  # a hash of the weights
        "model_mpp": model.mpp,
        "settings_hash": job.settings.tables_hash(),
        "settings": job.settings.model_dump(mode="json", exclude={"acquire"}),
        "device": job.device,
        "engine": describe_engine(job.engine, device=job.device),
        "versions": package_versions(),
    }
