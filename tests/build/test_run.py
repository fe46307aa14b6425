"""The build whole: real files in, tables out, and everything that can go wrong on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from scipy.spatial import cKDTree

from muse_core.build import settings as build_settings
from muse_core.build.run import BuildOptions, open_build
from muse_core.build.settings import BuildSettings
from muse_core.build.summary import BuildSummary
from muse_core.cohort import run as cohort_run
from muse_core.cohort import staging
from muse_core.cohort.manifest import read_manifest
from muse_core.cohort.run import do_all
from muse_core.config import load_settings
from muse_core.errors import OutputError
from muse_core.machine.threads import torch_threads
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.roi_dataset.part import read_provenance
from muse_core.roi_dataset.write import parts_of_slide
from muse_core.schemas import SLIDES
from tests.command import run_muse
from tests.data.gdc_server import GdcServer
from tests.data.make_slides import Drawing, draw_aperio, tissue_image
from tests.data.small_disk import largest_file

# Where nuclei are what is looked at, they are found by the network that ships, in seconds more: LEARNED.
SMALL = ["rois.size_px=1024", "rois.max_per_slide=6", "chunk_rois=2", "detector=classical"]
LEARNED = ["detector=learned"]


def write_manifest(path: Path, *rows: str) -> Path:
    path.write_text("slide_id,case_id,project,uri,size,md5,mpp\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def build(manifest: Path, out: Path, *, overrides=(), **options) -> BuildSummary:
    settings = load_settings(BuildSettings, None, [*SMALL, *overrides])
    checked = read_manifest(manifest)
    with open_build(BuildOptions(out=out, **{"workers": 0} | options), settings) as run:
        return run.finish(checked, list(do_all(run, checked.rows, run.do_slide)))


def slide_rows(out: Path) -> dict[str, dict]:
    return {row["slide_id"]: row for row in pq.read_table(out / "slides.parquet").to_pylist()}


def tables(out: Path) -> tuple[list[dict], list[dict]]:
    """Everything a build wrote but the time it took."""
    slides = [row | {"seconds": None} for row in pq.read_table(out / "slides.parquet").to_pylist()]
    rois = [
        row
        for part in sorted(out.glob("rois/*/*.parquet"))
        for row in pq.read_table(part, partitioning=None).to_pylist()
    ]
    return slides, rois


@pytest.fixture(scope="module")
def built(drawn, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(write_manifest(folder / "m.csv", f"S1,C1,P1,{drawn[0]},,,"), folder / "out", overrides=LEARNED)
    return folder / "out"


@pytest.fixture(scope="module")
def small_slide(tmp_path_factory) -> Path:
    """A slide of one or two ROIs: quick to do with the network that ships."""
    image, _ = tissue_image(1400, 1200, mpp=0.25, seed=11)
    return draw_aperio(tmp_path_factory.mktemp("small") / "s.svs", image, Drawing(mpp=(0.25, 0.25), tile_px=240))


@pytest.fixture(scope="module")
def on_one_thread(small_slide, tmp_path_factory) -> Path:
    """A folder with the manifest of a slide, and what this process alone makes of it on one thread."""
    folder = tmp_path_factory.mktemp("one")
    manifest = write_manifest(folder / "m.csv", f"S1,C1,P1,{small_slide},,,")
    with torch_threads(1):
        build(manifest, folder / "out", overrides=[*LEARNED, "rois.size_px=512"])
    return folder


@pytest.mark.parametrize(("workers", "threads"), [(0, 2), (1, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_tables_hang_neither_on_workers_nor_on_threads(on_one_thread, tmp_path, monkeypatch, workers, threads):
    import torch

    learned = [*LEARNED, "rois.size_px=512"]
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))  # for workers, which are started anew
    with torch_threads(threads):
        build(on_one_thread / "m.csv", tmp_path, overrides=learned, workers=workers)
        assert torch.get_num_threads() == threads
    (_, expected), (_, found) = tables(on_one_thread / "out"), tables(tmp_path)
    assert sum(row["n_nuclei"] for row in expected) > 100
    assert found == expected


def test_tables_of_a_drawn_slide(built):
    slides = pq.read_table(built / "slides.parquet")
    assert slides.schema.names == SLIDES.names
    row = slides.to_pylist()[0]
    assert (row["status"], row["reason"], row["mpp_x"], row["n_rois"]) == ("done", None, 0.25, 6)
    assert 0.3 < row["tissue_mm2"] < 1.4 * 1.2
    dataset = RoiDataset(built)
    assert len(dataset) == row["n_rois"]
    assert sum(dataset.table(["n_nuclei"])["n_nuclei"].to_pylist()) == row["n_nuclei"]
    assert (built / "contact_sheets" / "S1.jpg").stat().st_size > 10_000
    assert not (built / ".staging" / "S1").exists()


def test_rois_hold_the_slides_nuclei_at_their_places(built, drawn):
    _, truth = drawn
    tree = cKDTree(truth)
    rois = RoiDataset(built)
    small = rois.table().to_pylist()
    for index, row in enumerate(small):
        assert (row["width_px"], row["height_px"], row["mpp"]) == (1024, 1024, 0.25)
        nuclei = rois.read(index).nuclei
        assert ((nuclei[:, :2] >= 0) & (nuclei[:, :2] < 1024)).all()
        places = nuclei[:, :2] + (row["x_level0"], row["y_level0"])
        inside = (
            (truth >= (row["x_level0"] + 12, row["y_level0"] + 12))
            & (truth < (row["x_level0"] + 1012, row["y_level0"] + 1012))
        ).all(axis=1)
        distance, _ = cKDTree(places).query(truth[inside])
        assert (distance * 0.25 < 2).mean() > 0.9, "drawn nuclei are found"
        near, _ = tree.query(places)
        assert np.median(near) * 0.25 < 0.25, "and found where they were drawn"


def test_rois_do_not_overlap_and_lie_in_the_slide(built):
    rows = RoiDataset(built).table().to_pylist()
    for number, a in enumerate(rows):
        assert 0 <= a["x_level0"] <= 5600 - a["width_level0"]
        assert 0 <= a["y_level0"] <= 4800 - a["height_level0"]
        for b in rows[:number]:
            assert abs(a["x_level0"] - b["x_level0"]) >= 1024 or abs(a["y_level0"] - b["y_level0"]) >= 1024


def test_one_bad_slide_never_ends_the_batch(drawn, tmp_path):
    slide, _ = drawn
    (tmp_path / "text.svs").write_text("not a slide")
    image, _ = tissue_image(2000, 2000, seed=1)
    draw_aperio(tmp_path / "no-mpp.svs", image, Drawing(mpp=None))
    manifest = write_manifest(
        tmp_path / "m.csv",
        f"good,C,P,{slide},,,",
        "text,C,P,text.svs,,,",
        "gone,C,P,gone.svs,,,",
        "no-mpp,C,P,no-mpp.svs,,,",
        f"wrong,C,P,{slide},,{'0' * 32},",
        "twice,C,P,a.svs,,,",
        "twice,C,P,b.svs,,,",
        "folder,C,P,.,,,",
    )
    summary = build(manifest, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "slides.parquet").to_pylist()
    found = {row["slide_id"]: (row["status"], row["reason"]) for row in rows}
    assert found == {
        "good": ("done", None),
        "text": ("failed", "unreadable"),
        "gone": ("failed", "not_found"),
        "no-mpp": ("failed", "mpp_missing"),
        "wrong": ("failed", "checksum_mismatch"),
        "twice": ("failed", "manifest_invalid"),
        "folder": ("failed", "not_found"),
    }
    assert (summary.slides_done, summary.slides_failed) == (1, 6)
    assert len(rows) == 7, "one row a slide"
    assert all("\n" not in (row["message"] or "") for row in rows)
    assert {failure["slide_id"] for failure in summary.failures} == set(found) - {"good"}


def test_a_scene_is_built_where_the_manifest_says_so(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as tiff:
        for width in (1200, 1400):
            image, _ = tissue_image(width, 1200, mpp=0.25, seed=11)
            options = {"tile": (256, 256), "photometric": "rgb", "compression": "lzw", "metadata": None}
            tiff.write(image, resolution=(40000.0, 40000.0), resolutionunit="CENTIMETER", **options)
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,uri,scene\nA,two.tif,1\nB,two.tif,\n")
    build(manifest, tmp_path / "out", overrides=["detector=none"])
    rows = slide_rows(tmp_path / "out")
    assert {name: (row["scene"], row["width_level0"]) for name, row in rows.items()} == {
        "A": (1, 1200),
        "B": (None, 1400),
    }


def test_a_bad_tile_costs_its_roi_only(tmp_path):
    image, _ = tissue_image(5600, 4800, seed=7)
    draw_aperio(tmp_path / "s.svs", image, Drawing(tile_px=240, broken_tile=(11, 9)))
    manifest = write_manifest(tmp_path / "m.csv", "S,C,P,s.svs,,,")
    build(manifest, tmp_path / "out", overrides=["rois.max_per_slide=40"])
    row = slide_rows(tmp_path / "out")["S"]
    assert (row["status"], row["reason"], row["n_failed_rois"]) == ("done", "bad_tiles", 1)
    assert row["n_rois"] == len(RoiDataset(tmp_path / "out")) > 5
    assert "could not be read" in row["message"]


def test_rerun_does_only_what_is_missing_or_changed(drawn, tmp_path):
    shutil.copy(drawn[0], tmp_path / "a.svs")
    shutil.copy(drawn[0], tmp_path / "b.svs")
    manifest = write_manifest(tmp_path / "m.csv", "A,C,P,a.svs,,,", "B,C,P,b.svs,,,")
    build(manifest, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/rois/*/*")}
    again = build(manifest, tmp_path / "out")
    assert again.slides_reused == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/rois/*/*")} == before
    os.utime(tmp_path / "b.svs", (1, 1))
    assert build(manifest, tmp_path / "out").slides_reused == 1
    changed = build(manifest, tmp_path / "out", overrides=["rois.max_per_slide=1"])
    assert (changed.slides_reused, changed.n_rois) == (0, 2)
    assert len(RoiDataset(tmp_path / "out")) == 2, "no row of the earlier settings is left"


def test_new_weights_of_the_learned_detector_are_new_inputs(tmp_path, monkeypatch):
    learned, classical = BuildSettings(), BuildSettings(detector="classical")
    before = learned.tables_hash(), classical.tables_hash()
    (tmp_path / "w.safetensors").write_bytes(b"others")
    monkeypatch.setattr(build_settings, "NUCLEUS_DETECTOR", tmp_path / "w.safetensors")
    assert learned.tables_hash() != before[0]
    assert classical.tables_hash() == before[1]


def test_new_slides_join_the_dataset(drawn, tmp_path):
    first = write_manifest(tmp_path / "1.csv", f"A,C,P,{drawn[0]},,,")
    second = write_manifest(tmp_path / "2.csv", f"B,C,Q,{drawn[0]},,,")
    build(first, tmp_path / "out")
    build(second, tmp_path / "out")
    assert set(slide_rows(tmp_path / "out")) == {"A", "B"}
    assert len(RoiDataset(tmp_path / "out")) == 12


def test_edited_tissue_replaces_what_was_found(built, drawn, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", f"S1,C1,P1,{drawn[0]},,,")
    left, top, side = 1900, 1500, 1300
    ring = [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]
    collection = json.loads((built / "tissue" / "S1.geojson").read_text())
    collection["features"] = collection["features"][:1]
    collection["features"][0]["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    (tmp_path / "edited").mkdir()
    (tmp_path / "edited" / "S1.geojson").write_text(json.dumps(collection))
    build(manifest, tmp_path / "out", tissue_folder=tmp_path / "edited")
    row = slide_rows(tmp_path / "out")["S1"]
    assert row["tissue_mm2"] == pytest.approx((side * 0.25e-3) ** 2, rel=1e-3)
    assert row["n_rois"] == 1


def crashing(rgb, mpp):
    """A third party's detector with a fault."""
    raise ZeroDivisionError("a fault of theirs")


