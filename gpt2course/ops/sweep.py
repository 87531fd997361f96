"""Many runs, one after the other: the ladder, the ablations, the IsoFLOP grid and the miniseries. Lesson 09.

    python -m gpt2course.ops.sweep ladder --size laptop --out work/ladder --minutes 10

Each run is `gpt2course.train` in a child process. A run that is done is a line of OUT/runs.jsonl and is not repeated;
one that was stopped or killed goes on from its checkpoint when the same command is given again. OUT/summary.json
follows from runs.jsonl alone. The grids are plain lists, in the order in which they are run: the cheapest answer first,
so that a session cut short leaves whole answers.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2course.ops import jobs
from gpt2course.cost import hours, peak_flops
from gpt2course.files import UserError, command, home, read_json, shown, write_json
from gpt2course.ops.params import _number, _text
from gpt2course.recipes import LADDER, resolve, settings_from_text

GRIDS = ("ladder", "ablations", "isoflop", "miniseries")
TRIES = 2  # of a run that fails
END = r"all \d+ runs are done|stopped by "  # how a campaign that ended well says so
EPOCH, EPOCHS = 40_000_000, 4  # tokens of the six development shards at least, and how often a run may read them
# What a size means: the corpus; bytes of evaluation text while training and at the end; for the plan's forecast the
# device and its MFU (None: a measured speed in FLOP/s), and the seconds in which a run starts, compiles and evaluates.
# Guesses until a run has been recorded.
SIZES = {
    "laptop": dict(corpus="embedded", eval_bytes=20_000, final=200_000, gpu=None, speed=1.5e10, mfu=None, start=7),
    "h100": dict(corpus="climbmix", eval_bytes=1_000_000, final=8_000_000, gpu="H100", speed=None, mfu=0.15, start=45),
}
# depth 8 on the card: 1,144 steps of 65,536 tokens are 74,973,184
LADDER_SIZE = {
    "laptop": (
        "depth=2", "width=64", "head_dim=32", "sequence_len=128", "vocab_size=1024", "batch_tokens=2048", "steps=80",
    ),
    "h100": ("depth=8", "vocab_size=8192", "batch_tokens=65536", "steps=1144"),
}  # fmt: skip
RATES = {  # beside the recipes' own, 0.003 and 0.02
    "modern": ("matrix_adamw_lr", (0.0015, 0.006, 0.012)),
    "muon": ("matrix_lr", (0.01, 0.04, 0.005)),
}
WITHOUT = {  # jan29 with one switch turned off
    "value-embeddings": ("value_embeds=false",), "lambdas": ("resid_lambda=none", "x0_lambda=none"),
    "windows": ("window_pattern=L",), "muon": ("matrix_optimizer=adamw",),
    "qk-norm": ("qk_norm=false",), "softcap": ("softcap=0",),
}  # fmt: skip
SMALL = {  # recipe and settings of the many small models of the next two grids
    "laptop": ("muon", ("head_dim=16", "sequence_len=64", "vocab_size=512", "batch_tokens=1024")),
    "h100": ("jan29", ("head_dim=64", "sequence_len=1024", "vocab_size=4096", "batch_tokens=32768")),
}
# IsoFLOP: budgets in FLOPs, and (depth, width) from small to large; width is set apart from depth, so that sizes lie
# close together. For `sizes` and `around` see `isoflop`.
ISOFLOP = {
    "laptop": dict(budgets=(3e10, 6e10, 1.2e11, 2.4e11), sizes=5, around=1.2,
                   shapes=((1, 16), (1, 32), (2, 32), (2, 48), (2, 64), (3, 64), (3, 96))),
    "h100": dict(budgets=(3e14, 6e14, 1.2e15, 2.4e15), sizes=6, around=1.4,
                 shapes=((2, 128), (2, 192), (3, 192), (4, 192), (4, 256), (6, 256),
                         (5, 320), (4, 384), (6, 384), (7, 448), (6, 512), (8, 512))),
}  # fmt: skip
MINISERIES = {  # channels: width for each layer
    "laptop": dict(depths=(1, 2, 3), channels=16),
    "h100": dict(depths=(2, 3, 4, 5, 6, 7), channels=64),
}


@dataclass(frozen=True)
class Run:
    """One run of a grid."""

    id: str
    grid: str
    recipe: str
    set: tuple[str, ...]
    seed: int
    budget: float | None = None  # FLOPs asked for; None where tokens are

    def plan(self):
        return resolve(self.recipe, **settings_from_text(self.set))


def with_seeds(runs: list[Run], seeds=(1, 2)) -> list[Run]:
    """All of the runs with the first seed, then all with the next; an id ends in its seed."""
    return [dataclasses.replace(run, id=f"{run.id}-s{seed}", seed=seed) for seed in seeds for run in runs]


def ladder(size: str) -> list[Run]:
    """Every rung once; then rates of modern and muon beside their own; then seeds 2 and 3 of modern, muon and jan29."""
    fixed = LADDER_SIZE[size]
    runs = [Run(recipe, "ladder", recipe, fixed, 1) for recipe in LADDER]
    repeated = [run for run in runs if run.recipe in ("modern", "muon", "jan29")]
    for recipe, (name, rates) in RATES.items():
        for rate in rates if size == "h100" else rates[:2]:
            runs.append(Run(f"{recipe}-{name}-{rate:g}", "ladder", recipe, (*fixed, f"{name}={rate:g}"), 1))
    return with_seeds(runs, (1,)) + with_seeds(repeated, (2, 3))


def ablations(size: str) -> list[Run]:
    """jan29, and jan29 without one part at a time; then all of it with a second seed."""
    fixed = LADDER_SIZE[size]
    variants = {"jan29": ()} | {f"without-{name}": off for name, off in WITHOUT.items()}
    return with_seeds([Run(name, "ablations", "jan29", (*fixed, *off), 1) for name, off in variants.items()])


def isoflop(size: str) -> list[Run]:
    """For each budget the `sizes` models whose N lies closest to where the minimum is expected; then a second seed.

    Closest in the logarithm. Expected is D = 10 N, so N = sqrt(C / 60), times `around`: the arm of small models is the
    one that runs out of text. A model for which the text does not suffice is left out.
    """
    (recipe, fixed), g = SMALL[size], ISOFLOP[size]
    tokens_at_most = EPOCH * EPOCHS if size == "h100" else 6_000_000  # embedded: some 7 million at vocabulary 512
    runs = []
    for budget in g["budgets"]:
        expected = g["around"] * math.sqrt(budget / 60)
        options = []  # (distance from the expected N, N, run)
        for depth, width in g["shapes"]:
            settings = (*fixed, f"depth={depth}", f"width={width}")
            one_step = resolve(recipe, **settings_from_text((*settings, "steps=1")))
            n, steps = one_step.params["scaling"], round(budget / one_step.flops)
            if steps >= 20 and steps * one_step.tokens <= tokens_at_most:
                name = f"c{budget:g}-d{depth}-w{width}".replace("+", "")
                run = Run(name, "isoflop", recipe, (*settings, f"steps={steps}"), 1, budget)
                options.append((abs(math.log(n / expected)), n, run))
        closest = sorted(options, key=lambda o: o[0])[: g["sizes"]]
        runs += [run for _, _, run in sorted(closest, key=lambda o: o[1])]
    return with_seeds(runs)


def miniseries(size: str) -> list[Run]:
    """Depths of one recipe at 8 tokens for each scaling parameter, width in proportion to depth; then a second seed."""
    (recipe, fixed), g = SMALL[size], MINISERIES[size]
    runs = []
    for depth in g["depths"]:
        settings = (*fixed, "ratio=8", f"depth={depth}", f"width={depth * g['channels']}")
        runs.append(Run(f"d{depth}", "miniseries", recipe, settings, 1))
    return with_seeds(runs)


def grid(name: str, size: str, first: int | None = None, settings: tuple[str, ...] = ()) -> list[Run]:
    """The `first` runs of a grid, or all; settings of one's own (name=value) take the place of the grid's."""
    if name not in GRIDS:
        raise UserError(f"grid {shown(name)} does not exist; there are {', '.join(GRIDS)}")
    if size not in SIZES:
        raise UserError(f"size {shown(size)} does not exist; there are {', '.join(SIZES)}")
    if first is not None and first < 1:
        raise UserError(f"first = {first} is not allowed; it must be a whole number from 1")
    own = settings_from_text(settings)
    make = {"ladder": ladder, "ablations": ablations, "isoflop": isoflop, "miniseries": miniseries}[name]
    runs = []
    for run in make(size)[:first]:
        values = {"eval_bytes": SIZES[size]["eval_bytes"], **settings_from_text(run.set), **own}
        runs.append(dataclasses.replace(run, set=tuple(f"{k}={v}" for k, v in values.items())))
    return runs


def forecast(run: Run, size: str) -> float:
    """Seconds that a run will take at the size's MFU, starting included."""
    s, flops = SIZES[size], run.plan().flops
    if s["gpu"]:
        return s["start"] + hours(flops, 1, peak_flops(s["gpu"]), s["mfu"]) * 3600
    return s["start"] + flops / s["speed"]


