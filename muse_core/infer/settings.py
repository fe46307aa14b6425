"""Settings of slide inference."""

from typing import Annotated, Literal

from pydantic import Field

from muse_core.cohort.acquire import AcquireSettings
from muse_core.config import Settings, settings_hash
from muse_core.images.plausible_mpp import NUCLEI_MPP
from muse_core.tissue import TissueSettings

# Raised by hand whenever code changes what inference writes for the same inputs, so that reruns redo it.
INFER_VERSION = 6


class InferSettings(Settings):
    """Everything configurable about slide inference; one TOML section a field.

    Attributes:
        tissue: how tissue is found.
        acquire: how slides are fetched (never changes the tables).
        coarsest_mpp: µm/px of level 0; a coarser slide fails.
        whole_images: whether PNG and JPEG images are worked on whole: whoever cut them out has looked for tissue.
        min_score: nuclei below are left out; models score so that 0.5 gives the best F1 on validation.
        edge_um: nuclei so far outside the tissue's outline are kept, with `in_tissue` false: the outline is simplified
            by about half of this.
        engine: what runs the network: `torch`; `openvino`, on CPUs, in int8, with weights that `muse quantise` made
            and that lie beside the checkpoint; or `auto`, the latter where it is faster and they do.
        window_px: side of the largest square that the network sees at once, px of the model; windows that are not
            square have no more px. A tile owns what its margins leave of it. Larger ones waste less on margins,
            smaller ones need less memory. None for 3072 with openvino, 1280 with torch on a CPU and 2048 on a GPU.
        seam_um: two tiles see one nucleus at places nearer to each other than this; of such nuclei at their border one
            stays.
        group_tiles: tiles that are kept together, and lost together by a kill; at most 1.9 mm² each, with torch 0.23.
        batch_tiles: tiles a call of the network; None for one on a CPU and as many as fit on a GPU.
        decode_on_gpu: whether, with --device cuda, slides that cuCIM opens are decoded in the GPU's memory: one tile
            after another, 101 in 80 s on an H100 without GPUDirect Storage.
        offset_px: shifts the borders of tiles, px of the model (to measure what depends on them).
        embedding: whether each nucleus's features are kept, where the model has any.
    """

    tissue: TissueSettings = TissueSettings()
    acquire: AcquireSettings = AcquireSettings()
    coarsest_mpp: Annotated[float, Field(gt=0)] = NUCLEI_MPP[1]
    whole_images: bool = True
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.5
    edge_um: Annotated[float, Field(ge=0)] = 16.0
    engine: Literal["auto", "torch", "openvino"] = "auto"
    window_px: Annotated[int, Field(ge=256)] | None = None
    seam_um: Annotated[float, Field(ge=0)] = 1.0
    group_tiles: Annotated[int, Field(ge=1)] = 4
    batch_tiles: Annotated[int, Field(ge=1)] | None = None
    decode_on_gpu: bool = False
    offset_px: tuple[int, int] = (0, 0)
    embedding: bool = False

    def tables_hash(self) -> str:
        """Changes exactly when the tables would: how slides are fetched and how work is cut up is left out."""
        return f"{INFER_VERSION}-{settings_hash(self.model_copy(update=_NEUTRAL))}"

    def pieces_hash(self) -> str:
        """Changes when the tiles of a slide are others: staged pieces of one layout are of no use to another."""
        return settings_hash(self.model_copy(update={name: _NEUTRAL[name] for name in _NEUTRAL.keys() - _PIECES}))


# What changes no row but by rounding, at the value that stands for all of them.
_PIECES = {"window_px", "group_tiles"}
_NEUTRAL: dict[str, object] = {
    name: InferSettings.model_fields[name].default
    for name in ("acquire", "window_px", "group_tiles", "batch_tiles", "decode_on_gpu")
}
