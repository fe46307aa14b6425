"""Walks the imports and holds the tree to its layers: arrows point down, few modules touch the heavy libraries."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up. A module, or a package and all in it, imports only from layers below its own, or from itself.
LAYERS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "ground",
        frozenset(
            {
                "errors",
                "geometry",
                "schemas",
                "config",
                "files",
                "machine",
                "device",
                "installed",
                "retry",
                "uris",
                "tcga",
                "jpeg_markers",
            }
        ),
    ),
    ("pixels", frozenset({"slide", "stain", "matching"})),
    (
        "data",
        frozenset(
            {
                "manifest",
                "gdc",
                "acquire",
                "tissue",
                "rois",
                "nuclei",
                "classical_detector",
                "roi_image",
                "roi_tiff",
                "roi_order",
                "roi_dataset",
                "labelled_patches",
                "patch_image",
                "patch_list",
                "nuclei_dataset",
            }
        ),
    ),
    (
        "learning",
        frozenset({"models", "losses", "views", "detector_augment", "learned_detector", "ndc_model", "nucleus_model"}),
    ),
    (
        "stages",
        frozenset(
            {
                "run_paths",
                "cluster",
                "slide_records",
                "staging",
                "cohort",
                "build_settings",
                "build_roi",
                "build_slide",
                "contact_sheet",
                "build_cohort",
                "build_report",
                "import_patches",
                "train_detector",
                "evaluate_detect",
                "launch",
                "model_registry",
                "evaluate_model",
                "pretrain",
                "representation",
                "ndc",
                "infer",
                "qupath",
                "report",
                "demo",
                "doctor",
            }
        ),
    ),
    (
        "commands",
        frozenset(
            {"terminal", "cli_detector", "cli_evaluate", "cli_pretrain", "cli_ndc", "cli_infer", "cli_nuclei", "cli"}
        ),
    ),
)
# Layers whose modules build on one another; elsewhere siblings hand over files and tables.
LAYERED_WITHIN = {"ground", "pixels", "learning", "stages", "commands"}
SIBLINGS_ALLOWED = {
    ("roi_image", "roi_tiff"),
    ("roi_dataset", "roi_image"),
    ("roi_dataset", "roi_order"),
    ("rois", "tissue"),
    ("classical_detector", "nuclei"),
}

# Who may import a library; nobody else may, not even lazily.
OWNERS = {
    "prefect": {"flows"},
    "openslide": {"slide", "doctor"},
    "cucim": {"slide", "doctor"},
    "tifffile": {"slide", "doctor", "demo"},
    "torch": {
        "models",
        "losses",
        "views",
        "detector_augment",
        "learned_detector",
        "ndc_model",
        "nucleus_model",
        "train_detector",
        "evaluate_detect",
        "pretrain",
        "representation",
        "ndc",
        "infer",
        "slide",
        "device",
        "doctor",
    },
    "timm": {"models"},
    "distributed": {"cluster", "cohort"},
    "typer": {
        "cli",
        "cli_detector",
        "cli_evaluate",
        "cli_pretrain",
        "cli_ndc",
        "cli_infer",
        "cli_nuclei",
        "terminal",
        "flows",
    },
    "rich": {"cli", "cli_detector", "cli_evaluate", "cli_pretrain", "cli_ndc", "cli_infer", "cli_nuclei", "terminal"},
}


def _modules() -> list[Path]:
    return sorted([*(ROOT / "muse_core").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])


def _unit(path: Path) -> str:
    """The layered unit a file belongs to: a module of muse_core, a package of it, or `flows`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "flows":
        return "flows"
    return "" if parts[1] == "__init__" else parts[1]


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
            if node.module == "muse_core":
                found += [f"muse_core.{alias.name}" for alias in node.names]
    return found


def _layer_of(unit: str) -> int:
    for number, (_, units) in enumerate(LAYERS):
        if unit in units:
            return number
    raise AssertionError(f"muse_core/{unit}: stands in no layer; add it to tests/test_layers.py where it belongs")


def _faults(unit: str, imported: str) -> str | None:
    """Why `unit` may not import the module of muse_core named `imported`; None if it may."""
    if unit in ("flows", imported):
        return None
    above, below = _layer_of(unit), _layer_of(imported)
    if above < below:
        return f"{unit} ({LAYERS[above][0]}) imports {imported} ({LAYERS[below][0]}), a layer above its own"
    if above == below and LAYERS[above][0] not in LAYERED_WITHIN and (unit, imported) not in SIBLINGS_ALLOWED:
        return f"{unit} imports {imported}, a sibling; hand over a file or a table"
    return None


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    unit = _unit(path)
    for name in _imports(path):
        package, _, rest = name.partition(".")
        assert not (package == "flows" and unit != "flows"), f"{path}: muse_core never imports flows"
        if package == "muse_core" and rest and unit:
            fault = _faults(unit, rest.split(".")[0])
            assert fault is None, f"{path}: {fault}"
        if package in OWNERS:
            assert unit in OWNERS[package], f"{path}: only {sorted(OWNERS[package])} may import {package}"


def test_no_cycles_between_units():
    graph: dict[str, set[str]] = {}
    for path in _modules():
        unit = _unit(path)
        targets = {name.split(".")[1] for name in _imports(path) if name.startswith("muse_core.")}
        graph.setdefault(unit, set()).update(targets - {unit})
    done: set[str] = set()

    def visit(unit: str, trail: tuple[str, ...]) -> None:
        assert unit not in trail, f"import cycle: {' -> '.join((*trail[trail.index(unit) :], unit))}"
        if unit in done:
            return
        for target in graph.get(unit, ()):
            visit(target, (*trail, unit))
        done.add(unit)

    for unit in graph:
        visit(unit, ())


@pytest.mark.parametrize(
    ("unit", "imported", "allowed"),
    [
        ("slide", "errors", True),
        ("errors", "slide", False),
        ("tissue", "manifest", False),
        ("build_cohort", "build_slide", True),
        ("slide", "cli", False),
    ],
)
def test_the_rules_themselves(unit, imported, allowed):
    assert (_faults(unit, imported) is None) is allowed
