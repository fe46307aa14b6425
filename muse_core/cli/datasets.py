"""`--dataset`, `--data` and `--datasets`: what the commands that train learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muse_core.errors import ConfigError

if TYPE_CHECKING:
    from muse_core.labels.datasets import LabelledData
    from muse_core.labels.patch import Labels

Layouts = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset", metavar="NAME", help="Layout: brca-m2c, ocelot, puma, nuinsseg, consep or lab; with --data each."
    ),
]
Folders = Annotated[
    list[Path] | None,
    typer.Option("--data", metavar="DIR", help="Its folder; with --datasets, what that file's folders are below."),
]
DatasetsToml = Annotated[
    Path | None,
    typer.Option("--datasets", metavar="F.toml", help="Several datasets: layouts, folders, classes, weights."),
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option("--leave-out", metavar="NAME", help="A dataset to score, but not to train on; may be repeated."),
]
Classes = Annotated[
    str | None, typer.Option("--classes", metavar="A,B,C", help="Classes of the model; default those of the data.")
]


def labelled_data(
    layouts: Sequence[str] | None,
    folders: Sequence[Path] | None,
    datasets: Path | None,
    *,
    classes: str | None = None,
    leave_out: Sequence[str] | None = None,
    labels: "Labels" = "polygons",
    side_px: int = 256,
) -> "LabelledData":
    """What `--dataset` with `--data`, or `--datasets`, name.

    Of several datasets without a file, the first one's classes are the model's; others' are taken where they are
    called alike.

    Args:
        layouts: of `--dataset`.
        folders: of `--data`, one each; or one that the file's folders are relative to.
        datasets: of `--datasets`.
        classes: of `--classes`.
        leave_out: datasets that only validate.
        labels: see `read_labelled_patches`.
        side_px: of training pictures.

    Raises:
        ConfigError: they don't go together, or name what there is not.
        DatasetError: data that are not what the layout says.
    """
    from muse_core.labels.datasets import DatasetEntry, DatasetsFile, one_dataset, read_datasets, read_datasets_file

    names = tuple(name.strip() for name in classes.split(",")) if classes else ()
    folders = folders or ()
    if datasets is not None:
        if layouts or len(folders) > 1:
            raise ConfigError("--datasets stands for every --dataset; give it with at most one --data")
        listed = read_datasets_file(datasets)
        listed = listed.model_copy(update={"classes": names}) if names else listed
        data = read_datasets(listed, folders[0] if folders else datasets.parent, labels=labels, side_px=side_px)
        return data.without(leave_out or ())
    layouts = layouts or ()
    if not layouts or len(layouts) != len(folders):
        raise ConfigError(f"{len(layouts)} --dataset and {len(folders)} --data; as many of each needed, or --datasets")
    if not names:
        names = one_dataset(layouts[0], folders[0], labels=labels, side_px=side_px).class_names
    entries = tuple(DatasetEntry(layout=one, data=folder) for one, folder in zip(layouts, folders, strict=True))
    listed = DatasetsFile(classes=names, dataset=entries)
    return read_datasets(listed, Path(), labels=labels, side_px=side_px).without(leave_out or ())
