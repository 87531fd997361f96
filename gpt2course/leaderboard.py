"""Time to GPT-2: the published records, the claims that were never merged, and our own runs, in one checked table. Lesson 14.

The table is results/leaderboard.csv. An entry counts as GPT-2 grade when its CORE, measured on all 22 tasks in full, is
above 0.256525, the score of GPT-2 XL (1.5B) in karpathy/nanochat, dev/LEADERBOARD.md. Hours are training time alone.
Bits per byte compare only where `val_data` is the same text.
"""

import csv
import dataclasses
import json
import math
import re
import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import tyro

from gpt2course.files import UserError, atomic_dir, atomic_file, command, home, read_json, write_json

GPT2_CORE = 0.256525  # CORE of GPT-2 XL on DCLM's version-1 baselines (dev/LEADERBOARD.md of karpathy/nanochat)
CSV = Path(__file__).parent.parent / "results" / "leaderboard.csv"
WHO = ("published", "unmerged", "ours")

# The 22 tasks of CORE and the examples of each in the public bundle: only a score over all of them is CORE.
CORE_TASKS = {
    "hellaswag_zeroshot": 10042, "jeopardy": 2117, "bigbench_qa_wikidata": 20321, "arc_easy": 2376, "arc_challenge": 1172,
    "copa": 100, "commonsense_qa": 1221, "piqa": 1838, "openbook_qa": 500, "lambada_openai": 5153, "hellaswag": 10042,
    "winograd": 273, "winogrande": 1267, "bigbench_dyck_languages": 1000, "agi_eval_lsat_ar": 230, "bigbench_cs_algorithms": 1320,
    "bigbench_operators": 210, "bigbench_repeat_copy_logic": 32, "squad": 10570, "coqa": 7983, "boolq": 3270,
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
                raise UserError(f"leaderboard entry {self.id!r}: {field} = {getattr(self, field)!r} is not allowed; {allowed}")

        need(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.id), "id", "lower-case letters, digits, '.', '_' and '-'")
        need(self.who in WHO, "who", " or ".join(WHO))
        need(self.name, "name", "it must say what the entry is")
        try:
            date.fromisoformat((self.date + "-01-01")[:10] if re.fullmatch(r"\d{4}(-\d\d){0,2}", self.date) else "")
        except ValueError:
            need(False, "date", "year-month-day, for example 2026-01-29, or year-month, or year")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                need(value.isprintable() and value == value.strip(), field.name, "text on one line without spaces around it")
            elif value is not None:
                need(math.isfinite(value), field.name, "a finite number")
                need(value > 0 or field.name == "core", field.name, "it must be greater than 0")
        need(self.core is None or -1 < self.core < 1, "core", "CORE lies between -1 and 1")
        need(self.core is not None or self.core_runs is None, "core_runs", "without CORE there are no runs behind it")
        need(self.val_bpb is None or self.val_data, "val_data", "an entry with val_bpb must name the validation data")
        if self.seconds is not None:  # hours may be the rounded figure that was published
            need(abs(self.hours - self.seconds / 3600) <= 0.0051, "hours", f"{self.seconds} seconds are {self.seconds / 3600:.4f} hours")
        if self.who == "ours":
            need(self.run, "run", "an entry of our own must name its run")
            need(re.fullmatch(r"\w[\w.-]*", self.evidence), "evidence", "an entry of our own must name the folder in results/ that proves it")
        else:
            need(self.source.startswith("https://"), "source", "an entry of others must name its source, an https address")

    @property
    def grade(self) -> str:
        """GPT-2 grade: "yes", "below", or "not measured" without a real CORE."""
        return "not measured" if self.core is None else "yes" if self.core > GPT2_CORE else "below"


FIELDS = [f.name for f in dataclasses.fields(Entry)]
KINDS = {f.name: next(k for k in (int, float, str) if k.__name__ in str(f.type)) for f in dataclasses.fields(Entry)}


def _parse(row: dict, where: str) -> Entry:
    values = {}
    for name, text in row.items():
        try:
            values[name] = text if KINDS[name] is str else KINDS[name](text) if text else None
        except ValueError:
            raise UserError(f"{where}: {name} = {text!r} is not a number of type {KINDS[name].__name__}") from None
    if values["hours"] is None:
        raise UserError(f"{where}: hours is empty; an entry of the leaderboard needs a time")
    return Entry(**values)


def check(entries: list[Entry], folder: Path) -> None:
    """What no entry can check alone: ids are unique, and the evidence of our own entries exists in `folder`."""
    ids = [e.id for e in entries]
    for i in ids:
        if ids.count(i) > 1:
            raise UserError(f"leaderboard entry {i!r} exists already; give the run another name, or remove the old line")
    for e in entries:
        if e.who == "ours":
            for name in ("record.json", "metrics.jsonl"):
                if not (folder / e.evidence / name).is_file():
                    raise UserError(f"leaderboard entry {e.id!r}: evidence {folder / e.evidence / name} does not exist; "
                                    f"`python -m gpt2course.leaderboard add {e.run}` makes it from the run")  # fmt: skip


def by_hours(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (e.hours, e.id))


