"""One Arrow schema a table, with the unit or frame of each column in its field metadata."""

from collections.abc import Sequence

import pyarrow as pa

from muse_core.errors import DatasetError


def _field(name: str, kind: pa.DataType, *, unit: str = "", nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit} if unit else None)


NO_PROJECT = "unknown"  # of slides whose project nobody gave

NUCLEUS = pa.struct(
    [
        _field("x", pa.float32(), unit="px, roi frame"),
        _field("y", pa.float32(), unit="px, roi frame"),
        _field("score", pa.float32(), unit="0..1"),
    ]
)

SLIDES = pa.schema(
    [
        _field("slide_id", pa.string(), nullable=False),
        _field("case_id", pa.string()),
        _field("project", pa.string()),
        _field("uri", pa.string()),
        _field("status", pa.string(), nullable=False),  # done, failed, skipped
        _field("reason", pa.string()),  # a word: unreadable, mpp_missing, no_tissue, checksum_mismatch, ...
        _field("message", pa.string()),  # a line for people
        _field("md5", pa.string()),
        _field("size", pa.int64(), unit="byte"),
        _field("vendor", pa.string()),
        _field("reader", pa.string()),  # cucim, openslide or tifffile
        _field("reader_check", pa.string()),  # how the reader was checked before it was trusted
        _field("judgement", pa.string()),  # what was concluded of the file and why: images, µm/px, colours, geometry
        _field("scene", pa.int32()),  # which of several pictures in the file was asked for; null for the largest
        _field("mpp_x", pa.float64(), unit="um/px"),
        _field("mpp_y", pa.float64(), unit="um/px"),
        _field("mpp_source", pa.string()),
        _field("width_level0", pa.int64(), unit="px, level0 frame"),
        _field("height_level0", pa.int64(), unit="px, level0 frame"),
        _field("level_count", pa.int32()),
        _field("tissue_mm2", pa.float64(), unit="mm2"),
        _field("n_rois", pa.int64()),
        _field("n_nuclei", pa.int64()),
        _field("n_failed_rois", pa.int64()),
        _field("seconds", pa.float64(), unit="s"),
        _field("versions", pa.string()),  # JSON: package to version
    ]
)

# The slides table of inference: without what only ROIs have, with how the nuclei were found and at what pace.
INFERRED_SLIDES = pa.schema(
    [
        *(field for field in SLIDES if field.name not in ("n_rois", "n_failed_rois", "seconds", "versions")),
        _field("n_tiles", pa.int64()),
        _field("n_failed_tiles", pa.int64()),
        _field("checkpoint", pa.string()),
        _field("model_id", pa.string()),
        _field("model_mpp", pa.float64(), unit="um/px"),
        _field("glass_rgb", pa.list_(pa.float32()), unit="0..255"),  # of empty glass, as the slide shows it
        # Share of windows that are less like the tissue that the model knows than 99 % of that tissue itself.
        _field("doubt", pa.float64(), unit="0..1"),
        _field("doubt_why", pa.string()),  # what is farthest off
        _field("device", pa.string()),
        _field("engine", pa.string()),  # what ran the network, in which numbers, by which instructions
        _field("redundancy", pa.float64(), unit="px seen/px of tissue"),
        _field("seconds", pa.float64(), unit="s"),
        _field("seconds_per_mm2", pa.float64(), unit="s/mm2"),
        _field("read_share", pa.float64(), unit="0..1"),
        _field("network_share", pa.float64(), unit="0..1"),
        _field("write_share", pa.float64(), unit="0..1"),
        _field("waiting_share", pa.float64(), unit="0..1"),  # of its time that the network had nothing to do
        _field("gpu_use", pa.float64(), unit="0..1"),  # of its time that the GPU was busy, by its driver
        _field("versions", pa.string()),  # JSON: package to version
    ]
)

