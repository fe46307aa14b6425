"""A folder of patches to the ROI dataset: real patches, bad files, reruns and kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from muse_core.build import patch_chunk
from muse_core.build.patches import ImportOptions, import_patches
from muse_core.build.run import BuildOptions, open_build
from muse_core.build.settings import BuildSettings, ImportSettings
from muse_core.build.summary import BuildSummary
from muse_core.cli.app import app
from muse_core.config import load_settings
from muse_core.errors import ConfigError, OutputError
from muse_core.labels import read_labelled_patches
from muse_core.labels.matching import match, pool
from muse_core.machine.lock import locked
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.schemas import SLIDES
from tests.command import run_muse
from tests.data.make_patches import draw_patch


def put(path: Path, image: np.ndarray | None = None, *, seed: int = 0, **options) -> Path:
    """Write an image (RGB, or a drawn patch of 160 px) in the format of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_patch(160, 12, seed).image if image is None else image).save(path, **options)
    return path


def run(images: Path, out: Path, *, overrides=(), **options) -> BuildSummary:
    settings = load_settings(ImportSettings, None, ["chunk_images=4", *overrides])
    return import_patches(ImportOptions(images, out=out, **{"mpp": 0.5, "workers": 0} | options), settings)


def slide_rows(out: Path) -> dict[str, dict]:
    return {row["slide_id"]: row for row in pq.read_table(out / "slides.parquet").to_pylist()}


def tables(out: Path) -> tuple[list[dict], dict[str, list[dict]]]:
    """Everything an import wrote but the time it took; ROIs by part."""
    slides = [row | {"seconds": None} for row in pq.read_table(out / "slides.parquet").to_pylist()]
    parts = sorted(out.glob("rois/*/*.parquet"))
    return slides, {part.name: pq.read_table(part, partitioning=None).to_pylist() for part in parts}


@pytest.fixture
def patches(tmp_path):
    """Twenty drawn patches in two folders."""
    for number in range(20):
        put(tmp_path / "in" / f"f{number % 2}" / f"p{number:02d}.png", seed=number)
    return tmp_path / "in"


def test_an_image_is_one_slide_and_one_roi_of_its_own_size(tmp_path):
    drawn = draw_patch(160, 12, seed=3)
    put(tmp_path / "in" / "sub" / "TCGA-A8-A099-x_0.93.png", drawn.image[:, :140])
    summary = run(tmp_path / "in", tmp_path / "out", project="P 1")
    assert pq.read_table(tmp_path / "out" / "slides.parquet").schema.names == SLIDES.names
    row = slide_rows(tmp_path / "out")["sub/TCGA-A8-A099-x_0.93"]
    assert (row["status"], row["case_id"], row["project"]) == ("done", "TCGA-A8-A099", "P 1")
    assert (row["width_level0"], row["height_level0"], row["mpp_x"], row["mpp_y"]) == (140, 160, 0.5, 0.5)
    assert (row["n_rois"], row["n_nuclei"]) == (1, summary.n_nuclei)
    dataset = RoiDataset(tmp_path / "out")
    roi = dataset.table().to_pylist()[0]
    assert [roi[name] for name in ("x_level0", "y_level0", "width_level0", "height_level0")] == [0, 0, 140, 160]
    assert (roi["width_px"], roi["height_px"], roi["mpp"], roi["tissue_fraction"]) == (140, 160, 0.5, None)
    sample = next(dataset.iterate(seed=0, epoch=0))
    assert cv2.PSNR(sample.image.decode(), np.ascontiguousarray(drawn.image[:, :140])) > 35
    inside = drawn.xy[drawn.xy[:, 0] < 132]
    pairs = match(sample.nuclei[:, :2], sample.nuclei[:, 2], inside, radius=4)
    assert pairs.counts.fn == 0, "every drawn nucleus is found at its place"


