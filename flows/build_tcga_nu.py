"""The flow `build-tcga-nu`: a manifest of slides to the ROI dataset, a task run a slide."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows.artifacts import artifact_key
from flows.ending import ends_in_one_line
from flows.slides import do_slides, final_state, publish_slides
from muse_core.build.run import BuildOptions, open_build
from muse_core.build.settings import BuildSettings
from muse_core.cohort.manifest import read_manifest, with_mpp, with_scene
from muse_core.cohort.output import known_ids_of, opened_output
from muse_core.cohort.summary import summary_text
from muse_core.config import load_settings
from muse_core.machine.device import resolve_device

KEY = "build-tcga-nu"
SHOWN_COLUMNS = ("n_rois", "n_nuclei", "tissue_mm2", "mpp_x", "reader")


@flow(name=KEY)
@ends_in_one_line
def build_tcga_nu(
    manifest: str | Path,
    out: str | Path,
    config: Path | None = None,
    overrides: tuple[str, ...] = (),
    mpp: float | None = None,
    scene: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    dask_scheduler: str | None = None,
    keep_slides: bool = True,
    max_slides_on_disk: int | None = None,
    tissue: Path | None = None,
    share: bool = False,
) -> dict[str, Any] | State[Any]:
    """Build the ROI dataset of a manifest; ends failed, with everything else kept, when a slide failed.

    Args:
        manifest: manifest CSV, GDC manifest TSV, or a folder of slides, or the URL of one in an object store.
        out: output folder, or the URL of one in an object store.
        config: settings as TOML.
        overrides: single settings, `key=value`.
        mpp: µm/px of every slide whose manifest row gives none, whatever the file says.
        scene: which of several pictures in each file whose manifest row gives none; None for the largest.
        device: where slides are decoded: auto, cpu or cuda.
        workers: local worker processes; None for one a usable core.
        dask_scheduler: address of a running Dask scheduler to use instead.
        keep_slides: keep fetched slides, or delete each after use.
        max_slides_on_disk: with keep_slides off, fetched slides on the disk at once; None for the setting.
        tissue: folder of edited tissue polygons to use instead of finding tissue.
        share: runs with the same parameters, on other machines, do other slides of the folder meanwhile.

    Returns:
        The run's counts, the same as `muse build-tcga-nu --json`.
    """
    settings = load_settings(BuildSettings, config, overrides)
    with opened_output(out, share=share) as output:
        options = BuildOptions(
            out=output.path,
            url=output.url,
            device=resolve_device(device),
            workers=workers,
            dask_scheduler=dask_scheduler,
            keep_slides=keep_slides,
            max_slides_on_disk=max_slides_on_disk,
            tissue_folder=tissue,
            share=share,
        )
        checked = with_scene(with_mpp(read_manifest(manifest, known=known_ids_of(output)), mpp), scene)
        get_run_logger().info("%s: %d slides, %d problems", manifest, len(checked.rows), len(checked.problems))
        key = artifact_key(KEY)
        with open_build(options, settings) as run:
            run.begin(checked)
            records = do_slides(run, checked.rows, verb="build", key=key)
            summary = run.finish(checked, records)
    publish_slides(records, summary_text(summary, run.paths), key=key, columns=SHOWN_COLUMNS)
    return final_state(summary)
