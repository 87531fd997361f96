"""The training loop. Lesson 04 builds it.

One run is one folder, `home()/runs/<name>/`: config.json, metrics.jsonl (one JSON object a line), log.txt, tokenizer/
and checkpoints/. After a crash, a kill or Ctrl-C the same command continues from the newest good checkpoint, and ends
with the same weights as a run that nothing interrupted: on a CPU to the bit, on a GPU up to rounding.

`train` shows the whole of training. The functions after it come in the order in which it calls them.

On several GPUs: torchrun --standalone --nproc_per_node=8 -m gpt2course.train jan29 --profile 8xh100, with
TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120 in the environment, or torchrun gives a save only 30 seconds. Neither the batches nor
the checkpoints depend on the number of ranks: what 8 ranks saved, 4 or 1 can continue.
"""

import contextlib
import dataclasses
import gc
import math
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from safetensors import SafetensorError
from torch._functorch import config as partitioner

from gpt2course import checkpoint, data, ranks
from gpt2course.batches import Batches, Prefetch, merge_states, statistics
from gpt2course.cost import must_recompute, step_sizes
from gpt2course.evaluate import bits_per_byte, first_bytes
from gpt2course.fast import fp8, kernels
from gpt2course.files import UserError, coerce, command, duration, locked, run_folder
from gpt2course.load import open_run
from gpt2course.ranks import Ranks, compute_dtypes, pick_device
from gpt2course.recipes import Plan, RunSizes, make_model, make_optimizer, resolve_run, settings_from_text, within
from gpt2course.runlog import Log, introduce, read_metrics, report
from gpt2course.tokenizer import Tokenizer

COLLECT_EVERY = 1000  # steps between two garbage collections of Python
SPEED_FROM = 11  # the leaderboard's clock leaves out the first steps, which warm up caches (nanochat 348fbb3)


@dataclass
class Train:
    """Train a model by a recipe, at a size that fits the machine.

    Example: python -m gpt2course.train jan29 --profile laptop --name first
    """

    recipe: tyro.conf.Positional[str] = "jan29"  # of the ladder: gpt2, modern, muon, windows, lambdas, jan29 or record
    profile: str = "laptop"  # sizes for a machine: laptop, 1gpu or 8xh100
    set: tuple[str, ...] = ()  # settings of the recipe, as depth=6 ratio=4; `python -m gpt2course.recipes` lists them
    name: str | None = None  # name of the run; default: <recipe>-d<depth>
    corpus: str | None = None  # embedded, climbmix, or a path to parquet, jsonl or txt; default: the profile's
    seed: int = within(42, 0, 2**63 - 1)  # of the initial weights
    device: str = "auto"  # auto, cpu, cuda or mps
    dtype: str = "auto"  # of activations and embeddings: auto, float32 or bfloat16
    compile: bool | None = None  # torch.compile; default: on CUDA only
    attention: str = "auto"  # kernel: auto for the fastest that works here, or one by name (lesson 12)
    fp8: bool = False  # matrix products of the blocks in 8 bits, on an H100 and newer; evaluation stays in bfloat16
    device_batch: int | None = None  # rows of T tokens in one forward pass; default: the profile's, fitted to the batch
    streams: int = within(8, 1)  # streams that documents are dealt to; part of what fixes the order of the data
    eval_every: int | None = within(None, 1)  # steps between evaluations of bpb; default: 8 evaluations in a run
    final_eval_bytes: int = within(48_000_000, 1)  # validation text of the last evaluation, at most
    save_minutes: float = within(10.0, 0)  # minutes between checkpoints; the last step is always saved
    save_every: int | None = within(None, 1)  # also every so many steps
    keep: int = within(2, 1)  # newest checkpoints kept
    log_seconds: float = within(10.0, 0)  # seconds between printed lines
    price_per_hour: float | None = within(None, 0)  # of the machine, in dollars, to show the cost so far
    max_hours: float | None = within(None, 0)  # stop with a checkpoint when training has taken this long
    max_cost_usd: float | None = within(None, 0)  # the same for the cost; needs price_per_hour
    stop_after: int | None = within(None, 1)  # stop with a checkpoint after this step, to continue later
    stall_seconds: float = within(600.0, 1)  # end the process, and show where it hangs, after so long without progress
    fresh: bool = False  # start from the beginning; an earlier run of the same name is renamed, not deleted