def describe(runs: list[Run], size: str) -> str:
    """The plan as a table: runs, tokens, FLOPs and forecast minutes."""
    lines = [f"{'run':34} {'N':>11} {'tokens':>12} {'FLOPs':>9} {'steps':>6} {'minutes':>8}"]
    total, flops = 0.0, 0.0
    for run in runs:
        plan, seconds = run.plan(), forecast(run, size)
        total, flops = total + seconds, flops + plan.flops
        numbers = f"{plan.params['scaling']:11,} {plan.tokens:12,} {plan.flops:9.2e} {plan.steps:6,}"
        lines.append(f"{run.id:34} {numbers} {seconds / 60:8.1f}")
    s = SIZES[size]
    how = f"one {s['gpu']} at {s['mfu']:.0%} MFU" if s["gpu"] else f"{s['speed']:g} FLOP/s"
    lines.append(
        f"{len(runs)} runs, {flops:.3g} FLOPs, about {total / 60:.0f} minutes: "
        f"{how} and {s['start']} s a run besides, both assumed, not measured"
    )
    return "\n".join(lines)


# ---- the record


def mend(path: Path) -> bool:
    """Cut off a last line that a kill left torn; says whether there was one."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1  # bytes
    if whole == len(data):
        return False
    with open(path, "r+b") as f:
        f.truncate(whole)
        os.fsync(f.fileno())
    return True


def read(path) -> list[dict]:
    """The rows of a runs.jsonl, a torn last line left out. UserError for a damaged line inside it."""
    rows = []
    for i, line in enumerate(jobs.whole_lines(Path(path), 0)[0], 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise UserError(f"line {i} of {path} is damaged; delete that line, and the run is made again") from None
    return rows


def add(path: Path, row: dict) -> None:
    """Append a row, on the disk before this returns."""
    with open(path, "ab") as f:
        f.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        f.flush()
        os.fsync(f.fileno())


def row(run: Run, folder: Path, child_memory: int | None) -> dict:
    """The line of a run that is done, from its files; child_memory: bytes, where training did not measure them."""
    config, metrics = read_json(folder / "config.json", "run configuration"), jobs.read_metrics(folder)
    plan, machine = config["plan"], config["machine"]
    done = next(m for m in metrics if m["kind"] == "done")
    evals, train = [m for m in metrics if m["kind"] == "eval"], [m for m in metrics if m["kind"] == "train"]
    final = next(m for m in evals if m["final"])
    curve = [m for m in evals if not m["final"]]
    if all(m["step"] != final["step"] for m in curve):  # then the last point of the curve is the final evaluation
        curve = evals
    last = train[-max(1, len(train) // 10) :]
    return dataclasses.asdict(run) | {
        "set": list(run.set), "status": "done",
        "n": plan["params"]["scaling"], "n_total": plan["params"]["total"],
        "width": plan["model"]["n_embd"], "depth": plan["model"]["n_layer"],
        "tokens": done["tokens"], "flops": done["flops"], "val_bpb": final["val_bpb"], "val_bytes": final["val_bytes"],
        "train_loss": sum(m["loss"] for m in last) / len(last),
        "steps": done["step"], "epochs": done["epochs"], "seconds": done["seconds"],
        "tok_per_sec": statistics.median(m["tok_per_sec"] for m in train),
        "peak_memory_bytes": done.get("peak_memory_bytes", child_memory),
        "curve": [[m["step"], m["tokens"], m["flops"], m["seconds"], m["val_bpb"]] for m in curve],
        "val_sha256": config["val_sha256"], "tokenizer_sha256": config["tokenizer_sha256"], "corpus": config["corpus"],
        "device": machine["device"], "driver": machine["driver"], "cpu_threads": machine["cpu_threads"],
        "torch": machine["torch"], "dtype": config["dtype"], "commit": config["commit"],
        "command": shown_command(run, config["corpus"]),
    }  # fmt: skip


def shown_command(run: Run, corpus: str) -> str:
    """How to make this run by itself; a corpus that is a path is named by its last part."""
    corpus = Path(corpus).name if os.sep in corpus else corpus
    return f"python -m gpt2course.train {run.recipe} --seed {run.seed} --corpus {corpus} --set {' '.join(run.set)}"


def variant(row: dict) -> str:
    """The id of a row's run without its seed."""
    return re.sub(r"-s\d+$", "", row["id"])


