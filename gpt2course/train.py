"""The training loop. Lesson 04 builds it.

One run is one folder, `home()/runs/<name>/`: config.json, metrics.jsonl (one JSON object a line), log.txt, tokenizer/ and
checkpoints/. Start the same command again after a crash, a kill or Ctrl-C and it goes on from the newest good checkpoint.

On several GPUs: torchrun --standalone --nproc_per_node=8 -m gpt2course.train jan29 --profile 8xh100. The batches are the same on any
number of ranks, and so are checkpoints: what 8 ranks saved, 4 or 1 can go on with.
"""

import contextlib
import errno
import gc
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from safetensors import SafetensorError

import gpt2course
from gpt2course import checkpoint, fp8, ranks, shards
from gpt2course.attention import choose
from gpt2course.batches import Batches, Prefetch, merge_states, statistics
from gpt2course.cost import mfu, peak_flops
from gpt2course.data import describe, load_corpus
from gpt2course.evaluate import bits_per_byte, first_bytes
from gpt2course.files import RUN_NAME, RUN_NAME_ALLOWED, UserError, atomic_dir, atomic_file, command, home, read_json, shown, write_json
from gpt2course.losses import loss_backend
from gpt2course.model import cast_once
from gpt2course.power import Meter
from gpt2course.recipes import PROFILES, make_model, make_optimizer, resolve, settings_from_text
from gpt2course.shards import SHARD_CORPORA
from gpt2course.supervise import beat
from gpt2course.tokenizer import train_or_load

COLLECT_EVERY = 1000  # steps between collections of Python's garbage; in between none interrupts a step
SPEED_FROM = 11  # the first steps warm caches up: the leaderboard's clock leaves them out (nanochat 348fbb3)


@dataclass
class Train:
    """Train a model by a recipe, at a size that fits the machine.

    Example: python -m gpt2course.train jan29 --profile laptop --name first
    """

    recipe: tyro.conf.Positional[str] = "jan29"  # a recipe of the ladder: gpt2, modern, muon, windows, lambdas, jan29 or record
    profile: str = "laptop"  # sizes for a machine: laptop, 1gpu or 8xh100
    set: tuple[str, ...] = ()  # change any recipe setting, as name=value: --set depth=6 ratio=4 (`python -m gpt2course.recipes` lists them)
    name: str | None = None  # name of the run; default: <recipe>-d<depth>
    corpus: str | None = None  # embedded, or a path to parquet, jsonl or txt; default: the profile's
    seed: int = 42  # of the initial weights
    device: str = "auto"  # auto, cpu, cuda or mps
    dtype: str = "auto"  # of activations and embeddings: auto, float32 or bfloat16
    compile: bool | None = None  # torch.compile; default: on CUDA only
    attention: str = "auto"  # kernel: auto takes the fastest that the machine has; or sdpa, blocked, varlen, flex, fa2, fa3, fa4
    fp8: bool = False  # matrix products of the blocks in 8 bits, on an H100 and newer; evaluation stays in bfloat16
    device_batch: int | None = None  # rows of T tokens in one forward pass; default: the profile's, lowered to fit the batch
    streams: int = 8  # streams the documents are dealt to; part of what fixes the data order
    eval_every: int | None = None  # steps between evaluations of bpb; default: 8 in a run; the last step is always evaluated
    final_eval_bytes: int = 48_000_000  # validation text of the last evaluation at most: all of the embedded corpus, part of a real shard
    save_minutes: float = 10.0  # minutes of training between checkpoints; the last step is always saved, before it is evaluated
    save_every: int | None = None  # also every so many steps
    keep: int = 2  # newest checkpoints kept
    keep_best: bool = True  # save before each evaluation too, and keep the checkpoint of the lowest bpb
    log_seconds: float = 10.0  # seconds between printed lines
    price_per_hour: float | None = None  # of the machine, in dollars, to show the cost so far
    max_hours: float | None = None  # stop with a checkpoint when training has taken this long
    max_cost_usd: float | None = None  # the same for the cost; needs price_per_hour
    stop_after: int | None = None  # stop with a checkpoint after this step, to be resumed later
    fresh: bool = False  # start anew; an earlier run of the same name is moved aside, not deleted


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


