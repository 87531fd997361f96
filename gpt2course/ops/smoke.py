"""A small run on the machine of the large one, by the same command, judged before the large one is paid for. Lesson 14.

    python -m gpt2course.ops.smoke record --profile 8xh100

Depth 12 and some hundred steps take a few minutes on a node of eight, compilation and all; the loss, the speed and each
GPU's own time must lie in bands that are stated. The corpus and the tokenizer are the large run's, so what is made here
is not made again. Exit code 1 says: not on this machine. Everything stands in runs/<name>/smoke.json.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from gpt2course.ops import jobs
from gpt2course.cost import peak_flops
from gpt2course.files import UserError, command, home, read_json, write_json
from gpt2course.ops.preflight import GPUS, Finding, ok, stop, warning

RECORD = Path(__file__).parent.parent / "results" / "2026-11-23_smoke" / "runs.jsonl"
LAPTOP = ("depth=2", "width=64", "head_dim=32", "sequence_len=128", "vocab_size=512", "batch_tokens=1024", "steps=120",
          "eval_bytes=20000")  # fmt: skip
NODE = ("depth=12", "steps=300", "eval_bytes=1000000")  # all else as in the large run
OWN = ("depth", "steps", "ratio", "eval_bytes")  # settings of the large run that mean nothing to the small one
SECONDS = 240.0  # of training at most: fewer steps where a GPU is expected to be slower than that
MFU = 0.41  # of depth 12 in bfloat16 on H100, by nanochat's dev/LOG.md of 12 January 2026; not yet measured here
SLOW, TOO_SLOW = 0.8, 0.5  # shares of that which bring a warning, and a STOP
UNEVEN, TOO_UNEVEN = 1.07, 1.25  # the slowest GPU's own time over the median: a warning, and a STOP
SPREADS, LEAST = 8.0, 0.05  # half width of a recorded band: standard deviations over seeds, and nats
LOWEST = 0.5  # bits per byte that no model of this size reaches on text that it has not seen before


# ---- the run


@dataclass
class Smoke:
    """Train a small model as the large run would be trained, and judge loss, speed and the evenness of the GPUs; exit
    code 1 if the machine is not fit.

    Example: python -m gpt2course.ops.smoke record --profile 8xh100
    """

    recipe: tyro.conf.Positional[str] = "jan29"  # of the large run
    profile: str = "laptop"  # laptop, 1gpu or 8xh100
    set: tuple[str, ...] = ()  # settings of the large run, as name=value; not depth, ratio, steps: they are its own
    corpus: str | None = None  # default: the profile's
    seed: int = 42
    gpus: int | None = None  # processes; default: a GPU each, as many as the profile is made for
    device_batch: int | None = None  # rows of T tokens in one forward pass; default: the profile's
    attention: str = "auto"
    fp8: bool = False
    minutes: float = 20.0  # given up after so long, data and tokenizer included


def settings(
    args: Smoke, n: int, peak: float | None, flops_per_token: float | None = None, batch: int = 2**19
) -> tuple[str, ...]:
    """Settings of the small run. flops_per_token and batch are its own; without a peak the number of steps stays."""
    laptop = args.profile == "laptop"
    own = dict(pair.split("=") for pair in (LAPTOP if laptop else NODE))
    dropped = own if laptop else OWN
    if peak and flops_per_token and not laptop:
        steps = int(SECONDS * n * peak * MFU / (flops_per_token * batch))
        own["steps"] = str(max(40, min(int(own["steps"]), steps)))
    kept = [setting for setting in args.set if setting.split("=")[0] not in dropped]
    return (*kept, *(f"{name}={value}" for name, value in own.items()))


def train_argv(args: Smoke, name: str, n: int, sets: tuple[str, ...]) -> list[str]:
    """The command, as that of the large run but for its sizes."""
    train = ["gpt2course.train", args.recipe, "--profile", args.profile, "--name", name, "--seed", str(args.seed)]
    train += ["--attention", args.attention, "--no-keep-best", "--save-minutes", "1000"]
    train += ["--eval-every", "1000000", "--final-eval-bytes", "20000"]
    if args.fp8:
        train += ["--fp8"]
    if args.corpus is not None:
        train += ["--corpus", args.corpus]
    if args.device_batch is not None:
        train += ["--device-batch", str(args.device_batch)]
    return [sys.executable, "-m", *jobs.on_devices(n), *train, "--set", *sets]


def watched(argv: list[str], log: Path, seconds: float) -> int | None:
    """Run a command in a session of its own, its output to `log`; its exit code, None if it was ended after `seconds`.

    Ctrl-C ends it too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
        child = subprocess.Popen(argv, **streams, start_new_session=True, env=jobs.environment())
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for number, wait in ((signal.SIGTERM, 60), (signal.SIGKILL, 10)):  # torchrun ends its processes on the first
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(child.pid, number)
                    child.wait(wait)


