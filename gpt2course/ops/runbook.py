"""The stages that runbooks/speedrun.ipynb drives, and the commands status, follow and stop. Lesson 14.

A stage does its work in a child process (work.py, by jobs.py) and leaves `runs/<name>/stages/<stage>.json`: a hash of
all that decides the result, the result, and the seconds it took. Run the notebook again and a stage whose inputs are
the same shows what it stored. The notebook's kernel only prints and draws: it holds no model and never loads torch.

Training runs under a supervisor (supervise.py) in a session of its own and writes to its own files; the notebook
follows them. So a kernel that dies costs nothing, and the notebook, run again, attaches to the training that lives,
goes on from the newest checkpoint of one that died, or skips one that is done.
"""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2course.ops import jobs, shards
from gpt2course.core_tasks import MINI, default_bundle
from gpt2course.files import UserError, command, read_json, run_folder, write_json
from gpt2course.ops.jobs import EVERY, describe, duration, follow, read_metrics, status, stop, stored
from gpt2course.ops.params import STAGES, Params
from gpt2course.ops.shards import SHARD_CORPORA

PROMPTS = (
    "The capital of France is",
    "My fellow citizens, the state of",
    "In 1969,",
    "The human heart is",
    "She was born in",
    "Water is",
)


@dataclass(frozen=True)
class Run:
    """A run to be made: the parameters and all that follows from them."""

    params: Params
    name: str
    folder: Path  # home()/runs/<name>
    plan: dict  # every number of the run, see recipes.Plan
    corpus: str  # "climbmix:182" where climbmix was asked for: the shards that this run needs, whatever else is there
    device_batch: int
    devices: int  # processes that train together
    bundle: str | None  # None: the packaged mini-CORE, or that of CORE once it is there
    download: tuple[str, ...]  # of "corpus" and "bundle": what the run fetches


def open_run(params: Params) -> Run:
    """Derive the run from checked parameters, and print what it will be."""
    plan, corpus = params.resolved["plan"], params.corpus or params.resolved["corpus"]
    model, n, download = plan["model"], plan["params"], ()
    name = params.name or f"{params.recipe}-d{model['n_layer']}"
    if corpus.partition(":")[0] in SHARD_CORPORA:
        download = ("corpus",)
        if ":" not in corpus:
            corpus = f"{corpus}:{shards.needed(corpus, plan['tokens'])}"
    bundle = None if params.core_bundle == "mini" else params.core_bundle
    if params.core_bundle is None and params.profile != "laptop":  # a whole CORE takes hours on a laptop
        found = default_bundle()
        bundle, download = (None, (*download, "bundle")) if found == MINI else (str(found), download)
    devices, device_batch = params.resolved["devices"], params.resolved["device_batch"]
    run = Run(params, name, run_folder(name), plan, corpus, device_batch, devices, bundle, download)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        why = f"run folder {run.folder} cannot be made ({e.strerror})"
        raise UserError(f"{why}; set GPT2COURSE_HOME to a folder that you may write to") from None
    print(f"run {name} in {run.folder}")
    sizes = f"depth {model['n_layer']}, width {model['n_embd']}, T {model['sequence_len']}"
    print(
        f"recipe {params.recipe}: {sizes}, vocabulary {model['vocab_size']:,}; "
        f"{n['total']:,} parameters, {n['scaling']:,} of them scaling"
    )
    work = f"{plan['steps']:,} steps of {plan['batch_tokens']:,} tokens = {plan['tokens']:,} tokens"
    print(f"{work} of {corpus}, {plan['flops']:.3g} FLOPs")
    idle = params.resolved["gpus"] - devices if params.profile == "8xh100" else 0
    rest = f"; {idle} GPUs stay idle, since so many cannot share a batch" if idle > 0 else ""
    print(f"on {devices} device{'s' if devices > 1 else ''}{rest}")
    return run


# ---- stages: done once for the same inputs


