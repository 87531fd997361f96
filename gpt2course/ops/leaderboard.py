"""Time to GPT-2 grade: the published records, the unmerged claims and our own runs, in one table. Lesson 14.

    python -m gpt2course.ops.leaderboard --run jan29-d24

The table is results/leaderboard.csv. A run is GPT-2 grade when its CORE, on all 22 tasks with all examples, is above
0.256525, the score of GPT-2 XL. Hours are training time without evaluation and set-up. Bits per byte are comparable
only on the same validation data.
"""

import csv
import dataclasses
import re
import string
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from gpt2course.core_tasks import GPT2_CORE, TASKS
from gpt2course.files import UserError, coerce, command, in_clone, read_json
from gpt2course.load import find_run, run_config
from gpt2course.runlog import read_metrics

CSV = Path(__file__).parents[2] / "results" / "leaderboard.csv"


@dataclass(frozen=True)
class Entry:
    """A row of the table. Empty text and None stand for what is unknown."""

    id: str  # unique, for example nanochat-1, pr-830
    who: str = dataclasses.field(metadata={"choices": ("published", "unmerged", "ours")})  # unmerged: a pull request
    name: str  # a few words
    date: str  # 2026-01-29, or 2026-01, or 2026
    hours: float
    seconds: float | None = None  # the same, where the source is more precise
    core: float | None = dataclasses.field(default=None, metadata={"low": -1, "high": 1})  # mean of the core_runs
    core_runs: int | None = None
    val_bpb: float | None = None
    val_data: str = ""
    train_data: str = ""
    commit: str = ""
    depth: int | None = None
    ratio: float | None = None  # training tokens for each scaling parameter
    config: str = ""
    command: str = ""  # recipe, profile and settings: what follows `python -m gpt2course.train`
    missing: str = ""  # what the command cannot express, because this course does not have it
    steps: int | None = None
    tokens: float | None = None
    flops: float | None = None
    hardware: str = ""
    usd: float | None = None  # only where the source states a price
    source: str = ""  # address of the numbers, for entries of others
    run: str = ""  # name of the run, for our own entries
    evidence: str = ""  # folder in results/ with the raw lines of that run
    notes: str = ""

    @property
    def grade(self) -> str:
        """GPT-2 grade: yes, below, the bar (GPT-2 XL itself) or not measured."""
        if self.core is None:
            return "not measured"
        return "the bar" if self.core == GPT2_CORE else "yes" if self.core > GPT2_CORE else "below"


FIELDS = [f.name for f in dataclasses.fields(Entry)]


def read(path=None) -> list[Entry]:
    """The entries of the table, fastest first."""
    path = path or in_clone(CSV)
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:  # -sig: a spreadsheet writes a byte order mark
            rows = list(csv.reader(f))
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"leaderboard {path} is not a table in UTF-8 ({e}); restore it: git checkout {path}") from None
    if not rows or rows[0] != FIELDS:
        raise UserError(f"leaderboard {path}: the first line must be {','.join(FIELDS)}")
    entries = []
    for number, row in enumerate(rows[1:], 2):
        where = f"leaderboard {path}, line {number}"
        if len(row) != len(FIELDS):
            raise UserError(f"{where}: {len(row)} columns, expected {len(FIELDS)}")
        kinds = zip(dataclasses.fields(Entry), row)
        entries.append(Entry(**{f.name: coerce(f"{where}: {f.name}", text, f.type, **f.metadata) for f, text in kinds}))
    return sorted(entries, key=lambda e: (e.hours, e.id))


def real_core(result: dict) -> tuple[float | None, str]:
    """(CORE, "") for a result of core.py on all 22 tasks in full, else (None, what was measured instead).

    A subset of the examples scores about 0.01 too high, and other tasks measure something else.
    """
    counts = {label: task["n"] for label, task in result["tasks"].items()}
    if result["name"] == "CORE" and counts == TASKS and result.get("max_len") is None:
        return result["core"], ""
    return None, f"{result['name']} {result['core']:.4f} on {sum(counts.values()):,} examples: not CORE in full"


