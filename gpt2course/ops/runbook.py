"""The stages of runbooks/speedrun.ipynb, and the command that stops a training. Lesson 14.

A stage is one command, for example `python -m gpt2course.evaluate RUN --out FILE`. `stage` runs it as a child process,
prints its lines, and keeps the result in `runs/<name>/stages/<stage>.json` with a hash of the inputs. Run the notebook
again, and a stage whose inputs are the same is not repeated: the notebook prints its earlier output.

Training runs under torchrun in a session of its own, so it continues if the notebook stops. Run again, the notebook
attaches to a training that runs, resumes one that was stopped, and skips one that is finished.
"""

import contextlib
import dataclasses
import json
import math
import os
import platform
import sys
import time
import typing
from pathlib import Path

import psutil
from tyro.conf import Positional

from gpt2course import files, ranks
from gpt2course.core_tasks import MINI, default_bundle
from gpt2course.course import plots
from gpt2course.data import SHARD_CORPORA
from gpt2course.files import EVERY, UserError, coerce, duration, locked, read_json, run_folder, write_json
from gpt2course.ops import download, leaderboard
from gpt2course.ops.children import failure, launch, read_lines, show
from gpt2course.ops.parameters import CLONE, Params, Run, digest
from gpt2course.runlog import read_metrics

STAGES = ("preflight", "data", "tokenizer", "smoke", "train", "evaluate", "core", "samples", "export", "summary")
RESTARTS = 5  # how often torchrun restarts the ranks before the training cell fails
PROMPTS = ("The capital of France is", "My fellow citizens, the state of", "In 1969,", "The human heart is",
           "She was born in", "Water is")  # fmt: skip

# The package's run of the laptop profile, to which a run with the learner's pieces is compared
RECORDED = CLONE / "results" / "2026-11-29_laptop-curve" / "metrics.jsonl"


# ---- stages, and what they leave


def fingerprint(path) -> list:
    """Names, sizes and times of a file, or of the files in a folder; empty for a corpus that is known by its name."""
    path = Path(path).expanduser()
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] * path.exists()
    return [[str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns] for p in found]


def stored(folder: Path, stage: str) -> dict | None:
    """What a stage left: {"inputs", "result", "seconds", "finished"}; None if there is nothing readable."""
    with contextlib.suppress(UserError, AttributeError):
        value = read_json(folder / "stages" / f"{stage}.json", "stage")
        return value if {"inputs", "result", "seconds", "finished"} <= value.keys() else None


def store(run: Run, stage: str, key: str, result: dict, seconds: float) -> dict:
    value = {"inputs": key, "seconds": round(seconds, 2), "finished": time.strftime("%Y-%m-%d %H:%M:%S")}
    write_json(run.folder / "stages" / f"{stage}.json", value | {"result": result})
    return result


def kept(run: Run, stage: str, key: str, log: Path, last: int = 1000) -> dict | None:
    """The stored result if it was made from the same inputs; prints the last lines of its log."""
    old = stored(run.folder, stage)
    if old is None or old["inputs"] != key:
        return None
    print(f"{stage}: done {old['finished']} from the same inputs, in {duration(old['seconds'])}; its output was:")
    show(read_lines(log)[0][-last:] if log.exists() else [])
    return old["result"]


def stage(run: Run, name: str, argv: list[str], inputs, devices: int = 1, always: bool = False) -> dict:
    """The result that the command `python -m argv --out FILE` writes. inputs: what decides it besides argv.

    The command ends with this process, however that ends.
    """
    folder = run.folder / "stages"
    log, out, key = folder / f"{name}.log", folder / f".{name}.out", digest([argv, inputs])
    with locked(folder / ".lock", wait=True):
        if not always and (result := kept(run, name, key, log)) is not None:
            return result
        for path in (folder / f"{name}.json", out):  # a failure must not leave an old result
            path.unlink(missing_ok=True)
        began, at, code = time.monotonic(), 0, None
        team = devices if devices > 1 else 0
        child = launch([*argv, "--out", str(out)], log, "wb", team, 0, preexec_fn=ranks.end_with_parent)
        try:
            while code is None:
                code = child.poll()  # before the log is read, so that no line is missed
                lines, at = read_lines(log, at)
                show(lines)
                time.sleep(0.05 if code is None else 0)
        finally:
            child.kill()
            child.wait()
        if code:
            raise failure(name, read_lines(log)[0], log, code)
        result = read_json(out, f"result of stage {name}")
        out.unlink()
        return store(run, name, key, result, time.monotonic() - began)


# ---- background processes: training and the download


