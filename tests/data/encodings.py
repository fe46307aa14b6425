"""One drawn slide in every encoding that people store slides in, and what is to become of each.

`python -m tests.data.encodings` prints the table of docs/formats.md.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from tests.data.make_dicom import write_level
from tests.data.make_slides import tissue_image

SAME = "same nuclei"
MPP = 0.5
SIDE = (768, 512)  # whole tiles of 256 px and halves of them


@dataclass(frozen=True)
class Encoding:
    """One way to store the slide.

    Attributes:
        container: kind of file.
        compression: of its segments.
        colours: interpretation of its samples.
        layout: tiles or strips.
        levels: what other pages there are.
        resolution: where the µm/px stand.
        predictor: TIFF tag value.
        bits: bits a sample.
        apart: samples lie in planes.
        expected: SAME, or words of the refusal.
        suffix: of the file.
        options: more for tifffile.
    """

    container: str = "TIFF"
    compression: str = "LZW"
    colours: str = "RGB"
    layout: str = "tiles"
    levels: str = "none"
    resolution: str = "px/cm"
    predictor: int = 1
    bits: int = 8
    apart: bool = False
    expected: str = SAME
    suffix: str = ".tif"
    options: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells it from the others."""
        parts = [self.container, self.compression, *([f"predictor {self.predictor}"] if self.predictor > 1 else [])]
        parts += [
            self.colours,
            *(["in planes"] if self.apart else []),
            *([f"{self.bits} bit"] if self.bits != 8 else []),
        ]
        return ", ".join([*parts, self.layout, f"levels: {self.levels}", f"µm/px: {self.resolution}"])

    def row(self) -> str:
        """Its line of the table."""
        samples = f"{self.colours}{' in planes' if self.apart else ''}{f', {self.bits} bit' if self.bits != 8 else ''}"
        coding = self.compression + (f", predictor {self.predictor}" if self.predictor > 1 else "")
        outcome = "read" if self.expected == SAME else f"refused: {self.expected}"
        cells = (self.container, coding, samples, self.layout, self.levels, self.resolution, outcome)
        return f"| {' | '.join(cells)} |"


_CODECS = {
    "none": None,
    "LZW": "lzw",
    "deflate": "deflate",
    "Adobe deflate": "adobe_deflate",
    "Zstandard": "zstd",
    "LZMA": "lzma",
    "PackBits": "packbits",
    "PNG": "png",
    "WebP": "webp",
    "JPEG": "jpeg",
    "JPEG 2000": "jpeg2000",
    "JPEG XL": "jpegxl",
    "JPEG XR": "jpegxr",
    "LERC": "lerc",
}
_LOSSLESS_ARGS = {"WebP": {"level": -1}, "JPEG": {"level": 98}, "JPEG 2000": {"level": 0}}
_SIXTEEN = "samples of 16 bits; 8-bit RGB or grey is needed"
_NO_MPP = "no µm/px found"


