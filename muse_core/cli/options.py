"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from muse_core.cohort.uris import path_of

Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log each step to standard error.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="F.toml", help="Settings as TOML; see docs/.")]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. rois.max_per_slide=20."),
]

Scene = Annotated[
    int | None,
    typer.Option("--scene", metavar="N", help="Which of several pictures in each file; default the largest.", min=1),
]


def folder_here(text: str | Path) -> Path:
    """A folder on this machine, of an option that takes no URL."""
    path = path_of(str(text))
    if path is None:
        raise typer.BadParameter(f"{text}: this command needs a folder on this machine; copy it there afterwards")
    return path


Out = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Output folder; made where it is missing.", parser=folder_here),
]
OutOrUrl = Annotated[
    str, typer.Option("--out", metavar="DIR", help="Output folder, or s3://bucket/folder; made where it is missing.")
]

Share = Annotated[
    bool, typer.Option("--share", help="Other machines may run the same command on this output: each slide is one's.")
]

Dataset = Annotated[
    str, typer.Option("--dataset", metavar="NAME", help="Layout: brca-m2c, ocelot, puma, nuinsseg or consep.")
]

Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Its folder, in the layout its authors publish.")]