@pytest.mark.slow
@pytest.mark.slides
def test_real_patches_have_their_labelled_nuclei(shared, tmp_path):
    labelled = read_labelled_patches("brca-m2c", shared / "data" / "brca_m2c", "val")[:6]
    (tmp_path / "in").mkdir()
    for patch in labelled:
        shutil.copy(shared / "data" / "brca_m2c" / "images" / f"{patch.name}.png", tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out").slides_done == 6
    dataset = RoiDataset(tmp_path / "out")
    found = {sample.slide_id: sample.nuclei for sample in map(dataset.read, range(len(dataset)))}
    counts = pool(
        match(found[patch.name][:, :2], found[patch.name][:, 2], patch.xy, radius=3 / patch.mpp) for patch in labelled
    )
    assert counts.tp / (counts.tp + counts.fn) > 0.7
    assert counts.tp / (counts.tp + counts.fp) > 0.6


def test_formats_that_can_be_used(tmp_path):
    image = draw_patch(160, 12, seed=0).image
    folder = tmp_path / "in"
    put(folder / "plain.png", image)
    put(folder / "photo.JPG", image, quality=95)
    put(folder / "scan.tiff", image, compression="tiff_lzw")
    put(folder / "solid.png", np.dstack([image, np.full((160, 160), 255, np.uint8)]))
    half = np.dstack([image, np.zeros((160, 160), np.uint8)])
    half[:80, :, 3] = 255
    put(folder / "half.png", half)
    Image.fromarray(image).quantize(200).save(folder / "palette.png")
    put(folder / "glass.png", np.full((160, 160, 3), 243, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    put(folder / "turned.jpg", np.ascontiguousarray(image[:100]), exif=exif, quality=95)
    summary = run(folder, tmp_path / "out")
    assert (summary.slides_done, summary.slides_failed) == (8, 0), summary.failures
    dataset = RoiDataset(tmp_path / "out")
    pixels = {sample.slide_id: sample.image.decode() for sample in map(dataset.read, range(len(dataset)))}
    for name in ("plain", "photo", "scan", "solid", "palette"):
        assert cv2.PSNR(pixels[name], image) > 28, name
    assert pixels["half"][88:].min() > 250, "what is transparent is glass"
    assert pixels["turned"].shape == (160, 100, 3), "upright, as slides and labels are read"
    assert slide_rows(tmp_path / "out")["glass"]["n_nuclei"] == 0


def write_bad(folder: Path) -> dict[str, str]:
    """One file for each way of being bad, and the reason that each must get."""
    image = draw_patch(160, 12, seed=0).image
    put(folder / "good.png", image)
    data = (folder / "good.png").read_bytes()
    (folder / "text.png").write_text("not an image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    put(folder / "whole.jpg", image)
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:2000])
    (folder / "whole.jpg").unlink()
    put(folder / "lzw.tif", image, compression="tiff_lzw")
    (folder / "cut.tif").write_bytes((folder / "lzw.tif").read_bytes()[:-5000])
    (folder / "lzw.tif").unlink()
    put(folder / "grey.png", image[..., 1])
    put(folder / "grey-alpha.png", image[..., :2])
    put(folder / "grey-rgb.png", np.repeat(image[..., 1:2], 3, axis=2))
    Image.fromarray(image).convert("CMYK").save(folder / "print.jpg")
    cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "deep.tif"), image.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "deep-grey.png"), image[..., 1].astype(np.uint16) * 257)
    put(folder / "line.png", image[:, :1])
    Image.fromarray(image).save(folder / "stack.tif", save_all=True, append_images=[Image.fromarray(image)])
    Image.new("RGB", (8200, 8200)).save(folder / "huge.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    colourless = dict.fromkeys(["grey", "grey-alpha", "grey-rgb", "print"], "not_colour")
    deep = dict.fromkeys(["deep.png", "deep.tif", "deep-grey"], "not_8_bit")
    odd = {"line": "too_small", "stack": "several_images", "huge": "too_large", "dangling": "not_found"}
    return dict.fromkeys(["text", "empty", "cut.png", "cut.jpg", "cut.tif"], "unreadable") | colourless | deep | odd


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_image_is_a_row_with_a_reason(tmp_path, capfd):
    (tmp_path / "in").mkdir()
    expected = write_bad(tmp_path / "in")
    summary = run(tmp_path / "in", tmp_path / "out")
    rows = slide_rows(tmp_path / "out")
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons == expected | {"good": None}
    assert {row["status"] for name, row in rows.items() if name != "good"} == {"failed"}
    for name in expected:
        assert str(tmp_path / "in" / name) in rows[name]["message"]
        assert "\n" not in rows[name]["message"]
    assert (summary.slides_done, summary.slides_failed) == (1, len(expected))
    assert RoiDataset(tmp_path / "out").ids == ["good_00000"]
    assert "Traceback" not in capfd.readouterr().err


def test_names_that_share_a_stem_stay_apart(tmp_path):
    for name in ("a.png", "a.jpg", "a.png.jpg", "b/a.png", ".hidden.png", ".cache/x.png", "notes.txt"):
        put(tmp_path / "in" / name, format="PNG" if name.endswith("txt") else None)
    (tmp_path / "in" / "folder.png").mkdir()
    run(tmp_path / "in", tmp_path / "out", overrides=["detector=none"])
    assert set(slide_rows(tmp_path / "out")) == {"a.png", "a.jpg", "a.png.jpg", "b/a"}
    assert len(set(RoiDataset(tmp_path / "out").ids)) == 4


def test_a_name_of_any_bytes(tmp_path):
    name = os.fsdecode(b"odd\xff name\n.png")
    put(tmp_path / "plain.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "plain.png").rename(tmp_path / "in" / name)
    assert run(tmp_path / "in", tmp_path / "out").slides_done == 1
    assert run(tmp_path / "in", tmp_path / "out").slides_reused == 1


@pytest.mark.parametrize("mpp", [0, -0.5, float("nan"), float("inf"), 40])
def test_an_mpp_that_is_no_microscopes(patches, tmp_path, mpp):
    with pytest.raises(ConfigError, match="µm/px"):
        run(patches, tmp_path / "out", mpp=mpp)
    assert not (tmp_path / "out").exists()


def test_rerun_does_only_what_is_missing_or_changed(patches, tmp_path):
    out = tmp_path / "out"
    assert run(patches, out).slides_reused == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("rois/*/*")}
    assert len(before) > 3
    again = run(patches, out)
    assert (again.slides_reused, again.n_rois) == (20, 20)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("rois/*/*")} == before
    os.utime(patches / "f0" / "p04.png", (1, 1))
    assert 12 <= run(patches, out).slides_reused < 20
    put(patches / "f0" / "p03-more.png")
    (patches / "f1" / "p13.png").unlink()
    changed = run(patches, out)
    assert changed.n_rois == 20
    assert changed.slides_reused >= 4
    assert "f1/p13" not in slide_rows(out)
    next(out.glob("rois/*/*.parquet")).unlink()
    assert run(patches, out).slides_reused < 20
    run(patches, tmp_path / "fresh")
    assert tables(out) == tables(tmp_path / "fresh"), "whatever was done before"


