"""A slide that a server offers, and what a whole copy of it is."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from muse_core.cohort.acquire import Acquired, AcquireSettings, acquire
from muse_core.cohort.acquire.retry import RetrySettings
from tests.data.gdc_server import GdcServer

ID = "11111111-2222-3333-4444-555555555555"
DATA = random.Random(7).randbytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()
QUICK = RetrySettings(max_attempts=3, first_wait_s=0.005, longest_wait_s=0.02)


@dataclass(frozen=True)
class Source:
    uri: str = f"gdc://{ID}"
    size: int | None = len(DATA)
    md5: str | None = MD5
    slide_id: str = "TCGA-A8-A099-01Z-00-DX1"


def settings(server: GdcServer, **changes) -> AcquireSettings:
    values = {"gdc_url": server.url, "retry": QUICK, "min_progress_bytes": 10_000}
    return AcquireSettings(**values | changes)


def fetch(server: GdcServer, folder: Path, source: Source = Source(), **changes) -> Acquired:
    return acquire(source, folder, settings(server, **changes))


def slide_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".svs", ".part"))]


def assert_whole(acquired: Acquired, folder: Path) -> None:
    assert acquired.path.read_bytes() == DATA
    assert (acquired.md5, acquired.size, acquired.transient) == (MD5, len(DATA), False)
    assert slide_files(folder) == [acquired.path]  # no unfinished file is left


def many(server: GdcServer, count: int) -> list[Source]:
    ids = [f"{number:08d}-0000-0000-0000-000000000000" for number in range(count)]
    server.files.update(dict.fromkeys(ids, DATA))
    return [Source(f"gdc://{file_id}", slide_id=f"slide {number}") for number, file_id in enumerate(ids)]