def describe_machine(device: torch.device) -> dict:
    """What a result must say about where it was made."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    driver = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None
    return {
        "device": gpu.name if gpu else cpu_name(), "devices": 1, "type": device.type,
        "memory_bytes": gpu.total_memory if gpu else None, "driver": driver, "cpu_threads": torch.get_num_threads(), "system": platform.platform(terse=True),
        "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda, "gpt2course": gpt2course.__version__,
    }  # fmt: skip


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with "+" when files were changed; None outside a checkout."""
    git = ("git", "-C", str(Path(__file__).parent))
    commit = _first_line(*git, "rev-parse", "--short=12", "HEAD")
    return commit and commit + ("+" if _first_line(*git, "status", "--porcelain", "--untracked-files=no") else "")


class NoLog:
    """The log of every rank but the first."""

    def say(self, line: str) -> None: ...

    def write(self, **values) -> None: ...

    def flush(self) -> None: ...

    def rewind(self, step: int) -> None: ...


class Log:
    """metrics.jsonl for programs and one printed line for people, which also goes to log.txt."""

    def __init__(self, run: Path):
        self.metrics, self.text = run / "metrics.jsonl", run / "log.txt"

        self.unwritten = b""  # lines that a full disk refused; they go out with the next one

    def say(self, line: str) -> None:
        print(line, flush=True)
        with contextlib.suppress(OSError), open(self.text, "a", encoding="utf-8") as f:  # it has been printed
            f.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def write(self, **values) -> None:
        """Append one line, whole or not at all. What a full disk refuses is kept and written with a later line."""
        known, self.unwritten = bool(self.unwritten), self.unwritten + json.dumps(values, allow_nan=False).encode() + b"\n"
        try:
            self.flush()
        except OSError as e:
            if not known:
                self.say(f"warning: {self.metrics} cannot be written ({e.strerror}); its lines wait in memory until there is room")

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
        """Drop what was logged after the checkpoint of `step`, an evaluation at that very step included: a resumed run writes
        it again. A line cut by a crash is dropped too."""
        if self.metrics.exists():
            kept = []
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                try:
                    value = json.loads(line)
                    if value["step"] < step or value["step"] == step and value["kind"] in ("train", "checkpoint"):
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):
                    continue
            with atomic_file(self.metrics) as f:
                f.writelines(line + "\n" for line in kept)


