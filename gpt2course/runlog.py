"""What a run writes about itself: metrics for programs, lines for people, and where it was made. Lesson 04.

`metrics.jsonl` has one JSON object a line, always with kind, step, tokens, flops and seconds. Nothing here loads torch
by itself.
"""

import contextlib
import errno
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import gpt2course
from gpt2course.files import atomic_file

# ---- where a result was made


def _first_line(*command: str) -> str | None:
    """The first line that a command prints, None if it is not there or fails."""
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")
        return out[0].strip()
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The processor as it calls itself, where the system says so."""
    try:
        return next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration):
        return _first_line("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()


def describe_machine(device) -> dict:
    """What a result must say about where it was made. device: a torch.device."""
    import torch

    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "device": gpu.name if gpu else cpu_name(),
        "devices": 1,
        "type": device.type,
        "memory_bytes": gpu.total_memory if gpu else None,
        "driver": _first_line(*query) if gpu else None,
        "cpu_threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpt2course": gpt2course.__version__,
    }


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with "+" when files were changed; None outside a checkout."""
    git = ("git", "-C", str(Path(__file__).parent))
    commit = _first_line(*git, "rev-parse", "--short=12", "HEAD")
    changed = commit and _first_line(*git, "status", "--porcelain", "--untracked-files=no")
    return commit and commit + ("+" if changed else "")


# ---- the log


class Log:
    """metrics.jsonl for programs, and one printed line for people, which also goes to log.txt."""

    def __init__(self, run: Path):
        self.metrics, self.text = run / "metrics.jsonl", run / "log.txt"
        self.unwritten = b""  # lines that a full disk refused; they go out with the next one

    def say(self, line: str) -> None:
        print(line, flush=True)
        with contextlib.suppress(OSError), open(self.text, "a", encoding="utf-8") as f:  # it has been printed
            f.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def write(self, **values) -> None:
        """Append one line, whole or not at all. What a full disk refuses is kept and written with a later line."""
        known = bool(self.unwritten)
        self.unwritten += json.dumps(values, allow_nan=False).encode() + b"\n"
        try:
            self.flush()
        except OSError as e:
            if not known:
                why = f"{self.metrics} cannot be written ({e.strerror})"
                self.say(f"warning: {why}; its lines wait in memory until there is room")

    def flush(self) -> None:
        """Write the lines that wait; OSError where they still cannot be written."""
        if self.unwritten:
            with open(self.metrics, "ab", buffering=0) as f:
                size = f.tell()
                if f.write(self.unwritten) < len(self.unwritten):
                    f.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.unwritten = b""

    def rewind(self, step: int) -> None:
        """Drop what was logged after the checkpoint of `step`, which a resumed run writes again, and a line cut short.

        An evaluation at that very step goes too: it follows the checkpoint.
        """
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError, KeyError):
                value = json.loads(line)
                if value["step"] < step or value["step"] == step and value["kind"] in ("train", "checkpoint"):
                    kept.append(line)
        with atomic_file(self.metrics) as f:
            f.writelines(line + "\n" for line in kept)


class NoLog:
    """The log of every rank but the first."""

    def say(self, line: str) -> None: ...

    def write(self, **values) -> None: ...

    def flush(self) -> None: ...

    def rewind(self, step: int) -> None: ...


def read_metrics(run) -> list[dict]:
    """Every whole line of a run's metrics.jsonl; a line that is just being written is left out."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if line]
