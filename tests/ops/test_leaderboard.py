"""The leaderboard: the published figures, a schema that refuses what is wrong, and rows made from runs."""

import csv
import dataclasses
import json
import os
import shlex
import subprocess
import sys

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from gpt2course import core
from gpt2course.files import UserError
from gpt2course.ops.leaderboard import (
    CORE_TASKS,
    CSV,
    FIELDS,
    GPT2_CORE,
    Entry,
    append,
    by_hours,
    commands,
    entry_from_run,
    plan_of,
    read,
    real_core,
    record,
    table,
    write,
)
from gpt2course.recipes import PROFILES, resolve, settings_from_text

PUBLIC = [e for e in read() if e.who != "ours"]  # our own rows come and go, and need their evidence beside the table
ENTRIES = {e.id: e for e in PUBLIC}


# ---- the table in the repository


def test_the_six_records():
    """karpathy/nanochat, README.md and dev/LEADERBOARD.md at commit 92d63d4."""
    want = [
        (3.04, 0.25851, 0.74833, "348fbb3", "2026-01-29", 24, 12), (2.91, 0.2578, 0.745036, "a67eba3", "2026-02-02", 26, 8.5),
        (2.76, 0.26024, 0.74645, "2c062aa", "2026-02-05", 26, 8.25), (2.02, 0.25714, 0.71854, "324e69c", "2026-03-04", 24, 9.5),
        (1.80, 0.2690, 0.71808, "6ed7d1d", "2026-03-09", 24, 8.7), (1.65, 0.262634, 0.71800, "a825e63", "2026-03-14", 24, 8),
    ]  # fmt: skip
    have = [ENTRIES[f"nanochat-{i}"] for i in range(1, 7)]
    assert [(e.hours, e.core, e.val_bpb, e.commit, e.date, e.depth, e.ratio) for e in have] == want
    assert all(e.who == "published" and e.hardware == "8 x H100" and "dev/LEADERBOARD.md" in e.source for e in have)
    assert len(ENTRIES) == len(PUBLIC) and len([e for e in PUBLIC if e.who == "published"]) == 7


def test_derived_hours_agree_with_seconds_and_tokens_with_steps():
    seconds = {i: e.seconds for i, e in ENTRIES.items() if e.who == "published" and e.seconds}
    assert seconds == {"nanochat-1": 10949.47, "nanochat-2": 10493, "nanochat-3": 9922, "nanochat-6": 5934}
    for e in PUBLIC:
        if e.seconds:
            assert round(e.seconds / 3600, 2) == round(e.hours, 2), e.id
        if e.steps:
            assert e.tokens in (e.steps * 2**19, e.steps * 2**20), e.id
    first = ENTRIES["nanochat-1"]
    assert first.flops / (first.seconds * 8 * 989e12) == pytest.approx(0.500, abs=5e-4)
    runs = [0.25373, 0.2584, 0.25489, 0.2568, 0.25732, 0.26765, 0.25119]  # record 4
    assert ENTRIES["nanochat-4"].core == pytest.approx(sum(runs) / 7, abs=5e-6) and ENTRIES["nanochat-4"].core_runs == 7


def test_gpt2_of_2019_is_the_bar():
    e = ENTRIES["gpt2-2019"]
    assert (e.hours, e.core, e.usd, e.grade) == (168, GPT2_CORE, 32 * 168 * 8, "the bar")
    xl = core.GPT2_CENTRED["GPT-2 XL"]
    assert GPT2_CORE == 0.256525 and sum(xl.values()) / len(xl) == pytest.approx(GPT2_CORE, abs=1e-6)


