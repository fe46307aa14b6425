"""What a run of inference did: counts and pace, for the JSON, for the slides table and in words."""

from dataclasses import dataclass, field
from pathlib import Path

from muse_core.cohort.records import SlideRecord
from muse_core.cohort.summary import CohortSummary
from muse_core.models.familiar import MUCH_DOUBT

_STAGES = ("read", "network", "write")
_SHOWN_FAILURES = 20


@dataclass
class InferSummary(CohortSummary):
    """Of a run of inference.

    Shares are of the time that threads spent reading, in the network and writing; `waiting_share` is the share of its
    time that the network had no tile to work on, `gpu_use` the mean share of time that a GPU was busy, by its driver.
    """

    n_tiles: int = 0
    n_failed_tiles: int = 0
    slides_with_failed_tiles: int = 0
    mm2_per_hour: float | None = None
    read_share: float | None = None
    network_share: float | None = None
    write_share: float | None = None
    waiting_share: float | None = None
    device: str = "cpu"
    gpu_use: float | None = None
    slides_unlike_known_tissue: list[str] = field(default_factory=list)  # by slide_id

    def add(self, record: SlideRecord) -> None:
        """Count one slide."""
        super().add(record)
        self.n_tiles += record.row.get("n_tiles") or 0
        failed_tiles = record.row.get("n_failed_tiles") or 0
        self.n_failed_tiles += failed_tiles
        self.slides_with_failed_tiles += failed_tiles > 0
        if (record.row.get("doubt") or 0.0) >= MUCH_DOUBT:
            self.slides_unlike_known_tissue.append(record.slide_id)

    def what_failed(self) -> list[str]:
        """Slides, and tiles that slides are finished without."""
        return super().what_failed() + ([self.unread_tiles] if self.n_failed_tiles else [])

    @property
    def unread_tiles(self) -> str:
        """How many tiles could not be read, in words."""
        of_slides = f"of {self.slides_with_failed_tiles} slides"
        return f"{self.n_failed_tiles} of {self.n_tiles} tiles, {of_slides}, could not be read"


def shares_of(seconds: dict[str, float]) -> dict[str, float]:
    """`read_share`, `network_share`, `write_share` of the time they took together, and `waiting_share`; {} for none."""
    total = sum(seconds.get(stage, 0.0) for stage in _STAGES)
    if not total:
        return {}
    waiting, network = seconds.get("waiting", 0.0), seconds.get("network", 0.0)
    shares = {f"{stage}_share": seconds.get(stage, 0.0) / total for stage in _STAGES}
    return shares | {"waiting_share": waiting / (waiting + network) if waiting + network else 0.0}


def summary_text(summary: InferSummary, out: Path) -> str:
    """Markdown: what was found, at what pace, where it is, what failed and what to do next."""
    total = summary.slides_done + summary.slides_failed + summary.slides_skipped
    lines = [
        f"# {summary.slides_done} of {total} slides done",
        "",
        f"- {summary.n_nuclei:,} nuclei on {summary.tissue_mm2:,.2f} mm² of tissue",
        f"- {summary.slides_reused} slides were finished by an earlier run, {summary.slides_skipped} hold nothing to "
        f"work on, {summary.slides_failed} failed",
        f"- {_pace(summary)}",
        "",
        f"Nuclei, one row each: {out / 'nuclei'}",
        f"Slides, one row each: {out / 'slides.parquet'}",
    ]
    if summary.n_failed_tiles:
        lines.insert(4, f"- {summary.unread_tiles}; see slides.parquet, and the README on how to try them again")
    if unlike := summary.slides_unlike_known_tissue:
        named = ", ".join(unlike[:_SHOWN_FAILURES]) + (" and more" if len(unlike) > _SHOWN_FAILURES else "")
        lines += ["", f"Unlike the tissue that the model knows: {named}. Do not trust the classes of their nuclei."]
    if summary.slides_earlier:
        lines += ["", f"The folder and its tables also hold {summary.slides_earlier} slides of earlier manifests."]
    if summary.failures:
        lines += ["", "Failed slides (mend them and run the same command again; the others are not redone):", ""]
        lines += [
            f"- {failure['slide_id']}: {failure['reason']}: {failure['message']}"
            for failure in summary.failures[:_SHOWN_FAILURES]
        ]
    if len(summary.failures) > _SHOWN_FAILURES:
        lines.append(f"- and {len(summary.failures) - _SHOWN_FAILURES} more: see slides.parquet")
    return "\n".join(lines) + "\n"


def _pace(summary: InferSummary) -> str:
    text = f"{summary.seconds:.1f} s"
    if summary.seconds_per_mm2 is not None and summary.mm2_per_hour is not None:
        text += f", {summary.seconds_per_mm2:.2f} s/mm², {summary.mm2_per_hour:,.0f} mm²/h"
    if summary.read_share is not None:
        shares = ((name, getattr(summary, f"{name}_share")) for name in _STAGES)
        text += f" ({', '.join(f'{name} {share:.0%}' for name, share in shares)}; network idle "
        text += f"{summary.waiting_share:.0%})"
    if summary.gpu_use is not None:
        text += f", GPU busy {summary.gpu_use:.0%}"
    elif summary.device != "cpu":
        text += ", how busy the GPU was is not known without nvidia-ml-py"
    return f"{text}, at most {summary.peak_rss_bytes / 2**30:.2f} GiB of memory"