def read_metrics(run) -> list[dict]:
    """Every whole line of a run's metrics.jsonl; a line that is just being written is left out."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if line]


def check(args: Train) -> None:
    """UserError for a flag that makes no sense, before any work is done."""

    def need(ok, name, allowed):
        if not ok:
            raise UserError(f"{name} = {getattr(args, name)!r} is not allowed; it must be {allowed}")

    need(0 <= args.seed < 2**63, "seed", f"a whole number from 0 to {2**63 - 1}")
    for name in ("streams", "eval_every", "save_every", "keep", "stop_after", "final_eval_bytes"):
        need(getattr(args, name) is None or getattr(args, name) >= 1, name, "a whole number from 1")
    for name in ("save_minutes", "max_hours", "max_cost_usd"):
        need(getattr(args, name) is None or getattr(args, name) > 0, name, "a number above 0")  # NaN is not
    for name in ("log_seconds", "price_per_hour"):
        need(getattr(args, name) is None or getattr(args, name) >= 0, name, "a number from 0")
    if args.max_cost_usd is not None and args.price_per_hour is None:
        raise UserError(f"max_cost_usd {args.max_cost_usd} needs --price-per-hour, the price of the machine in dollars")


def prepare(args: Train, world: int = 1):
    """(run folder, plan, corpus, tokenizer, config) of a run, new or to be resumed, everything checked before any work."""
    if args.profile not in PROFILES:
        raise UserError(f"profile {args.profile!r} does not exist; there are {', '.join(PROFILES)}")
    check(args)
    profile = dict(PROFILES[args.profile])
    corpus_name, device_batch = args.corpus or profile.pop("corpus"), profile.pop("device_batch")
    profile.pop("corpus", None)
    plan = resolve(args.recipe, **(profile | settings_from_text(args.set)))
    rows = plan.batch_tokens // plan.model.sequence_len
    if rows % world:
        fitting = ", ".join(str(w) for w in range(1, rows + 1) if rows % w == 0)
        raise UserError(f"{world} ranks cannot share the {rows} rows of a batch equally; the number of processes can be: {fitting}")
    rows //= world
    if args.device_batch is not None and (args.device_batch < 1 or rows % args.device_batch):
        fitting = ", ".join(str(b) for b in range(1, rows + 1) if rows % b == 0)
        raise UserError(f"device_batch = {args.device_batch} is not allowed; it must divide the {rows} rows of a batch{' on each rank' if world > 1 else ''}: {fitting}")
    device_batch = args.device_batch or max(b for b in range(1, min(device_batch, rows) + 1) if rows % b == 0)
    corpus = load_corpus(corpus_name)
    if corpus_name in SHARD_CORPORA:  # "climbmix:30", by number, is a choice
        shards.enough(corpus, plan.tokens)
    run = home() / "runs" / (args.name if args.name is not None else f"{args.recipe}-d{plan.model.n_layer}")
    if not re.fullmatch(RUN_NAME, run.name) or run.parent != home() / "runs":
        raise UserError(f"run name {shown(args.name)} is not allowed; it must be {RUN_NAME_ALLOWED}")
    if args.fresh and run.exists():
        with only_process(run):
            pass  # never move the folder of a run at work
        aside = next(p for i in range(1, 10**6) if not (p := run.with_name(f"{run.name}.old{i}")).exists())
        os.replace(run, aside)
        print(f"the earlier run was moved to {aside}")
    tokenizer = train_or_load(corpus, plan.model.vocab_size)
    device = checkpoint.pick_device(args.device)
    fixed = {  # what a resumed run must not change
        "plan": json.loads(json.dumps(plan.to_json())), "corpus": corpus_name, "documents": len(corpus.train), "val_name": corpus.val_name, "val_sha256": corpus.val_sha256,
        "tokenizer_sha256": tokenizer.sha256, "seed": args.seed, "streams": args.streams,
        "dtype": str(checkpoint.compute_dtypes(device, args.dtype)[0]).removeprefix("torch."), "device_batch": device_batch, "fp8": args.fp8,
    }  # fmt: skip
    command_line = ["python", "-m", "gpt2course.train", *sys.argv[1:]]
    config = fixed | {"corpus_notes": list(corpus.notes), "machine": describe_machine(device) | {"devices": world}, "commit": git_commit(), "command": command_line}
    if (run / "config.json").exists():
        old = read_json(run / "config.json", "run configuration")
        if old.get("machine", {}).get("devices", 1) != world:
            del fixed["device_batch"]  # the rows of a rank are others, so is what fits
        different = [k for k in fixed if old.get(k, False if k == "fp8" else None) != fixed[k]]
        if different:
            raise UserError(f"run {run.name!r} was begun with other settings ({', '.join(different)}); use another --name, or --fresh to start it anew")
    else:
        with atomic_dir(run / "tokenizer") as tmp:
            tokenizer.save(tmp)
        write_json(run / "config.json", config)
    return run, plan, corpus, tokenizer, config


@contextlib.contextmanager
def only_process(run: Path):
    """Hold the run's lock, which ends with the process however it ends. UserError where another process holds it."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with open(run / "lock", "a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            raise UserError(f"run {run.name!r} is being trained by process {f.read().strip() or '?'}; wait for it, or use another --name") from None
        f.truncate(0)
        f.write(f"{os.getpid()}\n")
        f.flush()
        yield


def best_step(run: Path) -> int | None:
    """The step of the checkpoint whose evaluation during training gave the lowest bpb; None before the first one."""
    have = {p.name for p in checkpoint.all_checkpoints(run)}
    evals = [m for m in read_metrics(run) if m["kind"] == "eval"]
    found = [(m["val_bpb"], m["step"]) for m in evals if m["val_bytes"] == evals[0]["val_bytes"] and f"step_{m['step']:08d}" in have]
    return min(found)[1] if found else None


class Stopped(Exception):
    """A signal came during an evaluation, or while text was waited for."""


