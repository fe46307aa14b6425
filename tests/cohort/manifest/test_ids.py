"""What slides are called: as before, and never as another slide of the output, wherever the two lie."""

from muse_core.cohort.manifest.ids import distinct_ids, scene_key

UUID = "0f4b1c9e-6a53-4e52-9d53-1c0f5f8f2a11"


def test_folders_given_one_after_the_other_do_not_share_an_id():
    known: dict[str, str] = {}
    found = []
    for site in "ABC":
        url = f"s3://b/{site}/S1.svs"
        (slide_id,) = distinct_ids([url], ["S1.svs"], known)
        known[url] = slide_id
        found.append(slide_id)
    assert found == ["S1", "S1.svs", "b/C/S1.svs"]
    assert distinct_ids(list(known), ["S1.svs"] * 3, known) == found, "and each keeps its own"


def test_a_slide_in_a_store_keeps_its_id_from_files(tmp_path):
    known = {"s3://b/S1.svs": "S1", str(tmp_path / "gone" / "S2.svs"): "S2"}
    files = [str(tmp_path / name) for name in ("S1.svs", "S2.svs")]
    assert distinct_ids(files, ["S1.svs", "S2.svs"], known) == ["S1.svs", "S2"], "a file that has moved keeps its id"


def test_scenes_keep_their_ids_from_other_files():
    known = {scene_key("s3://b/A.svs", 1): "A", scene_key("s3://b/A.svs", 2): "A2"}
    names = ["A.svs", "A2.svs"]
    assert distinct_ids([f"s3://b/{name}" for name in names], names, known) == ["A", "A2.svs"]


def test_names_are_compared_in_one_unicode_form():
    assert distinct_ids(["s3://b/B/e\u0301.svs"], ["e\u0301.svs"], {"s3://b/A/x.svs": "\u00e9"}) == ["e\u0301.svs"]


def test_tcga_names_lose_their_uuid():
    assert distinct_ids(["s3://b/x"], [f"TCGA-A8-A099-01Z-00-DX1.{UUID}.svs"], {}) == ["TCGA-A8-A099-01Z-00-DX1"]
