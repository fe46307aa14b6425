"""`muse`: one sub-command a stage. Parses, loads settings, calls one function, and says in one line what went wrong."""

import os
import signal
import sys
from importlib import metadata
from itertools import groupby
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from muse_core.cli import (
    build,
    context,
    demo,
    deploy,
    detector,
    doctor,
    evaluate,
    finetune,
    infer,
    nuclei,
    pretrain,
    quantise,
    status,
    view,
)
from muse_core.cli.manifest import manifest_app
from muse_core.cli.streams import steady_streams
from muse_core.cli.terminal import FAILED, INTERRUPTED, OK, USAGE, print_json
from muse_core.errors import ConfigError, MuseError
from muse_core.machine.process import own_process

_WHOLE = 1000  # characters: first sentences are wrapped, not cut

# In the order in which data flows.
GROUPS = {
    "Begin": ("doctor", "demo"),
    "Slides to a dataset of ROIs": ("manifest", "build-tcga-nu", "import-patches"),
    "Training, and how good it is": ("pretrain", "train-detector", "cut-context", "finetune", "evaluate", "quantise"),
    "Slides to nuclei, and what is made of them": ("infer", "report", "view", "teach", "export"),
    "For a team": ("status", "deploy"),
}


class _Grouped(TyperGroup):
    """Help that lists commands in groups and names them whole at any width, where rich's panels cut them.

    Its arguments are of the click that typer brings along under a private name, hence `Any`.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """The commands in the order of their groups."""
        known = [name for names in GROUPS.values() for name in names]
        return [*(name for name in known if name in self.commands), *sorted(self.commands.keys() - set(known))]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Each group below its heading, its texts in one column with the others'."""
        width = max(map(len, self.commands))
        heading_of = {name: heading for heading, names in GROUPS.items() for name in names}
        for heading, names in groupby(self.list_commands(ctx), key=lambda name: heading_of.get(name, "More")):
            told = [(name.ljust(width), self.commands[name].get_short_help_str(_WHOLE)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(told)


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


app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(manifest_app, name="manifest")
app.command("build-tcga-nu")(build.build_tcga_nu)
app.command("import-patches")(build.import_patches_command)
app.command("pretrain")(pretrain.pretrain)
app.command("train-detector")(detector.train_detector)
app.command("cut-context")(context.cut_context)
app.command("finetune")(finetune.finetune)
app.add_typer(evaluate.evaluate_app, name="evaluate")
app.command("quantise")(quantise.quantise)
app.command("infer")(infer.infer)
app.command("report")(nuclei.report)
app.command("view")(view.view)
app.command("teach")(view.teach)
app.add_typer(nuclei.export_app, name="export")
app.command("status")(status.status)
app.command("deploy", context_settings=deploy.FORWARDED)(deploy.deploy)


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
    raise _Interrupted
