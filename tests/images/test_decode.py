import cv2
import numpy as np
import pytest
from PIL import Image

from muse_core.errors import DatasetError, SlideReadError
from muse_core.images.decode import decode_patch, read_rgb, size_px
from muse_core.slide import open_slide


def test_any_kind_of_image_becomes_rgb(tmp_path):
    red = np.full((4, 5, 4), (0, 0, 255, 255), np.uint8)  # BGRA
    red[0] = (0, 0, 0, 0)
    for name, pixels in (("rgba.png", red), ("rgb.png", red[..., :3]), ("grey.png", np.full((4, 5), 90, np.uint8))):
        cv2.imwrite(str(tmp_path / name), pixels)
    assert read_rgb(tmp_path / "rgba.png")[:2, 0].tolist() == [[255, 255, 255], [255, 0, 0]], "as in inference"
    assert read_rgb(tmp_path / "rgb.png")[1, 0].tolist() == [255, 0, 0]
    assert read_rgb(tmp_path / "grey.png")[3, 4].tolist() == [90, 90, 90]
    cv2.imwrite(str(tmp_path / "rgb16.png"), np.full((4, 5, 3), 4000, np.uint16))
    with pytest.raises(DatasetError, match="8-bit"):
        read_rgb(tmp_path / "rgb16.png")


def test_a_damaged_png_is_told_in_one_line_and_nothing_else_is_printed(tmp_path, capfd):
    whole = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (90, 80, 3), np.uint8))[1].tobytes()
    path = tmp_path / "a.png"
    for data in (whole[:9], whole[:40], whole[: len(whole) // 2], whole[:-12], whole[:999] + b"?!" + whole[1001:]):
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=r"a\.png: a PNG that is damaged or not whole; replace or delete it$"):
            read_rgb(path)
    assert capfd.readouterr().err == ""
    text = b"tEXtTitle\0slide"  # a chunk that no picture needs, its checksum wrong
    path.write_bytes(whole[:33] + len(text[4:]).to_bytes(4) + text + bytes(4) + whole[33:] + b"more")
    np.testing.assert_array_equal(read_rgb(path)[:, :, ::-1], cv2.imdecode(np.frombuffer(whole, np.uint8), 1))


def test_inks_are_decoded_strictly_where_the_marker_says_how_they_are_stored(tmp_path):
    cyan = Image.new("CMYK", (64, 48), (255, 0, 0, 0))
    cyan.save(tmp_path / "a.jpg")
    assert np.abs(read_rgb(tmp_path / "a.jpg")[20, 20].astype(int) - (0, 255, 255)).max() < 3
    data = (tmp_path / "a.jpg").read_bytes()
    marker = data.index(b"Adobe") - 4
    (tmp_path / "b.jpg").write_bytes(data[:marker] + data[marker + 16 :])
    with pytest.raises(DatasetError, match="CMYK that doesn't say whether its inks are inverted; save it as RGB"):
        read_rgb(tmp_path / "b.jpg")


def test_several_pictures_in_an_image_are_said(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 80, 3), np.uint8))
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture])
    with open_slide(tmp_path / "a.jpg", mpp_override=0.5) as slide:
        assert "the first of 2 pictures in the file" in slide.info.judgement
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    data[len(data) // 4 : len(data) // 4 + 64] = bytes(64)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(SlideReadError, match="damaged or not whole"):
        open_slide(tmp_path / "a.jpg", mpp_override=0.5)


@pytest.mark.parametrize(
    ("name", "mode", "orientation"),
    [
        ("a.png", "RGBA", 1),
        ("a.png", "P", 1),
        ("a.jpg", "RGB", 1),
        ("a.jpg", "RGB", 6),
        ("a.png", "RGB", 3),
        ("a.tif", "RGB", 6),
    ],
)
def test_slides_patches_and_labels_have_the_same_pixels(tmp_path, name, mode, orientation):
    """Colours, a palette, glass of any transparency, turned or not: one picture, whoever reads it."""
    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 4), np.uint8))
    picture = rgba if mode == "RGBA" else rgba.convert("RGB")
    picture = picture.quantize(16) if mode == "P" else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / name
    picture.save(path, exif=exif)
    expected = read_rgb(path)
    assert expected.shape == ((50, 40, 3) if orientation == 6 else (40, 50, 3))
    assert size_px(path) == expected.shape[1::-1]
    np.testing.assert_array_equal(decode_patch(path).rgb, expected)
    with open_slide(path, mpp_override=0.5) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, *size_px(path)), expected)
    if mode == "RGBA":
        alpha = np.asarray(rgba)[..., 3:] / 255
        over_white = np.asarray(rgba)[..., :3] * alpha + 255 * (1 - alpha)
        assert np.abs(expected - over_white).max() <= 0.51


@pytest.mark.parametrize(
    ("name", "content", "reason", "words"),
    [
        ("none.png", None, "not_found", "no such file"),
        ("empty.png", b"", "unreadable", "empty, 0 bytes"),
        ("text.png", b"no image", "unreadable", "8 bytes that are no PNG"),
        ("cut.jpg", "half", "unreadable", "damaged or not whole"),
        ("cut.png", "half", "unreadable", "a PNG that is damaged or not whole"),
        ("deep.png", "deep", "not_8_bit", "more than 8 bits a channel"),
    ],
)
def test_one_fault_has_one_line_and_one_reason_wherever_it_is_met(tmp_path, name, content, reason, words):
    path = tmp_path / name
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    if content == "half":
        data = cv2.imencode(path.suffix, pixels)[1].tobytes()
        content = data[: len(data) // 2]
    elif content == "deep":
        content = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SlideReadError, match=rf"{name}: .*{words}|{name}.*{words}") as of_patch:
        decode_patch(path)
    with pytest.raises(SlideReadError) as of_slide:
        open_slide(path, mpp_override=0.5)
    assert of_patch.value.reason == of_slide.value.reason == reason
    with pytest.raises(DatasetError) as of_label:
        read_rgb(path)
    assert words in str(of_label.value)
    assert "\n" not in str(of_label.value) + str(of_slide.value)
