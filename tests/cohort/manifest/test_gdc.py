"""The cohort query against a server that answers like GDC, and the hold-out."""

import json
from pathlib import Path

import pytest

from muse_core.cohort.acquire.retry import RetrySettings
from muse_core.cohort.manifest import read_manifest, write_manifest
from muse_core.cohort.manifest.gdc import (
    GdcSettings,
    default_hold_out_paths,
    query_slides,
    read_hold_out,
    select_slides,
    slide_filters,
)
from muse_core.errors import AcquireError, ManifestError
from tests.data.gdc_server import GdcServer, error_page, status

ROOT = Path(__file__).parents[3]
SPLIT = ROOT.parent / "shared/data/brca_m2c/brca_ds_test.txt"
QUICK = GdcSettings(page_size=4, retry=RetrySettings(max_attempts=3, first_wait_s=0.005))


def hit(number: int, *, project: str = "TCGA-BRCA", patient: str = "A099", **changes):
    file_id = f"{number:08d}-0000-0000-0000-000000000000"
    return {
        "file_id": file_id,
        "file_name": f"TCGA-A8-{patient}-01Z-00-DX{number % 10}.{file_id.upper()}.svs",
        "md5sum": f"{number:032x}",
        "file_size": 1000 + number,
        "access": "open",
        "data_format": "SVS",
        "data_type": "Slide Image",
        "experimental_strategy": "Diagnostic Slide",
        "cases": [{"submitter_id": f"TCGA-A8-{patient}", "project": {"project_id": project}}],
    } | changes


@pytest.fixture
def server():
    with GdcServer() as server:
        server.hits = [hit(number, patient=f"A0{number:02d}") for number in reversed(range(10))]
        server.hits += [
            hit(50, access="controlled"),
            hit(51, experimental_strategy="Tissue Slide"),
            hit(52, data_format="BAM"),
            hit(53, project="CPTAC-3"),
            hit(54, project="TCGA-LUAD", patient="B001"),
        ]
        yield server


def test_every_page_is_had(server):
    pages = []
    slides = query_slides(server.url, settings=QUICK, on_page=lambda had, total: pages.append((had, total)))
    assert pages == [(4, 11), (8, 11), (11, 11)]
    assert [slide.size for slide in slides] == [*range(1000, 1010), 1054]
    one = slides[3]
    assert (one.slide_id, one.case_id, one.project) == ("TCGA-A8-A003-01Z-00-DX3", "TCGA-A8-A003", "TCGA-BRCA")
    assert (one.uri, one.md5) == ("gdc://00000003-0000-0000-0000-000000000000", f"{3:032x}")


def test_projects_can_be_chosen(server):
    assert [slide.project for slide in query_slides(server.url, ["TCGA-LUAD"], settings=QUICK)] == ["TCGA-LUAD"]
    with pytest.raises(ManifestError, match="no open diagnostic slide of project TCGA-NONE; ids look like"):
        query_slides(server.url, ["TCGA-LUAD", "TCGA-NONE"], settings=QUICK)


def test_the_filter_is_gdcs_own():
    filters = {one["content"]["field"]: one["content"]["value"] for one in slide_filters(())["content"]}
    assert filters == {
        "cases.project.program.name": ["TCGA"],
        "files.data_type": ["Slide Image"],
        "files.experimental_strategy": ["Diagnostic Slide"],
        "files.data_format": ["SVS"],
        "files.access": ["open"],
    }
    assert slide_filters(["TCGA-BRCA"])["content"][0]["content"]["value"] == ["TCGA-BRCA"]


def test_the_manifest_written_reads_back(server, tmp_path):
    path = tmp_path / "cohort.csv"
    slides = query_slides(server.url, settings=QUICK)
    assert write_manifest(slides, path) == 11
    result = read_manifest(path)
    assert result.problems == ()
    read = [(row.slide_id, row.case_id, row.project, row.uri, row.size, row.md5) for row in result.rows]
    assert read == [(one.slide_id, one.case_id, one.project, one.uri, one.size, one.md5) for one in slides]


def test_busy_answers_and_pages_for_people_are_asked_again(server):
    server.faults["files"] = [status(500), error_page()]
    assert len(query_slides(server.url, settings=QUICK)) == 11
    assert len(server.requests) == 5


def test_a_server_that_stays_busy_is_an_error(server):
    server.faults["files"] = [status(503)] * 3
    with pytest.raises(AcquireError, match="answered 503; check the network"):
        query_slides(server.url, settings=QUICK)


def test_a_refused_query_is_not_asked_again(server):
    server.faults["files"] = [status(400)]
    with pytest.raises(AcquireError, match="GDC answered 400"):
        query_slides(server.url, settings=QUICK)
    assert len(server.requests) == 1


@pytest.mark.parametrize("api", ["http://[::1", "ftp://host"])
def test_an_api_that_is_no_address_is_not_asked(api):
    with pytest.raises(AcquireError, match="give the base URL of GDC's API"):
        query_slides(api)


def test_an_answer_that_is_not_whole_is_an_error(server):
    server.hits.append(hit(3, file_name="again.svs"))  # one file id on two pages: the data changed in between
    with pytest.raises(AcquireError, match="11 of 12 slides came"):
        query_slides(server.url, settings=QUICK)


