"""What a run records: metrics for programs, lines for people, and where it was made.

`metrics.jsonl` has one JSON object a line, always with kind, step, tokens, flops and seconds.
"""

import contextlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import gpt2course
from gpt2course.cost import mfu, peak_flops
from gpt2course.data import describe
from gpt2course.files import atomic_file, duration


class Log:
    """metrics.jsonl, and printed lines, which also go to log.txt. Only the log of the first rank writes."""

    def __init__(self, run: Path, first: bool):
        self.metrics, self.text, self.first = run / "metrics.jsonl", run / "log.txt", first
        self.warned = False

    def say(self, line: str) -> None:
        if not self.first:
            return
        with contextlib.suppress(OSError):  # a full disk, to which the runbook sends what is printed, stops nothing
            print(line, flush=True)
        with contextlib.suppress(OSError), open(self.text, "a", encoding="utf-8") as f:
            f.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def write(self, **values) -> None:
        """Append one line, whole or not at all. A full disk loses the line and stops nothing."""
        if not self.first:
            return
        line = json.dumps(values, allow_nan=False).encode() + b"\n"
        try:
            with open(self.metrics, "ab", buffering=0) as f:
                size = f.tell()
                if f.write(line) < len(line):
                    f.truncate(size)
                    raise OSError("No space left on device")
        except OSError as e:
            if not self.warned:
                self.say(f"warning: {self.metrics} cannot be written ({e}); some of its lines will be missing")
            self.warned = True

    def rewind(self, step: int) -> None:
        """Drop what was logged after the checkpoint of `step`, which the resumed run writes again.

        An evaluation at that very step goes too: it follows the checkpoint.
        """
        if not self.metrics.exists():
            return
        lines = read_metrics(self.metrics.parent)
        kept = [m for m in lines if m["step"] < step or m["step"] == step and m["kind"] in ("train", "checkpoint")]
        with atomic_file(self.metrics) as f:
            f.writelines(json.dumps(m) + "\n" for m in kept)


_warned = set()  # files whose unreadable lines were reported


def read_metrics(run) -> list[dict]:
    """Every readable line of a run's metrics.jsonl, without a last line that is still being written.

    A line that a power failure damaged is skipped with a warning: a run must not stop because of its records.
    """
    path, found, bad = Path(run) / "metrics.jsonl", [], 0
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for line in lines:
        try:
            value = json.loads(line)
            found.append({"kind": value["kind"], "step": value["step"]} | value)
        except (ValueError, KeyError, TypeError, RecursionError):
            bad += bool(line)
    if bad and path not in _warned:
        _warned.add(path)
        print(f"warning: {path}: {bad} of {len(lines)} lines cannot be read and are skipped", file=sys.stderr)
    return found


# ---- lines about a run at work (train.Run)


def introduce(run) -> None:
    """Print what is trained, on what text, and on what machine."""
    plan, model, n, say = run.plan, run.plan.model, run.plan.params, run.log.say
    for line in describe(run.corpus):
        say(line)
    if run.config["streams"] < run.args.streams:
        say(f"note: {run.config['streams']} streams in place of {run.args.streams}, so that each has a document")
    what = f"recipe {plan.recipe.name}, depth {model.n_layer}, width {model.n_embd}, T {model.sequence_len}"
    size = f"{n['total']:,} parameters, {n['scaling']:,} of them scaling"
    say(f"run {run.folder.name}: {what}, vocabulary {model.vocab_size}; {size}")
    micro = plan.batch_tokens // model.sequence_len // run.team.world // run.config["device_batch"]
    each = f" on each of {run.team.world} ranks" if run.team.world > 1 else ""
    work = f"{plan.steps:,} steps of {plan.batch_tokens:,} tokens = {plan.tokens:,} tokens, {plan.flops:.3g} FLOPs"
    where = f"{run.config['machine']['device']}, {run.config['dtype']}{', fp8' if run.eight else ''}"
    say(f"{work}; micro-batches in a step: {micro}{each}; {where}")


def report(run) -> None:
    """A line of the metrics about the steps since the last one, and every log_seconds a printed line."""
    args, plan, step = run.args, run.plan, run.step
    parts = {part: float(np.mean([t[part] for t in run.times])) for part in run.times[0]}  # seconds of a mean step
    speed, left = plan.batch_tokens / sum(parts.values()), (plan.steps - step) * sum(parts.values())
    peak = peak_flops(run.config["machine"]["device"]) if run.device.type == "cuda" else None
    usd = run.clock / 3600 * args.price_per_hour if args.price_per_hour is not None else None
    line = run.progress | {
        "loss": float(np.mean(run.losses)),
        "lr": plan.lr(step - 1),
        "muon_momentum": plan.muon_momentum(step - 1),
        "weight_decay": plan.weight_decay(step - 1),
        "tok_per_sec": round(speed, 1),
        "mfu": mfu(plan.flops_per_token, speed, run.team.world, peak),
        "usd": usd,
        "time": {part: round(seconds, 5) for part, seconds in parts.items()},
    }
    run.log.write(kind="train", **line)
    if run.forward is not run.model and not run.reported:
        run.log.say(f"the first step took {duration(sum(run.times[0].values()))}, torch.compile included")
    run.losses, run.times, run.reported = [], [], True
    if time.perf_counter() - run.last_print >= args.log_seconds or step in (1, plan.steps):
        extra = f"  mfu {line['mfu']:.1%}" if line["mfu"] else ""
        extra += f"  ${usd:.2f} so far" if usd is not None else ""
        what = f"step {step}/{plan.steps}  loss {line['loss']:.4f}  lr x{line['lr']:.2f}  {speed:,.0f} tokens/s"
        run.log.say(f"{what}{extra}  left {duration(left)}")
        run.last_print = time.perf_counter()


# ---- where a result was made


def describe_machine(device: torch.device) -> dict:
    """The hardware and software behind a result."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "device": gpu.name if gpu else cpu_name(),
        "devices": 1,
        "type": device.type,
        "memory_bytes": gpu.total_memory if gpu else None,
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None,
        "cpu_threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpt2course": gpt2course.__version__,
    }


def cpu_name() -> str:
    """The name of the processor, where the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return _first_line("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()


def git_commit() -> str | None:
    """The commit of the clone that this package runs from, with "+" after changes; None outside a clone."""
    git = ("git", "-C", str(Path(__file__).parent))
    commit = _first_line(*git, "rev-parse", "--short=12", "HEAD")
    changed = commit and _first_line(*git, "status", "--porcelain", "--untracked-files=no")
    return commit and commit + ("+" if changed else "")


def _first_line(*command: str) -> str | None:
    """The first line that a command prints; None if it fails or does not exist."""
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")
        return out[0].strip()
    except (OSError, subprocess.SubprocessError):
        return None
