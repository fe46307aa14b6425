"""A kind of work that takes a moment: each slide's letters, one part a letter, through the machine of real runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from muse_core.cohort.acquire import AcquireSettings
from muse_core.cohort.inputs import hash_of_inputs
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.options import CohortOptions
from muse_core.cohort.output import opened_output
from muse_core.cohort.paths import RunPaths
from muse_core.cohort.run import CohortRun, do_manifest, open_cohort
from muse_core.cohort.staging import remove_files
from muse_core.cohort.summary import CohortSummary, summarise
from muse_core.config import Settings
from muse_core.machine.files import safe_name
from muse_core.schemas import SLIDES


@dataclass(frozen=True, kw_only=True)
class ToyOptions(CohortOptions):
    command = "infer"


class ToyWork:
    schema = SLIDES
    counted = ("n_nuclei",)
    settings = Settings()

    def __init__(self, paths: RunPaths, before=lambda slide_id: None) -> None:
        self._paths = paths
        self._before = before
        self.done: list[str] = []

    def check_together(self, manifest, earlier):
        pass

    def inputs_hash(self, row):
        return hash_of_inputs(row, depends_on=[])

    def rules(self):
        return "toys"

    def pieces(self):
        return "1"

    def check_wanted(self, row):
        pass

    def do(self, row, job, commit, tell):
        self.done.append(row.slide_id)
        self._before(row.slide_id)
        letters = Path(job.path).read_text(encoding="utf-8").strip()
        out = self._paths.out.absolute()
        folder = out / "nuclei" / job.project / safe_name(job.slide_id)
        moves = []
        for number, letter in enumerate(letters):
            staged = job.folder / f"part-{number}.parquet"
            staged.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"slide_id": [row.slide_id], "letter": [letter]}), staged)
            moves.append((staged, folder / staged.name))
        job.staged_tissue.write_text(f'{{"of": "{letters}"}}', encoding="utf-8")
        commit(moves, sorted(folder.glob("*.parquet")))
        return {"parts": tuple(str(one.relative_to(out)) for _, one in moves), "n_nuclei": len(letters)}

    def clear(self, slide_id):
        remove_files(self._paths.out.glob(f"nuclei/*/{safe_name(slide_id)}/*.parquet"))
        self._paths.tissue(slide_id).unlink(missing_ok=True)

    def held(self, known):
        return "letters"

    def sum_up(self, records, seconds):
        return summarise(records, CohortSummary())


@contextmanager
def toy_run(out: str, *, share: bool = False, before=lambda slide_id: None) -> Iterator[CohortRun[CohortSummary]]:
    with opened_output(out, share=share) as output:
        options = ToyOptions(out=output.path, url=output.url, share=share)
        with open_cohort(options, lambda _: ToyWork(output.paths, before), AcquireSettings()) as run:
            yield run


def toy_manifest(slides: dict[str, str]) -> Manifest:
    rows = tuple(ManifestRow(n, one, one, "P", uri, None, None, None) for n, (one, uri) in enumerate(slides.items()))
    return Manifest(rows, ())


def do_toys(out: str, slides: dict[str, str], **options) -> tuple[CohortSummary, list[str]]:
    """Do slides, texts or URIs by id; the summary, and the ids that were worked on."""
    manifest = toy_manifest(slides)
    with toy_run(out, **options) as run:
        return run.finish(manifest, do_manifest(run, manifest)), sorted(run.work.done)
