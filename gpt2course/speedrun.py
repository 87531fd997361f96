"""The stages that runbooks/speedrun.ipynb drives, and the commands status, follow and stop. Lesson 14.

A stage does its work in a child process and leaves `runs/<name>/stages/<stage>.json`: a hash of all that decides the result,
the result, and the seconds it took. Run the notebook again and a stage whose inputs are the same shows what it stored. The
notebook's kernel only prints and draws: it holds no model and never loads torch. Training runs in a process group of its own
and writes to its own files; the notebook follows them. So a kernel that dies costs nothing, and the notebook, run again,
attaches to the training that lives, goes on from the newest checkpoint of one that died, or skips one that is done.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types
from dataclasses import dataclass, field
from pathlib import Path

import tyro

import gpt2course
from gpt2course.files import UserError, command, home, read_json, write_json

STAGES = ("preflight", "data", "tokenizer", "train", "evaluate", "core", "samples", "report")
EVERY = 15.0  # seconds between two lines of progress; papermill stores every line
SENTENCE = "In 1969, Apollo 11 landed on the Moon: 384,400 kilometres away, unbelievably far."
PROMPTS = ("The capital of France is", "My fellow citizens, the state of", "In 1969,", "The human heart is", "She was born in", "Water is")
EVALUATE_BYTES = 64_000_000  # validation text read at most, since xz -9e reads about 1 MB/s


# ---- parameters: what papermill passes is checked before anything is done

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
NOTHING = ("", "none", "null")


def _refuse(name: str, value, allowed: str):
    raise UserError(f"parameter {name} = {value!r} is not allowed; it must be {allowed}")


def _text(name: str, value, pattern: str = r"\S.*", allowed: str = "text") -> str:
    if isinstance(value, (bool, float)) or not isinstance(value, (str, int)):  # -p name 7 arrives as a number
        _refuse(name, value, allowed)
    text = str(value).strip()
    if not re.fullmatch(pattern, text) or not text.isprintable():
        _refuse(name, value, allowed)
    return text


def _number(name: str, value, low: float, high: float, whole: bool = False):
    """A number from `low` to `high`, given as such or as text ("1e-4", "1_000"); bool is no number."""
    allowed = f"a {'whole ' * whole}number from {low:,} to {high:,}"
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (str, int, float)) else float(value)
        if whole and math.isfinite(number):
            number = int(value) if isinstance(value, int) or isinstance(value, str) and re.fullmatch(r"\s*\d[\d_]*\s*", value) else number
    except (ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high) or whole and number != int(number):
        _refuse(name, value, allowed)
    return int(number) if whole else number


def _settings(value) -> str:
    """Recipe settings as "name=value name=value", their form checked; names and values are checked by recipes.resolve."""
    allowed = 'text like "steps=100 matrix_lr=0.03": name=value, separated by spaces, without spaces inside'
    pairs = value.split() if isinstance(value, str) else _refuse("settings", value, allowed)
    names = [pair.split("=", 1)[0] for pair in pairs if re.fullmatch(r"[a-z]\w*=\S+", pair)]
    if len(names) != len(pairs) or len(set(names)) != len(names):
        _refuse("settings", value, allowed + (", each name once" if len(names) == len(pairs) else ""))
    return " ".join(pairs)


@dataclass(frozen=True)
class Params:
    """The parameters of the runbook, checked. `Params.check` takes what papermill really passes: numbers as text, "None", "true"."""

    profile: str = "laptop"  # sizes for a machine: laptop, 1gpu or 8xh100
    name: str | None = None  # name of the run; default: <recipe>-d<depth>
    recipe: str = "jan29"  # a recipe of the ladder
    depth: int | None = None  # layers; default: the profile's
    corpus: str | None = None  # embedded, or a path; default: the profile's
    seed: int = 42  # of the initial weights
    price_per_hour: float | None = None  # of the machine, in dollars
    max_hours: float | None = None  # stop training with a checkpoint after so long
    max_cost_usd: float | None = None  # the same for its cost; needs price_per_hour
    core_bundle: str | None = None  # folder or zip of an evaluation bundle, or mini; default: mini on a laptop
    core_examples: int | None = None  # at most so many examples a task (a quick, biased look); default: all
    settings: str = ""  # recipe settings, as name=value name=value
    force_stage: str | None = None  # do this stage again
    resolved: dict = field(default_factory=dict, repr=False, compare=False)  # what recipes.py makes of them, see resolve()

    @classmethod
    def check(cls, **given) -> "Params":
        """Parameters as papermill passes them, coerced and checked; a UserError names the parameter, the value and what is allowed."""
        known = [f.name for f in dataclasses.fields(cls) if f.name != "resolved"]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise UserError(f"parameter {name} does not exist; {hint} (a variable of your own? Restart the kernel, or `del {name}`)")
        default = {f.name: f.default for f in dataclasses.fields(cls)}
        value = {}
        for name in known:
            v = given.get(name, default[name])
            v = None if isinstance(v, str) and v.strip().lower() in NOTHING else v
            value[name] = default[name] if v is None else v
        rules = {
            "profile": lambda n, v: _text(n, v),
            "name": lambda n, v: _text(n, v, NAME, "letters, digits, '.', '_' and '-', at most 100"),
            "recipe": lambda n, v: _text(n, v),
            "depth": lambda n, v: _number(n, v, 1, 128, whole=True),
            "corpus": lambda n, v: _text(n, v, allowed="embedded, or the path of a file or folder of parquet, jsonl or txt"),
            "seed": lambda n, v: _number(n, v, 0, 2**63 - 1, whole=True),
            "price_per_hour": lambda n, v: _number(n, v, 0, 100_000),
            "max_hours": lambda n, v: _number(n, v, 1e-6, 10_000),
            "max_cost_usd": lambda n, v: _number(n, v, 1e-6, 1_000_000),
            "core_bundle": lambda n, v: _text(n, v, allowed="mini, or the path of a folder or zip with core.yaml"),
            "core_examples": lambda n, v: _number(n, v, 1, 1_000_000, whole=True),
            "settings": lambda n, v: _settings(v),
            "force_stage": lambda n, v: v if v in STAGES else _refuse(n, v, f"one of {', '.join(STAGES)}, or None"),
        }
        value |= {name: rules[name](name, v) for name, v in value.items() if v is not None}
        params = cls(**value)
        if params.max_cost_usd is not None and params.price_per_hour is None:
            raise UserError(f"parameter max_cost_usd = {params.max_cost_usd:g} needs price_per_hour, the price of the machine in dollars")
        if params.depth is not None and "depth" in [pair.split("=")[0] for pair in params.settings.split()]:
            raise UserError(f"parameter depth = {params.depth} and settings = {params.settings!r} both set the depth; give it once")
        return dataclasses.replace(params, resolved=_ask("resolve", params.request()))

    @classmethod
    def from_namespace(cls, namespace: dict) -> "Params":
        """`check` on the notebook's own variables, `globals()`, before anything else is defined.

        papermill only warns of a `-p` name that does not exist, and defines it. So a plain value (text, number, list, ...) under a
        name that is no parameter is refused. IPython's own names, underscores, modules, functions and objects are passed over.
        """
        shell = namespace.get("get_ipython")
        hidden = {"In", "Out", "exit", "quit", "open"} | set(getattr(shell(), "user_ns_hidden", ()) if callable(shell) else ())
        plain = (str, int, float, complex, list, tuple, dict, set, types.NoneType)
        return cls.check(**{n: v for n, v in namespace.items() if not n.startswith("_") and n not in hidden and isinstance(v, plain)})

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "resolved"}
        return "\n".join(f"{name:15} {'' if value is None else value}".rstrip() for name, value in given.items())

    def request(self) -> dict:
        """What decides the plan."""
        changes = self.settings.split() + ([] if self.depth is None else [f"depth={self.depth}"])
        return {"profile": self.profile, "recipe": self.recipe, "changes": sorted(changes)}


@dataclass(frozen=True)
class Run:
    """A run to be made: the parameters and all that follows from them."""

    params: Params
    name: str
    folder: Path  # home()/runs/<name>
    plan: dict  # every number of the run, see recipes.Plan
    corpus: str
    device_batch: int
    bundle: str | None  # None: the packaged mini-CORE


def open_run(params: Params) -> Run:
    """Derive the run from checked parameters, and print what it will be."""
    plan, corpus = params.resolved["plan"], params.corpus or params.resolved["corpus"]
    model, n = plan["model"], plan["params"]
    name = params.name or f"{params.recipe}-d{model['n_layer']}"
    bundle = params.core_bundle
    if bundle is None and params.profile != "laptop":  # a whole CORE takes hours on a laptop
        bundle = next((str(p) for p in (home() / "eval" / "eval_bundle", home() / "eval" / "eval_bundle.zip") if p.exists()), None)
    run = Run(params, name, home() / "runs" / name, plan, corpus, params.resolved["device_batch"], None if bundle == "mini" else bundle)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"run folder {run.folder} cannot be made ({e.strerror}); set GPT2COURSE_HOME to a folder that you may write to") from None
    print(f"run {name} in {run.folder}")
    print(f"recipe {params.recipe}: depth {model['n_layer']}, width {model['n_embd']}, T {model['sequence_len']}, vocabulary {model['vocab_size']:,}; "
          f"{n['total']:,} parameters, {n['scaling']:,} of them scaling")  # fmt: skip
    print(f"{plan['steps']:,} steps of {plan['batch_tokens']:,} tokens = {plan['tokens']:,} tokens of {corpus}, {plan['flops']:.3g} FLOPs")
    return run


# ---- processes: started in a group of their own, found again by their pid and birth

_children: dict[int, subprocess.Popen] = {}  # ours, which must be waited for, or they stay zombies


def _birth(pid: int) -> str | None:
    """When a living process was born, as text that no other process of the same pid has; None if there is none, or a zombie."""
    try:
        if sys.platform == "linux":
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name before ")" may hold anything
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return None if fields[0] in "ZX" else f"{boot} {fields[19]}"  # field 22 of stat: clock ticks from boot to start
        out = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout.split()
        return None if not out or out[0].startswith("Z") else " ".join(out[1:])
    except (OSError, IndexError):
        return None


def _paths(folder: Path, stage: str) -> tuple[Path, Path]:
    """(log, pid file) of a stage's process: train.log and train.pid of the run, the others among its stages."""
    at = folder if stage == "train" else folder / "stages"
    return at / f"{stage}.log", at / f"{stage}.pid"


