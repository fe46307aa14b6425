"""Weighted k-nearest neighbours on frozen features: the protocol of table 2 of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from muse_core.errors import ConfigError

# Source: linear_knn_eval.py, https://github.com/alibaba-damo-academy/MUSE
KS = (10, 20, 100, 200, 500)
TEMPERATURE = 0.07
_CHUNK_BYTES = 64 << 20  # of similarities held at once


@dataclass(frozen=True)
class Neighbours:
    """What the nearest bank nuclei of each query are.

    Attributes:
        index: (N, k) int64 rows of the bank, nearest first.
        similarity: (N, k) float32 cosine.
    """

    index: Tensor
    similarity: Tensor


def nearest(bank: Tensor, queries: Tensor, k: int) -> Neighbours:
    """The k most similar bank rows of each query, by cosine, in chunks that fit in memory.

    Args:
        bank: (M, D) float features, M at least k.
        queries: (N, D).
        k: how many.
    """
    bank = functional.normalize(bank, dim=1)
    rows = max(1, _CHUNK_BYTES // (4 * len(bank)))
    index, similarity = [], []
    for chunk in torch.split(queries, rows):
        top = (functional.normalize(chunk, dim=1) @ bank.T).topk(k, dim=1)
        index.append(top.indices)
        similarity.append(top.values)
    return Neighbours(torch.cat(index), torch.cat(similarity))


def usable_ks(ks: Sequence[int], n_bank: int) -> tuple[int, ...]:
    """The asked numbers of neighbours that a bank of that size has; all of the bank where it has none of them.

    Raises:
        ConfigError: a number below 1.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"--k {', '.join(map(str, ks)) or 'empty'}: numbers from 1 on are needed")
    return tuple(k for k in sorted(set(ks)) if k <= n_bank) or (n_bank,)


def vote(neighbours: Neighbours, bank_class_ids: Tensor, ks: Sequence[int], *, n_classes: int) -> dict[int, Tensor]:
    """Classes (N,) int64 by each k: neighbours vote with weight exp(similarity / 0.07), the heaviest class wins.

    All k are read off one list of neighbours; of equal weights the lower class wins.

    Source: eq. of the weighted vote in https://github.com/facebookresearch/dino (eval_knn.py)
    """
    classes = bank_class_ids[neighbours.index]  # (N, k)
    # Against the nearest neighbour's weight, so that float32 holds them all; it cancels in the vote.
    weight = ((neighbours.similarity - neighbours.similarity[:, :1]) / TEMPERATURE).exp()
    answer = {}
    for k in ks:
        votes = torch.zeros(len(classes), n_classes)
        votes.scatter_add_(1, classes[:, :k], weight[:, :k])
        answer[k] = votes.argmax(dim=1)
    return answer