@pytest.mark.parametrize("change", [{"mpp": 0.4}, {"project": "Q"}, {"overrides": ["image.quality=80"]}])
def test_another_mpp_project_or_setting_redoes_all(patches, tmp_path, change):
    run(patches, tmp_path / "out", overrides=["detector=none"])
    changed = {**change, "overrides": ["detector=none", *change.get("overrides", ())]}
    assert run(patches, tmp_path / "out", **changed).slides_reused == 0
    assert len(RoiDataset(tmp_path / "out")) == 20, "no row of the earlier run is left"


def test_what_was_imported_before_images_were_turned_by_exif_is_redone(patches, tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(patch_chunk, "BUILD_VERSION", 1)
        run(patches, tmp_path / "out", overrides=["detector=none"])
    assert run(patches, tmp_path / "out", overrides=["detector=none"]).slides_reused == 0


def fails_on_thirteen(rgb, mpp):
    """A third party's detector with a fault."""
    if os.environ.get("FAULTY") and rgb[0, 0, 0] == 0:
        raise ZeroDivisionError("a fault of theirs")
    return np.empty((0, 3), np.float32)


def test_a_fault_in_a_detector_is_one_image_and_tried_again(patches, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTY", "1")
    black = draw_patch(160, 12, seed=0).image
    black[:20] = 0
    put(patches / "f0" / "bad.png", black)
    mine = ["detector=tests.build.test_patches:fails_on_thirteen"]
    assert run(patches, tmp_path / "out", overrides=mine).slides_done == 20
    row = slide_rows(tmp_path / "out")["f0/bad"]
    assert (row["status"], row["reason"]) == ("failed", "crashed")
    assert "ZeroDivisionError: a fault of theirs" in row["message"]
    monkeypatch.delenv("FAULTY")
    mended = run(patches, tmp_path / "out", overrides=mine)
    assert (mended.slides_done, mended.slides_failed) == (21, 0)
    assert mended.slides_reused > 10


def test_an_output_folder_is_of_one_kind_and_one_source(patches, tmp_path):
    run(patches, tmp_path / "out")
    put(tmp_path / "other" / "x.png")
    with pytest.raises(OutputError, match="holds the patches of") as caught:
        run(tmp_path / "other", tmp_path / "out")
    assert caught.value.reason == "output_mixed"
    with (
        pytest.raises(OutputError, match="holds what `muse import-patches` made"),
        open_build(BuildOptions(out=tmp_path / "out", workers=0), BuildSettings()),
    ):
        pass
    (tmp_path / "slides" / "rois").mkdir(parents=True)
    with pytest.raises(OutputError, match="holds what `muse build-tcga-nu` made"):
        run(patches, tmp_path / "slides")
    with locked(tmp_path / "out"), pytest.raises(OutputError) as caught:
        run(patches, tmp_path / "out")
    assert caught.value.reason == "output_locked"
    assert len(RoiDataset(tmp_path / "out")) == 20


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "muse_core.cli", "import-patches", *map(str, arguments)]


def in_process(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["import-patches", *map(str, arguments)])


@pytest.mark.slow
def test_the_command_on_worker_processes(patches, tmp_path):
    (patches / "text.png").write_text("not an image")
    arguments = ["--images", patches, "--mpp", 0.5, "--out", tmp_path / "out", "--workers", 2, "--json"]
    given = command(*arguments, "--set", "chunk_images=4")
    done = subprocess.run(given, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("WARNING text: failed, unreadable: ")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert set(summary) == set(BuildSummary().as_json())
    assert (summary["slides_done"], summary["slides_failed"], summary["n_rois"]) == (20, 1, 20)
    assert summary["failures"][0]["reason"] == "unreadable"
    assert "20 of 21 patches built" in (tmp_path / "out" / "summary.md").read_text()
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["detector"] == BuildSettings().detector
    run(patches, tmp_path / "alone")
    assert tables(tmp_path / "out") == tables(tmp_path / "alone"), "workers change nothing"
    (patches / "text.png").unlink()
    again = ("--workers", 0, "--set", "chunk_images=4")
    assert run_muse("import-patches", *arguments, *again).returncode == 0


def test_the_command_names_what_it_cannot_take(tmp_path):
    """Grey, 16-bit, empty and 1 px wide images get a reason; RGBA is right; without --mpp nothing is made."""
    image = draw_patch(160, 12, seed=0).image
    folder = tmp_path / "in"
    put(folder / "rgb.png", image)
    put(folder / "rgba.png", np.dstack([image, np.full((160, 160), 255, np.uint8)]))
    put(folder / "grey.png", image[..., 1])
    cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) * 257)
    (folder / "empty.png").write_bytes(b"")
    put(folder / "line.png", image[:, :1])
    without = in_process("--images", folder, "--out", tmp_path / "out")
    assert (without.exit_code, "--mpp" in without.output) == (2, True)
    assert not (tmp_path / "out").exists()
    done = in_process("--images", folder, "--mpp", 0.5, "--out", tmp_path / "out", "--workers", 0, "--json")
    assert done.exit_code == 1
    failures = {row["slide_id"]: row["reason"] for row in json.loads(done.stdout.splitlines()[-1])["failures"]}
    assert failures == {"grey": "not_colour", "deep": "not_8_bit", "empty": "unreadable", "line": "too_small"}
    rows = slide_rows(tmp_path / "out")
    assert rows["rgba"]["n_nuclei"] == rows["rgb"]["n_nuclei"] == 12


