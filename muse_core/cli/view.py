"""`muse view` and `muse teach`: a run in the browser, and its corrections into a model."""

import json
import os
import signal
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse_core.cli.options import AsJson, ConfigFile, Overrides, Verbose
from muse_core.cli.progress import Display, open_display
from muse_core.cli.terminal import STOPPED, Terminal, open_terminal, print_json, stop_requests
from muse_core.cohort.paths import RunPaths
from muse_core.config import load_settings
from muse_core.errors import ConfigError, DatasetError
from muse_core.machine.files import safe_name, whole_file
from muse_core.nuclei_dataset import NucleiDataset

if TYPE_CHECKING:
    from muse_core.ndc.registry import Decision
    from muse_core.training.progress import Progress
    from muse_core.viewer import Address

Nuclei = Annotated[Path, typer.Option("--nuclei", metavar="RUN", help="What muse infer --out wrote, or writes.")]
Slides = Annotated[
    Path | None,
    typer.Option("--slides", metavar="PATH", help="Where the slides are now: a folder, a glob or a manifest."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", metavar="F.safetensors", help="The model that found the nuclei, if not what ships with muse."
    ),
]
_LAB_NAME = "lab"


def view(
    nuclei: Nuclei,
    slides: Slides = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="DIR", help="Folder of the labels; default RUN/lab.")
    ] = None,
    slide_id: Annotated[str | None, typer.Option("--slide-id", metavar="ID", help="Open this slide.")] = None,
    checkpoint: Checkpoint = None,
    port: Annotated[int, typer.Option(metavar="N", help="Port; default that of last time, or a free one.", min=0)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Look at every nucleus of a run in the browser, correct them, and teach the model. Ctrl-C ends it.

    Example: `muse view --nuclei runs/nuclei`
    """
    from muse_core.viewer import ViewedRun, open_browser, serve

    terminal = open_terminal(as_json, verbose)
    lab = labels or _beside(nuclei)
    run = ViewedRun(nuclei, lab=lab, slides=slides, checkpoint=checkpoint)

    def ready(address: "Address") -> None:
        url = address.url(slide_id)
        opened = browser and not as_json and open_browser(url)
        if as_json:
            print_json({"url": url, "port": address.port, "labels": str(lab)})
        else:
            terminal.results.print(_told(url, address.port, lab, opened), markup=False, highlight=False, soft_wrap=True)

    for name in (signal.SIGINT, signal.SIGTERM):  # the usual way to end it; the server lets requests finish
        signal.signal(name, lambda *_: None)
    serve(run, port=port, on_ready=ready)


def _told(url: str, port: int, lab: Path, opened: bool) -> str:
    lines = [f"{'Opened' if opened else 'Open'} {url}", f"Labels go to {lab}. Ctrl-C ends the viewer."]
    if not opened:
        lines.append(
            f"From another machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}, then open the same."
        )
    return "\n".join(lines)


def teach(
    labels: Annotated[Path, typer.Option("--labels", metavar="DIR", help="The lab folder that muse view keeps.")],
    nuclei: Nuclei,
    slides: Slides = None,
    checkpoint: Checkpoint = None,
    infer: Annotated[
        list[str] | None,
        typer.Option("--infer", metavar="SLIDE_ID", help="Look at this slide again afterwards; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the networks run: auto, cpu or cuda.")] = "auto",
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune the model in use on what was corrected; the result is taken into use where it is better.

    Both are compared on labels that were held back: a fifth, by where they lie.

    The model in use is DIR/models: `muse infer --checkpoint DIR/models` works with it.

    Example: `muse teach --labels runs/nuclei/lab --nuclei runs/nuclei`
    """
    from muse_core.machine.device import one_gpu, resolve_device
    from muse_core.ndc.teach import REGISTRY_NAME, TeachSettings
    from muse_core.ndc.teach import teach as learn

    terminal = open_terminal(as_json, verbose)
    settings = load_settings(TeachSettings, config, overrides or (), base=TeachSettings())
    dataset = NucleiDataset(nuclei)
    again = [_slide_again(dataset, slide_id, nuclei, slides) for slide_id in infer or ()]
    told = _Progress(labels)
    with (
        one_gpu(resolve_device(device)) as own_device,
        stop_requests(terminal) as should_stop,
        open_display(terminal) as display,
    ):
        decision = learn(
            labels,
            in_use=_model_of(dataset, checkpoint),
            settings=settings,
            device=own_device,
            on_progress=partial(_tell, told, display),
            should_stop=should_stop,
        )
    if decision is None:
        terminal.results.print("stopped early; the same command goes on from there", soft_wrap=True)
        raise typer.Exit(STOPPED)
    told.decided(decision)
    terminal.results.print(f"{'taken into use' if decision.taken else 'not taken'}: {decision.reason}", soft_wrap=True)
    failed = [one["slide_id"] for one in again if not _inferred(terminal, one, labels, labels / REGISTRY_NAME, device)]
    told.done()
    if as_json:
        print_json({"failed": failed, **decision.model_dump(mode="json")})
    raise typer.Exit(1 if failed else 0)


def _tell(told: "_Progress", display: Display, progress: "Progress") -> None:
    told.training(progress)
    display.show("steps", progress.step, progress.steps, f"loss {progress.loss:.3f}")


class _Progress:
    """How far a teaching is, in a file that the viewer shows."""

    def __init__(self, lab: Path) -> None:
        from muse_core.viewer.job import PROGRESS_NAME

        self._path = lab / "taught" / PROGRESS_NAME
        self._values: dict[str, Any] = {"state": "starting", "losses": []}

    def training(self, progress: "Progress") -> None:
        """A step is done."""
        self._values |= {"state": "training", "step": progress.step, "steps": progress.steps}
        self._values["losses"].append([progress.step, progress.loss])
        self._keep("comparing" if progress.step == progress.steps else "training")

    def decided(self, decision: "Decision") -> None:
        """Old and new are compared."""
        self._values["decision"] = decision.model_dump(mode="json", include={"taken", "reason", "candidate", "in_use"})
        self._keep("inferring")

    def done(self) -> None:
        """Nothing is left to do."""
        self._keep("done")

    def _keep(self, state: str) -> None:
        self._values["state"] = state
        with whole_file(self._path) as temporary:
            temporary.write_text(json.dumps(self._values), encoding="utf-8")


def _slide_again(dataset: NucleiDataset, slide_id: str, nuclei: Path, slides: Path | None) -> dict[str, Any]:
    """What looking at a slide again needs."""
    from muse_core.viewer import ViewedRun

    shown = ViewedRun(nuclei, lab=nuclei / _LAB_NAME, slides=slides).slide(slide_id)
    if shown.path is None:
        raise DatasetError(f"slide {slide_id}: {shown.no_pixels}")
    provenance = dataset.part(slide_id).provenance
    if provenance.get("regions"):
        raise ConfigError(
            f"slide {slide_id}: only regions of it were looked at; run muse infer --regions again with --checkpoint"
        )
    return {"slide_id": slide_id, "path": shown.path, "provenance": provenance, "out": nuclei}


def _inferred(terminal: Terminal, slide: dict[str, Any], lab: Path, registry: Path, device: str) -> bool:
    """Look at a slide again with the model in use, as it was looked at before, into LAB/inferred."""
    from muse_core.cli.infer import infer_told
    from muse_core.infer import InferSettings, read_inputs
    from muse_core.ndc.registry import current_checkpoint

    provenance = slide["provenance"]
    mpp = provenance["mpp_x"] if provenance.get("mpp_source") == "override" else None
    manifest = read_inputs(slide["path"], mpp)
    row = replace(
        manifest.rows[0],
        slide_id=slide["slide_id"],
        project=provenance["project"],
        scene=provenance.get("scene"),
    )
    name = f"{safe_name(slide['slide_id'])}.geojson"
    folders = [lab / "tissue", RunPaths(slide["out"]).tissue(slide["slide_id"]).parent]
    settings = load_settings(InferSettings)
    if "settings" in provenance:
        settings = InferSettings.model_validate(provenance["settings"])
    if settings.engine == "openvino":  # a taught model has no quantised weights beside it
        settings = settings.model_copy(update={"engine": "auto"})
    summary = infer_told(
        replace(terminal, as_json=False),
        replace(manifest, rows=(row,)),
        lab / "inferred",
        settings=settings,
        checkpoint=current_checkpoint(registry),
        device=device,
        tissue=next((folder for folder in folders if (folder / name).exists()), None),
    )
    return not summary.what_failed()


def _model_of(dataset: NucleiDataset, given: Path | None) -> Path | None:
    """The checkpoint that found the nuclei; None for the weights that ship."""
    from muse_core.infer.model import shipped_weights
    from muse_core.models.tensor_file import hash_of

    models = {str(dataset.part(slide_id).provenance.get("model_id")) for slide_id in dataset.slide_ids}
    if given is not None:
        return given
    if models & {hash_of(shipped_weights()), "None"}:
        return None
    name = dataset.part(dataset.slide_ids[0]).provenance.get("checkpoint")
    raise ConfigError(
        f"{dataset.root}: its nuclei were found by {name}, which does not ship; give it with --checkpoint"
    )


def _beside(nuclei: Path) -> Path:
    """Where labels of a run go unless told otherwise."""
    out = nuclei.parent if nuclei.name == "nuclei" else nuclei
    if not os.path.isdir(out):  # a URL, or nothing, which opening it will say
        return Path(_LAB_NAME)
    return out / _LAB_NAME
