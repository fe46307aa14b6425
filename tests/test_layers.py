"""Walks the imports and holds the tree to its layers: arrows point down, few packages touch the heavy libraries."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up. A package imports only from rows above its own in this list, or from itself.
LAYERS = (
    "errors geometry",
    "schemas config machine",
    "images",
    "slide models roi_dataset",
    "cohort tissue labels training",
    "nuclei_dataset detector pretrain",
    "build report ndc",
    "infer evaluate viewer",
    "api",
    "cli",
)
LAYER_OF = {unit: number for number, units in enumerate(LAYERS) for unit in units.split()}

# Who may import a library; nobody else may, not even lazily.
OWNERS = {
    "prefect": {"flows"},
    "openslide": {"slide", "cli"},
    "cucim": {"slide", "cli"},
    "tifffile": {"slide", "cli"},
    "openvino": {"models", "infer"},
    "nncf": {"infer"},
    "torch": {
        "models",
        "training",
        "pretrain",
        "detector",
        "evaluate",
        "ndc",
        "infer",
        "slide",
        "machine",
        "cli",
    },
    "timm": {"models"},
    "distributed": {"machine", "cohort"},
    "typer": {"cli", "flows"},
    "rich": {"cli"},
    "starlette": {"viewer"},
    "uvicorn": {"viewer"},
}


def _modules() -> list[Path]:
    return sorted([*(ROOT / "muse_core").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])


def _unit(path: Path) -> str:
    """The layered unit a file belongs to: a package or a module of muse_core, or `flows`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "flows":
        return "flows"
    return "" if parts[1] == "__init__" else parts[1]


def _imports(path: Path) -> list[str]:
    """Every module that a file imports, anywhere in it; names taken from muse_core itself count as modules."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
            if (node.module or "").split(".")[0] == "muse_core":
                found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def _layer_of(unit: str) -> int:
    assert unit in LAYER_OF, f"muse_core/{unit}: stands in no layer; add it to tests/test_layers.py where it belongs"
    return LAYER_OF[unit]


def _fault(unit: str, imported: str) -> str | None:
    """Why `unit` may not import from `imported`; None if it may."""
    if unit in ("flows", imported) or _layer_of(imported) < _layer_of(unit):
        return None
    return f"{unit} imports {imported}, which stands beside it or above"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    unit = _unit(path)
    for name in _imports(path):
        package, _, rest = name.partition(".")
        assert not (package == "flows" and unit != "flows"), f"{path}: muse_core never imports flows"
        if package == "muse_core" and rest and unit:
            fault = _fault(unit, rest.split(".")[0])
            assert fault is None, f"{path}: {fault}"
        if package in OWNERS:
            assert unit in OWNERS[package], f"{path}: only {sorted(OWNERS[package])} may import {package}"


def test_no_module_imports_itself_by_way_of_others():
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in _modules()
    }
    graph = {name: sorted(set(_imports(path)) & paths.keys() - {name}) for name, path in paths.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import circle: {' -> '.join((*trail[trail.index(module) :], module))}"
        if module in done:
            return
        for target in graph[module]:
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_the_top_level_can_be_recited():
    entries = {path.name for path in (ROOT / "muse_core").iterdir()} - {"__pycache__", "__init__.py", "py.typed"}
    assert len(entries) <= 24, sorted(entries)


@pytest.mark.parametrize(
    ("unit", "imported", "allowed"),
    [
        ("slide", "errors", True),
        ("errors", "slide", False),
        ("tissue", "cohort", False),
        ("build", "slide", True),
        ("build", "ndc", False),
        ("slide", "cli", False),
    ],
)
def test_the_rules_themselves(unit, imported, allowed):
    assert (_fault(unit, imported) is None) is allowed
