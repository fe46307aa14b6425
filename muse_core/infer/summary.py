"""What a run of inference did: counts and pace, for the JSON, for the slides table and in words."""

from dataclasses import dataclass, field

from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.summary import SHOWN_FAILURES, CohortSummary
from muse_core.models.familiar import MUCH_DOUBT

_STAGES = ("read", "network", "write")


@dataclass
class InferSummary(CohortSummary):
    """Of a run of inference.

    Shares are of the time that threads spent reading, in the network and writing; `waiting_share` is the share of its
    time that the network had no tile to work on, `gpu_use` the mean share of time that a GPU was busy, by its driver.
    `redundancy` is how often the network sees a px of tissue, `engine` what runs it.
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
    engine: str = "torch"
    redundancy: float | None = None
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

    def remarks(self) -> list[str]:
        """Tiles that could not be read, and slides whose nuclei are not to be trusted."""
        lines = []
        if self.n_failed_tiles:
            lines.append(f"{self.unread_tiles}; see slides.parquet, and the README on how to try them again")
        if unlike := self.slides_unlike_known_tissue:
            named = ", ".join(unlike[:SHOWN_FAILURES]) + (" and more" if len(unlike) > SHOWN_FAILURES else "")
            lines.append(f"Unlike the tissue that the model knows: {named}. Do not trust the classes of their nuclei.")
        return lines

    def pace(self) -> str:
        """Seconds a mm², mm² an hour, what the time went into, and how busy the GPU was."""
        text = super().pace()
        if self.mm2_per_hour is not None:
            text += f", {self.mm2_per_hour:,.0f} mm²/h"
        if self.read_share is not None:
            shares = ", ".join(f"{stage} {getattr(self, f'{stage}_share'):.0%}" for stage in _STAGES)
            text += f" ({shares}; network idle {self.waiting_share:.0%})"
        if self.redundancy is not None:
            text += f", each px of tissue seen {self.redundancy:.2f} times by {self.engine}"
        if self.gpu_use is not None:
            return f"{text}, GPU busy {self.gpu_use:.0%}"
        return text if self.device == "cpu" else f"{text}, how busy the GPU was is not known without nvidia-ml-py"

    def places(self, paths: RunPaths) -> dict[str, object]:
        """Where the tables are."""
        return {"Nuclei, one row each": paths.out / "nuclei"} | super().places(paths)


def shares_of(seconds: dict[str, float]) -> dict[str, float]:
    """`read_share`, `network_share`, `write_share` of the time they took together, and `waiting_share`; {} for none."""
    total = sum(seconds.get(stage, 0.0) for stage in _STAGES)
    if not total:
        return {}
    waiting, network = seconds.get("waiting", 0.0), seconds.get("network", 0.0)
    shares = {f"{stage}_share": seconds.get(stage, 0.0) / total for stage in _STAGES}
    return shares | {"waiting_share": waiting / (waiting + network) if waiting + network else 0.0}
