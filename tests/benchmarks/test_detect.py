import pytest
import shapely

from benchmarks.detect import BLOB_LOG_PX, BLOB_LOG_TILES, tissue_tiles
from muse_core.models.nucleus_model import NETWORK_MPP
from muse_core.slide import open_slide
from muse_core.tissue import TissueSettings, find_tissue


def test_tiles_of_blob_log_count_their_tissue_and_no_glass(drawn):
    path, _ = drawn
    with open_slide(path) as slide:
        corners, tissue_mm2 = tissue_tiles(slide)
        tissue = shapely.unary_union(find_tissue(slide, TissueSettings()).polygons)
        mpp = slide.info.mpp
    step = BLOB_LOG_PX * NETWORK_MPP / mpp.x
    each = [tissue.intersection(shapely.box(x, y, x + step, y + step)).area * mpp.x * mpp.y * 1e-6 for x, y in corners]
    assert len(corners) == BLOB_LOG_TILES**2
    assert sum(each) == pytest.approx(tissue_mm2, rel=1e-6)
    assert 0 < tissue_mm2 <= (BLOB_LOG_TILES * BLOB_LOG_PX * NETWORK_MPP / 1000) ** 2
