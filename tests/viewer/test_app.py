"""The routes: answers, refusals, and that nothing is written but labels."""

from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from muse_core.nuclei_dataset import read_regions
from muse_core.viewer.app import make_app
from muse_core.viewer.job import TeachJob
from muse_core.viewer.points import POINT
from tests.report.conftest import slide_row, write_table
from tests.viewer.conftest import TOKEN, write_run


def mark(client, number=1, **changes):
    values = {"kind": "nucleus", "slide_id": "S1", "x": 2500.0, "y": 2400.0, "class_name": "stromal"} | changes
    return client.post("api/marks", json={"who": "Ada", "marks": [{"id": f"page-mark-{number}", "mark": values}]})


def test_the_page_is_served_with_a_strict_policy(client):
    page = client.get("")
    assert page.status_code == 200
    assert "muse view" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    for name in ("main.js", "style.css", "gl.js"):
        assert client.get(f"page/{name}").status_code == 200


def test_the_page_fetches_nothing_from_elsewhere():
    page = Path(__file__).parents[2] / "muse_core" / "viewer" / "page"
    for file in page.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, file
        assert "https://" not in text, file
        assert "innerHTML" not in text, file


def test_the_run_says_what_became_of_each_slide(client):
    run = client.get("api/run").json()
    done, failed = run["slides"]
    assert (done["slide_id"], done["has_nuclei"], done["no_pixels"]) == ("S1", True, "")
    assert failed["reason"] == "unreadable"
    assert failed["message"] == "S2.svs: no slide"
    assert [one["name"] for one in run["classes"]] == ["lymphocyte", "tumour_epithelial", "stromal"]
    assert run["is_being_written"] is False


def test_a_slide_its_summary_its_counts_and_its_points_agree(client, drawn):
    slide = client.get("api/slide", params={"slide": "S1"}).json()
    assert (slide["width"], slide["height"], slide["mpp"]) == (5600, 4800, [0.25, 0.25])
    assert len(slide["tissue"]) == 1
    summary = client.get("api/summary", params={"slide": "S1"}).json()
    assert sum(summary["counts"].values()) == len(drawn[1])
    level = summary["levels"][0]
    counts = np.frombuffer(client.get("api/counts/0", params={"slide": "S1"}).content, "<u2")
    assert len(counts) == 3 * level["rows"] * level["columns"]
    assert counts.sum() == len(drawn[1])
    squares = [client.get(f"api/points/{x}/{y}", params={"slide": "S1"}).content for x in (0, 1) for y in (0, 1)]
    assert sum(len(np.frombuffer(square, POINT)) for square in squares) == len(drawn[1])
    cut = client.get("api/counts/0", params={"slide": "S1", "chance": 0.8}).content
    assert 0 < np.frombuffer(cut, "<u2").sum() < len(drawn[1])


@pytest.mark.parametrize("what", ["tile/0/3/3", "thumbnail", "crop?x=2500&y=2400"])
def test_pictures_are_jpeg(client, what):
    found = client.get(f"api/{what}{'&' if '?' in what else '?'}slide=S1")
    assert found.status_code == 200
    assert found.content[:2] == b"\xff\xd8"


def test_a_nucleus_tells_its_probabilities(client, drawn):
    x, y = drawn[1][100]
    row = client.get("api/nucleus", params={"slide": "S1", "x": x, "y": y}).json()
    assert abs(row["x_level0"] - x) < 0.1
    chances = [value for name, value in row.items() if name.startswith("p_")]
    assert sum(chances) == pytest.approx(1, abs=0.01)
    assert client.get("api/nucleus", params={"slide": "S1", "x": 1, "y": 1}).status_code == 404