def test_unmerged_claims_name_their_pull_request():
    want = {  # minutes, mean CORE
        "pr-492": (179.44, 0.2633), "pr-516": (149.6, 0.26775), "pr-638": (105, 0.2586), "pr-655": (94.6, 0.2591),
        "pr-669": (94.74, 0.2581), "pr-733": (88.2, 0.2634), "pr-733-followup": (85.6, 0.2539), "pr-747": (86.98, 0.2603),
        "pr-807": (94, None), "pr-830": (81.835, 0.261814), "pr-854": (91.74, 0.2578),
    }  # fmt: skip
    have = {i: e for i, e in ENTRIES.items() if e.who == "unmerged"}
    assert sorted(have) == sorted(want)
    for i, (minutes, score) in want.items():
        assert have[i].hours * 60 == pytest.approx(minutes, abs=0.05)
        assert have[i].core == (None if score is None else pytest.approx(score, abs=5e-5))
        assert have[i].source == f"https://github.com/karpathy/nanochat/pull/{i.split('-')[1]}"
    assert [i for i, e in have.items() if e.grade == "below"] == ["pr-733-followup"]
    assert have["pr-807"].grade == "not measured"


def test_sorted_and_written_back_byte_for_byte(tmp_path):
    assert [e.hours for e in read()] == sorted(e.hours for e in read())
    write(PUBLIC[::-1], tmp_path / "a.csv")
    lines = CSV.read_text(encoding="utf-8").splitlines(keepends=True)
    assert (tmp_path / "a.csv").read_bytes().decode() == "".join(line for line in lines if ",ours," not in line)


# ---- the entries as commands

PUBLISHED = {  # karpathy/nanochat, dev/LEADERBOARD.md; FLOPs and tokens to three figures: depth, ratio, batch, steps, tokens, FLOPs, fp8
    "nanochat-1": (24, 12, 2**19, 16704, 8.76e9, 4.330784131228946e19, False), "nanochat-2": (26, 8.5, 2**19, 14889, 7.81e9, 4.83e19, True),
    "nanochat-3": (26, 8.25, 2**20, 7226, 7.58e9, 4.69e19, True), "nanochat-4": (24, 9.5, 2**20, 6612, 6.93e9, 3.43e19, True),
    "nanochat-5": (24, 8.7, 2**20, 6055, 6.35e9, 3.09e19, True), "nanochat-6": (24, 8, 2**20, 5568, 5.84e9, 2.79e19, True),
}  # fmt: skip
COMMANDS = [e for e in PUBLIC if e.command]


@pytest.mark.parametrize("id", PUBLISHED)
def test_official_entries_resolve_to_the_published_numbers(id):
    e, (depth, ratio, batch, steps, tokens, flops, eight) = ENTRIES[id], PUBLISHED[id]
    plan = plan_of(e)
    assert (plan.recipe.depth, plan.recipe.ratio, plan.batch_tokens, plan.steps) == (depth, ratio, batch, steps) and (e.depth, e.ratio) == (depth, ratio)
    assert plan.tokens == pytest.approx(tokens, rel=1e-3) and plan.flops == pytest.approx(flops, rel=2e-3)
    assert ("--fp8" in e.command.split()) == eight == ("fp8" in e.config)
    if e.steps:
        assert (plan.steps, plan.tokens) == (e.steps, e.tokens)
    if e.flops:
        assert plan.flops == pytest.approx(e.flops, rel=1e-12)