def test_a_fault_in_a_detector_is_the_slides_reason(drawn, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,", "gone,C,P,gone.svs,,,")
    summary = build(manifest, tmp_path / "out", overrides=["detector=tests.build.test_run:crashing"])
    assert summary.slides_failed == 2
    row = slide_rows(tmp_path / "out")["A"]
    assert (row["status"], row["reason"]) == ("failed", "crashed")
    assert "ZeroDivisionError: a fault of theirs" in row["message"]
    assert not list(tmp_path.glob("out/rois/*/*.parquet"))


def test_names_never_leave_their_folder(drawn, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", f"../../escape,../c,../../p,{drawn[0]},,,")
    build(manifest, tmp_path / "out" / "deep")
    assert slide_rows(tmp_path / "out" / "deep")["../../escape"]["status"] == "done"
    assert {path.name for path in tmp_path.iterdir()} == {"m.csv", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"deep"}


def test_two_runs_into_one_folder(drawn, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,")
    settings = BuildSettings()
    with open_build(BuildOptions(out=tmp_path / "out", workers=0), settings), pytest.raises(OutputError) as caught:
        build(manifest, tmp_path / "out")
    assert caught.value.reason == "output_locked"


def test_fetched_slides_are_deleted_and_never_too_many(drawn, tmp_path):
    data = drawn[0].read_bytes()
    ids = [f"0000000{n}-0000-0000-0000-000000000000" for n in range(4)]
    with GdcServer(dict.fromkeys(ids, data)) as server:
        manifest = write_manifest(
            tmp_path / "m.csv", *(f"S{n},C,P,gdc://{uuid},{len(data)},," for n, uuid in enumerate(ids))
        )
        overrides = [f"acquire.gdc_url={server.url}", "detector=none", "contact_sheets=false", "rois.max_per_slide=1"]
        summary = build(manifest, tmp_path / "out", overrides=overrides, keep_slides=False, max_slides_on_disk=1)
        assert summary.slides_done == 4
        assert not list((tmp_path / "out" / "slides").rglob("*.svs")), "all deleted"
        again = build(manifest, tmp_path / "out", overrides=overrides, keep_slides=False, max_slides_on_disk=1)
        assert again.slides_reused == 4, "and a finished slide is not fetched again"


class Killed(BaseException):
    """Ends a run where it stands, as a kill does: nothing of ours catches it."""


@pytest.mark.parametrize("moves", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_commits_cut_short_leave_no_mixture(drawn, tmp_path, monkeypatch, moves):
    """Settings A, then B, are killed while parts move into place; then A runs whole."""
    manifest = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,")
    put = staging.put
    for overrides in ((), ("rois.seed=5",)):
        moved: list[Path] = []

        def put_or_die(staged: Path, final: Path, moved: list[Path] = moved) -> None:
            if len(moved) == moves:
                raise Killed
            moved.append(final)
            put(staged, final)

        monkeypatch.setattr(staging, "put", put_or_die)
        with pytest.raises(Killed):
            build(manifest, tmp_path / "out", overrides=overrides)
    monkeypatch.setattr(staging, "put", put)
    build(manifest, tmp_path / "out")
    build(manifest, tmp_path / "calm")
    assert tables(tmp_path / "out") == tables(tmp_path / "calm")
    hashes = {read_provenance(part)["inputs_hash"] for part in parts_of_slide(tmp_path / "out", "A")}
    assert len(hashes) == 1


@pytest.mark.parametrize("how", ["build", "finished"])
def test_what_other_settings_left_staged_goes_with_the_next_run(drawn, tmp_path, monkeypatch, how):
    """A rebuild is killed before its commit; then the settings of the first run, by a command or a flow."""
    manifest, out = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,"), tmp_path / "out"
    build(manifest, out)

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(cohort_run, "drop_other_attempts", die)
        with pytest.raises(Killed):
            build(manifest, out, overrides=["rois.seed=5"])
    assert list(out.glob(".staging/A/*/part-*.parquet"))
    settings = load_settings(BuildSettings, None, SMALL)
    with open_build(BuildOptions(out=out, workers=0), settings) as run:
        row = read_manifest(manifest).rows[0]
        record = run.do_slide(row) if how == "build" else run.finished(row)
    assert record.reused
    assert not any((out / ".staging").iterdir())
    assert len(RoiDataset(out)) == 6


def test_a_part_that_is_gone_is_built_again(drawn, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,")
    build(manifest, tmp_path / "out")
    parts_of_slide(tmp_path / "out", "A")[1].unlink()
    assert build(manifest, tmp_path / "out").slides_reused == 0
    assert len(RoiDataset(tmp_path / "out")) == 6


def test_what_was_built_stays_when_the_manifest_spoils_its_row(drawn, tmp_path):
    build(write_manifest(tmp_path / "1.csv", f"A,C,P,{drawn[0]},,,"), tmp_path / "out")
    build(write_manifest(tmp_path / "2.csv", f"A,C,P,{drawn[0]},,,", "A,C,P,other.svs,,,"), tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "slides.parquet").to_pylist()
    assert [(row["slide_id"], row["status"], row["reason"], row["n_rois"]) for row in rows] == [
        ("A", "failed", "manifest_invalid", 6)
    ]
    assert len(RoiDataset(tmp_path / "out")) == 6


def test_odd_records_and_paths_cost_nothing_but_themselves(drawn, tmp_path):
    long = "x" * 300
    manifest = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,", f"long,C,P,/tmp/{long}.svs,,,")
    (tmp_path / "out" / "records").mkdir(parents=True)
    (tmp_path / "out" / "records" / "A.json").write_text("null")
    (tmp_path / "edited" / "A.geojson").mkdir(parents=True)
    summary = build(manifest, tmp_path / "out", tissue_folder=tmp_path / "edited")
    assert (summary.slides_done, summary.slides_failed) == (1, 1)


def build_arguments(manifest: Path, out: Path, *overrides: str, workers: str) -> list[str]:
    """What `build` does, as words of the command."""
    settings = [part for override in (*SMALL, *overrides) for part in ("--set", override)]
    return ["build-tcga-nu", "--manifest", str(manifest), "--out", str(out), "--workers", workers, *settings]


def test_a_full_disk_is_one_line_and_the_rerun_completes(drawn, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,")
    arguments = build_arguments(manifest, tmp_path / "out", workers="0")
    with largest_file(100_000):
        failed = run_muse(*arguments)
    assert failed.returncode == 1
    assert "no space left" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert run_muse(*arguments).returncode == 0
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_gives_the_same_tables(drawn, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,", f"B,C,Q,{drawn[0]},,,")
    quick = [*LEARNED, "rois.size_px=512"]
    build(manifest, tmp_path / "calm", overrides=quick)
    arguments = build_arguments(manifest, tmp_path / "out", *quick, workers="0")
    command = [sys.executable, "-m", "muse_core.cli", *arguments]
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_begun(tmp_path / "out", process)
        time.sleep(rng.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run_muse(*arguments).returncode == 0
    assert tables(tmp_path / "out") == tables(tmp_path / "calm")
    assert not any((tmp_path / "out" / ".staging").iterdir())


@pytest.fixture(scope="module")
def four(drawn, tmp_path_factory) -> Path:
    """A folder with the manifest of four slides, and what is built of them."""
    folder = tmp_path_factory.mktemp("four")
    manifest = write_manifest(folder / "m.csv", *(f"S{number},C,P,{drawn[0]},,," for number in range(4)))
    build(manifest, folder / "out")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_interrupting_a_rebuild_loses_nothing(four, tmp_path, how, workers):
    manifest = four / "m.csv"
    shutil.copytree(four / "out", tmp_path / "out")
    before = tables(tmp_path / "out")
    arguments = build_arguments(manifest, tmp_path / "out", workers=workers)
    changed = [*arguments, "--set", "image.quality=80"]
    process = subprocess.Popen([sys.executable, "-m", "muse_core.cli", *changed], stderr=subprocess.PIPE, text=True)
    wait_until_begun(tmp_path / "out", process, staged=True)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 130
    # Python's own process that tracks what Dask's share may be the last to speak, of what was being made just then.
    said = [line for line in stderr.strip().splitlines() if "resource_tracker" not in line]
    assert said[-1].startswith("muse: interrupted")
    assert "Traceback" not in stderr
    assert len(RoiDataset(tmp_path / "out")) == len(before[1]), "each slide has its old ROIs or its new ones"
    assert run_muse(*arguments).returncode == 0
    assert tables(tmp_path / "out") == before
    assert not any((tmp_path / "out" / ".staging").iterdir()), "nothing is left of the other settings"


def test_what_was_built_stays_when_its_slide_cannot_be_had_again(drawn, tmp_path):
    shutil.copy(drawn[0], tmp_path / "a.svs")
    manifest = write_manifest(tmp_path / "m.csv", "A,C,P,a.svs,,,")
    build(manifest, tmp_path / "out")
    (tmp_path / "a.svs").rename(tmp_path / "away.svs")
    summary = build(manifest, tmp_path / "out")
    row = slide_rows(tmp_path / "out")["A"]
    assert (summary.slides_failed, row["status"], row["reason"]) == (1, "failed", "not_found")
    assert "6 ROIs of an earlier run are kept" in row["message"]
    assert len(RoiDataset(tmp_path / "out")) == 6
    (tmp_path / "away.svs").rename(tmp_path / "a.svs")
    assert build(manifest, tmp_path / "out").slides_reused == 1


def test_tissue_edited_in_place_is_used_and_not_written_over(drawn, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", f"A,C,P,{drawn[0]},,,")
    build(manifest, tmp_path / "out")
    tissue = tmp_path / "out" / "tissue" / "A.geojson"
    square = [[1000, 1000], [3200, 1000], [3200, 3200], [1000, 3200], [1000, 1000]]
    tissue.write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    edited = tissue.read_text()
    build(manifest, tmp_path / "out", tissue_folder=tmp_path / "out" / "tissue")
    assert tissue.read_text() == edited
    assert slide_rows(tmp_path / "out")["A"]["tissue_mm2"] == pytest.approx(0.55**2)
    assert build(manifest, tmp_path / "out", tissue_folder=tmp_path / "out" / "tissue").slides_reused == 1


def test_what_is_known_of_a_skipped_slide_is_told(tmp_path):
    glass = np.full((2000, 3000, 3), 240, np.uint8)
    draw_aperio(tmp_path / "glass.svs", glass, Drawing(mpp=(0.5, 0.5)))
    build(write_manifest(tmp_path / "m.csv", "glass,C,P,glass.svs,,,"), tmp_path / "out")
    row = slide_rows(tmp_path / "out")["glass"]
    assert (row["status"], row["reason"], row["n_rois"]) == ("skipped", "no_tissue", 0)
    assert (row["mpp_x"], row["width_level0"], row["vendor"]) == (0.5, 3000, "aperio")
    assert row["size"] == (tmp_path / "glass.svs").stat().st_size
    assert row["md5"]


def wait_until_begun(out: Path, process: subprocess.Popen, *, staged: bool = False) -> None:
    """Until the run holds its folder, or has work in it, so that a kill hits work and not imports."""
    for _ in range(600):
        begun = any(out.glob(".staging/*/*/plan.json")) if staged else (out / ".staging").exists()
        if begun or process.poll() is not None:
            return
        time.sleep(0.05)
