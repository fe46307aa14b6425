"""The ROI dataset written, read, queried, shuffled, interrupted."""

import multiprocessing
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_core.errors import DatasetError, OutputError
from muse_core.roi_dataset import tiff
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.roi_dataset.image import RoiImage, encode_roi
from muse_core.roi_dataset.order import Shard, shuffled
from muse_core.roi_dataset.part import ImageBytes, read_provenance
from muse_core.roi_dataset.write import RoiRow, part_path, parts_of_slide, write_rois
from muse_core.schemas import ROIS

SIDE = 96


def pixels(number):
    return np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def nuclei(number):
    return np.random.default_rng(number).random((number % 5, 3), np.float32) * np.float32(SIDE)


def row(number, slide="s1", project="P1", **changes):
    values = {
        "roi_id": f"{slide}_{number:05d}",
        "slide_id": slide,
        "case_id": f"case-{slide}",
        "project": project,
        "x_level0": number * SIDE + 0.5,
        "y_level0": 3.25,
        "width_level0": SIDE / 2,
        "height_level0": SIDE / 2,
        "mpp": 0.25,
        "width_px": SIDE,
        "height_px": SIDE,
        "tissue_fraction": 0.75,
        "nuclei": nuclei(number),
        "image": encode_roi(pixels(number), tile_px=64),
    }
    return RoiRow(**values | changes)


@pytest.fixture
def out(tmp_path):
    """Three slides, two projects, 22 ROIs in four parts."""
    for project, slide, chunk, numbers in [
        ("P1", "s1", 0, range(8)),
        ("P1", "s1", 1, range(8, 12)),
        ("P1", "s2", 0, range(12, 15)),
        ("P 2/ü", "s3", 0, range(15, 22)),
    ]:
        rows = (row(number, slide, project) for number in numbers)
        write_rois(part_path(tmp_path, project, slide, chunk), rows, {"slide_id": slide, "settings": {"quality": 93}})
    return tmp_path


# Writing


def test_what_is_written_is_read_back(out):
    dataset = RoiDataset(out)
    assert len(dataset) == 22
    for index, roi_id in enumerate(dataset.ids):
        sample = dataset.read(index)
        number = int(roi_id[-5:])
        assert (sample.roi_id, sample.index, sample.mpp, sample.slide_id) == (roi_id, index, 0.25, roi_id[:2])
        np.testing.assert_array_equal(sample.nuclei, nuclei(number))
        assert sample.nuclei.dtype == np.float32
        difference = np.abs(sample.image.decode().astype(int) - pixels(number))
        assert difference.mean() < 6  # noise is the hardest to compress
    assert sorted(dataset.ids) == [f"s{1 + (n >= 12) + (n >= 15)}_{n:05d}" for n in range(22)]


def test_counts_are_returned(tmp_path):
    written = write_rois(tmp_path / "part-a-0000.parquet", (row(number) for number in range(5)), {})
    assert written == (5, 0 + 1 + 2 + 3 + 4)


def test_no_rows_no_file(tmp_path):
    assert write_rois(tmp_path / "deep" / "part-a-0000.parquet", [], {}) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_columns_units_and_values_follow_the_schema(out):
    part = parts_of_slide(out, "s1")[0]
    schema = pq.read_schema(part)
    assert schema.names == ROIS.names
    assert schema.field("x_level0").metadata[b"unit"] == b"px, level0 frame"
    assert schema.field("mpp").metadata[b"unit"] == b"um/px"
    first = RoiDataset(out).table().filter(pa.compute.field("roi_id") == "s1_00003").to_pylist()[0]
    assert first["x_level0"] == 3 * SIDE + 0.5
    assert (first["tissue_fraction"], first["n_nuclei"], first["case_id"]) == (0.75, 3, "case-s1")
    assert first["image_format"] == "tiff-jpeg-tiles"


def test_without_a_detector_nuclei_are_null_and_not_none_found(tmp_path):
    rows = [row(0, nuclei=None), row(1, nuclei=np.empty((0, 3), np.float32))]
    write_rois(part_path(tmp_path, "P", "s1", 0), rows, {})
    assert RoiDataset(tmp_path).table(["n_nuclei"])["n_nuclei"].to_pylist() == [None, 0]
    assert [RoiDataset(tmp_path).read(i).nuclei.shape for i in (0, 1)] == [(0, 3), (0, 3)]


