"""The mean of the weights of several runs of `muse finetune`, calibrated on validation as each of them was.

    python -m benchmarks.ndc_soup --datasets F.toml --data DIR --checkpoints A/ndc.safetensors B/ndc.safetensors --out F

The runs should have gone on from one another, or begun alike: means of strangers are of no use. It prints scores on
each validation part, of the runs and of their mean; `--out` gets the mean. Made so, with the two of its card:
muse-nano-ndc.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from muse_core.labels.datasets import LabelledData, read_datasets, read_datasets_file
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region
from muse_core.labels.scores import MAIN_RULE, counts_of, score_counts
from muse_core.machine.process import own_process
from muse_core.ndc.checkpoint import load_checkpoint, save_checkpoint
from muse_core.ndc.data import finetune_data
from muse_core.ndc.finetune import calibrated_checkpoint
from muse_core.ndc.judge import judged_rows
from muse_core.ndc.model import NdcModel
from muse_core.ndc.soup import mean_of


def scores_of(model: NdcModel, regions: Sequence[Region], class_names: Sequence[str]) -> str:
    """Detection F1, and mean class F1 where there are classes."""
    rows = judged_rows(model, regions, class_names=class_names)
    scores = score_counts(counts_of(rows, len(class_names), MAIN_RULE), MAIN_RULE)
    classed = any((region.class_ids != UNKNOWN_CLASS).any() for region in regions)
    return f"{scores.detection[0]:.4f}" + (f" {scores.mean_class_f1:.4f}" if classed else "")


def tell(name: str, model: NdcModel, data: LabelledData) -> None:
    """A line of scores."""
    parts = [f"{one.name} {scores_of(model, one.validation, data.class_names)}" for one in data.sources]
    print(f"{name}: {', '.join(parts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    data = read_datasets(read_datasets_file(given.datasets), given.data)
    checkpoint, _ = calibrated_checkpoint(mean_of(given.checkpoints), finetune_data(data))
    save_checkpoint(checkpoint, given.out)
    for path in given.checkpoints:
        tell(str(path), NdcModel(load_checkpoint(path)), data)
    tell(f"their mean, {given.out}", NdcModel(checkpoint), data)


if __name__ == "__main__":
    own_process()
    main()
