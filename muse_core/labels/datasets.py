"""Several labelled datasets for one run, as a TOML file lists them.

    classes = ["lymphocyte", "tumor_epithelial", "stromal"]   # of the model

    [[dataset]]
    layout = "lab"                      # or brca-m2c, ocelot, puma, nuinsseg, consep: as their authors publish them
    data = "consep_train"               # its folder, from the file's own or from --data
    name = "consep"                     # in scores; the folder's name unless given
    weight = 2.5                        # of its share of training pictures
    val = ["train_3", "train_9"]        # images or cases that validate; * stands for anything
    mpp = 0.25                          # of a lab's plain images, whatever its dataset.toml says
    classes.inflammatory = "lymphocyte" # its classes by the model's; those that have none teach where, not what

A dataset's classes that are called as the model's need no line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from muse_core.config import Settings, load_settings
from muse_core.errors import ConfigError, DatasetError
from muse_core.labels.lab import read_lab
from muse_core.labels.lab_regions import lab_regions
from muse_core.labels.patch import UNKNOWN_CLASS, Labels
from muse_core.labels.read import READERS, read_labelled_patches
from muse_core.labels.regions import VALIDATION_REACH_UM, Region, regions_of

LAB = "lab"


class DatasetEntry(Settings):
    """One dataset of a run; see the module's text."""

    layout: str
    data: Path
    name: str = ""
    weight: float = Field(1.0, gt=0)
    val: tuple[str, ...] = ()
    mpp: float | None = Field(None, gt=0)
    classes: dict[str, str] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """How the dataset is called in scores."""
        return self.name or self.data.name or self.layout


