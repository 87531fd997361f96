"""Lesson 09. A list of training runs, one after another. The grids are in runbooks/ladder and runbooks/scaling_laws.

Each run is `python -m gpt2course.train` in a child process. A finished run is a line of OUT/runs.jsonl and is not
repeated. A run that was stopped or killed continues from its checkpoint when the same notebook is run again.
"""

import dataclasses
import hashlib
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gpt2course.files import EVERY, UserError, atomic_file, duration, home, locked, read_json
from gpt2course.ops.parameters import Params
from gpt2course.ranks import end_with_parent
from gpt2course.recipes import Plan, one_of, resolve, settings_from_text, within
from gpt2course.runlog import read_metrics

SIZES = {  # size of a grid -> (corpus, bytes of validation text at the end)
    "laptop": ("embedded", 200_000),
    "h100": ("climbmix", 8_000_000),
}


@dataclass(frozen=True)
class Sweep:
    """The parameters of a runbook of many runs."""

    grid: str = one_of("isoflop", "miniseries", default="isoflop")  # of scaling_laws
    size: str = one_of(*SIZES, default="laptop")
    corpus: str | None = None
    minutes: float | None = within(None, 1e-3, 1e5)
    first: int | None = within(None, 1, 10**6)
    settings: str = ""
    out: str | None = None
    device: str = one_of("auto", "cpu", "cuda", "mps", default="auto")

    check = classmethod(Params.check.__func__)  # the same checks as for the parameters of the speedrun
    from_namespace = classmethod(Params.from_namespace.__func__)

    def chosen(self, runs: list["Run"]) -> list["Run"]:
        """The first of these runs, with the settings that the person gave in place of the grid's."""
        own = settings_from_text(self.settings.split())
        changed = [settings_from_text(run.set) | own for run in runs[: self.first]]
        sets = [tuple(f"{name}={value}" for name, value in settings.items()) for settings in changed]
        return [dataclasses.replace(run, set=pairs) for run, pairs in zip(runs, sets)]


@dataclass(frozen=True)
class Run:
    """One run of a grid."""

    id: str
    recipe: str
    set: tuple[str, ...]  # settings of the recipe, name=value
    seed: int = 1
    budget: float | None = None  # FLOPs that the grid asks for

    @property
    def plan(self) -> Plan:
        return resolve(self.recipe, **settings_from_text(self.set))


def with_seeds(runs: list[Run], seeds=(1, 2)) -> list[Run]:
    """All of the runs with the first seed, then all with the next one; an id ends in its seed."""
    return [dataclasses.replace(run, id=f"{run.id}-s{seed}", seed=seed) for seed in seeds for run in runs]


def describe(runs: list[Run]) -> str:
    """The runs as a table, before they are trained."""
    lines = [f"{'run':34} {'N':>11} {'tokens':>12} {'FLOPs':>9} {'steps':>6}"]
    plans = [run.plan for run in runs]
    for run, plan in zip(runs, plans):
        numbers = f"{plan.params['scaling']:11,} {plan.tokens:12,} {plan.flops:9.2e} {plan.steps:6,}"
        lines.append(f"{run.id:34} {numbers}")
    return "\n".join(lines + [f"{len(runs)} runs, {sum(plan.flops for plan in plans):.3g} FLOPs"])


def read(path) -> list[dict]:
    """The finished runs in a runs.jsonl; none where there is no file."""
    lines = Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
    try:
        return [json.loads(line) for line in lines]
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); delete the damaged line to train that run again") from None


def sweep(runs: list[Run], args: Sweep, name: str) -> list[dict]:
    """Train the runs that are not finished; returns the lines of all finished runs."""
    out = Path(args.out).expanduser().absolute() if args.out else home() / "sweeps" / name
    path, end = out / "runs.jsonl", time.monotonic() + 60 * (args.minutes or math.inf)
    with locked(out / "lock", f"{out} is used by another sweep"):
        for number, run in enumerate(runs, 1):
            rows = read(path)
            if old := next((row for row in rows if row["id"] == run.id), None):
                if settings_from_text(old["set"]) != settings_from_text(run.set):
                    raise UserError(f"{path} has run {run.id} with other settings; give another folder with out")
                continue
            began = time.monotonic()
            row = train(run, args, out, end)
            if row is None:
                print(f"minutes = {args.minutes:g} are over; restart the kernel and run all to continue", flush=True)
                return rows
            with atomic_file(path) as f:
                f.writelines(json.dumps(row) + "\n" for row in [*rows, row])
            took = duration(time.monotonic() - began)
            print(f"[{number}/{len(runs)}] {run.id}: val bpb {row['val_bpb']:.4f}, {took}", flush=True)
    print(f"all {len(runs)} runs are finished: {path}", flush=True)
    return read(path)