def summary(rows: list[dict]) -> dict:
    """What the rows say: {"grid", "runs" that are done, "variants", "failed": {id: error}}.

    variants: for each (recipe and settings) the mean and standard deviation of bpb over its seeds, and what it cost.
    """
    done = [r for r in rows if r["status"] == "done"]
    groups = {}
    for r in done:
        groups.setdefault(variant(r), []).append(r)
    variants = {}
    for name, group in groups.items():
        first, bpb = group[0], [r["val_bpb"] for r in group]
        variants[name] = {
            "recipe": first["recipe"], "seeds": sorted(r["seed"] for r in group),
            "n": first["n"], "tokens": first["tokens"], "flops": first["flops"], "budget": first["budget"],
            "val_bpb": statistics.mean(bpb), "sd": statistics.stdev(bpb) if len(bpb) > 1 else None,
            "seconds": statistics.mean(r["seconds"] for r in group),
        }  # fmt: skip
    finished = {r["id"] for r in done}
    failed = {r["id"]: r["error"] for r in rows if r["status"] == "failed" and r["id"] not in finished}
    return {"grid": done[0]["grid"] if done else None, "runs": len(done), "variants": variants, "failed": failed}


def table(value: dict) -> str:
    """A summary as text, the lowest bpb first."""
    lines = [f"{'variant':34} {'val bpb':>8} {'sd':>7} {'seeds':>5} {'N':>11} {'tokens':>12} {'seconds':>8}"]
    for name, v in sorted(value["variants"].items(), key=lambda item: item[1]["val_bpb"]):
        sd = f"{v['sd']:.4f}" if v["sd"] is not None else "-"
        cost = f"{v['n']:11,} {v['tokens']:12,} {v['seconds']:8.1f}"
        lines.append(f"{name:34} {v['val_bpb']:8.4f} {sd:>7} {len(v['seeds']):5} {cost}")
    return "\n".join(lines + [f"{name:34} failed: {why}" for name, why in value["failed"].items()])


