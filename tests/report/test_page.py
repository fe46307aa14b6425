"""The page: complete, self-contained, escaped, and drawn by a real browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from muse_core.errors import DatasetError
from muse_core.nuclei_dataset import part_path
from muse_core.report import ReportSettings, write_report
from tests.data.make_nuclei import header, write_slide
from tests.report.conftest import slide_row, write_table

SMALL = ReportSettings(typical=3, doubtful=4, thumbnail_px=300)
VOID = {"meta", "link", "img", "br", "input", "hr"}
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"


class Page(HTMLParser):
    """Tags and attributes, with every tag closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def single(inferred, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "S1.html"
    written = write_report(inferred, path, settings=SMALL)
    assert (written.n_slides, written.n_sections, written.n_bytes) == (1, 1, path.stat().st_size)
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Fourteen slides, one of hostile names and classes, one failed, one without nuclei."""
    out = tmp_path_factory.mktemp("cohort")
    rows = [slide_row(f"slide {number:02d}", tissue_mm2=0.5 + number) for number in range(12)]
    for number in range(12):
        write_slide(out, 400 + 30 * number, f"slide {number:02d}")
    write_slide(out, 2000, HOSTILE, class_names=(HOSTILE, "stromal"), provenance={HOSTILE: HOSTILE})
    write_slide(out, 1, "nearly empty")
    rows.append(slide_row(HOSTILE, case_id=HOSTILE, project=HOSTILE, uri=HOSTILE, vendor=HOSTILE, n_failed_tiles=2))
    rows.append(slide_row("nearly empty", tissue_mm2=0.0))
    rows.append({"slide_id": "torn", "status": "failed", "reason": "unreadable", "message": HOSTILE})
    write_table(out, rows)
    return out


@pytest.fixture(scope="module")
def page(cohort):
    path = cohort / "cohort.html"
    assert write_report(cohort, path, settings=SMALL).n_sections == 12
    return path


def test_a_slide_page_says_what_was_found(single, drawn):
    page = Page(single.read_text(encoding="utf-8"))
    assert f"{len(drawn[1]):,}" in page.text
    for words in ("S1", "tumour epithelial", "patient 1", "All 12 tiles were read", "model_id", "abc", "0.25 µm/px"):
        assert words in page.text
    assert page.tags.count("img") == 3 * 3 + 4
    assert page.tags.count("image") == 1 + 3  # the overview and a map a class


def test_a_cohort_page_names_every_slide(page):
    parsed = Page(page.read_text(encoding="utf-8"))
    assert "Nuclei of 14 slides" in parsed.text
    for words in (
        "slide 00",
        "slide 11",
        "nearly empty",
        "torn",
        "unreadable",
        "2 tiles not read",
        "12 slides with the",
    ):
        assert words in parsed.text
    links = [value for name, value in parsed.attributes if name == "href" and value.startswith("#slide-")]
    anchors = [value for name, value in parsed.attributes if name == "id" and value.startswith("slide-")]
    assert sorted(f"#{anchor}" for anchor in anchors) == sorted(links)


@pytest.mark.parametrize("which", ["single", "page"])
def test_nothing_is_fetched_and_nothing_runs(which, request):
    parsed = Page(request.getfixturevalue(which).read_text(encoding="utf-8"))
    assert not {"script", "iframe", "object", "embed", "link", "form"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith(("data:image/", "#"))
    text = request.getfixturevalue(which).read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text


def test_hostile_names_are_text(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert Page(text).text.count(HOSTILE) >= 6  # slide, case, project, uri, class, message: each as it is


def test_the_same_dataset_gives_the_same_page(inferred, single, tmp_path):
    write_report(inferred, tmp_path / "again.html", settings=SMALL)
    assert (tmp_path / "again.html").read_bytes() == single.read_bytes()


def test_large_cohorts_are_bounded(cohort, tmp_path):
    settings = ReportSettings(slides_shown=1, rows_shown=5, typical=0, doubtful=0)
    assert write_report(cohort, tmp_path / "a.html", settings=settings).n_sections == 1
    text = (tmp_path / "a.html").read_text()
    assert "9 more slides are in the dataset" in text
    assert 'id="slide-0"' in text
    assert 'id="slide-1"' not in text


def test_some_slides_of_a_cohort(cohort, tmp_path):
    told = []
    written = write_report(
        cohort,
        tmp_path / "a.html",
        slide_ids=["slide 03", "slide 05"],
        settings=SMALL,
        on_slide=lambda done, of: told.append((done, of)),
    )
    assert (written.n_slides, written.n_nuclei) == (2, 490 + 550)
    assert told == [(1, 2), (2, 2)]
    text = (tmp_path / "a.html").read_text()
    assert "slide 04" not in text
    assert "torn" not in text


def test_what_cannot_be_reported_is_said(tmp_path, cohort):
    with pytest.raises(DatasetError, match="slide 'S9': not in"):
        write_report(cohort, tmp_path / "a.html", slide_ids=["S9"])
    write_slide(tmp_path, 10)
    with pytest.raises(DatasetError, match=r"no slides\.parquet"):
        write_report(tmp_path, tmp_path / "a.html")
    write_table(tmp_path, [slide_row("S1", status="failed")])
    with pytest.raises(DatasetError, match="no slide is finished"):
        write_report(tmp_path, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()
    assert part_path(tmp_path, header()).exists()


def test_inference_that_finished_no_slide_is_not_asked_for_again(tmp_path):
    rows = [{"slide_id": name, "status": "skipped", "reason": "no_tissue", "message": "blank"} for name in "AB"]
    write_table(tmp_path, [*rows, {"slide_id": "C", "status": "failed", "reason": "unreadable"}])
    says = r"no nuclei: of its 3 slides none is finished \(2 no_tissue, 1 unreadable\); slides\.parquet says why"
    with pytest.raises(DatasetError, match=says):
        write_report(tmp_path, tmp_path / "a.html")
    (tmp_path / "nuclei").mkdir()  # as an inference that once found some leaves it
    with pytest.raises(DatasetError, match=says):
        write_report(tmp_path, tmp_path / "a.html")
    write_table(tmp_path, [slide_row("S1")])  # a ROI dataset's
    with pytest.raises(DatasetError, match="make one with muse infer"):
        write_report(tmp_path, tmp_path / "a.html")


def test_a_slide_without_nuclei_has_a_page(tmp_path):
    write_slide(tmp_path, 0)
    write_table(tmp_path, [slide_row("S1", tissue_mm2=0.5)])
    written = write_report(tmp_path, tmp_path / "a.html", settings=SMALL)
    assert (written.n_slides, written.n_sections, written.n_nuclei) == (1, 1, 0)


class Shown(NamedTuple):
    """What a browser made of a page: pixels (H, W, 3), lines of its console, hosts that it asked for something."""

    pixels: np.ndarray
    console: list[str]
    hosts: set[str]


def browse(page, picture, size):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    profile, requests = picture.parent / "profile", picture.parent / "requests.json"
    # Nothing leaves this machine: no name is resolved, and what is asked for all the same stands in the log.
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
    quiet += ("--host-resolver-rules=MAP * ~NOTFOUND",)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", *quiet]
    command += ["--enable-logging=stderr", "--v=0", f"--log-net-log={requests}"]
    command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, timeout=120, check=False, text=True)
    assert picture.exists(), done.stderr
    asked = re.findall(r'"url":"(?:https?|wss?|ftp)://([^/"]+)', requests.read_text(encoding="utf-8"))
    return Shown(
        np.asarray(Image.open(picture).convert("RGB")).astype(int),
        [line for line in done.stderr.splitlines() if ":CONSOLE" in line],
        {host for host in asked if not host.endswith((".google.com", ".googleapis.com"))},  # the browser's own affairs
    )


@pytest.mark.slow
def test_the_browser_would_tell_of_requests_and_errors(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://elsewhere.example/x.png"><script>console.error("oh no")</script>')
    shown = browse(page, tmp_path / "shot.png", (300, 300))
    assert shown.hosts == {"elsewhere.example"}
    assert any("oh no" in line for line in shown.console)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1180, 1400), (400, 1400)])
def test_chromium_draws_it(single, tmp_path, size):
    shown, console, hosts = browse(single, tmp_path / "shot.png", size)
    assert console == []
    assert hosts == set()
    assert shown.shape == (size[1], size[0], 3)
    blue = (np.abs(shown - (0x00, 0x72, 0xB2)) < 12).all(axis=2)  # bars of the first class
    eosin = (np.abs(shown - (226, 158, 196)) < 25).all(axis=2)  # the slide's picture
    assert blue.sum() > 500
    assert eosin.sum() > 3000
    assert not eosin[:, :8].any()  # nothing runs over the edge
    assert not eosin[:, -8:].any()


@pytest.mark.slow
def test_chromium_runs_nothing_of_a_hostile_name(page, tmp_path):
    shown, console, hosts = browse(page, tmp_path / "shot.png", (900, 900))
    assert shown.std() > 10
    assert (console, hosts) == ([], set())


def test_it_says_its_pace_and_no_project_that_nobody_named(tmp_path):
    pace = {"seconds": 7.5, "seconds_per_mm2": 1.5, "read_share": 0.1, "network_share": 0.88, "write_share": 0.02}
    write_slide(tmp_path, 400, "S1", project="unknown")
    write_table(tmp_path, [slide_row("S1", project="unknown", **pace)])
    write_report(tmp_path, tmp_path / "a.html", settings=SMALL)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "7.5 s, 1.50 s/mm² (read 10%, network 88%, write 2%)" in text
    assert "unknown" not in text
