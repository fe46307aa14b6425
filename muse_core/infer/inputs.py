"""What `--slides` names: a manifest, slides, or images, which are slides of one level."""

import os
from pathlib import Path

from muse_core.errors import ManifestError
from muse_core.manifest import Manifest, ManifestRow, read_manifest, with_mpp
from muse_core.manifest.rows import check_row
from muse_core.patch_list import list_patches
from muse_core.slide.image_reader import IMAGE_SUFFIXES


def read_inputs(path: Path, mpp: float | None) -> Manifest:
    """The slides to work on.

    Of a folder, its slides; its PNG and JPEG images too where `mpp` is given, or where it holds no slide at all, for
    beside slides they are thumbnails more often than not.

    Args:
        path: a manifest, a slide or image, a folder or a glob of slides.
        mpp: µm/px of every slide and image for which nothing else is given.

    Raises:
        ManifestError: there is nothing there to work on.
        ConfigError: mpp is no microscope's.
    """
    images = _images(path)
    try:
        manifest = Manifest((), ()) if path.suffix.lower() in IMAGE_SUFFIXES else read_manifest(path)
    except ManifestError:
        if not images:
            raise
        manifest = Manifest((), ())
    if images and (mpp is not None or not manifest.rows):
        manifest = _joined(manifest, images)
    return with_mpp(manifest, mpp)


def _images(path: Path) -> list[tuple[str, Path]]:
    """Names and paths of the images of a folder, or of the one image."""
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return [(path.stem, path.absolute())]
    if not path.is_dir() or not any(
        name.lower().endswith(IMAGE_SUFFIXES) for _, _, names in os.walk(path) for name in names
    ):
        return []
    return [(one.slide_id, one.path) for one in list_patches(path) if one.path.suffix.lower() in IMAGE_SUFFIXES]


def _joined(manifest: Manifest, images: list[tuple[str, Path]]) -> Manifest:
    rows, problems = list(manifest.rows), list(manifest.problems)
    taken = {row.slide_id for row in rows}
    for number, (name, path) in enumerate(images, start=len(rows) + 1):
        # The same name as a slide's: the suffix tells them apart.
        values = {"slide_id": name + path.suffix if name in taken else name, "uri": str(path)}
        checked = check_row(number, values, path.parent)
        if isinstance(checked, ManifestRow):
            rows.append(checked)
        else:
            problems.extend(checked)
    return Manifest(tuple(rows), tuple(problems))
