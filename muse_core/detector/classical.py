"""A nucleus detector without training: haematoxylin, then the places its edges point at.

Three steps, all at physical sizes, so that any µm/px gives the same points:

    1. amount of haematoxylin, squashed to 0..1 about the slide's own level between nuclei and the rest, so that a pale
       nucleus counts nearly as much as a dark one;
    2. two maps of "a nucleus is centred here": a sum of scale-normalised blob filters (differences of Gaussians at
       nuclear radii), and votes that each edge casts along its gradient at nuclear radii, which hold a large vesicular
       nucleus together and part touching ones;
    3. local maxima of their sum, placed between pixels by a quadratic fit.
"""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import KDTree

from muse_core.config import Settings
from muse_core.detector.detect import check_image
from muse_core.errors import MppError
from muse_core.images.stain import StainMatrix, estimate_stains, optical_density, published_stains, separate

_BORDER = cv2.BORDER_REFLECT
_KERNEL_SIGMAS = 3.0  # where Gaussian kernels are cut off; sets the margin together with the widest of them
_MIN_SLOPE_PER_UM = 0.03  # edges weaker than this are texture; leaving them out saves a third of the time
_GLASS_OD = 0.15  # no channel above it: glass, which would pull the level down to part it from tissue
_MAX_STAIN_PIXELS = 200_000  # enough for stable percentiles and histograms
_HISTOGRAM_TOP_OD = 1.5  # haematoxylin above this is all "dark" to the threshold search


class DetectSettings(Settings):
    """Settings of the classical detector; lengths in µm, found on the BRCA-M2C training patches."""

    threshold: float = Field(default=0.5, ge=0, le=1)  # lowest score kept
    min_distance_um: float = Field(default=3.0, gt=0)  # two nuclei are not closer than this
    image_mpp: float = Field(default=0.5, gt=0)  # about the µm/px of the haematoxylin map and its gradients
    # About the µm/px of the maps whose maxima are taken. 1.0 halves the time and costs 0.5 points of F1, and crops then
    # give the same points only where their corners are twice as many pixels apart.
    map_mpp: float = Field(default=0.5, gt=0)
    max_mpp: float = Field(default=1.5, gt=0)  # coarser images show a small nucleus in two pixels
    softness: float = Field(default=0.5, gt=0)  # width of the squash about the nuclear level, as a share of that level
    min_level_od: float = Field(default=0.15, gt=0)  # haematoxylin below this is background even on a pale slide
    edge_sigma_um: float = Field(default=0.75, gt=0)  # smoothing before gradients: over chromatin grains
    vote_radii_um: tuple[float, ...] = Field(default=(2.0, 3.5, 5.0, 6.5), min_length=1)  # lymphocyte to large tumour
    vote_sigma_um: float = Field(default=1.5, gt=0)  # spread of a vote: how far from round a nucleus may be
    vote_weight: float = Field(default=0.6, ge=0)  # of the votes against the blob filters
    blob_sigmas_um: tuple[float, ...] = Field(default=(1.75, 3.0), min_length=1)  # radius / 1.41 of discs sought
    blob_ratio: float = Field(default=1.6, gt=1)  # outer over inner Gaussian
    min_nuclear: float = Field(default=0.3, ge=0, le=1)  # least mean of the 0..1 map about a centre, to refuse gaps
    half_score: float = Field(default=0.32, gt=0)  # map value that scores 0.5


@dataclass(frozen=True)
class SlideStain:
    """What the detector knows of a slide.

    Attributes:
        stains: the slide's stain vectors.
        level_od: amount of haematoxylin that parts nuclei from the rest of the tissue.
    """

    stains: StainMatrix
    level_od: float


