"""Is this machine ready for a run? Checked before the run costs money. Lesson 14.

    python -m gpt2course.ops.preflight jan29 --profile 8xh100 --price-per-hour 24 --smoke

A finding is (level, what, text) with the level ok, warning or STOP. Without a GPU, time, cost and memory are those of
the machine that the profile is made for. --smoke also trains a small model by the command of the large run.
"""

import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import tyro

from gpt2course.core_tasks import MINI, default_bundle
from gpt2course.cost import SLACK, hours, memory_estimate, must_recompute, peak_flops, step_sizes, suggest_device_batch
from gpt2course.data import BYTES_PER_TOKEN, SHARD_CORPORA, SHARD_DISK, load_corpus, parse_shards, shards_needed
from gpt2course.fast import kernels
from gpt2course.files import UserError, command, duration, home, write_json
from gpt2course.ops import download
from gpt2course.ranks import compute_dtypes, end_with_parent
from gpt2course.recipes import GPUS, Plan, RunSizes, resolve_run, settings_from_text
from gpt2course.runlog import describe_machine, read_metrics

H100_FREE = 84.9e9  # bytes free on an empty H100
MFU_NODE, MFU_ONE, MFU_FORWARD = 0.5, 0.4, 0.3  # expected: record 1 on 8 H100, single GPUs, forward passes alone
SETUP, TOKENIZER, COMPILE = 300.0, 240.0, 180.0  # seconds
DOWNLOAD = 200e6  # bytes/s
SAVE = 0.7e9  # bytes/s of a checkpoint, copied from the GPUs, written and read again for its sha256; training waits
CORE_TOKENS = 68e6  # that the questions of CORE ask a model to read
UNEVEN, TOO_UNEVEN = 0.93, 0.8  # rate of the slowest GPU as a share of the median: a warning, a STOP

SMALL = {"steps": 120, "eval_bytes": 20_000}  # the small run, with a depth of at most 12; all else as in the large run
TRAIN_HOURS = 0.08  # it stops after so long; a training that hangs ends itself
MFU_SMOKE, SLOW = 0.41, 0.6  # expected MFU at depth 12 on H100 (nanochat, dev/LOG.md, January 2026); the least share

Finding = tuple[str, str, str]


@dataclass
class Preflight:
    """Check this machine before a run on it is paid for. Exit code 2 if a finding is STOP.

    Example: python -m gpt2course.ops.preflight jan29 --profile 8xh100 --price-per-hour 24 --smoke
    """

    recipe: tyro.conf.Positional[str] = "jan29"
    profile: str = "laptop"  # laptop, 1gpu or 8xh100
    set: tuple[str, ...] = ()  # settings of the recipe, as name=value
    corpus: str | None = None  # default: the profile's
    devices: int | None = None  # processes, one GPU each; default: as many as can share the batch
    device_batch: int | None = None  # rows in one forward pass; default: the profile's
    fp8: bool = False
    seed: int = 42
    price_per_hour: float | None = None  # of the machine, in dollars
    core: bool = True  # the run needs the CORE bundle, unless the profile is laptop
    smoke: bool = False  # also train a small model, and judge its loss and speed
    out: Path | None = None  # also write the result to this file, as JSON


# ---- GPUs


def measure(head_dim: int, kind: str = "cuda", seconds: float = 0.5, size: int = 8192) -> dict:
    """What only a process that uses the GPUs can measure."""
    gpus, device = [], torch.device(kind, 0)
    for i in range(torch.cuda.device_count()):
        free = torch.cuda.mem_get_info(i)[0]
        a, b = (torch.randn(size, size, device=f"{kind}:{i}", dtype=torch.bfloat16) for _ in range(2))
        a @ b  # loads the library
        torch.cuda.synchronize(i)
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            a @ b
            torch.cuda.synchronize(i)
            done += 1
        rate = 2 * size**3 * done / (time.perf_counter() - began)
        gpus.append({"name": torch.cuda.get_device_name(i), "free": free, "rate": rate})
    dtype = compute_dtypes(device)[0]
    attention = kernels.choose("auto", device, dtype, head_dim)  # takes no kernel whose results are wrong
    return {"gpus": gpus, "driver": describe_machine(device)["driver"], "attention": attention, "bytes": dtype.itemsize}