def encodings() -> list[Encoding]:
    """All of them."""
    base = Encoding()
    found = []
    for layout in ("tiles", "strips"):
        found += [replace(base, compression=codec, layout=layout) for codec in _CODECS]
        found += [
            replace(base, compression=codec, predictor=2, layout=layout)
            for codec in ("LZW", "deflate", "Adobe deflate", "Zstandard", "LZMA")
        ]
        for colours in ("grey", "white-is-zero grey", "palette", "CMYK", "YCbCr", "RGB and alpha", "RGB and a spare"):
            found += [replace(base, colours=colours, layout=layout)]
        found += [replace(base, colours="grey", compression="JPEG", layout=layout)]
        found += [replace(base, compression=codec, apart=True, layout=layout) for codec in ("LZW", "deflate")]
        found += [replace(base, bits=16, layout=layout, expected=_SIXTEEN)]
        found += [replace(base, bits=16, compression="deflate", predictor=2, layout=layout, expected=_SIXTEEN)]
        found += [replace(base, colours="CIELab", layout=layout, expected="is CIELab; save it as RGB")]
        found += [replace(base, bits=32, layout=layout, expected="floating-point samples of 32 bits")]
        found += [replace(base, colours=f"RGB, orientation {turn}", layout=layout) for turn in (3, 6)]
    found += [replace(base, colours="5 channels", expected="has 5 channels")]
    found += [replace(base, container=kind) for kind in ("BigTIFF", "TIFF, big-endian")]
    found += [replace(base, container="BigTIFF", compression="JPEG", suffix=".btf")]
    for tag, said in (("RGB", "JFIF"), ("YCbCr", "JFIF"), ("RGB", "Adobe RGB"), ("YCbCr", "Adobe RGB")):
        found += [replace(base, compression="JPEG", colours=f"{tag} by the tag, {said} by its markers")]
    for levels in (
        "pages",
        "SubIFDs",
        "pages padded to tiles",
        "an overview first",
        "a thumbnail first, in strips",
        "a macro flagged as level",
        "a cropped level",
    ):
        found += [replace(base, levels=levels), replace(base, levels=levels, compression="JPEG")]
    found += [
        replace(base, levels="tiles without bytes"),
        replace(base, levels="tiles without bytes", compression="JPEG"),
    ]
    for resolution in ("px/inch", "ImageJ, µm", "ImageJ, mm"):
        found += [replace(base, resolution=resolution)]
    for resolution in ("none", "72 dpi", "0", "along x only", "no unit"):
        found += [replace(base, resolution=resolution, expected=_NO_MPP)]
    ome = replace(base, container="OME-TIFF", suffix=".ome.tif", resolution="OME, µm")
    found += [ome, replace(ome, levels="SubIFDs"), replace(ome, levels="SubIFDs", compression="JPEG")]
    found += [replace(ome, resolution=f"OME, {unit}") for unit in ("nm", "mm", "in")]
    found += [replace(ome, resolution="OME against a tag")]
    found += [replace(ome, resolution="OME, pixel", expected=_NO_MPP), replace(ome, apart=True)]
    found += [replace(ome, colours="red, green and blue as channels", apart=True)]
    found += [replace(ome, colours="three fluorescences as channels", apart=True, expected="as fluorescence does")]
    found += [replace(ome, levels="3 planes in z")]
    svs = Encoding("SVS", "JPEG", levels="pages, thumbnail, label", resolution="Aperio", suffix=".svs")
    found += [svs, replace(svs, compression="JPEG 2000"), replace(svs, resolution="none", expected=_NO_MPP)]
    found += [replace(svs, resolution="Aperio against a tag", expected="told twice")]
    dicom = Encoding("DICOM", "none", resolution="PixelSpacing", suffix=".dcm")
    found += [dicom, replace(dicom, levels="a file each"), replace(dicom, compression="JPEG", colours="YBR_FULL_422")]
    found += [replace(dicom, compression="JPEG", colours="RGB by the header, JFIF by its markers")]
    found += [Encoding("PNG", "PNG", layout="whole", resolution="--mpp", suffix=".png")]
    found += [Encoding("JPEG", "JPEG", layout="whole", resolution="--mpp", suffix=".jpg")]
    return found


def slide_image() -> np.ndarray:
    """The picture of all of them, (512, 768, 3) uint8 RGB at 0.5 µm/px."""
    return tissue_image(*SIDE, mpp=MPP, seed=21)[0]


