"""One slide to its nuclei: plan, tiles in groups, seams, one part. Each step is picklable and may run in any process.

plan_slide    slide file -> InferPlan and tissue polygons, kept in the staging folder
infer_slide   groups of tiles -> staged nuclei, then the slide's part beside them; a rerun does only missing groups
"""

import logging
from pathlib import Path

from muse_core.errors import SlideReadError
from muse_core.infer.crew import crew_for
from muse_core.infer.engine import Clock
from muse_core.infer.gpu import GpuUse
from muse_core.infer.groups import (
    read_done,
)
from muse_core.infer.job import InferJob, InferPlan, InferResult
from muse_core.infer.model import load_nucleus_model
from muse_core.infer.settings import InferSettings
from muse_core.infer.work import SlideWork, Tell, grid_of
from muse_core.machine.device import one_gpu
from muse_core.machine.threads import torch_threads
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
    with one_gpu(job.device) as device, GpuUse(device) as gpu, torch_threads(1 if device == "cpu" else job.threads):
        model = load_nucleus_model(
            job.checkpoint, device=device, min_score=job.settings.min_score, embeddings=job.settings.embedding
        )
        with open_slide(
            job.path, mpp_override=job.mpp_override, reader=str(plan.facts["reader"]), device=device
        ) as slide:
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
    facts = {**plan.facts, "model_id": model.model_id, "model_mpp": model.mpp, "device": job.device, **doubt}
    tiles_before, seconds_before = sum(one.n_tiles for one in earlier), sum(one.seconds for one in earlier)
    return InferResult(facts, n_nuclei, work.n_tiles, failed, clock.seconds, gpu.share, tiles_before, seconds_before)


def check_model(checkpoint: Path | None, settings: InferSettings) -> None:
    """Make sure that a model and the settings go together, before any slide is fetched for them.

    Raises:
        ConfigError: the checkpoint is no model's, has no features to keep, or needs wider margins than tiles have.
    """
    grid_of(load_nucleus_model(checkpoint, device="cpu", embeddings=settings.embedding), settings)