def test_the_settings_of_each_record():
    """Peak rates, windows and decay as nanochat's commits compute them at these depths (348fbb3, a67eba3, 2c062aa, 324e69c, 6ed7d1d, a825e63)."""
    plans = [plan_of(ENTRIES[f"nanochat-{i}"]) for i in range(1, 7)]
    root = [1, 1, 2**0.5, 2**0.5, 2**0.5, 2**0.5]  # of the batch over 2^19
    assert [p.groups["matrices"]["lr"] for p in plans] == pytest.approx([0.02 * r for r in root])
    assert [p.groups["matrices"]["weight_decay"] for p in plans] == pytest.approx([0.05, 0.2 * (12 / 26) ** 2, 0.2 * (12 / 26) ** 2, 0.04267, 0.05974, 0.05974], rel=1e-3)
    width = [(p.model.n_embd / 768) ** -0.5 for p in plans]
    assert [p.groups["lm_head"]["lr"] for p in plans] == pytest.approx([h * w * r for h, w, r in zip([0.004] * 4 + [0.008] * 2, width, root)])
    assert [p.model.short_window for p in plans] == [1024, 1024, 1024, 1024, 768, 512]
    assert [p.model.softcap for p in plans] == [15, 15, 15, 20, 15, 15] and [p.model.qk_gain for p in plans] == [1, 1, 1, 1, 1.15, 1.2]
    assert [p.model.smear for p in plans] == [False] * 5 + [True] and [p.model.backout for p in plans] == [None] * 5 + [0.2]
    assert [p.model.c_fc_scale for p in plans] == [1, 1, 1, 1, 0.5, 0.4] and [p.model.resid_lambda for p in plans] == [(1, 1)] * 5 + [(1.15, 1.05)]
    assert [p.muon_momentum(p.steps) for p in plans] == pytest.approx([0.95] * 4 + [0.97, 0.90])
    assert not any(p.recipe.muon_row_norm or p.recipe.muon_renorm for p in plans)  # came after record 6
    assert [p.lr(0) for p in plans] == pytest.approx([1] * 4 + [1 / 40] * 2) and [p.lr(p.steps) for p in plans] == pytest.approx([0] * 4 + [0.05] * 2)


@pytest.mark.parametrize("e", COMMANDS, ids=lambda e: e.id)
def test_every_command_is_one_that_train_takes(e):
    from gpt2course.train import Train

    args = tyro.cli(Train, args=shlex.split(e.command))
    plan = plan_of(e)
    profile = {k: v for k, v in PROFILES[args.profile].items() if k not in ("corpus", "device_batch")}
    assert resolve(args.recipe, **(profile | settings_from_text(args.set))) == plan  # the plan that train makes of it
    rows = plan.batch_tokens // plan.model.sequence_len
    assert rows % (8 * (args.device_batch or PROFILES[args.profile]["device_batch"])) == 0  # whole micro-batches on 8 GPUs
    assert plan.recipe.depth == e.depth and (e.ratio is None or plan.recipe.ratio == e.ratio)
    if e.steps:
        assert (plan.steps, plan.tokens) == (e.steps, e.tokens)
    assert args.fp8 == ("fp8" in e.config)


def test_unmerged_claims_say_what_is_missing():
    assert all(e.missing for e in PUBLIC if not e.command or e.who == "unmerged")
    assert [e.id for e in PUBLIC if not e.command] == ["pr-733-followup", "pr-807", "pr-638", "gpt2-2019"]
    assert plan_of(ENTRIES["pr-830"]).flops == pytest.approx(2.17e19, rel=2e-3)  # its FLOPs by nanochat's count
    assert plan_of(ENTRIES["pr-807"]) is None
    text = commands(read())
    assert text.count("torchrun --standalone --nproc_per_node=8 -m gpt2course.train") == len(COMMANDS) and text.count("cannot be repeated: ") == 4
    assert text.index("nanochat-1:") < text.index("nanochat-6:") < text.index("pr-492:") < text.index("pr-854:")


# ---- the schema

GOOD = dict(id="x-1", who="published", name="a run", date="2026-01-01", hours=2.0, source="https://example.org")
OURS = dict(id="ours-1", who="ours", name="a run", date="2026-01-01", hours=2.0, run="r", evidence="2026-01-01_r")


@pytest.mark.parametrize("field, value", [
    ("id", "Has Capitals"), ("id", ""), ("who", "me"), ("name", ""), ("name", "two\nlines"), ("name", " space"),
    ("date", "29 Jan 2026"), ("date", "2026-02-30"), ("date", "20260129"), ("hours", 0), ("hours", -1.0), ("hours", float("nan")),
    ("hours", float("inf")), ("seconds", 7300.0), ("core", 1.5), ("core_runs", 3), ("val_bpb", 0.7), ("val_bpb", -0.7),
    ("source", ""), ("source", "a friend"), ("depth", 0), ("command", "record"), ("command", "rm -rf /"), ("command", "--profile 8xh100 jan29"),
])  # fmt: skip
def test_wrong_entries_are_refused_and_named(field, value):
    Entry(**GOOD)
    with pytest.raises(UserError, match=f"x-1|{value}|''") as e:
        Entry(**(GOOD | {field: value}))
    assert "is not allowed" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("field, value", [("run", ""), ("evidence", ""), ("evidence", "../elsewhere"), ("evidence", "/etc")])
