"""How many threads read tiles and run the network, and how many tiles a call, on the machine at hand."""

from dataclasses import dataclass

from muse_core.infer.engine import Crew
from muse_core.infer.job import InferJob
from muse_core.infer.model import Engine
from muse_core.infer.settings import InferSettings

_WINDOW_PX = {"openvino": 3072, "torch": 1280, "gpu": 2048}
_SHAPE_PX = {"openvino": 1_500_000, "torch": 300_000}  # OpenVINO compiles for each: 0.6 s of a core
_GPU_FINDERS = 3  # while one tile's heat becomes points on the host, the others keep the GPU busy
_GPU_BYTES_A_PX = 600  # of the network's working memory a px of a tile; a guess on the safe side
_GPU_MOST_TILES = 16


@dataclass(frozen=True)
class Windows:
    """What the network sees at once.

    Attributes:
        most_px: side of the largest square one, px of the model; others have no more px.
        shape_px: px in whose time another shape of window is made ready.
    """

    most_px: int
    shape_px: int


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
    if job.engine == "openvino":
        # The cores share one window; while a second one's heat becomes points, the next is read.
        return Sizes(Crew(1, 2, 1), job.settings.batch_tiles or 1)
    if device == "cpu":
        readers = max(1, job.threads // 2)  # reading takes a tenth of the time that the network takes
        return Sizes(Crew(readers, job.threads, readers), job.settings.batch_tiles or 1)
    most_px = windows_for(job.settings, engine=job.engine, device=device).most_px
    fits = _free_bytes(device) // 2 // (_GPU_FINDERS * _GPU_BYTES_A_PX * most_px**2)
    batch = job.settings.batch_tiles or int(min(_GPU_MOST_TILES, max(1, fits)))
    return Sizes(Crew(max(1, job.threads), _GPU_FINDERS, max(2, job.threads // 2)), batch)


def windows_for(settings: InferSettings, *, engine: Engine, device: str) -> Windows:
    """The sides of windows and what their shapes cost; not by the machine, for tables hang on them a little.

    Args:
        settings: may give the side.
        engine: that runs the network.
        device: that it runs on.
    """
    place = "gpu" if device != "cpu" else engine
    return Windows(settings.window_px or _WINDOW_PX[place], _SHAPE_PX[engine])


def _free_bytes(name: str) -> int:
    """What no process holds of a GPU's memory, and what this one holds for its next tensors."""
    import torch

    device = torch.device(name)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
