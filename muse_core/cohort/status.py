"""A run's folder at a glance: what is done, what failed and why, how fast, how long still, who works there."""

import shutil
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from muse_core.cohort.heartbeat import RunFacts, read_run
from muse_core.cohort.home import ObjectHome
from muse_core.cohort.lease import holder_of
from muse_core.cohort.objects import ObjectFolder
from muse_core.cohort.output import Output, output_of
from muse_core.cohort.paths import RunPaths, command_of
from muse_core.cohort.records import SlideRecord, read_record, recorded_at
from muse_core.cohort.sharing import members_of
from muse_core.cohort.shelf import DiskFolder
from muse_core.errors import ConfigError
from muse_core.machine.lock import locked

SHOWN_FAILURES = 5


@dataclass(frozen=True)
class Status:
    """What a folder holds, and how the run in it fares.

    Attributes:
        command: which of `muse` made it.
        state: `running`, `cut off` (its process or machine is gone, run the command again) or `at rest`.
        run: who works there, or was cut off there; of several that share the folder the first.
        sharing: those that share it, or were cut off.
        slides: in the manifest of that run; all on record where none works.
        done, failed, skipped: slides on record.
        failures_by_reason: how many for which reason.
        failures: some of the failed ones: slide_id, reason, message.
        begun: slides with unfinished work.
        n_nuclei, tissue_mm2: of what is done.
        done_now: slides that the run has put on record.
        slides_per_hour, mm2_per_hour: of the run; None before it has done any.
        seconds_left: at that pace; None where nothing can be said.
        disk_free_bytes: where the folder lies, on this machine for one in a store.
        fetched_bytes: slides fetched and there.
    """

    command: str
    state: str
    run: RunFacts | None
    slides: int
    done: int
    failed: int
    skipped: int
    failures_by_reason: dict[str, int]
    failures: list[dict[str, str]]
    begun: list[str]
    n_nuclei: int
    tissue_mm2: float
    done_now: int
    slides_per_hour: float | None
    mm2_per_hour: float | None
    seconds_left: float | None
    disk_free_bytes: int
    fetched_bytes: int
    sharing: list[RunFacts]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def read_status(out: str | Path, *, now: float | None = None) -> Status:
    """Look at a folder; changes nothing, and needs no lock.

    Args:
        out: output folder of `muse infer` or `muse build-tcga-nu`, or its URL: then new records are
            fetched into a folder of their own in `MUSE_WORK`.
        now: seconds since 1970; the clock's unless given.

    Raises:
        ConfigError: no run has worked there.
        OutputError: the store cannot be read.
    """
    now = time.time() if now is None else now
    output = output_of(out)
    paths, run, sharing = _looked_at(output)
    command = command_of(paths)
    if command is None:
        raise ConfigError(f"--out {out}: no run has worked there; give the --out of muse infer or muse build-tcga-nu")
    found = [(record, recorded_at(path)) for path, record in _records(paths.records)]
    records = [record for record, _ in found]
    count = Counter(record.status for record in records)
    failed = [record for record in records if record.status == "failed"]
    fresh = [record for record, at in found if run is not None and at >= run.started]
    lives = run is not None and any(one.lives(now) for one in sharing or [run])
    slides = max(run.slides if run is not None else 0, 0) or len(records)
    hours = (now - run.started) / 3600 if run is not None and lives else 0.0
    pace = len(fresh) / hours if fresh and hours else None
    left = slides - sum(count.values()) if lives else 0
    return Status(
        command=command,
        state="running" if lives else "cut off" if run is not None else "at rest",
        run=run,
        slides=slides,
        done=count["done"],
        failed=count["failed"],
        skipped=count["skipped"],
        failures_by_reason=dict(Counter(str(one.row.get("reason")) for one in failed).most_common()),
        failures=[
            {key: str(one.row.get(key) or "") for key in ("slide_id", "reason", "message")}
            for one in failed[:SHOWN_FAILURES]
        ],
        begun=sorted(folder.name for folder in (output.path / ".staging").glob("*")),
        n_nuclei=sum(one.row.get("n_nuclei") or 0 for one in records),
        tissue_mm2=sum(one.row.get("tissue_mm2") or 0.0 for one in records),
        done_now=len(fresh),
        slides_per_hour=pace,
        mm2_per_hour=sum(one.row.get("tissue_mm2") or 0.0 for one in fresh) / hours if pace else None,
        seconds_left=3600 * max(0, left) / pace if pace else None,
        disk_free_bytes=shutil.disk_usage(paths.out).free,
        fetched_bytes=sum(path.stat().st_size for path in paths.downloads.rglob("*") if path.is_file()),
        sharing=sharing,
    )


def _looked_at(output: Output) -> tuple[RunPaths, RunFacts | None, list[RunFacts]]:
    """A folder with the records, who works there, and who shares it."""
    if output.url is None:
        sharing = members_of(DiskFolder(output.path))
        return output.paths, sharing[0] if sharing else read_run(output.paths.run), sharing
    folder = ObjectFolder(output.url)
    own = RunPaths(output.path.with_name(f"{output.path.name}-status"), output.url)
    own.out.mkdir(parents=True, exist_ok=True)
    with locked(own.out):
        ObjectHome(own, folder).pull()
    sharing = members_of(folder)
    return own, sharing[0] if sharing else holder_of(folder), sharing


def status_text(status: Status) -> str:
    """The same for a person, in a few lines of at most eighty characters."""
    lines = [f"muse {status.command}: {_state(status)}", *_sharers(status)]
    lines.append(
        f"slides    {status.done:,} done, {status.failed:,} failed, {status.skipped:,} skipped, of {status.slides:,}"
        f"{f'; {len(status.begun)} begun' if status.begun else ''}"
    )
    lines.append(f"found     {status.n_nuclei:,} nuclei on {status.tissue_mm2:,.1f} mm² of tissue")
    if status.slides_per_hour is not None:
        left = f", {_duration(status.seconds_left)} left" if status.seconds_left else ""
        lines.append(f"pace      {status.slides_per_hour:,.1f} slides/h, {status.mm2_per_hour or 0:,.0f} mm²/h{left}")
    fetched = f", {_size(status.fetched_bytes)} of fetched slides" if status.fetched_bytes else ""
    lines.append(f"disk      {_size(status.disk_free_bytes)} free{fetched}")
    for reason, count in status.failures_by_reason.items():
        lines.append(f"failed    {count:,} {reason}")
    lines += [f"          {one['slide_id']}: {one['message']}" for one in status.failures]
    return "\n".join(lines) + "\n"


def _records(folder: Path) -> Iterable[tuple[Path, SlideRecord]]:
    for path in sorted(folder.glob("*.json")):
        if (record := read_record(path)) is not None:
            yield path, record


def _state(status: Status) -> str:
    run = status.run
    if run is None:
        return "at rest"
    where = f"process {run.pid} on {run.host}"
    if status.sharing:
        where = f"{len(status.sharing)} runs that share it"
    if status.state == "cut off":
        verb = "are" if status.sharing else "is"
        return f"cut off, {where} {verb} gone; run the same command again, it goes on from there"
    workers = "" if status.sharing else f", {run.workers}"
    return f"running for {_duration(time.time() - run.started)}, {where}{workers}"


def _sharers(status: Status) -> list[str]:
    now = time.time()
    return [
        f"{'works' if one.lives(now) else 'gone':<10}process {one.pid} on {one.host}, {one.workers}, "
        f"heard of {max(0, round(now - one.beat))} s ago"
        for one in status.sharing
    ]


def _duration(seconds: float | None) -> str:
    minutes = max(0, round((seconds or 0.0) / 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
