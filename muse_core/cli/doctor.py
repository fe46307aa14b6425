"""What this machine can do, one line a part, with the fix for each part that is amiss."""

import math
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape
from rich.table import Table

from muse_core.cli.options import AsJson
from muse_core.cli.terminal import Terminal, open_terminal, print_json
from muse_core.cohort.uris import unread_format
from muse_core.errors import SlideReadError, figure
from muse_core.machine.installed import installed_version
from muse_core.machine.limits import cpu_count, memory_limit_bytes
from muse_core.models.quantised import int8_pays
from muse_core.slide import open_slide
from muse_core.slide.self_check import ReaderCheck, check_readers

_OLDEST_PYTHON = (3, 11)
_MEMORY_WANTED_BYTES = 4 << 30  # two workers at their 1.5 GB peak, and the system
_DISK_WANTED_BYTES = 10 << 30  # two or three slides of the cohort
_API_TIMEOUT_S = 2.0
_SQLALCHEMY_BROKEN_FROM = (2, 1)  # Prefect 3.8's scheduler fails with it, once a minute in the server's log

_READER_USE = {
    "openslide": "the widest choice of formats",
    "cucim": "tiles decoded by a GPU",
    "tifffile": "TIFF of every kind, damage told",
}
_READER_FIX = {
    "openslide": "install openslide-bin and openslide-python (make setup does)",
    "cucim": "install cucim-cu13 (Linux x86_64 or aarch64) if a GPU is to decode; a CPU does without it",
    "tifffile": "install tifffile and imagecodecs (make setup does)",
}


@dataclass(frozen=True)
class Check:
    """One part of the machine.

    Attributes:
        name: which part.
        ok: whether it serves.
        found: what was found, for a person.
        fix: what to do where it does not serve; empty where it does.
    """

    name: str
    ok: bool
    found: str
    fix: str


def diagnose(folder: Path = Path()) -> list[Check]:
    """Look at everything the commands depend on; takes a few seconds, changes nothing.

    Args:
        folder: where outputs would go; its disk is looked at.
    """
    parts: list[Callable[[], list[Check]]] = [
        _python,
        _readers,
        _codecs,
        _gpu,
        _engine,
        _prefect,
        _limits,
        lambda: [_disk(folder)],
    ]
    return [check for part in parts for check in part()]


def _python() -> list[Check]:
    ok = sys.version_info >= _OLDEST_PYTHON
    fix = "" if ok else f"install Python {_OLDEST_PYTHON[0]}.{_OLDEST_PYTHON[1]} or newer and run make setup"
    return [Check("Python", ok, f"{platform.python_version()} on {platform.system()} {platform.machine()}", fix)]


def _readers() -> list[Check]:
    return [_reader(check) for check in check_readers()]


def _reader(check: ReaderCheck) -> Check:
    if check.version is None:
        return Check(check.name, False, "not installed", _READER_FIX[check.name])
    if check.problem:
        return Check(check.name, False, f"{check.version}, does not decode: {check.problem}", _READER_FIX[check.name])
    return Check(check.name, True, f"{check.version}, decodes on the CPU: {_READER_USE[check.name]}", "")


def _codecs() -> list[Check]:
    found = installed_version("imagecodecs")
    return [Check("imagecodecs", found is not None, found or "not installed", "" if found else _READER_FIX["tifffile"])]


def _gpu() -> list[Check]:
    try:
        torch = import_module("torch")
    except ImportError as error:
        return [Check("torch", False, f"does not import: {error}", "run make setup")]
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    checks = [Check("torch", True, f"{torch.__version__}, built for {built_for}", "")]
    if not torch.cuda.is_available():
        # Everything runs without one, so this is no fault.
        return [*checks, Check("GPU", True, "none that torch can use; everything runs on the CPU", "")]
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return [*checks, Check("GPU", True, names, "")]


def _engine() -> list[Check]:
    found, best = installed_version("openvino"), int8_pays()
    if found is None:
        return [Check("OpenVINO", False, "not installed; torch runs networks, about half as fast", "run make setup")]
    use = f"slides' networks run in int8 by {best}" if best else "torch runs networks: no int8 here that pays"
    return [Check("OpenVINO", True, f"{found}; {use}", "")]


def _prefect() -> list[Check]:
    found = installed_version("prefect")
    if found is None:
        return [Check("Prefect", False, "not installed", "run make setup")]
    return [_prefect_api(found), *_prefect_schedules()]


def _prefect_schedules() -> list[Check]:
    """Whether a server of this environment starts runs on a schedule; no line where it does."""
    found = installed_version("SQLAlchemy") or "0"
    if tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < _SQLALCHEMY_BROKEN_FROM:
        return []
    words = f"SQLAlchemy {found}: a Prefect server started here never fires a schedule"
    fix = "pip install 'sqlalchemy>=2.0.40,<2.1' (make setup does), and start the server again"
    return [Check("Prefect schedules", False, words, fix)]