def test_too_coarse_for_the_learned_detector(tmp_path):
    put(tmp_path / "in" / "a.png")
    assert run(tmp_path / "in", tmp_path / "out", mpp=1.5).slides_failed == 1
    row = slide_rows(tmp_path / "out")["a"]
    assert row["reason"] == "mpp_too_coarse"
    assert "classical" in row["message"]


def test_new_weights_import_again(patches, tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").write_bytes(b"others")
    classical = ["detector=classical"]
    run(patches, tmp_path / "learned")
    run(patches, tmp_path / "classical", overrides=classical)
    monkeypatch.setattr("muse_core.build.settings.NUCLEUS_DETECTOR", tmp_path / "w.safetensors")
    assert run(patches, tmp_path / "learned").slides_reused == 0
    assert run(patches, tmp_path / "classical", overrides=classical).slides_reused == 20


def test_the_detector_has_an_option_of_its_own(tmp_path):
    put(tmp_path / "in" / "a.png")
    arguments = ["--images", tmp_path / "in", "--mpp", 0.5, "--out", tmp_path / "out", "--workers", 0]
    assert in_process(*arguments, "--detector", "none").exit_code == 0
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["detector"] == "none"
    wrong = in_process(*arguments, "--detector", "clasical")
    assert isinstance(wrong.exception, ConfigError)
    assert "clasical" in str(wrong.exception)


@pytest.mark.parametrize(
    ("images", "mpp", "word"),
    [("gone", 0.5, "no such folder"), ("file.png", 0.5, "is a file"), ("empty", 0.5, "no image"), (".", 0, "µm/px")],
)
def test_a_wrong_argument_is_one_line(tmp_path, images, mpp, word):
    put(tmp_path / "file.png")
    (tmp_path / "empty").mkdir()
    done = run_muse("import-patches", "--images", tmp_path / images, "--mpp", mpp, "--out", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("muse: ")
    assert word in line
    assert not (tmp_path / "out").exists()


def test_mpp_has_no_default(patches, tmp_path):
    done = run_muse("import-patches", "--images", patches, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "--mpp" in done.stderr


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_gives_the_same_tables(patches, tmp_path):
    run(patches, tmp_path / "calm")
    arguments = [
        "--images",
        patches,
        "--mpp",
        0.5,
        "--out",
        tmp_path / "out",
        "--workers",
        0,
        "--set",
        "chunk_images=4",
    ]
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (tmp_path / "out" / "patches").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run_muse("import-patches", *arguments).returncode == 0
    assert tables(tmp_path / "out") == tables(tmp_path / "calm")
    assert not list(tmp_path.rglob("*.tmp"))
