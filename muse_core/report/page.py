"""The report: one self-contained HTML page of a slide or a cohort. No script, nothing fetched, everything escaped."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from muse_core.cohort.objects import ObjectFolder
from muse_core.cohort.paths import RunPaths
from muse_core.errors import DatasetError
from muse_core.machine.files import whole_file
from muse_core.models.familiar import MUCH_DOUBT
from muse_core.nuclei_dataset import NucleiDataset, class_colours, cohort_summary, pooled_density
from muse_core.report.charts import bars, segments, strips
from muse_core.report.maps import density_maps, ramp
from muse_core.report.notes import mean_score, notes_on
from muse_core.report.pictures import find_pictures, pictured
from muse_core.report.scan import Candidate, scan_slide
from muse_core.report.settings import ReportSettings
from muse_core.report.view import view_of
from muse_core.schemas import NO_PROJECT

_TEMPLATES = Path(__file__).parent / "templates"
_UNKNOWN = "\N{EN DASH}"
_EXTREMES = 5  # slides named at either end of a class's densities
_PROVENANCE_FIRST = (
    "md5",
    "model_id",
    "checkpoint",
    "model_mpp",
    "reader",
    "mpp_source",
    "device",
    "inputs_hash",
    "settings_hash",
)


class Written(NamedTuple):
    """What a report holds."""

    n_slides: int
    n_sections: int
    n_nuclei: int
    n_bytes: int


@dataclass(frozen=True)
class _Cohort:
    """What all sections share."""

    dataset: NucleiDataset
    out: Path
    slides: dict[str, dict[str, Any]]  # rows of the slides table
    rows: list[dict[str, Any]]  # of cohort_summary, those that the report is about
    colours: dict[str, str]
    settings: ReportSettings


def write_report(
    source: str | Path,
    path: Path,
    *,
    slide_ids: Iterable[str] = (),
    settings: ReportSettings | None = None,
    on_slide: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the report of a nuclei dataset.

    Args:
        source: the folder that inference wrote, or its URL.
        path: the HTML file; it appears when whole.
        slide_ids: the slides to report on; none for all.
        settings: sizes and limits.
        on_slide: told how many sections of how many are done.

    Raises:
        DatasetError: there is no dataset, no slides table or no such slide.
        OutputError: the disk is full or the folder cannot be written.
    """
    with ExitStack() as stack:
        dataset = NucleiDataset(source)
        beside = stack.enter_context(kept_beside(source)) if dataset.url else None
        cohort = _open(dataset, tuple(slide_ids), settings or ReportSettings())
        return _write(cohort if beside is None else replace(cohort, out=beside), path, on_slide)


@contextmanager
def kept_beside(source: str | Path) -> Iterator[Path]:
    """For a block, a folder with the polygons and pictures that lie beside a dataset in a store."""
    folder = ObjectFolder(str(source).rstrip("/").removesuffix("/nuclei"))
    with TemporaryDirectory(prefix="muse-report-") as name:
        for below in ("tissue", "pictures"):
            for one in folder.states(below):
                path = Path(name) / one
                path.parent.mkdir(parents=True, exist_ok=True)
                folder.download(one, path)
        yield Path(name)


def _write(cohort: _Cohort, path: Path, on_slide: Callable[[int, int], None] | None) -> Written:
    by_size = sorted(cohort.rows, key=lambda row: (-row["n_nuclei"], row["slide_id"]))
    shown = [row["slide_id"] for row in by_size[: cohort.settings.slides_shown]]
    sections = []
    for done, slide_id in enumerate(shown, start=1):
        sections.append(_section(cohort, slide_id))
        if on_slide:
            on_slide(done, len(shown))
    text = (
        _environment()
        .get_template("report.html")
        .render(cohort=_overview(cohort, shown), sections=sections, single=len(cohort.rows) == 1 and len(sections) == 1)
    )
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    n_nuclei = sum(row["n_nuclei"] for row in cohort.rows)
    return Written(len(cohort.rows), len(sections), n_nuclei, len(text.encode("utf-8")))


def _open(dataset: NucleiDataset, slide_ids: tuple[str, ...], settings: ReportSettings) -> _Cohort:
    for slide_id in slide_ids:
        dataset.parts(slide_id)  # a wrong name is an error
    table = dataset.slides()
    rows = [row for row in cohort_summary(dataset).to_pylist() if not slide_ids or row["slide_id"] in slide_ids]
    slides = {row["slide_id"]: row for row in (table.to_pylist() if table is not None else ())}
    if not rows:
        raise DatasetError(f"{dataset.root}: no slide is finished, so there is nothing to report; see slides.parquet")
    chosen = {name: row for name, row in slides.items() if not slide_ids or name in slide_ids}
    return _Cohort(dataset, Path(dataset.root).parent, chosen, rows, class_colours(dataset.class_names), settings)


