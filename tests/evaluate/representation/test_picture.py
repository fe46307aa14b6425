import numpy as np
import pytest
from PIL import Image, ImageColor
from typer.testing import CliRunner

from muse_core.cli.evaluate import evaluate_app
from muse_core.errors import OutputError
from muse_core.evaluate.representation import draw_neighbours, picture, read_features
from tests.data.make_patches import write_brca
from tests.evaluate.representation.test_protocols import colours, request_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("brca")
    write_brca(root, train=4, val=2)
    return root


@pytest.fixture(scope="module")
def scored(data):
    return read_features(colours, request_of(data))


def place(row, column):
    """Upper left corner (x, y) of a crop."""
    step = picture._CROP_PX + picture._GAP_PX
    x = picture._MARGIN_PX + column * step + (2 * picture._GAP_PX if column else 0)
    return x, picture._HEADER_PX + row * (step + picture._CAPTION_PX)


def opened(path):
    with Image.open(path) as sheet:
        return sheet.convert("RGB")


def frame_and_middle(sheet, row, column):
    x, y = place(row, column)
    half = picture._CROP_PX // 2
    return sheet.getpixel((x + 1, y + 1)), np.array(
        sheet.crop((x + half - 4, y + half - 4, x + half + 4, y + half + 4))
    )


def test_rows_are_nuclei_of_each_class_and_always_the_same(scored):
    rows = picture.chosen_nuclei(scored, 2)
    assert scored.splits["val"].class_ids[rows].tolist() == [0, 0, 1, 1, 2, 2]
    assert rows.tolist() == picture.chosen_nuclei(scored, 2).tolist()
    assert len(set(rows.tolist())) == 6


def test_neighbours_of_the_same_class_are_green_and_in_the_middle_of_their_crops(scored, tmp_path):
    draw_neighbours(scored, tmp_path / "n.png", columns=5)
    sheet = opened(tmp_path / "n.png")
    inks = {}
    for row in range(6):
        for column in range(6):
            frame, middle = frame_and_middle(sheet, row, column)
            assert frame == ImageColor.getrgb(picture.SAME_CLASS if column else picture.INK)
            inks.setdefault(row // 2, []).append(middle.reshape(-1, 3).mean(axis=0))
    # Drawn nuclei have a colour a class, and all crops of a class have it in their middle.
    means = np.array([np.mean(colours_of, axis=0) for colours_of in inks.values()])
    assert max(np.std(colours_of, axis=0).max() for colours_of in inks.values()) < 3
    assert min(np.abs(means[a] - means[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 20


def test_neighbours_of_another_class_are_red(scored, tmp_path):
    bank = scored.splits["train"]
    class_ids = bank.class_ids.clone()
    bank.class_ids[:] = (class_ids + 1) % 3
    try:
        draw_neighbours(scored, tmp_path / "n.png", rows_per_class=1, columns=3)
    finally:
        bank.class_ids[:] = class_ids
    sheet = opened(tmp_path / "n.png")
    frames = {frame_and_middle(sheet, row, column)[0] for row in range(3) for column in (1, 2, 3)}
    assert frames == {ImageColor.getrgb(picture.OTHER_CLASS)}


def test_a_crop_has_its_point_in_the_middle_and_is_white_beyond_the_image():
    image = np.zeros((40, 40, 3), np.uint8)
    image[12, 10] = 200  # its centre is (10.5, 12.5)
    crop = picture._crop(image, np.array([10.5, 12.5], np.float32), 8)
    assert crop[3:5, 3:5, 0].tolist() == [[50, 50], [50, 50]]
    assert crop.sum() == 4 * 3 * 50
    corner = picture._crop(image, np.array([0.0, 0.0], np.float32), 8)
    assert (corner[:4] == 255).all()
    assert (corner[:, :4] == 255).all()
    assert (corner[4:, 4:] == 0).all()


def test_the_command_draws_it(data, tmp_path):
    words = [
        "knn",
        "--dataset",
        "brca-m2c",
        "--data",
        str(data),
        "--encoder",
        "tests.evaluate.representation.test_protocols:colours",
    ]
    done = CliRunner().invoke(evaluate_app, [*words, "--picture", str(tmp_path / "n.png")])
    assert done.exit_code == 0, done.output
    assert opened(tmp_path / "n.png").width > 900


def test_a_folder_that_cannot_be_written_is_told(scored, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"n\.png: cannot be written"):
        draw_neighbours(scored, tmp_path / "file" / "n.png")