def draw(folder: Path, encoding: Encoding, image: np.ndarray) -> Path:
    """Write the picture in an encoding; the file."""
    path = folder / f"slide{encoding.suffix}"
    if encoding.container in ("PNG", "JPEG"):
        Image.fromarray(image).save(path, **({"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}))
    elif encoding.container == "DICOM":
        _draw_dicom(path, encoding, image)
    else:
        _draw_tiff(path, encoding, image)
    return path


def _draw_dicom(path: Path, encoding: Encoding, image: np.ndarray) -> None:
    photometric = encoding.colours.partition(" ")[0]
    jpeg = encoding.compression == "JPEG"
    write_level(path, *SIDE, image=image, mpp=MPP, jpeg=jpeg, photometric=photometric)
    if encoding.levels == "a file each":
        half = _smaller(image, 2)
        write_level(path.with_stem("half"), half.shape[1], half.shape[0], image=half, index=1, mpp=2 * MPP)


def _draw_tiff(path: Path, encoding: Encoding, image: np.ndarray) -> None:
    samples, options = _samples(encoding, image)
    tiling = {"tile": (256, 256)} if encoding.layout == "tiles" else {"rowsperstrip": 64}
    codec = {"compression": _CODECS[encoding.compression]} | ({"predictor": 2} if encoding.predictor > 1 else {})
    if (args := _LOSSLESS_ARGS.get(encoding.compression)) and encoding.colours.startswith("RGB"):
        codec["compressionargs"] = args
    common = {"metadata": None} | tiling | codec | options
    kind = {"bigtiff": encoding.container == "BigTIFF"}
    kind |= {"byteorder": ">"} if "big-endian" in encoding.container else {}
    kind |= {"ome": True} if encoding.container == "OME-TIFF" else {}
    kind |= {"imagej": True} if encoding.resolution.startswith("ImageJ") else {}
    common |= _resolution(encoding, image)
    if encoding.resolution.startswith("ImageJ"):
        common = {key: value for key, value in common.items() if key not in ("tile", "rowsperstrip")}
    if "by its markers" in encoding.colours:
        _write_streams(path, encoding, image)
        return
    with tifffile.TiffWriter(path, **kind) as tiff:
        _write_pages(tiff, encoding, samples, common)
    _after(path, encoding)


def _write_streams(path: Path, encoding: Encoding, image: np.ndarray) -> None:
    """JPEG tiles made here, under a tag that may say something else."""
    streams = jpeg_tiles(image, jfif="JFIF" in encoding.colours)
    options = {"tile": (256, 256), "compression": "jpeg", "photometric": "ycbcr", "metadata": None}
    options |= _resolution(encoding, image)
    tifffile.imwrite(path, streams, shape=image.shape, dtype=np.uint8, **options)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = 2 if encoding.colours.startswith("RGB") else 6
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(tag)


def _write_pages(tiff: tifffile.TiffWriter, encoding: Encoding, samples: np.ndarray, common: dict[str, object]) -> None:
    plain = {**common, "metadata": None}
    for key in ("description", "extratags"):
        plain.pop(key, None)
    if encoding.levels == "3 planes in z":
        metadata = dict(common["metadata"]) | {"axes": "ZYXS"}  # type: ignore[call-overload]
        tiff.write(np.stack([samples, samples[::-1], samples[:, ::-1]]), **(common | {"metadata": metadata}))
        return
    if encoding.levels in ("none", "tiles without bytes"):
        tiff.write(samples, **common)
        return
    half, quarter = _smaller(samples, 2), _smaller(samples, 4)
    if encoding.levels == "SubIFDs":
        tiff.write(samples, subifds=2, **common)
        for level in (half, quarter):
            tiff.write(level, subfiletype=1, **plain)
        return
    if encoding.levels == "pages, thumbnail, label":
        strips = {"metadata": None, "photometric": "rgb", "description": common["description"]}
        tiff.write(samples, subfiletype=0, **common)
        tiff.write(_smaller(samples, 8), compression="jpeg", **strips)
        tiff.write(quarter, subfiletype=0, **common)
        strips["description"] = "Aperio Image Library v11.2.1 \r\nlabel 100x90"
        tiff.write(np.full((90, 100, 3), 200, np.uint8), subfiletype=1, compression="lzw", **strips)
        return
    first, after = {
        "pages": ([], [half, quarter]),
        "pages padded to tiles": ([], [_padded(quarter)]),
        "an overview first": ([quarter], [half]),
        "a macro flagged as level": ([], [half, _smaller(_other_picture(), 4)]),
        "a cropped level": ([], [np.ascontiguousarray(half[30:, 40:])]),
    }.get(encoding.levels, ([], []))
    if encoding.levels == "a thumbnail first, in strips":
        strips = {key: value for key, value in plain.items() if key != "tile"}
        tiff.write(_smaller(samples, 8), **strips)
    for page in first:
        tiff.write(page, **plain)
    tiff.write(samples, **common)
    for page in after:
        tiff.write(page, subfiletype=1, **plain)


def _other_picture() -> np.ndarray:
    return np.ascontiguousarray(tissue_image(*SIDE, mpp=2.0, seed=77)[0][::-1, ::-1])


def _smaller(image: np.ndarray, factor: int) -> np.ndarray:
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _padded(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % 256), (0, -width % 256), (0, 0)), constant_values=255)


def _samples(encoding: Encoding, image: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
    """The samples as they are stored, and what tifffile is to be told of them."""
    if encoding.bits == 16:
        return image.astype(np.uint16) * 257, {"photometric": "rgb"}
    if encoding.bits == 32:
        return image.astype(np.float32) / 255, {"photometric": "rgb"}
    make = _SAMPLES.get(encoding.colours)
    if make is not None:
        return make(image)
    if encoding.colours.startswith("RGB, orientation"):
        turn = int(encoding.colours.rpartition(" ")[2])
        stored = image[::-1, ::-1] if turn == 3 else np.rot90(image)
        return np.ascontiguousarray(stored), {"photometric": "rgb", "extratags": [(274, 3, 1, turn, True)]}
    if encoding.apart:
        return np.ascontiguousarray(np.moveaxis(image, 2, 0)), {"photometric": "rgb", "planarconfig": "separate"}
    return image, {"photometric": "rgb"}


def _palette(image: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
    found = Image.fromarray(image).quantize(256)
    colours = np.zeros((3, 256), np.uint16)
    table = np.array(found.getpalette(), np.uint16).reshape(-1, 3).T * 257
    colours[:, : table.shape[1]] = table
    return np.asarray(found), {"photometric": "palette", "colormap": colours}


def _with_fourth(image: np.ndarray, value: int, kind: str) -> tuple[np.ndarray, dict[str, object]]:
    fourth = np.full((*image.shape[:2], 1), value, np.uint8)
    return np.concatenate([image, fourth], axis=2), {"photometric": "rgb", "extrasamples": [kind]}


_SAMPLES: dict[str, Callable[[np.ndarray], tuple[np.ndarray, dict[str, object]]]] = {
    "grey": lambda image: (grey_of(image), {"photometric": "minisblack"}),
    "white-is-zero grey": lambda image: (255 - grey_of(image), {"photometric": "miniswhite"}),
    "palette": _palette,
    "CMYK": lambda image: (np.asarray(Image.fromarray(image).convert("CMYK")), {"photometric": "separated"}),
    "YCbCr": lambda image: (
        np.asarray(Image.fromarray(image).convert("YCbCr")),
        {"photometric": "ycbcr", "extratags": [(530, 3, 2, (1, 1), True)]},
    ),
    "CIELab": lambda image: (image, {"photometric": "cielab"}),
    "RGB and alpha": lambda image: _with_fourth(image, 255, "unassalpha"),
    "RGB and a spare": lambda image: _with_fourth(image, 0, "unspecified"),
    "5 channels": lambda image: (
        np.ascontiguousarray(np.repeat(image[:, :, :1], 5, axis=2)),
        {"photometric": "minisblack", "planarconfig": "contig"},
    ),
    "red, green and blue as channels": lambda image: (
        np.ascontiguousarray(np.moveaxis(image, 2, 0)),
        {"photometric": "minisblack"},
    ),
    "three fluorescences as channels": lambda image: (
        np.ascontiguousarray(np.moveaxis(image, 2, 0)),
        {"photometric": "minisblack"},
    ),
}


def grey_of(image: np.ndarray) -> np.ndarray:
    """The picture in grey, (H, W) uint8: its green, in which nuclei are dark."""
    return np.ascontiguousarray(image[:, :, 1])


def expected_of(encoding: Encoding, image: np.ndarray) -> np.ndarray:
    """The RGB picture that is to come out."""
    if "grey" in encoding.colours:
        return np.repeat(grey_of(image)[:, :, np.newaxis], 3, axis=2)
    if encoding.colours == "palette":
        return np.asarray(Image.fromarray(image).quantize(256).convert("RGB"))
    if encoding.levels == "tiles without bytes":
        return _with_glass(image)
    return image


def _with_glass(image: np.ndarray) -> np.ndarray:
    glass = image.copy()
    for tile in _EMPTY:
        row, column = divmod(tile, SIDE[0] // 256)
        glass[row * 256 :][:256, column * 256 :][:, :256] = 255
    return glass


_EMPTY = (0, 2, 5)  # tiles at the corners
_OME_SIZES = {"µm": MPP, "nm": MPP * 1e3, "mm": MPP / 1e3, "in": MPP / 25400, "pixel": 1.0}


def _resolution(encoding: Encoding, image: np.ndarray) -> dict[str, object]:
    where, per_cm = encoding.resolution, 1e4 / MPP
    if where.startswith("OME"):
        return _ome(encoding)
    if where.startswith("ImageJ"):
        unit, scale = ("um", 1.0) if "µm" in where else ("mm", 1e3)
        return {"resolution": (scale / MPP, scale / MPP), "metadata": {"unit": unit}, "compression": None}
    if encoding.container == "SVS":
        height, width = image.shape[:2]
        said = "" if where == "none" else f"|MPP = {MPP}"
        text = f"Aperio Image Library v11.2.1 \r\n{width}x{height} [0,0 {width}x{height}] (256x256) J|AppMag = 20{said}"
        tag = {"resolution": (2 * per_cm, 2 * per_cm), "resolutionunit": "CENTIMETER"} if "against" in where else {}
        return {"description": text} | tag
    return {
        "px/cm": {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"},
        "px/inch": {"resolution": (2.54 * per_cm, 2.54 * per_cm), "resolutionunit": "INCH"},
        "72 dpi": {"resolution": (72.0, 72.0), "resolutionunit": "INCH"},
        "0": {"resolution": (0.0, 0.0), "resolutionunit": "CENTIMETER"},
        "along x only": {"resolution": (per_cm, 0.0), "resolutionunit": "CENTIMETER"},
        "no unit": {"resolution": (per_cm, per_cm), "resolutionunit": "NONE"},
    }.get(where, {})


def _ome(encoding: Encoding) -> dict[str, object]:
    unit = encoding.resolution.partition(", ")[2] or "µm"
    size = _OME_SIZES[unit]
    metadata: dict[str, object] = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
    metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    if encoding.apart:
        metadata["axes"] = "SYX"
    if "as channels" in encoding.colours:
        names = ["Red", "Green", "Blue"] if encoding.colours.startswith("red") else ["DAPI", "FITC", "TRITC"]
        metadata |= {"axes": "CYX", "Channel": {"Name": names}}
    tag = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"} if "against" in encoding.resolution else {}
    return {"metadata": metadata} | tag


def _after(path: Path, encoding: Encoding) -> None:
    """What tifffile does not write by itself."""
    if encoding.levels == "tiles without bytes":
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            page = tiff.pages[0]
            offsets, counts = list(page.dataoffsets), list(page.databytecounts)
            for tile in _EMPTY:
                offsets[tile] = counts[tile] = 0
            page.tags["TileOffsets"].overwrite(offsets)
            page.tags["TileByteCounts"].overwrite(counts)


def jpeg_tiles(image: np.ndarray, *, jfif: bool) -> Iterator[bytes]:
    """The tiles as JPEG streams: YCbCr that says so by a JFIF marker, or RGB that says so by an Adobe one."""
    for y in range(0, image.shape[0], 256):
        for x in range(0, image.shape[1], 256):
            stream = io.BytesIO()
            tile = Image.fromarray(np.ascontiguousarray(image[y : y + 256, x : x + 256]))
            tile.save(stream, "JPEG", quality=98, subsampling=0, **({} if jfif else {"keep_rgb": True}))
            yield stream.getvalue()


def table() -> str:
    """The table of docs/formats.md."""
    head = "| file | compression | samples | stored in | other pages | µm/px | outcome |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *(encoding.row() for encoding in encodings())])


if __name__ == "__main__":
    print(table())
