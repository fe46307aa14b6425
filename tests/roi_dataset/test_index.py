"""The index of a dataset of many parts: made once, believed only while the parts are those it was made of."""

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_core.roi_dataset import dataset as dataset_module
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.roi_dataset.index import INDEX_NAME
from muse_core.roi_dataset.write import part_path, write_rois
from muse_core.schemas import SMALL_COLUMNS
from tests.roi_dataset.test_dataset import row


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Five parts with seven ROIs, and what is read of them without an index."""
    out = tmp_path_factory.mktemp("plain")
    for number, count in enumerate((1, 2, 1, 2, 1)):
        slide = f"s{number}"
        write_rois(part_path(out, "P", slide, 0), (row(place, slide) for place in range(count)), {})
    dataset = RoiDataset(out)
    return out, dataset.table(SMALL_COLUMNS), dataset.fingerprint


@pytest.fixture
def many(plain, tmp_path, monkeypatch):
    """The same for a reader to whom three parts are many."""
    monkeypatch.setattr(dataset_module, "INDEXED_FROM", 3)
    return shutil.copytree(plain[0], tmp_path / "many")


def opened_footers(monkeypatch):
    seen = []
    opened = dataset_module.opened_part
    monkeypatch.setattr(dataset_module, "opened_part", lambda *about: seen.append(about[1]) or opened(*about))
    return seen


def test_the_second_opening_reads_no_part(plain, many, monkeypatch):
    import polars  # here, as it takes every process of the suite seconds

    first = RoiDataset(many)
    assert (many / INDEX_NAME).is_file()
    seen = opened_footers(monkeypatch)
    second = RoiDataset(many)
    assert (len(second), second.fingerprint) == (7, first.fingerprint) == (7, plain[2])
    seen.clear()
    RoiDataset(many / "rois").table(["roi_id"])
    assert not seen
    assert len(polars.read_parquet(many / "rois")) == 7, "nothing but parts lies there"
    for found in (first.table(SMALL_COLUMNS), second.table(SMALL_COLUMNS)):
        assert found.to_pylist() == plain[1].to_pylist()
        assert found.schema.equals(plain[1].schema)
    assert second.table(["nuclei"]).num_rows == 7
    assert second.read(6).roi_id == plain[1]["roi_id"][6].as_py()


@pytest.mark.parametrize("change", ["another time", "gone", "new", "index damaged", "index of other columns"])
def test_it_is_made_anew_when_anything_differs(many, change):
    RoiDataset(many)
    index, part = many / INDEX_NAME, part_path(many, "P", "s1", 0)
    before, expected = index.read_bytes(), 7
    if change == "another time":
        write_rois(part, [row(9, "s1")], {})
        os.utime(part, ns=(0, 12345))
        expected = 6
    elif change == "gone":
        part.unlink()
        expected = 5
    elif change == "new":
        write_rois(part_path(many, "P", "s9", 0), [row(0, "s9")], {})
        expected = 8
    elif change == "index damaged":
        index.write_bytes(before[:-40])
    else:
        pq.write_table(pa.table({"a": [1]}), index)
    dataset = RoiDataset(many)
    assert (len(dataset), dataset.table(["mpp"]).num_rows) == (expected, expected)
    assert dataset.ids == RoiDataset([part for part in sorted(many.rglob("*.parquet"))]).ids
    assert pq.read_table(index, partitioning=None).num_rows == expected


def test_a_folder_that_cannot_be_written_stays_without(many):
    (many / INDEX_NAME).mkdir()  # in its place: no permission would keep a root user from writing
    dataset = RoiDataset(many)
    assert (len(dataset), dataset.table(["mpp"]).num_rows) == (7, 7)


def test_few_parts_need_none(plain):
    assert not (plain[0] / INDEX_NAME).exists()


def test_on_another_filesystem_than_the_disk(many, plain):
    """Through a file system that is not the local one: written as a stream, as into a bucket."""
    from pyarrow import fs

    from muse_core.roi_dataset.index import Index, read_index, write_index

    remote = fs.SubTreeFileSystem(str(many), fs.LocalFileSystem())
    infos = [info for info in remote.get_file_info(fs.FileSelector("rois/P")) if info.is_file]
    write_index(remote, "rois", infos, Index([1, 2, 1, 2, 1], plain[1]))
    found = read_index(remote, "rois", infos)
    assert found is not None
    assert found.table.to_pylist() == plain[1].to_pylist()
    assert read_index(remote, "rois", infos[1:]) is None