def read(path=CSV) -> list[Entry]:
    """All entries of a leaderboard file, checked, fastest first."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"leaderboard {path} does not exist; run from a clone of the repository, or name the file with --csv")
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.reader(f))
    if not rows or rows[0] != FIELDS:
        raise UserError(f"leaderboard {path}: the first line must be {','.join(FIELDS)}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(FIELDS):
            raise UserError(f"leaderboard {path}, line {number}: {len(row)} columns, expected {len(FIELDS)}")
    entries = [_parse(dict(zip(FIELDS, row)), f"leaderboard {path}, line {number}") for number, row in enumerate(rows[1:], 2)]
    check(entries, path.parent)
    return by_hours(entries)


def _cell(value) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def write(entries: list[Entry], path=CSV) -> None:
    """Write a leaderboard file, checked, fastest first, whole or not at all."""
    check(entries, Path(path).parent)
    with atomic_file(path) as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(FIELDS)
        out.writerows([_cell(getattr(e, name)) for name in FIELDS] for e in by_hours(entries))


def append(entry: Entry, path=CSV) -> None:
    """Add one entry to a leaderboard file; an id that is there already is refused, never replaced."""
    write([*read(path), entry], path)


def _find(value, *names):
    """The first value under one of `names` in nested dicts, outer levels first; None if there is none."""
    level = [value]
    while level:
        for d in level:
            for name in names:
                if d.get(name) is not None:
                    return d[name]
        level = [v for d in level for v in d.values() if isinstance(v, dict)]
    return None


def _read_run(run) -> tuple[Path, dict, list[dict]]:
    folder = Path(run) if Path(run).is_dir() else home() / "runs" / str(run)
    if not folder.is_dir():
        raise UserError(f"run {str(run)!r} does not exist: neither a folder of that name nor {folder}")
    config = read_json(folder / "config.json", "run configuration")
    lines = []
    try:
        for number, line in enumerate((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(), 1):
            lines.append(json.loads(line))
    except FileNotFoundError:
        raise UserError(f"run {folder} has no metrics.jsonl, so nothing was measured; start it with `python -m gpt2course.train`") from None
    except json.JSONDecodeError as e:
        raise UserError(f"run {folder}: line {number} of metrics.jsonl is not valid JSON ({e})") from None
    return folder, config, lines


def real_core(line: dict) -> tuple[float | None, str]:
    """(CORE, "") from a metrics line of kind "core" if it is the real one, else (None, what it is instead).

    Real means: all 22 tasks and no other, each on every example. Fewer examples read about 0.01 too high, and a bundle of
    other tasks measures something else. line["tasks"] holds a dict for each task with its number of examples
    ("examples" or "n") and its centred accuracy ("centered" or "centred").
    """
    tasks, score = line.get("tasks") or {}, line["core"]
    if set(tasks) != set(CORE_TASKS):
        return None, f"mini-CORE {score:.4f} on {len(tasks)} tasks, not CORE"
    counts = {name: task.get("examples", task.get("n")) if isinstance(task, dict) else None for name, task in tasks.items()}
    if None in counts.values():
        return None, f"score {score:.4f} on the 22 tasks of CORE, number of examples not recorded"
    if counts != CORE_TASKS:
        return None, f"score {score:.4f} on {sum(counts.values()):,} of {sum(CORE_TASKS.values()):,} CORE examples, not CORE"
    centred = [task.get("centered", task.get("centred")) for task in tasks.values()]
    if None not in centred and abs(sum(centred) / len(centred) - score) > 1e-4:
        raise UserError(f"core = {score!r} is not the mean of its 22 tasks, {sum(centred) / len(centred):.6f}; evaluate again")
    return score, ""


def _hardware(config: dict) -> str:
    hardware = _find(config, "hardware") or "unknown"
    if isinstance(hardware, dict):
        name = _find(hardware, "device_name", "gpu", "name", "device", "cpu") or "unknown"
        count = _find(hardware, "n_devices", "gpus", "world_size") or _find(config, "world_size") or 1
        return f"{count} x {name}" if isinstance(count, int) and count > 1 else str(name)
    return str(hardware)


def entry_from_run(run, evidence: str | None = None) -> Entry:
    """The leaderboard row of a finished run, from its config.json and metrics.jsonl; nothing is written.

    run: a folder, or the name of one under home()/runs. hours are the training clock; CORE stays empty unless all 22 tasks
    were measured in full at the last step. evidence: the folder in results/ that will prove it, by default date and run.
    """
    folder, config, lines = _read_run(run)
    last = {line["kind"]: line for line in lines if "kind" in line}
    if "done" not in last:
        at = lines[-1].get("step", 0) if lines else 0
        raise UserError(f"run {folder.name!r} is not finished (step {at}), so it has no time; resume it with `python -m gpt2course.train`")
    done, notes = last["done"], []
    core = None
    if "core" in last:
        core, note = real_core(last["core"])
        if core is not None and last["core"]["step"] != done["step"]:
            core, note = None, f"CORE {core:.4f} at step {last['core']['step']}, before the end"
        notes += [note] if note else []
    bpb = last.get("eval")
    if bpb is not None and bpb["step"] != done["step"]:
        notes.append(f"val_bpb measured at step {bpb['step']}")
    val_name, val_hash = _find(config, "val_name"), _find(config, "val_sha256")
    val_data = " ".join(x for x in (val_name, f"sha256 {val_hash[:12]}" if val_hash else None) if x)
    day = str(_find(config, "date", "started") or date.fromtimestamp((folder / "metrics.jsonl").stat().st_mtime))[:10]
    name = folder.resolve().name
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower())
    recipe = _find(config, "recipe")
    recipe = recipe.get("name", "") if isinstance(recipe, dict) else str(recipe or "")
    scaling = _find(config, "scaling")  # parameters; with the tokens it gives the ratio that was really trained
    sizes = {label: _find(config, key) for label, key in (("width", "n_embd"), ("T", "sequence_len"), ("vocabulary", "vocab_size"), ("batch", "batch_tokens"))}
    return Entry(
        id=f"ours-{day}-{slug}",
        who="ours",
        name=f"{recipe or 'run'} {name}".strip(),
        date=day,
        hours=round(done["seconds"] / 3600, 4) or done["seconds"] / 3600,
        seconds=round(done["seconds"], 2),
        core=None if core is None else round(core, 6),
        core_runs=None if core is None else 1,
        val_bpb=None if bpb is None else round(bpb["val_bpb"], 6),
        val_data=(val_data or "validation data not recorded") if bpb is not None else "",
        train_data=str(_find(config, "corpus_name", "corpus", "data") or ""),
        commit=str(_find(config, "commit", "git_commit") or ""),
        depth=_find(config, "depth", "n_layer"),
        ratio=round(done["tokens"] / scaling, 2) if scaling else None,
        config=", ".join([f"recipe {recipe}"] * bool(recipe) + [f"{label} {value}" for label, value in sizes.items() if value]),
        steps=done["step"],
        tokens=float(done["tokens"]),
        flops=float(done["flops"]),
        hardware=_hardware(config),
        run=name,
        evidence=evidence or f"{day}_{slug}",
        notes="; ".join(notes),
    )


def record(run, folder) -> None:
    """Make the recorded result of a run: `folder` with record.json and the raw metrics.jsonl (see results/README.md)."""
    entry, (source, config, lines) = entry_from_run(run, Path(folder).name), _read_run(run)
    if Path(folder).exists():
        raise UserError(f"evidence {folder} exists already; a recorded result is never overwritten: name another with --evidence")
    core = [line for line in lines if line.get("kind") == "core"]
    what = {name: getattr(entry, name) for name in ("seconds", "hours", "steps", "tokens", "flops", "val_bpb", "val_data", "core")}
    with atomic_dir(folder) as tmp:
        write_json(tmp / "record.json", {"run": entry.run, "date": entry.date, "result": what, "core_line": core[-1] if core else None,
                                         "notes": entry.notes, "config": config})  # fmt: skip
        shutil.copyfile(source / "metrics.jsonl", tmp / "metrics.jsonl")


def table(entries: list[Entry]) -> str:
    """The entries as text, fastest first, at most 130 characters wide, with what the marks mean below."""
    rows = [("hours", "CORE", "GPT-2 grade", "val_bpb", "data", "who", "date", "hardware", "name")]
    data = {}  # validation data -> letter
    for e in by_hours(entries):
        letter = data.setdefault(e.val_data, "abcdefghijklmnopqrstuvwxyz"[len(data) % 26]) if e.val_bpb is not None else ""
        core = "" if e.core is None else f"{e.core:.4f}" + (f" ({e.core_runs})" if (e.core_runs or 1) > 1 else "")
        bpb = "" if e.val_bpb is None else f"{e.val_bpb:.5f}"
        hours = f"{e.hours:.2f}" if e.hours >= 1 else f"{e.hours:.4f}"
        rows.append((hours, core, e.grade, bpb, letter, e.who, e.date, _short(e.hardware, 16), _short(e.name, 44)))
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = ["  ".join(cell.rjust(w) if i in (0, 3) else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, width))).rstrip() for row in rows]
    text.insert(1, "  ".join("-" * w for w in width))
    text.append("")
    text.append(f"GPT-2 grade: CORE on all 22 tasks above {GPT2_CORE}, the score of GPT-2 XL. (n): mean of n runs; one run has a")
    text.append("standard deviation of 0.002 to 0.006, so a single CORE within 0.012 of the bar decides little.")
    text.append("val_bpb compares only within the same validation data:")
    text += [f"  {letter}  {name}" for name, letter in data.items()]
    return "\n".join(text)


def _short(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 3].rstrip() + "..."


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


def show(args: Show) -> None:
    entries = read(args.csv)
    print(table([*entries, entry_from_run(args.run)] if args.run else entries))


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


def main(args: Show | Add) -> None:
    """The leaderboard of time to GPT-2: published records, unmerged claims and our own runs.

    python -m gpt2course.leaderboard show
    """
    show(args) if isinstance(args, Show) else add(args)


if __name__ == "__main__":
    command(main)
