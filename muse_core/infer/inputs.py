"""What `--slides` names: a manifest, slides, or images, which are slides of one level."""

import glob
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from muse_core.cohort.manifest import NO_SLIDES, Manifest, ManifestRow, read_manifest, with_mpp
from muse_core.cohort.manifest.files import OWN_FOLDERS, files_below, ids_of_files, is_picture_of, is_slide
from muse_core.cohort.manifest.ids import distinct_ids, is_there
from muse_core.cohort.manifest.patch_list import list_patches
from muse_core.cohort.manifest.rows import check_row
from muse_core.cohort.manifest.store import slides_in_store
from muse_core.cohort.objects import is_object_url, url_of_path
from muse_core.errors import ConfigError, ManifestError
from muse_core.slide.image_reader import IMAGE_SUFFIXES

_GLOB = re.compile(r"[*?\[]")


def read_inputs(path: str | Path, mpp: float | None, *, known: Mapping[str, str] | None = None) -> Manifest:
    """The slides to work on.

    Of a folder, its slides; its PNG and JPEG images too where `mpp` is given, or where it holds no slide at all, for
    beside slides they are thumbnails more often than not.

    Args:
        path: a manifest, a slide or image, a folder or a glob of slides; or the URL of one in an object store.
        mpp: µm/px of every slide and image for which nothing else is given.
        known: ids that files had in earlier runs, by their absolute paths.

    Raises:
        ManifestError: there is nothing there to work on.
        ConfigError: mpp is no microscope's.
    """
    path = url_of_path(path)
    if isinstance(path, str) and is_object_url(path):
        return with_mpp(_from_store(path, mpp, known or {}), mpp)
    path = Path(path)
    images = _images(path)
    if path.suffix.lower() in IMAGE_SUFFIXES and not images:
        raise ManifestError(f"{path}: no such file; give an image, or a folder of them")
    try:
        manifest = Manifest((), ()) if path.suffix.lower() in IMAGE_SUFFIXES else read_manifest(path, known=known)
    except ManifestError:
        if not images:
            raise
        manifest = Manifest((), ())
    if images and (mpp is not None or not manifest.rows):
        manifest = _joined(manifest, images, known or {})
    return with_mpp(manifest, mpp)


def read_watched(path: str | Path, mpp: float | None, *, known: Mapping[str, str] | None = None) -> Manifest:
    """The same of a folder or glob that others put slides into: none yet is no error.

    Which of them have arrived whole is `Inbox.due`'s.

    Args:
        path: as for `read_inputs`.
        mpp: as for `read_inputs`.
        known: as for `read_inputs`.

    Raises:
        ManifestError: there is nothing there at all.
        ConfigError: mpp is no microscope's.
    """
    try:
        return read_inputs(path, mpp, known=known)
    except ManifestError as error:
        if error.reason != NO_SLIDES:
            raise
        return Manifest((), ())


def check_inputs(manifest: Manifest, regions: Path | None, *, may_be_empty: bool = False) -> None:
    """Make sure that there is something to do, and that one file of regions is for one slide.

    Args:
        manifest: what was read.
        regions: GeoJSON, or a folder of it; None for none.
        may_be_empty: whether it is fine that there is nothing to do.

    Raises:
        ManifestError: the manifest has no row.
        ConfigError: one file of regions and several slides.
    """
    if not manifest.rows and not manifest.problems and not may_be_empty:
        raise ManifestError("the manifest names no slide")
    if regions is not None and regions.is_file() and len(manifest.rows) > 1:
        raise ConfigError(
            f"--regions {regions}: one file for {len(manifest.rows)} slides; give a folder of <slide_id>.geojson"
        )


def _from_store(url: str, mpp: float | None, known: Mapping[str, str]) -> Manifest:
    """The slides at a URL; images by the same rule as those of a folder."""
    suffix = PurePosixPath(url).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return _checked_images(zip(distinct_ids([url], [PurePosixPath(url).name], known), [url], strict=True))
    try:
        manifest = read_manifest(url, known=known)
    except ManifestError as error:
        if error.reason != NO_SLIDES:
            raise
        manifest = Manifest((), ())
        if not (images := _stored_images(url, known)):
            raise
        return _checked_images(images)
    taken = {row.uri for row in manifest.rows}
    if mpp is None or not all(uri.startswith(f"{url.rstrip('/')}/") for uri in taken) or suffix:
        return manifest
    return _joined(manifest, _stored_images(url, known), known)


def _stored_images(url: str, known: Mapping[str, str]) -> list[tuple[str, str]]:
    found = slides_in_store(url, known, IMAGE_SUFFIXES).slides
    return [(one.slide_id, one.url) for one in found if PurePosixPath(one.url).suffix.lower() in IMAGE_SUFFIXES]


def _checked_images(images: Iterable[tuple[str, str]]) -> Manifest:
    return _joined(Manifest((), ()), images, {})


def _images(path: Path) -> list[tuple[str, Path]]:
    """Names and paths of the images of a folder or a glob, or of the one image; none of a slide's small pictures."""
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return [(path.stem, path.absolute())]
    if not path.exists() and _GLOB.search(str(path)):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        found = [one for one in found if one.suffix.lower() in IMAGE_SUFFIXES and one.is_file()]
        found = [one for one in found if one.parent.name not in OWN_FOLDERS]
        root = Path(os.path.commonpath([one.parent for one in found])) if found else Path()
        return [(slide_id, one.absolute()) for one, slide_id in zip(found, ids_of_files(root, found, {}), strict=True)]
    if not path.is_dir() or not any(
        name.lower().endswith(IMAGE_SUFFIXES) for _, _, names in os.walk(path) for name in names
    ):
        return []
    slides = [one for one in files_below(path) if is_slide(one)]
    return [
        (one.slide_id, one.path)
        for one in list_patches(path)
        if one.path.suffix.lower() in IMAGE_SUFFIXES
        and not is_picture_of(one.path, [slide.absolute() for slide in slides])
        and one.path.parent.name not in OWN_FOLDERS
    ]


def _joined(manifest: Manifest, images: Iterable[tuple[str, str | Path]], known: Mapping[str, str]) -> Manifest:
    rows, problems = list(manifest.rows), list(manifest.problems)
    taken = {row.slide_id for row in rows} | {slide_id for uri, slide_id in known.items() if is_there(uri)}
    for number, (name, path) in enumerate(images, start=len(rows) + 1):
        # The same name as a slide's: the suffix tells them apart, or else where it is.
        names = (name, name + PurePosixPath(path).suffix)
        slide_id = known.get(str(path)) or next((one for one in names if one not in taken), str(path))
        checked = check_row(number, {"slide_id": slide_id, "uri": str(path)}, "")
        if isinstance(checked, ManifestRow):
            rows.append(checked)
        else:
            problems.extend(checked)
    return Manifest(tuple(rows), tuple(problems))
