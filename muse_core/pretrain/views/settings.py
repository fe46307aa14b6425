"""How views are cut and changed: counts, sides, scales, where they lie, and what happens to their colours."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from muse_core.config import Settings

Placement = Literal["anchored", "sub_roi", "uniform"]

Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]
MppRange = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Photometrics(Settings):
    """What happens to the pixels of one kind of view; nothing here moves a nucleus.

    Shares are probabilities. "DINO" is its released augmentation (Caron et al. 2021, arXiv 2104.14294, appendix): the
    paper of MUSE names none of its own beyond flips and scales.

    Attributes:
        stain_share: views whose amounts of haematoxylin, eosin and DAB change. Ours: laboratories differ so.
        stain_gain: each stain's amount is multiplied by 1 +- this, uniform. Source: "HED-strong" of Tellez et al. 2019,
            arXiv 1902.06543.
        stain_offset: of optical density, added to each stain's amount. A tenth of Tellez et al.'s,
            which turns glass grey.
        colour_share: views with colour jitter. DINO.
        brightness: factor 1 +- this. Half of DINO's: tissue is bright, and 1.4 makes pale tissue white.
        contrast: factor 1 +- this, about the mean grey. DINO.
        saturation: factor 1 +- this. DINO.
        hue: +- this share of the colour circle. Half of DINO's: beyond lie greens that no stain has.
        grey_share: views without colour. Half of DINO's 0.2: in H&E the colour says what is nucleus.
        blur_share: views out of focus. DINO, which sets it for each kind of view.
        blur_sigma_px: range of the blur's sigma, px of the view. DINO.
        noise_share: views with sensor noise. Ours.
        noise_sd: the most noise, standard deviation in grey values. Ours.
        jpeg_share: views compressed once more. Ours: slides and archives are JPEGs of many qualities.
        jpeg_quality: range of the quality. Ours.
        solarize_share: views whose bright half is inverted. Off: DINO's 0.2 of the second global view makes colours
            that no slide has.
    """

    stain_share: Share = 0.5
    stain_gain: Share = 0.2
    stain_offset: Strength = 0.02
    colour_share: Share = 0.8
    brightness: Share = 0.2
    contrast: Share = 0.4
    saturation: Share = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    grey_share: Share = 0.1
    blur_share: Share = 0.1
    blur_sigma_px: tuple[Strength, Strength] = (0.1, 2.0)
    noise_share: Share = 0.1
    noise_sd: Strength = 6.0
    jpeg_share: Share = 0.1
    jpeg_quality: tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]] = (50, 95)
    solarize_share: Share = 0.0

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "Photometrics":
        for name in ("blur_sigma_px", "jpeg_quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} = [{low}, {high}]: needs the smaller value first")
        return self


# Classes rather than values: `--set views.local.grey_share=0` then leaves the blur of local views as it is.
class FirstGlobalPhotometrics(Photometrics):
    """Of the first global view: always blurred, as in DINO."""

    blur_share: Share = 1.0


class LocalPhotometrics(Photometrics):
    """Of local views: every other one blurred, as in DINO."""

    blur_share: Share = 0.5


class ViewSettings(Settings):
    """How views are cut from a ROI. Sides are px of the view, mpp µm/px.

    Attributes:
        global_views: views that teacher and student see. Source: MUSE section 3.
        local_views: smaller views for the student. DINO's 8; MUSE does not say.
        global_px: side of global views; 512 for a large field of view. Source: MUSE section 4.
        local_px: side of local views; 208 beside 512. Source: MUSE section 4.
        global_mpp: range of scales of global views, each view its own. Source: MUSE section 4, 20x to 40x.
        local_mpp: the same of local views.
        mpp_distribution: uniform in mpp, or in its logarithm; MUSE does not say.
        placement: where the views of a ROI lie to one another, on which MUSE is silent. Independent positions in a ROI
            of 512 µm leave nine of ten pairs of views without a common nucleus, so that by default all views contain
            one random nucleus, each at a random place (`anchored`). `sub_roi`: independent within a random part of the
            ROI; `uniform`: independent within the whole.
        sub_roi_scale: side of that part over the side of the ROI's largest view.
        border_px: a nucleus closer than this to a view's border counts as outside, for it is seen cut.
        max_nuclei: nuclei of a ROI used at most, a random choice of those that its views show: bounds the cost of a
            step, and dense slides don't drown the others.
        mirror_share: views that are mirrored.
        quarter_turns: whether views are turned by 0 to 3 quarters: tissue has no upright.
        first_global: colours and sharpness of the first global view.
        other_global: of the other global views.
        local: of the local views.
    """

    global_views: Annotated[int, Field(ge=1, le=8)] = 2
    local_views: Annotated[int, Field(ge=0, le=32)] = 8
    global_px: Annotated[int, Field(ge=32, multiple_of=16)] = 224
    local_px: Annotated[int, Field(ge=32, multiple_of=16)] = 96
    global_mpp: MppRange = (0.25, 0.5)
    local_mpp: MppRange = (0.25, 0.5)
    mpp_distribution: Literal["uniform", "log-uniform"] = "uniform"
    placement: Placement = "anchored"
    sub_roi_scale: Annotated[float, Field(ge=1)] = 1.25
    border_px: Annotated[float, Field(ge=0, lt=16)] = 4.0
    max_nuclei: Annotated[int, Field(ge=1)] = 128
    mirror_share: Share = 0.5
    quarter_turns: bool = True
    first_global: FirstGlobalPhotometrics = FirstGlobalPhotometrics()
    other_global: Photometrics = Photometrics()
    local: LocalPhotometrics = LocalPhotometrics()

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "ViewSettings":
        for name in ("global_mpp", "local_mpp"):
            finest, coarsest = getattr(self, name)
            if finest > coarsest:
                raise ValueError(f"{name} = [{finest}, {coarsest}]: needs the finest mpp first")
        return self

    @property
    def n_views(self) -> int:
        """Global and local views a ROI."""
        return self.global_views + self.local_views

    def side_px(self, view: int) -> int:
        """Side of view 0..n_views - 1; the global ones come first."""
        return self.global_px if view < self.global_views else self.local_px

    def mpp_range(self, view: int) -> tuple[float, float]:
        """Finest and coarsest mpp of a view."""
        return self.global_mpp if view < self.global_views else self.local_mpp

    def photometrics(self, view: int) -> Photometrics:
        """What happens to the pixels of a view."""
        if view == 0:
            return self.first_global
        return self.other_global if view < self.global_views else self.local
