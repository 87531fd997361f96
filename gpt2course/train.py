"""The training loop. Lesson 04 builds it.

One run is one folder, `home()/runs/<name>/`: config.json, metrics.jsonl (one JSON object a line), log.txt, tokenizer/
and checkpoints/. Start the same command again after a crash, a kill or Ctrl-C and it goes on from the newest good
checkpoint.

On several GPUs: torchrun --standalone --nproc_per_node=8 -m gpt2course.train jan29 --profile 8xh100. The batches are
the same on any number of ranks, and so are checkpoints: what 8 ranks saved, 4 or 1 can go on with.
"""

import contextlib
import gc
import json
import math
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from gpt2course import checkpoint, ranks
from gpt2course.fast import fp8
from gpt2course.ops import shards
from gpt2course.fast.kernels import choose, choose_loss
from gpt2course.batches import Batches, Prefetch, merge_states, statistics
from gpt2course.cost import mfu, peak_flops
from gpt2course.data import describe, load_corpus
from gpt2course.evaluate import bits_per_byte, first_bytes
from gpt2course.files import (
    RUN_NAME,
    RUN_NAME_ALLOWED,
    UserError,
    atomic_dir,
    command,
    home,
    read_json,
    shown,
    write_json,
)
from gpt2course.files import duration
from gpt2course.recipes import PROFILES, Plan, make_model, make_optimizer, resolve, settings_from_text
from gpt2course.runlog import Log, NoLog, describe_machine, git_commit, read_metrics
from gpt2course.ops.shards import SHARD_CORPORA
from gpt2course.ops.supervise import beat
from gpt2course.tokenizer import train_or_load

COLLECT_EVERY = 1000  # steps between collections of Python's garbage; in between none interrupts a step
SPEED_FROM = 11  # the first steps warm caches up: the leaderboard's clock leaves them out (nanochat 348fbb3)


@dataclass
class Train:
    """Train a model by a recipe, at a size that fits the machine.

    Example: python -m gpt2course.train jan29 --profile laptop --name first
    """

    recipe: tyro.conf.Positional[str] = "jan29"  # of the ladder: gpt2, modern, muon, windows, lambdas, jan29 or record
    profile: str = "laptop"  # sizes for a machine: laptop, 1gpu or 8xh100
    set: tuple[str, ...] = ()  # settings of the recipe, as depth=6 ratio=4; `python -m gpt2course.recipes` lists them
    name: str | None = None  # name of the run; default: <recipe>-d<depth>
    corpus: str | None = None  # embedded, or a path to parquet, jsonl or txt; default: the profile's
    seed: int = 42  # of the initial weights
    device: str = "auto"  # auto, cpu, cuda or mps
    dtype: str = "auto"  # of activations and embeddings: auto, float32 or bfloat16
    compile: bool | None = None  # torch.compile; default: on CUDA only
    attention: str = "auto"  # kernel: the fastest that the machine has; or sdpa, blocked, varlen, flex, fa2, fa3, fa4
    fp8: bool = False  # matrix products of the blocks in 8 bits, on an H100 and newer; evaluation stays in bfloat16
    device_batch: int | None = None  # rows of T tokens in one forward pass; default: the profile's, fitted to the batch
    streams: int = 8  # streams the documents are dealt to; part of what fixes the data order
    eval_every: int | None = None  # steps between evaluations of bpb; default: 8 in a run; the last step always has one
    final_eval_bytes: int = 48_000_000  # validation text of the last evaluation at most: part of a real shard
    save_minutes: float = 10.0  # minutes between checkpoints; the last step is always saved, before it is evaluated
    save_every: int | None = None  # also every so many steps
    keep: int = 2  # newest checkpoints kept
    keep_best: bool = True  # save before each evaluation too, and keep the checkpoint of the lowest bpb
    log_seconds: float = 10.0  # seconds between printed lines
    price_per_hour: float | None = None  # of the machine, in dollars, to show the cost so far
    max_hours: float | None = None  # stop with a checkpoint when training has taken this long
    max_cost_usd: float | None = None  # the same for the cost; needs price_per_hour
    stop_after: int | None = None  # stop with a checkpoint after this step, to be resumed later
    fresh: bool = False  # start anew; an earlier run of the same name is moved aside, not deleted


