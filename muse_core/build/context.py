"""Labelled patches with the real tissue around them, cut from their slides: what LFoV samples (eq. 8) are drawn from.

    OUT/images/PATCH.png       the patch and all around it that a sample of `side_px` can show
    OUT/labels/PATCH.geojson   its dots, and the patch itself as an area of the class Region*
    OUT/dataset.toml           µm/px, classes, what validates, whose tissue each patch is

That is a lab's layout (`labels.lab`): fine-tuning reads it as `--dataset lab`, and QuPath opens it.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.cohort.acquire.store import SlideStore
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.manifest.tcga import slide_ids
from muse_core.cohort.uris import slide_stem
from muse_core.errors import ConfigError, DatasetError, MuseError, OutputError
from muse_core.labels import read_labelled_patches
from muse_core.labels.patch import LabelledPatch
from muse_core.machine.files import whole_file
from muse_core.slide import Slide, open_slide

logger = logging.getLogger(__name__)

CONTEXT_MPP = 0.5  # of what the networks see, and so of the paper's 1024 px
SIDE_PX = 1024  # MUSE, section 3
_SAME_GRID = 0.02  # a patch whose µm/px differ by less keeps its own grid, and so its pixels
_SAME_MPP = 0.03  # by which a patch's extent on the slide may differ from its own
_LEAST_LIKENESS = 0.5  # correlation of patch and slide; other tissue has 0 to 0.2, the same re-encoded above 0.9
_LEAST_CONTRAST = 1.0  # grey levels; blank patches look like any glass
_BLUR_PX = 2.0  # before they are compared: resampling and a shift of a px must not count
_GROUND_PX = 12.0  # blur of what is taken away: where tissue ends, and how dark it is, say too little
_HAS_CONTEXT = ("puma",)  # datasets that bring the tissue around their patches

Box = tuple[int, int, int, int]  # left, top, width, height, px of the context image


@dataclass(frozen=True)
class Context:
    """A patch in its surroundings.

    Attributes:
        image: (H, W, 3) uint8 RGB of the slide.
        mpp: µm/px of it.
        patch: where the patch lies in it.
        xy: (N, 2) float64 its dots, continuous px of the image.
        likeness: correlation of the patch with what the slide shows there; NaN of a blank one.
    """

    image: NDArray[np.uint8]
    mpp: float
    patch: Box
    xy: NDArray[np.float64]
    likeness: float


@dataclass
class ContextSummary:
    """What was cut, in the words of the command's JSON; `unlabelled_share` is of the area of all images together."""

    patches_cut: int = 0
    patches_failed: int = 0
    unlabelled_share: float = 0.0
    seconds: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)


def cut_contexts(
    manifest: Manifest,
    dataset: str,
    data: Path,
    out: Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    side_px: int = SIDE_PX,
    mpp: float = CONTEXT_MPP,
    on_progress: Callable[[int, int], None] = lambda done, all_of_them: None,
) -> ContextSummary:
    """Cut every patch of a dataset with its surroundings; one that fails costs no other.

    Args:
        manifest: the slides, by the names that the dataset gives them.
        dataset: a layout whose patches say where they lie: brca-m2c or ocelot.
        data: its folder.
        out: a folder; made if need be.
        splits: which of its patches; those of val validate.
        side_px: of the samples that shall be drawn from the images.
        mpp: µm/px of the images.
        on_progress: patches done, and to do in all.

    Raises:
        ConfigError: a dataset that does not say where its patches lie, or has their surroundings already.
        DatasetError: the data are not what the layout says, or no patch could be cut.
        OutputError: `out` cannot be written.
    """
    if dataset in _HAS_CONTEXT:
        raise ConfigError(
            f"--dataset {dataset}: brings the tissue around its patches; give it to muse finetune as it is"
        )
    started, summary = time.perf_counter(), ContextSummary()
    patches = {split: read_labelled_patches(dataset, data, split, labels="dots") for split in splits}
    every = [patch for members in patches.values() for patch in members]
    if not any(patch.place for patch in every):
        raise ConfigError(f"--dataset {dataset}: its patches do not say where on which slide they lie")
    cut: dict[str, Context] = {}
    areas = np.zeros(2)
    with SlideStore(out / "slides") as store:
        for row, members in _by_slide(manifest, every, summary):
            for patch, context in _of_slide(store, row, members, summary, side_px=side_px, mpp=mpp):
                _write(patch, context, out)
                areas += context.patch[2] * context.patch[3], context.image.shape[0] * context.image.shape[1]
                cut[patch.name] = _without_pixels(context)
                on_progress(len(cut) + len(summary.failures), len(every))
    summary.patches_cut, summary.patches_failed = len(cut), len(summary.failures)
    if not cut:
        first = summary.failures[0]
        raise DatasetError(f"{data}: no patch could be cut; the first, {first['patch']}: {first['message']}")
    _write_dataset(out, patches, cut)
    summary.unlabelled_share = float(1 - areas[0] / areas[1])
    summary.seconds = time.perf_counter() - started
    return summary


