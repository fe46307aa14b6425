"""What the README and the pages of docs/ tell people to type works: every snippet runs, on one small run."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import numpy as np
import pytest
from typer.main import get_command

from muse_core.cli.app import app
from muse_core.errors import MuseError
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.pretrain.settings import PretrainSettings
from tests.build.test_run import built  # noqa: F401  (a fixture)
from tests.data.make_nuclei import write_slide, write_slides_table
from tests.data.make_slides import Drawing, draw_aperio, tissue_image

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "log.md")]
PIPELINE = ROOT / "docs" / "pipeline.sh"
BY_API = ("README.md", "python.md")  # their Python infers slides; that of other pages asks what there is


def blocks(*languages: str, pages: list[Path] = PAGES) -> list[tuple[str, str]]:
    """Page and code of each block in one of the languages, in order."""
    pattern = rf"```(?:{'|'.join(languages)})\n(.*?)```"
    return [(page.name, code) for page in pages for code in re.findall(pattern, page.read_text("utf-8"), re.DOTALL)]


@pytest.fixture(scope="module")
def asked(built, tmp_path_factory) -> Path:  # noqa: F811
    """A folder as query.md has it: what `muse infer` leaves of two slides of 2 x 2 mm, regions on one, and a demo."""
    folder = tmp_path_factory.mktemp("asked")
    nuclei = folder / "runs" / "nuclei"
    nuclei.mkdir(parents=True)
    for number, slide_id in enumerate(("S1", "S2")):
        write_slide(nuclei, 3000 + 500 * number, slide_id)
    write_slides_table(nuclei, {"S1": 3.5, "S2": 4.0})
    ring = [[1000, 1000], [5000, 1000], [5000, 5000], [1000, 5000], [1000, 1000]]
    region = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"name": "a"}}
    (folder / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [region]}))
    (folder / "demo").mkdir()
    (folder / "demo" / "dataset").symlink_to(built)
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """A folder as python.md has it: one small slide and a manifest; what is made of it stays for the next snippet."""
    folder = tmp_path_factory.mktemp("slides")
    image, _ = tissue_image(2400, 2000, mpp=0.25, seed=11)
    (folder / "slides").mkdir()
    draw_aperio(folder / "slides" / "S1.svs", image, Drawing(mpp=(0.25, 0.25), tile_px=240))
    (folder / "slides.csv").write_text(
        "slide_id,case_id,project,uri,size,md5,mpp\nS1,P1,LAB,slides/S1.svs,,,\nS2,P2,LAB,none.svs,,,\n"
    )
    return folder


@pytest.mark.parametrize(("page", "code"), [one for one in blocks("python") if one[0] in BY_API])
def test_python_from_slides_to_nuclei_runs(page, code, slides, monkeypatch, capsys):
    monkeypatch.chdir(slides)
    names: dict[str, object] = {}
    exec(code, names)
    told = capsys.readouterr().out
    if "table" in names:
        assert names["table"].num_rows > 20
        assert names["table"]["slide_id"].unique().to_pylist() == ["S1"]
    elif "summary" in names:
        assert names["summary"].slides_done == 1
        assert "S2 not_found" in told
    elif "found" in names:
        assert names["image"].shape == (512, 512, 3)
        assert len(names["found"].xy) > 5
        assert "0.25 aperio" in told
    else:
        assert told == "S1 done\n"


@pytest.mark.parametrize(("page", "code"), [one for one in blocks("python") if one[0] not in BY_API])
def test_python_that_asks_runs(page, code, asked, monkeypatch):
    monkeypatch.chdir(asked)
    names: dict[str, object] = {}
    exec(code, names)
    if page != "query.md":
        return
    if "RoiDataset" in code:
        assert names["view"].shape == (448, 448, 3)
        assert names["nuclei"].shape[1] == 3
    elif "NucleiDataset" in code:
        assert len(names["in_box"]) == pytest.approx(3000 / 4.16, rel=0.15)
        assert len(names["in_disc"]) == pytest.approx(3000 / 4.16 * 0.196, rel=0.3)
        assert len(names["densities"]) == 2 * 3
        assert names["annotated"].to_pylist()[0]["n_nuclei"] == pytest.approx(3000 / 4, rel=0.15)
        assert 0.8 < names["neighbours"].to_pylist()[0]["ratio_to_random"] < 1.3
        assert 0 < np.median(names["distances"]) < 200
        assert names["cohort"].n_nuclei.tolist() == [3000, 3500]
    else:
        assert names["counts"]["count_star()"].sum() == 6500
        assert names["lymphocytes"].height == sum(
            NucleiDataset("runs/nuclei").arrow().to_table(columns=["class_id"])["class_id"].to_numpy() == 0
        )
        assert 0 < names["sure"] < 3500
        assert 0 < len(names["joined"]) < len(names["in_pixels"]) < 6500


@pytest.mark.parametrize(("page", "query"), blocks("sql"))
def test_sql_answers(page, query, asked, monkeypatch):
    monkeypatch.chdir(asked)
    rows = duckdb.sql(query).fetchall()
    if page == "troubleshooting.md":
        assert rows == []  # nothing failed
    elif "nuclei_per_mm2" in query:
        assert rows[0][0] == "P1"
        assert 500 < rows[0][1] < 20_000
    elif "per_mm2" in query:
        assert [row[:2] for row in rows[:2]] == [("S1", "lymphocyte"), ("S1", "stromal")]
        assert sum(row[2] for row in rows[:3]) == pytest.approx(0.9 * 3000 / 3.5, rel=0.05)
    elif "nearest_um" in query:
        assert 20 < len(rows) < 120
        assert 0 < rows[0][1] < rows[-1][1] < 200


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_toml_is_toml(page, text):
    assert tomllib.loads(text)


def muse_commands() -> list[list[str]]:
    """The words after `muse` of every command in shell blocks and the pipeline, those under torchrun too."""
    scripts = [code for _, code in blocks("sh", "bash", "shell")] + [PIPELINE.read_text("utf-8")]
    inline = re.findall(r"\| `(muse [^`]+)` \|", README.read_text("utf-8"))
    lines = [line for script in [*scripts, *inline] for line in script.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True) if re.search(r"\bmuse(_core\.cli)?\b", line) else []
        starts = [words.index(name) + 1 for name in ("muse", "muse_core.cli") if name in words]
        found += [words[starts[0] :]] if starts else []
    return found


@pytest.mark.parametrize("words", muse_commands(), ids=" ".join)
def test_commands_have_the_options_it_names(words):
    command, rest = get_command(app), list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    if command.name == "deploy":  # hands its options over to the flows
        known |= set(re.findall(r'"(--[a-z-]+)', (ROOT / "flows" / "deploy.py").read_text(encoding="utf-8"))) | {
            "--gpus"
        }
    assert {word for word in rest if re.match(r"--?[a-z]", word)} - {"--help"} <= known


@pytest.mark.slow
def test_pipeline_runs_on_the_sample(tmp_path):

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", PIPELINE, "data_manifests/sample.csv", tmp_path],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
    )
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "ndc" / "training.json").read_text())


def test_settings_it_calls_often_changed_are_settings():
    page = (ROOT / "docs" / "pretrain.md").read_text("utf-8")
    (listed,) = re.findall(r"Often changed settings: `epochs`(.*?)\.\s", page, re.DOTALL)
    names = {name for name in re.findall(r"`([a-z_.]+)`", listed) if name not in ("all", "global")}
    assert len(names) > 8
    for name in names:
        values = PretrainSettings().model_dump()
        for part in name.split("."):
            values = values[part]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_heading_it_links_to_exists(page):
    links = re.findall(r"\]\(((?!http)[^)]+)\)", page.read_text("utf-8"))
    for link in links:
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE) if heading else []
        slugs = {re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-") for text in headings}
        assert not heading or heading in slugs, link


def test_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 220


def test_every_reason_is_told_what_to_do_about():
    told = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "muse_core").rglob("*.py"))
    reasons = set(re.findall(r"\breason=\"([a-z_]+)\"|default_reason = \"([a-z_]+)\"", sources))
    reasons = {one or other for one, other in reasons}
    assert len(reasons) > 20
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in told] == []
    assert issubclass(MuseError, Exception)


WALKS = (ROOT / "docs" / "walks.md").read_text("utf-8")


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`([a-z_/]+\.py: [A-Za-z_.]+)`", WALKS))))
def test_walks_name_what_there_is(named):
    file, _, name = named.partition(": ")
    thing = importlib.import_module("muse_core." + file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        thing = getattr(thing, part)


def test_each_walk_has_at_most_eight_steps():
    walks = WALKS.split("\n## ")[1:]
    assert len(walks) == 3
    for walk in walks:
        assert 1 < len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) <= 8