def figure(rows: list[dict]):
    """Bits per byte of a ladder's runs, the sweeps of rates aside: one colour a variant, one line a seed."""
    from gpt2course.course import plots

    done = [r for r in rows if r["status"] == "done" and not any(name in r["id"] for name, _ in RATES.values())]
    if not done:
        raise UserError("there is nothing to draw: no run is done")
    names = list(dict.fromkeys(variant(r) for r in done))
    colours = (plots.BLACK, plots.ORANGE, plots.SKY, plots.GREEN, plots.BLUE, plots.VERMILION, plots.PURPLE, plots.GREY)
    ends = [r["curve"][-1][4] for r in done]
    lowest, spread = min(ends), max(ends) - min(ends)
    fig, axes = plots.figure(9.5, rows=3)
    for ax, column, label in zip(axes, (0, 2, 3), ("steps", "training FLOPs", "seconds of training")):
        for r in done:
            name, points = variant(r), [p for p in r["curve"] if p[0] > 0]
            colour = colours[names.index(name) % len(colours)]
            once = name if r["seed"] == 1 else None  # in the legend
            ax.plot([p[column] for p in points], [p[4] for p in points], color=colour, linewidth=1.3, label=once)
        plots.name_axes(ax, label, "validation bits per byte")
        # where the runs end, not where they begin
        ax.set_ylim(lowest - 0.1 * spread - 0.01, max(ends) + 1.5 * spread + 0.05)
    axes[0].legend(fontsize=plots.FONT, frameon=False, ncols=2)
    said = ", ".join(f"{name} {v['val_bpb']:.3f}" for name, v in summary(done)["variants"].items())
    fig.alt = f"Validation bits per byte against steps, FLOPs and seconds of training. At the end: {said}."
    return fig


