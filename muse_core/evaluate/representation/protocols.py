"""Score a representation of nuclei on a labelled dataset: extract once, then any protocol.

scored = read_features(encoder, EvaluationRequest("brca-m2c", Path("data/brca_m2c"), split="val"))
answer = evaluate_knn(scored)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from muse_core.errors import ConfigError
from muse_core.evaluate.representation.accuracy import accuracy_percent, accuracy_report
from muse_core.evaluate.representation.encoders import SEED, MapEncoder, NucleusEncoder
from muse_core.evaluate.representation.features import NucleusFeatures, extract_features
from muse_core.evaluate.representation.finetune import EncoderFinetuneSettings, finetune, predict_tiles
from muse_core.evaluate.representation.knn import KS, nearest, usable_ks, vote
from muse_core.evaluate.representation.linear import LinearSettings, predict, train_linear
from muse_core.evaluate.representation.tiles import Coordinates, TileSettings, cut_tiles, made_up
from muse_core.labels import DOT_OFFSETS_PX, LabelledPatch, read_labelled_patches

SCORED_SPLITS = ("val", "test")

OnTiles = Callable[[str, int, int], None]  # split, tiles done, nuclei in them


@dataclass(frozen=True)
class EvaluationRequest:
    """What is scored.

    Attributes:
        dataset: a name in `labelled_patches.READERS`.
        data: its folder.
        split: val or test; train is always the bank, val always chooses.
        mpp: µm/px of the tiles.
        fov_px: side of the tiles.
        coordinates: see `tiles`.
        checkpoint: what to call the encoder in the answer.
    """

    dataset: str
    data: Path
    split: str = "val"
    mpp: float = 0.5
    fov_px: int = 224
    coordinates: Coordinates = "exact"
    checkpoint: str = ""

    def __post_init__(self) -> None:
        if self.split not in SCORED_SPLITS:
            raise ConfigError(f"--split {self.split}: needs val or test; train is what the answers are learned from")

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are read: train, val, and test where it is asked for."""
        return ("train", "val") if self.split == "val" else ("train", "val", "test")

    @property
    def tiles(self) -> TileSettings:
        """How its patches are cut."""
        return TileSettings(self.mpp, self.fov_px, self.coordinates, DOT_OFFSETS_PX.get(self.dataset, 0.0))

    def patches(self, split: str) -> list[LabelledPatch]:
        """The patches of one of its splits."""
        return read_labelled_patches(self.dataset, self.data, split)


@dataclass(frozen=True)
class ScoredFeatures:
    """Features of every split that a protocol needs, and what people should know of their tiles."""

    request: EvaluationRequest
    class_names: tuple[str, ...]
    splits: dict[str, NucleusFeatures] = field(repr=False)
    notes: tuple[str, ...] = ()

    def head(self, task: str) -> dict[str, Any]:
        """How every answer begins."""
        request = self.request
        return {
            "task": task,
            "dataset": request.dataset,
            "split": request.split,
            "checkpoint": request.checkpoint,
            "protocol": f"{request.mpp:g} um/px, {request.fov_px} px, {request.coordinates} coordinates",
            "radius_um": None,  # nuclei are given, none is to be found
            "mpp": request.mpp,
            "fov_px": request.fov_px,
            "coordinates": request.coordinates,
        }


def read_features(
    encoder: NucleusEncoder | MapEncoder,
    request: EvaluationRequest,
    *,
    batch_tiles: int = 8,
    on_tiles: OnTiles = lambda split, tiles, nuclei: None,
) -> ScoredFeatures:
    """Read, tile and encode every split that the request needs, each once.

    Raises:
        ConfigError: unknown dataset, or tiles that cannot be cut.
        DatasetError: the data, or what the encoder returned, are not what they should be.
    """
    found: dict[str, NucleusFeatures] = {}
    class_names: tuple[str, ...] = ()
    notes: dict[str, None] = {}  # an ordered set
    for split in request.splits:
        patches = request.patches(split)
        class_names = patches[0].class_names
        notes |= dict.fromkeys(made_up(patches, request.tiles))
        found[split] = extract_features(
            encoder,
            cut_tiles(patches, request.tiles),
            batch_tiles=batch_tiles,
            name=request.checkpoint,
            on_batch=partial(on_tiles, split),
        )
    return ScoredFeatures(request, class_names, found, tuple(notes))