def fingerprint(path) -> str:
    """A digest of names, sizes and times of a corpus's or a bundle's file, or of all in its folder; "" without one."""
    from gpt2course.data import corpus_path

    if str(path).partition(":")[0] in SHARD_CORPORA:
        return shards.fingerprint(str(path))  # of the plan, whatever has arrived
    path = corpus_path(str(path))
    if path is None or not path.exists():
        return ""
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return jobs.digest([[str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns] for p in found])


def _kept(run: Run, stage: str, key: str):
    """The stored result of a stage if the same inputs made it and nobody asked for another; says so."""
    old = stored(run.folder, stage)
    if old is None or old["inputs"] != key or run.params.force_stage == stage:
        return None
    print(
        f"{stage}: done already, {old['finished']}, in {duration(old['seconds'])}; "
        f"its inputs are the same, so this is what it found (force_stage = {stage!r} does it again)"
    )
    return old["result"]


def _stage(run: Run, stage: str, request: dict, always: bool = False, devices: int = 1):
    """The result of a stage: the stored one, or (`always`) made in a child process, or on all `devices`.

    Its lines are shown as they come.
    """
    key = jobs.digest(request)
    if not always and (result := _kept(run, stage, key)) is not None:
        return result
    with jobs.alone(run.folder):
        record = jobs.living(run.folder, stage)
        if record and record["inputs"] != key:
            what = f"stage {stage} of run {run.name!r} is at work with other inputs (process {record['pid']})"
            raise UserError(f"{what}; wait for it, or `kill {record['pid']}`")
        if record is None:
            jobs.end_all(run.folder, stage)  # what is left of one that was killed
            argv = [*jobs.on_devices(devices), "gpt2course.ops.work", stage, "--name", run.name]
            argv += ["--began", repr(time.time()), "--request", json.dumps(request)]
            (run.folder / "stages" / f"{stage}.json").unlink(missing_ok=True)  # a failure must not leave what was
            record = jobs.launch(run.folder, stage, argv, key)
    log, at = jobs.paths(run.folder, stage)[0], record["log_from"]
    try:
        alive = True
        while alive:
            alive = jobs.living(run.folder, stage) is not None
            lines, at = jobs.whole_lines(log, at)
            for line in lines:
                if not line.startswith("error: "):  # raised below
                    print(line, flush=True)
            time.sleep(0.1 if alive else 0)
    except KeyboardInterrupt:
        jobs.end_all(run.folder, stage)
        raise
    new = stored(run.folder, stage)
    if new is None or new["inputs"] != key:
        raise jobs.failure(run.folder, stage, record)
    return new["result"]


def show(run: Run, name: str, fig) -> None:
    """Show a figure of plots.py in the notebook, and keep it as report/<name>.png."""
    from gpt2course.course import plots
    from gpt2course.files import atomic_file

    with atomic_file(run.folder / "report" / f"{name}.png", "wb") as f:
        f.write(plots.png(fig))
    plots.show(fig)


# ---- training


def _train_argv(run: Run) -> list[str]:
    """The supervisor's command, with that of training in it."""
    p = run.params
    price, limits = [], []  # the limits are of all time at work, so the supervisor's
    for name in ("price_per_hour", "max_hours", "max_cost_usd"):
        if (value := getattr(p, name)) is not None:
            limits += ["--" + name.replace("_", "-"), repr(value)]
            price = limits[:2] if name == "price_per_hour" else price
    save_minutes = p.save_minutes or (1.0 if p.profile == "laptop" else 10.0)  # a small checkpoint costs a moment
    argv = [p.recipe, "--profile", p.profile, "--name", run.name, "--corpus", run.corpus, "--seed", str(p.seed)]
    argv += ["--log-seconds", str(EVERY), "--save-minutes", repr(save_minutes)]
    argv += ["--device-batch", str(run.device_batch)] if p.device_batch else []
    argv += ["--fp8"] if p.fp8 else []
    argv += price
    if changes := p.request()["changes"]:
        argv += ["--set", *changes]
    watch = ["--devices", str(run.devices), "--corpus", run.corpus, "--stall-minutes", repr(p.stall_minutes), *limits]
    return ["gpt2course.ops.supervise", run.name, *watch, "--train", json.dumps(argv)]


