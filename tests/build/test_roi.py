"""A ROI's stored image: broken tiles are refused, and pixels lie where the ROI is said to."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import shapely

from muse_core.build.roi import build_roi, copyable_tiles
from muse_core.build.rois import RoiBox, RoiSettings, select_rois
from muse_core.errors import SlideReadError
from muse_core.roi_dataset.image import RoiImage, RoiImageSettings
from muse_core.slide import open_slide
from muse_core.tissue import Tissue
from tests.data.make_slides import Drawing, break_tile, draw_aperio, draw_tiff, tissue_image


def box_at(x: int, y: int, side_px: int) -> RoiBox:
    """A ROI of level-0 px of a slide of 0.25 µm/px."""
    return RoiBox(float(x), float(y), float(side_px), float(side_px), side_px, side_px, 0.25, 1.0, 1.0, level=0)


@pytest.mark.parametrize("copy_tiles", [True, False])
@pytest.mark.parametrize("keep_bytes", [0, 40, 700])
def test_a_roi_with_a_broken_tile_is_refused_copied_or_decoded(tmp_path, keep_bytes, copy_tiles):
    path = draw_aperio(tmp_path / "a.svs", tissue_image(1200, 960, seed=1)[0], Drawing(tile_px=240))
    break_tile(path, 3, 1, keep_bytes=keep_bytes)
    with open_slide(path) as slide, copyable_tiles(slide, 0.25) as tiles:
        source = tiles if copy_tiles else None
        with pytest.raises(SlideReadError, match="tile 3, 1"):
            build_roi(slide, box_at(480, 0, 480), None, source, RoiImageSettings())
        image, _ = build_roi(slide, box_at(0, 0, 480), None, source, RoiImageSettings())
        difference = RoiImage(image).decode().astype(int) - slide.read_level(0, 0, 480, 480)
        assert np.abs(difference).mean() <= (0 if copy_tiles else 2)


class Looking:
    """A detector that keeps what it was shown."""

    margin_um = 10.0

    def __call__(self, rgb, mpp):
        self.rgb, self.mpp = rgb, mpp
        return np.array([[41.5 + 96, 42.5 + 96, 1.0]], np.float32)


@pytest.mark.parametrize(("mpp", "level"), [((0.25, 0.2525), 0), ((0.0625, 0.063), 1)])
def test_native_rois_hold_the_rectangle_they_name_though_pixels_are_not_square(tmp_path, mpp, level):
    path = draw_tiff(tmp_path / "a.tif", np.tile(tissue_image(750, 1250, seed=2)[0], (2, 4, 1)), Drawing(mpp, (1, 4)))
    settings = RoiSettings(size_px=300, native_mpp_tolerance=0.02, max_per_slide=4)
    with open_slide(path) as slide:
        tissue = Tissue((shapely.box(0, 0, 3000, 2500),), 250.0)
        boxes = select_rois(slide, tissue, settings, key="a")
        size = slide.info.levels[level]
        with copyable_tiles(slide, boxes[0].mpp) as tiles:
            for box in boxes:
                assert box == RoiBox(**json.loads(json.dumps(asdict(box))))
                assert box.level == level
                assert box.mpp == pytest.approx(math.sqrt(mpp[0] * mpp[1]) * size.downsample_x, rel=1e-4)
                assert (box.width_level0, box.height_level0) == (300 * size.downsample_x, 300 * size.downsample_y)
                x, y = int(box.x_level0 / size.downsample_x), int(box.y_level0 / size.downsample_y)
                image, _ = build_roi(slide, box, None, tiles, RoiImageSettings())
                expected = slide.read_level(x, y, 300, 300, level=level)
                assert np.array_equal(RoiImage(image).decode(), expected), "copied"
                detector = Looking()
                build_roi(slide, box, detector, None, RoiImageSettings())
                margin = math.ceil(10.0 / box.mpp)
                seen = slide.read_level(x - margin, y - margin, 300 + 2 * margin, 300 + 2 * margin, level=level)
                assert np.array_equal(detector.rgb[-seen.shape[0] :, -seen.shape[1] :], seen), "with its surroundings"
