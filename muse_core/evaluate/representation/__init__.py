"""How well a representation tells nuclei apart: the protocols of tables 1 and 2 of the paper, for any encoder."""

from muse_core.evaluate.published import PublishedScore, published_scores
from muse_core.evaluate.representation.encoders import MapEncoder, NucleusEncoder, encoder_named, load_encoder
from muse_core.evaluate.representation.finetune import EncoderFinetuneSettings
from muse_core.evaluate.representation.knn import KS
from muse_core.evaluate.representation.linear import LinearSettings
from muse_core.evaluate.representation.picture import draw_neighbours
from muse_core.evaluate.representation.protocols import (
    EvaluationRequest,
    ScoredFeatures,
    evaluate_finetune,
    evaluate_knn,
    evaluate_linear,
    read_features,
)
from muse_core.evaluate.representation.tiles import COORDINATES, TileSettings, cut_tiles

__all__ = [
    "COORDINATES",
    "KS",
    "EncoderFinetuneSettings",
    "EvaluationRequest",
    "LinearSettings",
    "MapEncoder",
    "NucleusEncoder",
    "PublishedScore",
    "ScoredFeatures",
    "TileSettings",
    "cut_tiles",
    "draw_neighbours",
    "encoder_named",
    "evaluate_finetune",
    "evaluate_knn",
    "evaluate_linear",
    "load_encoder",
    "published_scores",
    "read_features",
]
