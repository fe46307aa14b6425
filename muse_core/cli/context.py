"""`muse cut-context`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from muse_core.build.context import CONTEXT_MPP, SIDE_PX, cut_contexts
from muse_core.cli.options import AsJson, Out, Verbose
from muse_core.cli.progress import open_display
from muse_core.cli.terminal import FAILED, OK, open_terminal, print_json
from muse_core.cohort.manifest import read_manifest, with_mpp
from muse_core.errors import ConfigError
from muse_core.labels.patch import SPLITS

_SHOWN_FAILURES = 20


def cut_context(
    manifest: Annotated[
        Path, typer.Option("--manifest", metavar="M.csv", help="The slides: manifest, GDC's TSV, or a folder of them.")
    ],
    dataset: Annotated[str, typer.Option("--dataset", metavar="NAME", help="Layout: brca-m2c or ocelot.")],
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Its folder, in the layout its authors publish.")],
    out: Out,
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="S", help="Which patches; default train and val.")
    ] = None,
    side_px: Annotated[
        int, typer.Option(metavar="N", help="Side of the samples that are to be drawn.", min=64)
    ] = SIDE_PX,
    mpp: Annotated[float, typer.Option(metavar="F", help="um/px of the images.", min=0.1, max=2.0)] = CONTEXT_MPP,
    slide_mpp: Annotated[
        float | None, typer.Option(metavar="F", help="um/px of every slide whose manifest row gives none.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Cut labelled patches with the real tissue around them from their slides, as samples of 1024 px need it.

    What is written is read by `muse finetune --dataset lab`. A patch whose slide is missing, or shows other tissue
    there, costs no other.

    Example: `muse cut-context --manifest tcga.csv --dataset brca-m2c --data data/brca_m2c --out data/brca_context`
    """
    terminal = open_terminal(as_json, verbose)
    splits = tuple(split or ("train", "val"))
    if unknown := [one for one in splits if one not in SPLITS]:
        raise ConfigError(f"--split {unknown[0]}: needs one of {', '.join(SPLITS)}")
    slides = with_mpp(read_manifest(manifest), slide_mpp)
    with open_display(terminal) as display:
        summary = cut_contexts(
            slides,
            dataset,
            data,
            out,
            splits=splits,
            side_px=side_px,
            mpp=mpp,
            on_progress=lambda done, whole: display.show("patches", done, whole),
        )
    for one in summary.failures[:_SHOWN_FAILURES]:
        terminal.results.print(f"failed: {one['patch']}: {one['message']}", markup=False, soft_wrap=True)
    if len(summary.failures) > _SHOWN_FAILURES:
        terminal.results.print(f"... and {len(summary.failures) - _SHOWN_FAILURES} more")
    terminal.results.print(
        f"{out}: {summary.patches_cut} patches cut, {summary.patches_failed} failed; {summary.unlabelled_share:.0%} of"
        " the tissue is around them",
        markup=False,
        soft_wrap=True,
    )
    if as_json:
        print_json(asdict(summary))
    raise typer.Exit(FAILED if summary.patches_failed else OK)