# ---- before any work is done


def check(args: Train) -> None:
    """UserError for a flag that makes no sense."""

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


def share_batch(plan: Plan, world: int, asked: int | None, most: int) -> int:
    """The device batch: rows of one forward pass on each of `world` ranks. asked: by the user; most: by the profile."""
    rows = plan.batch_tokens // plan.model.sequence_len
    if rows % world:
        fitting = ", ".join(str(w) for w in range(1, rows + 1) if rows % w == 0)
        raise UserError(
            f"{world} ranks cannot share the {rows} rows of a batch equally; the number of processes can be: {fitting}"
        )
    rows //= world
    fitting = [b for b in range(1, rows + 1) if rows % b == 0]
    if asked is not None and asked not in fitting:
        where = f"the {rows} rows of a batch{' on each rank' if world > 1 else ''}"
        raise UserError(
            f"device_batch = {asked} is not allowed; it must divide {where}: {', '.join(map(str, fitting))}"
        )
    return asked or max(b for b in fitting if b <= most)


def begin_anew(run: Path) -> None:
    """Move an earlier run of this name aside, unless it is at work."""
    with only_process(run):
        pass
    aside = next(p for i in range(1, 10**6) if not (p := run.with_name(f"{run.name}.old{i}")).exists())
    os.replace(run, aside)
    print(f"the earlier run was moved to {aside}")


def prepare(args: Train, world: int = 1):
    """(run folder, plan, corpus, tokenizer, config) of a run, new or to be resumed; all is checked before any work."""
    if args.profile not in PROFILES:
        raise UserError(f"profile {args.profile!r} does not exist; there are {', '.join(PROFILES)}")
    check(args)
    sizes = dict(PROFILES[args.profile])
    default_corpus, most = sizes.pop("corpus"), sizes.pop("device_batch")
    plan = resolve(args.recipe, **(sizes | settings_from_text(args.set)))
    device_batch = share_batch(plan, world, args.device_batch, most)
    corpus_name = args.corpus or default_corpus
    corpus = load_corpus(corpus_name)
    if corpus_name in SHARD_CORPORA:  # "climbmix:30", by number, is a choice
        shards.enough(corpus, plan.tokens)
    run = home() / "runs" / (args.name if args.name is not None else f"{args.recipe}-d{plan.model.n_layer}")
    if not re.fullmatch(RUN_NAME, run.name) or run.parent != home() / "runs":
        raise UserError(f"run name {shown(args.name)} is not allowed; it must be {RUN_NAME_ALLOWED}")
    if args.fresh and run.exists():
        begin_anew(run)
    tokenizer = train_or_load(corpus, plan.model.vocab_size)
    device = checkpoint.pick_device(args.device)
    fixed = {  # what a resumed run must not change
        "plan": json.loads(json.dumps(plan.to_json())),
        "corpus": corpus_name,
        "documents": len(corpus.train),
        "val_name": corpus.val_name,
        "val_sha256": corpus.val_sha256,
        "tokenizer_sha256": tokenizer.sha256,
        "seed": args.seed,
        "streams": args.streams,
        "dtype": str(checkpoint.compute_dtypes(device, args.dtype)[0]).removeprefix("torch."),
        "device_batch": device_batch,
        "fp8": args.fp8,
    }
    config = fixed | {
        "corpus_notes": list(corpus.notes),
        "machine": describe_machine(device) | {"devices": world},
        "commit": git_commit(),
        "command": ["python", "-m", "gpt2course.train", *sys.argv[1:]],
    }
    if (run / "config.json").exists():
        old = {"fp8": False} | read_json(run / "config.json", "run configuration")
        if old.get("machine", {}).get("devices", 1) != world:
            del fixed["device_batch"]  # the rows of a rank are others, so is what fits
        if different := [k for k in fixed if old.get(k) != fixed[k]]:
            why = f"run {run.name!r} was begun with other settings ({', '.join(different)})"
            raise UserError(f"{why}; use another --name, or --fresh to start it anew")
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
            who = f"run {run.name!r} is being trained by process {f.read().strip() or '?'}"
            raise UserError(f"{who}; wait for it, or use another --name") from None
        f.truncate(0)
        f.write(f"{os.getpid()}\n")
        f.flush()
        yield