def background(run: Run, name: str, argv: list[str], key: str, team: int = 0) -> dict:
    """Start `python -m argv` so that it outlives this process; returns its record, which <name>.pid keeps."""
    log, path = run.folder / f"{name}.log", run.folder / f"{name}.pid"
    log.touch()
    record = {"inputs": key, "log_from": log.stat().st_size}

    def write():  # in the child, which inherits the lock of `start`: whenever it runs, its record is there
        me = {"pid": os.getpid(), "created": psutil.Process().create_time(), "node": platform.node()}
        write_json(path, record | me)

    launch(argv, log, "ab", team, RESTARTS, preexec_fn=write)
    return read_json(path)


def living(folder: Path, name: str = "train") -> dict | None:
    """The record of a background process that runs. Its start time tells it from a later process with the same pid."""
    with contextlib.suppress(UserError, psutil.Error, KeyError, TypeError, ValueError):
        record = read_json(folder / f"{name}.pid", "pid file")
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["created"]) < 5  # the system's clock may have been set meanwhile
        return record if same and process.status() != psutil.STATUS_ZOMBIE else None


def state(folder: Path) -> str:
    """Of the training: new, running, stopped or finished."""
    if living(folder):
        return "running"
    kinds = {line["kind"] for line in read_metrics(folder)}
    return "finished" if "done" in kinds else "stopped" if (folder / "train.log").exists() else "new"


def recipe_arguments(run: Run) -> list[str]:
    """The arguments that train and preflight share."""
    p = run.params
    argv = [p.recipe, "--profile", p.profile, "--corpus", run.corpus, *p.arguments("device_batch"), *["--fp8"] * p.fp8]
    return [*argv, "--seed", str(p.seed), *(["--set", *p.changes] if p.changes else [])]


def train_command(run: Run) -> tuple[list[str], str]:
    """(what trains the run, a hash of what decides the weights)."""
    p = run.params
    argv = [*run.program("train"), *recipe_arguments(run), "--name", run.name]
    save = p.save_minutes or (1.0 if p.profile == "laptop" else 10.0)  # a small checkpoint takes a moment
    free = ["--log-seconds", str(EVERY), "--save-minutes", str(save), "--stall-seconds", str(60 * p.stall_minutes)]
    free += p.arguments("price_per_hour", "max_hours", "max_cost_usd")
    return [*argv, *free], digest([argv, fingerprint(run.corpus)])


def start(run: Run) -> dict:
    """Start or resume training, unless it runs; returns the record of its torchrun."""
    argv, key = train_command(run)
    with locked(run.folder / "start.lock", wait=True):
        if record := living(run.folder):
            if record["inputs"] != key:
                what = f"run {run.name!r} is being trained with other settings (process {record['pid']})"
                fix = f"use another name, or stop that training: python -m gpt2course.ops.runbook stop {run.name}"
                raise UserError(f"{what}; {fix}")
            print(f"training runs already in process {record['pid']}; this notebook follows it")
            return record
        (run.folder / "error.json").unlink(missing_ok=True)
        record = background(run, "train", argv, key, run.sizes.devices)
    print(f"training runs in process {record['pid']} and continues if this notebook stops")
    print(f"to stop it with a checkpoint: {sys.executable} -m gpt2course.ops.runbook stop {run.name}")
    return record


def follow(name: str, at: int = 0) -> None:
    """Print the lines of a training from byte `at` of its log until it ends."""
    folder, spoke = run_folder(name), time.monotonic()
    while True:
        record = living(folder)  # before the log is read, so that no line is missed
        lines, at = read_lines(folder / "train.log", at)
        show(lines)
        if record is None:
            return
        if (folder / "error.json").exists():  # torchrun would repeat this error after each restart
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (p := psutil.Process(record["pid"]), *p.children(recursive=True)):
                    process.kill()
        if not lines and time.monotonic() - spoke >= 2 * EVERY:
            lines = ["training runs"]
            show(lines)
        spoke = time.monotonic() if lines else spoke
        time.sleep(0.2)