def test_a_row_group_is_a_roi_and_images_are_not_compressed_twice(out):
    metadata = pq.ParquetFile(parts_of_slide(out, "s1")[0]).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1] * 8
    group = metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["image"].compression == "UNCOMPRESSED"
    assert columns["nuclei.list.element.x"].compression == "ZSTD"
    assert columns["n_nuclei"].statistics.max == 0
    assert columns["image"].statistics is None


def test_provenance_travels_with_the_part(out):
    assert read_provenance(parts_of_slide(out, "s2")[0]) == {"slide_id": "s2", "settings": {"quality": 93}}


def test_names_never_leave_their_folder(tmp_path):
    path = part_path(tmp_path, "../P", "../../s", 3)
    assert path == tmp_path / "rois" / "%2E.%2FP" / "part-%2E.%2F..%2Fs-0003.parquet"
    assert part_path(tmp_path, "", "s", 0).parent.name == "unknown"


def test_parts_of_a_slide_are_its_own_and_found_in_any_project(tmp_path):
    paths = [part_path(tmp_path, p, s, c) for p in ("P1", "P2") for s in ("a", "a-0001", "A[1]*") for c in (0, 12345)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (paths[0].parent / ".part-a-0002.parquet.x.tmp").touch()
    assert parts_of_slide(tmp_path, "a") == [paths[0], paths[1], paths[6], paths[7]]
    assert parts_of_slide(tmp_path, "A[1]*") == [paths[4], paths[5], paths[10], paths[11]]
    assert parts_of_slide(tmp_path / "nowhere", "a") == []


def failing_rows() -> Iterator[RoiRow]:
    yield row(0)
    raise DatasetError("the slide broke")


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(DatasetError, match="the slide broke"):
        write_rois(tmp_path / "part-s1-0000.parquet", failing_rows(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_part_and_no_trouble(out):
    path = part_path(out, "P1", "s9", 0)
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.roi_dataset.test_dataset import row\n"
        "from muse_core.roi_dataset.write import write_rois\n"
        "def rows():\n    yield row(0)\n    yield row(1)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_rois(Path(sys.argv[1]), rows(), {})"
    )
    done = subprocess.run([sys.executable, "-c", script, path], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    assert [name for name in os.listdir(path.parent) if "s9" in name]  # the temporary file, which readers pass over
    assert len(RoiDataset(out)) == 22


def write_with_little_room(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    try:
        write_rois(path, (row(number) for number in range(50)), {})
    except OutputError as error:
        return error.reason, os.listdir(path.parent)
    return "written", []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(write_with_little_room, tmp_path / "part-s1-0000.parquet").result() == ("disk_full", [])


def test_writing_holds_one_roi_at_a_time(tmp_path):
    image = os.urandom(2_000_000)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    peaks = []

    def rows():
        for number in range(30):
            peaks.append(pa.total_allocated_bytes() - before)
            yield row(number, image=bytes(image))

    write_rois(tmp_path / "part-s1-0000.parquet", rows(), {})
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(peaks) < 8_000_000
    assert python_peak < 12_000_000


# Reading


@pytest.mark.parametrize("how", ["out", "rois", "text", "url", "part", "parts"])
def test_a_dataset_is_found_however_it_is_named(out, how):
    parts = sorted((out / "rois").glob("*/*.parquet"))
    source = {
        "out": out,
        "rois": out / "rois",
        "text": str(out),
        "url": out.as_uri(),
        "part": parts[0],
        "parts": [str(part) for part in parts],
    }[how]
    assert len(RoiDataset(source)) == (7 if how == "part" else 22)


def test_other_row_groups_are_read_too(out, tmp_path):
    """Files that another tool wrote anew: all ROIs in two row groups."""
    table = pa.concat_tables(pq.read_table(part) for part in sorted((out / "rois").glob("*/*.parquet")))
    path = tmp_path / "again" / "data.parquet"
    path.parent.mkdir()
    pq.write_table(table.cast(ROIS), path, row_group_size=13)
    again, dataset = RoiDataset(path.parent), RoiDataset(out)
    assert again.ids == dataset.ids
    for index in (0, 12, 13, 21):
        assert again.read(index).roi_id == dataset.ids[index]
        np.testing.assert_array_equal(again.read(index).nuclei, dataset.read(index).nuclei)


def test_more_files_than_stay_open(tmp_path):
    for number in range(40):
        write_rois(part_path(tmp_path, "P", f"s{number:02d}", 0), [row(number, f"s{number:02d}")], {})
    dataset = RoiDataset(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for index in [*range(40), *range(40)]:
        assert dataset.read(index).roi_id == f"s{index:02d}_{index:05d}"
    assert len(os.listdir("/proc/self/fd")) - before <= 32


def test_index_outside_is_an_index_error(out):
    for index in (-1, 22):
        with pytest.raises(IndexError):
            RoiDataset(out).read(index)


def read_id(dataset, index):
    return dataset.read(index).roi_id


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_other_processes_read_it(out, method):
    dataset = RoiDataset(out)
    dataset.read(0)  # opens a file that a fork must not share
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(read_id, [dataset] * 22, range(22))) == dataset.ids


def test_a_pickled_dataset_is_small_and_holds_no_file(out):
    dataset = RoiDataset(out)
    dataset.read(3)
    copied = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 3000
    assert copied.read(3).roi_id == dataset.read(3).roi_id


def test_hidden_and_other_files_are_passed_over(out):
    (out / "rois" / "P1" / ".part-s1-0009.parquet.abc.tmp").write_bytes(b"half")
    (out / "rois" / ".staging").mkdir()
    (out / "rois" / ".staging" / "part-s1-0000.parquet").write_bytes(b"half")
    (out / "rois" / "notes.txt").write_text("hello")
    assert len(RoiDataset(out)) == 22


@pytest.mark.parametrize("keep", [0, 3, 1000, -5])
def test_a_torn_file_is_named(out, keep):
    part = parts_of_slide(out, "s2")[0]
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=r"part-s2-0000\.parquet: damaged or not whole.*delete it and build"):
        RoiDataset(out)


def test_a_flipped_bit_in_an_image_is_noticed(out):
    dataset, part = RoiDataset(out), parts_of_slide(out, "s2")[0]
    data = bytearray(part.read_bytes())
    column = pq.ParquetFile(part).metadata.row_group(1).column(ROIS.get_field_index("image") + 2)  # nuclei are 3 leaves
    assert column.path_in_schema == "image"
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    part.write_bytes(data)
    index = dataset.ids.index("s2_00012")
    assert dataset.read(index).roi_id == "s2_00012"
    with pytest.raises(DatasetError, match=r"s2_00013: tile \d+ is damaged"):
        dataset.read(index + 1).image.decode()


def test_of_an_image_the_tiles_under_a_view_alone_are_read(tmp_path, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    rows = [row(0, "s", image=encode_roi(picture, tile_px=128), width_px=512, height_px=512)]
    write_rois(part_path(tmp_path, "P", "s", 0), rows, {})
    read: list[int] = []
    plain = ImageBytes.read
    monkeypatch.setattr(ImageBytes, "read", lambda self, *span: read.append(span[1]) or plain(self, *span))
    image = RoiDataset(tmp_path).read(0).image
    view = image.read(10, 20, 100, 90)
    assert len(read) == 2, "its tags, and one tile of sixteen"
    assert sum(read) < 0.35 * len(rows[0].image)
    np.testing.assert_array_equal(view, RoiImage(rows[0].image).read(10, 20, 100, 90))


def test_images_without_checksums_of_their_tiles_are_read_whole(tmp_path, monkeypatch):
    """As datasets that were built before have them, and images of other tools."""
    monkeypatch.setattr(tiff, "crc32", lambda stream: 0)
    old = encode_roi(np.full((64, 64, 3), 90, np.uint8), tile_px=64)
    monkeypatch.undo()
    entry = old.find(struct.pack("<HHI", 65100, 4, 1))
    old = old[:entry] + struct.pack("<HHI", 65101, 4, 1) + old[entry + 8 :]  # a tag that nobody knows
    rows = [row(0, "s", image=old, width_px=64, height_px=64)]
    write_rois(part_path(tmp_path, "P", "s", 0), rows, {})
    image = RoiDataset(tmp_path).read(0).image
    assert image.layout.checksums == ()
    assert abs(int(image.decode().mean()) - 90) <= 1


def test_a_file_that_vanished_is_named(out):
    dataset = RoiDataset(out)
    index = dataset.ids.index("s2_00012")
    parts_of_slide(out, "s2")[0].unlink()
    with pytest.raises(DatasetError, match="part-s2-0000"):
        dataset.read(index)


def test_missing_columns_are_named(out):
    pq.write_table(pa.table({"roi_id": ["a"], "slide_id": ["b"]}), out / "rois" / "other.parquet")
    with pytest.raises(DatasetError, match=r"other\.parquet: not a ROI table, it has no column case_id, project"):
        RoiDataset(out)


def test_folders_without_a_dataset_say_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="no such folder; give the folder that muse build-tcga-nu"):
        RoiDataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no Parquet file; build one"):
        RoiDataset(tmp_path)
    with pytest.raises(DatasetError, match="no parts were given"):
        RoiDataset([])
    with pytest.raises(DatasetError, match="give a folder, or a URL"):
        RoiDataset("nonsense://bucket/out")
    pq.write_table(ROIS.empty_table(), tmp_path / "part-s1-0000.parquet")
    with pytest.raises(DatasetError, match="holds no ROI"):
        RoiDataset(tmp_path)


def test_unknown_columns_are_refused(out):
    with pytest.raises(DatasetError, match="'n_cells'"):
        RoiDataset(out).table(["n_cells"])


# Order


TOPOLOGIES = [(1, 1), (1, 3), (2, 1), (3, 2), (5, 4)]


def ids_of(dataset, world_size, n_workers, **options):
    return [
        [s.roi_id for s in dataset.iterate(7, 1, shard=Shard(rank, world_size, worker, n_workers), **options)]
        for rank in range(world_size)
        for worker in range(n_workers)
    ]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_each_roi_comes_once_an_epoch_in_any_topology(out, topology):
    dataset = RoiDataset(out)
    seen = [roi_id for share in ids_of(dataset, *topology) for roi_id in share]
    assert sorted(seen) == sorted(dataset.ids)


def test_one_reader_follows_the_order(out):
    dataset = RoiDataset(out)
    assert ids_of(dataset, 1, 1)[0] == [dataset.ids[i] for i in shuffled(22, 7, 1)]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("start", [0, 5, 21, 22])
def test_resumed_epoch_is_the_tail_in_any_topology(out, topology, start):
    dataset = RoiDataset(out)
    whole = ids_of(dataset, 1, 1)[0]
    tail = [roi_id for share in ids_of(dataset, *topology, start=start) for roi_id in share]
    assert sorted(tail) == sorted(whole[start:])


# Queries by other tools


def test_duckdb_answers_nuclei_per_mm2_per_project_in_one_line(out):
    rois = f"{out}/rois/**/*.parquet"
    answer = duckdb.sql(
        f"SELECT project, sum(n_nuclei) / sum(width_px * height_px * mpp * mpp / 1e6) AS nuclei_per_mm2 "
        f"FROM read_parquet('{rois}', hive_partitioning = true) GROUP BY project ORDER BY project"
    ).fetchall()
    mm2 = (SIDE * 0.25 / 1000) ** 2
    expected = [
        (project, pytest.approx(np.mean([n % 5 for n in numbers]) / mm2))
        for project, numbers in (("P 2/ü", range(15, 22)), ("P1", range(15)))
    ]
    assert answer == expected


def test_pandas_and_pyarrow_read_the_folder_with_its_projects(out):
    assert sorted(set(pd.read_parquet(out / "rois", columns=["project", "roi_id"]).project)) == ["P 2/ü", "P1"]
    table = pq.read_table(out / "rois", columns=["project", "n_nuclei"])
    assert table.num_rows == 22
    assert set(pq.read_table(parts_of_slide(out, "s3")[0])["project"].to_pylist()) == {"P 2/ü"}
