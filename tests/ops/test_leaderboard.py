"""The leaderboard: the published figures, a table that refuses what is wrong, and rows made from runs."""

import csv
import dataclasses
import json
import shlex

import pytest
import tyro

from gpt2course.core_tasks import GPT2_CORE, TASKS
from gpt2course.course import lab
from gpt2course.files import UserError
from gpt2course.ops.leaderboard import (
    CSV,
    FIELDS,
    entry_from_run,
    main,
    read,
    real_core,
)
from gpt2course.recipes import resolve_run, settings_from_text
from gpt2course.train import Train

PUBLIC = [e for e in read() if e.who != "ours"]
ENTRIES = {e.id: e for e in PUBLIC}


# ---- the table in the repository


def test_the_six_records_and_the_bar():
    """karpathy/nanochat, README.md and dev/LEADERBOARD.md at commit 92d63d4."""
    records = [ENTRIES[f"nanochat-{i}"] for i in range(1, 7)]
    assert [e.hours for e in records] == [3.04, 2.91, 2.76, 2.02, 1.80, 1.65] and {e.who for e in records} == {"published"}
    assert [e.core for e in records] == [0.25851, 0.2578, 0.26024, 0.25714, 0.2690, 0.262634] and {e.grade for e in records} == {"yes"}
    assert (ENTRIES["gpt2-2019"].core, ENTRIES["gpt2-2019"].grade, ENTRIES["gpt2-2019"].hours) == (GPT2_CORE, "the bar", 168.0)
    assert len(PUBLIC) == 18 and sum(e.who == "unmerged" for e in PUBLIC) == 11


def test_every_row_is_consistent_and_names_its_source():
    for e in PUBLIC:
        assert e.source.startswith("https://") and e.name and (e.val_bpb is None or e.val_data)
        assert e.seconds is None or abs(e.hours - e.seconds / 3600) <= 0.0051
        assert None in (e.steps, e.tokens) or e.tokens % e.steps == 0
    assert [e.id for e in read()] == [row["id"] for row in lab.published()]  # lessons read the same rows


@pytest.mark.parametrize("e", [e for e in PUBLIC if e.command], ids=lambda e: e.id)
def test_every_command_is_one_that_train_takes(e):
    args = tyro.cli(Train, args=shlex.split(e.command), config=(tyro.conf.OmitArgPrefixes,))
    plan = resolve_run(args.recipe, args.profile, settings_from_text(args.set), devices=8, device_batch=args.device_batch).plan
    assert plan.model.n_layer == e.depth
    if e.who == "published" and e.steps:
        assert (plan.steps, plan.tokens) == (e.steps, e.tokens)


# ---- reading and writing


@pytest.mark.parametrize("field, value", [("who", "me"), ("hours", ""), ("hours", "soon"), ("core", "1.5"), ("core", "nan"), ("depth", "2.5"), ("val_bpb", "x")])
def test_damaged_values_are_named_with_file_and_line(tmp_path, field, value):
    row = dict(zip(FIELDS, next(csv.reader([CSV.read_text().splitlines()[1]]))))
    path = tmp_path / "t.csv"
    with open(path, "w", newline="") as f:
        csv.writer(f).writerows([FIELDS, (row | {field: value}).values()])
    with pytest.raises(UserError, match=f"leaderboard {path}, line 2: {field} = .* is not allowed"):
        read(path)


def test_the_table_is_readable(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 130 for line in lines) and lines[0].split()[:2] == ["hours", "CORE"]
    assert "1.3639    0.2618 (6)  yes" in lines[1] and "the bar" in lines[18] and any(line.startswith("  a  ClimbMix") for line in lines)


# ---- rows from runs


def core_result(**changes):
    tasks = {label: {"accuracy": 0.5, "centred": 0.2525, "n": n} for label, n in TASKS.items()}
    return {"name": "CORE", "baselines": "DCLM v1", "max_len": None, "core": 0.2525, "tasks": tasks} | changes


