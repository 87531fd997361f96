"""Functions of a notebook in several processes at once, as torchrun would start them. Lesson 11."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from gpt2course.course import lab
from gpt2course.course import mine as pieces
from gpt2course.files import UserError

MAIN = """
import datetime, os, sys
import torch
import torch.distributed as dist
from gpt2course.ranks import end_with_parent

end_with_parent()
rank, world, limit = map(int, sys.argv[1:])
dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meeting", rank=rank,
                        world_size=world, timeout=datetime.timedelta(seconds=limit))
result = FUNCTION(rank, world, *torch.load("arguments.pt"))
torch.save(result, f"{rank}.pt")
dist.destroy_process_group()
"""


def on_ranks(world: int, function, *arguments, limit: int = 280) -> list:
    """What function(rank, world, *arguments) returns on each rank, a process of its own. Arguments: tensors, numbers.

    Its source goes to a file with all that it needs of the notebook. UserError if a rank ends with an error, or if they
    take longer than `limit` seconds; no process stays behind.
    """
    module = vars(sys.modules[function.__module__])
    cells = module.get("In") or [Path(module["__file__"]).read_text(encoding="utf-8")]
    source = pieces.source_of([*cells, *lab._lent.values()], function.__name__)
    loopback = "lo0" if sys.platform == "darwin" else "lo"  # a host's name may not resolve
    environment = {"GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"} | os.environ
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ranks.py").write_text(source + MAIN.replace("FUNCTION", function.__name__), encoding="utf-8")
        torch.save(arguments, f"{folder}/arguments.pt")
        ranks, logs = [], [open(f"{folder}/{r}.log", "w+", encoding="utf-8") for r in range(world)]
        try:
            for r in range(world):
                argv = [sys.executable, "ranks.py", str(r), str(world), str(limit)]
                ranks.append(subprocess.Popen(argv, cwd=folder, env=environment, stdout=logs[r], stderr=logs[r]))
            _wait(ranks, logs, time.monotonic() + limit)
        finally:
            for p in ranks:
                p.kill()
                p.wait()
            for log in logs:
                log.close()
        return [torch.load(f"{folder}/{r}.pt") for r in range(world)]


def _wait(ranks: list, logs: list, until: float) -> None:
    """Wait for all ranks. The others of a rank that ended lose their connection to it and may end before it is seen."""
    while any(p.poll() is None for p in ranks) and not any(p.returncode for p in ranks):
        if time.monotonic() > until:
            raise UserError("the ranks did not end in time; they were ended")
        time.sleep(0.02)
    if any(p.returncode for p in ranks):
        time.sleep(0.5)
        failed = [(r, _last_line(logs[r])) for r, p in enumerate(ranks) if p.poll()]
        rank, line = min(failed, key=lambda f: "onnection" in f[1])
        raise UserError(f"rank {rank} ended with code {ranks[rank].returncode} ({line:.200}); the others were ended")


def _last_line(log) -> str:
    log.seek(0)
    return ([line.strip() for line in log.read().splitlines() if line.strip()] or ["no message"])[-1]