class DatasetsFile(Settings):
    """What a file of datasets says."""

    classes: tuple[str, ...] = Field(min_length=1)
    dataset: tuple[DatasetEntry, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Source:
    """What one dataset brings to a run.

    Attributes:
        name: in scores.
        weight: of its share of training pictures.
        train, validation: class ids are the model's, or `UNKNOWN_CLASS`.
    """

    name: str
    weight: float
    train: tuple[Region, ...]
    validation: tuple[Region, ...]


@dataclass(frozen=True)
class LabelledData:
    """All that a run learns from and is chosen by."""

    class_names: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def train(self) -> list[Region]:
        """Of all sources."""
        return [region for source in self.sources for region in source.train]

    @property
    def validation(self) -> list[Region]:
        """Of all sources."""
        return [region for source in self.sources for region in source.validation]

    def without(self, names: Sequence[str]) -> "LabelledData":
        """The same, but some sources only validate: what a model says of strangers.

        Raises:
            ConfigError: no source is called so, or none would be left.
        """
        unknown = sorted(set(names) - {source.name for source in self.sources})
        if unknown:
            known = ", ".join(source.name for source in self.sources)
            raise ConfigError(f"--leave-out {unknown[0]}: no dataset is called so; give one of {known}")
        if len(set(names)) == len(self.sources):
            raise ConfigError("--leave-out names every dataset; leave one to train on")
        sources = [replace(one, train=()) if one.name in names else one for one in self.sources]
        return LabelledData(self.class_names, tuple(sources))


def read_datasets_file(path: Path) -> DatasetsFile:
    """Read a file of datasets; its folders as they are written.

    Raises:
        ConfigError: no such file, not TOML, or an unknown key or layout.
    """
    return load_settings(DatasetsFile, path)


def one_dataset(
    layout: str, data: Path, *, labels: Labels = "polygons", side_px: int = 256, classes: tuple[str, ...] = ()
) -> LabelledData:
    """One dataset by itself, with its own classes unless others are given; arguments as of `read_datasets`."""
    entry = DatasetEntry(layout=layout, data=data)
    names, train, validation = _read_parts(entry, data, labels=labels, side_px=side_px)
    return LabelledData(classes or names, (_source_of(entry, names, train, validation, classes or names),))


def read_datasets(
    datasets: DatasetsFile, root: Path, *, labels: Labels = "polygons", side_px: int = 256
) -> LabelledData:
    """Read every dataset, decoded.

    Args:
        datasets: what to read.
        root: what their folders are relative to.
        labels: see `read_labelled_patches`.
        side_px: of training pictures; that much tissue comes along around a lab's regions of slides.

    Raises:
        ConfigError: a layout, class or validation pattern that is none.
        DatasetError: data that are not what the layout says.
    """
    sources = tuple(
        _read_source(entry, root, datasets.classes, labels=labels, side_px=side_px) for entry in datasets.dataset
    )
    doubled = [one.name for index, one in enumerate(sources) if one.name in [other.name for other in sources[:index]]]
    if doubled:
        raise ConfigError(f"two datasets are called {doubled[0]!r}; give one another name")
    return LabelledData(datasets.classes, sources)


def _read_source(
    entry: DatasetEntry, root: Path, class_names: tuple[str, ...], *, labels: Labels, side_px: int
) -> Source:
    names, train, validation = _read_parts(entry, root / entry.data.expanduser(), labels=labels, side_px=side_px)
    return _source_of(entry, names, train, validation, class_names)


def _read_parts(
    entry: DatasetEntry, folder: Path, *, labels: Labels, side_px: int
) -> tuple[tuple[str, ...], list[Region], list[Region]]:
    """A dataset's own classes, and its training and validation parts."""
    if entry.layout == LAB:
        names, train, validation = _of_lab(entry, folder, side_px)
    else:
        names, train, validation = _of_layout(entry, folder, labels=labels, side_px=side_px)
    if entry.val:
        train, validation = _parted([*train, *validation], entry)
    if not any(len(region.xy) for region in train):
        raise DatasetError(
            f"{folder}: no dot is left to train on; keep fewer images for validation, or label more in regions"
        )
    return names, train, validation


def _source_of(
    entry: DatasetEntry,
    names: tuple[str, ...],
    train: Sequence[Region],
    validation: Sequence[Region],
    class_names: tuple[str, ...],
) -> Source:
    numbers = _numbers(names, entry, class_names)
    parts = (
        tuple(replace(one, class_ids=numbers[one.class_ids], source=entry.label) for one in part)
        for part in (train, validation)
    )
    return Source(entry.label, entry.weight, *parts)


def _of_layout(
    entry: DatasetEntry, folder: Path, *, labels: Labels, side_px: int
) -> tuple[tuple[str, ...], list[Region], list[Region]]:
    if entry.layout not in READERS:
        raise ConfigError(f"layout {entry.layout!r} is unknown; give one of {', '.join((*READERS, LAB))}")
    if entry.mpp is not None:
        raise ConfigError(f"dataset {entry.label}: mpp is for layout {LAB!r}; {entry.layout} says its own")
    train, validation = (
        read_labelled_patches(entry.layout, folder, split, labels=labels) for split in ("train", "val")
    )
    names = (*train, *validation)[0].class_names
    return names, regions_of(train, side_px=side_px), regions_of(validation, reach_um=VALIDATION_REACH_UM)


def _of_lab(entry: DatasetEntry, folder: Path, side_px: int) -> tuple[tuple[str, ...], list[Region], list[Region]]:
    dots = read_lab(folder, mpp=entry.mpp)
    train, validation = lab_regions(dots, side_px=side_px)
    return dots.class_names, train, [] if validation is train else validation


def _parted(regions: list[Region], entry: DatasetEntry) -> tuple[list[Region], list[Region]]:
    """Regions to train on, and those of the names or cases that validate."""
    for pattern in entry.val:
        if not any(_is_called(region, pattern) for region in regions):
            raise ConfigError(f"dataset {entry.label}: val {pattern!r} names no image or case of it")
    held_out = [any(_is_called(region, pattern) for pattern in entry.val) for region in regions]
    return (
        [region for region, out in zip(regions, held_out, strict=True) if not out],
        [region for region, out in zip(regions, held_out, strict=True) if out],
    )


def _is_called(region: Region, pattern: str) -> bool:
    return fnmatchcase(region.name, pattern) or fnmatchcase(region.case, pattern)


def _numbers(names: tuple[str, ...], entry: DatasetEntry, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """The model's class of each of a dataset's, and `UNKNOWN_CLASS` in the last place, where -1 looks it up."""
    for own, wanted in entry.classes.items():
        if own not in names:
            raise ConfigError(f"dataset {entry.label}: classes names {own!r}; it has {', '.join(names) or 'none'}")
        if wanted not in class_names:
            raise ConfigError(f"dataset {entry.label}: {own} = {wanted!r}; the model has {', '.join(class_names)}")
    mapped = [entry.classes.get(name, name) for name in names]
    known = [class_names.index(name) if name in class_names else UNKNOWN_CLASS for name in mapped]
    return np.array([*known, UNKNOWN_CLASS], np.int64)