def _overview(cohort: _Cohort, shown: list[str]) -> dict[str, Any]:
    """What the page says of all slides."""
    rows = sorted(cohort.rows, key=lambda row: (row["project"] or "", row["slide_id"]))
    counts = {name: sum(row[f"n_{name}"] or 0 for row in rows) for name in cohort.colours}
    total, mm2 = sum(counts.values()), sum(row["tissue_mm2"] or 0.0 for row in rows)
    inside = sum((row["per_mm2"] or 0.0) * (row["tissue_mm2"] or 0.0) for row in rows)
    densities = {
        name: [(row["slide_id"], row[f"per_mm2_{name}"]) for row in rows if row[f"per_mm2_{name}"] is not None]
        for name in cohort.colours
    }
    drawn, ticks = strips(densities, cohort.colours)
    return {
        "n_slides": len(rows),
        "n_nuclei": total,
        "tissue_mm2": mm2,
        "per_mm2": inside / mm2 if mm2 else None,
        "classes": _class_rows(counts, cohort),
        "bar": segments([(name, cohort.colours[name], count / max(total, 1)) for name, count in counts.items()]),
        "rows": [_cohort_row(row, cohort, shown) for row in rows[: cohort.settings.rows_shown]],
        "n_hidden": max(0, len(rows) - cohort.settings.rows_shown),
        "n_shown": len(shown),
        "strips": drawn,
        "ticks": ticks,
        "extremes": _extremes(densities) if len(rows) > 2 * _EXTREMES else [],
        "missing": [row for row in cohort.slides.values() if row.get("status") != "done"],
        "projects": sorted({_project(row) for row in rows} - {""}),
    }


def _class_rows(counts: Mapping[str, int], cohort: _Cohort) -> list[dict[str, Any]]:
    total = max(1, sum(counts.values()))
    rows = []
    for name, count in counts.items():
        density = pooled_density(cohort.rows, name)
        rows.append(
            {"name": name, "colour": cohort.colours[name], "n": count, "share": count / total, "per_mm2": density}
        )
    return rows


def _cohort_row(row: Mapping[str, Any], cohort: _Cohort, shown: list[str]) -> dict[str, Any]:
    shares = [(name, cohort.colours[name], row[f"share_{name}"] or 0.0) for name in cohort.colours]
    slide = cohort.slides.get(row["slide_id"], {})
    failed = slide.get("n_failed_tiles") or 0
    unlike = (slide.get("doubt") or 0.0) >= MUCH_DOUBT
    anchor = shown.index(row["slide_id"]) if row["slide_id"] in shown else None
    project = _project(row)
    return {
        **row,
        "project": project,
        "bar": segments(shares),
        "n_failed_tiles": failed,
        "anchor": anchor,
        "unlike": unlike,
    }


def _project(row: Mapping[str, Any]) -> str:
    """The project of a slide; empty where the manifest named none."""
    return "" if row["project"] in (None, NO_PROJECT) else str(row["project"])


def _extremes(densities: Mapping[str, list[tuple[str, float]]]) -> list[dict[str, Any]]:
    """Of each class the slides of the highest and lowest density."""
    found = []
    for name, values in densities.items():
        ordered = sorted(values, key=lambda pair: (-pair[1], pair[0]))
        found.append({"name": name, "highest": ordered[:_EXTREMES], "lowest": ordered[::-1][:_EXTREMES]})
    return found


