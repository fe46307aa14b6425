"""How many threads read tiles and run the network, and how many tiles a call, on the machine at hand."""

from dataclasses import dataclass

import torch

from muse_core.infer.engine import Crew
from muse_core.infer.job import InferJob

_GPU_FINDERS = 3  # while one tile's heat becomes points on the host, the others keep the GPU busy
_GPU_BYTES_A_PX = 600  # of the network's working memory a px of a tile; a guess on the safe side
_GPU_MOST_TILES = 16


@dataclass(frozen=True)
class Sizes:
    """A crew, and tiles a call of the network."""

    crew: Crew
    batch_tiles: int


def crew_for(job: InferJob, device: str) -> Sizes:
    """A finder a core on a CPU; on a GPU a few finders, and the cores read.

    Args:
        job: the slide.
        device: that the network is on: `cpu`, `cuda` or `cuda:N`.
    """
    if device == "cpu":
        readers = max(1, job.threads // 2)  # reading takes a tenth of the time that the network takes
        return Sizes(Crew(readers, job.threads, readers), job.settings.batch_tiles or 1)
    fits = _free_bytes(torch.device(device)) // 2 // (_GPU_FINDERS * _GPU_BYTES_A_PX * job.settings.window_px**2)
    batch = job.settings.batch_tiles or int(min(_GPU_MOST_TILES, max(1, fits)))
    return Sizes(Crew(max(1, job.threads), _GPU_FINDERS, max(2, job.threads // 2)), batch)


def _free_bytes(device: torch.device) -> int:
    """What no process holds of a GPU's memory, and what this one holds for its next tensors."""
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
