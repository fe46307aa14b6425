"""The TCGA cohort from GDC's API, and the patients that a benchmark tests on held out of it.

Source: https://docs.gdc.cancer.gov/API/Users_Guide/Search_and_Retrieval/
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import httpx
from pydantic import Field

from muse_core.cohort.acquire.retry import RetrySettings, TransientError, raise_if_busy, with_retries
from muse_core.cohort.manifest.tcga import patient_barcode, patient_barcodes, slide_ids
from muse_core.config import Settings
from muse_core.errors import AcquireError, ManifestError

GDC_API = "https://api.gdc.cancer.gov"

_FIELDS = "file_id,file_name,md5sum,file_size,cases.submitter_id,cases.project.project_id"


class GdcSettings(Settings):
    """How GDC is asked."""

    page_size: int = Field(default=1000, ge=1, le=10_000, description="slides asked for at a time")
    timeout_s: float = Field(default=60.0, gt=0)
    retry: RetrySettings = RetrySettings()


@dataclass(frozen=True)
class GdcSlide:
    """One diagnostic slide as GDC tells of it; has the attributes of a manifest row."""

    file_id: str
    file_name: str
    slide_id: str
    case_id: str
    project: str
    size: int | None  # byte
    md5: str | None
    mpp: float | None = None  # GDC does not say; the slide does

    @property
    def uri(self) -> str:
        """The slide's source as a manifest has it."""
        return f"gdc://{self.file_id}"