# ---- the work


@dataclass
class Campaign:
    """Train every run of a grid, one after the other; the same command goes on where it stopped.

    Example: python -m gpt2course.ops.sweep isoflop --size laptop --out work/isoflop --minutes 10
    """

    grid: tyro.conf.Positional[str]  # ladder, ablations, isoflop or miniseries
    size: str = "laptop"  # laptop: minutes on two cores; h100: the recorded runs, on one card
    out: str | None = None  # folder of runs.jsonl and summary.json; default: $GPT2COURSE_HOME/campaigns/<grid>-<size>
    corpus: str | None = None  # default: the size's, embedded or climbmix; or the path of a folder of shards
    # stop with a checkpoint after so long; leave a minute for it where the machine itself has a limit
    minutes: float | None = None
    first: int | None = None  # only the first so many runs of the grid
    set: tuple[str, ...] = ()  # settings for every run, in place of the grid's: --set steps=20
    device: str = "auto"  # auto, cpu, cuda or mps
    plan: bool = False  # print runs, tokens, FLOPs and forecast minutes, and start nothing


def folder_of(args: Campaign) -> Path:
    """Where the campaign's files lie."""
    return Path(args.out).expanduser().absolute() if args.out else home() / "campaigns" / f"{args.grid}-{args.size}"


