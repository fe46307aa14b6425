"""The method as Python calls, in the order in which data flows: what `muse_core` hands on, and what commands call.

    manifest ─ build ─▶ ROI dataset ─ pretrain ─▶ backbone ─ finetune ─▶ checkpoint ─ infer ─▶ nuclei ─ write_report

Each call is thin: paths may be strings, `device="auto"` takes a GPU where there is one, `settings` are values by name
(`{"rois.max_per_slide": 20}`) or the settings object itself, and what is heavy is imported when it is needed.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muse_core.cohort.manifest import Manifest, read_manifest, with_mpp, with_scene
from muse_core.cohort.objects import local_only
from muse_core.cohort.output import known_ids_of, opened_output
from muse_core.cohort.run import do_manifest
from muse_core.cohort.watch import NOBODY, Watcher
from muse_core.config import Settings, settings_of
from muse_core.errors import ManifestError
from muse_core.machine.device import one_gpu, resolve_device
from muse_core.schemas import NO_PROJECT

if TYPE_CHECKING:
    from muse_core.build.summary import BuildSummary
    from muse_core.detector.train import TrainingResult
    from muse_core.evaluate.by_name import ScoreName
    from muse_core.evaluate.watch import EvaluationWatcher
    from muse_core.infer import InferSummary
    from muse_core.labels.datasets import LabelledData
    from muse_core.labels.patch import Labels
    from muse_core.ndc.finetune import FinetuneResult
    from muse_core.pretrain.trainer import PretrainResult
    from muse_core.report import Written

AnyPath = str | Path
Given = Settings | Mapping[str, Any] | None  # settings as callers give them; see config.settings_of


def build(
    manifest: AnyPath | Manifest,
    out: AnyPath,
    *,
    settings: Given = None,
    mpp: float | None = None,
    scene: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    dask_scheduler: str | None = None,
    keep_slides: bool = True,
    share: bool = False,
    max_slides_on_disk: int | None = None,
    tissue: AnyPath | None = None,
    watcher: Watcher = NOBODY,
) -> "BuildSummary":
    """Build the ROI dataset of a manifest: acquire, tissue, ROIs, nuclei, Parquet. As `muse build-tcga-nu`.

    A slide that fails is a row of `slides.parquet` and in the summary's `failures`, no exception. Called again, it does
    only what is missing or changed.

    Args:
        manifest: manifest CSV, GDC manifest TSV, a folder of slides, the URL of one, or what `read_manifest` returned.
        out: output folder, or the URL of one in an object store.
        settings: of `build.settings.BuildSettings`.
        mpp: µm/px of every slide whose manifest row gives none, whatever the file says.
        scene: which of several pictures in each file whose manifest row gives none, 1 for the first; None for the
            largest.
        device: where slides are decoded: auto, cpu or cuda.
        workers: worker processes; None for one a usable core, 0 for this process alone.
        dask_scheduler: address of a running Dask scheduler to use instead.
        keep_slides: keep fetched slides; otherwise each is deleted after use.
        share: let other machines that make the same call do other slides of the folder meanwhile.
        max_slides_on_disk: with keep_slides off, fetched slides on the disk at once; None for the setting.
        tissue: folder of edited tissue polygons `<slide_id>.geojson` to use instead of finding tissue.
        watcher: told how it comes on.

    Raises:
        ManifestError: no such manifest, or it names no slide.
        ConfigError: a setting or option makes no sense.
        OutputError: the folder is locked, read-only or full.
    """
    from muse_core.build.run import BuildOptions, open_build
    from muse_core.build.settings import BuildSettings

    with opened_output(out, share=share) as output:
        options = BuildOptions(
            out=output.path,
            url=output.url,
            device=resolve_device(device),
            workers=workers,
            dask_scheduler=dask_scheduler,
            keep_slides=keep_slides,
            max_slides_on_disk=max_slides_on_disk,
            tissue_folder=None if tissue is None else Path(tissue),
            share=share,
        )
        listed = manifest if isinstance(manifest, Manifest) else read_manifest(manifest, known=known_ids_of(output))
        checked = with_scene(with_mpp(listed, mpp), scene)
        if not checked.rows and not checked.problems:
            raise ManifestError("the manifest names no slide")
        with open_build(options, settings_of(BuildSettings, settings)) as run:
            return run.finish(checked, do_manifest(run, checked, watcher))


def import_patches(
    images: AnyPath,
    out: AnyPath,
    *,
    mpp: float,
    project: str = NO_PROJECT,
    settings: Given = None,
    workers: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> "BuildSummary":
    """Make the ROI dataset of ready-made patches, each one slide and one ROI. As `muse import-patches`.

    Args:
        images: folder of PNG, JPEG and TIFF files, searched whole.
        out: output folder.
        mpp: µm/px of every image, both axes; image files do not say it.
        project: which project's the images are.
        settings: of `build.settings.ImportSettings`.
        workers: worker processes; None for one a usable core, 0 for this process alone.
        on_images: told how many images are done, of how many.

    Raises:
        ConfigError: no such folder, no image in it, an mpp that is no microscope's, or a setting that makes no sense.
        OutputError: the output is locked, cannot be written, or holds something else.
    """
    from muse_core.build.patches import ImportOptions
    from muse_core.build.patches import import_patches as import_folder
    from muse_core.build.settings import ImportSettings

    options = ImportOptions(local_only("images", images), mpp, local_only("out", out), project=project, workers=workers)
    return import_folder(options, settings_of(ImportSettings, settings), on_images=on_images)


def pretrain(
    rois: AnyPath,
    out: AnyPath,
    *,
    recipe: AnyPath | None = None,
    settings: Given = None,
    device: str = "auto",
    resume: bool = False,
) -> "PretrainResult":
    """Pretrain a MUSE backbone on a ROI dataset, without labels. As `muse pretrain`, on one device.

    Args:
        rois: folder or URL of a ROI dataset.
        out: output folder; gets the backbone, its card, curves and checkpoints.
        recipe: TOML, or the name of a recipe that ships; None for `muse-nano`.
        settings: of `pretrain.settings.PretrainSettings`, over the recipe's.
        device: auto, cpu or cuda.
        resume: go on from the checkpoint in `out`, if there is one.

    Raises:
        DatasetError: no dataset, or one that cannot give the views.
        ConfigError: settings that don't fit, or a run in `out` that is another or not to be resumed.
        TrainingError: collapsed, or a loss that is no number.
        OutputError: `out` cannot be written or is in use.
    """
    from muse_core.evaluate.representation.probe import probe_for
    from muse_core.pretrain.settings import PretrainSettings, load_pretrain_settings
    from muse_core.pretrain.trainer import pretrain as train

    base = load_pretrain_settings(None if recipe is None else Path(recipe), [])
    wanted = settings_of(PretrainSettings, settings, base)
    folder, own = local_only("out", out), resolve_device(device)
    return train(rois, folder, settings=wanted, device=own, resume=resume, probe=probe_for(wanted))


def train_detector(
    dataset: AnyPath,
    data: AnyPath,
    out: AnyPath,
    *,
    init: AnyPath | None = None,
    settings: Given = None,
    resume: bool = False,
) -> "TrainingResult":
    """Train the small network that finds nuclei, on labelled patches. As `muse train-detector`.

    Args:
        dataset: layout of the labels, such as brca-m2c, ocelot, puma or lab; or a TOML file of several datasets.
        data: their folder; of several, the one that theirs are below.
        out: output folder; gets the weights, curves and a record.
        init: weights of an earlier run to start from.
        settings: of `detector.settings.TrainDetectorSettings`.
        resume: go on from the last state in `out`, if there is one.

    Raises:
        DatasetError: the data are not what the layout says.
        ConfigError: a setting makes no sense, or the state in `out` is of another run.
        OutputError: `out` cannot be written.
    """
    from muse_core.detector.settings import TrainDetectorSettings
    from muse_core.detector.train import train_detector as train

    wanted = settings_of(TrainDetectorSettings, settings)
    learned_from = _labelled(dataset, local_only("data", data), labels="polygons", side_px=wanted.side_px)
    start = None if init is None else Path(init)
    return train(learned_from, local_only("out", out), settings=wanted, init=start, resume=resume)


def _labelled(dataset: AnyPath, data: Path, *, labels: "Labels", side_px: int) -> "LabelledData":
    from muse_core.labels.datasets import one_dataset, read_datasets, read_datasets_file

    if str(dataset).endswith(".toml"):
        return read_datasets(read_datasets_file(Path(dataset)), data, labels=labels, side_px=side_px)
    return one_dataset(str(dataset), data, labels=labels, side_px=side_px)


def finetune(
    dataset: AnyPath,
    data: AnyPath,
    out: AnyPath,
    *,
    init: AnyPath = "muse-nano",
    unlabelled: AnyPath | None = None,
    unlabelled_mpp: float | None = None,
    recipe: str = "heat",
    settings: Given = None,
    device: str = "auto",
    resume: bool = False,
) -> "FinetuneResult":
    """Fine-tune a network that finds and names nuclei: labels to a checkpoint. As `muse finetune`.

    Args:
        dataset: layout of the labels, such as brca-m2c, ocelot or puma, or lab for one's own dots; or a TOML file of
            several datasets.
        data: their folder; of several, the one that theirs are below.
        out: output folder; gets `ndc.safetensors`, scores, pictures and the state of the run.
        init: where to start: a file, muse-nano, muse-nano-ndc, imagenet or none.
        unlabelled: tissue without labels: a ROI dataset, or a folder of images.
        unlabelled_mpp: µm/px of those images.
        recipe: heat; paper: proposals alone, on samples of 1024 px; or muse-nano-ndc-first or muse-nano-ndc-last, of
            runs that made the weights that ship.
        settings: of `ndc.settings.FinetuneSettings`, over the recipe's.
        device: auto, cpu or cuda.
        resume: go on from the last state in `out`, if there is one.

    Raises:
        DatasetError: the data are not what the layout says.
        ConfigError: a start that cannot be had, a setting that makes no sense, or a run in `out` that is another.
        TrainingError: the loss is no longer a number.
        OutputError: `out` cannot be written or is in use.
    """
    from muse_core.ndc.data import finetune_data, unlabelled_regions
    from muse_core.ndc.finetune import finetune as train
    from muse_core.ndc.recipe import recipe_settings
    from muse_core.ndc.settings import FinetuneSettings

    wanted = settings_of(FinetuneSettings, settings, recipe_settings(recipe))
    tissue = [] if unlabelled is None else unlabelled_regions(str(unlabelled), mpp=unlabelled_mpp)
    labelled = _labelled(dataset, local_only("data", data), labels="dots", side_px=wanted.side_px)
    learned_from = finetune_data(labelled, unlabelled=tissue)
    with one_gpu(resolve_device(device)) as own:
        return train(learned_from, local_only("out", out), init=str(init), settings=wanted, device=own, resume=resume)


def infer(
    slides: AnyPath | Manifest,
    out: AnyPath,
    *,
    checkpoint: AnyPath | None = None,
    settings: Given = None,
    mpp: float | None = None,
    scene: int | None = None,
    device: str = "auto",
    workers: int = 0,
    regions: AnyPath | None = None,
    tissue: AnyPath | None = None,
    keep_slides: bool = True,
    share: bool = False,
    watcher: Watcher = NOBODY,
) -> "InferSummary":
    """Find and classify the nuclei of whole slides: GeoParquet below `out`, one row a nucleus. As `muse infer`.

    A slide that fails is a row of `slides.parquet` and in the summary's `failures`, no exception. Called again, it does
    only what is missing or changed, also in the middle of a slide.

    Args:
        slides: a slide or image, a folder or glob of them, a manifest, the URL of one, or what `read_manifest`
            returned.
        out: output folder, or the URL of one in an object store; `NucleiDataset(out)` opens it.
        checkpoint: weights of `finetune` or `train_detector`, or a registry folder; None for those that ship.
        settings: of `infer.settings.InferSettings`.
        mpp: µm/px of slides whose manifest row gives none, whatever the file says; of images.
        scene: which of several pictures in each file whose manifest row gives none, 1 for the first; None for the
            largest.
        device: where tiles are decoded and the network runs: auto, cpu or cuda.
        workers: worker processes that slides are shared out to; 0 for this one.
        regions: GeoJSON that limits the work, or a folder of `<slide_id>.geojson`.
        tissue: folder of edited tissue polygons `<slide_id>.geojson` to use instead of finding tissue.
        keep_slides: keep fetched slides; otherwise each is deleted after use.
        share: let other machines that make the same call do other slides of the folder meanwhile.
        watcher: told how it comes on.

    Raises:
        ManifestError: there is no slide.
        ConfigError: weights that are no model's, or an option that makes no sense.
        OutputError: the folder is locked, read-only or full.
    """
    from muse_core.infer import InferOptions, InferSettings, check_inputs, open_infer, read_inputs
    from muse_core.ndc.registry import resolve_checkpoint

    with opened_output(out, share=share) as output:
        options = InferOptions(
            out=output.path,
            url=output.url,
            checkpoint=resolve_checkpoint(checkpoint),
            device=resolve_device(device),
            workers=workers,
            regions=None if regions is None else Path(regions),
            tissue_folder=None if tissue is None else Path(tissue),
            keep_slides=keep_slides,
            share=share,
        )
        if isinstance(slides, Manifest):
            listed = with_mpp(slides, mpp)
        else:
            listed = read_inputs(slides, mpp, known=known_ids_of(output))
        found = with_scene(listed, scene)
        check_inputs(found, options.regions)
        with open_infer(options, settings_of(InferSettings, settings)) as run:
            return run.finish(found, do_manifest(run, found, watcher))


def evaluate(
    score: "ScoreName",
    dataset: str,
    data: AnyPath,
    *,
    split: str = "val",
    checkpoint: AnyPath | None = None,
    encoder: str | None = None,
    mpp: float = 0.5,
    fov_px: int = 224,
    settings: Given = None,
    device: str = "auto",
    watcher: "EvaluationWatcher | None" = None,
) -> dict[str, Any]:
    """One published score of a model, by its protocol. As `muse evaluate SCORE --json`.

    Args:
        score: knn, linear or finetune of a backbone, detect of a detector, ndc of a fine-tuned model.
        dataset: layout of the labels: brca-m2c, ocelot or puma.
        data: their folder.
        split: val or test.
        checkpoint: the model of that kind; None for what ships.
        encoder: instead, for knn, linear and finetune, such as nano-imagenet or timm:NAME.
        mpp: µm/px of the tiles of knn, linear and finetune.
        fov_px: side of those tiles.
        settings: of linear and finetune.
        device: where networks run: auto, cpu or cuda.
        watcher: told how it comes on.

    Returns:
        What was measured and how: `accuracy` in percent for knn, linear and finetune; `f1`, `precision`, `recall` for
        detect; `mean_class_f1` and `protocols` for ndc.

    Raises:
        ConfigError: an unknown score, dataset or encoder, or a checkpoint of another kind of model.
        DatasetError: the data are not what the layout says.
    """
    from muse_core.evaluate.by_name import Evaluation, evaluate_model

    what = Evaluation(
        dataset,
        local_only("data", data),
        split,
        None if checkpoint is None else Path(checkpoint),
        encoder,
        mpp,
        fov_px,
        device=resolve_device(device),
    )
    return evaluate_model(score, what, settings=settings, watcher=watcher)


def write_report(nuclei: AnyPath, out: AnyPath, *, slide_ids: Iterable[str] = (), settings: Given = None) -> "Written":
    """Write one self-contained HTML page about a slide or a cohort. As `muse report`.

    Args:
        nuclei: the folder that `infer` wrote.
        out: the HTML file; it appears when whole.
        slide_ids: the slides to report on; none for all.
        settings: of `report.ReportSettings`.

    Raises:
        DatasetError: there is no dataset, no slides table or no such slide.
        OutputError: the disk is full or the folder cannot be written.
    """
    from muse_core.report import ReportSettings
    from muse_core.report import write_report as write

    return write(nuclei, local_only("out", out), slide_ids=slide_ids, settings=settings_of(ReportSettings, settings))