def context_of(slide: Slide, patch: LabelledPatch, *, side_px: int = SIDE_PX, mpp: float = CONTEXT_MPP) -> Context:
    """A patch with all around it that a sample of `side_px`, which holds all of it, can show.

    Raises:
        DatasetError: the patch lies outside the slide, is of another µm/px, or shows other tissue.
        SlideReadError: the slide cannot be read there.
    """
    place, info = patch.place, slide.info
    assert place is not None
    height, width = patch.image.shape[:2]
    own = np.array([place.width_level0 / width, place.height_level0 / height])  # level-0 px a patch px
    _check_mpp(patch, float(own[0] * info.mpp.x), str(info.path))
    step = own if abs(own[0] * info.mpp.x / mpp - 1) < _SAME_GRID else mpp / np.array([info.mpp.x, info.mpp.y])
    first = np.array([place.x_level0, place.y_level0])
    size = np.array([place.width_level0, place.height_level0])
    beyond = np.array([info.width_level0, info.height_level0]) - first - size
    if min(*first, *beyond) < 0:
        raise DatasetError(
            f"patch {patch.name}: x {first[0]:g} y {first[1]:g} {size[0]:g} x {size[1]:g} px do not lie on {info.path} "
            f"of {info.width_level0} x {info.height_level0} px; is it another slide?"
        )
    inner = np.round(size / step).astype(int)
    around = np.maximum(0, side_px - inner)
    before, after = np.minimum(around, first // step).astype(int), np.minimum(around, beyond // step).astype(int)
    left, top = first - before * step
    whole = before + inner + after
    image = slide.read_region(float(left), float(top), int(whole[0]), int(whole[1]), mpp=float(step[0] * info.mpp.x))
    box = (int(before[0]), int(before[1]), int(inner[0]), int(inner[1]))
    likeness = _likeness(patch.image, image[box[1] : box[1] + box[3], box[0] : box[0] + box[2]])
    if likeness < _LEAST_LIKENESS:
        raise DatasetError(
            f"patch {patch.name}: {info.path} shows other tissue at x {first[0]:g} y {first[1]:g} (correlation "
            f"{likeness:.2f}, {_LEAST_LIKENESS} needed); is it another slide, or another version of it?"
        )
    # Of dots beside the last pixel, which some files have, the patch is no less annotated.
    xy = np.clip(patch.xy * (own / step), 0, inner - 0.5) + before
    return Context(np.asarray(image), float(step[0] * info.mpp.x), box, xy, likeness)


def _check_mpp(patch: LabelledPatch, on_slide: float, path: str) -> None:
    if abs(on_slide / patch.mpp - 1) > _SAME_MPP:
        raise DatasetError(
            f"patch {patch.name}: has {patch.mpp:g} um/px, and {on_slide:.4g} by its place on {path}; is it another "
            "slide, or should the manifest give an mpp?"
        )


def _likeness(patch: NDArray[np.uint8], shown: NDArray[np.uint8]) -> float:
    """Correlation of what is as large as nuclei, in grey, NaN where one of the two is blank."""
    scaled = cv2.resize(shown, patch.shape[1::-1], interpolation=cv2.INTER_AREA)
    details = [_details(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(np.float32)) for one in (patch, scaled)]
    if min(float(one.std()) for one in details) < _LEAST_CONTRAST:
        return float("nan")
    return float(np.corrcoef(details[0].ravel(), details[1].ravel())[0, 1])


def _details(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), _BLUR_PX) - cv2.GaussianBlur(grey, (0, 0), _GROUND_PX))