def diverged(run: Path, step: int, loss: float | None, model, rows, documents, applied, split, good, team) -> UserError:
    """What to say when numbers are no longer finite: where that comes from, with the documents written to a file.

    The loss of `step` is not finite, or with loss None a parameter after it. rows (n, T + 1) are the batch of `step`, documents
    the indices of each row's documents; applied are those of the last batch that changed the weights.
    """
    weight = checkpoint.non_finite(dict(model.named_parameters()))
    with torch.no_grad():
        losses = [model(r[None, :-1], r[None, 1:], reduction="none").mean().item() for r in rows]
    shares = team.all((losses, documents, applied))  # rank by rank
    losses, documents, applied = ([x for share in shares for x in share[i]] for i in range(3))
    if not team.first:
        team.leave()
    bad = [i for i, x in enumerate(losses) if not math.isfinite(x)]
    if weight:
        what = f"parameter {weight} is not finite after step {step if loss is None else step - 1}"
        named = sorted({i for row in applied for i in row})
    else:
        what = f"the loss is {loss} at step {step}, from {len(bad)} of the batch's {len(losses)} rows"
        named = sorted({i for row in bad for i in documents[row]})
    path = run / f"non_finite_step_{step:08d}.json"
    write_json(path, {"step": step, "what": what, "row_losses": [str(x) for x in losses], "row_documents": documents,
                      "suspects": [{"document": i, "begins": split[i][:200]} for i in named]})  # fmt: skip
    listed = ", ".join(map(str, named[:8])) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
    return UserError(f"{what}; the training documents in question are {listed}: {path} quotes them. The last good checkpoint is {good}. "
                     "Look at the texts; if they are sound, start a new run with lower rates, for example --name calmer --set matrix_lr=0.01")  # fmt: skip


def graphs() -> int:
    """How many graphs torch.compile has made in this process; one more after the first step is a recompilation."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def duration(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    s = max(0, round(seconds))
    return f"{s // 3600}:{s // 60 % 60:02d}:{s % 60:02d}" if s >= 3600 else f"{s // 60}:{s % 60:02d}"


def train(args: Train) -> Path:
    """Run or resume training; returns the run's folder."""
    device = checkpoint.pick_device(args.device)
    team = ranks.join(device.type)
    if team.world > 1:  # one process makes the run's folder and trains the tokenizer, then all read them
        team.from_first(lambda: bool(prepare(args, team.world)))
        args = replace(args, fresh=False)
    run, plan, corpus, tokenizer, config = prepare(args, team.world)
    with only_process(run) if team.first else contextlib.nullcontext(), contextlib.ExitStack() as cleanup:
        return _train(args, run, plan, corpus, tokenizer, config, device, team, cleanup)