def core_result(run: Path) -> dict | None:
    """A run's result of core_fast: what the runbook keeps, or what `core_fast --out RUN/stages/core.json` wrote."""
    path = run / "stages" / "core.json"
    value = read_json(path, "CORE result") if path.is_file() else None
    while isinstance(value, dict) and "core" not in value:  # a stage of the runbook wraps it
        value = value.get("result")
    return value


def entry_from_run(run) -> Entry:
    """The row of a finished run, from its config.json, metrics.jsonl and, if there is one, its result of CORE.

    run: its name or folder. Hours are the training clock without the first steps, by the rule of the published table.
    """
    folder, config = find_run(run), run_config(run)
    last = {line["kind"]: line for line in read_metrics(folder)}
    if "done" not in last:
        raise UserError(f"run {folder.name!r} is not finished; the command that started it resumes it")
    done, bpb, result, plan = last["done"], last.get("eval", {}), core_result(folder), config["plan"]
    score, note = real_core(result) if result else (None, "")
    seconds = done.get("leaderboard_seconds") or done["seconds"]
    day = str(date.fromtimestamp((folder / "metrics.jsonl").stat().st_mtime))
    slug = re.sub(r"[^a-z0-9._-]+", "-", folder.name.lower())
    model, machine = plan["model"], config["machine"]
    return Entry(
        id=f"ours-{day}-{slug}", who="ours", name=folder.name, date=day, hours=round(seconds / 3600, 6),
        seconds=seconds, core=score, core_runs=None if score is None else 1, val_bpb=bpb.get("val_bpb"),
        val_data=f"{config['val_name']}, sha256 {config['val_sha256'][:12]}", train_data=config["corpus"],
        commit=config["commit"] or "", depth=model["n_layer"],
        ratio=round(done["tokens"] / plan["params"]["scaling"], 4),
        config=f"recipe {plan['recipe']['name']}, width {model['n_embd']}, T {model['sequence_len']}, "
               f"vocabulary {model['vocab_size']}, batch {plan['batch_tokens']}",
        steps=done["step"], tokens=float(done["tokens"]), flops=float(done["flops"]),
        hardware=f"{machine['devices']} x {machine['device']}", run=folder.name, evidence=f"{day}_{slug}", notes=note,
    )  # fmt: skip


def table(entries: list[Entry]) -> str:
    """The entries as text, fastest first, with the legend below."""
    rows, data = [("hours", "CORE", "GPT-2 grade", "val_bpb", "data", "who", "date", "hardware", "name")], {}
    for e in sorted(entries, key=lambda e: (e.hours, e.id)):
        runs = f" ({e.core_runs})" if (e.core_runs or 1) > 1 else ""
        core = "" if e.core is None else f"{e.core:.4f}{runs}"
        bpb, letter = "", ""
        if e.val_bpb is not None:
            bpb, letter = f"{e.val_bpb:.5f}", data.setdefault(e.val_data, string.ascii_lowercase[len(data) % 26])
        rows.append((f"{e.hours:.4f}", core, e.grade, bpb, letter, e.who, e.date, e.hardware[:16], e.name[:44]))
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(row, width)).rstrip() for row in rows]
    text += ["", f"GPT-2 grade: CORE on all 22 tasks above {GPT2_CORE}, the score of GPT-2 XL. (n): mean of n runs."]
    text += ["A single run has a standard deviation of 0.002 to 0.006. val_bpb is comparable on the same data only:"]
    return "\n".join(text + [f"  {letter}  {name}" for name, letter in data.items()])


def main(run: str = "") -> None:
    """Print the leaderboard of time to GPT-2 grade: published records, unmerged claims and our own runs.

    Args:
        run: A finished run of yours to show beside them.
    """
    print(table(read() + ([entry_from_run(run)] if run else [])))


if __name__ == "__main__":
    command(main)
