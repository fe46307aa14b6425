"""Patches whose places on drawn slides are known come back with what lies around them, pixel for pixel."""

import json
import logging

import cv2
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from muse_core.build.context import context_of, cut_contexts
from muse_core.cli.app import app
from muse_core.cohort.manifest import read_manifest
from muse_core.detector.augment import AugmentSettings
from muse_core.errors import ConfigError, DatasetError, OutputError
from muse_core.labels import BRCA_DOT_OFFSET_PX, read_labelled_patches
from muse_core.labels.lab import read_lab
from muse_core.labels.lab_regions import lab_regions
from muse_core.ndc.samples import draw_sample
from muse_core.slide import open_slide
from tests.data.make_puma import write_puma
from tests.data.make_slides import Drawing, draw_aperio, tissue_image

SLIDE = "TCGA-XX-0001-01Z-00-DX1"
UUID = ".01234567-89AB-CDEF-0123-456789ABCDEF"
SIDE_LEVEL0 = 400
PLACES = {"train": [(1000, 800), (100, 700)], "val": [(700, 500)]}  # the second near the slide's left edge


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    image, _ = tissue_image(2400, 2000, mpp=0.25, seed=5)
    folder = tmp_path_factory.mktemp("slides")
    return draw_aperio(folder / f"{SLIDE}{UUID}.svs", image, Drawing(mpp=(0.25, 0.25)))


