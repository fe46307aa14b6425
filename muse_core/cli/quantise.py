"""`muse quantise`; what needs torch is imported when it runs: that takes seconds."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from muse_core.cli.datasets import DatasetsToml, Folders, Layouts, labelled_data
from muse_core.cli.options import AsJson, Verbose
from muse_core.cli.terminal import open_terminal, print_json
from muse_core.errors import ConfigError, DatasetError
from muse_core.images.decode import read_rgb
from muse_core.slide.image_reader import IMAGE_SUFFIXES
from muse_core.slide.resample import scaled_image

if TYPE_CHECKING:
    from muse_core.labels.datasets import LabelledData

_NETWORK_MPP = 0.5
_MOST_OF_A_DATASET = 40  # images; more change no range that shows in a score


def quantise(
    checkpoint: Annotated[Path, typer.Option(metavar="F.safetensors", help="A checkpoint of muse finetune.")],
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="PNG and JPEG images of such tissue as it will see, 40 or more; with --mpp."),
    ] = None,
    mpp: Annotated[float | None, typer.Option(metavar="F", help="um/px of the images.")] = None,
    dataset: Layouts = None,
    data: Folders = None,
    datasets: DatasetsToml = None,
    out: Annotated[
        Path | None, typer.Option(metavar="F", help="The file; default beside the checkpoint, where muse infer looks.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make weights in int8, with which muse infer is about twice as fast on CPUs.

    The layers' ranges come from three quarters of the images; on the others both networks are compared.

    Example: `muse quantise --checkpoint runs/ndc/ndc.safetensors --images data/brca_m2c/images --mpp 0.5`

    Example: `muse quantise --checkpoint runs/ndc/ndc.safetensors --datasets
    data_manifests/many_organs.toml --data data`
    """
    from muse_core.infer.quantise import quantise as make

    terminal = open_terminal(as_json, verbose)
    result = make(checkpoint, _tissue(images, mpp, dataset, data, datasets), out=out)
    terminal.results.print(
        f"{result.weights}: ranges from {result.n_images} images, {result.seconds:.0f} s; of nuclei on other images "
        f"{result.agreement:.2%} (F1) are found by both, and {result.same_class:.2%} of them named alike",
        markup=False,
        soft_wrap=True,
    )
    if as_json:
        print_json({**asdict(result), "weights": str(result.weights)})


def _tissue(
    images: Path | None,
    mpp: float | None,
    layouts: list[str] | None,
    folders: list[Path] | None,
    datasets: Path | None,
) -> list[NDArray[np.uint8]]:
    """Images (H, W, 3) at 0.5 µm/px, from a folder or from the training parts of datasets.

    Raises:
        ConfigError: neither or both are given, or a folder without its µm/px.
        DatasetError: the folder holds no image, or the data are not what their layout says.
    """
    labelled = bool(layouts or datasets)
    if (images is None) != labelled:
        raise ConfigError("give either --images DIR with --mpp, or the datasets of muse finetune, by --datasets")
    if images is None:
        return _evenly(labelled_data(layouts, folders, datasets))
    if mpp is None:
        raise ConfigError(f"--images {images}: its um/px is needed; give it by --mpp, such as --mpp 0.5")
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DatasetError(f"--images {images}: no PNG or JPEG image in it; give a folder of them")
    return [scaled_image(read_rgb(path), mpp / _NETWORK_MPP) for path in paths]


def _evenly(data: "LabelledData") -> list[NDArray[np.uint8]]:
    """Training images of each dataset, evenly over its list, so that a large one does not set the ranges alone."""
    chosen: list[NDArray[np.uint8]] = []
    for source in data.sources:
        step = max(1, len(source.train) // _MOST_OF_A_DATASET)
        regions = source.train[::step][:_MOST_OF_A_DATASET]
        chosen += [scaled_image(region.image, region.mpp / _NETWORK_MPP) for region in regions]
    return chosen