@pytest.fixture
def run(course_home):
    """The folder of a finished run."""
    folder = course_home / "runs" / "My-Run"
    (folder / "stages").mkdir(parents=True)
    config = {
        "plan": {"recipe": {"name": "jan29", "ratio": 12.0}, "params": {"scaling": 1_000_000}, "batch_tokens": 8192,
                 "model": {"n_layer": 4, "n_embd": 192, "sequence_len": 256, "vocab_size": 4096}},
        "corpus": "embedded", "val_name": "embedded-val", "val_sha256": "ab" * 32, "seed": 42, "commit": "0123456789ab",
        "machine": {"device": "NVIDIA H100 80GB HBM3", "devices": 8, "type": "cuda", "cpu_threads": 2},
    }  # fmt: skip
    at = lambda step: dict(step=step, tokens=step * 8192, flops=step * 1e12, seconds=step * 2.0)  # noqa: E731
    lines = [
        {"kind": "train", **at(50), "loss": 3.0}, {"kind": "eval", **at(50), "val_bpb": 2.0, "val_bytes": 10},
        {"kind": "eval", **at(100), "val_bpb": 1.5, "val_bytes": 10}, {"kind": "done", **at(100), "leaderboard_seconds": 180.0},
    ]  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_entry_from_run(run, capsys):
    e = entry_from_run("My-Run")
    assert e == entry_from_run(run) and e.id == f"ours-{e.date}-my-run" and e.evidence == f"{e.date}_my-run"
    assert (e.who, e.run, e.hours, e.seconds) == ("ours", "My-Run", 0.05, 180)  # 180 s: without the first steps
    assert (e.val_bpb, e.val_data) == (1.5, f"embedded-val, sha256 {'ab' * 6}")
    assert (e.depth, e.ratio, e.steps, e.tokens, e.flops) == (4, 0.8192, 100, 819200, 1e14)  # the ratio that was trained
    assert (e.commit, e.train_data, e.hardware) == ("0123456789ab", "embedded", "8 x NVIDIA H100 80GB HBM3")
    assert e.config == "recipe jan29, width 192, T 256, vocabulary 4096, batch 8192"
    assert (e.core, e.core_runs, e.grade, e.notes) == (None, None, "not measured", "")
    main("My-Run")
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "0.0500"  # the fastest of all


@pytest.mark.parametrize("wrapped", [True, False])
def test_core_in_full_goes_into_the_column(run, wrapped):
    found = {"result": core_result(core=0.2570)}  # as core_fast writes it
    (run / "stages" / "core.json").write_text(json.dumps({"inputs": "", "result": found} if wrapped else found))
    e = entry_from_run("My-Run")
    assert (e.core, e.core_runs, e.grade, e.notes) == (0.2570, 1, "yes", "")


FULL = core_result()["tasks"]


@pytest.mark.parametrize("change", [
    {"name": "mini-CORE"}, {"name": "CORE v2"}, {"max_len": 512}, {"tasks": {label: FULL[label] for label in list(FULL)[:21]}},
    {"tasks": FULL | {"boolq": FULL["boolq"] | {"n": 1000}}}, {"tasks": FULL | {"one_more": FULL["boolq"]}},
])  # fmt: skip
def test_nothing_else_goes_into_the_column(change):
    core, note = real_core(core_result(**change))
    assert core is None and "not CORE in full" in note
    assert real_core(core_result()) == (0.2525, "")


def test_the_grade_is_strictly_above_the_bar():
    e = ENTRIES["nanochat-1"]
    grade = lambda core: dataclasses.replace(e, core=core).grade  # noqa: E731
    assert [grade(c) for c in (None, 0.2565, GPT2_CORE, 0.256526)] == ["not measured", "below", "the bar", "yes"]


def test_a_run_that_is_not_finished_cannot_be_entered(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="run 'My-Run' is not finished"):
        entry_from_run("My-Run")