def test_an_area_is_counted(client, drawn):
    rings = [[[2000, 2000], [3000, 2000], [3000, 3000], [2000, 3000]]]
    found = client.post("api/area", json={"slide_id": "S1", "rings": rings}).json()
    xy = drawn[1]
    inside = ((xy > 2000) & (xy < 3000)).all(axis=1)
    assert found["n_nuclei"] == inside.sum()
    assert found["area_mm2"] == pytest.approx(0.0625)
    assert {(row["of"], row["to"]) for row in found["neighbours"]} >= {("lymphocyte", "tumour_epithelial")}
    flat = client.post("api/area", json={"slide_id": "S1", "rings": [[[0, 0], [9, 9], [5, 5]]]})
    assert "no area" in flat.json()["error"]


def test_marks_are_on_disk_when_answered_and_reach_other_pages(client, out):
    (entry,) = mark(client).json()
    assert (entry["n"], entry["who"], entry["mark"]["class_name"]) == (1, "Ada", "stromal")
    assert 0 < entry["mark"]["reach_um"] <= 6
    assert "page-mark-1" in (out / "lab" / "journal.jsonl").read_text()
    assert client.get("api/changes").json()["entries"] == [entry]
    assert client.get("api/changes", params={"after": 1}).json()["entries"] == []
    assert mark(client).json() == [entry], "sent twice, kept once"


@pytest.mark.parametrize(
    "changes",
    [
        {"x": -1},
        {"x": "NaN"},
        {"class_name": ""},
        {"class_name": "x" * 200},
        {"kind": "file"},
        {"path": "/etc/passwd"},
        {"y": 1e9},
    ],
)
def test_marks_that_make_no_sense_are_refused_in_one_line(client, out, changes):
    answer = mark(client, **changes)
    assert answer.status_code == 422
    assert len(answer.json()["error"].splitlines()) == 1
    assert not (out / "lab" / "journal.jsonl").exists()


def test_a_mark_on_no_slide_of_the_run_is_refused(client, out):
    assert mark(client, slide_id="../../etc").status_code == 404
    assert not (out / "lab" / "journal.jsonl").exists()


def test_tissue_that_was_not_found_can_be_drawn(out, drawn, open_run):
    empty = slide_row("S2", status="skipped", reason="tissue_empty", message="no tissue", uri=str(drawn[0]))
    write_table(out, [slide_row("S1", uri=str(drawn[0])), empty])
    run = open_run()
    square = [[[0, 0], [400, 0], [400, 400], [0, 400]]]
    with TestClient(make_app(run, TeachJob(run), token=TOKEN, who="x"), base_url="http://127.0.0.1:8000") as client:
        client.base_url = f"http://127.0.0.1:8000/{TOKEN}/"
        shown = client.get("api/slide", params={"slide": "S2"}).json()
        assert (shown["has_nuclei"], shown["width"], shown["mpp"]) == (False, 5600, [0.25, 0.25])
        drawings = [{"kind": "tissue", "polygons": [square]}, {"kind": "area", "rings": square, "name": "here"}]
        marks = [{"id": f"drawing-{at}", "mark": {"slide_id": "S2", **one}} for at, one in enumerate(drawings)]
        assert client.post("api/marks", json={"who": "Ada", "marks": marks}).status_code == 200
        refused = mark(client, slide_id="S2")
        assert "no nuclei: no tissue" in refused.json()["error"]
    for folder in ("tissue", "regions"):
        (region,) = read_regions(out / "lab" / folder / "S2.geojson", {}, origin_level0=(0.0, 0.0))
        assert region.area_level0.area == 400**2


def test_the_queue_asks_about_doubtful_nuclei_and_not_about_labelled_ones(client):
    first = client.get("api/ask", params={"kind": "doubtful", "n": 10}).json()
    assert len(first) == 10
    margins = [sorted(one["chances"].values())[-1] - sorted(one["chances"].values())[-2] for one in first]
    assert max(margins) < 0.3
    mark(client, x=first[0]["x"], y=first[0]["y"])
    again = client.get("api/ask", params={"kind": "doubtful", "n": 10}).json()
    assert first[0]["nucleus_id"] not in {one["nucleus_id"] for one in again}
    of_class = client.get("api/ask", params={"kind": "typical", "n": 12, "class": "stromal"}).json()
    assert {one["class_name"] for one in of_class} == {"stromal"}
    assert len({one["class_name"] for one in client.get("api/ask", params={"kind": "typical", "n": 9}).json()}) == 3


