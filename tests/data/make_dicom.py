"""Draw DICOM slides: one series, one file a level, tiles uncompressed or JPEG."""

import io
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

_WSI = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
_ROOT = "1.2.826.0.1.3680043.10.999"
_PLAIN, _JPEG = UID("1.2.840.10008.1.2.1"), UID("1.2.840.10008.1.2.4.50")


def write_level(
    path: Path,
    width: int,
    height: int,
    *,
    image: np.ndarray | None = None,
    series: int = 1,
    index: int = 0,
    mpp: float = 0.5,
    tile: int = 256,
    jpeg: bool = False,
    photometric: str = "RGB",
) -> Path:
    """One level of a slide.

    Args:
        path: the file.
        width: px.
        height: px.
        image: (height, width, 3) uint8 RGB; glass unless given.
        series: number of the series.
        index: number of the level, 0 for the finest.
        mpp: µm/px of this level.
        tile: side of the tiles in px.
        jpeg: JPEG (baseline, JFIF) tiles rather than plain ones.
        photometric: what the file says of its colours.
    """
    image = np.full((height, width, 3), 243, np.uint8) if image is None else image
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.full((rows * tile, columns * tile, 3), 243, np.uint8)
    padded[:height, :width] = image
    frames = padded.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    found = Dataset()
    found.ImageType = (
        ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if not index else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    )
    found.SOPClassUID = _WSI
    found.SOPInstanceUID = f"{_ROOT}.{series}.1.{index + 1}"
    found.Modality = "SM"
    found.StudyInstanceUID = f"{_ROOT}.{series}.2"
    found.SeriesInstanceUID = f"{_ROOT}.{series}.3"
    found.FrameOfReferenceUID = f"{_ROOT}.{series}.4"
    found.InstanceNumber = str(index + 1)
    found.DimensionOrganizationType = "TILED_FULL"
    found.SamplesPerPixel, found.PlanarConfiguration, found.PhotometricInterpretation = 3, 0, photometric
    found.NumberOfFrames = str(len(frames))
    found.Rows = found.Columns = tile
    found.BitsAllocated = found.BitsStored = 8
    found.HighBit, found.PixelRepresentation = 7, 0
    found.LossyImageCompression = "01" if jpeg else "00"
    found.ImagedVolumeWidth, found.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    found.TotalPixelMatrixColumns, found.TotalPixelMatrixRows = width, height
    measures, shared = Dataset(), Dataset()
    measures.SliceThickness, measures.PixelSpacing = "0.001", [f"{mpp / 1000:.8f}"] * 2
    shared.PixelMeasuresSequence = [measures]
    found.SharedFunctionalGroupsSequence = [shared]
    found.PixelData = encapsulate([_jpeg(frame) for frame in frames]) if jpeg else frames.tobytes()
    found["PixelData"].VR = "OB"
    found.file_meta = FileMetaDataset()
    found.file_meta.MediaStorageSOPClassUID = _WSI
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    found.file_meta.TransferSyntaxUID = _JPEG if jpeg else _PLAIN
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, found, enforce_file_format=True)
    return path


def _jpeg(tile: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()
