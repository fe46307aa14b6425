"""Whole-slide nuclei: tiling, pseudo-detection, MUSE pretraining and slide inference, as plain Python calls.

from muse_core import Box, NucleiDataset, infer
infer("slides/", out="runs/nuclei")
NucleiDataset("runs/nuclei").within("S1", Box(0, 0, 1000, 1000))
"""

import sys
from collections.abc import Callable
from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muse_core.api import build as build
    from muse_core.api import evaluate as evaluate
    from muse_core.api import finetune as finetune
    from muse_core.api import import_patches as import_patches
    from muse_core.api import infer as infer
    from muse_core.api import pretrain as pretrain
    from muse_core.api import train_detector as train_detector
    from muse_core.api import write_report as write_report
    from muse_core.cohort.manifest import read_manifest as read_manifest
    from muse_core.errors import MuseError as MuseError
    from muse_core.geometry import Box as Box
    from muse_core.infer.model import load_nucleus_model as load_nucleus_model
    from muse_core.models.backbone_file import load_backbone as load_backbone
    from muse_core.nuclei_dataset import NucleiDataset as NucleiDataset
    from muse_core.roi_dataset.dataset import RoiDataset as RoiDataset
    from muse_core.slide import open_slide as open_slide
    from muse_core.tissue import find_tissue as find_tissue

# Public names and the modules they come from, imported when first asked for (PEP 562): torch takes seconds.
_PUBLIC = {
    "read_manifest": "muse_core.cohort.manifest",
    "open_slide": "muse_core.slide",
    "find_tissue": "muse_core.tissue",
    "build": "muse_core.build",
    "import_patches": "muse_core.api",
    "pretrain": "muse_core.pretrain",
    "train_detector": "muse_core.api",
    "finetune": "muse_core.api",
    "infer": "muse_core.infer",
    "evaluate": "muse_core.evaluate",
    "write_report": "muse_core.api",
    "RoiDataset": "muse_core.roi_dataset.dataset",
    "NucleiDataset": "muse_core.nuclei_dataset",
    "load_nucleus_model": "muse_core.infer.model",
    "load_backbone": "muse_core.models.backbone_file",
    "Box": "muse_core.geometry",
    "MuseError": "muse_core.errors",
}
_VERBS = frozenset({"build", "pretrain", "infer", "evaluate"})  # calls of `api` that share a sub-package's name

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whatever the name stands for)
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_PUBLIC[name])
    return module if name in _VERBS else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


class _Verb(ModuleType):
    """A sub-package that is also the call of its name: `infer("slides/", out="runs/nuclei")` and `infer.tiles`."""

    @property
    def _call(self) -> Callable[..., Any]:
        found = getattr(import_module("muse_core.api"), self.__name__.rpartition(".")[2])
        assert callable(found)
        return found  # type: ignore[no-any-return]

    @property
    def __signature__(self) -> Signature:
        return signature(self._call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as the call has them)
        return self._call(*args, **kwargs)


class _Root(ModuleType):
    """This package. Importing `muse_core.infer` binds it here in place of the call, so the sub-package must be both."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _VERBS and type(value) is ModuleType:
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