def train(run: Run, args: Sweep, out: Path, end: float) -> dict | None:
    """Train one run in a child process, or continue it: its line, or None when the time `end` came first."""
    corpus, final_eval_bytes = SIZES[args.size]
    corpus, steps = args.corpus or corpus, run.plan.steps
    key = json.dumps([str(out), run.recipe, run.set, run.seed, corpus]).encode()
    folder = home() / "runs" / f"{run.id}-{hashlib.sha256(key).hexdigest()[:8]}"
    command = [
        sys.executable, "-m", "gpt2course.train", run.recipe, "--name", folder.name, "--seed", str(run.seed),
        "--corpus", corpus, "--device", args.device, "--eval-every", str(max(1, math.ceil(steps / 20))),
        "--final-eval-bytes", str(final_eval_bytes), "--save-minutes", "2", "--keep", "1",
        "--log-seconds", str(EVERY), "--set", *run.set,
    ]  # fmt: skip
    with open(out / "train.log", "a+", encoding="utf-8", errors="replace") as log:
        begin, shown = log.seek(0, 2), time.monotonic()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=end_with_parent,
        )  # fmt: skip
        try:
            while child.poll() is None:
                if time.monotonic() >= end:
                    break
                if time.monotonic() - shown >= EVERY:
                    shown, lines = time.monotonic(), [m for m in read_metrics(folder) if m["kind"] == "train"]
                    where = f"step {lines[-1]['step']:,}/{steps:,}, loss {lines[-1]['loss']:.3f}" if lines else "starts"
                    print(f"{run.id}: {where}", flush=True)
                time.sleep(0.1)
        finally:
            if child.poll() is None:
                child.terminate()  # it saves a checkpoint
                child.wait()
        if any(m["kind"] == "done" for m in read_metrics(folder)[-1:]):
            row = line(run, folder)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            return row
        if time.monotonic() >= end:
            return None
        log.seek(begin)
        last = [text for text in log.read().splitlines() if text.strip()][-1:] or ["no output"]
        raise UserError(f"run {run.id} ended: {last[0].removeprefix('error: ')}; all its lines are in {log.name}")


def line(run: Run, folder: Path) -> dict:
    """The line of a finished run, from its files."""
    config, metrics = read_json(folder / "config.json", "run configuration"), read_metrics(folder)
    train, evals = ([m for m in metrics if m["kind"] == kind] for kind in ("train", "eval"))
    done, curve = metrics[-1], {}
    for m in evals:
        curve.setdefault(m["step"], [m["step"], m["tokens"], m["flops"], m["seconds"], m["val_bpb"]])
    made = ("val_sha256", "tokenizer_sha256", "dtype", "commit", "machine")
    return dataclasses.asdict(run) | {
        "n": config["plan"]["params"]["scaling"], "tokens": done["tokens"], "flops": done["flops"],
        "steps": done["step"], "epochs": done["epochs"], "seconds": done["seconds"],
        "val_bpb": evals[-1]["val_bpb"], "val_bytes": evals[-1]["val_bytes"],
        "tok_per_sec": statistics.median(m["tok_per_sec"] for m in train),
        "peak_memory_bytes": done.get("peak_memory_bytes"), "curve": list(curve.values()),
        "corpus": Path(config["corpus"]).name, **{key: config[key] for key in made},
    }  # fmt: skip


def variants(rows: list[dict]) -> dict[str, list[dict]]:
    """The runs that differ only in their seed, by their id without the seed."""
    found = {}
    for row in rows:
        found.setdefault(re.sub(r"-s\d+$", "", row["id"]), []).append(row)
    return found


def table(rows: list[dict]) -> str:
    """Finished runs as text, the lowest bits per byte first; sd is the standard deviation over seeds."""
    lines = [f"{'runs':34} {'val bpb':>8} {'sd':>7} {'seeds':>5} {'N':>11} {'tokens':>12} {'seconds':>8}"]
    mean = lambda group, key: statistics.mean(row[key] for row in group)
    for name, group in sorted(variants(rows).items(), key=lambda item: mean(item[1], "val_bpb")):
        bpb = [row["val_bpb"] for row in group]
        sd = f"{statistics.stdev(bpb):.4f}" if len(bpb) > 1 else "-"
        cost = f"{group[0]['n']:11,} {group[0]['tokens']:12,} {mean(group, 'seconds'):8.1f}"
        lines.append(f"{name:34} {mean(group, 'val_bpb'):8.4f} {sd:>7} {len(group):5} {cost}")
    return "\n".join(lines)