def _living(folder: Path, stage: str) -> dict | None:
    """The record of the stage's process if it is alive."""
    try:
        record = read_json(_paths(folder, stage)[1], "pid file")
        if (child := _children.get(record["pid"])) is not None and child.poll() is not None:
            return None
        return record if record["birth"] and _birth(record["pid"]) == record["birth"] else None
    except (UserError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _alone(folder: Path):
    """Only one process at a time looks whether something runs, and starts it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".start.lock", "w") as f:
        try:
            import fcntl

            fcntl.flock(f, fcntl.LOCK_EX)
        except (ImportError, OSError):  # some network file systems have no locks
            pass
        yield


def _environment() -> dict:
    """Of the children: this very package, whatever the working directory, and output as it comes."""
    path = [str(Path(gpt2course.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def _launch(folder: Path, stage: str, argv: list[str], key: str) -> dict:
    """Start `python -m argv` in a session of its own, writing to the stage's log; returns the record kept in its pid file."""
    log, pid_file = _paths(folder, stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    earlier = 0.0  # seconds of earlier processes of the same work, so that a resumed run has its whole time
    with contextlib.suppress(UserError, OSError, KeyError):
        old = read_json(pid_file)
        earlier = old["earlier"] + max(0.0, log.stat().st_mtime - old["started"]) if old["inputs"] == key else 0.0
    with open(log, "ab") as out:
        out.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}  python -m {' '.join(argv)}\n".encode())
        out.flush()
        began, offset = time.time(), out.tell()
        child = subprocess.Popen([sys.executable, "-m", *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                 start_new_session=True, env=_environment())  # fmt: skip
    _children[child.pid] = child
    record = {"pid": child.pid, "birth": _birth(child.pid), "started": began, "inputs": key, "log_from": offset, "earlier": earlier}
    write_json(pid_file, record)
    return record


def _lines(log: Path, offset: int) -> tuple[list[str], int]:
    """Whole lines of a log from a byte on, and where the next ones begin."""
    try:
        with open(log, "rb") as f:
            f.seek(offset)
            data = f.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").splitlines(), offset + len(whole)


def _failure(folder: Path, stage: str, record: dict) -> UserError:
    """The one error of a child that ended without a result, from the last lines of its log."""
    log = _paths(folder, stage)[0]
    lines = [line for line in _lines(log, record.get("log_from", 0))[0] if line.strip()]
    if lines and lines[-1].startswith("error: "):
        return UserError(f"stage {stage}: {lines[-1].removeprefix('error: ')}")
    code = None
    if child := _children.get(record.get("pid")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(10)  # its threads may take a moment to end
    how = "ended without a result" if not code else f"ended with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
    how += " (memory may have run out)" if code == -signal.SIGKILL else ""
    return UserError(f"stage {stage} {how}; the last lines of {log}:\n" + "\n".join(lines[-12:]))


def _ask(what: str, request: dict):
    """The answer of a short child process that needs torch."""
    argv = [sys.executable, "-m", "gpt2course.speedrun", "work", what, "--request", json.dumps(request)]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_environment())
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise UserError(lines[-1].removeprefix("error: ") if lines[-1].startswith("error: ") else "\n".join(lines[-12:]))
    return json.loads(done.stdout.splitlines()[-1])


# ---- stages: done once for the same inputs


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(path) -> str:
    """Of a file, or of all files in a folder: names, sizes and times, as a digest; "" for a name that is no path."""
    path = Path(path).expanduser()
    if not path.exists():
        return ""
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return _digest([[str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns] for p in found])


def stored(folder: Path, stage: str) -> dict | None:
    """What a stage left: {"inputs", "result", "seconds", "finished"}; None if there is nothing readable."""
    try:
        value = read_json(folder / "stages" / f"{stage}.json", "stage")
        return value if {"inputs", "result", "seconds", "finished"} <= value.keys() else None
    except (UserError, AttributeError):
        return None


def _store(folder: Path, stage: str, key: str, result, seconds: float) -> dict:
    value = {"inputs": key, "seconds": round(seconds, 2), "finished": time.strftime("%Y-%m-%d %H:%M:%S"), "result": result}
    write_json(folder / "stages" / f"{stage}.json", value)
    return value


def _kept(run: Run, stage: str, key: str):
    """The stored result of a stage if the same inputs made it and nobody asked for another; says so."""
    old = stored(run.folder, stage)
    if old is None or old["inputs"] != key or run.params.force_stage == stage:
        return None
    print(f"{stage}: done already, {old['finished']}, in {duration(old['seconds'])}; its inputs are the same, so this is what it found "
          f"(force_stage = {stage!r} does it again)")  # fmt: skip
    return old["result"]


def _stage(run: Run, stage: str, request: dict, always: bool = False):
    """The result of a stage: the stored one, or (`always`) made in a child process whose lines are shown as they come."""
    key = _digest(request)
    if not always and (result := _kept(run, stage, key)) is not None:
        return result
    with _alone(run.folder):
        record = _living(run.folder, stage)
        if record and record["inputs"] != key:
            raise UserError(f"stage {stage} of run {run.name!r} is at work with other inputs (process {record['pid']}); wait for it, or `kill {record['pid']}`")
        if record is None:
            argv = ["gpt2course.speedrun", "work", stage, "--name", run.name, "--began", repr(time.time()), "--request", json.dumps(request)]
            (run.folder / "stages" / f"{stage}.json").unlink(missing_ok=True)  # a failure must not leave what was before
            record = _launch(run.folder, stage, argv, key)
    log, at = _paths(run.folder, stage)[0], record["log_from"]
    try:
        alive = True
        while alive:
            alive = _living(run.folder, stage) is not None
            lines, at = _lines(log, at)
            for line in lines:
                if not line.startswith("error: "):  # raised below
                    print(line, flush=True)
            time.sleep(0.1 if alive else 0)
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record["pid"], signal.SIGKILL)
        raise
    new = stored(run.folder, stage)
    if new is None or new["inputs"] != key:
        raise _failure(run.folder, stage, record)
    return new["result"]


def duration(seconds: float) -> str:
    """0.42 -> "0.4 s", 75 -> "1:15", 3725 -> "1:02:05"."""
    s = max(0, round(seconds))
    return f"{seconds:.1f} s" if seconds < 59.95 else f"{s // 3600}:{s // 60 % 60:02d}:{s % 60:02d}" if s >= 3600 else f"{s // 60}:{s % 60:02d}"


def read_metrics(folder: Path) -> list[dict]:
    """Every whole line of a run's metrics.jsonl (as train.read_metrics, which would load torch)."""
    lines = _lines(folder / "metrics.jsonl", 0)[0]
    return [json.loads(line) for line in lines if line.strip()]


def show(run: Run, name: str, fig) -> None:
    """Show a figure of plots.py in the notebook, and keep it as report/<name>.png."""
    from gpt2course import plots
    from gpt2course.files import atomic_file

    with atomic_file(run.folder / "report" / f"{name}.png", "wb") as f:
        f.write(plots.png(fig))
    plots.show(fig)


# ---- training: started, followed, stopped


def status(name: str) -> dict:
    """Where a run's training stands, from its files: state (new, running, stopped or finished), pid, step, steps, and the last values."""
    folder = home() / "runs" / name
    if not folder.is_dir():
        have = sorted(p.parent.name for p in (home() / "runs").glob("*/config.json"))
        raise UserError(f"there is no run {name!r} in {home() / 'runs'}; there {'are ' + ', '.join(have) if have else 'is none yet'}")
    record, metrics = _living(folder, "train"), read_metrics(folder)
    last = {line["kind"]: line for line in metrics}
    train, done = last.get("train", {}), "done" in last
    with contextlib.suppress(UserError):
        config = read_json(folder / "config.json")
        train = {"steps": config["plan"]["steps"]} | train
    state = "running" if record else "finished" if done else "stopped" if metrics or _paths(folder, "train")[0].exists() else "new"
    memory = None
    if record and sys.platform == "linux":
        with contextlib.suppress(OSError, TypeError):  # just ended
            memory = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{record['pid']}/status").read_text())[1]) * 1024
    names = ("step", "steps", "tokens", "seconds", "loss", "tok_per_sec", "mfu", "eta_seconds", "usd")
    return {"name": name, "state": state, "pid": record["pid"] if record else None, "folder": str(folder), "memory_bytes": memory,
            "val_bpb": last.get("eval", {}).get("val_bpb")} | {n: train.get(n) for n in names}  # fmt: skip


def describe(s: dict) -> str:
    """A status on one line."""
    if s["step"] is None:
        return "no step yet"
    parts = [f"step {s['step']:,}/{s['steps'] or 0:,}", f"loss {s['loss']:.3f}"]
    parts += [f"val bpb {s['val_bpb']:.3f}"] if s["val_bpb"] is not None else []
    parts += [f"{s['tok_per_sec']:,.0f} tokens/s"] + ([f"mfu {s['mfu']:.1%}"] if s["mfu"] else [])
    parts += [f"left {duration(s['eta_seconds'])}"] if s["step"] != s["steps"] else ["last step done"]
    parts += [f"${s['usd']:.2f} so far"] if s["usd"] is not None else []
    return "  ".join(parts + ([f"memory {s['memory_bytes'] / 1e9:.2f} GB"] if s["memory_bytes"] else []))


def _train_argv(run: Run) -> list[str]:
    p = run.params
    argv = ["gpt2course.train", p.recipe, "--profile", p.profile, "--name", run.name, "--corpus", run.corpus, "--seed", str(p.seed), "--log-seconds", str(EVERY)]
    argv += ["--save-minutes", "1"] if p.profile == "laptop" else []  # a small checkpoint costs a moment
    for name in ("price_per_hour", "max_hours", "max_cost_usd"):
        if (value := getattr(p, name)) is not None:
            argv += [f"--{name.replace('_', '-')}", repr(value)]
    return argv + (["--set", *p.request()["changes"]] if p.request()["changes"] else [])


def _train_key(run: Run) -> str:
    """Of what decides the training; the limits and the price do not."""
    return _digest([run.plan, run.corpus, fingerprint(run.corpus), run.params.seed, run.device_batch])


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
    """Start training in the background, or go on with it, unless it is running already; returns the record of its process."""
    with _alone(run.folder):
        record = _living(run.folder, "train")
        if record:
            if record["inputs"] != _train_key(run):
                raise UserError(f"run {run.name!r} is being trained with other settings (process {record['pid']}); give this one another name, "
                                f"or stop that one: python -m gpt2course.speedrun stop {run.name}")  # fmt: skip
            print(f"training is at work already, process {record['pid']}: attached to it")
            return record
        s = status(run.name)
        if run.params.force_stage == "train" and s["state"] != "new":
            _set_aside(run.folder)
        elif (run.folder / "config.json").exists():
            config = read_json(run.folder / "config.json", "run configuration")
            ours = {"plan": run.plan, "corpus": run.corpus, "seed": run.params.seed}
            if different := [k for k in ours if config.get(k) != ours[k]]:
                raise UserError(f"run {run.name!r} was begun with other settings ({', '.join(different)}); give this one another name, or force_stage = 'train', "
                                "which moves the old run aside")  # fmt: skip
        if s["state"] == "stopped" and s["step"] and run.params.force_stage != "train":
            hours, usd = s["seconds"] / 3600, s["usd"] or 0.0
            for limit, used in (("max_hours", hours), ("max_cost_usd", usd)):
                if (most := getattr(run.params, limit)) is not None and used >= most:
                    raise UserError(f"training stands at step {s['step']:,} of {s['steps']:,}, with {limit} = {most:g} used up ({used:.4g}); raise or drop it to go on")
        record = _launch(run.folder, "train", _train_argv(run), _train_key(run))
    print(f"training in process {record['pid']}, its log is {_paths(run.folder, 'train')[0]}")
    print(f"it goes on if this notebook stops; from a terminal: python -m gpt2course.speedrun status|follow|stop {run.name}")
    return record


def follow(name: str, every: float = EVERY) -> dict:
    """Print a line about every `every` seconds until the run's training ends; returns its last status. Ctrl-C leaves it at work."""
    folder = home() / "runs" / name
    s = status(name)
    record = _living(folder, "train")
    at, said, peak = record["log_from"] if record else 0, time.monotonic(), 0
    began = record["started"] if record else time.time()
    try:
        while record:
            alive = _living(folder, "train") is not None
            lines, at = _lines(_paths(folder, "train")[0], at)
            for line in lines:
                if not re.match(r"step [\d,]+/|error: ", line):  # steps are told below, from the metrics; errors are raised
                    print(line, flush=True)
                    said = time.monotonic()
            if alive and time.monotonic() - said >= every:
                s = status(name)
                peak, since = max(peak, s["memory_bytes"] or 0), f"{duration(time.time() - began)} since the start"
                if s["step"] is None:
                    print(f"getting ready, {since}", flush=True)
                elif s["step"] == s["steps"]:
                    print(f"all {s['steps']:,} steps are done; now the evaluation on all validation text, {since}", flush=True)
                else:
                    print(describe(s), flush=True)
                said = time.monotonic()
            if not alive:
                break
            time.sleep(0.2)
    except KeyboardInterrupt:
        print(f"\ntraining goes on in process {record['pid']}. Run this again to follow it; to stop it with a checkpoint: python -m gpt2course.speedrun stop {name}", flush=True)
        raise
    s = status(name)
    if s["step"] is not None:
        print(describe(s), flush=True)
    return s | {"peak_memory_bytes": peak or None}


def stop(name: str, now: bool = False, wait: float = 300.0) -> bool:
    """Ask a run's training to save a checkpoint and end (SIGTERM), or with `now` kill it; returns whether it has ended."""
    folder = home() / "runs" / name
    status(name)  # names the runs if there is none of this name
    record = _living(folder, "train")
    if record is None:
        print(f"run {name} is not being trained")
        return True
    with contextlib.suppress(ProcessLookupError):
        os.killpg(record["pid"], signal.SIGKILL if now else signal.SIGTERM)
    print(f"asked process {record['pid']} to {'end at once' if now else 'save a checkpoint and end, which it does after its step'}", flush=True)
    deadline = time.monotonic() + wait
    while _living(folder, "train") and time.monotonic() < deadline:
        time.sleep(0.1)
    if _living(folder, "train"):
        print(f"it has not ended within {wait:g} s; `python -m gpt2course.speedrun stop {name} --now` kills it, and what came after the last checkpoint is lost")
        return False
    s = status(name)
    print(f"run {name} is {s['state']}" + (f" at step {s['step']:,} of {s['steps']:,}; the runbook, run again, goes on with it" if s["state"] == "stopped" and s["step"] else ""))
    return True


# ---- the stages, as the notebook calls them


def preflight(run: Run) -> dict:
    """Look at the machine, the corpus and the run folder before anything is spent; prints findings, each warning with its mend.

    Looks anew every time. Raises UserError if something must be mended first and training is still to be done.
    """
    request = {"profile": run.params.profile, "plan": run.plan, "device_batch": run.device_batch, "corpus": run.corpus,
               "bundle": run.bundle, "price": run.params.price_per_hour}  # fmt: skip
    result = _stage(run, "preflight", request, always=True)
    for level, what, text in result["findings"]:
        print(f"{level:8} {what:12} {text}")
    stops = [f"{what}: {text}" for level, what, text in result["findings"] if level == "STOP"]
    if stops and status(run.name)["state"] not in ("running", "finished"):
        raise UserError("; ".join(stops))
    return result


def data(run: Run) -> dict:
    """What the corpus holds, whose it is, and its first texts."""
    result = _stage(run, "data", {"corpus": run.corpus, "files": fingerprint(run.corpus)})
    for role in ("training", "validation"):
        s = result[role]
        print(f"{role:11} {s['documents']:>9,} documents, {'' if s['exact'] else 'about '}{s['bytes']:,} bytes")
    print(f"validation text: {result['val_name']}, sha256 {result['val_sha256']}")
    print("\n".join(f"licence: {line}" for line in result["licences"]))
    for text in result["first"]:
        print("\n" + textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  "))
    return result


def tokenizer(run: Run) -> dict:
    """Train the tokenizer or take up the one there is; how much it compresses, and one sentence cut into coloured tokens."""
    from gpt2course import plots

    vocab_size = run.plan["model"]["vocab_size"]
    r = _stage(run, "tokenizer", {"corpus": run.corpus, "files": fingerprint(run.corpus), "vocab_size": vocab_size})
    print(f"vocabulary of {r['vocab_size']:,} tokens, {r['how']}; sha256 {r['sha256'][:12]}, in {r['folder']}")
    print(f"{r['bytes_per_token']:.2f} bytes per token on the validation text")
    corpus = stored(run.folder, "data")
    if corpus:
        tokens = corpus["result"]["training"]["bytes"] / r["bytes_per_token"]
        print(f"so the training text is about {tokens:,.0f} tokens, and the run reads {run.plan['tokens']:,}: {run.plan['tokens'] / tokens:.2g} times all of it")
    print("a sentence as the model will see it:")
    show(run, "tokens", plots.coloured_tokens(r["pieces"], r["ids"]))
    return r


def train(run: Run, every: float = EVERY) -> dict:
    """Train in a child process, following it through its files; figures of the learning rates and the speed."""
    from gpt2course import plots

    key = _train_key(run)
    result = _kept(run, "train", key) if status(run.name)["state"] == "finished" else None
    if result is None:
        record = start(run)
        s = follow(run.name, every)
        if s["state"] != "finished":
            lines = _lines(_paths(run.folder, "train")[0], record["log_from"])[0]
            reason = next((line for line in reversed(lines) if line.startswith("stopped at step")), None)
            raise UserError(f"training {reason}; run this notebook again to go on, with a higher limit if one was reached") if reason else _failure(run.folder, "train", record)
        metrics = read_metrics(run.folder)
        done, last = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
        seconds = record["earlier"] + (run.folder / "metrics.jsonl").stat().st_mtime - record["started"]
        result = {"step": done["step"], "tokens": done["tokens"], "flops": done["flops"], "seconds": done["seconds"], "val_bpb": last["val_bpb"],
                  "val_bytes": last["val_bytes"], "loss": s["loss"], "peak_memory_bytes": s["peak_memory_bytes"]}  # fmt: skip
        _store(run.folder, "train", key, result, max(seconds, done["seconds"]))
    print(f"{result['step']:,} steps, {result['tokens']:,} tokens in {duration(result['seconds'])} of training; final loss {result['loss']:.3f}, val bpb {result['val_bpb']:.4f}")
    metrics = read_metrics(run.folder)
    show(run, "learning_rates", plots.learning_rates(metrics))
    show(run, "throughput", plots.throughput(metrics))
    return result


def _checkpoint(run: Run) -> dict:
    """The newest checkpoint as part of a request: its folder in the run, and the sha256 of its weights."""
    found = sorted((run.folder / "checkpoints").glob("step_*/state.json"))
    if not found:
        raise UserError(f"run {run.name!r} has no checkpoint; run the training cell first")
    state = read_json(found[-1], "checkpoint state")
    return {"checkpoint": f"{run.name}/checkpoints/{found[-1].parent.name}", "step": state["step"], "weights": state["sha256"]["model.safetensors"]}


def evaluate(run: Run) -> dict:
    """Bits per byte of the saved weights on all validation text, beside `xz -9e` on the same bytes; figure of loss and bpb."""
    from gpt2course import plots

    r = _stage(run, "evaluate", _checkpoint(run) | {"corpus": run.corpus, "files": fingerprint(run.corpus)})
    print(f"{r['val_name']}, {r['documents']:,} documents{'' if r['whole'] else ', the first of more'}: model {r['val_bpb']:.4f} bits per byte, xz -9e {r['xz_bpb']:.4f}")
    print(ratio_line(r))
    show(run, "loss_and_bpb", plots.loss_and_bpb(read_metrics(run.folder), r["xz_bpb"]))
    return r


def ratio_line(r: dict) -> str:
    """The result of the evaluation in one sentence."""
    fewer = 1 - r["val_bpb"] / r["xz_bpb"]
    return f"the model needs {abs(fewer):.1%} {'fewer' if fewer >= 0 else 'more'} bits than xz -9e on the same {r['val_bytes']:,} bytes"


def core(run: Run) -> dict:
    """The score on CORE, or on the small bundle that comes with the course, with its bars."""
    from gpt2course import plots

    request = _checkpoint(run) | {"run": run.name, "bundle": run.bundle, "files": fingerprint(run.bundle) if run.bundle else "",
                                  "max_examples": run.params.core_examples}  # fmt: skip
    r = _stage(run, "core", request)
    print(r["table"])
    ours = {label: task["centred"] for label, task in r["result"]["tasks"].items()}
    if r["result"]["name"] == "CORE":
        show(run, "core", plots.core_bars(ours, r["gpt2"], run.name))
        return r
    name = r["result"]["name"]
    print(f"\n{name} is a test of its own: 0 is guessing, 1 is perfect, and its scores must not be compared with CORE.")
    show(run, "core", plots.core_bars(ours, {}, run.name))
    best, *others = reversed(r["gpt2"])
    print(f"For orientation, another test: the 22 tasks of CORE, which {run.name} did not take, as the four GPT-2 models did. The bars are {best}, the bar of this course.")
    show(run, "core_of_gpt2", plots.core_bars(r["gpt2"][best], {model: r["gpt2"][model] for model in reversed(others)}, best))
    return r


def samples(run: Run) -> dict:
    """Six prompts, continued by the model."""
    request = _checkpoint(run) | {"prompts": PROMPTS, "max_tokens": 64, "temperature": 0.8, "top_k": 50, "seed": 0}
    r = _stage(run, "samples", request)
    print(f"temperature {request['temperature']}, top-k {request['top_k']}; the prompt ends at |")
    for prompt, text in zip(r["prompts"], r["texts"]):
        print("\n" + textwrap.fill(f"{prompt} | {text.strip()}", 110, subsequent_indent="  "))
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


def report(run: Run) -> dict:
    """Where the time went, the leaderboard row, report/summary.json, and the last line: where everything is, time and cost."""
    from gpt2course import leaderboard, plots

    began = time.perf_counter()
    found = {stage: stored(run.folder, stage) for stage in STAGES[:-1]}
    if missing := [stage for stage, value in found.items() if value is None]:
        raise UserError(f"stage {missing[0]} has no result yet; run its cell first")
    key = _digest([found[stage] for stage in STAGES[1:-1]] + [run.params.price_per_hour])  # preflight looks anew every time
    summary = _kept(run, "report", key)
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
        result = {stage: value["result"] for stage, value in found.items()}
        total, price = sum(parts.values()), run.params.price_per_hour
        evaluated, scored = result["evaluate"], result["core"]["result"]
        summary = {
            "name": run.name, "params": {f.name: getattr(run.params, f.name) for f in dataclasses.fields(Params) if f.name != "resolved"},
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"), "val_bpb": evaluated["val_bpb"], "xz_bpb": evaluated["xz_bpb"],
            "fewer_bits_than_xz": 1 - evaluated["val_bpb"] / evaluated["xz_bpb"], "val_bytes": evaluated["val_bytes"],
            "core": {k: scored[k] for k in ("name", "core", "core_interval", "n", "subset")}, "train": result["train"],
            "samples": dict(zip(result["samples"]["prompts"], result["samples"]["texts"])), "leaderboard": dataclasses.asdict(row),
            "seconds": parts, "total_seconds": round(total, 2),
            "price_per_hour": price, "usd": None if price is None else total / 3600 * price,
            "figures": sorted(p.name for p in (run.folder / "report").glob("*.png")),
        }  # fmt: skip
        write_json(run.folder / "report" / "summary.json", summary)
        _store(run.folder, "report", key, summary, time.perf_counter() - began)
    cost = "no price_per_hour was given" if summary["usd"] is None else f"${summary['usd']:.2f} at ${summary['price_per_hour']:g} an hour"
    print(f"\n{ratio_line(summary)}; {summary['core']['name']} {summary['core']['core']:.4f}")
    print(f"everything is in {run.folder}; total time {duration(summary['total_seconds'])}, of it {duration(summary['train']['seconds'])} training; cost: {cost}")
    return summary


# ---- the work itself, in child processes


def _work_resolve(r: dict) -> dict:
    from gpt2course.recipes import PROFILES, resolve, settings_from_text

    if r["profile"] not in PROFILES:
        near = difflib.get_close_matches(r["profile"], PROFILES, n=1)
        raise UserError(f"parameter profile = {r['profile']!r} is not allowed; it must be one of {', '.join(PROFILES)}" + (f"; did you mean {near[0]}?" if near else ""))
    sizes = dict(PROFILES[r["profile"]])
    corpus, device_batch = sizes.pop("corpus"), sizes.pop("device_batch")
    plan = resolve(r["recipe"], **(sizes | settings_from_text(r["changes"])))
    rows = plan.batch_tokens // plan.model.sequence_len
    device_batch = max(b for b in range(1, min(device_batch, rows) + 1) if rows % b == 0)
    return {"plan": plan.to_json(), "corpus": corpus, "device_batch": device_batch}


def memory_available() -> int | None:
    """Bytes of memory that a new process may take, by /proc and by the limit of the container; None where neither tells."""
    read = lambda path: Path(path).read_text()  # noqa: E731
    found = []
    with contextlib.suppress(OSError, TypeError):
        found.append(int(re.search(r"MemAvailable:\s+(\d+)", read("/proc/meminfo"))[1]) * 1024)
    for limit, used, stat, idle in (("memory.max", "memory.current", "memory.stat", "inactive_file"),
                                    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file")):  # fmt: skip
        with contextlib.suppress(OSError, ValueError, TypeError):
            cache = int(re.search(rf"(?m)^{idle} (\d+)", read(f"/sys/fs/cgroup/{stat}"))[1])  # given back when it is wanted
            found.append(int(read(f"/sys/fs/cgroup/{limit}")) - int(read(f"/sys/fs/cgroup/{used}")) + cache)
    return min(found) if found else None


def _work_preflight(r: dict) -> dict:
    import torch

    from gpt2course.checkpoint import compute_dtypes, pick_device
    from gpt2course.cost import hours, memory_estimate, peak_flops
    from gpt2course.data import load_corpus
    from gpt2course.train import describe_machine

    findings, plan = [], r["plan"]
    say = lambda level, what, text: findings.append((level, what, text))  # noqa: E731
    model, device = plan["model"], pick_device()
    say("ok", "python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    old = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 11)
    say("STOP" if old else "ok", "torch", torch.__version__ + ("; this course needs 2.11 or newer: make setup" if old else ""))
    name = describe_machine(device)["device"]
    slow = device.type != "cuda" and r["profile"] != "laptop"
    say("warning" if slow else "ok", "device", f"{device} ({name}), {str(compute_dtypes(device)[0]).removeprefix('torch.')}"
        + (f"; profile {r['profile']} is made for CUDA and will be very slow here: use profile laptop" if slow else ""))  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    few = threads < cores and threads < 4 and device.type == "cpu"
    say("warning" if few else "ok", "threads", f"{threads} of {cores} cores" + ("; unset OMP_NUM_THREADS to use them all" if few else ""))
    bytes_each = 2 if device.type == "cuda" else 4
    m = memory_estimate(plan["params"], B=r["device_batch"], T=model["sequence_len"], n_layer=model["n_layer"], n_embd=model["n_embd"], vocab_size=model["vocab_size"],
                        matrix_optimizer=plan["recipe"]["matrix_optimizer"], embed_bytes=bytes_each, compute_bytes=bytes_each, compiled=device.type == "cuda")  # fmt: skip
    free, need = (torch.cuda.mem_get_info(device)[0], m.total * 1.1) if device.type == "cuda" else (memory_available(), m.total * 1.1 + 0.5e9)
    if free is None:
        say("ok", "memory", f"the run needs about {need / 1e9:.1f} GB; what is free is unknown on this system")
    else:
        mend = "" if free > 1.25 * need else "; close other programs, or choose a smaller depth or device batch"
        say("STOP" if free < need else "warning" if mend else "ok", "memory", f"{free / 1e9:.1f} GB free, training needs about {need / 1e9:.1f} GB{mend}")
    home().mkdir(parents=True, exist_ok=True)
    disk, need = shutil.disk_usage(home()).free, 3 * (m.weights + m.optimizer) + 0.2e9  # two checkpoints and one being written
    mend = "" if disk > 2 * need else "; make room, or set GPT2COURSE_HOME to another disk"
    say("STOP" if disk < need else "warning" if mend else "ok", "disk", f"{disk / 1e9:.1f} GB free in {home()}, the run needs about {need / 1e9:.1f} GB{mend}")
    try:
        corpus = load_corpus(r["corpus"])
        say("ok", "corpus", f"{r['corpus']}: {len(corpus.train):,} documents to train on, {len(corpus.val):,} to validate")
    except UserError as e:
        say("STOP", "corpus", str(e))
    if r["bundle"]:
        from gpt2course.core import read_bundle

        try:
            bundle = read_bundle(r["bundle"])
            say("ok", "bundle", f"{bundle.name}, {len(bundle.labels)} tasks, baselines {bundle.baselines}")
        except UserError as e:
            say("STOP", "bundle", str(e))
    peak = peak_flops(name) if device.type == "cuda" else None
    if peak:
        time_ = hours(plan["flops"], 1, peak, 0.4)
        say("ok", "time", f"about {time_:.2f} hours at 40 % of this device's peak" + (f", ${time_ * r['price']:.2f}" if r["price"] is not None else ""))
    if r["price"] is None:
        say("ok", "cost", "not counted: give price_per_hour, the price of the machine in dollars")
    return {"findings": findings, "device": str(device), "torch": torch.__version__}


def _size(split) -> tuple[int, bool]:
    """(UTF-8 bytes of a split, whether that is exact): known, counted if it is small, else estimated from its first blocks."""
    if split.bytes is not None:
        return split.bytes, True
    size = documents = 0
    for b in range(len(split.blocks)):
        texts = split.read_block(b)
        size, documents = size + sum(len(t.encode("utf-8", "replace")) for t in texts), documents + len(texts)
        if size > 100e6:
            return round(size / documents * len(split)), documents == len(split)
    return size, True


def _work_data(r: dict) -> dict:
    from gpt2course.data import load_corpus

    corpus, out = load_corpus(r["corpus"]), {}
    for role, split in (("training", corpus.train), ("validation", corpus.val)):
        size, exact = _size(split)
        out[role] = {"documents": len(split), "bytes": size, "exact": exact}
    first = [" ".join(corpus.train[i][:300].split()) for i in range(min(3, len(corpus.train)))]
    return out | {"val_name": corpus.val_name, "val_sha256": corpus.val_sha256, "licences": list(corpus.licences), "first": first}


def _work_tokenizer(r: dict) -> dict:
    from gpt2course.data import load_corpus
    from gpt2course.tokenizer import bytes_per_token, default_folder, train_or_load

    corpus, began = load_corpus(r["corpus"]), time.time()
    folder = default_folder(corpus.name, r["vocab_size"])
    print(f"tokenizer: {r['vocab_size']:,} tokens from {len(corpus.train):,} documents", flush=True)
    t = train_or_load(corpus, r["vocab_size"])
    new = (folder / "tokenizer.json").stat().st_mtime >= began - 1
    ids = t.encode(SENTENCE)
    return {"vocab_size": t.vocab_size, "sha256": t.sha256, "folder": str(folder), "bytes_per_token": bytes_per_token(t, corpus.val), "ids": ids,
            "how": f"learnt in {time.time() - began:.1f} s" if new else "there already", "pieces": [t.decode([i]) for i in ids]}  # fmt: skip


def _work_evaluate(r: dict) -> dict:
    from gpt2course.checkpoint import load_model
    from gpt2course.data import load_corpus
    from gpt2course.evaluate import bits_per_byte, first_bytes, xz_bits_per_byte

    corpus = load_corpus(r["corpus"])
    documents = first_bytes(corpus.val, EVALUATE_BYTES)
    model, tokenizer, plan = load_model(str(home() / "runs" / r["checkpoint"]))
    said = time.monotonic()

    def progress(done, total):
        nonlocal said
        if time.monotonic() - said >= EVERY:
            print(f"{done:,} of {total:,} rows", flush=True)
            said = time.monotonic()

    bpb, size = bits_per_byte(model, documents, tokenizer, plan.model.sequence_len, progress=progress)
    del model
    print(f"{size:,} bytes read by the model; now xz -9e", flush=True)
    return {"val_bpb": bpb, "xz_bpb": xz_bits_per_byte(documents), "val_bytes": size, "documents": len(documents),
            "whole": len(documents) == len(corpus.val), "val_name": corpus.val_name, "val_sha256": corpus.val_sha256}  # fmt: skip


def _work_core(r: dict) -> dict:
    from gpt2course import core as c
    from gpt2course.checkpoint import load_model

    bundle = c.read_bundle(r["bundle"] or c.MINI)
    model, tokenizer, _ = load_model(str(home() / "runs" / r["checkpoint"]))
    device = next(model.parameters()).device
    began = said = time.monotonic()

    def progress(done, total, label):
        nonlocal said
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            print(f"{done:,} of {total:,} examples, {label}, left {duration((said - began) * (total - done) / done)}", flush=True)

    result = c.evaluate(lambda ids: model(ids.to(device)), tokenizer, bundle, max_examples=r["max_examples"], progress=progress)
    write_json(home() / "runs" / r["run"] / "report" / "core.json", result | {"run": r["run"], "step": r["step"], "bundle": r["bundle"] or "mini"})
    gpt2 = {model: {label: row[1 + i] for label, row in c.CORE.items()} for i, model in enumerate(c.GPT2)}
    return {"result": result, "table": c.table(result), "gpt2": gpt2}


def _work_samples(r: dict) -> dict:
    from gpt2course.checkpoint import load_model
    from gpt2course.sample import generate

    model, tokenizer, _ = load_model(str(home() / "runs" / r["checkpoint"]))
    texts = generate(model, tokenizer, r["prompts"], max_tokens=r["max_tokens"], temperature=r["temperature"], top_k=r["top_k"], seed=r["seed"])
    return {"prompts": r["prompts"], "texts": [text.removeprefix(prompt) for prompt, text in zip(r["prompts"], texts)]}


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


@dataclass
class Work:
    """What the runbook starts for a stage; not for typing."""

    stage: tyro.conf.Positional[str]
    name: str | None = None
    began: float | None = None  # time when the stage was started
    request: str = "{}"  # JSON: all that decides the result


def work(args: Work) -> None:
    steps = {"resolve": _work_resolve, "preflight": _work_preflight, "data": _work_data, "tokenizer": _work_tokenizer,
             "evaluate": _work_evaluate, "core": _work_core, "samples": _work_samples}  # fmt: skip
    request = json.loads(args.request)
    result = steps[args.stage](request)
    if args.name is None:
        print(json.dumps(result))
    else:
        _store(home() / "runs" / args.name, args.stage, _digest(request), result, time.time() - args.began)


def main(action: Status | Follow | Stop | Work) -> None:
    """Training started by runbooks/speedrun.ipynb: where it stands, follow it, stop it.

    python -m gpt2course.speedrun status jan29-d4
    """
    if isinstance(action, Work):
        work(action)
    elif isinstance(action, Stop):
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
