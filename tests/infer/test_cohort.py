"""Inference whole: real files in, the nuclei dataset out, and everything that can go wrong on the way."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from hashlib import md5, sha256
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from muse_core import nucleus_model
from muse_core.cli import app
from muse_core.cohort import do_all
from muse_core.config import load_settings
from muse_core.errors import ConfigError, ManifestError, OutputError, SlideReadError
from muse_core.geometry import Box
from muse_core.infer import InferOptions, InferSettings, InferSummary, open_infer, read_inputs
from muse_core.infer import slide as slide_module
from muse_core.learned_detector import WEIGHTS
from muse_core.models.backbone import BackboneSettings
from muse_core.ndc_model import NdcCheckpoint, NdcHead, build_net, save_checkpoint
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.report import write_report
from muse_core.report.view import view_of
from muse_core.schemas import INFERRED_SLIDES, nuclei_schema
from muse_core.slide import open_slide
from muse_core.slide.cucim_reader import CucimReader
from tests.data.make_slides import Drawing, draw_aperio, draw_tiff, tissue_image

CLASSES = ("lymphocyte", "tumour_epithelial", "stromal")


def write_manifest(path: Path, *rows: str) -> Path:
    path.write_text("slide_id,case_id,project,uri,size,md5,mpp\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def infer(slides: Path, out: Path, *overrides: str, mpp: float | None = None, **options) -> InferSummary:
    settings = load_settings(InferSettings, None, overrides)
    manifest = read_inputs(slides, mpp)
    with open_infer(InferOptions(out=out, **({"checkpoint": WEIGHTS} | options)), settings) as run:
        return run.finish(manifest, list(do_all(run, manifest.rows)))


def parts(out: Path) -> list[Path]:
    return sorted(out.glob("nuclei/project=*/slide_id=*/part-*.parquet"))


def nuclei(out: Path) -> list[dict]:
    return [row for part in parts(out) for row in pq.read_table(part, partitioning=None).to_pylist()]


def places(out: Path) -> np.ndarray:
    return np.array([(row["x_level0"], row["y_level0"]) for row in nuclei(out)])


def slide_rows(out: Path) -> dict[str, dict]:
    return {row["slide_id"]: row for row in pq.read_table(out / "slides.parquet").to_pylist()}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A slide of 0.6 x 0.5 mm at 0.25 µm/px with drawn nuclei, and their level-0 places."""
    image, true = tissue_image(2400, 2000, mpp=0.25, seed=3)
    return draw_aperio(tmp_path_factory.mktemp("small") / "small.svs", image, Drawing(tile_px=240)), true