def measure_in_child(head_dim: int) -> dict:
    """`measure` in a process of its own: its memory on the GPUs is freed, and a crash or a hang there does no harm."""
    code = f"import json; from gpt2course.ops import preflight; print(json.dumps(preflight.measure({head_dim})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def judge_gpus(gpus: list[dict], driver: str, wanted: int, used: int) -> list[Finding]:
    """gpus: of `measure`. wanted: how many the profile is made for; used: by the run."""
    names, rates = sorted({gpu["name"] for gpu in gpus}), [gpu["rate"] for gpu in gpus]
    text, out = f"{len(gpus)} x {' and '.join(names)}, driver {driver}; the run uses {used}", []
    if len(names) > 1:
        out.append(("warning", "gpus", f"{text}; the slowest sets the pace, so take a machine with equal GPUs"))
    elif used < wanted:
        out.append(("warning", "gpus", f"{text} and takes {wanted / used:g} times as long as on {wanted}"))
    else:
        out.append(("ok", "gpus", text))
    text, share = f"{min(rates) / 1e12:.0f} to {max(rates) / 1e12:.0f} TFLOP/s", min(rates) / statistics.median(rates)
    if share >= UNEVEN:
        return [*out, ("ok", "speed", f"matrix products run at {text}")]
    slow = f"GPU {rates.index(min(rates))} is slower than the others ({text}), which wait for it; take another machine"
    return [*out, ("STOP" if share < TOO_UNEVEN else "warning", "speed", slow)]


def judge_attention(name: str, reason: str) -> Finding:
    """The kernel that was chosen."""
    if name == "sdpa":
        return "warning", "attention", f"{name} ({reason}); windows cost more than they save with it"
    return "ok", "attention", f"{name} ({reason})"


def judge_absent(profile: str, files: list) -> list[Finding]:
    """torch sees no GPU. files: the system's files of NVIDIA GPUs."""
    if files:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        why = f"torch {torch.__version__} for CUDA {torch.version.cuda}, CUDA_VISIBLE_DEVICES {visible}"
        fix = "install torch for CUDA (make clean setup), install a newer driver, or take another machine"
        return [("STOP", "gpus", f"there are {len(files)} GPUs, but torch sees none ({why}); {fix}")]
    if profile in GPUS:
        return [("warning", "gpus", f"none here; profile {profile} is made for {GPUS[profile]} x H100")]
    return []


# ---- memory, disk, data


def judge_memory(sizes: RunSizes, free: float, on_gpu: bool, where: str = "here", each: int | None = None) -> Finding:
    """free: bytes of the emptiest GPU, or of the system. each: bytes of a value; GPUs without bfloat16 need 4."""
    plan, arguments = sizes.plan, step_sizes(sizes.plan, on_gpu, each) | {"world": sizes.devices}
    arguments["recompute"] = must_recompute(free, plan, B=sizes.device_batch, **arguments)  # as train.py does
    need = SLACK * memory_estimate(plan.params, B=sizes.device_batch, **arguments).total
    text = f"device batch {sizes.device_batch} needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free {where}"
    if free >= need:
        return "ok", "memory", text
    try:
        rows = plan.batch_tokens // plan.model.sequence_len // sizes.devices
        fits = suggest_device_batch(free, rows, plan.params, slack=1 - 1 / SLACK, **arguments)
        return "STOP", "memory", f"{text}; take --device-batch {fits}"
    except UserError:
        return "STOP", "memory", f"{text}; choose a smaller depth"


def judge_disk(plan: Plan, to_come: float, folder: Path, free: float) -> Finding:
    """to_come: bytes of shards that the run downloads; free: bytes in the folder."""
    m = memory_estimate(plan.params, B=1, **step_sizes(plan, False))
    need = 3 * (m.weights + m.optimizer) + to_come + 1e9  # checkpoints: the newest two, one being written
    text = f"{free / 1e9:.1f} GB free in {folder}, the run needs about {need / 1e9:.1f} GB"
    return ("ok", "disk", text) if free >= need else ("STOP", "disk", f"{text}; set GPT2COURSE_HOME to another disk")


def look_data(corpus: str, plan: Plan, core: bool) -> tuple[list[Finding], float]:
    """(findings about the corpus and about the addresses that the run needs, bytes of shards that it downloads)."""
    out, wanted, to_come = [], {}, 0.0
    if corpus.partition(":")[0] in SHARD_CORPORA:
        name, count = parse_shards(corpus)
        p = download.progress(f"{name}:{count or shards_needed(name, plan.tokens)}")
        to_come = (p["total"] - p["done"]) * SHARD_DISK
        text = f"{p['done']} of {p['total']} shards of {p['corpus']} are here, {to_come / 1e9:.1f} GB to download"
        out.append(("ok", "corpus", text))
        if to_come:
            wanted[corpus] = download.shard_url(name, download.shard_paths(name, 0)[0])
    else:
        try:
            out.append(("ok", "corpus", f"{corpus}: {len(load_corpus(corpus).train):,} documents to train on"))
        except UserError as e:
            out.append(("STOP", "corpus", str(e)))
    if core and default_bundle() == MINI:
        wanted["the CORE bundle"] = download.CORE_URL
    for what, url in wanted.items():
        if problem := download.reach(url):
            text = f"{what} cannot be downloaded from {download.mirrored(url)} ({problem}); set {download.MIRROR}"
            busy = re.match("HTTP (429|5..)", problem)  # the download tries again
            out.append(("warning" if busy else "STOP", "address", text))
        else:
            out.append(("ok", "address", f"{what} can be downloaded"))
    return out, to_come


