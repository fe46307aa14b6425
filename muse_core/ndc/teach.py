"""Corrections into a better model: fine-tune the one in use on a lab folder, compare both on labels held back.

LAB/labels, LAB/images                 what is learned from
LAB/held-back/labels, images           what both models are compared on; no training sees it
LAB/taught/<id>/                       the run of fine-tuning; a killed one goes on there
LAB/taught/<id>/taught.safetensors     what it learned and what the model in use knew: the mean of their weights
LAB/models/                            the registry: which model is in use

Lone marks say which class a nucleus has, but not how many nuclei there are: the ground known around each holds one. A
threshold chosen by them alone would find nuclei everywhere, and a shift of classes would follow the few that were asked
about. So both are chosen by the marks together with the tissue around them as the model in use sees it: the more is
labelled, the more the labels say. And some hundred marks that were asked for because they are doubtful pull the weights
off what the model knows of all other nuclei; the mean of the weights before and after keeps most of both.
Source: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022, https://arxiv.org/abs/2109.01903
"""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydantic import Field

from muse_core.errors import ConfigError, DatasetError
from muse_core.labels.lab import LabDots, read_lab
from muse_core.labels.lab_regions import lab_regions
from muse_core.labels.regions import Region
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.ndc.checkpoint import NdcCheckpoint, load_checkpoint, save_checkpoint
from muse_core.ndc.data import LAB
from muse_core.ndc.finetune import FinetuneResult, calibrated_checkpoint, finetune
from muse_core.ndc.finetune_data import FinetuneData
from muse_core.ndc.judge import find_on_regions
from muse_core.ndc.model import NdcModel
from muse_core.ndc.promote import LabelledRegions, score_current, score_of
from muse_core.ndc.rates import with_rates
from muse_core.ndc.registry import Decision, current_checkpoint, read_current, register_if_better
from muse_core.ndc.settings import FinetuneLossSettings, FinetuneSettings
from muse_core.ndc.soup import are_alike, mean_of
from muse_core.ndc.state import identity_of
from muse_core.training.progress import Progress

logger = logging.getLogger(__name__)

REGISTRY_NAME = "models"
HELD_BACK_NAME = "held-back"
RUNS_NAME = "taught"
BLENDED_NAME = "taught.safetensors"
_ID_DIGITS = 12
_MOST_TISSUE = 24  # regions whose tissue is looked at by the model in use: more would say the same
_FOUND = 0.5  # score of what counts as found


class TeachSettings(FinetuneSettings):
    """A short fine-tuning from a model that is good already: small steps, the encoder's first stages as they are.

    Corrections are few and by no means a sample of all nuclei: what the model knows must not be washed out.
    """

    steps: int = Field(200, ge=1)
    batch_size: int = Field(4, ge=1)
    freeze_depthwise: bool = True
    freeze_stages: int | None = Field(None, ge=0)  # this and the rates by the kind of backbone: see `ndc.rates`
    warmup_steps: int = Field(10, ge=0)
    average_steps: int = Field(50, ge=1)
    validate_every: int = Field(200, ge=1)  # the tissue as it was seen tells no step from another: the last is kept
    kept: float = Field(0.5, ge=0, lt=1)  # share of the weights in use in what is offered; 0 for what was learned alone
    # The teacher is the model in use, which knows from the first step on: tissue around the marks stays as it sees it.
    loss: FinetuneLossSettings = FinetuneLossSettings(cons_start=0, cons_ramp=0)


