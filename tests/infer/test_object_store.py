"""Nuclei with every path in a bucket of a real S3-compatible server: the tables that files give, and their readers."""

import json

import fsspec
import pyarrow.parquet as pq
import pytest

from muse_core import Box, NucleiDataset, api
from muse_core.cohort.manifest import read_manifest
from muse_core.errors import ManifestError
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.report import refresh_report, write_report
from tests.data.make_slides import Drawing, draw_aperio, tissue_image

# The driver's connections are closed when its loop is collected, which pytest may see in any test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    image, _ = tissue_image(900, 800, mpp=0.25, seed=4)
    return draw_aperio(tmp_path_factory.mktemp("tiny") / "tiny.svs", image, Drawing(factors=(1, 4)))


def infer(slides, out):
    return api.infer(slides, out, checkpoint=NUCLEUS_DETECTOR, device="cpu")


@pytest.mark.slow
def test_slides_and_output_in_a_bucket_give_what_files_give(bucket, tiny, tmp_path):
    files = fsspec.filesystem("s3")
    name = bucket.removeprefix("s3://")
    files.put_file(str(tiny), f"{name}/slides/a/tiny.svs")
    files.pipe_file(f"{name}/slides/m.csv", b"slide_id,case_id,project,uri\ntiny,C,P,a/tiny.svs\n")
    (tmp_path / "m.csv").write_text(f"slide_id,case_id,project,uri\ntiny,C,P,{tiny}\n")
    infer(tmp_path / "m.csv", tmp_path / "out")
    summary = infer(f"{bucket}/slides/m.csv", f"{bucket}/out")
    assert (summary.slides_done, summary.slides_reused) == (1, 0)
    assert infer(f"{bucket}/slides/m.csv", f"{bucket}/out").slides_reused == 1

    here, there = NucleiDataset(tmp_path / "out"), NucleiDataset(f"{bucket}/out")
    box = Box(20, 20, 150, 100)
    assert there.slide_ids == ["tiny"]
    assert there.within("tiny", box).equals(here.within("tiny", box))
    assert len(there) == len(here) > 50
    counted = "SELECT class_name, count(*) FROM nuclei JOIN slides USING (slide_id) GROUP BY ALL ORDER BY ALL"
    assert there.duckdb().sql(counted).fetchall() == here.duckdb().sql(counted).fetchall()
    row = there.slides().to_pylist()[0]
    assert (row["uri"], row["status"]) == (f"{bucket}/slides/a/tiny.svs", "done")

    write_report(f"{bucket}/out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "image/jpeg" in page, "pictures that lie beside the dataset are in it"
    assert refresh_report(f"{bucket}/out") == f"{bucket}/out/report.html"
    assert files.exists(f"{name}/out/report.html")

    everything = b"".join(files.cat_file(one) for one in files.find(f"{name}/out"))
    assert b"secret-of-the-test" not in everything
    assert b"key-of-the-test" not in everything

    image, _ = tissue_image(900, 800, mpp=0.25, seed=5)
    draw_aperio(tmp_path / "other.svs", image, Drawing(factors=(1, 4)))
    files.put_file(str(tmp_path / "other.svs"), f"{name}/slides/a/tiny.svs")
    again = infer(f"{bucket}/slides/m.csv", f"{bucket}/out")
    assert (again.slides_done, again.slides_reused) == (1, 0), "another object under the same name"
    assert len(NucleiDataset(f"{bucket}/out")) != len(here)


def test_a_folder_in_a_bucket_is_listed(bucket, tiny):
    files = fsspec.filesystem("s3")
    name = bucket.removeprefix("s3://")
    with pytest.raises(ManifestError, match="no slide in it"):
        read_manifest(f"{bucket}/slides/")
    for one in ("a/x.svs", "b/x.svs", "y.tiff", "z.mrxs", "z/Data0.dat", ".hidden.svs", "notes.txt"):
        files.pipe_file(f"{name}/slides/{one}", b"")
    found = read_manifest(f"{bucket}/slides")
    assert [(row.slide_id, row.uri) for row in found.rows] == [
        ("a/x.svs", f"{bucket}/slides/a/x.svs"),
        ("b/x.svs", f"{bucket}/slides/b/x.svs"),
        ("y", f"{bucket}/slides/y.tiff"),
    ]
    assert "z.mrxs" in found.problems[0].message
    assert [row.slide_id for row in read_manifest(f"{bucket}/slides/y.tiff").rows] == ["y"]
    with pytest.raises(ManifestError, match="no slide in it"):
        read_manifest(f"{bucket}/gone.csv")
    with pytest.raises(ManifestError, match="not fetched from there"):
        read_manifest("https://127.0.0.1/m.csv")


@pytest.mark.slow
def test_rois_in_a_bucket_are_read_as_they_are(bucket, tiny, tmp_path):
    from muse_core import RoiDataset

    summary = api.build(str(tiny), f"{bucket}/rois", workers=0, device="cpu")
    api.build(str(tiny), tmp_path / "rois", workers=0, device="cpu")
    assert json.dumps(summary.failures) == "[]"
    here, there = RoiDataset(tmp_path / "rois"), RoiDataset(f"{bucket}/rois")
    assert there.ids == here.ids
    assert there.fingerprint == here.fingerprint
    assert (there.read(0).image.read(0, 0, 64, 64) == here.read(0).image.read(0, 0, 64, 64)).all()
    assert pq.read_table(tmp_path / "rois" / "slides.parquet")["status"].to_pylist() == ["done"]


def test_checkpoints_are_fetched_when_they_change(bucket, tmp_path):
    from muse_core.errors import ConfigError
    from muse_core.ndc.registry import resolve_checkpoint

    files, name = fsspec.filesystem("s3"), bucket.removeprefix("s3://")
    files.pipe_file(f"{name}/models/a.safetensors", b"one")
    files.pipe_file(f"{name}/models/a.int8.safetensors", b"quantised")
    here = resolve_checkpoint(f"{bucket}/models/a.safetensors")
    assert (here.read_bytes(), here.with_name("a.int8.safetensors").read_bytes()) == (b"one", b"quantised")
    files.pipe_file(f"{name}/models/a.safetensors", b"two")
    files.rm_file(f"{name}/models/a.int8.safetensors")
    assert resolve_checkpoint(f"{bucket}/models/a.safetensors").read_bytes() == b"two"
    assert not here.with_name("a.int8.safetensors").exists(), "of the checkpoint before"
    with pytest.raises(ConfigError, match="no such object"):
        resolve_checkpoint(f"{bucket}/models/b.safetensors")
    with pytest.raises(ConfigError, match=r"a folder without current\.json"):
        resolve_checkpoint(f"{bucket}/models")