# ---- the run


class Stopped(Exception):
    """A signal came during an evaluation, or while text was waited for."""


def graphs() -> int:
    """How many graphs torch.compile has made in this process; one more after the first step is a recompilation."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def train(args: Train) -> Path:
    """Run or resume training; returns the run's folder."""
    device = checkpoint.pick_device(args.device)
    team = ranks.join(device.type)
    if team.world > 1:  # one process makes the run's folder and trains the tokenizer, then all read them
        team.from_first(lambda: bool(prepare(args, team.world)))
        args = replace(args, fresh=False)
    run, *rest = prepare(args, team.world)
    log = Log(run) if team.first else NoLog()
    with only_process(run) if team.first else contextlib.nullcontext(), contextlib.ExitStack() as cleanup:
        if any(line["kind"] == "done" for line in read_metrics(run)):
            log.say(f"run {run.name} is finished already; --fresh starts it anew")
        else:
            Trainer(args, run, *rest, device, team, log, cleanup).train()
    return run


class Trainer:
    """A run at work on one rank: what it holds, and what it does. `cleanup` undoes its changes to the process."""

    def __init__(self, args: Train, run: Path, plan: Plan, corpus, tokenizer, config, device, team, log, cleanup):
        self.args, self.run, self.plan, self.config = args, run, plan, config
        self.corpus, self.tokenizer = corpus, tokenizer
        self.device, self.team, self.log, self.cleanup = device, team, log, cleanup
        self.on_gpu = device.type == "cuda"
        self.T = plan.model.sequence_len
        self.rows = plan.batch_tokens // self.T // team.world  # of a batch, on this rank
        self.device_batch = config["device_batch"]
        self.step, self.done_here = 0, 0  # steps of the run, and of this process
        self.clock, self.late_clock = 0.0, 0.0  # seconds of training; the same without the first SPEED_FROM steps
        self.batch, self.documents = None, []  # (rows, T + 1) of the last step, and the documents in each row
        self.signals = []  # those that came

        self.make_model()
        self.resume()
        self.make_fast()
        self.eval_documents = first_bytes(corpus.val, plan.recipe.eval_bytes)
        self.eval_every = args.eval_every or max(1, math.ceil(plan.steps / 8))
        self.log_every = max(1, plan.steps // (2000 if self.on_gpu else 500))
        self.introduce()
        self.listen()
        self.feed = Prefetch(self.loader, self.rows, device)
        cleanup.callback(self.feed.close)
        self.last_print = self.last_save = time.perf_counter()

    # ---- setting up

    def make_model(self) -> None:
        """Model, optimizer, batches, from the plan and the seed."""
        args, plan, device, team = self.args, self.plan, self.device, self.team
        if device.type == "mps":
            self.log.say("note: results on MPS may differ from the CPU's, the reference")
        self.compute, embed = checkpoint.compute_dtypes(device, args.dtype)
        if self.on_gpu:
            torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
        self.compiled = args.compile if args.compile is not None else self.on_gpu
        self.model = make_model(plan, device, self.compute, embed).init_weights(args.seed)
        self.optimizer = make_optimizer(self.model, plan, ns_dtype=self.compute, compile=self.compiled, ranks=team.pair)
        kernel = (device, self.compute, plan.model.head_dim)
        self.kernel, self.why = team.from_first(lambda: choose(args.attention, *kernel))  # one rank tries, may download
        choose(self.kernel, *kernel)
        self.loss_by = choose_loss(self.device, self.compute)
        self.loader = Batches(
            self.corpus.train, self.tokenizer, self.T, streams=args.streams, rank=team.rank, world=team.world
        )
        self.cleanup.callback(torch.set_rng_state, torch.get_rng_state())  # the caller's random numbers go on as before
        torch.manual_seed(args.seed)  # no part of the recipes draws from it; a layer that you add may (dropout)

    def resume(self) -> None:
        """Go on from the newest good checkpoint, if there is one."""
        good, losses = self.team.from_first(lambda: checkpoint.newest(self.run, self.log.say)), []
        if good:
            folder, state = good
            checkpoint.load(folder, self.model, self.optimizer)
            self.loader.load_state_dict(state["loader"])
            self.step, self.clock, self.late_clock = state["step"], state["clock"], state["late_clock"]
            losses = list(state.get("losses", []))
            self.log.say(f"resumed from {folder.name}")
        self.saved = self.step if good else None  # of the last checkpoint taken, which may be on its way to the disk
        self.loader_state = self.loader.state_dict()  # from here on it comes with each batch: its thread runs ahead
        self.new_window(losses)
        if self.team.first:
            checkpoint.tidy(self.run, self.step, self.log.say)
            keep = (self.args.keep, self.args.keep_best)
            self.keeper = checkpoint.Keeper(self.run, self.log, *keep, good)
            self.cleanup.callback(self.keeper.close)
        self.log.rewind(self.step)

    def make_fast(self) -> None:
        """fp8 and torch.compile, after the weights are there; and what measures the speed."""
        self.eight = fp8.convert(self.model) if self.args.fp8 else None  # casts the weights
        if self.compiled and hasattr(self.model, "rope"):
            self.model.rope(self.T, self.device)  # a table that appears in the first step is a second graph
        self.forward = torch.compile(self.model, dynamic=False) if self.compiled else self.model
        self.graphs = graphs()
        self.peak = None
        if self.on_gpu:
            self.peak = peak_flops(self.config["machine"]["device"])
        self.cleanup.callback(gc.unfreeze)
        if gc.isenabled():
            self.cleanup.callback(gc.enable)

    def introduce(self) -> None:
        """Say what is trained, on what, and by which kernels."""
        plan, model, n, say = self.plan, self.plan.model, self.plan.params, self.log.say
        for line in describe(self.corpus):
            say(line)
        what = f"recipe {plan.recipe.name}, depth {model.n_layer}, width {model.n_embd}, T {self.T}"
        size = f"{n['total']:,} parameters, {n['scaling']:,} of them scaling"
        say(f"run {self.run.name}: {what}, vocabulary {model.vocab_size}; {size}")
        work = f"{plan.steps:,} steps of {plan.batch_tokens:,} tokens = {plan.tokens:,} tokens, {plan.flops:.3g} FLOPs"
        each = f" on each of {self.team.world} ranks" if self.team.world > 1 else ""
        where = f"{self.config['machine']['device']}, {self.config['dtype']}"
        eight = f", fp8 in {len(self.eight.linears)} layers" if self.eight else ""
        say(f"{work}; {self.rows // self.device_batch} micro-batches a step{each}; {where}{eight}")
        say(f"attention by {self.kernel}: {self.why}; loss by {self.loss_by}")

    def listen(self) -> None:
        """From here on SIGTERM and Ctrl-C are requests to save and stop; Ctrl-C a second time stops at once."""

        def on_signal(number, _frame):
            if self.signals and number == signal.SIGINT:  # the last checkpoint stands
                raise KeyboardInterrupt
            self.signals.append(number)

        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for s in (signal.SIGTERM, signal.SIGINT):
                self.cleanup.callback(signal.signal, s, signal.signal(s, on_signal))

    def stop_if_asked(self) -> None:
        if self.signals and self.team.world == 1:  # several ranks stop after a step, when all have heard of it
            raise Stopped

    # ---- the loop

    def train(self) -> None:
        """All steps from here on, the last evaluation, the last lines; or until something asks it to stop."""
        try:
            reason = self.loop()
            if reason is None:
                self.feed.close()
                self.save(must=True)  # before the evaluation, again
                self.evaluate_at_the_end()
                self.conclude()
        except Stopped:
            reason = f"signal {signal.Signals(self.signals[0]).name}"
            self.save(must=True)
        if reason:
            self.log.say(f"stopped at step {self.step} by {reason}; a checkpoint is saved, the same command goes on")

    def loop(self) -> str | None:
        """Step by step to the last one; returns why it stopped before, None if it did not."""
        args, plan = self.args, self.plan
        while self.step < plan.steps:
            if self.step and self.step % self.eval_every == 0:
                if args.keep_best:  # before the evaluation: nothing that fails in it can cost the weights
                    self.save(must=False)
                self.evaluate(self.eval_documents, final=False)
            self.take_step()
            self.look_after_python()
            if self.step % self.log_every == 0 or self.step == plan.steps:
                self.tell()
            reason, due = self.asked()
            if self.team.first and self.keeper.ready:
                self.warn(self.finish_save())
            if (due or reason) and self.step < plan.steps:
                self.save(must=reason is not None)
            if reason and self.step < plan.steps:
                return reason
        return None

    def take_step(self) -> None:
        """One step: a batch, its loss and gradients, new weights; and how long each part took."""
        plan, step = self.plan, self.step
        beat("step" if self.done_here else "first step")
        t0 = time.perf_counter()
        before = self.documents
        self.batch, self.loader_state, self.documents = self.feed.next(self.stop_if_asked)  # (rows, T + 1)
        t1 = time.perf_counter()
        loss = self.forward_backward(self.batch)
        own = time.perf_counter() - t1
        (loss,) = self.team.reduce(loss)  # waits for the other ranks
        t2 = time.perf_counter()
        if not math.isfinite(loss):  # before the weights take it in
            raise self.diverged(step + 1, loss, before)
        self.optimizer.step(plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
        self.optimizer.zero_grad()
        if self.eight:
            self.eight.refresh()
        if self.on_gpu:
            torch.cuda.synchronize()
        t3 = time.perf_counter()
        self.step += 1
        self.done_here += 1
        self.step_seconds = t3 - t0
        self.clock += self.step_seconds
        self.late_clock += self.step_seconds if self.step > SPEED_FROM else 0.0
        self.window["loss"].append(loss)
        for part, seconds in (("data", t1 - t0), ("forward_backward", t2 - t1), ("own", own), ("optimizer", t3 - t2)):
            self.window[part] += seconds

    def forward_backward(self, batch: torch.Tensor) -> float:
        """Adds the gradients of the batch's mean loss to the parameters; returns this rank's share of the loss.

        batch: (rows, T + 1), taken device_batch rows at a time: the gradients of pieces add up to those of the whole.
        """
        pieces = batch.split(self.device_batch)
        loss = 0.0
        for piece in pieces:  # (device_batch, T + 1)
            inputs, targets = piece[:, :-1].contiguous(), piece[:, 1:].contiguous()
            part = self.forward(inputs, targets) / (len(pieces) * self.team.world)
            part.backward()
            loss = loss + part.detach()
        return loss.item()  # waits for the device

    def look_after_python(self) -> None:
        """No garbage collection inside a step, and a word about every graph that torch.compile has made."""
        if self.done_here == 1 or self.done_here % COLLECT_EVERY == 0:
            gc.collect()
            gc.freeze()  # what is alive now stays, and need not be looked through again
            gc.disable()
        if self.compiled and (now := graphs()) != self.graphs:
            rest = "" if self.done_here == 1 else "; shapes should not change after the first step"
            took = f"which took {duration(self.step_seconds)}"
            self.log.say(f"torch.compile: {now - self.graphs} graphs in step {self.step}, {took}{rest}")
            self.graphs = now

    def asked(self) -> tuple[str | None, bool]:
        """(why training is to stop, whether a checkpoint is due): one rank's word is all ranks'."""
        args, hours = self.args, self.clock / 3600
        due = time.perf_counter() - self.last_save >= args.save_minutes * 60
        due = due or bool(args.save_every and self.step % args.save_every == 0)
        late = args.max_hours is not None and hours >= args.max_hours
        dear = args.max_cost_usd is not None and hours * args.price_per_hour >= args.max_cost_usd
        number, late, dear, due = self.team.reduce(self.signals[0] if self.signals else 0, late, dear, due, how="max")
        if number:
            return f"signal {signal.Signals(int(number)).name}", bool(due)
        if args.stop_after is not None and self.step >= args.stop_after:
            return f"stop_after {args.stop_after}", bool(due)
        if late:
            return f"max_hours {args.max_hours:g}", bool(due)
        return f"max_cost_usd {args.max_cost_usd:g}" if dear else None, bool(due)

    # ---- what is said

    def new_window(self, losses=()) -> None:
        """Begin to collect for the next line: the losses of its steps, and seconds of this process's steps by part."""
        self.window = {"loss": list(losses), "data": 0.0, "forward_backward": 0.0, "own": 0.0, "optimizer": 0.0}
        self.window_from = self.done_here

    def progress(self) -> dict:
        """What every line of the metrics carries."""
        tokens = self.step * self.plan.batch_tokens
        flops = tokens * self.plan.flops_per_token
        return {"step": self.step, "tokens": tokens, "flops": flops, "seconds": round(self.clock, 3)}

    def tell(self) -> None:
        """A line of the metrics about the steps since the last one, and now and then one for people."""
        args, plan, window, step = self.args, self.plan, self.window, self.step
        k = self.done_here - self.window_from  # steps of this process in it
        parts = {part: window[part] / k for part in ("data", "forward_backward", "optimizer")}
        each = sum(parts.values())  # seconds of a step
        speed, left = plan.batch_tokens / each, (plan.steps - step) * each
        usd = self.clock / 3600 * args.price_per_hour if args.price_per_hour is not None else None
        line = self.progress() | {
            "loss": float(np.mean(window["loss"])),
            "lr": plan.lr(step - 1),
            "muon_momentum": plan.muon_momentum(step - 1),
            "weight_decay": plan.weight_decay(step - 1),
            "tok_per_sec": round(speed, 1),
            "mfu": mfu(plan.flops_per_token, speed, self.team.world, self.peak),
            "eta_seconds": round(left, 1),
            "usd": usd,
            "time": {part: round(seconds, 5) for part, seconds in parts.items()},
        }
        if self.team.world > 1:  # before they waited for each other: which GPU is slow
            line["rank_seconds"] = self.team.all(round(window["own"] / k, 5))
        self.log.write(kind="train", **line)
        if time.perf_counter() - self.last_print >= args.log_seconds or step in (1, plan.steps):
            extra = f"  mfu {line['mfu']:.1%}" if line["mfu"] else ""
            extra += f"  ${usd:.2f} so far" if usd is not None else ""
            what = f"step {step}/{plan.steps}  loss {line['loss']:.4f}  lr x{line['lr']:.2f}  {speed:,.0f} tokens/s"
            self.log.say(f"{what}{extra}  left {duration(left)}")
            self.last_print = time.perf_counter()
        self.new_window()

    def conclude(self) -> None:
        """The last lines of a run."""
        corpus, log = self.corpus, self.log
        seen = statistics(merge_states(self.team.all(self.loader_state)))
        memory = {"peak_memory_bytes": torch.cuda.max_memory_allocated(self.device)} if self.on_gpu else {}
        clock = {"leaderboard_seconds": round(self.late_clock, 3), "epochs": round(seen["epoch"], 4)}
        log.write(kind="done", **self.progress(), **clock, **memory)
        cropped = f"{seen['cropped_share']:.1%} of their tokens were cropped"
        log.say(f"read {seen['documents']:,} documents; {cropped}, {seen['skipped']:,} were empty")
        for line in corpus.train.notes():
            log.say(f"note: training: {line}")
        speed = f"{self.plan.tokens / self.clock:,.0f} tokens/s"
        log.say(f"trained in {duration(self.clock)} at {speed}; the run is in {self.run}")

    # ---- evaluation

    def evaluate(self, documents, final: bool) -> None:
        """Bits per byte on these validation documents, into the metrics."""

        def check(_done, _total):
            beat("evaluation")
            self.stop_if_asked()

        beat("evaluation")
        began = time.perf_counter()
        rows = max(1, min(self.device_batch, 64))
        with self.eight.off() if self.eight else contextlib.nullcontext():
            bpb, size = bits_per_byte(self.model, documents, self.tokenizer, self.T, rows, check, self.team)
        took = round(time.perf_counter() - began, 3)
        self.log.write(kind="eval", **self.progress(), val_bpb=bpb, val_bytes=size, final=final, took=took)
        whole = " (all of it)" if len(documents) == len(self.corpus.val) else ""
        self.log.say(f"step {self.step}/{self.plan.steps}  val bpb {bpb:.4f} on {size:,} bytes{whole}")
        if self.team.first:
            self.keeper.prune()

    def evaluate_at_the_end(self) -> None:
        """On more text than before; and on the same text as before, as the last point of the curve."""
        documents = first_bytes(self.corpus.val, max(self.args.final_eval_bytes, self.plan.recipe.eval_bytes))
        if len(self.eval_documents) < len(documents):
            self.evaluate(self.eval_documents, final=False)
        self.evaluate(documents, final=True)

    # ---- checkpoints

    def save(self, must: bool) -> None:
        """Take a checkpoint, unless this step has one. Written beside the next steps; if it `must` be, waited for.

        A full disk costs nothing but this checkpoint; UserError only if it must be there.
        """
        if self.saved == self.step and not must:
            return
        problem = self.team.from_first(self.finish_save)  # of the one before; two at a time would take twice the memory
        if self.saved != self.step or problem:
            self.warn(problem)
            self.begin_save()
            problem = self.team.from_first(self.finish_save) if must else None
        if must and problem:
            raise UserError(f"{problem}, then give the same command again: it goes on from there")

    def begin_save(self) -> None:
        """Copy all that a checkpoint holds, on every rank, and let rank 0 begin to write it."""
        beat("checkpoint")
        began = time.perf_counter()
        optimizer_state, loaders = self.optimizer.state_dict(), self.team.all(self.loader_state)
        if self.step and checkpoint.non_finite(dict(self.model.named_parameters())):
            raise self.diverged(self.step, None, self.documents)
        self.saved, self.last_save = self.step, time.perf_counter()
        if self.team.first:
            state = {"loader": merge_states(loaders), "losses": self.window["loss"]}
            state |= {"clock": self.clock, "late_clock": self.late_clock, "tokens": self.progress()["tokens"]}
            taken = checkpoint.snapshot(self.step, self.model, optimizer_state, state)
            self.keeper.write(taken, self.progress(), began)

    def finish_save(self) -> str | None:
        """On rank 0: wait for the checkpoint that is being written, if any; returns what went wrong with it."""
        problem = self.keeper.finish()
        if problem:  # try again in a minute
            self.last_save = time.perf_counter() - max(0.0, self.args.save_minutes * 60 - 60)
        return problem

    def warn(self, problem: str | None) -> None:
        if problem:
            self.log.say(f"warning: {problem}; training goes on and tries again in a minute")

    def diverged(self, step: int, loss: float | None, applied: list[list[int]]) -> UserError:
        """What to say when numbers are no longer finite: where that comes from, with the documents written to a file.

        The loss of `step` is not finite, or with loss None a parameter after it. applied: the indices of the documents
        in each row of the last batch that changed the weights.
        """
        weight = checkpoint.non_finite(dict(self.model.named_parameters()))
        with torch.no_grad():
            losses = [self.model(r[None, :-1], r[None, 1:], reduction="none").mean().item() for r in self.batch]
        shares = self.team.all((losses, self.documents, applied))  # rank by rank
        losses, documents, applied = ([x for share in shares for x in share[i]] for i in range(3))
        if not self.team.first:
            self.team.leave()
        bad = [i for i, x in enumerate(losses) if not math.isfinite(x)]
        if weight:
            what = f"parameter {weight} is not finite after step {step if loss is None else step - 1}"
            named = sorted({i for row in applied for i in row})
        else:
            what = f"the loss is {loss} at step {step}, from {len(bad)} of the batch's {len(losses)} rows"
            named = sorted({i for row in bad for i in documents[row]})
        suspects = [{"document": i, "begins": self.corpus.train[i][:200]} for i in named]
        path = self.run / f"non_finite_step_{step:08d}.json"
        found = {"step": step, "what": what, "row_losses": [str(x) for x in losses], "row_documents": documents}
        write_json(path, found | {"suspects": suspects})
        listed = ", ".join(map(str, named[:8])) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
        self.keeper.finish()
        good = self.keeper.good[0].name if self.keeper.good else "none"
        return UserError(
            f"{what}; the training documents in question are {listed}: {path} quotes them. "
            f"The last good checkpoint is {good}. Look at the texts; if they are sound, "
            "start a new run with lower rates, for example --name calmer --set matrix_lr=0.01"
        )


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