def teach(
    lab: Path,
    *,
    in_use: Path | None = None,
    settings: TeachSettings | None = None,
    device: str = "cpu",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Decision | None:
    """Learn from a lab folder's labels and take the result into use where it is better on those held back.

    Args:
        lab: the folder that `muse view` keeps, or one laid out like it.
        in_use: the checkpoint that found the nuclei; None for the weights that ship. Once the lab's registry holds a
            model, that one is in use.
        settings: the recipe.
        device: where the networks run: cpu or cuda.
        on_progress: told of the training now and then.
        should_stop: asked after each step; once it says yes the state is kept, and the same call goes on from it.

    Returns:
        What was compared and decided; None where it was asked to stop.

    Raises:
        DatasetError: no labels, none held back, or labels that make no sense.
        ConfigError: no such checkpoint.
        OutputError: the folder cannot be written or is in use.
    """
    settings = settings or TeachSettings()
    registry = lab / REGISTRY_NAME
    start = current_checkpoint(registry) if read_current(registry) is not None else in_use or MUSE_NANO_NDC
    model = NdcModel(start, device=device)
    settings = _fitting(settings, load_checkpoint(start))
    data, held_back = _read(lab, model, settings)
    if read_current(registry) is None:
        register_if_better(registry, start, (score_of(model, held_back),))
    result = _learned(lab, data, start, settings=settings, device=device, told=on_progress, should_stop=should_stop)
    if result.step < result.steps:
        return None
    score_current(registry, held_back)
    offered = _blended(start, result.checkpoint, data, share=settings.kept, device=device)
    candidate = score_of(NdcModel(offered, device=device), held_back)
    return register_if_better(registry, offered, (candidate,))


def _blended(start: Path, learned: Path, data: FinetuneData, *, share: float, device: str) -> Path:
    """The mean of the weights before and after, calibrated; what was learned where classes were added: no mean then."""
    if not share or not are_alike(load_checkpoint(start), load_checkpoint(learned)):
        return learned
    checkpoint, _ = calibrated_checkpoint(mean_of((start, learned), (share, 1 - share)), data, device=device)
    save_checkpoint(checkpoint, learned.with_name(BLENDED_NAME))
    return learned.with_name(BLENDED_NAME)


def _fitting(settings: TeachSettings, start: NdcCheckpoint) -> TeachSettings:
    """The recipe for a start: rates by its backbone, and no dense head where proposals are what is read."""
    settings = with_rates(settings, start.backbone.preset, taught=True)
    if start.head.readout == "heat":
        return settings
    return settings.model_copy(update={"loss": settings.loss.model_copy(update={"dense": 0.0})})


def _read(lab: Path, model: NdcModel, settings: TeachSettings) -> tuple[FinetuneData, LabelledRegions]:
    """What is learned from, and what both models are compared on; of the same classes."""
    dots = _labels(lab, model.class_names, "label some nuclei in muse view")
    held = _labels(lab / HELD_BACK_NAME, dots.class_names, "every fifth is held back; label more nuclei, or others")
    names = held.class_names
    if names != dots.class_names:
        dots = read_lab(lab, class_names=names)
    learned, compared = (_all_regions(one, settings.side_px) for one in (dots, held))
    chosen_by = [_as_seen(model, region) for region in learned[:: -(-len(learned) // _MOST_TISSUE)]]
    return FinetuneData(names, learned, [], chosen_by), LabelledRegions(LAB, "held back", names, compared)


def _all_regions(dots: LabDots, side_px: int) -> list[Region]:
    """Every region: what validates is another folder's."""
    train, validation = lab_regions(dots, side_px=side_px)
    return train if train is validation else [*train, *validation]


def _as_seen(model: NdcModel, region: Region) -> Region:
    """All of a region's image: its labels, and beyond the ground they are on what the model finds."""
    (found,) = find_on_regions(model.find, [region])
    others = (found.score >= _FOUND) & ~region.is_annotated(found.xy)
    known = region.is_annotated(region.xy)
    return replace(
        region,
        annotated=None,
        xy=np.concatenate([region.xy[known], found.xy[others]]).astype(np.float32),
        class_ids=np.concatenate([region.class_ids[known], found.class_ids[others]]),
    )


def _labels(folder: Path, known: tuple[str, ...], hint: str) -> LabDots:
    if not any((folder / "labels").glob("*")):
        raise DatasetError(f"{folder}: no labels in it; {hint}")
    return read_lab(folder, class_names=known)


def _learned(
    lab: Path,
    data: FinetuneData,
    start: Path,
    *,
    settings: TeachSettings,
    device: str,
    told: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> FinetuneResult:
    """Fine-tune, or go on where the same was left; a folder each of labels, start and recipe."""
    if not any(len(region.xy) for region in data.labelled):
        raise DatasetError(f"{lab}: its labels are of no nucleus; say of some which class they are")
    if not start.is_file():
        raise ConfigError(f"checkpoint {start}: gone; give one with --checkpoint")
    identity = identity_of(data, init=str(start), settings=settings)
    name = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:_ID_DIGITS]
    return finetune(
        data,
        lab / RUNS_NAME / name,
        init=str(start),
        settings=settings,
        device=device,
        resume=True,
        should_stop=should_stop,
        on_progress=told,
    )
