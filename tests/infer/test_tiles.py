import numpy as np
import pytest
import shapely
from shapely import Polygon

from muse_core.infer.tiles import SHAPE_STEP_PX, TileGrid, in_batches, in_groups, plan_tiles

GRID = TileGrid(core_px=512, margin_px=128, grid_px=16)


def square(left: float, top: float, side: float) -> Polygon:
    return shapely.box(left, top, left + side, top + side)


def test_one_small_area_is_one_tile_no_larger_than_it_needs():
    (tile,) = plan_tiles([square(600, 700, 100)], GRID)
    assert (tile.core.x, tile.core.y, tile.core.width, tile.core.height) == (592, 688, 512, 512), (
        "from the area's corner on"
    )
    # 600 - 128 = 472, the multiple of 16 below it is 464; from there to 700 + 128 are 364 px, two steps of 256.
    assert (tile.x, tile.width) == (464, 512)
    # 700 - 128 = 572 -> 560; to 800 + 128 = 928 are 368 px.
    assert (tile.y, tile.height) == (560, 512)


@pytest.mark.parametrize("offset", [(0, 0), (37, 53), (-101, 7), (511, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_point_of_the_area_has_one_owner_that_sees_its_surroundings(offset, seed):
    rng = np.random.default_rng(seed)
    area = [shapely.convex_hull(shapely.MultiPoint(rng.uniform(-200, 3000, (6, 2)))), square(3500.5, 10.25, 40)]
    tiles = plan_tiles(area, TileGrid(512, 128, 16, offset))
    points = rng.uniform(-300, 3700, (4000, 2))
    whole = shapely.union_all(area)
    for x, y in points[shapely.contains_xy(whole, *points.T)]:
        owners = [tile for tile in tiles if tile.core.x <= x < tile.core.right and tile.core.y <= y < tile.core.bottom]
        assert len(owners) == 1
        tile = owners[0]
        assert tile.x <= x - 128
        assert x + 128 <= tile.x + tile.width
        assert tile.y <= y - 128
        assert y + 128 <= tile.y + tile.height


def test_windows_start_on_the_grid_whatever_the_offset():
    tiles = plan_tiles([square(0, 0, 2000)], TileGrid(512, 100, 16, (37, 53)))
    assert all(tile.x % 16 == 0 and tile.y % 16 == 0 for tile in tiles)
    assert all(tile.width % SHAPE_STEP_PX == 0 and tile.height % SHAPE_STEP_PX == 0 for tile in tiles)
    assert any(tile.core.x % 16 for tile in tiles)


def test_no_tile_where_there_is_no_area():
    ring = Polygon(shapely.box(0, 0, 5120, 5120).exterior, [shapely.box(500, 500, 4600, 4600).exterior])
    tiles = plan_tiles([ring], GRID)
    assert len(tiles) == 10 * 10 - 7 * 7, "those of rows and columns 1 to 7 lie in the hole"
    assert plan_tiles([], GRID) == []


def test_order_keeps_neighbours_together():
    tiles = plan_tiles([square(0, 0, 512 * 8 - 1)], GRID)
    assert [tile.number for tile in tiles] == list(range(64))
    for group in in_groups(tiles, 16):
        columns = {tile.core.x for tile in group}
        rows = {tile.core.y for tile in group}
        assert (len(columns), len(rows)) == (4, 4), "sixteen tiles are a square of four"


def test_batches_hold_one_shape_and_every_tile():
    tiles = plan_tiles([square(0, 0, 1300), square(2000, 0, 60)], GRID)
    batches = in_batches(tiles, 3)
    assert sorted(tile.number for batch in batches for tile in batch) == list(range(len(tiles)))
    assert all(len({tile.shape for tile in batch}) == 1 and len(batch) <= 3 for batch in batches)
    assert len({tile.shape for tile in tiles}) > 1