def test_our_own_entries_must_name_run_and_evidence(field, value):
    Entry(**OURS)
    with pytest.raises(UserError, match=field):
        Entry(**(OURS | {field: value}))


def test_grade_is_strictly_above_the_bar():
    grades = {None: "not measured", 0.2565: "below", GPT2_CORE: "the bar", 0.256526: "yes", 0.3: "yes", -0.01: "below"}
    assert {c: Entry(**GOOD, core=c).grade for c in grades} == grades


def test_damaged_tables_are_refused_with_file_and_line(tmp_path):
    path = tmp_path / "leaderboard.csv"
    write(PUBLIC, path)
    lines = path.read_text().splitlines()
    for change, message in [
        (lambda x: x[1:], "first line"), (lambda x: [x[0].replace("core,", "score,"), *x[1:]], "first line"),
        (lambda x: [], "first line"),
        (lambda x: [x[0], x[1] + ",more", *x[2:]], "line 2: 27 columns"), (lambda x: [*x, x[1]], "exists already"),
        (lambda x: [x[0], x[1].replace(",1.3639,", ",quick,"), *x[2:]], "line 2: hours = 'quick'"),
        (lambda x: [x[0], x[1].replace(",1.3639,", ",,"), *x[2:]], "hours is empty"),
        (lambda x: [x[0], x[1].replace(",1.3639,", ",1.4639,"), *x[2:]], "4910.1 seconds"),
        (lambda x: [x[0], x[1].replace("unmerged", "ours"), *x[2:]], "must name its run"),
    ]:  # fmt: skip
        path.write_text("".join(line + "\n" for line in change(list(lines))))
        with pytest.raises(UserError, match=message):
            read(path)
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "none.csv")


texts = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20)
positive = st.floats(1e-6, 1e30)


