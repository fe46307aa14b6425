"""Inference whole, and what can go wrong on the way: kills, bad tiles, bad slides, failed writes."""

import json
import re
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from muse_core.cli.app import app
from muse_core.errors import OutputError, SlideReadError
from muse_core.infer import work as slide_module
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.slide.tifffile_reader import TifffileReader
from tests.data.make_slides import Drawing, draw_aperio, tissue_image
from tests.infer.cohort_runs import infer, nuclei, parts, places, slide_rows, write_manifest


class Killed(BaseException):
    """Ends a run where it stands, as a kill does: nothing of ours catches it."""


@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.slow), 2])
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_slide_taken_up_again_does_what_failed_anew_and_counts_the_time_of_both_runs(
    inferred, small, tmp_path, monkeypatch
):
    write, read_tile = slide_module.write_group, slide_module.SlideWork._read_tile

    def write_or_die(files, *arguments):
        if files.number == 2:
            raise Killed
        write(files, *arguments)

    def read_or_fail(self, tile):
        return SlideReadError("the disk is away") if tile.number == 0 else read_tile(self, tile)

    with monkeypatch.context() as patch:
        patch.setattr(slide_module, "write_group", write_or_die)
        patch.setattr(slide_module.SlideWork, "_read_tile", read_or_fail)
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
    image, _ = tissue_image(3000, 800, mpp=0.25, seed=4)
    path = draw_aperio(tmp_path / "s.svs", image, Drawing(factors=(1, 4), tile_px=240, broken_tile=(1, 1)))
    arguments = [
        "infer",
        "--slides",
        path,
        "--out",
        tmp_path / "o",
        "--checkpoint",
        NUCLEUS_DETECTOR,
        "--set",
        "window_px=384",
    ]
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])
    assert done.exit_code == 1
    assert re.search(r"\d of \d+ tiles, of 1 slides, could not be read", done.stdout)


@pytest.mark.slow
def test_a_read_that_fails_once_is_tried_on_a_fresh_handle_and_costs_nothing(inferred, small, tmp_path, monkeypatch):
    read, failing = TifffileReader.read, []

    def read_or_fail(self, corner, width, height, *, level):
        # Once begun, tiles fail on this handle for ever, as libtiff's do.
        if width > 600 and (not failing or self in failing):
            failing.append(self)
            raise SlideReadError("flaky")
        return read(self, corner, width, height, level=level)

    monkeypatch.setattr(TifffileReader, "read", read_or_fail)
    infer(small[0], tmp_path, "window_px=512", "group_tiles=2")
    assert failing, "the tiles were read by it"
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
    assert [part.parent.name for part in parts(tmp_path / "out")] == ["good"]


@pytest.mark.slow
def test_a_slide_begun_with_other_tiles_is_begun_anew_and_one_done_is_not(inferred, small, tmp_path, monkeypatch):
    write = slide_module.write_group

    def write_or_die(files, *rest):
        if files.number == 1:
            raise Killed
        write(files, *rest)

    monkeypatch.setattr(slide_module, "write_group", write_or_die)
    with pytest.raises(Killed):
        infer(small[0], tmp_path, "window_px=640", "group_tiles=2")
    assert list(tmp_path.glob(".staging/*/*/group-00000.json"))
    monkeypatch.setattr(slide_module, "write_group", write)
    infer(small[0], tmp_path, "window_px=512", "group_tiles=2")
    assert nuclei(tmp_path) == nuclei(inferred)
    again = infer(small[0], tmp_path, "window_px=640")
    assert (again.slides_reused, nuclei(tmp_path)) == (1, nuclei(inferred))