class CohortSlide(Protocol):
    """A slide with its patient and its size in bytes."""

    @property
    def slide_id(self) -> str: ...  # noqa: D102
    @property
    def case_id(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int | None: ...  # noqa: D102


AnyCohortSlide = TypeVar("AnyCohortSlide", bound=CohortSlide)


@dataclass(frozen=True)
class Cohort(Generic[AnyCohortSlide]):
    """The slides that are left, and how many each hold-out list took (a slide on two lists counts for both)."""

    rows: tuple[AnyCohortSlide, ...]
    held_out: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """What all of them take on a disk, as far as the sizes are known."""
        return sum(row.size or 0 for row in self.rows)


def query_slides(
    api: str = GDC_API,
    projects: Sequence[str] = (),
    *,
    settings: GdcSettings | None = None,
    on_page: Callable[[int, int], None] | None = None,
) -> tuple[GdcSlide, ...]:
    """All open-access diagnostic SVS slides of TCGA, or of the projects named, sorted by file id.

    Args:
        api: base URL of GDC's API.
        projects: project ids such as TCGA-BRCA; none for every project of the TCGA program.
        settings: how to ask.
        on_page: called with the slides had so far and the total.

    Raises:
        AcquireError: GDC cannot be reached, or its answer is not whole.
        ManifestError: a project named has no such slide.
    """
    settings = settings or GdcSettings()
    url = api.rstrip("/") + "/files"
    body = {
        "filters": slide_filters(projects),
        "fields": _FIELDS,
        "format": "JSON",
        "sort": "file_id:asc",
        "size": settings.page_size,
    }
    hits: dict[str, dict[str, Any]] = {}
    total, asked_from = 1, 0
    with httpx.Client(timeout=settings.timeout_s, follow_redirects=True) as client:
        while asked_from < total:
            page, total = _page(client, url, settings, body | {"from": asked_from})
            hits |= {str(hit["file_id"]): hit for hit in page}
            if not page:
                break
            asked_from += len(page)
            if on_page:
                on_page(asked_from, total)
    if len(hits) != total:
        raise AcquireError(f"{url}: {len(hits)} of {total} slides came; its data may just be changing, ask again")
    slides = _to_slides([hits[file_id] for file_id in sorted(hits)])
    found = {slide.project for slide in slides}
    if not slides and not projects:
        raise AcquireError(f"{url}: no slide came for the TCGA program; is this the GDC API?")
    if unknown := [project for project in projects if project not in found]:
        raise ManifestError(
            f"GDC has no open diagnostic slide of project {', '.join(unknown)}; ids look like TCGA-BRCA"
        )
    return slides


def slide_filters(projects: Sequence[str]) -> dict[str, Any]:
    """GDC's filter for open-access diagnostic slides of the projects, or of all of TCGA."""
    of_whom = {"cases.project.project_id": list(projects)} if projects else {"cases.project.program.name": ["TCGA"]}
    wanted = of_whom | {
        "files.data_type": ["Slide Image"],
        "files.experimental_strategy": ["Diagnostic Slide"],
        "files.data_format": ["SVS"],
        "files.access": ["open"],
    }
    content = [{"op": "in", "content": {"field": field, "value": values}} for field, values in wanted.items()]
    return {"op": "and", "content": content}


def read_hold_out(path: Path, *, subsets: Sequence[str] = ("test",)) -> frozenset[str]:
    """The patients of a list: any text with TCGA barcodes, or OCELOT's metadata.json.

    Args:
        path: BRCA-M2C's list of patches, a CSV, a manifest, barcodes a line; lines that start with '#' do not count.
        subsets: of OCELOT's samples, those to hold out; samples that name no subset are all held out.

    Raises:
        ManifestError: the list cannot be read or has no barcode in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"hold-out list {path}: {error.strerror or error}; give an existing file") from None
    except UnicodeDecodeError:
        raise ManifestError(f"hold-out list {path}: not UTF-8 text; give one TCGA barcode or slide id a line") from None
    if path.suffix.lower() == ".json":
        patients = _ocelot_patients(path, text, subsets)
    else:
        patients = patient_barcodes("\n".join(line for line in text.splitlines() if not line.startswith("#")))
    if not patients:
        raise ManifestError(
            f"hold-out list {path}: no TCGA barcode such as TCGA-A8-A099 in it; nothing would be held out"
        )
    return patients


def select_slides(slides: Iterable[AnyCohortSlide], hold_out: Mapping[str, frozenset[str]]) -> Cohort[AnyCohortSlide]:
    """The slides of all patients but those held out, in order.

    Args:
        slides: GDC slides or manifest rows.
        hold_out: name of a list to its patient barcodes, see `read_hold_out`.
    """
    kept, held_out = [], dict.fromkeys(hold_out, 0)
    for slide in slides:
        own = {patient_barcode(slide.case_id), patient_barcode(slide.slide_id)}
        lists = [name for name, patients in hold_out.items() if own & patients]
        for name in lists:
            held_out[name] += 1
        if not lists:
            kept.append(slide)
    return Cohort(tuple(kept), held_out)


def default_hold_out_paths() -> tuple[Path, ...]:
    """The hold-out lists that come with the project, in data_manifests/.

    Raises:
        ManifestError: the code is installed without that folder.
    """
    folder = Path(__file__).resolve().parents[3] / "data_manifests"
    paths = tuple(sorted(folder.glob("holdout_*.txt")))
    if not paths:
        raise ManifestError(f"no holdout_*.txt in {folder}; run from a checkout, or name the lists with --hold-out")
    return paths


def _page(
    client: httpx.Client, url: str, settings: GdcSettings, body: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """One page of hits, and how many there are in all."""

    def ask() -> tuple[list[dict[str, Any]], int]:
        try:
            response = client.post(url, json=body)
        except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise AcquireError(f"{url}: {error}; give the base URL of GDC's API", reason="source_invalid") from error
        except httpx.TransportError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        raise_if_busy(response)
        if response.is_error:
            message = f"{url}: GDC answered {response.status_code}: {response.text[:200]}"
            raise AcquireError(message, reason="source_invalid")
        try:
            data = response.json()["data"]
            hits = [hit for hit in data["hits"] if hit["file_id"] and hit["file_name"]]
            return hits, int(data["pagination"]["total"])
        except (ValueError, KeyError, TypeError) as error:
            raise TransientError(f"an answer that is not GDC's: {type(error).__name__} {error}") from error

    try:
        return with_retries(ask, settings.retry)
    except TransientError as error:
        raise AcquireError(f"{url}: {error}; check the network, then ask again") from error


def _to_slides(hits: list[dict[str, Any]]) -> tuple[GdcSlide, ...]:
    ids = slide_ids([str(hit["file_name"]) for hit in hits])
    slides = []
    for hit, slide_id in zip(hits, ids, strict=True):
        case = (hit.get("cases") or [{}])[0]
        slides.append(
            GdcSlide(
                file_id=str(hit["file_id"]),
                file_name=str(hit["file_name"]),
                slide_id=slide_id,
                case_id=str(case.get("submitter_id") or patient_barcode(slide_id) or slide_id),
                project=str((case.get("project") or {}).get("project_id") or "unknown"),
                size=int(hit["file_size"]) if hit.get("file_size") else None,
                md5=str(hit["md5sum"]) if hit.get("md5sum") else None,
            )
        )
    return _with_unique_ids(slides)


def _with_unique_ids(slides: list[GdcSlide]) -> tuple[GdcSlide, ...]:
    """Slides of one and the same file name told apart by their file id."""
    times: dict[str, int] = {}
    for slide in slides:
        times[slide.slide_id] = times.get(slide.slide_id, 0) + 1
    return tuple(
        slide if times[slide.slide_id] == 1 else replace(slide, slide_id=f"{slide.slide_id}.{slide.file_id}")
        for slide in slides
    )


def _ocelot_patients(path: Path, text: str, subsets: Sequence[str]) -> frozenset[str]:
    """Patients of OCELOT's metadata: `sample_pairs`, each with a `slide_name` and a `subset`; else of any JSON text."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"hold-out list {path}: not JSON: {error}") from None
    pairs = data.get("sample_pairs") if isinstance(data, dict) else None
    samples = list(pairs.values()) if isinstance(pairs, dict) else pairs
    if not isinstance(samples, list):
        return patient_barcodes(text)
    wanted = [one for one in samples if isinstance(one, dict) and one.get("subset", subsets[0]) in subsets]
    return patient_barcodes("\n".join(str(one.get("slide_name", "")) for one in wanted))