# ---- time and cost


def projection(plan: Plan, n: int, gpu: str, to_come: float, args: Preflight) -> list[Finding]:
    """Hours and dollars on n GPUs of this name."""
    peak, mfu = peak_flops(gpu), MFU_NODE if n > 1 else MFU_ONE
    if peak is None:
        return [("ok", "time", f"unknown, because the peak rate of {gpu} is unknown")]
    train, forward = hours(plan.flops, n, peak, mfu), plan.flops_per_token / 3 / (MFU_FORWARD * peak * n)  # s a token
    evaluations = 10 * plan.recipe.eval_bytes / BYTES_PER_TOKEN * forward  # eight during the run, two at its end
    m = memory_estimate(plan.params, B=1, **step_sizes(plan))
    saves = train * 6 * (m.weights + m.optimizer) / SAVE  # one in ten minutes
    other = SETUP + TOKENIZER + COMPILE + to_come / DOWNLOAD + evaluations + CORE_TOKENS * forward + saves
    paid, price = train + other / 3600, args.price_per_hour
    text = f"about {train:.2f} h of training on {n} x {gpu} at {mfu:.0%} of the peak, {paid:.2f} h with everything else"
    out = [("ok", "time", text)]
    if price is not None:
        text = f"about ${paid * price:.2f} at ${price:g} an hour, of which training is ${train * price:.2f}"
        out.append(("ok", "cost", text))
    return out


# ---- the small run


