"""Which files of a folder are slides: one a DICOM series, no small pictures, links followed once, ids that stay."""

import os
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from muse_core.cohort.manifest import read_manifest
from muse_core.cohort.manifest.patch_list import list_patches
from muse_core.errors import ConfigError, ManifestError, SlideReadError
from muse_core.infer.inputs import read_inputs
from muse_core.slide import open_slide
from tests.data.make_dicom import write_level


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"slide")


def ids(path: Path, **options: object) -> list[str]:
    return [row.slide_id for row in read_manifest(path, **options).rows]


def test_a_dicom_series_is_one_slide_by_its_finest_level(tmp_path):
    for series in (1, 2):
        for index, side in enumerate((512, 256)):
            # The coarse level first, by name.
            write_level(tmp_path / f"s{series}" / f"{2 - index}.dcm", side, side, series=series, index=index)
    found = read_manifest(tmp_path)
    assert [Path(row.uri).relative_to(tmp_path).as_posix() for row in found.rows] == ["s1/2.dcm", "s2/2.dcm"]
    assert [problem.severity for problem in found.problems] == ["warning", "warning"]
    assert "stands for its DICOM series: 1 other file beside it is the same slide" in found.problems[0].message


def test_dicom_files_that_cannot_be_read_are_left_to_who_opens_them(tmp_path):
    touch(tmp_path, "a.dcm", "b.dcm")
    assert ids(tmp_path) == ["a", "b"]


def test_dicom_without_a_suffix_is_known_by_its_header(tmp_path):
    for index, name in enumerate(("IM0001", "1.2.840.7")):
        write_level(tmp_path / name, 512 >> index, 512 >> index, index=index)
    level = pydicom.dcmread(write_level(tmp_path / "DICOMDIR", 512, 512, series=2))
    del level.TotalPixelMatrixColumns, level.TotalPixelMatrixRows
    level.save_as(tmp_path / "DICOMDIR")  # of another kind: a list of files, or tomography
    touch(tmp_path, "README", "notes.1")
    found = read_manifest(tmp_path)
    assert [Path(row.uri).name for row in found.rows] == ["IM0001"]
    assert "1 other file beside it is the same slide" in found.problems[0].message
    assert ids(tmp_path / "1.2.840.7") == ["1.2.840"]
    with open_slide(tmp_path / "1.2.840.7") as slide:
        assert [level.width for level in slide.info.levels] == [512, 256]


@pytest.mark.parametrize("word", ["_thumbnail", "-macro", ".label", " thumb", "_overview", "_thumb_1", "-snapshot"])
def test_a_scanners_small_picture_beside_a_slide_is_none(tmp_path, word):
    touch(tmp_path, "S1.svs", f"S1{word}.tif", "elsewhere/S1_macro.tif", "S2_label_study.tif")
    found = read_manifest(tmp_path)
    assert [Path(row.uri).name for row in found.rows] == ["S1.svs", "S2_label_study.tif", "S1_macro.tif"]
    assert f"S1{word}.tif is taken for a small picture of the slide beside it" in found.problems[0].message


def test_images_beside_slides_are_not_taken_for_slides(tmp_path):
    touch(tmp_path, "S1.svs", "S1.png", "S1_thumbnail.jpg", "S1.svs.jpg", "own.png", "contact_sheets/own2.jpg")
    assert [row.slide_id for row in read_inputs(tmp_path, 0.25).rows] == ["S1", "own"]


def test_hidden_folders_and_those_of_file_servers_hold_no_slides(tmp_path):
    touch(tmp_path, "S1.svs", ".Trash-1000/files/T.svs", "@eaDir/S1.svs", "__MACOSX/a/S1.svs", "lost+found/L.svs")
    (tmp_path / "lost+found").chmod(0)
    assert ids(tmp_path) == ["S1"]
    hidden = tmp_path / ".Trash-1000"
    assert ids(hidden) == ["T"], "one that was asked for is"
    Image.new("RGB", (64, 64)).save(tmp_path / ".Trash-1000" / "p.png")
    with pytest.raises(ConfigError, match="no image in it"):
        list_patches(tmp_path)


