"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Output folder; made where it is missing.")]

Dataset = Annotated[
    str, typer.Option("--dataset", metavar="NAME", help="Layout: brca-m2c, ocelot, puma, nuinsseg or consep.")
]

Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Its folder, in the layout its authors publish.")]