def train(args: Train) -> Path:
    """Start or continue a run, to its end or until something asks it to stop; returns its folder."""
    device = pick_device(args.device)
    team = ranks.join(device.type)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(ranks.lasting_errors(args.name and run_folder(args.name) / "error.json", team))
        sizes = team.from_first(lambda: check(args, team))
        plan, T = sizes.plan, sizes.plan.model.sequence_len
        folder = run_folder(args.name if args.name is not None else f"{args.recipe}-d{plan.model.n_layer}")
        corpus, tokenizer, config = open_run(args, folder, sizes, device, team)
        log = Log(folder, team.first)
        if any(line["kind"] == "done" for line in read_metrics(folder)):
            log.say(f"run {folder.name} is finished already; --fresh starts it again")
            return folder
        if team.first:
            cleanup.enter_context(locked(folder / "lock", f"run {folder.name!r} is being trained"))

        compute, embed = compute_dtypes(device, args.dtype)
        compiled = args.compile if args.compile is not None else device.type == "cuda"
        model = make_model(plan, device, compute, embed).init_weights(args.seed)
        optimizer = make_optimizer(model, plan, ns_dtype=compute, compile=compiled, ranks=team.pair)
        rows = Batches(corpus.train, tokenizer, T, streams=config["streams"], rank=team.rank, world=team.world)
        watch = ranks.Watch(args.stall_seconds)
        run = Run(args, folder, plan, config, corpus, tokenizer, device, team, log, model, optimizer, watch)
        prepare_process(run, cleanup)
        resume(run, rows)
        prepare_kernels(run, compute, compiled)
        introduce(run)
        run.feed = Prefetch(rows, plan.batch_tokens // T // team.world, device)  # reads ahead in a thread
        cleanup.callback(run.feed.close)

        few = first_bytes(corpus.val, plan.recipe.eval_bytes)
        eval_every = args.eval_every or math.ceil(plan.steps / 8)
        log_every = max(1, plan.steps // (2000 if device.type == "cuda" else 500))
        reason = asked(run)[0] if run.step else None  # a limit that an earlier start has reached
        while run.step < plan.steps and reason is None:
            if run.step and run.step % eval_every == 0:
                evaluate(run, few)
            take_step(run)
            if run.step % log_every == 0 or run.step == plan.steps:
                report(run)
            reason, due = asked(run)
            if (reason or due) and run.step < plan.steps:
                save(run, must=reason is not None)
        if reason is None:
            finish(run, few)
        else:
            how = "" if reason.startswith("signal") else " with a higher limit"
            how += " without --fresh" if args.fresh else ""
            log.say(f"stopped at step {run.step} by {reason}; a checkpoint is saved, the same command continues{how}")
    return folder


# ---- before training


def check(args: Train, team: Ranks) -> RunSizes:
    """The sizes of the run; UserError for a flag that makes no sense."""
    for f in dataclasses.fields(Train):
        if f.metadata:
            coerce(f.name, getattr(args, f.name), f.type, **f.metadata)
    if args.max_cost_usd is not None and args.price_per_hour is None:
        raise UserError(f"max_cost_usd {args.max_cost_usd} needs --price-per-hour, the price of the machine in dollars")
    settings, streams = settings_from_text(args.set), args.streams
    return resolve_run(args.recipe, args.profile, settings, team.world, args.device_batch, streams=streams)


@dataclass
class Run:
    """A run at work on one rank: its parts, and where it stands."""

    args: Train
    folder: Path
    plan: Plan
    config: dict
    corpus: data.Corpus
    tokenizer: Tokenizer
    device: torch.device
    team: Ranks
    log: Log
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    watch: ranks.Watch  # ends a process that hangs
    forward: torch.nn.Module | None = None  # the model, compiled or not
    eight: fp8.Float8 | None = None
    feed: Prefetch | None = None
    step: int = 0
    clock: float = 0.0  # seconds of training
    late_clock: float = 0.0  # the same without the first SPEED_FROM steps
    loader_state: dict = field(default_factory=dict)  # after the rows of the last step: the feed reads ahead
    losses: list[float] = field(default_factory=list)  # of the steps since the last line of the metrics
    times: list[dict[str, float]] = field(default_factory=list)  # seconds by part, of the same steps of this process
    reported: bool = False  # whether this process has logged a step
    unchecked: int = 2  # first steps of this process, after which the ranks compare their parameters
    saved: int | None = None  # step of the newest checkpoint
    last_save: float = field(default_factory=time.perf_counter)
    last_print: float = field(default_factory=time.perf_counter)
    signals: list[int] = field(default_factory=list)  # that came

    @property
    def last_checkpoint(self) -> str:
        return "none" if self.saved is None else f"step_{self.saved:08d}"

    @property
    def progress(self) -> dict:
        """The values in every line of the metrics."""
        tokens = self.step * self.plan.batch_tokens
        flops = tokens * self.plan.flops_per_token
        return {"step": self.step, "tokens": tokens, "flops": flops, "seconds": round(self.clock, 3)}


def prepare_process(run: Run, cleanup: contextlib.ExitStack) -> None:
    """Signals, random numbers, and what watches over the process; `cleanup` undoes all of it.

    From here on SIGTERM and Ctrl-C are requests to stop after the next step; a second Ctrl-C stops at once.
    """

    def on_signal(number, _frame):
        if run.signals and number == signal.SIGINT:  # the last checkpoint is on the disk
            raise KeyboardInterrupt
        run.signals.append(number)

    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
        for s in (signal.SIGTERM, signal.SIGINT):
            cleanup.callback(signal.signal, s, signal.signal(s, on_signal))
    cleanup.callback(torch.set_rng_state, torch.get_rng_state())
    torch.manual_seed(run.args.seed)  # no recipe draws random numbers in a step; a layer that you add may (dropout)
    cleanup.callback(run.watch.stop)
    if gc.isenabled():  # Python's garbage collection would interrupt a step: `take_step` starts it between steps
        gc.disable()
        cleanup.callback(gc.enable)


def resume(run: Run, rows: Batches) -> None:
    """Continue from the newest good checkpoint, if there is one."""
    good = run.team.from_first(lambda: checkpoint.newest(run.folder, run.log.say))
    if good:
        folder, state = good
        checkpoint.load(folder, run.model, run.optimizer)
        rows.load_state_dict(state["loader"])
        run.step = run.saved = state["step"]
        run.clock, run.late_clock, run.losses = state["clock"], state["late_clock"], list(state["losses"])
        run.log.say(f"resumed from {folder.name}")
    run.loader_state = rows.state_dict()
    if run.team.first:
        checkpoint.tidy(run.folder, run.step, run.log.say)
        run.log.rewind(run.step)


def prepare_kernels(run: Run, compute: torch.dtype, compiled: bool) -> None:
    """Attention and loss kernels, fp8 and torch.compile, all after the weights are there."""
    args, model, on = run.args, run.model, (run.device, compute, run.plan.model.head_dim)
    if run.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    name, why = run.team.from_first(lambda: kernels.choose(args.attention, *on))  # rank 0 first: it may download one
    if not run.team.first:
        kernels.choose(name, *on)
    run.log.say(f"attention by {name}: {why}; loss by {kernels.choose_loss(run.device, compute)}")
    run.eight = fp8.convert(model) if args.fp8 else None
    if compiled and hasattr(model, "rope"):
        model.rope(run.plan.model.sequence_len, run.device)  # a table made in the first step would compile twice
    if compiled and run.device.type == "cuda":
        memory, world = torch.cuda.get_device_properties(run.device).total_memory, run.team.world
        sizes = step_sizes(run.plan, each=compute.itemsize, B=run.config["device_batch"], world=world, fp8=args.fp8)
        again = must_recompute(memory, run.plan, **sizes)
        partitioner.activation_memory_budget = 0.9 if again else 1.0  # below 1: pointwise work first
        if again:
            run.log.say(f"{memory / 1e9:.1f} GB are tight: the backward pass computes cheap activations again")
    run.forward = torch.compile(model, dynamic=False) if compiled else model


# ---- a step


def take_step(run: Run) -> None:
    """One optimizer step: a batch, its loss and gradients, then new weights."""
    plan, step = run.plan, run.step
    run.watch.progress()
    if step % COLLECT_EVERY == 0:
        gc.collect()
    t0 = time.perf_counter()
    batch, run.loader_state, *_ = run.feed.next()  # (rows, T + 1)
    t1 = time.perf_counter()
    loss = forward_backward(run.forward, batch, run.config["device_batch"], run.team)
    t2 = time.perf_counter()
    if not math.isfinite(loss):  # before the weights change
        raise diverged(run, f"the loss of step {step + 1} is {loss}")
    run.optimizer.step(plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
    if run.unchecked:  # an exchange that lost something would show late, or never
        run.unchecked -= 1
        run.team.check_equal(dict(run.model.named_parameters()))
    run.optimizer.zero_grad()
    if run.eight:
        run.eight.refresh()
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    t3 = time.perf_counter()
    run.step += 1
    run.losses.append(loss)
    run.times.append({"data": t1 - t0, "forward_backward": t2 - t1, "optimizer": t3 - t2})
    run.clock += t3 - t0
    run.late_clock += t3 - t0 if run.step > SPEED_FROM else 0.0


def forward_backward(forward, batch: torch.Tensor, device_batch: int, team: Ranks) -> float:
    """Add the gradients of the batch's mean loss to the parameters; returns that loss, over all ranks.

    batch: (rows, T + 1), taken device_batch rows at a time: the gradients of the pieces add up to those of the whole.
    """
    pieces = batch.split(device_batch)
    loss = 0.0
    for piece in pieces:  # (device_batch, T + 1)
        inputs, targets = piece[:, :-1].contiguous(), piece[:, 1:].contiguous()
        part = forward(inputs, targets) / (len(pieces) * team.world)
        part.backward()
        loss = loss + part.detach()
    return team.reduce(loss.item())[0]  # waits for the device, and for the other ranks


def diverged(run: Run, what: str) -> UserError:
    """The error for a loss or a parameter that is not finite; rank 0 reports it for all."""
    if not run.team.first:
        run.team.leave()
    if weight := checkpoint.non_finite(dict(run.model.named_parameters())):
        what = f"parameter {weight} is not finite after step {run.step}"
    recipe = run.plan.recipe
    rate = "matrix_lr" if recipe.matrix_optimizer == "muon" else "matrix_adamw_lr"
    return UserError(
        f"{what}; the last good checkpoint is {run.last_checkpoint}. "
        f"Start a new run with lower rates, for example --name calmer --set {rate}={getattr(recipe, rate) / 2:g}"
    )


def asked(run: Run) -> tuple[str | None, bool]:
    """(why training must stop or None, whether a checkpoint is due); the same on all ranks."""
    args, hours = run.args, run.clock / 3600
    due = time.perf_counter() - run.last_save >= args.save_minutes * 60
    due = due or bool(args.save_every and run.step % args.save_every == 0)
    late = args.max_hours is not None and hours >= args.max_hours
    costly = args.max_cost_usd is not None and hours * args.price_per_hour >= args.max_cost_usd
    number, late, costly, due = run.team.reduce(run.signals[0] if run.signals else 0, late, costly, due, how="max")
    reasons = [
        (number, number and f"signal {signal.Signals(int(number)).name}"),
        (args.stop_after is not None and run.step >= args.stop_after, f"stop_after {args.stop_after}"),
        (late, f"max_hours {args.max_hours}"),
        (costly, f"max_cost_usd {args.max_cost_usd}"),
    ]
    reason = next((text for holds, text in reasons if holds), None)
    return (reason if run.step < run.plan.steps else None), bool(due)


# ---- checkpoints and evaluation


def save(run: Run, must: bool = False) -> None:
    """Write a checkpoint, unless this step has one. A full disk is a warning; UserError only if it `must` be there."""
    if run.saved == run.step:
        return
    run.watch.progress()
    began = time.perf_counter()
    optimizer_state, loaders = run.optimizer.state_dict(), run.team.all(run.loader_state)  # of all ranks
    if run.step and checkpoint.non_finite(dict(run.model.named_parameters())):
        raise diverged(run, "")
    state = {"loader": merge_states(loaders), "losses": run.losses, "clock": run.clock, "late_clock": run.late_clock}

    def write() -> bool:
        try:
            folder = checkpoint.save(run.folder, run.step, run.model, optimizer_state, state | run.progress)
        except (OSError, SafetensorError) as e:
            what = f"the checkpoint of step {run.step} could not be saved ({e})"
            what += f"; the last good one is {run.last_checkpoint}. Make room in {run.folder}"
            if must:
                raise UserError(f"{what}, then give the same command again: it continues from there") from None
            run.log.say(f"warning: {what}; training continues and tries again later")
            return False
        took = round(time.perf_counter() - began, 3)
        run.log.write(kind="checkpoint", **run.progress, path=str(folder.relative_to(run.folder)), took=took)
        checkpoint.prune(run.folder, run.args.keep)
        return True

    if run.team.from_first(write):
        run.saved = run.step
    run.last_save = time.perf_counter()


def evaluate(run: Run, documents: list[str], final: bool = False) -> None:
    """Bits per byte on these validation documents, into the metrics."""
    run.watch.progress()
    began = time.perf_counter()
    T, rows = run.plan.model.sequence_len, min(run.config["device_batch"], 64)
    with run.eight.off() if run.eight else contextlib.nullcontext():
        progress = lambda *_: run.watch.progress()
        bpb, size = bits_per_byte(run.model, documents, run.tokenizer, T, rows, progress, run.team)
    took = round(time.perf_counter() - began, 3)
    run.log.write(kind="eval", **run.progress, val_bpb=bpb, val_bytes=size, final=final, took=took)
    whole = " (all of it)" if len(documents) == len(run.corpus.val) else ""
    run.log.say(f"step {run.step}/{run.plan.steps}  val bpb {bpb:.4f} on {size:,} bytes{whole}")


def finish(run: Run, few: list[str]) -> None:
    """After the last step: a checkpoint, the last point of the curve, an evaluation on more text, the last lines."""
    run.feed.close()
    save(run, must=True)
    documents = first_bytes(run.corpus.val, max(run.args.final_eval_bytes, run.plan.recipe.eval_bytes))
    if len(few) < len(documents):
        evaluate(run, few)
    else:
        documents = few  # whose rows are there already
    evaluate(run, documents, final=True)
    seen = statistics(merge_states(run.team.all(run.loader_state)))
    memory = {"peak_memory_bytes": torch.cuda.max_memory_allocated(run.device)} if run.device.type == "cuda" else {}
    clock = {"leaderboard_seconds": round(run.late_clock, 3), "epochs": round(seen["epoch"], 4)}
    run.log.write(kind="done", **run.progress, **clock, **memory)
    run.log.say(f"read {seen['documents']:,} documents; {seen['cropped_share']:.1%} of their tokens were cropped")
    speed = f"{run.plan.tokens / run.clock:,.0f} tokens/s"
    run.log.say(f"trained in {duration(run.clock)} at {speed}; the run is in {run.folder}")


def main(args: Train) -> None:
    try:
        train(args)
    except KeyboardInterrupt:
        print("stopped at once; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except UserError:
        ranks.part()
        raise
    ranks.part(done=True)


if __name__ == "__main__":
    command(main)