def test_a_link_to_a_slide_beside_it_is_no_second_slide(tmp_path):
    touch(tmp_path, "b/S1.svs")
    (tmp_path / "a.svs").symlink_to("b/S1.svs")
    found = read_manifest(tmp_path)
    assert [row.slide_id for row in found.rows] == ["S1"]
    assert "a.svs is a link to the same file as S1.svs and left out" in found.problems[0].message


def test_a_pipe_is_no_slide(tmp_path):
    for name in ("p", "p.svs"):
        os.mkfifo(tmp_path / name)
    assert ids(tmp_path) == ["p"]
    with pytest.raises(SlideReadError, match="is no file but a device or pipe"):
        open_slide(tmp_path / "p.svs")


def test_a_linked_folder_is_followed_once(tmp_path):
    touch(tmp_path / "t", "x.svs")
    touch(tmp_path / "s", "y.svs")
    (tmp_path / "s" / "t").symlink_to(tmp_path / "t")
    (tmp_path / "s" / "again").symlink_to(tmp_path / "t")
    (tmp_path / "s" / "round").symlink_to(tmp_path / "s")
    (tmp_path / "t" / "back").symlink_to(tmp_path / "s")
    assert sorted(ids(tmp_path / "s")) == ["x", "y"]


def test_an_id_stays_whatever_appears_beside_its_file(tmp_path):
    touch(tmp_path, "A/S1.tif")
    known = {row.uri: row.slide_id for row in read_manifest(tmp_path).rows}
    assert list(known.values()) == ["S1"]
    touch(tmp_path, "B/S1.tif", "S1.svs")
    found = {
        Path(row.uri).relative_to(tmp_path).as_posix(): row.slide_id
        for row in read_manifest(tmp_path, known=known).rows
    }
    assert found["A/S1.tif"] == "S1"
    assert len(set(found.values())) == 3


def test_an_id_of_a_file_that_is_still_there_is_no_other_files(tmp_path):
    touch(tmp_path, "elsewhere/S1.tif", "s/S1.tif")
    known = {str(tmp_path / "elsewhere" / "S1.tif"): "S1"}
    assert ids(tmp_path / "s", known=known) == ["S1.tif"]
    os.unlink(tmp_path / "elsewhere" / "S1.tif")
    assert ids(tmp_path / "s", known=known) == ["S1"]


@pytest.mark.parametrize("name", ["a.qptiff", "a.btf", "a.tf8", "a.ome.btf", "A.OME.TIFF"])
def test_every_suffix_of_a_tiff_is_a_slides(tmp_path, name):
    touch(tmp_path, name)
    assert [one.lower() for one in ids(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.jp2", "a JPEG 2000 image .*, which is not read; convert it, such as by `vips tiffsave"),
        ("a.bmp", "a BMP image"),
        ("a.vsi", "an Olympus slide .*; export it as OME-TIFF"),
        ("a.isyntax", "a Philips iSyntax slide"),
    ],
)
def test_formats_that_are_not_read_get_words_that_fit(tmp_path, name, words):
    touch(tmp_path, name)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(ManifestError, match=words):
            read_manifest(path)
        with pytest.raises(ManifestError, match=words):
            read_inputs(path, 0.25)


def test_a_glob_of_images_works_as_a_folder_of_them(tmp_path):
    touch(tmp_path, "a/S1.png", "b/S1.png", "b/S2.jpg", "b/notes.txt")
    assert [row.slide_id for row in read_inputs(tmp_path / "*" / "*.png", 0.25).rows] == ["a/S1.png", "b/S1.png"]
    assert [row.slide_id for row in read_inputs(tmp_path / "b" / "S*", 0.25).rows] == ["S1", "S2"]
    with pytest.raises(ManifestError):
        read_inputs(tmp_path / "*" / "*.jpeg", 0.25)


def test_images_of_a_second_folder_do_not_take_the_ids_of_the_first(tmp_path):
    touch(tmp_path, "A/x.png", "B/x.png", "C/x.png")
    known: dict[str, str] = {}
    for site in "ABC":
        known |= {row.uri: row.slide_id for row in read_inputs(tmp_path / site, 0.25, known=known).rows}
    assert list(known.values()) == ["x", "x.png", str(tmp_path / "C" / "x.png")]