ROIS = pa.schema(
    [
        _field("roi_id", pa.string(), nullable=False),
        _field("slide_id", pa.string(), nullable=False),
        _field("case_id", pa.string()),
        _field("project", pa.string()),
        _field("x_level0", pa.float64(), unit="px, level0 frame", nullable=False),
        _field("y_level0", pa.float64(), unit="px, level0 frame", nullable=False),
        _field("width_level0", pa.float64(), unit="px, level0 frame", nullable=False),
        _field("height_level0", pa.float64(), unit="px, level0 frame", nullable=False),
        _field("mpp", pa.float64(), unit="um/px", nullable=False),
        _field("width_px", pa.int32(), unit="px, roi frame", nullable=False),
        _field("height_px", pa.int32(), unit="px, roi frame", nullable=False),
        _field("tissue_fraction", pa.float32(), unit="0..1"),
        _field("n_nuclei", pa.int64()),
        _field("nuclei", pa.list_(pa.field("element", NUCLEUS, nullable=False))),
        _field("image", pa.binary(), nullable=False),
        _field("image_format", pa.string(), nullable=False),
    ]
)
SMALL_COLUMNS = tuple(name for name in ROIS.names if name not in ("nuclei", "image"))

_BBOX = pa.struct([_field(side, pa.float32(), unit="px, level0 frame") for side in ("xmin", "ymin", "xmax", "ymax")])

# A slide's id and its project are plain strings in every table, so that any two can be joined; they stand in the files,
# for a folder's name is a number or a date to some readers where it looks like one (docs/tables.md).
# Every nucleus has these; `nuclei_schema` adds the columns that depend on the model.
NUCLEI = pa.schema(
    [
        _field("slide_id", pa.string(), nullable=False),
        _field("project", pa.string(), nullable=False),
        _field("nucleus_id", pa.int64(), unit="place on the Hilbert curve", nullable=False),
        _field("x_level0", pa.float64(), unit="px, level0 frame", nullable=False),
        _field("y_level0", pa.float64(), unit="px, level0 frame", nullable=False),
        _field("x_um", pa.float32(), unit="um", nullable=False),
        _field("y_um", pa.float32(), unit="um", nullable=False),
        _field("class_id", pa.int16(), nullable=False),
        _field("class_name", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        _field("score", pa.float32(), unit="0..1", nullable=False),
        _field("in_tissue", pa.bool_(), nullable=False),
        _field("geometry", pa.binary(), unit="px, level0 frame", nullable=False),  # WKB Point
        _field("bbox", _BBOX, nullable=False),  # GeoParquet's covering: statistics that box queries prune by
    ]
)


def nuclei_schema(class_names: Sequence[str], *, embedding_size: int = 0) -> pa.Schema:
    """NUCLEI with a probability column a class, `p_<class>`, and `embedding` where its size is not 0.

    Raises:
        DatasetError: no class, or names that are empty or differ in case alone, which SQL cannot tell apart.
    """
    if not class_names or not all(class_names) or len({name.lower() for name in class_names}) < len(class_names):
        raise DatasetError(
            f"classes {list(class_names)}: at least one is needed, with names that differ in more than case"
        )
    fields = list(NUCLEI)
    after_score = NUCLEI.get_field_index("score") + 1
    chances = [_field(f"p_{name}", pa.float32(), unit="0..1", nullable=False) for name in class_names]
    if embedding_size:
        fields.append(_field("embedding", pa.list_(pa.float16(), embedding_size)))
    return pa.schema([*fields[:after_score], *chances, *fields[after_score:]])


def check_table(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The table cast to the schema, in the schema's column order.

    Raises:
        DatasetError: a column is missing, is too many or cannot be cast.
    """
    missing = [field.name for field in schema if field.name not in table.column_names]
    extra = [column for column in table.column_names if column not in schema.names]
    if missing or extra:
        raise DatasetError(f"{name}: columns missing: {missing or 'none'}; not expected: {extra or 'none'}")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        raise DatasetError(f"{name}: {error}") from None
