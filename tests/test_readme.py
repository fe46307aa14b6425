"""What the README tells people to type works."""

import re
from pathlib import Path

import duckdb
import pytest
import yaml

from tests.test_build_cohort import built  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, built):  # noqa: F811
    names: dict[str, object] = {}
    exec(code.replace("demo/dataset", str(built)), names)
    assert names["view"].shape == (448, 448, 3)
    assert names["nuclei"].shape[1] == 3


@pytest.mark.parametrize("query", blocks("sql"))
def test_sql_answers(query, built):  # noqa: F811
    rows = duckdb.sql(query.replace("demo/dataset", str(built))).fetchall()
    assert rows[0][0] == "P1"
    assert 500 < rows[0][1] < 20_000


def test_every_file_it_links_to_exists():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_deployments_it_names_are_in_prefect_yaml():
    named = set(re.findall(r"deployment run (build-tcga-nu/[\w-]+)", README))
    deployments = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"]
    assert named == {f"build-tcga-nu/{deployment['name']}" for deployment in deployments}
    for deployment in deployments:
        path, _, function = deployment["entrypoint"].partition(":")
        assert f"def {function}(" in (ROOT / path).read_text()
