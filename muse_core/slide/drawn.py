"""A small slide drawn from an image of tissue."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from muse_core.errors import ConfigError
from muse_core.machine.files import whole_file

DEMO_MPP = 0.25
TILE_PX = 240  # Aperio's own
LEVELS = (1, 4, 16)
GLASS = 243

# The image's resolution is not published; its lymphocytes, 6 to 8 µm wide, span about 14 px.
IMAGE_MPP = 0.5


def draw_slide(path: Path, width: int, height: int) -> None:
    """Draw an Aperio-like slide of real tissue at 0.25 µm/px: JPEG tiles, levels 1, 4 and 16, a thumbnail.

    The tissue is scikit-image's `immunohistochemistry` image (colon, DAB and haematoxylin), in mirrored copies over
    two fragments on glass. Tiles are drawn as they are written, so memory does not grow with the slide.

    Args:
        path: the file to write.
        width: px at level 0.
        height: px at level 0.

    Raises:
        ConfigError: scikit-image is not installed.
        OutputError: the file cannot be written.
    """
    carpets = {factor: _carpet(factor) for factor in LEVELS}
    description = (
        f"Aperio Image Library v11.2.1 \r\n{width}x{height} [0,0 {width}x{height}] ({TILE_PX}x{TILE_PX}) JPEG/RGB Q=85"
        f"|AppMag = 40|MPP = {DEMO_MPP:.4f}"
    )
    with whole_file(path) as file, tifffile.TiffWriter(file, bigtiff=width * height > 1 << 30) as tiff:
        for number, factor in enumerate(LEVELS):
            shape = (height // factor, width // factor, 3)
            tiff.write(
                _tiles(carpets[factor], shape, factor, (height, width)),
                shape=shape,
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                description=description,
                subfiletype=0,
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                metadata=None,
            )
            if number == 0:  # Aperio keeps its thumbnail between the first two levels
                thumbnail = _whole(carpets[16], (height // 16, width // 16, 3), 16, (height, width))
                tiff.write(thumbnail, description=description, photometric="rgb", compression="jpeg", metadata=None)


def _carpet(factor: int) -> NDArray[np.uint8]:
    """One period of the tissue at a level: mirrored pairs meet without a seam."""
    try:
        from skimage.data import immunohistochemistry
    except ImportError:
        raise ConfigError("the demo's tissue comes with scikit-image: pip install scikit-image") from None
    side = round(512 * IMAGE_MPP / DEMO_MPP) // factor
    tissue = np.asarray(Image.fromarray(immunohistochemistry()).resize((side, side), Image.Resampling.BICUBIC))
    pair = np.concatenate([tissue, tissue[:, ::-1]], axis=1)
    return np.concatenate([pair, pair[::-1]], axis=0)


def _tiles(
    carpet: NDArray[np.uint8], shape: tuple[int, int, int], factor: int, size_level0: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    for top in range(0, shape[0], TILE_PX):
        for left in range(0, shape[1], TILE_PX):
            yield _draw(carpet, np.arange(top, top + TILE_PX), np.arange(left, left + TILE_PX), factor, size_level0)


def _whole(
    carpet: NDArray[np.uint8], shape: tuple[int, int, int], factor: int, size_level0: tuple[int, int]
) -> NDArray[np.uint8]:
    return _draw(carpet, np.arange(shape[0]), np.arange(shape[1]), factor, size_level0)


def _draw(
    carpet: NDArray[np.uint8],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    factor: int,
    size_level0: tuple[int, int],
) -> NDArray[np.uint8]:
    """Pixels (rows, columns) of a level: tissue inside two wavy ellipses, glass elsewhere."""
    height, width = size_level0
    y, x = (rows[:, None] + 0.5) * factor, (columns[None, :] + 0.5) * factor
    wobble = 1 + 0.08 * np.sin(x / 310) * np.cos(y / 270)
    tissue = np.zeros((len(rows), len(columns)), bool)
    for centre_x, centre_y, radius_x, radius_y in ((0.34, 0.49, 0.28, 0.40), (0.81, 0.54, 0.14, 0.35)):
        tissue |= ((x / width - centre_x) / radius_x) ** 2 + ((y / height - centre_y) / radius_y) ** 2 < wobble
    period = len(carpet)
    return np.where(tissue[..., None], carpet[rows % period][:, columns % period], np.uint8(GLASS))
