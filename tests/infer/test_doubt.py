from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_core.infer.doubt import slide_doubt, windows_on
from muse_core.models.familiar import describe, fitted
from muse_core.slide import open_slide

COLUMNS = ("x_level0", "y_level0", "score")


def staged(folder, xy, name):
    table = pa.table([xy[:, 0], xy[:, 1], np.full(len(xy), 0.9)], names=COLUMNS)
    pq.write_table(table, folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


@pytest.fixture
def nuclei(drawn):
    """Nuclei on a grid over the middle of the drawn slide, level-0 px."""
    path, _ = drawn
    with open_slide(path) as slide:
        width, height = slide.info.width_level0, slide.info.height_level0
    x, y = np.meshgrid(np.linspace(0.3, 0.7, 12) * width, np.linspace(0.3, 0.7, 12) * height)
    return path, np.column_stack([x.ravel(), y.ravel()])


def test_windows_around_nuclei_of_every_file_say_how_unlike_they_are(nuclei, tmp_path):
    path, xy = nuclei
    files = [staged(tmp_path, part, name) for part, name in ((xy[:40], "a"), (xy[40:40], "none"), (xy[40:], "b"))]
    with open_slide(path) as slide:
        mpp = slide.info.mpp.x
        side = 192
        rows = []
        for middle in xy:
            corner = middle - side / 2 * 0.5 / mpp
            image = slide.read_region(*corner.tolist(), side, side, mpp=0.5)
            rows.append(
                describe(image, (xy - corner) * mpp / 0.5, np.full(len(xy), 0.9), mpp=0.5, glass=(255, 255, 255))
            )
        known = fitted(np.stack(rows) + np.random.default_rng(0).normal(0, 0.05, (len(rows), 8)))
        same = slide_doubt(slide, files, known, (255, 255, 255))
        other = slide_doubt(slide, files, replace(known, mean=tuple(value + 3 for value in known.mean)), None)
    assert same.share < 0.1
    assert other.share == 1.0


def test_a_slide_without_nuclei_is_not_judged(nuclei, tmp_path):
    path, xy = nuclei
    known = fitted(np.random.default_rng(0).normal(size=(100, 8)))
    with open_slide(path) as slide:
        assert slide_doubt(slide, [staged(tmp_path, xy[:0], "none")], known, None) is None


def test_a_small_image_is_not_looked_at_again_and_again():
    assert windows_on(1400, 1200) == 32
    assert windows_on(48, 96) == 4
    assert windows_on(288, 192) == 12, "six windows, twice"
