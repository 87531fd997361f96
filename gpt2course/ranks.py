"""Ranks: the processes that train one model together, one for each GPU. Lesson 11.

`torchrun --standalone --nproc_per_node=8 -m gpt2course.train ...` starts eight processes of the same command; without
torchrun there is one. This file owns what they exchange outside the optimizer, and which device each one uses. Every
rank makes the same calls in the same order. Only rank 0 prints and writes.
"""

import contextlib
import ctypes
import datetime
import faulthandler
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from gpt2course.files import Busy, UserError, read_json, write_json

TIMEOUT = datetime.timedelta(minutes=10)  # of one exchange; torchrun notices a rank that dies at once
PATIENCE = datetime.timedelta(days=7)  # of the ranks that wait until rank 0 has made something, such as a tokenizer


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
        """The sum (or, with how="max", the largest) of each number over all ranks."""
        if self.world == 1:
            return list(values)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        x = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(x, op=dist.ReduceOp.MAX if how == "max" else dist.ReduceOp.SUM)
        return x.tolist()

    def all(self, value) -> list:
        """The value of every rank, in the order of the ranks; any plain value."""
        if self.world == 1:
            return [value]
        found = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def from_first(self, make: Callable):
        """The result of make() on rank 0, which alone calls it. An error there ends every rank; rank 0 prints it."""
        if self.world == 1:
            return make()
        value, error = None, None
        if self.first:
            try:
                value = make()
            except (UserError, OSError) as e:
                error = e
        box = [(value, error is not None)]
        self._wait_for_first()
        dist.broadcast_object_list(box, src=0)
        if error is not None:
            raise error
        if box[0][1]:
            self.leave()
        return box[0][0]

    def _wait_for_first(self) -> None:
        """Wait until rank 0 calls this too: without the time-out of an exchange, and without work for the GPU."""
        store = dist.distributed_c10d._get_default_store()
        key = f"first {store.add(f'calls of {self.rank}', 1)}"
        store.set(key, "") if self.first else store.wait([key], PATIENCE)

    def check_equal(self, tensors: dict[str, torch.Tensor]) -> None:
        """UserError with the name of the first tensor that differs between ranks in the sum of its bits as integers."""
        ints = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        sums = torch.stack([x.detach().view(ints[x.element_size()]).sum() for x in tensors.values()])
        for name, each in zip(tensors, zip(*self.all(sums.tolist()))):
            if len(set(each)) > 1:
                if not self.first:
                    self.leave()
                rank = next(r for r in range(self.world) if each[r] != each[0])
                raise UserError(f"parameter {name} of rank {rank} is not that of rank 0; they train different models")

    def leave(self) -> None:
        """End this process silently: rank 0 prints the reason."""
        part()
        sys.exit(2)


def join(device_type: str) -> Ranks:
    """Join the other processes of a torchrun, if there are any. device_type: cuda, cpu or mps."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
        if orphaned():
            os._exit(1)
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=TIMEOUT)
    return Ranks(dist.get_rank(), world)


def started_again() -> bool:
    """Whether torchrun has started the ranks again, because one of them ended with an error."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextlib.contextmanager
def lasting_errors(path: Path | None, team: Ranks):
    """Under torchrun: keep a UserError in the file `path`, because starting the ranks again cannot help.

    When the same torchrun does so, they end at once with the same message. A new torchrun deletes the file. Running out
    of GPU memory becomes such an error.
    """
    this_torchrun = os.environ.get("TORCHELASTIC_RUN_ID")
    kept = path is not None and this_torchrun is not None

    def look():
        if not started_again():
            path.unlink(missing_ok=True)
        elif path.exists() and (old := read_json(path)).get("restart") == this_torchrun:
            raise UserError(old["error"])

    if kept:
        team.from_first(look)
    try:
        yield
    except (UserError, torch.OutOfMemoryError) as e:
        no_memory = isinstance(e, torch.OutOfMemoryError)
        asked = str(e).partition("\n")[0][:300]
        error = UserError(f"the GPU ran out of memory; use a lower --device-batch ({asked})") if no_memory else e
        if kept and (team.first or no_memory) and not isinstance(e, Busy):  # any rank may run out of memory, alone
            with contextlib.suppress(OSError):  # a full disk must not hide the error
                write_json(path, {"error": str(error), "restart": this_torchrun})
        raise error from None


def part(done: bool = False) -> None:
    """Leave the group of processes, as every rank must before it ends.

    Otherwise its threads can abort the process at exit (github.com/pytorch/pytorch/issues/190489). They sometimes do so
    even afterwards, so under torchrun a command that is `done` ends here, before anything is torn down.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        if done and "TORCHELASTIC_RUN_ID" in os.environ:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def end_with_parent() -> None:
    """From here on Linux kills this process when torchrun ends, so that no rank stays behind on its GPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def orphaned() -> bool:
    """Whether the runbook's torchrun ended before this rank called `end_with_parent`: the parent is another process."""
    mark = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # the runbook sets it for torchrun, whose ranks inherit it
    try:
        return mark in os.environ and mark.encode() not in Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:  # another system than Linux, or the parent belongs to another user
        return sys.platform == "linux"


def pick_device(name: str = "auto") -> torch.device:
    """The named device; auto is cuda where there is one, else cpu. MPS must be named; its results may differ.

    A GPU is returned with its index, as tensors on it have, and becomes CUDA's current device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if available["cuda"] else "cpu"
    if not available.get(name.split(":")[0], False):
        have = ", ".join(d for d, ok in available.items() if ok)
        raise UserError(f"device {name!r} is not available; this machine has {have}")
    device = torch.device(name)
    if device.type == "cuda":
        index, have = device.index, torch.cuda.device_count()
        if index is None:
            index = int(os.environ.get("LOCAL_RANK", 0))
        if index >= have:
            raise UserError(f"there is no GPU {index}, only {have}; use a lower --device or --nproc_per_node={have}")
        # The allocator then joins freed memory of any size: evaluation needs other sizes than training (nanochat)
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        torch.cuda.set_device(index)
        device = torch.device("cuda", index)
    return device


def compute_dtypes(device: torch.device, name: str = "auto") -> tuple[torch.dtype, torch.dtype]:
    """(compute dtype, embedding dtype): bfloat16 on GPUs that support it, float32 elsewhere."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8 else "float32"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"dtype {name!r} is not allowed; it must be auto, float32 or bfloat16")
    dtype = getattr(torch, name)
    return dtype, dtype


class Watch:
    """Ends this process, and prints where it hangs, after `limit` seconds without progress; torchrun restarts it.

    It counts from the first `progress` on. A second counts only if the watching thread ran in it: a closed laptop or a
    paused container is no hang, although the clock goes on.
    """

    def __init__(self, limit: float):
        self.limit, self.silent, self.ended = limit, -math.inf, threading.Event()
        self.stop = self.ended.set
        threading.Thread(target=self._count, daemon=True).start()

    def progress(self) -> None:
        self.silent = 0

    def _count(self) -> None:
        while not self.ended.wait(1):
            self.silent += 1
            if self.silent > self.limit:
                print(f"no progress for {self.limit:g} seconds; it hangs here:", file=sys.__stderr__)
                faulthandler.dump_traceback(file=sys.__stderr__)
                os._exit(1)