@dataclass(frozen=True)
class ClassicalDetector:
    """RGB at a known mpp to nuclei; callable, without state, the same points for the same pixels.

    Not adapted to a slide it takes each image's own stain, so crops of one image differ; adapted by `for_slide`, a
    point depends on nothing farther away than `margin_um`.
    """

    settings: DetectSettings = field(default_factory=DetectSettings)
    stain: SlideStain | None = None

    @property
    def margin_um(self) -> float:
        """How much surrounding a point needs to come out the same in a crop."""
        widest = max(self.settings.blob_sigmas_um) * self.settings.blob_ratio * _KERNEL_SIGMAS
        votes = max(self.settings.vote_radii_um) + self.settings.vote_sigma_um * _KERNEL_SIGMAS
        return max(widest, votes + self.settings.edge_sigma_um * _KERNEL_SIGMAS) + 2 * self.settings.map_mpp

    def for_slide(self, tissue_rgb: NDArray[np.uint8]) -> "ClassicalDetector":
        """The detector with a slide's stain fixed.

        Args:
            tissue_rgb: uint8 (N, 3), pixels of the slide's tissue at about 0.5 µm/px; at more than 1 µm/px nuclei are
                averaged with their surroundings and the level comes out too low.
        """
        return replace(self, stain=estimate_slide_stain(tissue_rgb, min_level_od=self.settings.min_level_od))

    def __call__(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Find nuclei.

        Args:
            rgb: uint8 (H, W, 3).
            mpp: µm/px of `rgb`.

        Returns:
            float32 (N, 3): x, y in px of `rgb` (continuous, first pixel's centre at 0.5), score 0..1; by row.

        Raises:
            DatasetError: the image is not RGB uint8.
            MppError: mpp is not a positive number, or the image is too coarse to show nuclei.
        """
        check_image(rgb, mpp)
        if mpp > self.settings.max_mpp:
            raise MppError(
                f"image at {mpp} µm/px: at most {self.settings.max_mpp} needed to see nuclei; read it finer",
                reason="mpp_too_coarse",
            )
        binning = max(1, round(self.settings.image_mpp / mpp))
        image = _binned(rgb, binning)
        stain = self.stain or estimate_slide_stain(image.reshape(-1, 3), min_level_od=self.settings.min_level_od)
        nuclear = _nuclear_map(image, stain, self.settings.softness)
        step = max(1, round(self.settings.map_mpp / (binning * mpp)))
        peaks = _peaks(*_centre_maps(nuclear, binning * mpp, step, self.settings))
        return self._scored(peaks, step * binning, mpp, rgb.shape)

    def _scored(
        self, peaks: NDArray[np.float32], px_per_map_px: int, mpp: float, shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """Map px and map values to image px and scores; weak points, doubles and those of the padding dropped."""
        xy, score = peaks[:, :2] * px_per_map_px, peaks[:, 2] / (peaks[:, 2] + self.settings.half_score)
        kept = (xy < (shape[1], shape[0])).all(axis=1) & (score >= self.settings.threshold)
        points = np.column_stack([xy[kept], score[kept]])
        return points[_without_doubles(points, self.settings.min_distance_um / mpp)]


def estimate_slide_stain(tissue_rgb: NDArray[np.uint8], *, min_level_od: float) -> SlideStain:
    """Stain vectors and nuclear level of a slide.

    Args:
        tissue_rgb: uint8 (N, 3) pixels; glass among them is ignored.
        min_level_od: lower bound of the level.
    """
    if not len(tissue_rgb):
        return SlideStain(published_stains(), min_level_od)
    pixels = tissue_rgb[:: max(1, len(tissue_rgb) // _MAX_STAIN_PIXELS)]
    stains = estimate_stains(pixels)
    stained = pixels[(optical_density(pixels) > _GLASS_OD).any(axis=1)]
    if not len(stained):
        return SlideStain(stains, min_level_od)
    haematoxylin = separate(stained[:, None], stains)[:, 0, 0]
    return SlideStain(stains, max(min_level_od, _otsu(haematoxylin)))


def _otsu(amounts: NDArray[np.float32]) -> float:
    """The value that best parts the amounts (N,) in two classes.

    Source: Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    levels = (np.clip(amounts, 0, _HISTOGRAM_TOP_OD) * (255 / _HISTOGRAM_TOP_OD)).astype(np.uint8)
    value, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(value) * _HISTOGRAM_TOP_OD / 255


def _binned(rgb: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The image in means of factor x factor pixels.

    A whole factor keeps the scale exact and the grid fixed to the pixels, which a resize to a round mpp does not: the
    remaining difference in mpp goes into the filters' sizes.
    """
    if factor == 1:
        return rgb
    height, width = rgb.shape[:2]
    padded = cv2.copyMakeBorder(rgb, 0, -height % factor, 0, -width % factor, cv2.BORDER_REPLICATE)
    size = (padded.shape[1] // factor, padded.shape[0] // factor)
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA))


def _nuclear_map(image: NDArray[np.uint8], stain: SlideStain, softness: float) -> NDArray[np.float32]:
    """(H, W) float32 0..1: haematoxylin through a logistic curve that is 0.5 at the slide's nuclear level."""
    density = optical_density(image, background=stain.stains.background)
    amount = density.reshape(-1, 3) @ stain.stains.unmixing[:, 0]  # only one of the two stains, at half the cost
    squashed = np.exp(np.float32(1 / softness) - np.maximum(amount, 0) * np.float32(1 / (softness * stain.level_od)))
    return np.asarray(1 / (1 + squashed), np.float32).reshape(image.shape[:2])


def _centre_maps(
    nuclear: NDArray[np.float32], mpp: float, step: int, settings: DetectSettings
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Blob filters plus votes, and where a centre may lie, on a grid of step x step pixels of the nuclear map."""
    height, width = nuclear.shape
    padded = cv2.copyMakeBorder(nuclear, 0, -height % step, 0, -width % step, cv2.BORDER_REPLICATE)
    small = cv2.resize(padded, (padded.shape[1] // step, padded.shape[0] // step), interpolation=cv2.INTER_AREA)
    map_mpp = mpp * step
    centres = settings.vote_weight * _blurred(_votes(padded, mpp, step, settings), settings.vote_sigma_um / map_mpp)
    inner = [_blurred(small, sigma_um / map_mpp) for sigma_um in settings.blob_sigmas_um]
    for sigma_um, blob in zip(settings.blob_sigmas_um, inner, strict=True):
        outer = _blurred(small, settings.blob_ratio * sigma_um / map_mpp)
        centres += (blob - outer) / len(inner)
    # Edges of two nuclei can meet on the glass between them; a centre has some haematoxylin about it.
    return np.asarray(centres, np.float32), inner[0] > settings.min_nuclear


def _votes(nuclear: NDArray[np.float32], mpp: float, step: int, settings: DetectSettings) -> NDArray[np.float32]:
    """Each edge pixel votes for the points up its gradient at the nuclear radii, by the gradient's strength per µm.

    Source: after Loy and Zelinsky, Fast radial symmetry for detecting points of interest, 2003.
    """
    smooth = _blurred(nuclear, settings.edge_sigma_um / mpp)
    # Scharr's weights sum to 32 px a unit slope.
    first = step // 2
    slope_x, slope_y = (
        cv2.Scharr(smooth, cv2.CV_32F, along_x, 1 - along_x, borderType=_BORDER)[first::step, first::step] / (32 * mpp)
        for along_x in (1, 0)
    )
    slope = np.hypot(slope_x, slope_y)
    rows, columns = np.nonzero(slope > _MIN_SLOPE_PER_UM)
    weight = slope[rows, columns]
    direction = np.stack([slope_x[rows, columns], slope_y[rows, columns]]) / weight
    radii = [radius_um / (mpp * step) for radius_um in settings.vote_radii_um]
    # On a canvas with room for votes that fall outside, which spares a test for each of them. Steps are rounded before
    # the place is added: rounding must not depend on where in the image, or in which crop of it, an edge lies.
    room = int(np.ceil(max(radii))) + 1
    height, width = slope.shape[0] + 2 * room, slope.shape[1] + 2 * room
    place = (rows + room) * width + columns + room
    weight = weight.astype(np.float64)  # once, rather than in every count
    total = np.zeros(height * width)
    for radius in radii:
        across, down = np.floor(direction * np.float32(radius) + np.float32((first + 0.5) / step))
        total += np.bincount(place + (down * np.float32(width) + across).astype(np.intp), weight, total.size)
    return np.ascontiguousarray(total.reshape(height, width)[room:-room, room:-room], np.float32)


def _blurred(image: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    side = 2 * int(np.ceil(_KERNEL_SIGMAS * sigma_px)) + 1
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma_px, borderType=_BORDER))


def _peaks(centres: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Local maxima where they are allowed, (N, 3): x, y in map px (continuous frame), value > 0; by row."""
    highest = cv2.dilate(centres, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero((centres >= highest) & (centres > 0) & allowed)
    # Mirrored about the outermost pixels, so that a peak there stays on them.
    padded = np.asarray(cv2.copyMakeBorder(centres, 1, 1, 1, 1, cv2.BORDER_REFLECT_101))
    here = centres[rows, columns]
    dx = _vertex(padded[rows + 1, columns], here, padded[rows + 1, columns + 2])
    dy = _vertex(padded[rows, columns + 1], here, padded[rows + 2, columns + 1])
    return np.column_stack([columns + 0.5 + dx, rows + 0.5 + dy, here]).astype(np.float32)


def _vertex(before: NDArray[np.float32], here: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Offset in -0.5..0.5 of the top of the parabola through three neighbours."""
    bend = before - 2 * here + after
    return np.where(bend < 0, np.clip((before - after) / np.minimum(2 * bend, -1e-12), -0.5, 0.5), 0)


def _without_doubles(points: NDArray[np.float32], min_distance_px: float) -> NDArray[np.bool_]:
    """Which points (N, 3) stay when, best score first, each removes the weaker ones closer than the distance."""
    kept = np.ones(len(points), bool)
    if len(points) < 2:
        return kept
    pairs = KDTree(points[:, :2]).query_pairs(min_distance_px, output_type="ndarray")
    place = np.argsort(np.argsort(-points[:, 2], kind="stable"))  # 0 for the best score
    swapped = place[pairs[:, 0]] > place[pairs[:, 1]]
    pairs[swapped] = pairs[swapped, ::-1]
    for better, weaker in pairs[np.lexsort((place[pairs[:, 1]], place[pairs[:, 0]]))].tolist():
        if kept[better]:
            kept[weaker] = False
    return kept