def evaluate_knn(scored: ScoredFeatures, *, ks: Sequence[int] = KS) -> dict[str, Any]:
    """K-nearest-neighbour accuracy.

    Returns:
        The head; `accuracy` and all of `accuracy_report` at the `k` that is best on the split itself, as the paper
        reports it; `by_k`; `k_from_val` and `accuracy_k_from_val`, the fair ones; `n_bank`; and `notes`.

    Raises:
        ConfigError: a k below 1.
    """
    split, bank = scored.request.split, scored.splits["train"]
    used = usable_ks(ks, len(bank.features))
    predicted = {}
    for name in {"val", split}:
        neighbours = nearest(bank.features, scored.splits[name].features, max(used))
        predicted[name] = vote(neighbours, bank.class_ids, used, n_classes=len(scored.class_names))
    by_k = {k: accuracy_percent(found, scored.splits[split].class_ids) for k, found in predicted[split].items()}
    on_val = {k: accuracy_percent(found, scored.splits["val"].class_ids) for k, found in predicted["val"].items()}
    best, chosen = _best_k(by_k), _best_k(on_val)
    notes = []
    if used != tuple(sorted(set(ks))):
        notes.append(f"the train split has {len(bank.features)} nuclei; k is one of {', '.join(map(str, used))}")
    return {
        **scored.head("knn"),
        **accuracy_report(predicted[split][best], scored.splits[split].class_ids, scored.class_names),
        "k": best,
        "by_k": {str(k): value for k, value in by_k.items()},
        "k_from_val": chosen,
        "accuracy_k_from_val": by_k[chosen],
        "n_bank": len(bank.features),
        "notes": [*notes, *scored.notes],
    }


def evaluate_finetune(
    encoder: NucleusEncoder | MapEncoder,
    request: EvaluationRequest,
    *,
    settings: EncoderFinetuneSettings | None = None,
    seed: int = SEED,
    on_tiles: OnTiles = lambda split, tiles, nuclei: None,
    on_epoch: Callable[[int, float], None] = lambda epoch, accuracy: None,
) -> dict[str, Any]:
    """Accuracy of the whole network fine-tuned from the linear protocol's layer; the encoder is changed.

    Returns:
        The head, all of `accuracy_report`, `epoch`, `validation_accuracy` and `linear_accuracy` (percent; what it
        started from, on the same split), and `notes`.

    Raises:
        ConfigError: the encoder is a callable, which nothing can train.
    """
    if not isinstance(encoder, MapEncoder):
        raise ConfigError(f"{request.checkpoint}: a callable cannot be fine-tuned; give --checkpoint or timm:NAME")
    settings = settings or EncoderFinetuneSettings()
    scored = read_features(encoder, request, on_tiles=on_tiles)
    train, val, asked = (scored.splits[name] for name in ("train", "val", request.split))
    start = train_linear(
        (train.features, train.class_ids),
        (val.features, val.class_ids),
        n_classes=len(scored.class_names),
        settings=settings.linear,
        seed=seed,
    )
    linear = accuracy_percent(predict(start.layer, asked.features), asked.class_ids)
    tiles = {split: list(cut_tiles(request.patches(split), request.tiles)) for split in request.splits}
    result = finetune(
        encoder, start.layer, tiles["train"], tiles["val"], settings=settings, seed=seed, on_epoch=on_epoch
    )
    predicted, class_ids = predict_tiles(encoder, start.layer, tiles[request.split])
    return {
        **scored.head("finetune"),
        **accuracy_report(predicted, class_ids, scored.class_names),
        "epoch": result.epoch,
        "validation_accuracy": 100 * result.validation_accuracy,
        "linear_accuracy": linear,
        "notes": _trained_notes(scored),
    }


def _trained_notes(scored: ScoredFeatures) -> list[str]:
    chosen = ["the epoch was chosen on this split"] if scored.request.split == "val" else []
    return [*chosen, *scored.notes]


def _best_k(accuracy_by_k: dict[int, float]) -> int:
    """The k of highest accuracy, the smallest of equals."""
    return max(accuracy_by_k, key=lambda k: (accuracy_by_k[k], -k))


def evaluate_linear(
    scored: ScoredFeatures, *, settings: LinearSettings | None = None, seed: int = SEED
) -> dict[str, Any]:
    """Accuracy of a linear layer trained on the train split, of the epoch best on validation.

    Returns:
        The head, all of `accuracy_report`, `epoch`, `validation_accuracy` (percent), `n_train` and `notes`.
    """
    train, val, asked = (scored.splits[name] for name in ("train", "val", scored.request.split))
    result = train_linear(
        (train.features, train.class_ids),
        (val.features, val.class_ids),
        n_classes=len(scored.class_names),
        settings=settings,
        seed=seed,
    )
    return {
        **scored.head("linear"),
        **accuracy_report(predict(result.layer, asked.features), asked.class_ids, scored.class_names),
        "epoch": result.epoch,
        "validation_accuracy": 100 * result.validation_accuracy,
        "n_train": len(train.features),
        "notes": _trained_notes(scored),
    }