@given(st.lists(st.builds(
    Entry, id=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True), who=st.sampled_from(["published", "unmerged"]),
    name=texts.map("n".__add__), date=st.dates().map(str), hours=positive, core=st.floats(-0.9, 0.9), val_bpb=positive,
    val_data=texts.map("v".__add__), depth=st.none() | st.integers(1, 99),
    ratio=st.none() | positive, tokens=st.none() | positive, notes=texts, source=st.just("https://a.b"),
), max_size=5, unique_by=lambda e: e.id))  # fmt: skip
def test_write_then_read_is_the_identity(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("lb") / "l.csv"
    write(entries, path)
    assert read(path) == by_hours(entries)


def test_append_adds_one_line_and_never_replaces(tmp_path):
    path = tmp_path / "leaderboard.csv"
    write([], path)
    append(Entry(**GOOD), path)
    append(Entry(**(GOOD | {"id": "x-0", "hours": 1.0})), path)
    assert [e.id for e in read(path)] == ["x-0", "x-1"]
    before = path.read_bytes()
    with pytest.raises(UserError, match="x-1.*exists already"):
        append(Entry(**GOOD), path)
    with pytest.raises(UserError, match="evidence .*record.json does not exist"):
        append(Entry(**OURS), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["leaderboard.csv"]


def test_table_is_readable():
    text = table([*PUBLIC, Entry(**OURS)])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 130
    rows = [line for line in lines if " published " in line or " unmerged " in line or " ours " in line]
    assert len(rows) == len(ENTRIES) + 1
    assert [float(r.split()[0]) for r in rows] == sorted(float(r.split()[0]) for r in rows)
    below = [r for r in rows if " below " in r]
    assert len(below) == 1 and "0.2539 (5)" in below[0]
    letter = {e.val_data: None for e in PUBLIC if e.val_data}
    assert len(letter) == 3 and [line.strip()[:2] for line in lines[-3:]] == ["a ", "b ", "c "]  # one for each validation data


# ---- rows from runs


def core_result(**changes):
    tasks = {label: {"accuracy": 0.5, "centred": 0.2 + 0.005 * i, "n": n} for i, (label, n) in enumerate(CORE_TASKS.items())}
    return {"name": "CORE", "baselines": "DCLM v1", "max_len": None, "core": 0.2 + 0.005 * 10.5, "tasks": tasks} | changes


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "runs" / "My Run"
    folder.mkdir(parents=True)
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

    def save(config=config, lines=lines):
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    save.config, save.lines, save.at = config, lines, at
    save()
    return save


def test_entry_from_run(run):
    e = entry_from_run("My Run")
    assert e == entry_from_run(run())  # by name or by folder
    assert (e.who, e.run, e.hours, e.seconds) == ("ours", "My Run", 0.05, 180)  # 180 s: without the first steps
    assert (e.val_bpb, e.val_data) == (1.5, f"embedded-val, sha256 {'ab' * 6}")
    assert (e.depth, e.ratio, e.steps, e.tokens, e.flops) == (4, 0.8192, 100, 819200, 1e14)  # the ratio that was trained
    assert (e.commit, e.train_data, e.hardware) == ("0123456789ab", "embedded", "8 x NVIDIA H100 80GB HBM3")
    assert e.config == "recipe jan29, width 192, T 256, vocabulary 4096, batch 8192"
    assert (e.core, e.core_runs, e.grade, e.notes) == (None, None, "not measured", "")
    assert e.id == f"ours-{e.date}-my-run" and e.evidence == f"{e.date}_my-run"


def test_a_run_without_the_leaderboards_clock_or_a_gpu(run):
    lines = run.lines[:-1] + [{"kind": "done", **run.at(100)}]
    run(run.config | {"machine": {"device": "x86_64", "devices": 1, "type": "cpu", "cpu_threads": 2}, "commit": None}, lines)
    e = entry_from_run("My Run")
    assert (e.seconds, e.hardware, e.commit) == (200, "x86_64 CPU, 2 threads", "")


def test_real_core_goes_into_the_core_column(run):
    run(lines=run.lines[:-1] + [{"kind": "core", **run.at(100), **core_result()}, run.lines[-1]])
    e = entry_from_run("My Run")
    assert (e.core, e.core_runs, e.grade, e.notes) == (pytest.approx(0.2525), 1, "below", "")
    run()
    report = run() / "report" / "core.json"
    report.parent.mkdir()
    report.write_text(json.dumps(core_result()))
    assert entry_from_run("My Run").core == pytest.approx(0.2525)
    os.utime(report, (1, 1))  # written before the run ended
    assert entry_from_run("My Run").core is None and "before the end" in entry_from_run("My Run").notes
    report.write_text("{}")
    with pytest.raises(UserError, match="no score"):
        entry_from_run("My Run")


def without(d, key):
    return {k: v for k, v in d.items() if k != key}


TASKS = core_result()["tasks"]


@pytest.mark.parametrize("change, note", [
    (dict(name="mini-CORE", tasks={"words": {"n": 50, "centred": 0.2525}}), "mini-CORE 0.2525 on 1 tasks, not CORE"),
    (dict(tasks=without(TASKS, "copa")), "21 tasks"), (dict(tasks=TASKS | {"extra": TASKS["copa"]}), "23 tasks"),
    (dict(tasks=without(TASKS, "copa") | {"cope": TASKS["copa"]}), "22 tasks, not CORE"),
    (dict(tasks=TASKS | {"squad": TASKS["squad"] | {"n": 500}}), "80,967 of 91,037"),
    (dict(tasks={label: without(t, "n") for label, t in TASKS.items()}), "not recorded"), (dict(tasks={}), "0 tasks"),
    (dict(tasks={label: 0.2 for label in TASKS}), "not recorded"), (dict(name="other"), "other 0.2525 on 22 tasks, not CORE"),
    (dict(max_len=1024), "max_len 1024"), (dict(baselines="DCLM v2"), "DCLM v2"),
])  # fmt: skip
def test_nothing_else_goes_into_the_core_column(run, change, note):
    score, why = real_core(core_result(**change))
    assert score is None and note in why
    run(lines=run.lines[:-1] + [{"kind": "core", **run.at(100), **core_result(**change)}, run.lines[-1]])
    e = entry_from_run("My Run")
    assert e.core is None and note in e.notes


def test_core_of_an_earlier_step_is_not_the_runs(run):
    run(lines=[{"kind": "core", **run.at(50), **core_result()}, *run.lines])
    e = entry_from_run("My Run")
    assert e.core is None and e.notes == "CORE 0.2525 was measured before the end"


def test_a_score_that_is_not_the_mean_of_its_tasks_is_refused():
    with pytest.raises(UserError, match="not the mean"):
        real_core(core_result(core=0.26))


def test_the_tasks_are_cores():
    assert list(CORE_TASKS) == list(core.CORE) and len(CORE_TASKS) == 22 and sum(CORE_TASKS.values()) == 91037


@pytest.mark.skipif("GPT2COURSE_DEV_DATA" not in os.environ, reason="needs the public CORE bundle")
def test_the_examples_are_those_of_the_public_bundle():
    tasks = core.load_bundle(os.path.join(os.environ["GPT2COURSE_DEV_DATA"], "core", "eval_bundle.zip"))
    assert {t.label: len(t.examples) for t in tasks} == CORE_TASKS


def test_runs_that_cannot_be_entered_say_why(run, tmp_path):
    with pytest.raises(UserError, match="'nobody' does not exist"):
        entry_from_run("nobody")
    run(lines=run.lines[:-1])
    with pytest.raises(UserError, match=r"not finished \(step 100\)"):
        entry_from_run("My Run")
    folder = run()
    with open(folder / "metrics.jsonl", "a") as f:
        f.write('{"kind": "tr')
    with pytest.raises(UserError, match="line 5 of metrics.jsonl"):
        entry_from_run("My Run")
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no metrics.jsonl"):
        entry_from_run("My Run")


def test_record_keeps_the_raw_log(run, tmp_path):
    record("My Run", tmp_path / "rec")
    assert (tmp_path / "rec" / "metrics.jsonl").read_bytes() == (run() / "metrics.jsonl").read_bytes()
    r = json.loads((tmp_path / "rec" / "record.json").read_text())
    assert r["made"] == run.config and r["result"]["seconds"] == 180 and r["result"]["val_bpb"] == 1.5 and r["core"] is None
    assert r["result"]["hardware_flops"] == 180 * 8 * 989e12 and r["result"]["flops"] == 1e14
    with pytest.raises(UserError, match="never overwritten"):
        record("My Run", tmp_path / "rec")


def command(*args):
    return subprocess.run([sys.executable, "-m", "gpt2course.ops.leaderboard", *map(str, args)], capture_output=True, text=True)


def test_commands(run, tmp_path):
    board = tmp_path / "results" / "leaderboard.csv"
    write(PUBLIC, board)
    before = board.read_bytes()
    shown = command("show", "--run", "My Run", "--csv", board)
    assert shown.returncode == 0 and "0.0500" in shown.stdout and "autoresearch, round 2" in shown.stdout
    assert board.read_bytes() == before and len(list(board.parent.iterdir())) == 1  # showing writes nothing
    added = command("add", "My Run", "--csv", board)
    assert added.returncode == 0, added.stderr
    ours = [e for e in read(board) if e.who == "ours"]
    assert len(ours) == 1 and (board.parent / ours[0].evidence / "record.json").is_file()
    after = board.read_bytes()
    again = command("add", "My Run", "--csv", board)
    assert again.returncode == 2 and again.stderr.startswith("error: ") and "exists already" in again.stderr
    assert board.read_bytes() == after


def test_the_columns_are_the_fields():
    with open(CSV, newline="") as f:
        assert next(csv.reader(f)) == FIELDS == [f.name for f in dataclasses.fields(Entry)]
