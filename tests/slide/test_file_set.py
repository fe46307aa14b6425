"""Which files a slide is made of, and that a change to any of them is seen."""

import hashlib
import os
import shutil

import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from muse_core.slide.file_set import files_of_slide, md5_of_slide, state_of_slide


@pytest.fixture
def mrxs(tmp_path):
    """`S.mrxs` with two files of pixels, and another slide beside it."""
    for name in ("S.mrxs", "S/Data0000.dat", "S/Slidedat.ini", "T.mrxs", "T/Data0000.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "S.mrxs"


def dicom_file(path, series: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = generate_uid(), generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SeriesInstanceUID, dataset.Columns, dataset.Rows = series, 8, 8
    pydicom.dcmwrite(path, dataset)


def test_most_slides_are_one_file(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"pixels")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "other").write_bytes(b"not its")
    assert files_of_slide(tmp_path / "a.svs") == (tmp_path / "a.svs",)
    assert md5_of_slide(tmp_path / "a.svs") == hashlib.md5(b"pixels").hexdigest()


def test_an_mrxs_slide_is_its_folder_too(mrxs):
    assert [one.relative_to(mrxs.parent).as_posix() for one in files_of_slide(mrxs)] == [
        "S.mrxs",
        "S/Data0000.dat",
        "S/Slidedat.ini",
    ]
    lines = "".join(
        f"{hashlib.md5(name.encode()).hexdigest()}  {name}\n" for name in ("S.mrxs", "S/Data0000.dat", "S/Slidedat.ini")
    )
    assert md5_of_slide(mrxs) == hashlib.md5(lines.encode()).hexdigest()
    before, md5 = state_of_slide(mrxs), md5_of_slide(mrxs)
    (mrxs.parent / "S" / "Data0001.dat").write_bytes(b"more")
    assert state_of_slide(mrxs) != before
    assert md5_of_slide(mrxs) != md5


def test_hamamatsu_s_index_names_its_images(tmp_path):
    (tmp_path / "s.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=s.jpg\nOther=../x\nImageFile(1,0)=gone.jpg\n"
    )
    (tmp_path / "s.jpg").write_bytes(b"jpeg")
    (tmp_path / "t.jpg").write_bytes(b"jpeg")
    assert files_of_slide(tmp_path / "s.vms") == (tmp_path / "s.vms", tmp_path / "s.jpg")


def test_a_dicom_slide_is_its_series_and_what_may_become_a_part_of_it(tmp_path):
    mine, other = generate_uid(), generate_uid()
    for name, series in (("a.dcm", mine), ("b.dcm", mine), ("c.dcm", other)):
        dicom_file(tmp_path / name, series)
    assert [one.name for one in files_of_slide(tmp_path / "a.dcm")] == ["a.dcm", "b.dcm"]
    whole = (tmp_path / "b.dcm").read_bytes()
    (tmp_path / "d.dcm").write_bytes(whole[:140])  # being copied: whose series it is cannot be told
    assert [one.name for one in files_of_slide(tmp_path / "a.dcm")] == ["a.dcm", "b.dcm", "d.dcm"]
    (tmp_path / "d.dcm").write_bytes((tmp_path / "c.dcm").read_bytes())
    assert [one.name for one in files_of_slide(tmp_path / "a.dcm")] == ["a.dcm", "b.dcm"]


def test_a_copy_that_sets_its_time_back_as_it_grows_is_seen(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(b"12345678")
    os.utime(path, (1e9, 1e9))
    before = state_of_slide(path)
    shutil.copyfile(path, tmp_path / "copy")
    assert state_of_slide(path) == before, "reading changes nothing"
    path.write_bytes(b"87654321")
    os.utime(path, (1e9, 1e9))
    assert path.stat().st_mtime == 1e9
    assert state_of_slide(path) != before
