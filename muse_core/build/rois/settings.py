"""How ROIs are cut and chosen."""

from pydantic import Field

from muse_core.config import Settings


class RoiSettings(Settings):
    """Size, number and choice of a slide's ROIs.

    Attributes:
        size_px: side of a ROI. Source: MUSE's published ROI files, 2048 px at 0.25 µm/px.
        mpp: its µm/px.
        max_per_slide: at most so many. Source: MUSE, 483,627 ROIs over about 11,700 diagnostic slides, 41 a slide.
        min_tissue_fraction: least share of tissue. At 0.6 a view cut at random from a ROI is mostly tissue, yet needle
            biopsies and tissue edges still give ROIs.
        min_size_px: a slide smaller than a ROI gives a smaller ROI, down to this: what a 224 px view at 0.5 µm/px is
            cut from at 0.25 µm/px.
        seed: another seed makes another choice of the same quality; mixed with the slide's id, so that the order of
            slides doesn't matter.
        positions_per_side: shifted positions tried along each side of a ROI.
        max_positions: fewer are tried where a slide would have more than this.
        diversity: 0 takes the richest ROIs, 1 the ones most unlike those already taken.
        richness_mpp: µm/px of the overview that richness is judged on; nuclei still show as texture at 4.
        max_overview_px: longest side of that overview; larger slides get a coarser one.
        native_mpp_tolerance: where a level's µm/px is within this share of `mpp` on both axes, ROIs keep that level's
            own pixels and its true µm/px; 0 resamples to exactly `mpp`.
        max_upsampling: a slide coarser than `mpp` by more than this is refused; 2.5 lets 20x scans (0.5 µm/px) in.
    """

    size_px: int = Field(2048, ge=64)
    mpp: float = Field(0.25, gt=0)
    max_per_slide: int = Field(42, ge=1)
    min_tissue_fraction: float = Field(0.6, gt=0, le=1)
    min_size_px: int = Field(448, ge=1)
    seed: int = 0
    positions_per_side: int = Field(4, ge=1)
    max_positions: int = Field(60_000, ge=100)
    diversity: float = Field(0.4, ge=0, le=1)
    richness_mpp: float = Field(4.0, gt=0)
    max_overview_px: int = Field(4096, ge=64)
    native_mpp_tolerance: float = Field(0.0, ge=0, lt=0.5)
    max_upsampling: float = Field(2.5, ge=1)
