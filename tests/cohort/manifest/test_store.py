"""Slides listed in a store go by the rules of a folder's: ids that stay and are nobody else's, no pictures."""

import fsspec
import pytest

from muse_core.cohort.manifest import Manifest, read_manifest
from muse_core.infer.inputs import read_inputs

UUID = "0f4b1c9e-6a53-4e52-9d53-1c0f5f8f2a11"


@pytest.fixture
def put(tmp_path):
    """Puts empty objects below a URL of the test's own, and gives it."""
    files, root = fsspec.filesystem("memory"), f"memory://{tmp_path.name}"

    def put(*names: str) -> str:
        for name in names:
            files.pipe_file(f"{root}/{name}", b"")
        return root

    yield put
    if files.exists(tmp_path.name):
        files.rm(tmp_path.name, recursive=True)


def ids(manifest: Manifest) -> list[str]:
    return [row.slide_id for row in manifest.rows]


def known_of(*manifests: Manifest) -> dict[str, str]:
    return {row.uri: row.slide_id for manifest in manifests for row in manifest.rows}


def test_a_second_folder_does_not_take_the_ids_of_the_first(put, tmp_path):
    url = put("A/S1.svs", "B/S1.svs", "C/S1.svs")
    known: dict[str, str] = {}
    for site, wanted in (("A", "S1"), ("B", "S1.svs"), ("A", "S1")):
        found = read_manifest(f"{url}/{site}/", known=known)
        assert ids(found) == [wanted]
        known |= known_of(found)
    assert ids(read_manifest(f"{url}/C/S1.svs", known=known)) == [f"{tmp_path.name}/C/S1.svs"]
    assert ids(read_manifest(f"{url}/B/S1.svs", known=known)) == ["S1.svs"], "given by itself it keeps its id"
    (tmp_path / "S1.svs").write_bytes(b"slide")
    assert ids(read_manifest(tmp_path, known=known_of(read_manifest(f"{url}/A")))) == ["S1.svs"]


def test_an_object_that_has_moved_within_the_folder_leaves_its_id(put):
    url = put("now/S1.svs")
    assert ids(read_manifest(url, known={f"{url}/before/S1.svs": "S1"})) == ["S1"]


def test_one_slide_by_url_is_called_as_in_a_listing(put):
    name = f"TCGA-A8-A099-01Z-00-DX1.{UUID}.svs"
    url = put(f"s/{name}")
    assert ids(read_manifest(f"{url}/s/{name}")) == ids(read_manifest(f"{url}/s")) == ["TCGA-A8-A099-01Z-00-DX1"]
    put("i/x.png")
    assert ids(read_inputs(f"{url}/i/x.png", 0.25, known={f"{url}/i/x.png": "mine"})) == ["mine"]
    assert ids(read_inputs(f"{url}/i/x.png", 0.25, known={f"{url}/j/x.png": "x"})) == ["x.png"]


def test_pictures_of_slides_are_no_slides(put):
    url = put("S1.svs", "S1_thumbnail.tif", "S1.png", "S1_macro.jpg", "own.png", "contact_sheets/other.jpg", "z.mrxs")
    put("z.jpg", "contact_sheets/S9.tif", "elsewhere/S1_macro.tif")
    found = read_manifest(url)
    assert ids(found) == ["S1", "S1_macro"]
    assert any("S1_thumbnail.tif is taken for a small picture" in problem.message for problem in found.problems)
    assert ids(read_inputs(url, 0.25)) == ["S1", "S1_macro", "own"]
    images = put("only/a.png", "only/contact_sheets/a.jpg") + "/only"
    assert ids(read_inputs(images, None)) == ["a"]


def test_a_path_in_a_manifest_of_a_bucket_is_counted_from_its_folder(put):
    url = put("f/m.csv", "x.svs")
    fsspec.filesystem("memory").pipe_file(
        f"{url}/f/m.csv", b"slide_id,uri\na,../x.svs\nb,./y/../z.svs\nc,../../../w.svs\n"
    )
    found = read_manifest(f"{url}/f/m.csv")
    assert [row.uri for row in found.rows] == [f"{url}/x.svs", f"{url}/f/z.svs"]
    (error,) = found.errors
    assert (error.slide_id, error.row) == ("c", 4)
    assert "'../../../w.svs' leads out of memory://" in error.message
