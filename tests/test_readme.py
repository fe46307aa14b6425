"""What the README tells people to type works."""

import json
import re
import shlex
from pathlib import Path

import duckdb
import numpy as np
import pytest
from typer.main import get_command

from muse_core.cli.app import app
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.pretrain.settings import PretrainSettings
from tests.build.test_run import built  # noqa: F401  (a fixture)
from tests.data.make_nuclei import write_slide, write_slides_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory) -> Path:
    """What `muse infer` leaves of two slides of 2 x 2 mm, and regions drawn on one."""
    out = tmp_path_factory.mktemp("nuclei")
    for number, slide_id in enumerate(("S1", "S2")):
        write_slide(out, 3000 + 500 * number, slide_id)
    write_slides_table(out, {"S1": 3.5, "S2": 4.0})
    ring = [[1000, 1000], [5000, 1000], [5000, 5000], [1000, 5000], [1000, 1000]]
    region = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"name": "a"}}
    (out / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [region]}))
    return out


def placed(text: str, built: Path, nuclei: Path) -> str:  # noqa: F811
    """README code with its folders where they are in this test."""
    text = text.replace("demo/dataset", str(built)).replace("runs/nuclei", str(nuclei))
    return text.replace('"regions.geojson"', f'"{nuclei / "regions.geojson"}"')


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, built, nuclei):  # noqa: F811
    names: dict[str, object] = {}
    exec(placed(code, built, nuclei), names)
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
            NucleiDataset(nuclei).arrow().to_table(columns=["class_id"])["class_id"].to_numpy() == 0
        )
        assert 0 < names["sure"] < 3500
        assert 0 < len(names["joined"]) < len(names["in_pixels"]) < 6500


def test_sql_answers(built, nuclei):  # noqa: F811
    densities, nearest, rois = (duckdb.sql(placed(query, built, nuclei)).fetchall() for query in blocks("sql"))
    assert rois[0][0] == "P1"
    assert 500 < rois[0][1] < 20_000
    assert [row[:2] for row in densities[:2]] == [("S1", "lymphocyte"), ("S1", "stromal")]
    assert sum(row[2] for row in densities[:3]) == pytest.approx(0.9 * 3000 / 3.5, rel=0.05)
    assert 20 < len(nearest) < 120
    assert 0 < nearest[0][1] < nearest[-1][1] < 200


def muse_commands() -> list[list[str]]:
    """The words after `muse` of every command in its shell blocks, those under torchrun too."""
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    starts = [words.index(name) + 1 for words in lines for name in ("muse", "muse_core.cli") if name in words]
    found = [words for words in lines if "muse" in words or "muse_core.cli" in words]
    return [words[start:] for words, start in zip(found, starts, strict=True)]


@pytest.mark.parametrize("words", muse_commands(), ids=" ".join)
def test_commands_have_the_options_it_names(words):
    command, rest = get_command(app), list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in rest if word.startswith("--")} <= known


def test_settings_it_calls_often_changed_are_settings():
    (listed,) = re.findall(r"Often changed settings: `epochs`(.*?)\.\s", README, re.DOTALL)
    names = {name for name in re.findall(r"`([a-z_.]+)`", listed) if name not in ("all", "global")}
    assert len(names) > 8
    for name in names:
        values = PretrainSettings().model_dump()
        for part in name.split("."):
            values = values[part]


def test_every_file_it_links_to_exists():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
