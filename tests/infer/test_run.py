"""Inference whole: real files in, the nuclei dataset out."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import md5, sha256

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.spatial import cKDTree

from muse_core.config import load_settings
from muse_core.detector import model as detector_model
from muse_core.errors import ConfigError, OutputError
from muse_core.infer import InferOptions, InferSettings, open_infer
from muse_core.infer import slide as slide_module
from muse_core.models.backbone import BackboneSettings
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.ndc.checkpoint import NdcCheckpoint, build_net, save_checkpoint
from muse_core.ndc.head import NdcHead
from muse_core.report import write_report
from muse_core.schemas import INFERRED_SLIDES, nuclei_schema
from tests.data.make_slides import Drawing, draw_tiff, tissue_image
from tests.infer.cohort_runs import CLASSES, infer, nuclei, parts, places, slide_rows, write_manifest


def test_tables_of_a_drawn_slide(inferred, small):
    (part,) = parts(inferred)
    table = pq.read_table(part, partitioning=None)
    assert table.schema.remove_metadata().equals(nuclei_schema(CLASSES))
    about = json.loads(pq.read_schema(part).metadata[b"muse"])
    assert (about["slide_id"], about["mpp_x"], about["model_mpp"]) == ("small", 0.25, 0.5)
    assert about["md5"] == md5(small[0].read_bytes()).hexdigest()
    assert about["model_id"] == sha256(NUCLEUS_DETECTOR.read_bytes()).hexdigest()[:12]
    assert (about["mpp_source"], about["bounds_level0"], about["failed_tiles"]) == ("aperio.MPP", None, [])
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


@pytest.mark.slow
def test_the_same_nuclei_wherever_tiles_begin(inferred, small, tmp_path):
    infer(small[0], tmp_path, "window_px=512", "offset_px=[237, 101]")
    one, other = places(inferred), places(tmp_path)
    distance, nearest = cKDTree(other).query(one)
    back = cKDTree(one).query(other)[1]
    same = (distance * 0.25 < 1) & (back[nearest] == np.arange(len(one)))
    assert len(one) + len(other) - 2 * same.sum() <= 0.002 * len(one)
    assert len(np.unique(other, axis=0)) == len(other)


@pytest.mark.parametrize("mpp", [pytest.param((0.5, 0.5), marks=pytest.mark.slow), (0.21, 0.29), (0.4521, 0.4521)])
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


@pytest.mark.slow
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
    with safe_open(NUCLEUS_DETECTOR, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, other, metadata=file.metadata() | {"note": "the same, written anew"})
    assert infer(manifest, out, "min_score=0.6", checkpoint=other).slides_reused == 0
    parts(out)[0].unlink()
    assert infer(manifest, out, "min_score=0.6", checkpoint=other).slides_reused == 1
    assert len(parts(out)) == 2
    only_a = write_manifest(tmp_path / "a.csv", "A,C,P,a.svs,,,")
    with pytest.raises(OutputError, match=r"holds slide B of another model, other\.safetensors") as caught:
        infer(only_a, out, "min_score=0.6")
    assert caught.value.reason == "output_mixed"
    assert infer(only_a, out, "min_score=0.6", checkpoint=other).slides_reused == 1


def test_parts_of_earlier_versions_are_not_added_to(tiny, tmp_path):
    (tmp_path / "out" / "nuclei" / "project=LAB").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"rm -r '.*nuclei' and run the same command again") as caught:
        infer(tiny, tmp_path / "out")
    assert caught.value.reason == "output_old"


def test_slides_of_one_name_in_two_folders_do_not_collide(tiny, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / "slides" / folder).mkdir(parents=True)
        shutil.copy(tiny, tmp_path / "slides" / folder / "s.svs")
    infer(tmp_path / "slides", tmp_path / "out")
    assert set(slide_rows(tmp_path / "out")) == {"one/s.svs", "two/s.svs"}
    assert len(parts(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("overrides", "says"),
    [((), "cannot be read"), (("embedding=true",), "no embeddings"), (("window_px=256",), "wide")],
)
def test_a_model_of_no_use_is_told_before_any_slide(tmp_path, overrides, says, monkeypatch):
    (tmp_path / "ckpt.txt").write_text("no weights")
    if says == "wide":
        monkeypatch.setattr(detector_model, "DETECTOR_MARGIN_UM", 100.0)
        slide_module._kept_model.cache_clear()
        says = "leave nothing of it"
    checkpoint = NUCLEUS_DETECTOR if overrides else tmp_path / "ckpt.txt"
    options = InferOptions(out=tmp_path / "out", checkpoint=checkpoint)
    with pytest.raises(ConfigError, match=says), open_infer(options, load_settings(InferSettings, None, overrides)):
        pass
    assert not (tmp_path / "out").exists()


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


@pytest.mark.slow
def test_quantised_weights_find_the_same_nuclei_whatever_the_workers_and_the_cuts(small, tmp_path):
    options = {"checkpoint": None}  # what ships
    assert infer(small[0], tmp_path / "int8", "engine=openvino", **options).engine == "openvino"
    infer(small[0], tmp_path / "workers", "engine=openvino", workers=1, **options)
    infer(small[0], tmp_path / "float", "engine=torch", **options)
    infer(small[0], tmp_path / "cuts", "engine=openvino", "window_px=768", **options)
    (one,), (two,) = parts(tmp_path / "int8"), parts(tmp_path / "workers")
    assert one.read_bytes() == two.read_bytes()
    about = json.loads(pq.read_schema(one).metadata[b"muse"])
    assert about["engine"].startswith("openvino")
    row = slide_rows(tmp_path / "int8")["small"]
    assert row["engine"] == about["engine"]
    assert 1 < row["redundancy"] < 5
    found = {name: places(tmp_path / name) for name in ("int8", "float", "cuts")}
    for other, least in (("float", 0.97), ("cuts", 0.985)):
        distance, _ = cKDTree(found[other]).query(found["int8"])
        assert (distance * 0.25 < 1).mean() > least
        assert len(found[other]) == pytest.approx(len(found["int8"]), rel=0.03)


@pytest.mark.parametrize(
    ("overrides", "options", "says"),
    [
        (("engine=openvino", "embedding=true"), {"checkpoint": None}, "give no embeddings"),
        (("engine=openvino",), {}, r"no nucleus-detector\.int8\.safetensors .* muse quantise makes it"),
    ],
)
def test_an_engine_that_cannot_run_the_network_is_told(tiny, tmp_path, overrides, options, says):
    with pytest.raises(ConfigError, match=says):
        infer(tiny, tmp_path / "out", *overrides, **options)


def test_two_runs_into_one_folder(tiny, tmp_path):
    options = InferOptions(out=tmp_path, checkpoint=NUCLEUS_DETECTOR)
    with open_infer(options, InferSettings()), pytest.raises(OutputError) as caught:
        infer(tiny, tmp_path)
    assert caught.value.reason == "output_locked"


@pytest.mark.slow
def test_the_command(tiny, tmp_path):
    arguments = ["infer", "--slides", tiny, "--out", tmp_path / "o", "--checkpoint", NUCLEUS_DETECTOR, "--json"]
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


@pytest.mark.slow
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
@pytest.mark.parametrize("decode_on_gpu", [False, True])
def test_a_gpu_finds_what_a_cpu_finds(decode_on_gpu, inferred, small, tmp_path):
    infer(small[0], tmp_path, "window_px=512", f"decode_on_gpu={str(decode_on_gpu).lower()}", device="cuda")
    one, other = places(inferred), places(tmp_path)
    assert abs(len(one) - len(other)) <= 0.01 * len(one)
    distance, _ = cKDTree(other).query(one)
    assert (distance * 0.25 < 1).mean() > 0.98
    assert slide_rows(tmp_path)["small"]["device"] == "cuda"


@pytest.mark.slow
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