def judge_run(metrics: list[dict], plan: Plan, n: int, gpu: str) -> list[Finding]:
    """The loss and the speed of the small run. gpu: name of the GPUs, or "" on a CPU."""
    steps = [line for line in metrics if line["kind"] == "train"]
    losses = [line["loss"] for line in steps]
    last = statistics.mean(losses[-max(1, len(steps) // 10) :])
    text = f"from {losses[0]:.3f} to {last:.3f} in {steps[-1]['step']} steps"
    fix = "it must fall; try another machine before you pay for the large run"
    out = [("ok", "loss", text) if last < 0.9 * losses[0] else ("STOP", "loss", f"{text}; {fix}")]
    rate = statistics.median(line["tok_per_sec"] for line in steps[len(steps) // 2 :])
    peak, text = peak_flops(gpu), f"{rate:,.0f} tokens/s"
    if peak is None:
        return [*out, ("ok", "throughput", text)]
    expected = MFU_SMOKE * n * peak / plan.flops_per_token
    text += f" on {n} x {gpu}, {rate / expected:.0%} of the expected {expected:,.0f}"
    slow = f"{text}; this machine or its attention kernel is slow: see the findings above, or take another machine"
    level = "STOP" if plan.model.n_layer >= 12 else "warning"  # nobody knows what a smaller model should reach
    return [*out, ("ok", "throughput", text) if rate >= SLOW * expected else (level, "throughput", slow)]


def smoke(args: Preflight, sizes: RunSizes, corpus: str, gpu: str) -> dict:
    """Train a small model by the command of the large run; returns {"findings", "command", "took", "run"}."""
    n, name = sizes.devices, f"smoke-{args.profile}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    settings = {k: v for k, v in settings_from_text(args.set).items() if k != "ratio"}
    settings |= SMALL | {"depth": min(12, sizes.plan.model.n_layer)}
    if corpus.partition(":")[0] in SHARD_CORPORA:  # the later shards may still be on their way
        which, count = parse_shards(corpus)
        corpus = f"{which}:{min(download.FIRST, count or download.FIRST)}"
    argv = ["-m", "gpt2course.train", args.recipe, "--profile", args.profile, "--name", name, "--corpus", corpus]
    argv += ["--seed", str(args.seed), "--save-minutes", "1000", "--final-eval-bytes", "20000"]
    plan = resolve_run(args.recipe, args.profile, settings).plan
    rows = plan.batch_tokens // plan.model.sequence_len // n  # of a batch, on a rank
    argv += ["--device-batch", str(math.gcd(sizes.device_batch, rows))]  # no more memory than the large run's
    argv += ["--max-hours", str(TRAIN_HOURS), *["--fp8"] * args.fp8]
    argv += ["--set", *(f"{k}={v}" for k, v in settings.items())]
    if n > 1:
        argv = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", *argv]
    run, log, began = home() / "runs" / name, home() / "runs" / f"{name}.log", time.monotonic()
    print(f"small run: python {' '.join(argv)}\nits output: {log}", flush=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as f:
        streams = {"stdout": f, "stderr": subprocess.STDOUT, "preexec_fn": end_with_parent}
        code = subprocess.run([sys.executable, *argv], **streams).returncode
    if code == 0:
        findings = judge_run(read_metrics(run), plan, n, gpu)
    else:
        output = log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in output.splitlines() if line.strip()] or ["no output"]
        text = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1]).removeprefix("error: ")
        findings = [("STOP", "small run", f"training ended with exit code {code}: {text}; see {log}")]
    shutil.rmtree(run / "checkpoints", ignore_errors=True)  # gigabytes that nobody needs
    return {"findings": findings, "command": argv, "took": round(time.monotonic() - began, 1), "run": name}


# ---- all of it


def look_devices(sizes: RunSizes, profile: str) -> tuple[list[Finding], str]:
    """(findings about the GPUs and the memory, the name of the GPUs or "")."""
    if not torch.cuda.is_available():
        memory = judge_memory(sizes, psutil.virtual_memory().available, False)
        return [*judge_absent(profile, list(Path("/dev").glob("nvidia[0-9]*"))), memory], ""
    try:
        found = measure_in_child(sizes.plan.recipe.head_dim)
    except (RuntimeError, ValueError, subprocess.TimeoutExpired) as e:
        return [("STOP", "gpus", f"a test of the GPUs failed ({e}); restart the machine, or take another")], ""
    gpus = found["gpus"]
    memory = judge_memory(sizes, min(gpu["free"] for gpu in gpus[: sizes.devices]), True, each=found["bytes"])
    findings = judge_gpus(gpus, found["driver"], GPUS.get(profile, 1), sizes.devices)
    return [*findings, judge_attention(*found["attention"]), memory], gpus[0]["name"]


def preflight(args: Preflight) -> dict:
    """{"findings", "device", "torch"}, and with --smoke what `smoke` returns. Prints each finding."""
    findings, settings, profile = [], settings_from_text(args.set), args.profile

    def note(*new: Finding) -> None:
        findings.extend(new)
        print(*(f"{level:8} {what:11} {text}" for level, what, text in new), sep="\n", flush=True)

    gpus = torch.cuda.device_count()
    sizes = resolve_run(args.recipe, profile, settings, args.devices, args.device_batch, gpus)
    corpus = args.corpus or sizes.corpus
    note(("ok", "software", f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"))
    devices, gpu = look_devices(sizes, profile)
    note(*devices)
    data, to_come = look_data(corpus, sizes.plan, profile in GPUS and args.core)
    home().mkdir(parents=True, exist_ok=True)
    note(*data, judge_disk(sizes.plan, to_come, home(), shutil.disk_usage(home()).free))
    if gpu:
        note(*projection(sizes.plan, sizes.devices, gpu, to_come, args))
    elif profile in GPUS and not gpus:  # before the machine is rented
        there = resolve_run(args.recipe, profile, settings, GPUS[profile], args.device_batch)
        level, _, text = judge_memory(there, H100_FREE, True, "on an H100")
        note(*projection(there.plan, there.devices, "H100", to_come, args))
        note((level.replace("STOP", "warning"), "memory", text))
    result = {"findings": findings, "device": gpu or "cpu", "torch": torch.__version__}
    if args.smoke and not any(level == "STOP" for level, _, _ in findings):
        small = smoke(args, sizes, corpus, gpu)
        note(*small["findings"])
        result = small | result
    return result


def main(args: Preflight) -> None:
    began, result = time.monotonic(), preflight(args)
    if args.out:
        write_json(args.out, result)
    levels = [level for level, _, _ in result["findings"]]
    if stops := [what for level, what, _ in result["findings"] if level == "STOP"]:
        raise UserError(f"this machine is not ready for the run (STOP: {', '.join(stops)}); see the lines above")
    print(f"ready for the run: {levels.count('warning')} warnings, {duration(time.monotonic() - began)}")


if __name__ == "__main__":
    command(main)
