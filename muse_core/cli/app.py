"""`muse`: one sub-command a stage. Parses, loads settings, calls one function, and says in one line what went wrong."""

import os
import signal
import sys
from typing import NoReturn

import typer

from muse_core.cli import build, demo, detector, doctor, evaluate, finetune, infer, nuclei, pretrain, view
from muse_core.cli.manifest import manifest_app
from muse_core.cli.terminal import FAILED, INTERRUPTED, USAGE, print_json
from muse_core.errors import ConfigError, MuseError
from muse_core.machine.process import own_process

app = typer.Typer(
    name="muse",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its panels cut option names at 80 columns
    pretty_exceptions_enable=False,
    help="From a manifest of whole-slide images to a queryable dataset of ROIs and nuclei.",
)

# In the order in which data flows.
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(manifest_app, name="manifest")
app.command("build-tcga-nu")(build.build_tcga_nu)
app.command("import-patches")(build.import_patches_command)
app.command("pretrain")(pretrain.pretrain)
app.command("train-detector")(detector.train_detector)
app.command("finetune")(finetune.finetune)
app.add_typer(evaluate.evaluate_app, name="evaluate")
app.command("infer")(infer.infer)
app.add_typer(nuclei.export_app, name="export")
app.command("report")(nuclei.report)
app.command("view")(view.view)
app.command("teach")(view.teach)


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill; a KeyboardInterrupt the command-line library would answer itself."""


def main() -> None:
    """The console script: a MuseError is one line and exit status 1, or 2 where a setting or option is wrong."""
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


def _give_up(error: MuseError, status: int) -> NoReturn:
    sys.stderr.write(f"muse: {error}\n")
    if "--json" in sys.argv:
        print_json({"error": str(error), "reason": error.reason})
    sys.exit(status)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise _Interrupted
