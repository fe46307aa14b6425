"""Thin strands that hang on tissue: as narrow as fibres and glass edges, but stained as only tissue is."""

from muse_core.tissue.morphology import Mask, closed, dilated, grown
from muse_core.tissue.settings import TissueSettings

_RIM_PX = 1  # of overview: what lies so near the tissue is its own edge, which rounding has smoothed
_GAP_PX = 1  # of overview, within a strand
_HALF_WIDTH_UM = 24.0  # what is stained beyond that from a strand's middle is no part of it


def with_strands(tissue: Mask, stained: Mask, surely: Mask, mpp: float, settings: TissueSettings) -> Mask:
    """The tissue, and the strands that opening and rounding have cut off it, or cut in pieces too small to be kept.

    Args:
        tissue: bool (H, W).
        stained: bool (H, W), pixels stained as tissue is, or as dirty glass may be.
        surely: bool (H, W), those stained more than any glass, and not by ink.
        mpp: µm/px of the masks.
        settings: least area of a strand; least area of the tissue that it hangs on.

    Returns:
        bool (H, W); what hangs on no such tissue is left as it is in `tissue`.
    """
    main = grown(tissue, tissue, least_px=settings.min_area_um2 / mpp**2)
    middle = dilated(surely, max(1, round(_HALF_WIDTH_UM / mpp)))
    strand = closed((stained | tissue) & middle, _GAP_PX)
    off = strand & ~dilated(main, _RIM_PX)
    long = grown(surely & off, off, least_px=max(1.0, settings.min_strand_area_um2 / mpp**2))
    root = strand & dilated(long, _RIM_PX + 1)
    return tissue | grown(main, main | long | root)