def _section(cohort: _Cohort, slide_id: str) -> dict[str, Any]:
    """What the page says of one slide."""
    part, slide = cohort.dataset.part(slide_id), cohort.slides.get(slide_id, {})
    size = (slide["width_level0"], slide["height_level0"]) if slide.get("width_level0") else None
    view = view_of(cohort.dataset, slide_id, RunPaths(cohort.out).tissue(slide_id), size)
    scan = scan_slide(cohort.dataset, slide_id, view, cohort.settings)
    pictures = find_pictures(cohort.out, slide_id, slide.get("uri"), view, pictured(scan), cohort.settings)
    names = part.class_names
    maps = density_maps(scan.grid, [cohort.colours[name] for name in names], view, cohort.settings)
    jpegs = {nucleus_id: _data_uri(jpeg, "jpeg") for nucleus_id, jpeg in pictures.nuclei.items()}
    total, mm2 = int(scan.counts.sum()), slide.get("tissue_mm2")
    classes = [
        {
            "name": name,
            "colour": cohort.colours[name],
            "n": int(scan.counts[i]),
            "share": scan.counts[i] / max(total, 1),
            "per_mm2": scan.in_tissue[i] / mm2 if mm2 else None,
            "score": scan.score_sums[i] / scan.counts[i] if scan.counts[i] else None,
            "scores": bars(scan.scores[i]),
            "chances": bars(scan.chances[i]),
            "map": _data_uri(maps[i].png, "png"),
            "most_per_mm2": maps[i].most_per_mm2,
            "ramp": ["#{:02X}{:02X}{:02X}".format(*stop) for stop in ramp(cohort.colours[name], 9).tolist()],
            "typical": [_nucleus(one, names, jpegs) for one in scan.typical[i] if one.nucleus_id in jpegs],
        }
        for i, name in enumerate(names)
    ]
    return {
        "slide_id": slide_id,
        "slide": slide,
        "facts": _facts(slide),
        "view": view,
        "overview": _data_uri(pictures.overview, "jpeg") if pictures.overview else None,
        "pictures_note": pictures.note,
        "classes": classes,
        "bar": segments([(one["name"], one["colour"], one["share"]) for one in classes]),
        "n_nuclei": total,
        "per_mm2": int(scan.in_tissue.sum()) / mm2 if mm2 else None,
        "score": mean_score(scan),
        "notes": notes_on(slide, scan, part.provenance),
        "doubtful": [_nucleus(one, names, jpegs) for one in scan.doubtful if one.nucleus_id in jpegs],
        "crop_um": cohort.settings.crop_um,
        "provenance": _provenance(part.provenance, slide),
    }


def _facts(slide: Mapping[str, Any]) -> list[str]:
    """What stands below a slide's name."""
    facts = [slide.get("project"), slide.get("case_id") if slide.get("case_id") != slide.get("slide_id") else None]
    if slide.get("width_level0"):
        facts.append(f"{slide['width_level0']:,} x {slide['height_level0']:,} px")
    if slide.get("mpp_x"):
        facts.append(f"{slide['mpp_x']:.4g} µm/px")
    return [str(fact) for fact in (*facts, slide.get("vendor")) if fact and fact != NO_PROJECT]


def _nucleus(one: Candidate, names: tuple[str, ...], jpegs: Mapping[int, str]) -> dict[str, Any]:
    chances = sorted(zip(one.chances, names, strict=True), reverse=True)[:2]
    return {
        "image": jpegs[one.nucleus_id],
        "score": one.score,
        "chances": chances,
        "class_name": names[one.class_id],
        "x_level0": one.x_level0,
        "y_level0": one.y_level0,
    }


def _provenance(provenance: Mapping[str, Any], slide: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, plain ones first."""
    facts = {"uri": slide.get("uri"), **{key: provenance.get(key) for key in _PROVENANCE_FIRST}}
    known = {*facts, *slide, "class_names", "embedding_size", "failed_tiles"}
    facts |= {key: value for key, value in sorted(provenance.items()) if key not in known}
    facts["versions"] = provenance.get("versions") or slide.get("versions")
    facts["pace"] = _pace(slide)
    return [(key, _plain(value)) for key, value in facts.items() if value is not None]


def _pace(slide: Mapping[str, Any]) -> str | None:
    if not slide.get("seconds_per_mm2"):
        return None
    shares = [
        f"{name} {slide[f'{name}_share']:.0%}" for name in ("read", "network", "write") if f"{name}_share" in slide
    ]
    return f"{slide['seconds']:,.1f} s, {slide['seconds_per_mm2']:.2f} s/mm² ({', '.join(shares)})"


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,  # names come from files and manifests
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "short": _short, "share": _share, "score": _score, "words": _words}
    return environment


def _count(value: float | None) -> str:
    """1234567 as 1,234,567; a dash for None."""
    return _UNKNOWN if value is None else f"{value:,.0f}"


def _short(value: float | None) -> str:
    """Three digits or so; a dash for None."""
    if value is None:
        return _UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _score(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2f}"


def _words(name: str) -> str:
    """A class name as people write it."""
    return name.replace("_", " ")


def _share(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
