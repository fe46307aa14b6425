"""Outlines of known masks, and their area."""

import cv2
import numpy as np
import pytest
import shapely

from muse_core.geometry import Frame
from muse_core.tissue import Tissue, TissueSettings, mask_to_polygons, tissue_area_mm2

SETTINGS = TissueSettings()
MPP = 8.0
IDENTITY = Frame(0.0, 0.0, 1.0, 1.0)


class TestMaskToPolygons:
    def test_rectangle_is_exact(self):
        mask = np.zeros((100, 100), bool)
        mask[10:40, 20:90] = True
        (polygon,) = mask_to_polygons(mask, Frame(5.0, 7.0, 16.0, 8.0), SETTINGS, mpp=MPP)
        expected = shapely.box(5 + 20 * 16, 7 + 10 * 8, 5 + 90 * 16, 7 + 40 * 8)
        assert polygon.symmetric_difference(expected).area == pytest.approx(0, abs=1e-6)

    def test_holes_are_kept_and_islands_in_them(self):
        mask = np.zeros((120, 120), bool)
        mask[10:110, 10:110] = True
        mask[30:90, 30:90] = False
        mask[45:75, 45:75] = True
        ring, island = mask_to_polygons(mask, IDENTITY, TissueSettings(simplify_um=4.0), mpp=MPP)
        assert (len(ring.interiors), len(island.interiors)) == (1, 0)
        assert ring.area == pytest.approx(100**2 - 60**2, abs=2)
        assert island.area == pytest.approx(30**2, abs=1e-6)

    def test_small_pieces_and_holes_go_by_their_area_in_um2(self):
        mask = np.zeros((200, 200), bool)
        mask[10:110, 10:110] = True
        mask[150:167, 150:167] = True  # 17 px: 18,496 um2, below 20,000
        mask[150:168, 100:118] = True  # 18 px: 20,736 um2
        mask[50:58, 50:58] = False  # 8 px: 4,096 um2, below 5,000
        mask[80:89, 80:89] = False  # 9 px: 5,184 um2
        settings = TissueSettings(min_hole_area_um2=5_000, simplify_um=4.0)
        large, small = mask_to_polygons(mask, IDENTITY, settings, mpp=MPP)
        assert small.area == pytest.approx(18**2, abs=0.5)
        assert len(large.interiors) == 1
        assert large.area == pytest.approx(100**2 - 9**2, abs=2)

    def test_slide_of_one_small_field_keeps_its_tissue(self):
        (polygon,) = mask_to_polygons(np.ones((14, 14), bool), IDENTITY, SETTINGS, mpp=MPP)  # 12,544 um2
        assert polygon.area == pytest.approx(14**2)

    def test_any_mask_gives_valid_disjoint_polygons_of_its_area(self):
        rng = np.random.default_rng(3)
        mask = cv2.GaussianBlur(rng.random((300, 300)).astype(np.float32), (0, 0), 4) > 0.5
        settings = TissueSettings(min_area_um2=0, min_hole_area_um2=0, simplify_um=0)
        polygons = mask_to_polygons(mask, IDENTITY, settings, mpp=MPP)
        assert all(polygon.is_valid for polygon in polygons)
        assert sum(polygon.area for polygon in polygons) == pytest.approx(mask.sum(), rel=0.02)
        assert shapely.union_all(polygons).area == pytest.approx(sum(p.area for p in polygons), rel=1e-3)

    def test_empty_mask(self):
        assert mask_to_polygons(np.zeros((10, 10), bool), IDENTITY, SETTINGS, mpp=MPP) == []


def test_area_counts_both_axes():
    assert tissue_area_mm2(Tissue((shapely.box(0, 0, 4000, 1000),)), 0.25, 0.5) == pytest.approx(0.5)