# ---- the bands


def unigram(corpus: str, tokenizer_folder: Path, size: int = 1_000_000) -> tuple[float, float]:
    """(nats, bytes) of a token, of the first `size` bytes of the corpus; nats: of a model that knows only how frequent
    each token is."""
    from gpt2course.data import load_corpus
    from gpt2course.tokenizer import Tokenizer

    tokenizer, ids, read = Tokenizer.load(tokenizer_folder), [], 0
    for text in load_corpus(corpus).train:
        ids += tokenizer.encode(text)
        read += len(text.encode("utf-8", "replace"))
        if read >= size:
            break
    share = np.bincount(ids) / len(ids)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum()), read / len(ids)


def same_as(config: dict, sets) -> list:
    """What two runs must share for their losses to be comparable."""
    names = ("corpus", "val_sha256", "tokenizer_sha256", "dtype", "fp8")
    return [config["plan"]["recipe"]["name"], sorted(sets), *(config[name] for name in names)]


def recorded(key: list) -> list[dict]:
    """The recorded runs of this key, one for each seed."""
    if not RECORD.is_file():
        return []
    rows = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["same"] == key]


def band(losses: list[float], frequencies: tuple[float, float]) -> tuple[float, float, str]:
    """(low, high, why) for the loss of the last steps: about three recorded seeds or more, else by first principles."""
    if len(losses) >= 3:
        half = max(LEAST, SPREADS * statistics.stdev(losses) * math.sqrt(1 + 1 / len(losses)))
        middle = statistics.mean(losses)
        why = f"{len(losses)} recorded seeds, mean {middle:.3f}, plus and minus {half:.3f}"
        return middle - half, middle + half, why
    nats, size = frequencies
    why = f"below {nats:.3f}, what the frequencies of tokens alone give, and above {LOWEST} bits per byte"
    return LOWEST * size * math.log(2), nats, f"no recorded runs, so first principles: {why}"


# ---- the verdict