@pytest.fixture
def brca(slide_path, tmp_path):
    """BRCA-M2C's layout, its patches cut from the slide at 0.5 µm/px."""
    root = tmp_path / "brca"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    with open_slide(slide_path) as slide:
        for split, places in PLACES.items():
            names = [f"{SLIDE}_{x}_{y}_{SIDE_LEVEL0}_{SIDE_LEVEL0}_1.0" for x, y in places]
            for name, (x, y) in zip(names, places, strict=True):
                patch = slide.read_region(x, y, SIDE_LEVEL0 // 2, SIDE_LEVEL0 // 2, mpp=0.5)
                cv2.imwrite(str(root / "images" / f"{name}.png"), patch[:, :, ::-1])
                (root / "labels" / f"{name}_gt_class_coords.txt").write_text("10 20 1\n150 60 2\n199 199 3\n")
            (root / f"brca_ds_{split}.txt").write_text("".join(f"{name}.png\n" for name in names))
    return root


def test_what_is_cut_is_the_slide_around_the_patch_pixel_for_pixel(slide_path, brca, tmp_path):
    summary = cut_contexts(read_manifest(slide_path.parent), "brca-m2c", brca, tmp_path / "out", side_px=512)
    assert (summary.patches_cut, summary.patches_failed) == (3, 0)
    dots = read_lab(tmp_path / "out")
    assert dots.class_names == ("lymphocyte", "tumour_epithelial", "stromal")
    train, validation = lab_regions(dots, side_px=512)
    patches = {patch.name: patch for split in PLACES for patch in read_labelled_patches("brca-m2c", brca, split)}
    corners = dict(zip(patches, [place for places in PLACES.values() for place in places], strict=True))
    assert len(train) == 2
    assert [region.name for region in validation] == list(patches)[2:]
    with open_slide(slide_path) as slide:
        for region in (*train, *validation):
            patch, (x, y) = patches[region.name], corners[region.name]
            (left, right), (top, bottom) = region.annotated_span
            assert (right - left, bottom - top) == (200, 200)
            assert region.annotated.sum() == 200 * 200
            inner = region.image[int(top) : int(bottom), int(left) : int(right)]
            np.testing.assert_array_equal(inner, patch.image)
            height, width = region.image.shape[:2]
            around = slide.read_region(x - 2 * left, y - 2 * top, width, height, mpp=0.5)
            np.testing.assert_array_equal(region.image, around)
            np.testing.assert_allclose(region.xy - (left, top), np.clip(patch.xy, 0, 199.5), atol=2e-3)
            assert (region.case, region.mpp) == ("TCGA-XX-0001", 0.5)
    spans = {region.name: region.annotated_span for region in train}
    by_x = [spans[name] for name in list(patches)[:2]]
    assert by_x[0][0][0] == 312  # 512 - 200
    assert by_x[1][0][0] == 50  # the slide begins there
    assert 0.5 < summary.unlabelled_share < 0.97


def test_samples_of_it_are_real_tissue_of_which_most_is_not_labelled(slide_path, brca, tmp_path):
    cut_contexts(read_manifest(slide_path.parent), "brca-m2c", brca, tmp_path / "out", side_px=512)
    train, _ = lab_regions(read_lab(tmp_path / "out"), side_px=512)
    region = next(one for one in train if "_1000_800_" in one.name)
    plain = AugmentSettings(scale_sd=0, rotate_share=0, empty_share=0)
    seen, outside = [], []
    for seed in range(10):
        sample = draw_sample(region, 512, plain, np.random.default_rng(seed))
        assert sample.annotated.sum() == 200 * 200
        seen.append(sample.seen.mean())
        outside.append((sample.seen & ~sample.annotated).mean())
    assert min(seen) > 0.99
    assert min(outside) > 0.8


def test_a_patch_without_its_slide_or_of_other_tissue_costs_no_other(slide_path, brca, tmp_path, caplog):
    names = (brca / "brca_ds_train.txt").read_text().split()
    stranger = names[0].replace("0001", "0002")
    (brca / "images" / names[0]).rename(brca / "images" / stranger)
    labels = [brca / "labels" / f"{name.removesuffix('.png')}_gt_class_coords.txt" for name in (names[0], stranger)]
    labels[0].rename(labels[1])
    (brca / "brca_ds_train.txt").write_text(f"{stranger}\n{names[1]}\n")
    picture = cv2.imread(str(brca / "images" / names[1]))
    cv2.imwrite(str(brca / "images" / names[1]), picture[::-1])
    with caplog.at_level(logging.WARNING):
        summary = cut_contexts(read_manifest(slide_path.parent), "brca-m2c", brca, tmp_path / "out", side_px=512)
    assert (summary.patches_cut, summary.patches_failed) == (1, 2)
    reasons = {one["patch"]: one["message"] for one in summary.failures}
    assert "no slide of the manifest is called so" in reasons[stranger.removesuffix(".png")]
    assert "shows other tissue at x 100 y 700" in reasons[names[1].removesuffix(".png")]


def test_a_slide_of_another_um_px_is_refused(slide_path, brca):
    patch = read_labelled_patches("brca-m2c", brca, "val")[0]
    with (
        open_slide(slide_path, mpp_override=0.5) as slide,
        pytest.raises(DatasetError, match=r"has 0\.5 um/px, and 1 by its place on"),
    ):
        context_of(slide, patch)


def test_ocelots_patches_are_placed_by_their_metadata(slide_path, tmp_path):
    root = tmp_path / "ocelot"
    with open_slide(slide_path) as slide:
        patch = slide.read_region(900, 700, 256, 256, mpp=0.2)
    for folder in ("images", "annotations"):
        (root / folder / "train" / "cell").mkdir(parents=True)
    cv2.imwrite(str(root / "images" / "train" / "cell" / "001.jpg"), patch[:, :, ::-1])
    (root / "annotations" / "train" / "cell" / "001.csv").write_text("127,99,2\n")
    ends = {"x_start": 900, "y_start": 700, "x_end": 900 + 204.8, "y_end": 700 + 204.8}
    cell = {**ends, "resized_mpp_x": 0.2, "resized_mpp_y": 0.2}
    pair = {"slide_name": SLIDE + UUID, "subset": "train", "mpp_x": 0.25, "mpp_y": 0.25, "cell": cell}
    (root / "metadata.json").write_text(json.dumps({"sample_pairs": {"001": pair}}))
    manifest = read_manifest(slide_path.parent)
    summary = cut_contexts(manifest, "ocelot", root, tmp_path / "out", splits=["train"], side_px=256)
    assert summary.patches_cut == 1
    (region,), _ = lab_regions(read_lab(tmp_path / "out"), side_px=256)
    (left, right), (top, _) = region.annotated_span
    assert right - left == pytest.approx(102, abs=1)
    np.testing.assert_allclose(region.xy[0] - (left, top), [127.5 * 0.4, 99.5 * 0.4], atol=0.01)


def test_datasets_that_do_not_say_where_their_patches_lie_are_refused(slide_path, tmp_path):
    write_puma(tmp_path / "puma", ("train", "val"))
    with pytest.raises(ConfigError, match="brings the tissue around its patches"):
        cut_contexts(read_manifest(slide_path.parent), "puma", tmp_path / "puma", tmp_path / "out")


def test_the_picture_of_a_file_that_the_manifest_means_is_cut(slide_path, brca, tmp_path):
    """The patches lie on the first of two, the smaller one."""
    two = tmp_path / f"{SLIDE}.tif"
    with tifffile.TiffWriter(two) as tiff, open_slide(slide_path) as slide:
        meant = slide.read_level(0, 0, 2400, 2000)
        for image in (meant, np.tile(meant[:, ::-1], (1, 2, 1))):
            options = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate", "metadata": None}
            tiff.write(image, resolution=(40000.0, 40000.0), resolutionunit="CENTIMETER", **options)
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide_id,uri,scene\n{SLIDE},{two},1\n")
    summary = cut_contexts(read_manifest(manifest), "brca-m2c", brca, tmp_path / "out", side_px=512)
    assert (summary.patches_cut, summary.patches_failed) == (3, 0), summary.failures


def test_an_output_that_cannot_be_written_ends_the_run(brca, tmp_path):
    """It is no patch's fault."""
    manifest, out = tmp_path / "m.csv", tmp_path / "out"
    manifest.write_text(f"slide_id,uri\n{SLIDE},https://127.0.0.1:9/{SLIDE}.svs\n")
    out.mkdir()
    (out / "slides").write_text("where the slide's folder should be")
    with pytest.raises(OutputError, match=r"out/slides"):
        cut_contexts(read_manifest(manifest), "brca-m2c", brca, out, side_px=512)


def test_as_a_command(slide_path, brca, tmp_path):
    given = ["cut-context", "--manifest", slide_path.parent, "--dataset", "brca-m2c", "--data", brca]
    result = CliRunner().invoke(app, [str(one) for one in [*given, "--out", tmp_path / "out", "--json"]])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["patches_cut"] == 3
    assert BRCA_DOT_OFFSET_PX == 1
