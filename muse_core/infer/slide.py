"""One slide to its nuclei: plan, tiles in groups, seams, one part. Each step is picklable and may run in any process.

plan_slide    slide file -> InferPlan and tissue polygons, kept in the staging folder
infer_slide   groups of tiles -> staged nuclei, then the slide's part beside them; a rerun does only missing groups
"""

import logging
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

from muse_core.errors import SlideReadError
from muse_core.geometry import Box
from muse_core.infer.crew import crew_for, windows_for
from muse_core.infer.engine import Clock
from muse_core.infer.gpu import GpuUse
from muse_core.infer.groups import read_done
from muse_core.infer.job import InferJob, InferPlan, InferResult
from muse_core.infer.model import Engine, describe_engine, load_nucleus_model, shipped_weights
from muse_core.infer.settings import InferSettings
from muse_core.infer.work import SlideWork, Tell, grid_of
from muse_core.machine.device import one_gpu
from muse_core.machine.threads import torch_threads
from muse_core.models.nucleus_model import NucleusModel
from muse_core.slide import open_slide

logger = logging.getLogger(__name__)


def infer_slide(job: InferJob, plan: InferPlan, tell: Tell | None = None) -> InferResult:
    """Find the slide's nuclei and write its part to the staging folder.

    A tile that cannot be read is left out and named in the result; the slide goes on.

    Args:
        job: the slide.
        plan: what `plan_slide` gave.
        tell: told how many tiles were just done.

    Raises:
        SlideReadError: the slide no longer opens, or none of its tiles can be read.
        OutputError: the disk is full.
    """
    clock = Clock()
    with ExitStack() as stack:
        device = stack.enter_context(one_gpu(job.device))
        gpu = stack.enter_context(GpuUse(device))
        if job.engine == "torch":
            stack.enter_context(torch_threads(1 if device == "cpu" else job.threads))
        model = model_of(job.checkpoint, job.settings, device=device, engine=job.engine, threads=job.threads)
        reader = str(plan.facts["reader"])
        opened = open_slide(job.path, mpp_override=job.mpp_override, reader=reader, device=device, scene=job.scene)
        slide = stack.enter_context(opened)
        work = SlideWork(job, plan, slide, model, clock)
        earlier = work.run(tell or (lambda _: None), crew_for(job, device))
        with clock("read"):
            doubt = work.doubt()
    done = [read_done(group) for group in work.files]
    failed = [text for one in done if one for _, text in one.failed]
    if failed and len(failed) == work.n_tiles:
        raise SlideReadError(f"{job.path}: none of its {len(failed)} tiles could be read: {failed[0]}")
    with clock("write"):
        n_nuclei = work.merge()
    engine = describe_engine(job.engine, device=job.device)
    of_model = {"model_id": model.model_id, "model_mpp": model.mpp, "device": job.device, "engine": engine}
    return InferResult(
        {**plan.facts, **of_model, **doubt},
        n_nuclei,
        work.n_tiles,
        failed,
        clock.seconds,
        gpu.share,
        sum(one.n_tiles for one in earlier),
        sum(one.seconds for one in earlier),
        work.seen_mm2,
    )


def check_model(checkpoint: Path | None, settings: InferSettings, *, device: str, engine: Engine, threads: int) -> None:
    """Make sure that a model and the settings go together, before any slide is fetched for them.

    Raises:
        ConfigError: the checkpoint is no model's, has no features to keep, or needs wider margins than tiles have.
    """
    model = model_of(checkpoint, settings, device=device, engine=engine, threads=threads)
    grid_of(model, windows_for(settings, engine=engine, device=device), Box(0, 0, 1, 1))


def model_of(
    checkpoint: Path | None, settings: InferSettings, *, device: str, engine: Engine, threads: int
) -> NucleusModel:
    """The model of a run, on a device; kept for the next slide, for loading takes longer than a small one.

    Raises:
        ConfigError: as of `load_nucleus_model`.
    """
    path = checkpoint or shipped_weights()
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _kept_model(path, changed, device, engine, threads, settings.min_score, settings.embedding)


@lru_cache(maxsize=1)
def _kept_model(
    path: Path, changed: int, device: str, engine: Engine, threads: int, min_score: float, embeddings: bool
) -> NucleusModel:
    return load_nucleus_model(
        path, device=device, min_score=min_score, embeddings=embeddings, engine=engine, threads=threads
    )