def _by_slide(
    manifest: Manifest, patches: Sequence[LabelledPatch], summary: ContextSummary
) -> list[tuple[ManifestRow, list[LabelledPatch]]]:
    """Patches by the manifest's row of their slide; those without one become failures."""
    names = {row.slide_id: _names(row) for row in manifest.rows}
    found: dict[str, list[LabelledPatch]] = {}
    for patch in patches:
        if patch.place is None:
            _fail(summary, patch, "", "no_place", f"the name {patch.name} does not say where it lies")
            continue
        wanted = patch.place.slide_name
        rows = [key for key, own in names.items() if _is_called(wanted, own)]
        if len(rows) != 1:
            said = f"slides {', '.join(rows)} are all called so" if rows else "no slide of the manifest is called so"
            _fail(summary, patch, wanted, "no_slide", f"slide {wanted}: {said}")
            continue
        found.setdefault(rows[0], []).append(patch)
    by_id = {row.slide_id: row for row in manifest.rows}
    return [(by_id[slide_id], members) for slide_id, members in found.items()]


def _names(row: ManifestRow) -> frozenset[str]:
    stem = slide_stem(row.uri.rsplit("/", 1)[-1])
    return frozenset((row.slide_id, stem))


def _is_called(wanted: str, names: Iterable[str]) -> bool:
    """Whether a slide is meant: by its whole name, or without TCGA's UUID where one of the two lacks it."""
    for name in names:
        short, other = slide_ids([wanted])[0], slide_ids([name])[0]
        if wanted == name or (short == other and (short == wanted or other == name)):
            return True
    return False


def _of_slide(
    store: SlideStore,
    row: ManifestRow,
    members: Sequence[LabelledPatch],
    summary: ContextSummary,
    *,
    side_px: int,
    mpp: float,
) -> Iterable[tuple[LabelledPatch, Context]]:
    """The patches of one slide, cut; what fails is on the summary.

    Raises:
        OutputError: the slide cannot be kept.
    """
    try:
        with store.slide(row) as acquired, open_slide(acquired.path, mpp_override=row.mpp, scene=row.scene) as slide:
            for patch in members:
                try:
                    context = context_of(slide, patch, side_px=side_px, mpp=mpp)
                except MuseError as error:
                    _fail(summary, patch, row.slide_id, error.reason, str(error))
                    continue
                yield patch, context
    except OutputError:
        raise  # no patch's fault: none can be written any more
    except MuseError as error:
        for patch in members:
            _fail(summary, patch, row.slide_id, error.reason, str(error))


def _fail(summary: ContextSummary, patch: LabelledPatch, slide_id: str, reason: str, message: str) -> None:
    logger.warning("patch %s is left out: %s", patch.name, message)
    summary.failures.append({"patch": patch.name, "slide_id": slide_id, "reason": reason, "message": message})


def _write(patch: LabelledPatch, context: Context, out: Path) -> None:
    with whole_file(out / "images" / f"{patch.name}.png") as temporary:
        _, encoded = cv2.imencode(".png", context.image[:, :, ::-1])
        temporary.write_bytes(encoded.tobytes())
    x, y, width, height = context.patch
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    features = [_feature({"type": "Polygon", "coordinates": [ring]}, "Region*")]
    for (dot_x, dot_y), class_id in zip(context.xy.round(3).tolist(), patch.class_ids.tolist(), strict=True):
        features.append(_feature({"type": "Point", "coordinates": [dot_x, dot_y]}, patch.class_names[class_id]))
    with whole_file(out / "labels" / f"{patch.name}.geojson") as temporary:
        text = json.dumps({"type": "FeatureCollection", "features": features})
        temporary.write_text(text, encoding="utf-8")


def _feature(geometry: Mapping[str, object], class_name: str) -> dict[str, object]:
    properties = {"objectType": "annotation", "classification": {"name": class_name}}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _without_pixels(context: Context) -> Context:
    return Context(np.empty((0, 0, 3), np.uint8), context.mpp, context.patch, context.xy, context.likeness)


def _write_dataset(out: Path, patches: Mapping[str, Sequence[LabelledPatch]], cut: Mapping[str, Context]) -> None:
    """`dataset.toml`: JSON's strings and numbers are TOML's, too."""
    members = [patch for several in patches.values() for patch in several if patch.name in cut]
    names = members[0].class_names
    found = np.unique(np.concatenate([patch.class_ids for patch in members]))
    validation = [patch.name for patch in patches.get("val", ()) if patch.name in cut]
    lines = [
        f"classes = {json.dumps([names[class_id] for class_id in found.tolist()])}",
        f"val = {json.dumps(validation)}",
        "[mpp_by_name]",
        *(f"{json.dumps(name)} = {context.mpp:.6g}" for name, context in sorted(cut.items())),
        "[case_by_name]",
        *(f"{json.dumps(patch.name)} = {json.dumps(patch.case or patch.name)}" for patch in members),
    ]
    with whole_file(out / "dataset.toml") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