@contextlib.contextmanager
def only_one(out: Path):
    """Hold the folder's lock; UserError where another campaign has it."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with open(out / ".lock", "a") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another campaign is at work in {out}; wait for it, or give another --out") from None
        yield


def campaign(args: Campaign) -> dict:
    """Do what is not done yet; returns the summary. UserError if runs failed twice, when all the others are done."""
    runs, out = grid(args.grid, args.size, args.first, args.set), folder_of(args)
    for run in runs:
        run.plan()  # what cannot be resolved is refused before anything is trained
    if args.minutes is not None and not args.minutes > 0:
        raise UserError(f"minutes = {args.minutes:g} is not allowed; it must be a number above 0")
    corpus = args.corpus or SIZES[args.size]["corpus"]
    out.mkdir(parents=True, exist_ok=True)
    with only_one(out), contextlib.ExitStack() as cleanup:
        stop = []  # names of the signals that have come
        deadline = time.monotonic() + args.minutes * 60 if args.minutes else math.inf
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, lambda n, _: stop.append(signal.Signals(n).name))
            cleanup.callback(signal.signal, number, before)
        jobs.end_all(out, "run")  # what a killed campaign left
        path = out / "runs.jsonl"
        same = {"grid": args.grid, "size": args.size, "corpus": corpus, "set": list(args.set)}
        old = read_json(out / "campaign.json", "campaign") if (out / "campaign.json").exists() else same
        if old != same:
            other = [f"{k} {shown(old.get(k))}" for k in same if old.get(k) != same[k]]
            raise UserError(f"{out} was begun with {', '.join(other)}; give another --out")
        write_json(out / "campaign.json", same)
        if mend(path):
            print(f"the last line of {path} was torn and has been cut off; that run is looked up again", flush=True)
        for _ in range(TRIES):  # a run that failed waits until the others are done
            seen = read(path)
            tried = {run.id: sum(r["id"] == run.id and r["status"] == "failed" for r in seen) for run in runs}
            finished = {r["id"] for r in seen if r["status"] == "done"}
            for run in runs:
                if run.id in finished or tried[run.id] >= TRIES:
                    continue
                result, began = None, time.monotonic()
                if not stop and began < deadline:
                    result = one(run, args, corpus, out, stop, deadline)
                ended = result is not None and not stop  # by itself, done or failed
                if ended:
                    add(path, result)
                    if result["status"] == "done":
                        finished.add(run.id)
                        took = jobs.duration(time.monotonic() - began)
                        of = f"[{len(finished)}/{len(runs)}]"
                        print(f"{of} {run.id}: val bpb {result['val_bpb']:.4f}, {took}", flush=True)
                    else:
                        print(f"{run.id} failed, try {result['try']} of {TRIES}: {result['error']}", flush=True)
                    finish(out)
                if not ended or time.monotonic() >= deadline:
                    why = f"signal {stop[0]}" if stop else f"minutes {args.minutes:g}"
                    done = f"{len(finished)} of {len(runs)} runs are done"
                    print(f"stopped by {why}; {done}; the same command goes on", flush=True)
                    return finish(out)
    value = finish(out)
    if lost := [run.id for run in runs if run.id not in finished]:
        raise UserError(
            f"{len(lost)} of {len(runs)} runs failed {TRIES} times: {', '.join(lost)}; "
            f"{path} has the reasons. To try them again, delete their lines"
        )
    print(f"all {len(runs)} runs are done", flush=True)
    return value


def finish(out: Path) -> dict:
    """Write and return the summary."""
    value = summary(read(out / "runs.jsonl"))
    write_json(out / "summary.json", value)
    return value


def one(run: Run, args: Campaign, corpus: str, out: Path, stop: list, deadline: float) -> dict | None:
    """Train one run, new or gone on with: its row, or None where it was stopped. A done run keeps no checkpoints."""
    steps = run.plan().steps
    name = f"{run.grid}-{run.id}-{jobs.digest([str(out), run.recipe, run.set, run.seed, corpus])[:8]}"
    folder, log = home() / "runs" / name, out / "train.log"
    argv = [
        sys.executable, "-m", "gpt2course.train", run.recipe, "--name", name, "--seed", str(run.seed),
        "--corpus", corpus, "--device", args.device, "--eval-every", str(max(1, math.ceil(steps / 20))),
        "--final-eval-bytes", str(SIZES[args.size]["final"]), "--save-minutes", "2", "--keep", "1", "--no-keep-best",
        "--log-seconds", "15", "--set", *run.set,
    ]  # fmt: skip
    with open(log, "ab") as f:
        f.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}  {run.id}\n".encode())
        f.flush()
        offset = f.tell()
        env = jobs.environment() | {jobs.JOB: f"{out}:run"}
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, start_new_session=True, env=env,
            preexec_fn=jobs.end_with_parent,
        )  # fmt: skip
    asked, said, memory = False, time.monotonic(), None  # asked to stop; when progress was last shown; bytes at most
    while True:
        pid, code, used = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(code)
            memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # Linux counts in KiB
            break
        if not asked and (stop or time.monotonic() >= deadline):
            child.terminate()  # it saves a checkpoint
            asked = True
        if time.monotonic() - said >= jobs.EVERY:
            said, progress = time.monotonic(), "getting ready"
            if lines := [m for m in jobs.read_metrics(folder) if m["kind"] == "train"]:
                progress = f"step {lines[-1]['step']:,}/{steps:,}  loss {lines[-1]['loss']:.3f}"
            print(f"{run.id}: {progress}", flush=True)
        time.sleep(0.1)
    if any(m["kind"] == "done" for m in jobs.read_metrics(folder)):
        result = row(run, folder, memory)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return result
    if asked or stop:
        return None
    lines = [line for line in jobs.whole_lines(log, offset)[0] if line.strip()] or ["no output"]
    errors = [line for line in lines if line.startswith("error: ")] or lines
    error = errors[-1].removeprefix("error: ")
    if child.returncode < 0:
        error = f"killed by {signal.Signals(-child.returncode).name}; last line: {error}"
    earlier = sum(r["id"] == run.id and r["status"] == "failed" for r in read(out / "runs.jsonl"))
    return dataclasses.asdict(run) | {
        "set": list(run.set), "status": "failed",
        "try": earlier + 1, "code": child.returncode, "error": error, "command": shown_command(run, corpus),
    }  # fmt: skip


# ---- for the runbooks


def check(name: str, namespace: dict) -> Campaign:
    """The parameters of a runbook from its variables, `globals()`, checked: values, and names that do not exist."""
    rules = {
        "size": lambda n, v: _text(n, v, "|".join(SIZES), f"one of {', '.join(SIZES)}"),
        "corpus": _text,
        "minutes": lambda n, v: _number(n, v, 1e-3, 100_000),
        "first": lambda n, v: _number(n, v, 1, 1000, whole=True),
        "settings": _text,
        "out": _text,
        "device": lambda n, v: _text(n, v, "auto|cpu|cuda|mps", "auto, cpu, cuda or mps"),
    }
    shell = namespace.get("get_ipython", lambda: None)()
    hidden = {"In", "Out", "exit", "quit", "open"} | set(getattr(shell, "user_ns_hidden", ()))  # the notebook's own
    plain = (str, int, float, complex, list, tuple, dict, set, types.NoneType)
    given = {n: v for n, v in namespace.items() if not n.startswith("_") and n not in hidden and isinstance(v, plain)}
    if wrong := [n for n in given if n not in rules]:
        raise UserError(f"parameter {wrong[0]} does not exist; there are {', '.join(rules)}")
    nothing = (None, "", "None", "none", "null")
    value = {n: rules[n](n, v) for n, v in given.items() if v not in nothing}
    settings = tuple(value.pop("settings", "").split())
    args = Campaign(name, set=settings, **value)
    for run in grid(name, args.size, args.first, args.set):
        run.plan()
    return args


def work(args: Campaign) -> list[dict]:
    """Have a grid done in a process of its own, which outlives the notebook, and follow it; returns the rows.

    Run again, it joins the process or goes on.
    """
    out = folder_of(args)
    argv = ["gpt2course.ops.sweep", args.grid, "--size", args.size, "--out", str(out), "--device", args.device]
    for name in ("corpus", "minutes", "first"):
        if getattr(args, name) is not None:
            argv += [f"--{name}", str(getattr(args, name))]
    if args.set:
        argv += ["--set", *args.set]
    with jobs.alone(out):
        record = jobs.living(out, "campaign") or jobs.launch(out, "campaign", argv, jobs.digest(argv))
    at, over = record["log_from"], False
    while True:
        alive = jobs.living(out, "campaign") is not None
        lines, at = jobs.whole_lines(jobs.paths(out, "campaign")[0], at)
        for line in lines:
            if not over and not line.startswith("error: "):
                print(line, flush=True)
            over = over or bool(re.match(END, line))  # the table that follows is the notebook's to show
        if not alive:
            break
        time.sleep(0.2)
    text = jobs.whole_lines(jobs.paths(out, "campaign")[0], record["log_from"])[0]
    if not any(re.match(END, line) for line in text):
        raise jobs.failure(out, "campaign", record)
    return read(out / "runs.jsonl")


def main(args: Campaign) -> None:
    if args.plan:
        print(describe(grid(args.grid, args.size, args.first, args.set), args.size))
        return
    print(table(campaign(args)))


if __name__ == "__main__":
    command(main)
