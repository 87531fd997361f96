"""Ranks: the processes that train one model together, one for each GPU. Lesson 11 builds on them.

`torchrun --standalone --nproc_per_node=8 -m gpt2course.train ...` starts eight processes of the same command; without
torchrun there is one. This file owns what they say to each other outside the optimizer. Every rank makes the same calls
in the same order. Rank 0 alone prints and writes.
"""

import datetime
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from gpt2course.files import UserError
from gpt2course.ops.jobs import end_with_parent

TIMEOUT = datetime.timedelta(minutes=10)  # for one call; torchrun notices a rank that dies at once, and ends the others


@dataclass(frozen=True)
class Ranks:
    """This process's number among `world` processes."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def pair(self) -> tuple[int, int]:
        return self.rank, self.world

    def reduce(self, *values: float, how: str = "sum") -> list[float]:
        """The sum (or, how="max", the largest) of each number over all ranks."""
        if self.world == 1:
            return list(values)
        on_gpu = dist.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        x = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(x, op=dist.ReduceOp.MAX if how == "max" else dist.ReduceOp.SUM)
        return x.tolist()

    def all(self, value) -> list:
        """What every rank brings, in the order of the ranks; any plain value."""
        if self.world == 1:
            return [value]
        found = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def from_first(self, make: Callable):
        """What make() returns on rank 0, which alone calls it; its error ends every rank, and rank 0 alone says why."""
        if self.world == 1:
            return make()
        value, error = None, None
        if self.first:
            try:
                value = make()
            except (UserError, OSError) as e:
                error = e
        box = [(value, error is not None)]
        dist.broadcast_object_list(box, src=0)
        if error is not None:
            raise error
        if box[0][1]:
            self.leave()
        return box[0][0]

    def leave(self) -> None:
        """End this process without a word: rank 0 says why."""
        part()
        sys.exit(2)


def join(device_type: str) -> Ranks:
    """Join the other processes of a torchrun, if there are any. device_type: cuda, cpu or mps."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return Ranks()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        how = f"torchrun --standalone --nproc_per_node={world} -m gpt2course.train ..."
        raise UserError(f"WORLD_SIZE is {world} but {missing[0]} is not set; start several processes with: {how}")
    if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun: when that is killed, no rank stays behind on its GPU
        end_with_parent()
    if device_type == "cuda":
        local, have = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= have:
            which = f"process {local} of this machine, which has {have}"
            raise UserError(f"there are more processes than GPUs: {which}; use --nproc_per_node={have}")
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=TIMEOUT)
    return Ranks(dist.get_rank(), world)


def part() -> None:
    """Leave the group of processes, as all must do before they end.

    Its threads, still at work when Python goes, would abort the process (github.com/pytorch/pytorch/issues/190489).
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