def judge_loss(losses: list[float], vocab_size: int, low: float, high: float, why: str) -> Finding:
    """losses: of every logged step, nats a token."""
    part = max(1, len(losses) // 10)
    last, early = statistics.mean(losses[-part:]), statistics.mean(losses[part : 2 * part] or losses[:1])
    text = f"{last:.3f} in the last {part} steps, {losses[0]:.3f} in the first; allowed {low:.3f} to {high:.3f} ({why})"
    begin, mend = math.log(vocab_size), "compare on another machine before paying for this one"
    if not all(map(math.isfinite, losses)) or not low <= last <= high:
        wrong = "the arithmetic of this machine, the installation or the data are wrong"
        return stop("loss", f"{text}: {wrong}; {mend}")
    if losses[0] > begin + 0.5 or early - last < 0.02 * early:
        return stop("loss", f"{text}: it should begin near {begin:.2f} and fall from {early:.3f}; {mend}")
    return ok("loss", text)


def judge_speed(tokens_per_second: float, flops_per_token: float, n: int, device: str, peak: float | None) -> Finding:
    """The rate of the later steps, against the share of the peak that is expected."""
    rate = f"{tokens_per_second:,.0f} tokens/s"
    if peak is None:
        return ok("speed", f"{rate}; not judged, since the peak of {device} is unknown")
    expected = MFU * n * peak / flops_per_token
    share = tokens_per_second / expected
    text = f"{rate} on {n} x {device}, {share:.0%} of the expected {expected:,.0f} ({MFU:.0%} of the peak)"
    if share * MFU > 1:
        wrong = "more than the hardware can do, so the clock or the device's name is wrong"
        mend = "look at nvidia-smi, take another machine"
        return stop("speed", f"{text}: {wrong}; {mend}")
    if share < SLOW:
        level = stop if share < TOO_SLOW else warning
        mend = "see `python -m gpt2course.ops.preflight` for both, and ask for another machine"
        return level("speed", f"{text}: this machine, or its attention kernel, is slow; {mend}")
    return ok("speed", text)


def judge_ranks(seconds: list[float], n: int, on_gpu: bool) -> list[Finding]:
    """seconds: each process's own time in forward and backward passes, before it waits for the others."""
    if n < 2:
        return []
    if len(seconds) != n:
        told = f"training told the time of {len(seconds)} of {n} processes"
        return [warning("evenness", f"{told}; nothing is known of the others: update this clone with git pull")]
    middle, worst = statistics.median(seconds), max(range(n), key=lambda i: seconds[i])
    ratio = seconds[worst] / middle
    text = f"process {worst} needs {1000 * seconds[worst]:.1f} ms for its share of a step, {ratio:.2f} times the median"
    if ratio <= UNEVEN:
        return [ok("evenness", text)]
    level = stop if ratio > TOO_UNEVEN and on_gpu else warning  # on a CPU processes compete for cores
    text += f", and all wait for it: GPU {worst} is slower than the others"
    return [level("evenness", f"{text}; ask for another machine")]


def judge(run: Path, sets, n: int) -> dict:
    """Findings and numbers of a finished run, from its files."""
    config, lines = read_json(run / "config.json", "run configuration"), jobs.read_metrics(run)
    plan, machine, key = config["plan"], config["machine"], same_as(config, sets)
    on_gpu = machine["type"] == "cuda"
    peak = peak_flops(machine["device"]) if on_gpu else None
    steps = [line for line in lines if line["kind"] == "train"]
    losses, late = [line["loss"] for line in steps], steps[len(steps) // 2 :]
    speed = statistics.median(line["tok_per_sec"] for line in late)
    own = [statistics.median(times) for times in zip(*(line.get("rank_seconds", []) for line in late))]
    seeds = [row["loss"] for row in recorded(key)]
    frequencies = unigram(config["corpus"], run / "tokenizer") if len(seeds) < 3 else (0.0, 0.0)  # takes seconds
    low, high, why = band(seeds, frequencies)
    findings = [judge_loss(losses, plan["model"]["vocab_size"], low, high, why)]
    findings += [judge_speed(speed, plan["flops_per_token"], n, machine["device"], peak)]
    findings += judge_ranks(own, n, on_gpu)
    evaluations = [line for line in lines if line["kind"] == "eval"]
    part = max(1, len(losses) // 10)
    return {
        "findings": findings, "same": key, "loss": statistics.mean(losses[-part:]), "first_loss": losses[0],
        "band": [low, high, why], "tok_per_sec": speed, "rank_seconds": own,
        "val_bpb": evaluations[-1]["val_bpb"] if evaluations else None, "steps": len(losses), "seed": config["seed"],
        "seconds": steps[-1]["seconds"], "machine": machine, "commit": config["commit"],
    }  # fmt: skip


def processes(args: Smoke) -> tuple[int, float | None]:
    """(how many, peak FLOP/s of a device)."""
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    n = args.gpus
    if n is None:
        n = max(1, min(there, GPUS.get(args.profile, 1)))
    if n < 1 or 0 < there < n:
        allowed = f"it must be from 1 to the number of GPUs of this machine, which is {there}"
        raise UserError(f"gpus = {n} is not allowed; {allowed}")
    return n, peak_flops(torch.cuda.get_device_name()) if there else None


def smoke(args: Smoke) -> dict:
    """Run and judge; returns what it writes to smoke.json: verdict (ok or STOP), findings, numbers, the command."""
    from gpt2course.ops.work import do_resolve

    n, peak = processes(args)
    sets = settings(args, n, None)
    request = {"profile": args.profile, "recipe": args.recipe, "changes": sets}
    plan = do_resolve(request)["plan"]  # and so everything is checked that will be trained
    sets = settings(args, n, peak, plan["flops_per_token"], plan["batch_tokens"])
    name = f"smoke-{args.profile}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    run, log = home() / "runs" / name, home() / "runs" / f"{name}.log"
    argv = train_argv(args, name, n, sets)
    print(f"smoke run {name}: {' '.join(['python', *argv[1:]])}\nits output is in {log}", flush=True)
    began = time.monotonic()
    code = watched(argv, log, 60 * args.minutes)
    took = time.monotonic() - began
    if code == 0:
        result = judge(run, sets, n)
    else:
        lines = [line for line in jobs.whole_lines(log, 0)[0] if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        said = (errors or lines or ["no output"])[-1]
        how = f"ended with exit code {code}: {said}"
        if code is None:
            how = f"was not done after {args.minutes:g} minutes; its last line: {said}"
        text = f"training {how}; {log} has all of it: mend what it says, or ask for another machine"
        result = {"findings": [stop("run", text)], "same": None}
    verdict = "STOP" if any(level == "STOP" for level, _, _ in result["findings"]) else "ok"
    result |= {"verdict": verdict, "took": round(took, 1), "processes": n, "command": argv[1:]}
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "smoke.json", result)
    with contextlib.suppress(FileNotFoundError):
        os.replace(log, run / "smoke.log")
    shutil.rmtree(run / "checkpoints", ignore_errors=True)  # gigabytes that nobody needs
    return result | {"folder": str(run)}


def main(args: Smoke) -> None:
    result = smoke(args)
    for level, what, text in result["findings"]:
        print(f"{level:8} {what:9} {text}")
    fit = result["verdict"] == "ok"
    text = "this machine is fit for the large run" if fit else "do not start the large run on this machine as it is"
    print(f"{result['verdict']}: {text}; {jobs.duration(result['took'])}, {result['folder']}/smoke.json")
    sys.exit(0 if fit else 1)


if __name__ == "__main__":
    command(main)
