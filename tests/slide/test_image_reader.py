"""PNG and JPEG images as slides: upright by their EXIF."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from muse_core.errors import ConfigError
from muse_core.images.decode import read_rgb
from muse_core.slide import open_slide
from tests.data.make_slides import tissue_image


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 0, 9])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_turns_the_whole_picture(tmp_path, orientation, suffix):
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(tissue_image(160, 112, mpp=1.0, seed=1)[0])
    stored.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    with Image.open(path) as image:
        seen = np.asarray(ImageOps.exif_transpose(image))  # an independent hand
    with open_slide(path, mpp_override=0.5) as slide:
        assert (slide.info.height_level0, slide.info.width_level0) == seen.shape[:2]
        whole = slide.read_level(0, 0, seen.shape[1], seen.shape[0])
        np.testing.assert_array_equal(whole, seen)
        said = any(f"EXIF orientation {orientation}" in one for one in slide.info.judgement)
        assert said == (orientation in range(2, 9))
    assert np.abs(read_rgb(path).astype(int) - seen).max() <= 3, "labels are read from the same picture"


def test_an_image_has_one_scene(tmp_path):
    Image.fromarray(tissue_image(160, 112, mpp=1.0, seed=1)[0]).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="scene 2 is not in the file, which has one scene only"):
        open_slide(tmp_path / "a.png", mpp_override=0.5, scene=2)
