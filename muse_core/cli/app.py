"""`muse`: one sub-command a stage. Parses, loads settings, calls one function, and says in one line what went wrong.

A command is imported when it is asked for: all of them together take seconds.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import Annotated, Any, NamedTuple, NoReturn, cast

import typer
import typer.main
from typer.core import TyperGroup

from muse_core.cli.streams import steady_streams
from muse_core.cli.terminal import FAILED, INTERRUPTED, OK, USAGE, print_json
from muse_core.errors import ConfigError, MuseError
from muse_core.machine.process import own_process


class Command(NamedTuple):
    """A command that is imported when it is asked for.

    Attributes:
        place: module of this package and name in it: a function, or a `typer.Typer` of several.
        told: what the list of all commands says of it: the first sentence of its own help.
    """

    place: str
    told: str


# In the order in which data flows.
GROUPS: dict[str, dict[str, Command]] = {
    "Begin": {
        "doctor": Command(
            "doctor:doctor",
            "Say what this machine can do, and how to mend what it cannot; or what is made of a slide, and why.",
        ),
        "demo": Command(
            "demo:demo",
            "Do the whole job on a small slide of real tissue: offline, a minute or two, ends with nuclei "
            "and a report.",
        ),
    },
    "Slides to a dataset of ROIs": {
        "manifest": Command("manifest:manifest_app", "Check manifests, and write the TCGA cohort's."),
        "build-tcga-nu": Command(
            "build:build_tcga_nu",
            "Build the ROI dataset of a manifest: acquire, tissue, ROIs, nuclei, Parquet.",
        ),
        "import-patches": Command(
            "build:import_patches_command",
            "Make the ROI dataset of ready-made patches: each image is one slide and one ROI, nuclei are found in it.",
        ),
    },
    "Training, and how good it is": {
        "pretrain": Command("pretrain:pretrain", "Pretrain a MUSE backbone on a ROI dataset, without labels."),
        "train-detector": Command(
            "detector:train_detector",
            "Train the nucleus detector: training parts only, validation parts for selection and calibration.",
        ),
        "cut-context": Command(
            "context:cut_context",
            "Cut labelled patches with the real tissue around them from their slides, as samples of 1024 px need it.",
        ),
        "finetune": Command(
            "finetune:finetune",
            "Fine-tune a network that finds and names nuclei: labelled patches, or a lab's own dots, to a checkpoint.",
        ),
        "evaluate": Command("evaluate:evaluate_app", "Score models with published protocols."),
        "quantise": Command(
            "quantise:quantise",
            "Make weights in int8, with which muse infer is about twice as fast on CPUs.",
        ),
    },
    "Slides to nuclei, and what is made of them": {
        "infer": Command(
            "infer:infer",
            "Find and classify the nuclei of whole slides: GeoParquet below OUT/nuclei, one row a nucleus.",
        ),
        "report": Command(
            "nuclei:report",
            "Write one self-contained page about a slide or a cohort: densities, classes, scores, typical "
            "and doubtful nuclei.",
        ),
        "view": Command(
            "view:view",
            "Look at every nucleus of a run in the browser, correct them, and teach the model.",
        ),
        "teach": Command(
            "view:teach",
            "Fine-tune the model in use on what was corrected; the result is taken into use where it is better.",
        ),
        "export": Command("nuclei:export_app", "Write nuclei in formats that other programs open."),
    },
    "For a team": {
        "status": Command(
            "status:status",
            "Say what a run has done, what failed and why, how fast it is, how long it takes still and who "
            "works there.",
        ),
        "deploy": Command(
            "deploy:deploy",
            "Make work pools, limits, deployments, schedules and automations on the Prefect server at PREFECT_API_URL.",
        ),
    },
}
_COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
_FORWARDED = {"deploy": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}}


class _Loaded(Mapping[str, Any]):
    """Commands by name, each imported when it is looked up: so `muse --help` is there at once, and `muse doctor`."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  (of the click that typer brings along)
        module, _, attribute = _COMMANDS[name].place.partition(":")
        found = getattr(import_module(f"muse_core.cli.{module}"), attribute)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.callback()(lambda: None)  # a group, whose command has a name
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=name)
        else:
            alone.command(name, context_settings=_FORWARDED.get(name))(found)
        return typer.main.get_group(alone).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Grouped(TyperGroup):
    """Help that lists commands in groups and names them whole at any width, where rich's panels cut them.

    Its arguments are of the click that typer brings along under a private name, hence `Any`.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.commands = cast(Any, _Loaded())

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """The commands in the order of their groups."""
        return list(_COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Each group below its heading, its texts in one column with the others'."""
        width = max(map(len, _COMMANDS))
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), command.told) for name, command in commands.items()])


app = typer.Typer(
    name="muse",
    cls=_Grouped,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its panels cut option names at 80 columns
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"muse {metadata.version('muse-nuclei')}\n")
        raise typer.Exit(OK)


@app.callback()
def _muse(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """From a manifest of whole-slide images to a queryable table of nuclei, and the model behind it.

    Every command has --help with an example; --json makes the last line of standard output one JSON object.
    """


_SAID_AGAIN_S = 2.0


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill; a KeyboardInterrupt the command-line library would answer itself."""


def main() -> None:
    """The console script: a MuseError is one line and exit status 1, or 2 where a setting or option is wrong."""
    steady_streams()
    own_process()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupt)
    try:
        app()
    except ConfigError as error:
        _give_up(error, USAGE)
    except MuseError as error:
        _give_up(error, FAILED)
    except _Interrupted:
        sys.stderr.write("muse: interrupted; what was finished is kept, the same command goes on from there\n")
        sys.stderr.flush()
        # Threads of slides under way would keep the process; the next run takes those slides up.
        os._exit(INTERRUPTED)
    finally:
        # From here on the interpreter only takes itself down; a signal ends that at once, with no traceback.
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)


def _give_up(error: MuseError, status: int) -> NoReturn:
    sys.stderr.write(f"muse: {error}\n")
    if "--json" in sys.argv:
        print_json({"error": str(error), "reason": error.reason})
    sys.exit(status)


def _interrupt(signum: int, frame: object) -> NoReturn:
    # Libraries that are being imported may swallow what is raised in them: it is said again until it is heard.
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, _SAID_AGAIN_S)
    raise _Interrupted