def stop(name: str, wait: float = 300.0) -> bool:
    """Ask a training to save a checkpoint and end (SIGTERM); returns whether it has ended."""
    folder, deadline = run_folder(name), time.monotonic() + wait
    if record := living(folder):
        print(f"process {record['pid']} is asked to save a checkpoint and end", flush=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(record["pid"]).terminate()
    while living(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    if record := living(folder):
        print(f"it has not ended within {wait:g} s; to kill it: kill -9 {record['pid']}")
    return record is None


def wait_for_shards(run: Run, what: str, enough) -> None:
    """Wait until the background download has brought enough, and print its progress."""
    log, spoke = run.folder / "download.log", -math.inf
    while True:
        alive = living(run.folder, "download")  # before the shards are counted, so that none is missed
        if enough(progress := download.progress(run.corpus)):
            return
        if not alive:
            record = read_json(run.folder / "download.pid", "the data cell has not run:")
            raise failure("download", read_lines(log, record["log_from"])[0], log)
        if time.monotonic() - spoke >= EVERY:
            print(f"{what} waits for {download.progress_text(progress)}", flush=True)
            spoke = time.monotonic()
        time.sleep(0.5)


# ---- the stages, as the notebook calls them


def bundle(p: Params) -> str:
    """The evaluation bundle; without CORE's, which must be downloaded, mini-CORE."""
    mini = p.core_bundle == "mini" or p.core_bundle is None and p.profile == "laptop"  # there CORE would take hours
    return str(MINI if mini else p.core_bundle or default_bundle())


def preflight(run: Run, *smoke: str) -> dict:
    """Check the machine, the corpus and the limits; with smoke arguments also train a small model here."""
    if (now := state(run.folder)) in ("running", "finished"):
        print(f"skipped, since training is {now}")
        return {}
    argv = ["gpt2course.ops.preflight", *recipe_arguments(run), "--devices", str(run.sizes.devices)]
    argv += [*run.params.arguments("price_per_hour"), *smoke, *["--no-core"] * (run.params.core_bundle is not None)]
    return stage(run, "smoke" if smoke else "preflight", argv, platform.node(), always=not smoke)


def data(run: Run) -> dict:
    """The corpus. What a GPU profile lacks is downloaded: CORE's questions now, shards in the background."""
    p = run.params
    if p.core_bundle is None and p.profile != "laptop":
        download.get_core()
    if run.corpus.partition(":")[0] in SHARD_CORPORA:
        with locked(run.folder / "start.lock", wait=True):
            progress = download.progress(run.corpus)
            if progress["done"] < progress["total"] and not living(run.folder, "download"):
                background(run, "download", ["gpt2course.ops.download", run.corpus], run.corpus)
        wait_for_shards(run, "data", lambda p: p["first"])
    return stage(run, "data", ["gpt2course.data", run.corpus], fingerprint(run.corpus))


def tokenizer(run: Run) -> dict:
    """The tokenizer: how much it compresses, and a sentence in coloured tokens."""
    vocab_size = run.sizes.plan.model.vocab_size
    argv = [*run.program("tokenizer"), "--corpus", run.corpus, "--vocab-size", str(vocab_size)]
    r = stage(run, "tokenizer", argv, fingerprint(run.corpus))
    plots.show(plots.coloured_tokens(r["pieces"]))
    return r


def smoke(run: Run) -> dict:
    """A small training by the same command on this machine, judged by its loss and speed."""
    p = run.params
    if p.smoke is False or p.smoke is None and p.profile == "laptop":
        print("skipped: smoke = true makes it")
        return {}
    return preflight(run, "--smoke")


def train(run: Run) -> dict:
    """Train, and follow it; figures of the learning rates and the speed."""
    if run.corpus.partition(":")[0] in SHARD_CORPORA:
        wait_for_shards(run, "training", lambda p: p["done"] >= p["total"])
    log, key = run.folder / "train.log", train_command(run)[1]
    result = kept(run, "train", key, log, last=12) if state(run.folder) == "finished" else None
    if result is None:
        record = start(run)
        follow(run.name, record["log_from"])
        if state(run.folder) != "finished":
            raise failure("train", read_lines(log, record["log_from"])[0], log)
        last = {line["kind"]: line for line in read_metrics(run.folder)}
        result = {name: last["done"][name] for name in ("step", "tokens", "seconds")}
        result |= {"loss": last["train"]["loss"], "val_bpb": last["eval"]["val_bpb"]}
        store(run, "train", key, result, sum(time_of_training(run.folder).values()))
    metrics = read_metrics(run.folder)
    plots.show(plots.learning_rates(metrics))
    plots.show(plots.throughput(metrics))
    return result


def weights(run: Run) -> list:
    """The step and the sha256 of the newest checkpoint, on which the results of the model depend."""
    found = sorted((run.folder / "checkpoints").glob("step_*/state.json"))
    if not found:
        raise UserError(f"run {run.name!r} has no checkpoint; run the training cell first")
    newest = read_json(found[-1], "checkpoint state")
    return [newest["step"], newest["sha256"]["model.safetensors"]]


def evaluate(run: Run) -> dict:
    """Bits per byte of the model on the validation text, beside `xz -9e` on the same bytes."""
    inputs = [weights(run), fingerprint(run.corpus)]
    r = stage(run, "evaluate", [*run.program("evaluate"), run.name], inputs, run.sizes.devices)
    p, beside = run.params, []
    if p.mine and (p.profile, p.recipe, p.corpus, p.changes) == ("laptop", "jan29", None, []) and RECORDED.exists():
        beside = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
        print(f"the grey curve is the package's own run of this recipe, recorded in {RECORDED.parent.name}")
    plots.show(plots.loss_and_bpb(read_metrics(run.folder), r["xz_bpb"], beside))
    return r


def core(run: Run) -> dict:
    """The score on CORE, or on the small bundle that comes with the course, with its bars."""
    found, most = bundle(run.params), run.params.core_examples
    argv = ["gpt2course.fast.core_fast", run.name, "--bundle", found, *(["--max-examples", str(most)] if most else [])]
    r = stage(run, "core", argv, [weights(run), fingerprint(found)], run.sizes.devices)
    ours = {label: task["centred"] for label, task in r["result"]["tasks"].items()}
    plots.show(plots.core_bars(ours, r["gpt2"] if r["result"]["name"] == "CORE" else {}, run.name))
    return r


def samples(run: Run) -> dict:
    """Six prompts, continued by the model."""
    argv = [*run.program("sample"), run.name, "--prompt", *PROMPTS, "--number", "1"]
    return stage(run, "samples", argv, weights(run))


def export(run: Run) -> dict:
    """The model as a folder to keep: weights, configuration, tokenizer, model card, checksums."""
    gone = not (run.folder / "export" / "model.safetensors").exists()
    return stage(run, "export", ["gpt2course.ops.export", run.name], weights(run), always=gone)


def time_of_training(folder: Path) -> dict[str, float]:
    """Seconds of training by part, from its metrics: steps, evaluations, checkpoints; not what an interruption cost."""
    parts, previous = {}, 0
    for m in read_metrics(folder):
        times = {m["kind"]: m["took"]} if m["kind"] in ("eval", "checkpoint") else {}
        if m["kind"] == "train":  # the mean of the steps since the line before
            times, previous = {k: v * (m["step"] - previous) for k, v in m["time"].items()}, m["step"]
        for part, seconds in times.items():
            parts[part] = parts.get(part, 0.0) + seconds
    return parts


def summary(run: Run) -> dict:
    """Where the time went, this run beside the published ones, total time and cost; writes summary.json."""
    found = {name: stored(run.folder, name) for name in ("train", "evaluate", "core", "samples", "export")}
    if missing := [name for name, value in found.items() if value is None]:
        raise UserError(f"stage {missing[0]} has no result yet; run its cell first")
    parts, price = {}, run.params.price_per_hour
    for name in STAGES:
        if name == "train":
            parts |= {f"train: {part.replace('_', ', ')}": s for part, s in time_of_training(run.folder).items()}
        elif other := stored(run.folder, name):
            parts[name] = other["seconds"]
    plots.show(plots.where_time_went(parts))
    row, entries = leaderboard.entry_from_run(run.folder), leaderboard.read()
    print(leaderboard.table([*entries, row]))
    plots.show(plots.leaderboard_figure([dataclasses.asdict(e) for e in entries], dataclasses.asdict(row)))
    seconds = sum(parts.values())
    out = {name: value["result"] for name, value in found.items()} | {"seconds": seconds}
    out["usd"] = None if price is None else seconds / 3600 * price
    write_json(run.folder / "summary.json", out)
    cost = "no price_per_hour was given" if price is None else f"${out['usd']:.2f} at ${price:g} an hour"
    print(f"everything is in {run.folder}; total time {duration(seconds)}; cost: {cost}")
    print("this notebook as a web page: jupyter nbconvert --to html NOTEBOOK.ipynb")
    return out


def main(action: Positional[typing.Literal["stop"]], name: Positional[str], wait: float = 300.0):
    """Stop the training of a run of runbooks/speedrun.ipynb, with a checkpoint.

    Example: python -m gpt2course.ops.runbook stop jan29-d4

    Args:
        action: What to do.
        name: Name of the run.
        wait: Seconds to wait for the end of the training.
    """
    folder = run_folder(name)
    if not (folder / "stages").is_dir():
        have = sorted(p.parent.name for p in (files.home() / "runs").glob("*/stages"))
        raise UserError(f"there is no run {name!r} in {folder.parent}; there are {', '.join(have) or 'none'}")
    node = None
    with contextlib.suppress(UserError, AttributeError):  # no pid file yet, or a damaged one
        node = read_json(folder / "train.pid").get("node")
    if node not in (None, platform.node()) and state(folder) == "stopped":
        raise UserError(f"the training of run {name!r} was started on machine {node}; stop it there")
    ended = stop(name, coerce("wait", wait, float, 0))
    print(f"run {name} is {state(folder)}; its output is in {folder / 'train.log'}")
    sys.exit(0 if ended else 1)


if __name__ == "__main__":
    files.command(main)