def _train(args: Train, run: Path, plan, corpus, tokenizer, config, device, team: ranks.Ranks, cleanup) -> Path:
    log = Log(run) if team.first else NoLog()
    if any(line["kind"] == "done" for line in read_metrics(run)):
        log.say(f"run {run.name} is finished already; --fresh starts it anew")
        return run
    on_gpu = device.type == "cuda"
    if device.type == "mps":
        log.say("note: results on MPS may differ from the CPU's, the reference")
    compute, embed = checkpoint.compute_dtypes(device, args.dtype)
    if on_gpu:
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    model = make_model(plan, device, compute, embed).init_weights(args.seed)
    compiled = args.compile if args.compile is not None else on_gpu
    optimizer = make_optimizer(model, plan, ns_dtype=compute, compile=compiled, ranks=team.pair)
    kernel, why = team.from_first(lambda: choose(args.attention, device, compute, plan.model.head_dim))  # one rank tries, and may download
    choose(kernel, device, compute, plan.model.head_dim)
    T, rows = plan.model.sequence_len, plan.batch_tokens // plan.model.sequence_len // team.world  # of this rank
    device_batch = config["device_batch"]
    loader = Batches(corpus.train, tokenizer, T, streams=args.streams, rank=team.rank, world=team.world)
    step, losses = 0, []  # losses: of the steps since the last line of the metrics
    clock, late_clock = 0.0, 0.0  # clock: training seconds; late_clock: the same without the first SPEED_FROM steps

    cleanup.callback(torch.set_rng_state, torch.get_rng_state())  # the caller's random numbers go on as if nothing had been
    torch.manual_seed(args.seed)  # no part of the recipes draws from it; a layer that you add may (dropout)
    good = team.from_first(lambda: checkpoint.newest(run, log.say))  # the last checkpoint that can be trusted: (folder, state)
    saved = good[1]["step"] if good else None  # the step of the last one that was taken, which may still be on its way to the disk
    writing = None  # that one: (future, where the run was, seconds that it held the run up)
    writer = cleanup.enter_context(ThreadPoolExecutor(1, "checkpoint"))
    if good:
        folder, state = good
        checkpoint.load(folder, model, optimizer)
        loader.load_state_dict(state["loader"])
        step, clock, late_clock, losses = state["step"], state["clock"], state["late_clock"], list(state.get("losses", []))
        log.say(f"resumed from {folder.name}")
    if team.first:
        checkpoint.tidy(run, step, log.say)
    log.rewind(step)
    eight = fp8.convert(model) if args.fp8 else None  # after the weights are there: it casts them
    if compiled and hasattr(model, "rope"):
        model.rope(T, device)  # made beforehand, since a table that appears in the first step is a second graph
    forward = torch.compile(model, dynamic=False) if compiled else model

    peak = peak_flops(config["machine"]["device"]) if on_gpu else None
    meter = Meter([str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]) if on_gpu and team.first else None
    eval_documents = first_bytes(corpus.val, plan.recipe.eval_bytes)
    eval_every = args.eval_every or max(1, math.ceil(plan.steps / 8))
    for line in describe(corpus):
        log.say(line)
    n = plan.params
    log.say(f"run {run.name}: recipe {plan.recipe.name}, depth {plan.model.n_layer}, width {plan.model.n_embd}, T {T}, vocabulary {plan.model.vocab_size}; "
            f"{n['total']:,} parameters, {n['scaling']:,} of them scaling")  # fmt: skip
    each = f" on each of {team.world} ranks" if team.world > 1 else ""
    log.say(f"{plan.steps:,} steps of {plan.batch_tokens:,} tokens = {plan.tokens:,} tokens, {plan.flops:.3g} FLOPs; {rows // device_batch} micro-batches a step{each}; "
            f"{config['machine']['device']}, {config['dtype']}{f', fp8 in {len(eight.linears)} layers' if eight else ''}")  # fmt: skip
    log.say(f"attention by {kernel}: {why}; loss by {loss_backend(device.type, compute)}")

    stop_signal = []

    def on_signal(number, _frame):
        if stop_signal and number == signal.SIGINT:  # Ctrl-C a second time: at once; the last checkpoint stands
            raise KeyboardInterrupt
        stop_signal.append(number)

    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        for s in (signal.SIGTERM, signal.SIGINT):
            cleanup.callback(signal.signal, s, signal.signal(s, on_signal))

    def progress():
        """What every line of the metrics carries."""
        return dict(step=step, tokens=step * plan.batch_tokens, flops=step * plan.batch_tokens * plan.flops_per_token, seconds=round(clock, 3))

    def written() -> str | None:
        """Wait for the checkpoint that is being written, if there is one; returns what went wrong with it."""
        nonlocal good, writing, last_save
        if writing is None:
            return None
        (future, at, held), writing = writing, None
        try:
            folder, state, took = future.result()
        except (OSError, SafetensorError) as e:
            last_save = time.perf_counter() - max(0.0, args.save_minutes * 60 - 60)
            last = f"the last good one is {good[0]}" if good else "there is none yet"
            return f"the checkpoint of step {at['step']} could not be saved ({e}); {last}. Make room in {run}"
        good = folder, state
        log.write(kind="checkpoint", **at, path=str(folder.relative_to(run)), took=round(held, 3), written=round(took, 3))
        checkpoint.prune(run, args.keep, best_step(run) if args.keep_best else None)
        return None

    def last_good() -> str:
        written()
        return good[0].name if good else "none"

    def warn(problem: str | None) -> None:
        if problem:
            log.say(f"warning: {problem}; training goes on and tries again in a minute")

    def save(must: bool) -> None:
        """Take a checkpoint, unless this step has one. It is written beside the next steps, or waited for if it `must` be there.

        A full disk costs nothing but this checkpoint; UserError only if it must be.
        """
        nonlocal saved, writing, last_save
        if saved == step and not must:
            return
        problem = team.from_first(written)  # of the one before; two at a time would take twice the memory
        if saved != step or problem:
            warn(problem)
            beat("checkpoint")
            began = time.perf_counter()
            optimizer_state, loaders = optimizer.state_dict(), team.all(loader_state)
            if step and checkpoint.non_finite(dict(model.named_parameters())):
                raise diverged(run, step, None, model, batch, documents, documents, corpus.train, last_good(), team)
            saved, last_save, problem = step, time.perf_counter(), None
            if team.first:
                state = {"loader": merge_states(loaders), "losses": window["loss"], "clock": clock, "late_clock": late_clock, "tokens": step * plan.batch_tokens}
                taken = checkpoint.snapshot(step, model, optimizer_state, state)

                def write():
                    t0 = time.perf_counter()
                    return checkpoint.write(run, taken), taken[checkpoint.STATE], time.perf_counter() - t0

                try:
                    log.flush()  # a checkpoint vouches for the metrics up to its step
                    future = writer.submit(write)
                except OSError as e:
                    future = Future()
                    future.set_exception(e)
                writing = future, progress(), time.perf_counter() - began
        if must:
            problem = team.from_first(written)
        if must and problem:
            raise UserError(f"{problem}, then give the same command again: it goes on from there")

    def stop_if_asked():
        if stop_signal and team.world == 1:  # several ranks would not stop at the same moment; they stop after the next step
            raise Stopped

    def evaluate(documents, final):
        def check(_done, _total):
            beat("evaluation")
            stop_if_asked()

        beat("evaluation")
        began = time.perf_counter()
        with eight.off() if eight else contextlib.nullcontext():
            bpb, size = bits_per_byte(model, documents, tokenizer, T, max(1, min(device_batch, 64)), check, team)
        log.write(kind="eval", **progress(), val_bpb=bpb, val_bytes=size, final=final, took=round(time.perf_counter() - began, 3))
        log.say(f"step {step}/{plan.steps}  val bpb {bpb:.4f} on {size:,} bytes{' (all of it)' if len(documents) == len(corpus.val) else ''}")
        if team.first:
            checkpoint.prune(run, args.keep, best_step(run) if args.keep_best else None)

    def sync():
        if on_gpu:
            torch.cuda.synchronize()

    loader_state = loader.state_dict()  # from here on what comes with each batch: the thread runs ahead
    feed = Prefetch(loader, rows, device)
    cleanup.callback(feed.close)
    cleanup.callback(gc.unfreeze)
    if gc.isenabled():
        cleanup.callback(gc.enable)
    done_here, compilations = 0, graphs()  # steps of this process
    window = {"loss": losses, "steps": 0, "data": 0.0, "forward_backward": 0.0, "own": 0.0, "optimizer": 0.0, "seconds": 0.0}
    last_print = last_save = time.perf_counter()
    log_every = max(1, plan.steps // 500) if not on_gpu else max(1, plan.steps // 2000)
    reason, batch, documents = None, [], []
    try:
        while step < plan.steps:
            if step % eval_every == 0 and step > 0:
                if args.keep_best:  # before the evaluation: nothing that fails in it can cost the weights
                    save(must=False)
                evaluate(eval_documents, final=False)
            lr, momentum, decay = plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step)
            beat("step" if done_here else "first step")
            t0 = time.perf_counter()
            before = documents
            batch, loader_state, documents = feed.next(stop_if_asked)  # (rows, T + 1)
            t1 = time.perf_counter()
            loss = 0.0
            with cast_once(model, compute):
                for piece in batch.split(device_batch):
                    part = forward(piece[:, :-1].contiguous(), piece[:, 1:].contiguous()) / (rows // device_batch * team.world)
                    part.backward()
                    loss = loss + part.detach()
            loss = loss.item()  # waits for the device
            own = time.perf_counter() - t1
            (loss,) = team.reduce(loss)  # waits for the other ranks
            t2 = time.perf_counter()
            if not math.isfinite(loss):  # before the weights take it in
                raise diverged(run, step + 1, loss, model, batch, documents, before, corpus.train, last_good(), team)
            optimizer.step(lr, momentum, decay)
            optimizer.zero_grad()
            if eight:
                eight.refresh()
            sync()
            t3 = time.perf_counter()
            step += 1
            done_here += 1
            if done_here == 1 or done_here % COLLECT_EVERY == 0:  # what is alive now stays, and need not be looked through again
                gc.collect()
                gc.freeze()
                gc.disable()
            if compiled and (now := graphs()) != compilations:
                log.say(f"torch.compile: {now - compilations} graphs in step {step}, which took {duration(t3 - t0)}"
                        + ("" if done_here == 1 else "; shapes should not change after the first step"))  # fmt: skip
                compilations = now
            clock += t3 - t0
            late_clock += t3 - t0 if step > SPEED_FROM else 0.0
            window["loss"].append(loss)
            window["steps"] += 1
            for key, seconds in (("data", t1 - t0), ("forward_backward", t2 - t1), ("own", own), ("optimizer", t3 - t2), ("seconds", t3 - t0)):
                window[key] += seconds
            cost = clock / 3600 * args.price_per_hour if args.price_per_hour is not None else None
            if step % log_every == 0 or step == plan.steps:
                k = window["steps"]  # of this process
                speed = k * plan.batch_tokens / window["seconds"]
                left = (plan.steps - step) * window["seconds"] / k
                line = dict(kind="train", **progress(), loss=float(np.mean(window["loss"])), lr=lr, muon_momentum=momentum, weight_decay=decay,
                            tok_per_sec=round(speed, 1), mfu=mfu(plan.flops_per_token, speed, team.world, peak) if peak else None, eta_seconds=round(left, 1),
                            usd=cost, time={k_: round(window[k_] / k, 5) for k_ in ("data", "forward_backward", "optimizer")})  # fmt: skip
                if team.world > 1:  # before they waited for each other: which GPU is slow
                    line["rank_seconds"] = team.all(round(window["own"] / k, 5))
                if meter and (watts := meter.watts()) is not None:
                    line["power_w"] = round(watts, 1)  # of all GPUs of this machine
                log.write(**line)
                if time.perf_counter() - last_print >= args.log_seconds or step in (1, plan.steps):
                    extra = (f"  mfu {line['mfu']:.1%}" if peak else "") + (f"  ${cost:.2f} so far" if cost is not None else "")
                    log.say(f"step {step}/{plan.steps}  loss {line['loss']:.4f}  lr x{lr:.2f}  {speed:,.0f} tokens/s{extra}  left {duration(left)}")
                    last_print = time.perf_counter()
                window = {key: [] if key == "loss" else 0 for key in window}
            over = args.max_hours is not None and clock >= args.max_hours * 3600, args.max_cost_usd is not None and cost >= args.max_cost_usd
            due = time.perf_counter() - last_save >= args.save_minutes * 60 or bool(args.save_every and step % args.save_every == 0)
            number, hours, dollars, due = team.reduce(stop_signal[0] if stop_signal else 0, *over, due, how="max")  # one rank's word is all ranks'
            if number:
                reason = f"signal {signal.Signals(int(number)).name}"
            elif args.stop_after is not None and step >= args.stop_after:
                reason = f"stop_after {args.stop_after}"
            elif hours:
                reason = f"max_hours {args.max_hours:g}"
            elif dollars:
                reason = f"max_cost_usd {args.max_cost_usd:g}"
            if writing and writing[0].done():
                warn(written())
            if (due or reason) and step < plan.steps:
                save(must=reason is not None)
            if reason and step < plan.steps:
                log.say(f"stopped at step {step} by {reason}; a checkpoint is saved, the same command goes on")
                return run
        feed.close()
        save(must=True)  # before the evaluation, again
        final_documents = first_bytes(corpus.val, max(args.final_eval_bytes, plan.recipe.eval_bytes))
        if len(eval_documents) < len(final_documents):
            evaluate(eval_documents, final=False)  # the last point of the curve, on the same text as the others
        evaluate(final_documents, final=True)
    except Stopped:
        reason = signal.Signals(stop_signal[0]).name
        save(must=True)
        log.say(f"stopped at step {step} by signal {reason}; a checkpoint is saved, the same command goes on")
        return run
    seen = statistics(merge_states(team.all(loader_state)))
    log.write(kind="done", **progress(), leaderboard_seconds=round(late_clock, 3), epochs=round(seen["epoch"], 4),
              **({"peak_memory_bytes": torch.cuda.max_memory_allocated(device)} if on_gpu else {}))  # fmt: skip
    log.say(f"read {seen['documents']:,} documents; {seen['cropped_share']:.1%} of their tokens were cropped, {seen['skipped']:,} were empty")
    for line in corpus.train.notes():
        log.say(f"note: training: {line}")
    log.say(f"trained in {duration(clock)} at {plan.tokens / clock:,.0f} tokens/s; the run is in {run}")
    return run


def main(args: Train) -> None:
    try:
        train(args)
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except UserError:
        ranks.part()
        raise
    ranks.part()


if __name__ == "__main__":
    command(main)