def _train_key(run: Run) -> str:
    """Of what decides the training; the limits and the price do not."""
    given = [run.plan, run.corpus, fingerprint(run.corpus), run.params.seed, run.device_batch, run.params.fp8]
    return jobs.digest(given)


def _set_aside(folder: Path) -> None:
    """Begin anew: the run moves to <name>.old<i>; what was stored before training stays."""
    aside = next(p for i in range(1, 10**6) if not (p := folder.with_name(f"{folder.name}.old{i}")).exists())
    os.replace(folder, aside)
    (folder / "stages").mkdir(parents=True)
    for stage in STAGES[: STAGES.index("train")]:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(aside / "stages" / f"{stage}.json", folder / "stages")
    print(f"the earlier run was moved to {aside}")


def start(run: Run) -> dict:
    """Start training in the background, or go on with it, unless it is at work; returns its process's record."""
    with jobs.alone(run.folder):
        record = jobs.living(run.folder, "train")
        if record:
            if record["inputs"] != _train_key(run):
                what = f"run {run.name!r} is being trained with other settings (process {record['pid']})"
                mend = f"give this one another name, or stop that one: python -m gpt2course.ops.runbook stop {run.name}"
                raise UserError(f"{what}; {mend}")
            print(f"training is at work already, process {record['pid']}: attached to it")
            return record
        s = status(run.name)
        if run.params.force_stage == "train" and s["state"] != "new":
            _set_aside(run.folder)
        elif (run.folder / "config.json").exists():
            config = read_json(run.folder / "config.json", "run configuration")
            ours = {"plan": run.plan, "corpus": run.corpus, "seed": run.params.seed, "fp8": run.params.fp8}
            if different := [k for k in ours if config.get(k) != ours[k]]:
                what = f"run {run.name!r} was begun with other settings ({', '.join(different)})"
                mend = "give this one another name, or force_stage = 'train', which moves the old run aside"
                raise UserError(f"{what}; {mend}")
        if s["state"] == "stopped" and run.params.force_stage != "train":
            for limit, each in (("max_hours", 1.0), ("max_cost_usd", run.params.price_per_hour)):
                if (most := getattr(run.params, limit)) is not None and (used := s["hours"] * each) >= most:
                    where = f"training stands at step {s['step'] or 0:,} of {run.plan['steps']:,}"
                    raise UserError(f"{where}, with {limit} = {most:g} used up ({used:.4g}); raise or drop it to go on")
        record = jobs.launch(run.folder, "train", _train_argv(run), _train_key(run))
    print(f"training in process {record['pid']}, its log is {jobs.paths(run.folder, 'train')[0]}")
    print(
        "it goes on if this notebook stops; from a terminal: "
        f"python -m gpt2course.ops.runbook status|follow|stop {run.name}"
    )
    return record


# ---- the stages, as the notebook calls them


def preflight(run: Run) -> dict:
    """Look at the machine, the corpus and the run folder before anything is spent; prints findings with their mends.

    Looks anew every time. Raises UserError if something must be mended first and training is still to be done.
    """
    p = run.params
    if status(run.name)["state"] == "running" and (old := stored(run.folder, "preflight")):
        print("training is at work, so the machine is left alone; this is what was found before")
        result = old["result"]
    else:
        request = {
            "profile": p.profile,
            "plan": run.plan,
            "device_batch": run.device_batch,
            "corpus": run.corpus,
            "bundle": run.bundle,
            "price": p.price_per_hour,
            "max_hours": p.max_hours,
            "max_cost_usd": p.max_cost_usd,
            "gpus": run.devices,
            "download": run.download,
        }
        result = _stage(run, "preflight", request, always=True)
    for level, what, text in result["findings"]:
        print(f"{level:8} {what:12} {text}")
    stops = [f"{what}: {text}" for level, what, text in result["findings"] if level == "STOP"]
    if stops and status(run.name)["state"] not in ("running", "finished"):
        raise UserError("; ".join(stops))
    return result


