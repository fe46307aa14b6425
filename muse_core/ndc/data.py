"""What a run learns from, by the names that the command line gives: published datasets, a lab's own dots, tissue."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from muse_core.errors import ConfigError, DatasetError, figure
from muse_core.images.plausible_mpp import PATCH_MPP
from muse_core.labels import read_labelled_patches, read_rgb
from muse_core.labels.datasets import LabelledData
from muse_core.labels.lab import read_lab
from muse_core.labels.lab_regions import lab_regions
from muse_core.labels.regions import VALIDATION_REACH_UM, Region, regions_of, unlabelled_region
from muse_core.ndc.finetune_data import FinetuneData
from muse_core.ndc.settings import FinetuneSettings
from muse_core.roi_dataset.dataset import RoiDataset

logger = logging.getLogger(__name__)

LAB = "lab"  # the name of a lab's own folder

_IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})


def published_data(dataset: str, data: Path, *, unlabelled: Sequence[Region] = (), side_px: int = 224) -> FinetuneData:
    """The training and validation splits of a published dataset; of the tissue around, what samples can show.

    Raises:
        ConfigError: unknown dataset.
        DatasetError: the data are not what the layout says, or no nucleus is labelled.
    """
    train, validation = (read_labelled_patches(dataset, data, split, labels="dots") for split in ("train", "val"))
    if not any(len(patch.xy) for patch in train):
        raise DatasetError(f"{data}: no nucleus is labelled in the training split")
    return FinetuneData(
        train[0].class_names,
        regions_of(train, side_px=side_px),
        list(unlabelled),
        regions_of(validation, reach_um=VALIDATION_REACH_UM),
    )


def unlabelled_regions(folder: str, *, mpp: float | None, limit: int = 200, seed: int = 0) -> list[Region]:
    """Tissue without labels: a ROI dataset, or a folder of images of one µm/px.

    Args:
        folder: of either; a URL for a ROI dataset.
        mpp: µm/px of images; a ROI dataset knows its own.
        limit: as many are drawn from more; they are held in memory.
        seed: of the draw.

    Raises:
        ConfigError: images without an mpp, or with one that is no microscope's.
        DatasetError: neither, or an image that cannot be read.
    """
    path = Path(folder)
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in _IMAGE_ENDINGS) if path.is_dir() else []
    if (path / "rois").is_dir() or not path.is_dir():
        return _of_rois(RoiDataset(folder), limit, seed)
    if not images:
        raise DatasetError(f"{folder}: neither a ROI dataset nor a folder of PNG, JPEG or TIFF images")
    if mpp is None:
        raise ConfigError(f"--unlabelled {folder}: images don't say their um/px; give --unlabelled-mpp")
    low, high = PATCH_MPP
    if not low <= mpp <= high:
        raise ConfigError(f"--unlabelled-mpp {figure(mpp)}: {low:g} to {high:g} um/px needed")
    drawn = np.random.default_rng(seed).permutation(len(images))[:limit]
    return [unlabelled_region(images[index].stem, read_rgb(images[index]), mpp) for index in sorted(drawn)]


def _of_rois(dataset: RoiDataset, limit: int, seed: int) -> list[Region]:
    drawn = np.random.default_rng(seed).permutation(len(dataset))[:limit]
    regions = []
    for index in sorted(drawn.tolist()):
        sample = dataset.read(index)
        regions.append(unlabelled_region(sample.roi_id, sample.image.decode(), sample.mpp))
    return regions


def finetune_data(data: LabelledData, *, unlabelled: Sequence[Region] = ()) -> FinetuneData:
    """Any number of datasets as a run takes them; with too few regions to hold any out, they validate, too."""
    train, validation = data.train, data.validation
    if not validation:
        logger.warning("too few regions to hold any out; scores are of what it was trained on")
    weights = {source.name: source.weight for source in data.sources}
    return FinetuneData(data.class_names, train, list(unlabelled), validation or train, weights)


def data_of(dataset: str, data: Path, *, unlabelled: Sequence[Region], settings: FinetuneSettings) -> FinetuneData:
    """What `--dataset` and `--data` name.

    Raises:
        ConfigError: unknown dataset.
        DatasetError: the data are not what the layout says.
    """
    if dataset != LAB:
        return published_data(dataset, data, unlabelled=unlabelled, side_px=settings.side_px)
    dots = read_lab(data)
    train, validation = lab_regions(dots, side_px=settings.side_px)
    if not any(len(region.xy) for region in train):
        raise DatasetError(
            f"{data}: no dot is left to train on; keep fewer images for validation, or label more in regions"
        )
    if validation is train:
        logger.warning("%s: too few regions to hold any out; scores are of what it was trained on", data)
    return FinetuneData(dots.class_names, train, list(unlabelled), validation)