def test_no_slide_at_all_is_an_error(server):
    server.hits = []
    with pytest.raises(AcquireError, match="is this the GDC API"):
        query_slides(server.url, settings=QUICK)


def test_files_of_one_barcode_get_ids_of_their_own(server):
    server.hits = [hit(1), hit(11), hit(21, file_name="x.svs"), hit(22, file_name="x.svs")]
    ids = [slide.slide_id for slide in query_slides(server.url, settings=QUICK)]
    assert len(set(ids)) == 4
    assert ids[0] == "TCGA-A8-A099-01Z-00-DX1.00000001-0000-0000-0000-000000000000"


def test_missing_facts_are_empty(server):
    server.hits = [hit(1, md5sum=None, file_size=None, cases=[{"project": {"project_id": "TCGA-BRCA"}}])]
    (slide,) = query_slides(server.url, settings=QUICK)
    assert (slide.md5, slide.size, slide.case_id) == (None, None, "TCGA-A8-A099")


def test_hold_out_is_by_patient(server):
    server.hits = [hit(1, patient="A001"), hit(2, patient="A001"), hit(3, patient="A003"), hit(4, patient="A004")]
    slides = query_slides(server.url, settings=QUICK)
    one, two = frozenset({"TCGA-A8-A001", "TCGA-A8-A003"}), frozenset({"TCGA-A8-A003", "TCGA-ZZ-ZZZZ"})
    cohort = select_slides(slides, {"one": one, "two": two})
    assert [slide.case_id for slide in cohort.rows] == ["TCGA-A8-A004"]
    assert cohort.held_out == {"one": 3, "two": 1}
    assert cohort.size_bytes == 1004


@pytest.mark.parametrize(
    "text",
    [
        "TCGA-A8-A099-01Z-00-DX1_29501_22501_1000_1000_0.93.png\nTCGA-OL-A66L-01Z-00-DX1_1_2_3_4_5.png\n",
        "slide,patient\r\nx,tcga-a8-a099\r\ny,TCGA-OL-A66L-01Z\r\n",
        "# not TCGA-XX-0000\nslide#1,TCGA-A8-A099\nTCGA-OL-A66L # certain",
        "/slides/TCGA-A8-A099-01Z-00-DX1.svs;TCGA-OL-A66L-01Z-00-DX1.600C7D8C-F04C-4125-AF14-B1E76DC01A1E.svs",
    ],
)
def test_lists_of_many_forms(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text(text, newline="")
    assert read_hold_out(path) == {"TCGA-A8-A099", "TCGA-OL-A66L"}


def ocelot(**subsets: str | None) -> str:
    pairs = {
        f"{number:03d}": {"slide_name": f"TCGA-A8-{patient}-01Z-00-DX1.x"} | ({"subset": subset} if subset else {})
        for number, (patient, subset) in enumerate(subsets.items())
    }
    return json.dumps({"version": "1.0.1", "sample_pairs": pairs})


def test_ocelots_metadata(tmp_path):
    path = tmp_path / "metadata.json"
    path.write_text(ocelot(A001="train", A002="val", A003="test", A004="test"))
    assert read_hold_out(path) == {"TCGA-A8-A003", "TCGA-A8-A004"}
    assert read_hold_out(path, subsets=("val", "test")) == {"TCGA-A8-A002", "TCGA-A8-A003", "TCGA-A8-A004"}
    path.write_text(ocelot(A001=None, A002=None))
    assert read_hold_out(path) == {"TCGA-A8-A001", "TCGA-A8-A002"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", b"", "no TCGA barcode"),
        ("list.txt", b"slide-1\nslide-2\n", "no TCGA barcode such as TCGA-A8-A099 in it; nothing would be held out"),
        ("list.txt", b"XTCGA-A8-A0990", "no TCGA barcode"),
        ("list.txt", b"\xff\xfe\x00", "not UTF-8 text"),
        ("metadata.json", b"{", "not JSON"),
        ("metadata.json", ocelot(A001="train").encode(), "no TCGA barcode"),
        ("missing.txt", None, "No such file"),
    ],
)
def test_a_list_that_would_hold_nothing_out_is_an_error(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match="hold-out list") as caught:
        read_hold_out(path)
    assert message in str(caught.value)


def test_lists_come_with_the_project():
    lists = {path.name: read_hold_out(path) for path in default_hold_out_paths()}
    assert {name: len(patients) for name, patients in lists.items()} == {
        "holdout_brca_m2c_test.txt": 30,
        "holdout_ocelot_test.txt": 57,
    }
    assert "TCGA-A8-A099" in lists["holdout_brca_m2c_test.txt"]
    assert "TCGA-T3-A92M" in lists["holdout_ocelot_test.txt"]


@pytest.mark.slides
@pytest.mark.skipif(not SPLIT.exists(), reason="needs the split list in ../shared")
def test_the_list_that_comes_along_is_the_authors_split():
    assert read_hold_out(default_hold_out_paths()[0]) == read_hold_out(SPLIT)
