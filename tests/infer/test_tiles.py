import numpy as np
import pytest
import shapely
from shapely import Polygon

from muse_core.geometry import Box
from muse_core.infer.tiles import CELL_PX, SHAPE_STEP_PX, TileGrid, in_batches, in_groups, plan_tiles, seen_px

FAR = Box(-100_000, -100_000, 200_000, 200_000)
GRID = TileGrid(window_px=1024, margin_px=128, grid_px=16, bounds=FAR)


def square(left: float, top: float, side: float) -> Polygon:
    return shapely.box(left, top, left + side, top + side)


def test_one_small_area_is_one_tile_no_larger_than_it_needs():
    (tile,) = plan_tiles([square(600, 700, 100)], GRID)
    # Cells of 64 px that hold some of 600..700: 576..704; of 700..800: 640..832.
    assert (tile.core.x, tile.core.y, tile.core.width, tile.core.height) == (576, 640, 128, 192)
    # 576 - 128 = 448 lies on the grid; to 704 + 128 are 384 px, six steps of 64.
    assert (tile.x, tile.width) == (448, 384)
    assert (tile.y, tile.height) == (512, 448)
    assert seen_px([tile]) == 384 * 448


@pytest.mark.parametrize("offset", [(0, 0), (37, 53), (-101, 7), (511, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_point_of_the_area_has_one_owner_that_sees_its_surroundings(offset, seed):
    rng = np.random.default_rng(seed)
    area = [shapely.convex_hull(shapely.MultiPoint(rng.uniform(-200, 3000, (6, 2)))), square(3500.5, 10.25, 40)]
    tiles = plan_tiles(area, TileGrid(1024, 128, 16, FAR, offset, shape_px=300_000))
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
    tiles = plan_tiles([square(0, 0, 2000)], TileGrid(1024, 100, 16, FAR, (37, 53)))
    assert all(tile.x % 16 == 0 and tile.y % 16 == 0 for tile in tiles)
    assert all(tile.width % SHAPE_STEP_PX == 0 and tile.height % SHAPE_STEP_PX == 0 for tile in tiles)
    assert any(tile.core.x % CELL_PX for tile in tiles)


def test_windows_end_with_the_slide_and_rather_look_back_than_beyond():
    (tile,) = plan_tiles([square(0, 0, 500)], TileGrid(1024, 128, 32, Box(0, 0, 500, 3000)))
    assert (tile.x, tile.width) == (0, 512), "the slide is 500 px wide"
    assert (tile.y, tile.height) == (0, 640), "nothing lies above; 512 of the core and 128 below"
    (tile,) = plan_tiles([square(1500, 1500, 400)], TileGrid(1024, 128, 32, Box(0, 0, 1900, 1900)))
    # The core ends at 1920, the slide at 1900: the window at 1920, the first multiple of 32 there, and not at 2048.
    assert (tile.x + tile.width, tile.y + tile.height) == (1920, 1920)
    assert tile.x <= tile.core.x - 128


def test_no_tile_where_there_is_no_area():
    ring = Polygon(shapely.box(0, 0, 5120, 5120).exterior, [shapely.box(500, 500, 4600, 4600).exterior])
    tiles = plan_tiles([ring], GRID)
    hole = shapely.box(600, 600, 4500, 4500)
    cores = [shapely.box(tile.core.x, tile.core.y, tile.core.right, tile.core.bottom) for tile in tiles]
    assert sum(core.intersection(hole).area for core in cores) < 0.02 * hole.area
    assert plan_tiles([], GRID) == []


def test_an_area_that_ends_on_a_border_of_cells_takes_none_beyond():
    (tile,) = plan_tiles([square(0, 0, 512)], GRID)
    assert (tile.core.width, tile.core.height) == (512, 512)


def test_compact_areas_are_seen_hardly_more_than_once():
    wide = TileGrid(window_px=3072, margin_px=160, grid_px=32, bounds=FAR)
    assert seen_px(plan_tiles([square(0, 0, 8000)], wide)) < 1.26 * 8000**2
    assert seen_px(plan_tiles([square(0, 0, 20000)], wide)) < 1.28 * 20000**2
    round_one = shapely.Point(10_000, 10_000).buffer(10_000)
    assert seen_px(plan_tiles([round_one], wide)) < 1.37 * round_one.area


def test_rare_shapes_are_enlarged_where_that_is_cheaper_than_one_shape_more():
    area = [square(0, 0, 640), square(5120, 0, 640), square(10_240, 0, 600)]
    apart = TileGrid(1024, 128, 16, FAR, shape_px=0)
    assert [tile.shape for tile in plan_tiles([*area, square(0, 5120, 64)], apart)] == [
        (896, 896),
        (896, 896),
        (896, 896),
        (320, 320),
    ], "the largest first; 600 px take as many cells as 640"
    together = TileGrid(1024, 128, 16, FAR, shape_px=896**2)
    tiles = plan_tiles([*area, square(0, 5120, 64)], together)
    assert {tile.shape for tile in tiles} == {(896, 896)}
    assert [tile.number for tile in tiles] == [0, 1, 2, 3]


def test_groups_are_consecutive():
    tiles = plan_tiles([square(0, 0, 5000)], GRID)
    groups = in_groups(tiles, 5)
    assert [tile.number for group in groups for tile in group] == list(range(len(tiles)))
    assert {len(group) for group in groups[:-1]} == {5}


def test_batches_hold_one_shape_and_every_tile():
    tiles = plan_tiles([square(0, 0, 1300), square(3000, 0, 60)], GRID)
    batches = in_batches(tiles, 3)
    assert sorted(tile.number for batch in batches for tile in batch) == list(range(len(tiles)))
    assert all(len({tile.shape for tile in batch}) == 1 and len(batch) <= 3 for batch in batches)
    assert len({tile.shape for tile in tiles}) > 1
