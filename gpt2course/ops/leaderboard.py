"""Time to GPT-2: the published records, the claims never merged, and our own runs, in one checked table. Lesson 14.

The table is results/leaderboard.csv. An entry counts as GPT-2 grade when its CORE, measured on all 22 tasks in full, is
above 0.256525, the score of GPT-2 XL (1.5B) in karpathy/nanochat, dev/LEADERBOARD.md. Hours are training time alone.
Bits per byte compare only where `val_data` is the same text.
"""

import csv
import dataclasses
import functools
import itertools
import json
import math
import re
import shlex
import shutil
import string
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import tyro

from gpt2course.cost import peak_flops
from gpt2course.files import UserError, atomic_dir, atomic_file, command, home, read_json, sha256, write_json

GPT2_CORE = 0.256525  # CORE of GPT-2 XL on DCLM's version-1 baselines (dev/LEADERBOARD.md of karpathy/nanochat)
CSV = Path(__file__).parent.parent / "results" / "leaderboard.csv"
WHO = ("published", "unmerged", "ours")

# The 22 tasks of CORE and the examples of each in the public bundle: only a score over all of them is CORE.
CORE_TASKS = {
    "hellaswag_zeroshot": 10042, "jeopardy": 2117, "bigbench_qa_wikidata": 20321, "arc_easy": 2376,
    "arc_challenge": 1172, "copa": 100, "commonsense_qa": 1221, "piqa": 1838, "openbook_qa": 500,
    "lambada_openai": 5153, "hellaswag": 10042, "winograd": 273, "winogrande": 1267, "bigbench_dyck_languages": 1000,
    "agi_eval_lsat_ar": 230, "bigbench_cs_algorithms": 1320, "bigbench_operators": 210,
    "bigbench_repeat_copy_logic": 32, "squad": 10570, "coqa": 7983, "boolq": 3270,
    "bigbench_language_identification": 10000,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One row of the leaderboard. Empty text and None stand for what is not known."""

    id: str  # unique, for example nanochat-1, pr-830, ours-2026-11-23-laptop
    who: str  # published (in the official table), unmerged (claimed in a pull request) or ours
    name: str  # what it is, in a few words
    date: str  # 2026-01-29, or as much of it as is known
    hours: float  # training time, without evaluation and set-up
    seconds: float | None = None  # the same, where the source gives it finer
    core: float | None = None  # CORE over all 22 tasks in full; a mean where core_runs is above 1
    core_runs: int | None = None  # runs behind core
    val_bpb: float | None = None  # bits per byte of the validation data
    val_data: str = ""  # which validation data: bits per byte of different data must not be compared
    train_data: str = ""
    commit: str = ""
    depth: int | None = None
    ratio: float | None = None  # training tokens for each scaling parameter
    config: str = ""
    command: str = ""  # its recipe, depth and flags: what follows `-m gpt2course.train`; see plan_of
    missing: str = ""  # what the command does not say, because this course has no such switch, or other data were used
    steps: int | None = None
    tokens: float | None = None
    flops: float | None = None
    hardware: str = ""
    usd: float | None = None  # only where the source states a price
    source: str = ""  # where the numbers are published; needed unless the entry is ours
    run: str = ""  # ours: the name of the run
    evidence: str = ""  # ours: the folder beside this table that holds record.json and metrics.jsonl
    notes: str = ""

    def __post_init__(self):
        def need(ok, field, allowed):
            if not ok:
                value = getattr(self, field)
                raise UserError(f"leaderboard entry {self.id!r}: {field} = {value!r} is not allowed; {allowed}")

        need(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.id), "id", "lower-case letters, digits, '.', '_' and '-'")
        need(self.who in WHO, "who", " or ".join(WHO))
        need(self.name, "name", "it must say what the entry is")
        try:
            date.fromisoformat((self.date + "-01-01")[:10])
            dated = re.fullmatch(r"\d{4}(-\d\d){0,2}", self.date)
        except ValueError:
            dated = False
        need(dated, "date", "year-month-day, for example 2026-01-29, or year-month, or year")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                tidy = value.isprintable() and value == value.strip()
                need(tidy, field.name, "text on one line without spaces around it")
            elif value is not None:
                need(math.isfinite(value), field.name, "a finite number")
                need(value > 0 or field.name == "core", field.name, "it must be greater than 0")
        profiled = not self.command or re.match(r"[a-z]\w* --profile \w+( |$)", self.command)
        need(profiled, "command", "a recipe and --profile come first, for example jan29 --profile 8xh100")
        need(self.core is None or -1 < self.core < 1, "core", "CORE lies between -1 and 1")
        need(self.core is not None or self.core_runs is None, "core_runs", "without CORE there are no runs behind it")
        need(self.val_bpb is None or self.val_data, "val_data", "an entry with val_bpb must name the validation data")
        if self.seconds is not None:  # hours may be the rounded figure that was published
            exact = self.seconds / 3600
            need(abs(self.hours - exact) <= 0.0051, "hours", f"{self.seconds} seconds are {exact:.4f} hours")
        if self.who == "ours":
            need(self.run, "run", "an entry of our own must name its run")
            folder = re.fullmatch(r"\w[\w.-]*", self.evidence)
            need(folder, "evidence", "an entry of our own must name its folder in results/")
        else:
            address = self.source.startswith("https://")
            need(address, "source", "an entry of others must name its source, an https address")

    @property
    def grade(self) -> str:
        """GPT-2 grade: "yes", "below", "the bar" (GPT-2 XL itself), or "not measured" without a real CORE."""
        if self.core is None:
            return "not measured"
        if self.core == GPT2_CORE:
            return "the bar"
        return "yes" if self.core > GPT2_CORE else "below"


FIELDS = [f.name for f in dataclasses.fields(Entry)]
KINDS = {f.name: next(k for k in (int, float, str) if k.__name__ in str(f.type)) for f in dataclasses.fields(Entry)}


def _parse(row: dict, where: str) -> Entry:
    values = {}
    for name, text in row.items():
        try:
            if text or KINDS[name] is str:
                values[name] = KINDS[name](text)
            else:
                values[name] = None
        except ValueError:
            raise UserError(f"{where}: {name} = {text!r} is not a number of type {KINDS[name].__name__}") from None
    if values["hours"] is None:
        raise UserError(f"{where}: hours is empty; an entry of the leaderboard needs a time")
    return Entry(**values)


def plan_of(entry: Entry):
    """The resolved Plan (recipes.py) of an entry's command, None for an entry without one. Loads torch."""
    return _plan(entry.command) if entry.command else None


@functools.cache
def _plan(command: str):
    from gpt2course.recipes import PROFILES, resolve, settings_from_text

    recipe, _, profile, *rest = shlex.split(command)
    sizes = {k: v for k, v in PROFILES[profile].items() if k not in ("corpus", "device_batch")}
    settings = itertools.takewhile(lambda word: not word.startswith("--"), rest[rest.index("--set") + 1 :])
    return resolve(recipe, **(sizes | settings_from_text(tuple(settings))))


def check(entries: list[Entry], folder: Path) -> None:
    """What no entry can check alone: ids are unique, and the evidence of our own entries exists in `folder`."""
    ids = [e.id for e in entries]
    for e in entries:
        if ids.count(e.id) > 1:
            raise UserError(
                f"leaderboard entry {e.id!r} exists already; give the run another name, or remove the old line"
            )
    for e in entries:
        if e.who != "ours":
            continue
        for path in (folder / e.evidence / "record.json", folder / e.evidence / "metrics.jsonl"):
            if not path.is_file():
                raise UserError(
                    f"leaderboard entry {e.id!r}: evidence {path} does not exist; "
                    f"`python -m gpt2course.ops.leaderboard add {e.run}` makes it from the run"
                )


def by_hours(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (e.hours, e.id))


def of_others(entries: list[Entry]) -> list[Entry]:
    """The published entries, then the unmerged ones, each by date."""
    return sorted((e for e in entries if e.who != "ours"), key=lambda e: (e.who, e.date, e.id))


def read(path=CSV) -> list[Entry]:
    """All entries of a leaderboard file, checked, fastest first."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"leaderboard {path} does not exist; run from a clone of the repository, or name the file with --csv"
        )
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.reader(f))
    if not rows or rows[0] != FIELDS:
        raise UserError(f"leaderboard {path}: the first line must be {','.join(FIELDS)}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(FIELDS):
            raise UserError(f"leaderboard {path}, line {number}: {len(row)} columns, expected {len(FIELDS)}")
    where = f"leaderboard {path}, line"
    entries = [_parse(dict(zip(FIELDS, row)), f"{where} {number}") for number, row in enumerate(rows[1:], 2)]
    check(entries, path.parent)
    return by_hours(entries)


def write(entries: list[Entry], path=CSV) -> None:
    """Write a leaderboard file, checked, fastest first, whole or not at all."""
    check(entries, Path(path).parent)
    with atomic_file(path) as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(FIELDS)
        out.writerows(dataclasses.astuple(e) for e in by_hours(entries))  # csv writes a float by repr, None as nothing


def append(entry: Entry, path=CSV) -> None:
    """Add one entry to a leaderboard file; an id that is there already is refused, never replaced."""
    write([*read(path), entry], path)


def _read_run(run) -> tuple[Path, dict, list[dict]]:
    places = (home() / "runs" / str(run), Path(run))
    folder = next((p for p in places if p.is_dir()), None)
    if folder is None:
        raise UserError(f"run {str(run)!r} does not exist: neither {places[0]} nor a folder of that name")
    config = read_json(folder / "config.json", "run configuration")
    lines = []
    try:
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(line))
    except FileNotFoundError:
        raise UserError(f"run {folder} has no metrics.jsonl; start it with `python -m gpt2course.train`") from None
    except json.JSONDecodeError as e:
        raise UserError(f"run {folder}: line {len(lines) + 1} of metrics.jsonl is not valid JSON ({e})") from None
    return folder, config, lines


def real_core(result: dict) -> tuple[float | None, str]:
    """(CORE, "") from a result of core.py if it is the real one, else (None, what it is instead).

    Real means: all 22 tasks and no other, each on every example and uncropped, centred by the baselines of DCLM's
    version 1. Fewer examples read about 0.01 too high, and a bundle of other tasks measures something else.
    result: "core" and "tasks", {label: {"n": examples, "centred": ...}}; "name", "baselines", "max_len" and "draw" are
    checked where they are given.
    """
    tasks, score, max_len = result.get("tasks") or {}, result["core"], result.get("max_len")
    if set(tasks) != set(CORE_TASKS) or result.get("name", "CORE") != "CORE":
        return None, f"{result.get('name', 'score')} {score:.4f} on {len(tasks)} tasks, not CORE"
    if max_len is not None or result.get("baselines", "DCLM v1") != "DCLM v1":
        how = f"max_len {max_len} and baselines {result.get('baselines')}"
        return None, f"score {score:.4f} on the tasks of CORE with {how}, not CORE"
    if result.get("draw"):
        return None, f"score {score:.4f} on few-shot draw {result['draw']} of CORE, not CORE"
    counts = {label: task.get("n") if isinstance(task, dict) else None for label, task in tasks.items()}
    if None in counts.values():
        return None, f"score {score:.4f} on the 22 tasks of CORE, number of examples not recorded"
    if counts != CORE_TASKS:
        examples = f"{sum(counts.values()):,} of {sum(CORE_TASKS.values()):,} CORE examples"
        return None, f"score {score:.4f} on {examples}, not CORE"
    mean = sum(task["centred"] for task in tasks.values()) / len(tasks)
    if abs(mean - score) > 1e-6:
        raise UserError(
            f"core = {score!r} is not the mean of its 22 tasks, {mean:.6f}; run `python -m gpt2course.core` again"
        )
    return score, ""


def _core_result(folder: Path, lines: list[dict]) -> dict | None:
    """The newest result of core.py for a run: report/core.json, else the last line of kind "core" in its metrics."""
    path = folder / "report" / "core.json"
    if not path.is_file():
        return next((line for line in reversed(lines) if line.get("kind") == "core"), None)
    result = read_json(path, "CORE result")
    if "core" not in result:
        made_with = f"python -m gpt2course.core {folder.name} --out {path}"
        raise UserError(f"CORE result {path} has no score; make it with `{made_with}`")
    stale = path.stat().st_mtime < (folder / "metrics.jsonl").stat().st_mtime  # written before the run ended
    return {"step": -1 if stale else lines[-1]["step"]} | result


def _hardware(config: dict) -> str:
    machine = config.get("machine") or {}
    name, count = machine.get("device") or "unknown", machine.get("devices") or 1
    if machine.get("type") == "cpu":
        name += f" CPU, {machine.get('cpu_threads')} threads"
    return f"{count} x {name}" if count > 1 else name


def entry_from_run(run, evidence: str | None = None) -> Entry:
    """The leaderboard row of a finished run, from its config.json, metrics.jsonl and report/core.json. Writes nothing.

    run: a folder, or the name of one under home()/runs. hours are the training clock, by the rule of the published
    table without the first steps, which warm the machine up. CORE stays empty unless it is the real one of the last
    step (see `real_core`); what was measured instead goes into the notes. evidence: the folder in results/ that will
    prove it, by default date and run.
    """
    folder, config, lines = _read_run(run)
    last = {line["kind"]: line for line in lines if "kind" in line}
    if "done" not in last:
        at = lines[-1].get("step", 0) if lines else 0
        raise UserError(f"run {folder.name!r} is not finished (step {at}); the command that began it goes on with it")
    done, bpb, result = last["done"], last.get("eval"), _core_result(folder, lines)
    core, notes = None, []
    if result is not None:
        core, note = real_core(result)
        if result.get("step", -1) != done["step"]:
            core, note = None, note or f"CORE {result['core']:.4f} was measured before the end"
        if note:
            notes.append(note)
    if bpb is not None and bpb["step"] != done["step"]:
        notes.append(f"val_bpb is of step {bpb['step']}")
    seconds = done.get("leaderboard_seconds") or done["seconds"]
    plan = config.get("plan") or {}
    recipe, model, scaling = plan.get("recipe", {}), plan.get("model", {}), plan.get("params", {}).get("scaling")
    settings = {
        "recipe": recipe.get("name"), "width": model.get("n_embd"), "T": model.get("sequence_len"),
        "vocabulary": model.get("vocab_size"), "batch": plan.get("batch_tokens"),
    }  # fmt: skip
    val_data = ""
    if bpb is not None:
        val_data = config.get("val_name") or "not recorded"
        if config.get("val_sha256"):
            val_data += f", sha256 {config['val_sha256'][:12]}"
    name = folder.resolve().name
    day = str(date.fromtimestamp((folder / "metrics.jsonl").stat().st_mtime))
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower())
    return Entry(
        id=f"ours-{day}-{slug}",
        who="ours",
        name=name,
        date=day,
        hours=float(f"{seconds / 3600:.6g}"),
        seconds=seconds,
        core=None if core is None else round(core, 6),
        core_runs=None if core is None else 1,
        val_bpb=None if bpb is None else round(bpb["val_bpb"], 6),
        val_data=val_data,
        train_data=str(config.get("corpus") or ""),
        commit=config.get("commit") or "",
        depth=model.get("n_layer"),
        ratio=float(f"{done['tokens'] / scaling:.4g}") if scaling else None,  # as trained, not as the recipe asked
        config=", ".join(f"{label} {value}" for label, value in settings.items() if value),
        steps=done["step"],
        tokens=float(done["tokens"]),
        flops=float(done["flops"]),
        hardware=_hardware(config),
        run=name,
        evidence=evidence or f"{day}_{slug}",
        notes="; ".join(notes),
    )


def record(run, folder) -> None:
    """Make the recorded result of a run: `folder` with record.json, copies of the raw files, and SHA256SUMS over them.

    The raw files are metrics.jsonl, config.json, and core.json where there is one (see results/README.md). record.json
    has the hashes of the last checkpoint, the tokenizer and the validation text too.
    """
    entry, (source, config, lines) = entry_from_run(run, Path(folder).name), _read_run(run)
    if Path(folder).exists():
        raise UserError(
            f"evidence {folder} exists already; a recorded result is never overwritten: name another with --evidence"
        )
    machine = config.get("machine") or {}
    peak = peak_flops(machine.get("device") or "")
    names = ("hours", "seconds", "steps", "tokens", "flops", "val_bpb", "val_data", "core", "notes")
    result = {name: getattr(entry, name) for name in names}
    # what the devices could have done in the time
    result["hardware_flops"] = None if peak is None else entry.seconds * (machine.get("devices") or 1) * peak
    core = _core_result(source, lines)
    state = source / "checkpoints" / f"step_{entry.steps:08d}" / "state.json"
    weights = read_json(state, "checkpoint state")["sha256"]["model.safetensors"] if state.is_file() else None
    hashes = {"weights": weights, "tokenizer": config.get("tokenizer_sha256"), "validation": config.get("val_sha256")}
    made = {"run": entry.run, "date": entry.date, "result": result, "core": core, "hashes": hashes, "made": config}
    with atomic_dir(folder) as tmp:
        write_json(tmp / "record.json", made)
        for name in ("metrics.jsonl", "config.json"):
            shutil.copyfile(source / name, tmp / name)
        if core is not None:
            write_json(tmp / "core.json", core)
        sums = "".join(f"{sha256(p)}  {p.name}\n" for p in sorted(tmp.iterdir()))
        (tmp / "SHA256SUMS").write_text(sums, encoding="utf-8")


def table(entries: list[Entry]) -> str:
    """The entries as text, fastest first, at most 130 characters wide, with what the marks mean below."""
    rows = [("hours", "CORE", "GPT-2 grade", "val_bpb", "data", "who", "date", "hardware", "name")]
    data = {}  # validation data -> letter
    for e in by_hours(entries):
        letter = core = bpb = ""
        if e.val_bpb is not None:
            bpb = f"{e.val_bpb:.5f}"
            letter = data.setdefault(e.val_data, string.ascii_lowercase[len(data) % 26])
        if e.core is not None:
            core = f"{e.core:.4f}"
            if (e.core_runs or 1) > 1:
                core += f" ({e.core_runs})"
        hours = f"{e.hours:.2f}" if e.hours >= 1 else f"{e.hours:.4f}"
        rows.append((hours, core, e.grade, bpb, letter, e.who, e.date, _short(e.hardware, 16), _short(e.name, 44)))
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = (True, False, False, True, *[False] * 5)  # columns of numbers
    text = []
    for row in rows:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right)]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "  ".join("-" * w for w in width))
    text += [
        "",
        f"GPT-2 grade: CORE on all 22 tasks above {GPT2_CORE}, the score of GPT-2 XL. "
        "(n): mean of n runs; one run has a",
        "standard deviation of 0.002 to 0.006, so a single CORE within 0.012 of the bar decides little.",
        "val_bpb compares only within the same validation data:",
    ]
    text += [f"  {letter}  {name}" for name, letter in data.items()]
    return "\n".join(text)


def _short(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 3].rstrip() + "..."


def commands(entries: list[Entry]) -> str:
    """Each published or unmerged entry's command as text, in the order of its date, and what is missing in it."""
    lines = []
    for e in of_others(entries):
        lines += ["", f"{e.id}: {e.name}, {e.hours:.2f} h"]
        if e.command:
            lines.append(f"  torchrun --standalone --nproc_per_node=8 -m gpt2course.train {e.command}")
        if e.missing:
            lines.append(f"  {'differs' if e.command else 'cannot be repeated'}: {e.missing}")
    return "\n".join(lines[1:])


@dataclass
class Show:
    """Print the leaderboard, fastest first, with a run of yours beside it if you name one. Writes nothing."""

    run: str = ""  # a finished run (its name, or its folder) to show beside the entries
    csv: Path = CSV  # the leaderboard file


@dataclass
class Add:
    """Add a finished run to the leaderboard: records it in a folder of results/ and appends one line to the table."""

    run: tyro.conf.Positional[str]  # the run: its name, or its folder
    evidence: str = ""  # name of the folder beside the table; made from the run if it is not there; default: date_run
    csv: Path = CSV  # the leaderboard file


@dataclass
class Commands:
    """Print the command that repeats each entry with this course, official entries first, and what it cannot repeat."""

    csv: Path = CSV  # the leaderboard file


def add(args: Add) -> None:
    entries = read(args.csv)  # a damaged table must stop us before anything is written
    entry = entry_from_run(args.run, args.evidence or None)
    if entry.id in {e.id for e in entries}:
        raise UserError(f"leaderboard entry {entry.id!r} exists already in {args.csv}; a run is added once")
    folder = args.csv.parent / entry.evidence
    if not folder.exists():
        record(args.run, folder)
        print(f"recorded {folder}")
    append(entry, args.csv)
    print(f"added {entry.id} to {args.csv}")


def main(args: Show | Add | Commands) -> None:
    """The leaderboard of time to GPT-2: published records, unmerged claims and our own runs.

    python -m gpt2course.ops.leaderboard show
    """
    if isinstance(args, Add):
        add(args)
        return
    entries = read(args.csv)
    if isinstance(args, Commands):
        print(commands(entries))
        return
    if args.run:
        entries.append(entry_from_run(args.run))
    print(table(entries))


if __name__ == "__main__":
    command(main)