def test_nuclei_alike_need_embeddings(client, drawn, tmp_path, open_run):
    x, y = drawn[1][100]
    refused = client.get("api/alike", params={"slide": "S1", "x": x, "y": y})
    assert "no embeddings; run muse infer with --set embedding=true" in refused.json()["error"]
    write_run(tmp_path / "run", *drawn, embeddings=True)
    run = open_run()
    with TestClient(make_app(run, TeachJob(run), token=TOKEN, who="x"), base_url="http://127.0.0.1:8000") as other:
        place = {"slide": "S1", "x": x, "y": y, "n": 5}
        found = other.get(f"/{TOKEN}/api/alike", params=place).json()
        labelled = {
            "kind": "nucleus",
            "slide_id": "S1",
            "x": found[0]["x"],
            "y": found[0]["y"],
            "class_name": "stromal",
        }
        sent = {"who": "Ada", "marks": [{"id": "page-mark-1", "mark": labelled}]}
        assert other.post(f"/{TOKEN}/api/marks", json=sent).status_code == 200
        again = other.get(f"/{TOKEN}/api/alike", params=place).json()
    assert found[0]["nucleus_id"] not in {one["nucleus_id"] for one in again}, "labelled: nothing to ask any more"
    assert len(found) == 5
    here = int(np.digitize(x, (2400, 3400)))
    assert {one["class_name"] for one in found} == {("lymphocyte", "tumour_epithelial", "stromal")[here]}


def test_one_line_says_what_is_wrong(client):
    assert client.get("api/slide", params={"slide": "S9"}).json()["error"] == "slide 'S9': not in this run"
    assert client.get("api/summary", params={"slide": "S2"}).json()["error"] == "slide S2: no nuclei: S2.svs: no slide"
    assert "/nowhere/S2.svs is gone; give --slides" in client.get("api/tile/0/0/0?slide=S2").json()["error"]
    assert client.get("api/tile/0/99/99?slide=S1").status_code == 404
    assert client.get("api/crop?slide=S1&x=a&y=1").status_code == 400
    assert client.get("api/ask?kind=best").status_code == 400


def test_who_is_not_let_in(client):
    elsewhere = "http://127.0.0.1:8000"
    assert "lacks the right token" in client.get(f"{elsewhere}/wrong/api/run").text
    assert client.get(f"{elsewhere}/").status_code == 403
    assert client.get("api/run", headers={"host": "evil.example"}).status_code == 421
    assert client.get("api/run", headers={"host": "127.0.0.1.evil.example:8000"}).status_code == 421
    assert client.get("api/run", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("api/run", headers={"origin": "http://127.0.0.1:9999"}).status_code == 403
    assert client.get("api/run", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    assert client.get("api/run", headers={"host": "localhost:9000"}).status_code == 200, "through an SSH tunnel"


def test_a_form_of_another_site_is_no_mark(client):
    body = '{"who": "x", "marks": []}'
    assert client.post("api/marks", content=body, headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("path", ["page/../app.py", "page/%2e%2e/app.py", "page/..%2fapp.py", "page//etc/passwd"])
def test_no_path_leaves_the_page(client, path):
    assert client.get(path).status_code == 404


def test_a_teaching_needs_slides_that_there_are_and_a_number_of_steps(client):
    assert client.post("api/teach", json={"slide_ids": ["S9"]}).status_code == 404
    assert client.post("api/teach", json={"slide_ids": [], "steps": 0}).status_code == 400
    assert client.get("api/changes").json()["job"]["state"] == "idle"


def test_the_address_without_its_slash_leads_to_the_page(client):
    answer = client.get(f"http://127.0.0.1:8000/{TOKEN}", follow_redirects=False)
    assert answer.headers["location"] == f"/{TOKEN}/"