def _prefect_api(found: str) -> Check:
    # Prefect itself is not imported: it takes seconds, and the library does without it.
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url:
        words = f"{found}; PREFECT_API_URL is not set, so a flow starts a server of its own while it runs"
        return Check("Prefect", True, words, "")
    try:
        answer = httpx.get(f"{url}/health", timeout=_API_TIMEOUT_S)
        problem = "" if answer.is_success else f"answers {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = f"does not answer ({error})"
    fix = "start it with `prefect server start`, or unset PREFECT_API_URL" if problem else ""
    return Check("Prefect", not problem, f"{found}; API {url} {problem or 'answers'}", fix)


def _limits() -> list[Check]:
    cores, memory = cpu_count(), memory_limit_bytes()
    enough = memory >= _MEMORY_WANTED_BYTES
    fix = "" if enough else f"give {_gigabytes(_MEMORY_WANTED_BYTES)} or more, or run with --workers 1"
    return [
        Check("CPU cores", True, f"{cores} usable (affinity and cgroup quota) of {os.cpu_count()}", ""),
        Check("Memory", enough, f"{_gigabytes(memory, _MEMORY_WANTED_BYTES)} usable", fix),
    ]


def _disk(folder: Path) -> Check:
    there = next((one for one in (folder.absolute(), *folder.absolute().parents) if one.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    enough = free >= _DISK_WANTED_BYTES
    fix = "" if enough else "free some space, or run with --no-keep-slides and an --out on a larger disk"
    return Check("Disk", enough, f"{_gigabytes(free, _DISK_WANTED_BYTES)} free at {there}", fix)


def _gigabytes(count: int, *wanted: int) -> str:
    """Bytes for people, on their side of what is wanted."""
    return f"{figure(count / 2**30, *(one / 2**30 for one in wanted), decimals=1)} GiB"


def doctor(
    slide: Annotated[
        Path | None, typer.Argument(metavar="[SLIDE]", help="A slide, to say what is made of it instead.")
    ] = None,
    scene: Annotated[
        int | None, typer.Option(help="Of several pictures in the slide's file, the number of one.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do, and how to mend what it cannot; or what is made of a slide, and why.

    Example: `muse doctor`, `muse doctor slides/S1.svs`
    """
    terminal = open_terminal(as_json)
    if slide is not None:
        _tell_of(terminal, slide, scene, as_json=as_json)
        return
    checks = diagnose()
    table = Table(box=None, pad_edge=False)
    for title in ("", "check", "found", "to mend"):
        table.add_column(title, overflow="fold")
    for check in checks:
        table.add_row(
            "[green]ok[/]" if check.ok else "[yellow]--[/]", check.name, check.found, "" if check.ok else check.fix
        )
    terminal.results.print(table)
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})


def examine(path: Path, scene: int | None = None) -> dict[str, Any]:
    """What is made of a slide: reader, format, µm/px, levels, other images, and why.

    Args:
        path: the slide.
        scene: which of several pictures in the file; None for the largest.

    Returns:
        Plain values for JSON; `mpp` is None where the file says none, or two.

    Raises:
        SlideReadError: no reader decodes it.
        ConfigError: there is no such scene.
    """
    if words := unread_format(path.name):
        raise SlideReadError(f"{path}: {words}")
    with open_slide(path, scene=scene, tolerate_missing_mpp=True) as opened:
        info = opened.info
        known = not math.isnan(info.mpp.x)
        return {
            "slide": str(path),
            "vendor": info.vendor,
            "reader": info.reader,
            "reader_check": info.reader_check,
            "mpp": [info.mpp.x, info.mpp.y] if known else None,
            "mpp_source": info.mpp.source,
            "levels": [[level.width, level.height] for level in info.levels],
            "downsamples": [level.downsample_x for level in info.levels],
            "associated": list(info.associated),
            "judgement": list(info.judgement),
        }


def _tell_of(terminal: Terminal, path: Path, scene: int | None, *, as_json: bool) -> None:
    found = examine(path, scene)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    levels = zip(found["levels"], found["downsamples"], strict=True)
    mpp = f"{found['mpp'][0]:.6g} x {found['mpp'][1]:.6g}" if found["mpp"] else "unknown: give --mpp"
    rows = {
        "slide": found["slide"],
        "format": found["vendor"],
        "reader": f"{found['reader']} ({found['reader_check']})",
        "µm/px": f"{mpp} ({found['mpp_source']})",
        "levels": ", ".join(f"{width} x {height} px (1/{scale:g})" for (width, height), scale in levels),
        "other images": ", ".join(found["associated"]) or "none",
        "why": "\n".join(found["judgement"]),
    }
    for name, words in rows.items():
        table.add_row(name, escape(words))
    terminal.results.print(table)
    if as_json:
        print_json(found)
