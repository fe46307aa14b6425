"""The processes of one training run: a lone one, or those that torchrun starts, each with a device of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from muse_core.errors import ConfigError
from muse_core.machine.device import one_gpu


@dataclass(frozen=True)
class Processes:
    """Which of how many this one is, and where it computes.

    Attributes:
        rank: 0..world_size - 1; rank 0 alone writes files.
        world_size: processes that train together.
        device: of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def any_of_us(self, flag: bool) -> bool:
        """Whether `flag` is true in any process; each must ask."""
        if self.world_size == 1:
            return flag
        found = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return bool(found.item())

    def most(self, number: int) -> int:
        """The largest `number` of any process; each must ask."""
        if self.world_size == 1:
            return number
        found = torch.tensor([number], device=self.device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return int(found.item())

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes; each must ask."""
        if self.world_size == 1:
            return values
        values = values.clone()
        distributed.all_reduce(values)
        return values / self.world_size

    def wait(self) -> None:
        """Until all are here."""
        if self.world_size > 1:
            distributed.barrier()


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started beside this one: NCCL between GPUs, gloo between CPUs.

    Args:
        device: `cpu` or `cuda`; with CUDA a lone process takes a GPU that no other holds, several each that of its
            LOCAL_RANK.

    Raises:
        ConfigError: there are more processes on this machine than GPUs.
    """
    world_size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if world_size == 1:
        with one_gpu(device) as own:
            place = torch.device(own)
            if place.type == "cuda":
                torch.cuda.set_device(place.index or 0)  # the only GPU of a machine comes without its number
            yield Processes(0, 1, place)
        return
    place = torch.device("cpu")
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(f"process {local_rank} has no GPU of its own: {torch.cuda.device_count()} are here")
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), world_size, place)
    finally:
        distributed.destroy_process_group()


def averaging_gradients(network: nn.Module) -> DistributedDataParallel:
    """The network, with gradients that are averaged over all processes in its backward pass.

    A convolution of images that lie channels last gives its kernels' gradients with other strides than the kernels have
    along axes of length 1. Nothing lies elsewhere for that, but it is looked at by torch, which warns of it.
    """
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_hook(_with_plain_strides)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(network)


def _with_plain_strides(gradient: Tensor) -> Tensor:
    """The gradient in contiguous memory and with the strides of that along every axis; a copy only where it must be."""
    return gradient.flatten().view(gradient.shape)
