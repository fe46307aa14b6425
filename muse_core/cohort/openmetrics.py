"""A run's folder as OpenMetrics, for Prometheus and what speaks like it."""

import time
from collections.abc import Iterable

from muse_core.cohort.status import Status

Sample = tuple[dict[str, str], float | int]


def openmetrics_text(status: Status, folder: str) -> str:
    """Gauges of one folder, ending with `# EOF`; what cannot be told is left out.

    Args:
        status: of the folder.
        folder: as people name it; the label of every sample.

    Returns:
        The text format of OpenMetrics 1.0.

    Source: https://prometheus.io/docs/specs/om/open_metrics_spec/
    """
    by_state = {"done": status.done, "failed": status.failed, "skipped": status.skipped}
    runs = status.sharing or ([status.run] if status.run is not None else [])
    beats = [max(0.0, time.time() - one.beat) for one in runs]
    families: list[tuple[str, str, list[Sample]]] = [
        ("muse_run_up", "1 while a run works in the folder.", [({}, int(status.state == "running"))]),
        (
            "muse_run_cut_off",
            "1 while a run that died waits to go on.",
            [({}, int(status.state == "cut off"))],
        ),
        ("muse_runs", "Runs that work there or were cut off.", [({}, len(runs))]),
        ("muse_slides_wanted", "Slides of the manifest.", [({}, status.slides)]),
        ("muse_slides", "Slides on record.", [({"status": name}, count) for name, count in by_state.items()]),
        (
            "muse_slides_failed",
            "Failed slides by reason.",
            [({"reason": name}, count) for name, count in status.failures_by_reason.items()],
        ),
        ("muse_nuclei", "Nuclei found.", [({}, status.n_nuclei)]),
        ("muse_tissue_mm2", "Tissue done, square millimetres.", [({}, status.tissue_mm2)]),
        ("muse_slides_per_hour", "Pace of the run.", _known(status.slides_per_hour)),
        ("muse_mm2_per_hour", "Pace of the run in tissue.", _known(status.mm2_per_hour)),
        ("muse_left_seconds", "Time left at that pace.", _known(status.seconds_left)),
        (
            "muse_silent_seconds",
            "Since the last sign of life.",
            _known(min(beats, default=None)),
        ),
        ("muse_disk_free_bytes", "Free where the folder lies.", [({}, status.disk_free_bytes)]),
        ("muse_fetched_bytes", "Fetched slides that lie there.", [({}, status.fetched_bytes)]),
    ]
    labels = {"folder": folder, "command": status.command}
    lines = [line for name, text, samples in families for line in _family(name, text, labels, samples)]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _known(value: float | None) -> list[Sample]:
    return [] if value is None else [({}, value)]


def _family(name: str, text: str, labels: dict[str, str], samples: list[Sample]) -> Iterable[str]:
    if samples:
        yield f"# TYPE {name} gauge"
        yield f"# HELP {name} {text}"
    for own, value in samples:
        shown = ",".join(f'{key}="{_escaped(one)}"' for key, one in (labels | own).items())
        yield f"{name}{{{shown}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
