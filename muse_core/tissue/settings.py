"""What counts as tissue, in micrometres and optical densities."""

from pydantic import Field

from muse_core.config import Settings


class TissueSettings(Settings):
    """How tissue is found; every length and area is physical, so that one setting fits every slide.

    Attributes:
        overview_mpp: µm/px of the overview the mask is drawn on; nuclei blur together, tissue edges stay.
        max_overview_px: longest side of that overview; larger slides get a coarser one, so that memory is bounded.
        min_stain_od: least stain (optical density of green beyond the lesser of red and blue) of a pixel of tissue; the
            noise of clean glass stays below 0.01.
        max_stain_od: dirty glass raises the threshold, but never beyond this.
        smoothing_um: radius over which stain is averaged before the threshold.
        min_texture_od: least local variation of colour (optical density) of pale tissue beside well-stained tissue;
            clean glass stays below 0.003, stroma whose only stain is its nuclei's shows 0.007 to 0.1.
        texture_um: window of that variation: a few nuclei.
        min_faint_width_um: narrower pale regions are dropped, unless they are well stained.
        closing_um: gaps up to about twice this are bridged (lumens, fat, tears).
        opening_um: strands and specks thinner than about twice this are dropped (fibres, coverslip edges), but for
            well-stained strands of tissue.
        min_strand_area_um2: least area of such a strand, which is stained by more than max_stain_od and hangs on tissue
            of min_area_um2; none is kept on a slide with ink.
        rounding_um: notches and spikes of an outline are smoothed away on about this scale.
        min_area_um2: smaller pieces are dropped, unless they are a quarter of the slide.
        min_hole_area_um2: smaller holes are filled.
        simplify_um: how far a polygon's outline may move when points are left out.
        min_ink_width_um: pen strokes are wider than this; smaller spots of a strange colour are left to the stain test.
        min_focus: least sharpness (see focus.py) of a window; 0 switches the focus check off.
        focus_mpp: µm/px of the windows on which focus is judged.
        focus_window_px: their side.
        focus_step_um: distance between them.
        max_focus_windows: at most so many are read; larger slides get a wider step.
    """

    overview_mpp: float = Field(8.0, gt=0)
    max_overview_px: int = Field(4096, ge=64)
    min_stain_od: float = Field(0.02, gt=0)
    max_stain_od: float = Field(0.08, gt=0)
    smoothing_um: float = Field(6.0, ge=0)
    min_texture_od: float = Field(0.005, gt=0)
    texture_um: float = Field(40.0, gt=0)
    min_faint_width_um: float = Field(100.0, gt=0)
    closing_um: float = Field(40.0, ge=0)
    opening_um: float = Field(12.0, ge=0)
    min_strand_area_um2: float = Field(2_000.0, ge=0)
    rounding_um: float = Field(12.0, ge=0)
    min_area_um2: float = Field(20_000.0, ge=0)
    min_hole_area_um2: float = Field(10_000.0, ge=0)
    simplify_um: float = Field(8.0, ge=0)
    min_ink_width_um: float = Field(60.0, gt=0)
    min_focus: float = Field(0.20, ge=0)
    focus_mpp: float = Field(1.0, gt=0)
    focus_window_px: int = Field(128, ge=32)
    focus_step_um: float = Field(256.0, gt=0)
    max_focus_windows: int = Field(128, ge=1)
