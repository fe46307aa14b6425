"""Networks in int8, as OpenVINO runs them on a CPU: one file beside the checkpoint that they were made from.

    net = QuantisedNet(read_quantised(path), threads=2)
    logits = net(images)  # (B, H, W, 3) uint8 -> (B, C, H / 2, W / 2) float32

The file is safetensors: OpenVINO's graph and its constants as bytes, and in the metadata what is needed to read the
answers. Nearly all sums are of whole numbers, and no sum is shared among threads, so that answers are the same bit for
bit however many there are. torch is neither needed nor imported.
"""

import gc
import platform
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from muse_core.errors import ConfigError
from muse_core.models.tensor_file import metadata_of, read_tensors, sha256_of

if TYPE_CHECKING:
    import openvino

FORMAT = "muse-int8-1"
SUFFIX = ".int8.safetensors"  # in place of the checkpoint's .safetensors
_CPUINFO = Path("/proc/cpuinfo")
GRAPH, CONSTANTS = "graph", "constants"  # names of the tensors
_KEPT_SHAPES = 8  # compiled code that is kept for shapes met before, 5 MB each

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Quantised:
    """What a file of quantised weights holds.

    Attributes:
        path: the file.
        source_sha256: of the checkpoint that it was made from.
        kind: format of that checkpoint.
        about: what the checkpoint says of how its answers are read, as `kind` defines it.
        graph: OpenVINO's, XML.
        constants: its binary part.
    """

    path: Path
    source_sha256: str
    kind: str
    about: dict[str, str]
    graph: bytes
    constants: NDArray[np.uint8]


def quantised_path(checkpoint: Path) -> Path:
    """Where the quantised weights of a checkpoint are looked for: beside it."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".safetensors") + SUFFIX)


def quantised_for(checkpoint: Path) -> Path | None:
    """The quantised weights that were made from exactly this checkpoint; None where there are none beside it."""
    path = quantised_path(checkpoint)
    if not path.is_file():
        return None
    try:
        about = metadata_of(path)
    except ConfigError:
        return None
    return path if about.get("format") == FORMAT and about.get("source_sha256") == sha256_of(checkpoint) else None


def read_quantised(path: Path) -> Quantised:
    """Read a file that `muse quantise` wrote.

    Raises:
        ConfigError: no such file, or not such a one.
    """
    file = read_tensors(path, FORMAT, what="quantised weights", hint="make them with muse quantise", framework="np")
    about, graph, constants = file.about, file.tensors[GRAPH], file.tensors[CONSTANTS]
    source, kind = about.pop("source_sha256"), about.pop("kind")
    return Quantised(path, source, kind, about, graph.tobytes(), constants)


def int8_pays(cpuinfo: Path = _CPUINFO) -> str:
    """The instructions by which this processor gains from int8: `amx_int8`, `avx512_vnni`, `avx_vnni` or `avx2`.

    An empty string where it does not, or nobody has measured: ARM's.

    Args:
        cpuinfo: what the kernel says of the CPU.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ""
    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="ignore").split())
    except OSError:
        return ""
    return next((name for name in ("amx_int8", "avx512_vnni", "avx_vnni", "avx2") if name in flags), "")


class QuantisedNet:
    """A quantised network on this machine's CPU; may be called from several threads, whose calls take turns.

    Each shape of image needs code of its own, and most memory is needed by the one in use: images of one shape should
    come one after another.

    Args:
        quantised: the weights.
        threads: cores that share the work on one image; never changes the answers.
    """

    def __init__(self, quantised: Quantised, *, threads: int) -> None:
        # Late: only here is the library needed.
        import openvino

        self._openvino = openvino
        self._core = openvino.Core()
        self._quantised = quantised
        self._options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # of what is not int8: the same on every processor
            "ENABLE_CPU_PINNING": False,  # the cores are shared with readers, and with other processes
        }
        self._in_use: tuple[Shape, openvino.CompiledModel] | None = None
        self._code: OrderedDict[Shape, bytes] = OrderedDict()
        self._running = Lock()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of images.

        Args:
            images: (B, H, W, 3) uint8 RGB, sides multiples of what the network asks for.

        Returns:
            (B, C, H / 2, W / 2) float32.
        """
        pixels = np.ascontiguousarray(images)
        with self._running:
            request = self._compiled(pixels.shape).create_infer_request()
            request.infer({0: pixels}, share_inputs=True)
            return np.array(request.get_output_tensor(0).data, np.float32)

    def _compiled(self, shape: Shape) -> "openvino.CompiledModel":
        if self._in_use is not None and self._in_use[0] == shape:
            return self._in_use[1]
        self._in_use = None  # before another takes its memory
        gc.collect()
        compiled = self._from_code(shape) if shape in self._code else self._from_graph(shape)
        self._in_use = (shape, compiled)
        return compiled

    def _from_code(self, shape: Shape) -> "openvino.CompiledModel":
        self._code.move_to_end(shape)
        return self._core.import_model(self._code[shape], "CPU", self._options)

    def _from_graph(self, shape: Shape) -> "openvino.CompiledModel":
        model = self._core.read_model(self._quantised.graph, self._openvino.Tensor(self._quantised.constants))
        model.reshape({0: list(shape)})
        compiled = self._core.compile_model(model, "CPU", self._options)
        self._code[shape] = compiled.export_model().getvalue()
        if len(self._code) > _KEPT_SHAPES:
            self._code.popitem(last=False)
        return compiled