@pytest.fixture(scope="module")
def inferred(small, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("inferred") / "out"
    infer(small[0], out, "window_px=512", "group_tiles=2")
    return out


def test_tables_of_a_drawn_slide(inferred, small):
    (part,) = parts(inferred)
    table = pq.read_table(part, partitioning=None)
    assert table.schema.remove_metadata().equals(nuclei_schema(CLASSES))
    about = json.loads(pq.read_schema(part).metadata[b"muse"])
    assert (about["slide_id"], about["mpp_x"], about["model_mpp"]) == ("small", 0.25, 0.5)
    assert about["md5"] == md5(small[0].read_bytes()).hexdigest()
    assert about["model_id"] == sha256(WEIGHTS.read_bytes()).hexdigest()[:12]
    assert (about["mpp_source"], about["bounds_level0"], about["failed_tiles"]) == ("openslide.mpp-x", None, [])
    assert {"reader", "checkpoint", "settings", "settings_hash", "inputs_hash"} <= set(about)
    assert {"muse-nuclei", "torch", "numpy"} <= set(about["versions"])
    slides = pq.read_table(inferred / "slides.parquet")
    assert slides.schema.names == INFERRED_SLIDES.names
    (row,) = slides.to_pylist()
    assert (row["status"], row["reason"], row["n_nuclei"], row["n_failed_tiles"]) == ("done", None, len(table), 0)
    assert 0.1 < row["tissue_mm2"] < 0.3
    assert row["n_tiles"] > 4
    assert row["read_share"] + row["network_share"] + row["write_share"] == pytest.approx(1)
    assert (inferred / "tissue" / "small.geojson").exists()
    assert not any((inferred / ".staging").iterdir())


def test_nuclei_are_found_where_they_were_drawn(inferred, small):
    found, true = places(inferred), small[1]
    assert len(found) > 0.9 * len(true)
    distance, nearest = cKDTree(found).query(true)
    hit = distance * 0.25 < 2
    assert hit.mean() > 0.9
    off = found[nearest[hit]] - true[hit]
    assert np.abs(np.median(off, axis=0)).max() * 0.25 < 0.25, "no shift"
    rows = nuclei(inferred)
    chances = np.array([[row[f"p_{name}"] for name in CLASSES] for row in rows])
    assert chances.sum(axis=1) == pytest.approx(1, abs=1e-3)
    assert [CLASSES[i] for i in chances.argmax(axis=1)] == [row["class_name"] for row in rows]
    assert min(row["score"] for row in rows) >= 0.5
    assert np.mean([row["in_tissue"] for row in rows]) > 0.95


def test_the_same_nuclei_wherever_tiles_begin(inferred, small, tmp_path):
    infer(small[0], tmp_path, "window_px=512", "offset_px=[237, 101]")
    one, other = places(inferred), places(tmp_path)
    distance, nearest = cKDTree(other).query(one)
    back = cKDTree(one).query(other)[1]
    same = (distance * 0.25 < 1) & (back[nearest] == np.arange(len(one)))
    assert len(one) + len(other) - 2 * same.sum() <= 0.002 * len(one)
    assert len(np.unique(other, axis=0)) == len(other)


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.21, 0.29), (0.4521, 0.4521)])
def test_places_are_level0_px_at_any_mpp(tmp_path, mpp):
    um = 400
    rng = np.random.default_rng(0)
    image, true = tissue_image(int(um / 0.25), int(um / 0.25), mpp=0.25, seed=int(rng.integers(9)))
    size = round(um / mpp[0]), round(um / mpp[1])
    scale = np.array(size) / image.shape[1::-1]
    drawn = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    path = draw_tiff(tmp_path / "s.tif", drawn, Drawing(mpp=mpp, tile_px=256, factors=(1, 4)))
    infer(path, tmp_path / "out")
    distance, _ = cKDTree(places(tmp_path / "out") * mpp).query(true * scale * mpp)
    assert (distance < 1.5).mean() > 0.85
    rows = nuclei(tmp_path / "out")
    assert [row["x_um"] for row in rows] == pytest.approx([row["x_level0"] * mpp[0] for row in rows], rel=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A slide of 0.2 x 0.2 mm."""
    image, _ = tissue_image(900, 800, mpp=0.25, seed=4)
    return draw_aperio(tmp_path_factory.mktemp("tiny") / "tiny.svs", image, Drawing(factors=(1, 4)))


def test_rerun_does_only_what_is_missing_or_changed(tiny, tmp_path):
    shutil.copy(tiny, tmp_path / "a.svs")
    shutil.copy(tiny, tmp_path / "b.svs")
    manifest = write_manifest(tmp_path / "m.csv", "A,C,P,a.svs,,,", "B,C,P,b.svs,,,")
    out = tmp_path / "out"
    assert infer(manifest, out).slides_done == 2
    before = {path: path.stat().st_mtime_ns for path in parts(out)}
    again = infer(manifest, out)
    assert (again.slides_reused, again.seconds_per_mm2) == (2, None)
    assert {path: path.stat().st_mtime_ns for path in parts(out)} == before
    os.utime(tmp_path / "b.svs", (1, 1))
    assert infer(manifest, out).slides_reused == 2, "touched, not changed"
    with (tmp_path / "b.svs").open("ab") as file:
        file.write(b"\0")
    assert infer(manifest, out).slides_reused == 1
    assert infer(manifest, out, "min_score=0.6").slides_reused == 0
    other = tmp_path / "other.safetensors"
    with safe_open(WEIGHTS, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, other, metadata=file.metadata() | {"note": "the same, written anew"})
    assert infer(manifest, out, "min_score=0.6", checkpoint=other).slides_reused == 0
    parts(out)[0].unlink()
    assert infer(manifest, out, "min_score=0.6", checkpoint=other).slides_reused == 1
    assert len(parts(out)) == 2


class Killed(BaseException):
    """Ends a run where it stands, as a kill does: nothing of ours catches it."""


@pytest.mark.parametrize("after", [0, 2])
def test_a_run_cut_short_goes_on_inside_the_slide(inferred, small, tmp_path, monkeypatch, after):
    write, written = slide_module.write_group, []

    def write_or_die(files, *arguments):
        if len(written) == after:
            raise Killed
        written.append(files.number)
        write(files, *arguments)

    monkeypatch.setattr(slide_module, "write_group", write_or_die)
    with pytest.raises(Killed):
        infer(small[0], tmp_path, "window_px=512", "group_tiles=2")
    assert not parts(tmp_path)
    kept = list(written)
    monkeypatch.setattr(
        slide_module, "write_group", lambda files, *rest: (written.append(files.number), write(files, *rest))
    )
    infer(small[0], tmp_path, "window_px=512", "group_tiles=2")
    assert sorted(written) == list(range(len(written))), "no group was done twice"
    assert len(kept) == after
    assert nuclei(tmp_path) == nuclei(inferred)


def test_a_bad_tile_costs_its_own_nuclei_only(tmp_path):
    image, true = tissue_image(2800, 2400, mpp=0.25, seed=3)
    path = draw_aperio(tmp_path / "s.svs", image, Drawing(tile_px=240, broken_tile=(5, 5)))
    infer(path, tmp_path / "out", "window_px=384")
    row = slide_rows(tmp_path / "out")["s"]
    assert (row["status"], row["reason"]) == ("done", "bad_tiles")
    assert 0 < row["n_failed_tiles"] < row["n_tiles"] / 2
    assert "could not be read" in row["message"]
    about = json.loads(pq.read_schema(parts(tmp_path / "out")[0]).metadata[b"muse"])
    assert len(about["failed_tiles"]) == row["n_failed_tiles"]
    boxes = [one["box_level0"] for one in about["failed_tiles"]]
    assert any(x <= 5.5 * 240 < x + width and y <= 5.5 * 240 < y + height for x, y, width, height in boxes)
    distance, _ = cKDTree(places(tmp_path / "out")).query(true)
    far = np.abs(true - (5.5 * 240, 5.5 * 240)).max(axis=1) > 900
    assert (distance[far] * 0.25 < 2).mean() > 0.85


def test_a_slide_taken_up_again_does_what_failed_anew_and_counts_the_time_of_both_runs(
    inferred, small, tmp_path, monkeypatch
):
    write, read_tile = slide_module.write_group, slide_module._SlideWork._read_tile

    def write_or_die(files, *arguments):
        if files.number == 2:
            raise Killed
        write(files, *arguments)

    def read_or_fail(self, tile):
        return SlideReadError("the disk is away") if tile.number == 0 else read_tile(self, tile)

    with monkeypatch.context() as patch:
        patch.setattr(slide_module, "write_group", write_or_die)
        patch.setattr(slide_module._SlideWork, "_read_tile", read_or_fail)
        with pytest.raises(Killed):
            infer(small[0], tmp_path, "window_px=512", "group_tiles=2")
    (good,) = tmp_path.glob(".staging/*/*/group-00001.json")
    good.write_text(json.dumps(json.loads(good.read_text()) | {"seconds": 5000.0}))
    summary = infer(small[0], tmp_path, "window_px=512", "group_tiles=2")
    assert nuclei(tmp_path) == nuclei(inferred)
    row = slide_rows(tmp_path)["small"]
    assert (row["status"], row["reason"], row["n_failed_tiles"]) == ("done", None, 0)
    assert 5000 < row["seconds"] < 5600
    assert row["seconds_per_mm2"] == pytest.approx(row["seconds"] / row["tissue_mm2"])
    done_mm2 = summary.seconds / summary.seconds_per_mm2
    assert done_mm2 == pytest.approx(row["tissue_mm2"] * (1 - 2 / row["n_tiles"])), "two tiles had been done"


def test_no_thread_is_left_at_work_after_a_write_that_failed(small, tmp_path, monkeypatch):
    def full(*_):
        raise OutputError("no room")

    monkeypatch.setattr(slide_module, "write_group", full)
    with pytest.raises(OutputError) as caught:  # its traceback holds on to what was running
        infer(small[0], tmp_path, "window_px=384", "group_tiles=1")
    assert caught.tb is not None
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "find", "write"))]


def test_tiles_that_could_not_be_read_are_an_exit_status_and_a_line(tmp_path):
    image, _ = tissue_image(900, 800, mpp=0.25, seed=4)
    path = draw_aperio(tmp_path / "s.svs", image, Drawing(factors=(1, 4), tile_px=240, broken_tile=(1, 1)))
    arguments = ["infer", "--slides", path, "--out", tmp_path / "o", "--checkpoint", WEIGHTS, "--set", "window_px=384"]
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])
    assert done.exit_code == 1
    assert re.search(r"\d of \d+ tiles, of 1 slides, could not be read", done.stdout)


def test_a_read_that_fails_once_is_tried_on_a_fresh_handle_and_costs_nothing(inferred, small, tmp_path, monkeypatch):
    read, failing = CucimReader.read, []

    def read_or_fail(self, corner, width, height, *, level):
        # Once begun, tiles fail on this handle for ever, as libtiff's do.
        if width > 600 and (not failing or self in failing):
            failing.append(self)
            raise SlideReadError("flaky")
        return read(self, corner, width, height, level=level)

    monkeypatch.setattr(CucimReader, "read", read_or_fail)
    infer(small[0], tmp_path, "window_px=512", "group_tiles=2")
    assert failing, "the tiles were read by cuCIM"
    assert slide_rows(tmp_path)["small"]["n_failed_tiles"] == 0
    assert nuclei(tmp_path) == nuclei(inferred)


def test_one_bad_slide_never_ends_the_batch(tiny, tmp_path):
    (tmp_path / "text.svs").write_text("not a slide")
    dark = np.zeros((1500, 1500, 3), np.uint8)
    dark[::40, ::40, 2] = 255
    draw_aperio(tmp_path / "dark.svs", dark, Drawing())
    image, _ = tissue_image(1200, 1200, seed=1)
    draw_aperio(tmp_path / "no-mpp.svs", image, Drawing(mpp=None))
    manifest = write_manifest(
        tmp_path / "m.csv",
        f"good,C,P,{tiny},,,",
        "text,C,P,text.svs,,,",
        "gone,C,P,gone.svs,,,",
        "no-mpp,C,P,no-mpp.svs,,,",
        "dark,C,P,dark.svs,,,",
        f"coarse,C,P,{tiny},,,2.5",
        "twice,C,P,a.svs,,,",
        "twice,C,P,b.svs,,,",
    )
    summary = infer(manifest, tmp_path / "out")
    rows = slide_rows(tmp_path / "out")
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "good": ("done", None),
        "text": ("failed", "unreadable"),
        "gone": ("failed", "not_found"),
        "no-mpp": ("failed", "mpp_missing"),
        "dark": ("skipped", "no_tissue"),
        "coarse": ("failed", "mpp_too_coarse"),
        "twice": ("failed", "manifest_invalid"),
    }
    assert "fluorescence" in rows["dark"]["message"]
    assert (summary.slides_done, summary.slides_failed, summary.slides_skipped) == (1, 5, 1)
    assert [part.parent.name for part in parts(tmp_path / "out")] == ["slide_id=good"]


def test_slides_of_one_name_in_two_folders_do_not_collide(tiny, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / "slides" / folder).mkdir(parents=True)
        shutil.copy(tiny, tmp_path / "slides" / folder / "s.svs")
    infer(tmp_path / "slides", tmp_path / "out")
    assert set(slide_rows(tmp_path / "out")) == {"one/s.svs", "two/s.svs"}
    assert len(parts(tmp_path / "out")) == 2


def test_regions_limit_the_work(inferred, small, tmp_path):
    left, top, side = 900, 800, 600
    ring = [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]
    (tmp_path / "r.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    infer(small[0], tmp_path / "out", "window_px=512", regions=tmp_path / "r.geojson")
    found, everything = places(tmp_path / "out"), places(inferred)
    assert ((found >= (left, top)) & (found <= (left + side, top + side))).all()
    inside = everything[((everything > (left, top)) & (everything < (left + side, top + side))).all(axis=1)]
    distance, _ = cKDTree(found).query(inside)
    assert (distance * 0.25 < 1).mean() > 0.99
    assert slide_rows(tmp_path / "out")["small"]["tissue_mm2"] == pytest.approx((side * 0.25e-3) ** 2, rel=0.05)
    (part,) = parts(tmp_path / "out")
    digest = sha256((tmp_path / "r.geojson").read_bytes()).hexdigest()
    about = json.loads(pq.read_schema(part).metadata[b"muse"])
    assert (about["regions"], about["tissue_edited"]) == ({"file": "r.geojson", "sha256": digest}, None)
    view = view_of(NucleiDataset(tmp_path / "out"), "small", tmp_path / "out" / "tissue" / "small.geojson")
    inside = shapely.box(left, top, left + side, top + side).buffer(0.02)
    assert inside.covers(shapely.transform(view.tissue_um, lambda xy: xy / 0.25)), "where nobody looked is no tissue"
    with pytest.raises(ConfigError, match="no such file"):
        infer(small[0], tmp_path / "out", regions=tmp_path / "none.geojson")


def whole_box(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.geojson").write_text(shapely.to_geojson(shapely.box(0, 0, 5000, 5000)))


def test_a_slide_without_regions_in_a_folder_of_them_is_skipped_and_keeps_what_it_had(tiny, tmp_path):
    manifest, out = write_manifest(tmp_path / "m.csv", f"A,C,P,{tiny},,,", f"B,C,P,{tiny},,,"), tmp_path / "out"
    whole_box(tmp_path / "r", "A")
    summary = infer(manifest, out, regions=tmp_path / "r")
    assert (summary.slides_done, summary.slides_skipped) == (1, 1)
    assert {name: row["reason"] for name, row in slide_rows(out).items()} == {"A": None, "B": "no_regions"}
    assert "no B.geojson" in slide_rows(out)["B"]["message"]
    assert infer(manifest, out, regions=tmp_path / "r").slides_reused == 2
    assert infer(write_manifest(tmp_path / "b.csv", f"B,C,P,{tiny},,,"), out).slides_done == 1
    assert infer(manifest, out, regions=tmp_path / "r").slides_skipped == 1
    assert "nuclei of an earlier run are kept" in slide_rows(out)["B"]["message"]
    assert len(parts(out)) == 2


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that nobody can read")
def test_regions_that_cannot_be_read_fail_their_slide_alone(tiny, tmp_path):
    manifest, out = write_manifest(tmp_path / "m.csv", f"A,C,P,{tiny},,,", f"B,C,P,{tiny},,,"), tmp_path / "out"
    whole_box(tmp_path / "r", "A")
    (tmp_path / "r" / "B.geojson").symlink_to("/proc/self/mem")
    summary = infer(manifest, out, regions=tmp_path / "r")
    assert (summary.slides_done, summary.slides_failed) == (1, 1)
    row = slide_rows(out)["B"]
    assert row["reason"] == "dataset_invalid"
    assert "B.geojson: cannot be read" in row["message"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [((), "cannot be read"), (("embedding=true",), "no embeddings"), (("window_px=256",), "wide")],
)
def test_a_model_of_no_use_is_told_before_any_slide(tmp_path, overrides, says, monkeypatch):
    (tmp_path / "ckpt.txt").write_text("no weights")
    if says == "wide":
        monkeypatch.setattr(nucleus_model, "DETECTOR_MARGIN_UM", 100.0)
        says = "leave nothing of it"
    checkpoint = WEIGHTS if overrides else tmp_path / "ckpt.txt"
    options = InferOptions(out=tmp_path / "out", checkpoint=checkpoint)
    with pytest.raises(ConfigError, match=says), open_infer(options, load_settings(InferSettings, None, overrides)):
        pass
    assert not (tmp_path / "out").exists()


def test_regions_count_from_the_scanners_bounds_and_leave_out_what_qupath_ignores(small, tmp_path):
    def box(left, top, right, bottom, name):
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        about = {"classification": {"name": name, "color": [0, 0, 0]}}
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": about}

    drawn = [box(800, 700, 1400, 1300, "Tumor"), box(800, 700, 1100, 1300, "Ignore*")]
    (tmp_path / "r.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": drawn}))
    with open_slide(small[0]) as slide:
        area = slide_module._regions(tmp_path / "r.geojson", replace(slide.info, bounds_level0=Box(100, 50, 900, 900)))
    assert area.bounds == (1200, 750, 1500, 1350)
    (tmp_path / "r.geojson").write_text(json.dumps(box(90_000, 0, 91_000, 1000, "Tumor")))
    infer(small[0], tmp_path / "out", regions=tmp_path / "r.geojson")
    assert slide_rows(tmp_path / "out")["small"]["reason"] == "no_tissue"


def test_embeddings_are_kept_as_half_precision_lists(tiny, tmp_path):
    settings, head = BackboneSettings(), NdcHead(CLASSES)
    torch.manual_seed(0)
    checkpoint = tmp_path / "ndc.safetensors"
    save_checkpoint(NdcCheckpoint(build_net(settings, head), settings, head, {}), checkpoint)
    infer(tiny, tmp_path / "out", "embedding=true", "min_score=0", "window_px=1024", checkpoint=checkpoint)
    (part,) = parts(tmp_path / "out")
    kind = pq.read_schema(part).field("embedding").type
    assert pa.types.is_fixed_size_list(kind)
    assert kind.value_type == pa.float16()
    column = pq.read_table(part, partitioning=None)["embedding"].combine_chunks()
    assert len(column) > 0
    assert np.isfinite(column.flatten().to_numpy().astype(np.float32)).all()


def test_two_runs_into_one_folder(tiny, tmp_path):
    options = InferOptions(out=tmp_path, checkpoint=WEIGHTS)
    with open_infer(options, InferSettings()), pytest.raises(OutputError) as caught:
        infer(tiny, tmp_path)
    assert caught.value.reason == "output_locked"


def test_the_command(tiny, tmp_path):
    arguments = ["infer", "--slides", tiny, "--out", tmp_path / "o", "--checkpoint", WEIGHTS, "--json"]
    command = [sys.executable, "-m", "muse_core.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer = json.loads(done.stdout.splitlines()[-1])
    wanted = (
        "slides_done slides_failed slides_skipped n_nuclei tissue_mm2 seconds seconds_per_mm2 peak_rss_bytes failures"
    )
    assert set(wanted.split()) | {"mm2_per_hour", "read_share", "network_share", "write_share"} <= set(answer)
    assert (answer["slides_done"], answer["n_nuclei"]) == (1, len(nuclei(tmp_path / "o")))
    assert "mm²/h" in done.stdout


def test_images_work_like_slides(tmp_path):
    folder = tmp_path / "images"
    (folder / "one").mkdir(parents=True)
    image, true = tissue_image(700, 500, mpp=0.5, seed=2)
    Image.fromarray(image).save(folder / "a.png")
    Image.fromarray(image).save(folder / "one" / "a.jpg", quality=95)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) << 4)
    summary = infer(folder, tmp_path / "out", mpp=0.5)
    rows = slide_rows(tmp_path / "out")
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "a": ("done", None),
        "one/a": ("done", None),
        "broken": ("failed", "unreadable"),
        "deep": ("failed", "unreadable"),
    }
    assert "8-bit RGB" in rows["deep"]["message"]
    assert summary.tissue_mm2 == pytest.approx(2 * 0.35 * 0.25)
    (part, _) = parts(tmp_path / "out")
    found = pq.read_table(part, partitioning=None, columns=["x_level0", "y_level0"])
    distance, _ = cKDTree(np.column_stack([found["x_level0"], found["y_level0"]])).query(true)
    assert (distance * 0.5 < 2).mean() > 0.85
    infer(folder / "a.png", tmp_path / "none")
    assert slide_rows(tmp_path / "none")["a"]["reason"] == "mpp_missing"


def test_an_image_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"nope\.png: no such file"):
        read_inputs(tmp_path / "nope.png", 0.5)


def test_pictures_for_reports_are_kept_of_slides_that_are_not(tiny, tmp_path):
    fsspec.filesystem("memory").pipe("/slides/tiny.svs", tiny.read_bytes())
    manifest, out = write_manifest(tmp_path / "m.csv", "A,C,P,memory://slides/tiny.svs,,,"), tmp_path / "out"
    infer(manifest, out, keep_slides=False)
    assert not list((out / "downloads").rglob("*.svs"))
    assert (out / "pictures" / "A" / "overview.jpg").exists()
    write_report(out, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "no pictures were kept" not in text
    infer(manifest, out, "min_score=0.6")
    assert not (out / "pictures" / "A").exists(), "pictures of other nuclei"


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds(inferred, small, tmp_path):
    infer(small[0], tmp_path, "window_px=512", device="cuda")
    one, other = places(inferred), places(tmp_path)
    assert abs(len(one) - len(other)) <= 0.01 * len(one)
    distance, _ = cKDTree(other).query(one)
    assert (distance * 0.25 < 1).mean() > 0.98
    assert slide_rows(tmp_path)["small"]["device"] == "cuda"


@pytest.mark.slides
def test_real_slides_good_and_bad(shared, tmp_path):
    infer(shared / "data" / "slides", tmp_path)
    rows = slide_rows(tmp_path)
    done = {name for name, row in rows.items() if row["status"] == "done"}
    assert done == {"CMU-1-Small-Region", "OS-1-detail"}
    assert rows["CMU-1-Small-Region"]["n_nuclei"] > 1000
    assert (rows["fluorescence"]["status"], rows["fluorescence"]["reason"]) == ("skipped", "no_tissue")
    assert rows["camelyon-thumbnail"]["reason"] == "mpp_too_coarse"
    assert rows["frozen-no-mpp"]["reason"] == "mpp_missing"
    assert len(parts(tmp_path)) == 2