def data(run: Run) -> dict:
    """What the corpus holds, whose it is, and its first texts.

    What a GPU profile lacks is fetched: shards in the background, and CORE's bundle.
    """
    come, p = "corpus" in run.download, run.params
    core = p.profile != "laptop" and p.core_bundle is None
    request = {"corpus": run.corpus, "files": "" if come else fingerprint(run.corpus), "core": core}
    lacking = "bundle" in run.download or come and shards.progress(run.corpus)["state"] != "complete"
    result = _stage(run, "data", request, always=lacking)
    if come:
        print(shards.line(shards.progress(run.corpus)))
    for role in ("training", "validation"):
        s = result[role]
        print(f"{role:11} {s['documents']:>9,} documents, {'' if s['exact'] else 'about '}{s['bytes']:,} bytes")
    print(f"validation text: {result['val_name']}, sha256 {result['val_sha256']}")
    print("\n".join(f"licence: {line}" for line in result["licences"]))
    for text in result["first"]:
        print("\n" + textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  "))
    return result


def tokenizer(run: Run) -> dict:
    """Train the tokenizer or take up the one there is; how much it compresses, and a sentence in coloured tokens."""
    from gpt2course.course import plots

    vocab_size = run.plan["model"]["vocab_size"]
    r = _stage(run, "tokenizer", {"corpus": run.corpus, "files": fingerprint(run.corpus), "vocab_size": vocab_size})
    print(f"vocabulary of {r['vocab_size']:,} tokens, {r['how']}; sha256 {r['sha256'][:12]}, in {r['folder']}")
    print(f"{r['bytes_per_token']:.2f} bytes per token on the validation text")
    corpus = stored(run.folder, "data")
    if corpus:
        tokens, reads = corpus["result"]["training"]["bytes"] / r["bytes_per_token"], run.plan["tokens"]
        print(
            f"so the training text is about {tokens:,.0f} tokens, and the run reads {reads:,}: "
            f"{reads / tokens:.2g} times all of it"
        )
    print("a sentence as the model will see it:")
    show(run, "tokens", plots.coloured_tokens(r["pieces"], r["ids"]))
    return r


def smoke(run: Run) -> dict:
    """A small run by the same command on this machine, judged by its loss and its speed.

    Raises UserError if the large one should not begin here.
    """
    p, why = run.params, None
    if p.smoke is False:
        why = "since smoke = false"
    elif p.smoke is None and p.profile == "laptop":
        why = "as always on a laptop; smoke = true makes it"
    elif (state := status(run.name)["state"]) in ("running", "finished"):
        why = f"training is {state}"
    if why:
        print(f"smoke: left out, {why}")
        return {}
    args = {
        "recipe": p.recipe,
        "profile": p.profile,
        "set": p.request()["changes"],
        "corpus": run.corpus,
        "seed": p.seed,
        "gpus": run.devices,
        "device_batch": p.device_batch,
        "fp8": p.fp8,
    }
    result = _stage(run, "smoke", {"args": args, "node": platform.node()})
    for level, what, text in result["findings"]:
        print(f"{level:8} {what:12} {text}")
    if result["verdict"] != "ok":
        stops = [f"{what}: {text}" for level, what, text in result["findings"] if level == "STOP"]
        raise UserError("; ".join([*stops, "smoke = false goes on all the same"]))
    return result


def train(run: Run, every: float = EVERY) -> dict:
    """Train under a supervisor, following it through its files; figures of the learning rates and the speed."""
    from gpt2course.course import plots

    key = _train_key(run)
    result = _kept(run, "train", key) if status(run.name)["state"] == "finished" else None
    if result is None:
        record = start(run)
        s = follow(run.name, every)
        if s["state"] != "finished":
            lines = jobs.whole_lines(jobs.paths(run.folder, "train")[0], record["log_from"])[0] or [""]
            if lines[-1].startswith("stopped "):
                mend = "run this notebook again to go on, with a higher limit if one was reached"
                raise UserError(f"training {lines[-1].rpartition(';')[0]}; {mend}")
            raise jobs.failure(run.folder, "train", record)
        metrics = read_metrics(run.folder)
        done, last = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
        seconds = record["earlier"] + (run.folder / "metrics.jsonl").stat().st_mtime - record["started"]
        result = {name: done[name] for name in ("step", "tokens", "flops", "seconds")}
        result |= {name: last[name] for name in ("val_bpb", "val_bytes")}
        result |= {name: s[name] for name in ("loss", "peak_memory_bytes")}
        jobs.store(run.folder, "train", key, result, max(seconds, done["seconds"]))
    work = f"{result['step']:,} steps, {result['tokens']:,} tokens in {duration(result['seconds'])} of training"
    print(f"{work}; final loss {result['loss']:.3f}, val bpb {result['val_bpb']:.4f}")
    metrics = read_metrics(run.folder)
    took = [m.get("took", 0.0) for m in metrics if m["kind"] == "checkpoint"]
    share = sum(took) / max(1e-9, result["seconds"] + sum(took))
    print(f"{len(took)} checkpoints took {sum(took):.1f} s, {share:.2%} of the time of steps and checkpoints")
    show(run, "learning_rates", plots.learning_rates(metrics))
    show(run, "throughput", plots.throughput(metrics))
    return result


def _checkpoint(run: Run) -> dict:
    """The newest checkpoint as part of a request: its folder in the run, and the sha256 of its weights."""
    found = sorted((run.folder / "checkpoints").glob("step_*/state.json"))
    if not found:
        raise UserError(f"run {run.name!r} has no checkpoint; run the training cell first")
    state = read_json(found[-1], "checkpoint state")
    folder, weights = f"{run.name}/checkpoints/{found[-1].parent.name}", state["sha256"]["model.safetensors"]
    return {"checkpoint": folder, "step": state["step"], "weights": weights}


def evaluate(run: Run) -> dict:
    """Bits per byte of the saved weights on all validation text, beside `xz -9e` on the same bytes."""
    from gpt2course.course import plots

    request = _checkpoint(run) | {"corpus": run.corpus, "files": fingerprint(run.corpus)}
    r = _stage(run, "evaluate", request, devices=run.devices)
    text = f"{r['val_name']}, {r['documents']:,} documents{'' if r['whole'] else ', the first of more'}"
    print(f"{text}: model {r['val_bpb']:.4f} bits per byte, xz -9e {r['xz_bpb']:.4f}")
    print(ratio_line(r))
    show(run, "loss_and_bpb", plots.loss_and_bpb(read_metrics(run.folder), r["xz_bpb"]))
    return r


def ratio_line(r: dict) -> str:
    """The result of the evaluation in one sentence."""
    fewer = 1 - r["val_bpb"] / r["xz_bpb"]
    share = f"{abs(fewer):.1%} {'fewer' if fewer >= 0 else 'more'}"
    return f"the model needs {share} bits than xz -9e on the same {r['val_bytes']:,} bytes"


def core(run: Run) -> dict:
    """The score on CORE, or on the small bundle that comes with the course, with its bars."""
    from gpt2course.course import plots

    bundle = str(default_bundle()) if "bundle" in run.download else run.bundle
    request = _checkpoint(run) | {
        "run": run.name,
        "bundle": bundle,
        "files": fingerprint(bundle) if bundle else "",
        "max_examples": run.params.core_examples,
    }
    r = _stage(run, "core", request, devices=run.devices)
    print(r["table"])
    name = r["result"]["name"]
    ours = {label: task["centred"] for label, task in r["result"]["tasks"].items()}
    if name == "CORE":
        show(run, "core", plots.core_bars(ours, r["gpt2"], run.name))
        return r
    print(f"\n{name} is a test of its own: 0 is guessing, 1 is perfect, and its scores must not be compared with CORE.")
    show(run, "core", plots.core_bars(ours, {}, run.name))
    best, *others = reversed(r["gpt2"])
    print(
        f"For orientation, another test: the 22 tasks of CORE, which {run.name} did not take, "
        f"as the four GPT-2 models did. The bars are {best}, the bar of this course."
    )
    smaller = {model: r["gpt2"][model] for model in reversed(others)}
    show(run, "core_of_gpt2", plots.core_bars(r["gpt2"][best], smaller, best))
    return r


def samples(run: Run) -> dict:
    """Six prompts, continued by the model."""
    request = _checkpoint(run) | {"prompts": PROMPTS, "max_tokens": 64, "temperature": 0.8, "top_k": 50, "seed": 0}
    r = _stage(run, "samples", request)
    print(f"temperature {request['temperature']}, top-k {request['top_k']}; the prompt ends at |")
    for prompt, text in zip(r["prompts"], r["texts"]):
        print("\n" + textwrap.fill(f"{prompt} | {text.strip()}", 110, subsequent_indent="  "))
    return r


def export(run: Run) -> dict:
    """The model as a folder to keep: weights, configuration, tokenizer, model card, checksums."""
    in_card = [stored(run.folder, stage) for stage in ("evaluate", "core")]
    request = _checkpoint(run) | {"dtype": "bfloat16", "scored": [value["inputs"] for value in in_card if value]}
    gone = not (run.folder / "export" / "model.safetensors").exists()
    r = _stage(run, "export", request, always=gone)
    print(
        f"{r['folder']}: {r['bytes'] / 1e9:.3g} GB of weights in {r['dtype']}, sha256 {r['sha256'][:12]}; "
        f"try it: python -m gpt2course.sample {r['folder']}"
    )
    return r


def time_by_part(folder: Path) -> dict[str, float]:
    """Wall-clock seconds of every stage, training split into its parts, from what the stages stored and the metrics."""
    seconds = {stage: found["seconds"] for stage in STAGES[:-1] if (found := stored(folder, stage))}
    parts, previous = {}, 0
    for m in read_metrics(folder):
        if m["kind"] == "train":
            for part, each in m["time"].items():
                parts[part] = parts.get(part, 0.0) + each * (m["step"] - previous)
            previous = m["step"]
        elif m["kind"] in ("eval", "checkpoint"):
            part = {"eval": "evaluation", "checkpoint": "checkpoints"}[m["kind"]]
            parts[part] = parts.get(part, 0.0) + m.get("took", 0.0)
    out = {}
    for stage, total in seconds.items():
        if stage != "train":
            out[stage] = total
            continue
        out |= {f"train: {part.replace('_', ', ')}": s for part, s in parts.items()}
        out["train: starting, the rest"] = max(0.0, total - sum(parts.values()))
    return {part: round(s, 3) for part, s in out.items()}


def summarize(run: Run, result: dict[str, dict], parts: dict[str, float], row) -> dict:
    """What report/summary.json holds. result: of every stage; parts: of time_by_part; row: of the leaderboard."""
    total, price = sum(parts.values()), run.params.price_per_hour
    evaluated, scored, said = result["evaluate"], result["core"]["result"], result["samples"]
    return {
        "name": run.name,
        "params": {f.name: getattr(run.params, f.name) for f in dataclasses.fields(Params) if f.name != "resolved"},
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        "val_bpb": evaluated["val_bpb"],
        "xz_bpb": evaluated["xz_bpb"],
        "fewer_bits_than_xz": 1 - evaluated["val_bpb"] / evaluated["xz_bpb"],
        "val_bytes": evaluated["val_bytes"],
        "core": {k: scored[k] for k in ("name", "core", "core_interval", "n", "subset")},
        "train": result["train"],
        "export": result["export"]["folder"],
        "samples": dict(zip(said["prompts"], said["texts"])),
        "leaderboard": dataclasses.asdict(row),
        "seconds": parts,
        "total_seconds": round(total, 2),
        "price_per_hour": price,
        "usd": None if price is None else total / 3600 * price,
        "figures": sorted(p.name for p in (run.folder / "report").glob("*.png")),
    }


def report(run: Run) -> dict:
    """Where the time went, the leaderboard row, report/summary.json; last, where it all is, time and cost."""
    from gpt2course.course import plots
    from gpt2course.ops import leaderboard

    began = time.perf_counter()
    found = {stage: stored(run.folder, stage) for stage in STAGES[:-1]}
    if missing := [stage for stage, value in found.items() if value is None and stage != "smoke"]:  # may be left out
        raise UserError(f"stage {missing[0]} has no result yet; run its cell first")
    decide = [value for stage, value in found.items() if value and stage != "preflight"]  # which looks anew every time
    key = jobs.digest([*decide, run.params.price_per_hour])
    summary = kept = _kept(run, "report", key)
    parts = summary["seconds"] if summary else time_by_part(run.folder)
    show(run, "time", plots.where_time_went(parts))
    row = leaderboard.entry_from_run(run.folder)
    try:
        entries = leaderboard.read()
        print(leaderboard.table([*entries, row]))
        show(run, "leaderboard", plots.leaderboard_figure(entries, row))
    except UserError as e:  # a package without the repository around it
        print(f"no leaderboard beside the run: {e}")
    if summary is None:
        summary = summarize(run, {stage: value["result"] for stage, value in found.items() if value}, parts, row)
        write_json(run.folder / "report" / "summary.json", summary)
        jobs.store(run.folder, "report", key, summary, time.perf_counter() - began)
    if not (run.folder / "report" / "report.html").exists() or kept is None:
        made = jobs.ask("report", {"run": run.name})  # loads torch
        print(f"the report, to read and to show: {made['html']}")
    if run.params.profile != "laptop":
        print(
            "copy the export and the report off this machine, then give it back: it costs until then; "
            "the report's end has the commands"
        )
    print(f"\n{ratio_line(summary)}; {summary['core']['name']} {summary['core']['core']:.4f}")
    cost = "no price_per_hour was given"
    if summary["usd"] is not None:
        cost = f"${summary['usd']:.2f} at ${summary['price_per_hour']:g} an hour"
    took = f"total time {duration(summary['total_seconds'])}, of it {duration(summary['train']['seconds'])} training"
    print(f"everything is in {run.folder}; {took}; cost: {cost}")
    return summary


# ---- the commands


@dataclass
class Status:
    """Say where a run's training stands."""

    name: tyro.conf.Positional[str]  # name of the run


@dataclass
class Follow:
    """Follow a run's training until it ends; Ctrl-C leaves it at work."""

    name: tyro.conf.Positional[str]  # name of the run
    every: float = EVERY  # seconds between lines


@dataclass
class Stop:
    """Stop a run's training with a checkpoint; the runbook, run again, goes on with it."""

    name: tyro.conf.Positional[str]  # name of the run
    now: bool = False  # kill it at once; what came after the last checkpoint is lost
    wait: float = 300.0  # seconds to wait for its end


def main(action: Status | Follow | Stop) -> None:
    """Training started by runbooks/speedrun.ipynb: where it stands, follow it, stop it.

    python -m gpt2course.ops.runbook status jan29-d4
    """
    if isinstance(action, Stop):
        sys.exit(0 if stop(action.name, action.now, action.wait) else 1)
    elif isinstance(action, Follow):
        try:
            s = follow(action.name, action.every)
        except KeyboardInterrupt:
            sys.exit(130)
        print(f"run {action.name} is {s['state']}")
    else:
        s = status(action.name)
        where = f" in process {s['pid']}" if s["pid"] else ""
        print(f"run {action.name} is {s['state']}{where}: {describe(s)}\n{s['folder']}")


if __name__ == "__main__":
    command(main)
