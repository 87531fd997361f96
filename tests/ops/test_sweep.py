"""Campaigns: what is done is not repeated, what was killed goes on to the same numbers, failures end, and the grids keep their limits."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course.ops import jobs, sweep as campaign
from gpt2course.ops.sweep import GRIDS, Campaign
from gpt2course.files import UserError
from gpt2course.recipes import LADDER

RESULTS = Path(__file__).resolve().parent.parent / "results"
TOY = ("depth=1", "width=16", "head_dim=16", "sequence_len=32", "vocab_size=300", "batch_tokens=128", "steps=160", "eval_bytes=400")
ROW = {"id", "grid", "recipe", "set", "seed", "budget", "status"}
DONE = ROW | {"n", "n_total", "width", "depth", "tokens", "flops", "val_bpb", "train_loss", "steps", "seconds", "tok_per_sec", "peak_memory_bytes", "curve",
              "val_sha256", "tokenizer_sha256", "device", "driver", "torch", "commit", "command", "val_bytes", "epochs"}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "toy.jsonl"
    texts = [f"Document {i} speaks of {'rain and wind' if i % 3 else 'bread and salt'}, for the {i * 7 % 31}th time this year." for i in range(400)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def argv(out, corpus, *more):
    return [sys.executable, "-m", "gpt2course.ops.sweep", "ladder", "--out", str(out), "--corpus", corpus, "--device", "cpu", "--first", "2", *more, "--set", *TOY]


def environment(home):
    return jobs.environment() | {"GPT2COURSE_HOME": str(home)}


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(argv(home / "out", corpus), env=environment(home), capture_output=True, text=True)
    assert done.returncode == 0 and "all 2 runs are done" in done.stdout, done.stdout + done.stderr
    return home


def same(row):
    """What of a row does not depend on time."""
    return {k: v for k, v in row.items() if k not in ("seconds", "tok_per_sec", "peak_memory_bytes", "curve", "commit")} | {"curve": [p[:3] + p[4:] for p in row["curve"]]}


def check_rows(rows):
    assert rows and len({r["id"] for r in rows if r["status"] == "done"}) == sum(r["status"] == "done" for r in rows)
    for r in rows:
        assert (DONE if r["status"] == "done" else ROW | {"error", "try"}) <= set(r), r["id"]
        if r["status"] == "done":
            assert r["curve"][-1][:3] == [r["steps"], r["tokens"], r["flops"]] and r["curve"] == sorted(r["curve"]) and 10 <= len(r["curve"]) <= 21
            assert 0 < r["val_bpb"] < 10 and r["n"] <= r["n_total"] and r["peak_memory_bytes"] > 2**20 and len(r["val_sha256"]) == len(r["tokenizer_sha256"]) == 64
            assert r["budget"] is None or r["flops"] == pytest.approx(r["budget"], rel=0.03)
            assert not re.search(r"(^|\s)/", r["command"]) and r["commit"] and r["torch"]


def check_summary(value, rows):
    """The summary against the rows, counted in another way."""
    done = [r for r in rows if r["status"] == "done"]
    assert value == json.loads(json.dumps(campaign.summary(rows))) and value["runs"] == len(done) == sum(len(v["seeds"]) for v in value["variants"].values())
    for name, v in value["variants"].items():
        members = [r for r in done if r["id"] in [f"{name}-s{seed}" for seed in v["seeds"]]]
        assert v["val_bpb"] == pytest.approx(sum(r["val_bpb"] for r in members) / len(v["seeds"])) and {r["n"] for r in members} == {v["n"]}
        assert len({(r["recipe"], tuple(r["set"])) for r in members}) == 1
        assert (v["sd"] is None) == (len(members) == 1) and (v["sd"] is None or v["sd"] == pytest.approx(statistics.stdev([r["val_bpb"] for r in members])))
    assert set(value["failed"]) == {r["id"] for r in rows} - {r["id"] for r in done}


def test_a_row_has_everything(undisturbed):
    rows = campaign.read(undisturbed / "out" / "runs.jsonl")
    assert [r["id"] for r in rows] == ["gpt2-s1", "modern-s1"]
    check_rows(rows)
    check_summary(json.loads((undisturbed / "out" / "summary.json").read_text()), rows)
    assert len({r["tokenizer_sha256"] for r in rows}) == 1 and len(list((undisturbed / "tokenizers").iterdir())) == 1  # one tokenizer for all
    assert not list(undisturbed.glob("runs/*/checkpoints"))  # a campaign does not fill the disk
    assert campaign.figure(rows).alt.count(".") >= 3 and "modern" in campaign.table(campaign.summary(rows))


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_stopped_and_killed_it_goes_on_to_the_same_numbers(undisturbed, corpus, tmp_path):
    """SIGTERM in the first run, SIGKILL in the second, a torn line: then everything as undisturbed, and nothing twice."""
    out, env = tmp_path / "out", environment(tmp_path)

    def started(run, step):
        return lambda: any(m["step"] >= step for p in (tmp_path / "runs").glob(f"ladder-{run}-*") for m in jobs.read_metrics(p))

    first = subprocess.Popen(argv(out, corpus), env=env, stdout=subprocess.PIPE, text=True)
    wait_for(started("gpt2-s1", 20))
    first.send_signal(signal.SIGTERM)
    said = first.communicate()[0]
    assert first.returncode == 0 and "stopped by signal SIGTERM; 0 of 2 runs are done" in said and not campaign.read(out / "runs.jsonl")
    assert list(tmp_path.glob("runs/ladder-gpt2-s1-*/checkpoints/step_*")), "no checkpoint was saved"

    second = subprocess.Popen(argv(out, corpus), env=env, stdout=subprocess.PIPE, text=True)
    wait_for(started("modern-s1", 20))
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    wait_for(lambda: not jobs.family(out))  # the training ends with it
    assert [r["id"] for r in campaign.read(out / "runs.jsonl")] == ["gpt2-s1"]
    before = (out / "runs.jsonl").read_bytes()
    (out / "runs.jsonl").write_bytes(before + b'{"id": "modern-s1", "stat')

    third = subprocess.run(argv(out, corpus), env=env, capture_output=True, text=True)
    assert third.returncode == 0 and "torn" in third.stdout and "all 2 runs are done" in third.stdout, third.stderr
    assert (out / "runs.jsonl").read_bytes().startswith(before)
    rows, reference = campaign.read(out / "runs.jsonl"), campaign.read(undisturbed / "out" / "runs.jsonl")
    assert [same(r) for r in rows] == [same(r) for r in reference]
    assert "resumed from" in (out / "train.log").read_text()


def test_minutes_end_a_call_and_done_runs_are_not_repeated(undisturbed, corpus, tmp_path, monkeypatch, capsys):
    args = Campaign("ladder", out=str(tmp_path / "out"), corpus=corpus, device="cpu", first=2, set=TOY, minutes=0.001)
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    campaign.campaign(args)
    assert "stopped by minutes 0.001; 0 of 2 runs are done" in capsys.readouterr().out and not campaign.read(tmp_path / "out" / "runs.jsonl")
    monkeypatch.setenv("GPT2COURSE_HOME", str(undisturbed))
    monkeypatch.setattr(campaign, "one", lambda *_: pytest.fail("a run was started"))
    before = (undisturbed / "out" / "runs.jsonl").read_bytes()
    campaign.campaign(Campaign("ladder", out=str(undisturbed / "out"), corpus=corpus, device="cpu", first=2, set=TOY))
    assert (undisturbed / "out" / "runs.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="was begun with"):
        campaign.campaign(Campaign("isoflop", out=str(undisturbed / "out"), corpus=corpus, set=TOY))


def test_a_failure_is_recorded_and_tried_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    args = Campaign("ladder", out=str(tmp_path / "out"), corpus="nowhere.jsonl", device="cpu", first=1, set=TOY)
    for _ in range(2):  # the second call tries nothing
        with pytest.raises(UserError, match="1 of 1 runs failed 2 times: gpt2-s1"):
            campaign.campaign(args)
        rows = campaign.read(tmp_path / "out" / "runs.jsonl")
        assert [(r["status"], r["try"]) for r in rows] == [("failed", 1), ("failed", 2)] and all("nowhere.jsonl" in r["error"] for r in rows)
    check_summary(json.loads((tmp_path / "out" / "summary.json").read_text()), rows)


@given(st.lists(st.dictionaries(st.text(), st.text(), max_size=3), max_size=5), st.binary(max_size=20).filter(lambda b: b"\n" not in b))
@settings(max_examples=50, deadline=None)
def test_a_torn_line_is_cut_off_and_no_other(tmp_path_factory, rows, torn):
    path = tmp_path_factory.mktemp("torn") / "runs.jsonl"
    path.write_bytes(b"".join(json.dumps(r).encode() + b"\n" for r in rows) + torn)
    assert campaign.read(path) == rows
    assert campaign.mend(path) == bool(torn) and not campaign.mend(path)
    campaign.add(path, {"new": 1})
    assert campaign.read(path) == [*rows, {"new": 1}]


# ---- the grids


def grids():
    return [(name, size) for name in GRIDS for size in ("laptop", "h100")]


@pytest.mark.parametrize("name,size", grids())
def test_every_grid_resolves(name, size):
    runs = campaign.grid(name, size)
    plans = [r.plan() for r in runs]
    assert len({r.id for r in runs}) == len(runs) == len({(r.recipe, r.set, r.seed) for r in runs})
    assert campaign.describe(runs, size).count("\n") == len(runs) + 1
    for run, plan in zip(runs, plans):
        assert plan.steps >= 20
        if size == "h100":
            assert plan.tokens <= 4 * 40e6 and campaign.forecast(run, size) < 9 * 60  # in one call of 10 minutes
        else:
            assert campaign.forecast(run, size) < 90
    seeds = [r.seed for r in runs]
    assert seeds == sorted(seeds) and len(set(seeds)) >= 2  # first all answers once


def test_the_ladder_is_what_the_record_asks_for():
    runs = campaign.grid("ladder", "h100")
    plans = {r.id: r.plan() for r in runs}
    assert [r.recipe for r in runs[:7]] == list(LADDER) and len({p.tokens for p in plans.values()}) == 1 and plans["jan29-s1"].tokens <= 75e6
    assert all(p.model.n_layer == 8 and p.model.vocab_size == 8192 for p in plans.values())
    for recipe, own in (("modern", 0.003), ("muon", 0.02)):
        rates = [campaign.RATES[recipe][0]]
        tried = {getattr(p.recipe, rates[0]) for i, p in plans.items() if i.startswith(recipe) and i.endswith("s1")}
        assert len(tried) >= 4 and min(tried) < own < max(tried)
    assert all(sum(r.recipe == recipe and "_lr" not in r.id for r in runs) >= 2 for recipe in ("modern", "muon", "jan29"))


def test_each_ablation_turns_one_thing_off():
    runs = campaign.grid("ablations", "h100")
    base, *others = [r.plan().recipe for r in runs if r.seed == 1]
    changed = [{f for f, v in vars(o).items() if v != getattr(base, f)} for o in others]
    assert changed == [{"value_embeds"}, {"resid_lambda", "x0_lambda"}, {"window_pattern"}, {"matrix_optimizer"}, {"qk_norm"}, {"softcap"}]


@pytest.mark.parametrize("size", ["laptop", "h100"])
def test_the_isoflop_grid_has_budgets_and_both_arms(size):
    runs = [r for r in campaign.grid("isoflop", size) if r.seed == 1]
    budgets = sorted({r.budget for r in runs})
    assert len(budgets) >= 4
    for budget in budgets:
        plans = [r.plan() for r in runs if r.budget == budget]
        n = [p.params["scaling"] for p in plans]
        assert len(set(n)) >= 5 and n == sorted(n) and max(n) / min(n) > 4
        assert all(p.flops == pytest.approx(budget, rel=0.03) for p in plans) and min(n) < (budget / 60) ** 0.5 < max(n)  # D = 10 N lies inside
        assert len({(p.batch_tokens, p.model.vocab_size, p.model.sequence_len) for p in plans}) == 1
    assert len({r.plan().model.n_embd / r.plan().model.n_layer for r in runs}) > 3  # width apart from depth


@pytest.mark.parametrize("arguments,message", [
    (dict(name="ladders", size="laptop"), "grid 'ladders' does not exist"), (dict(name="ladder", size="xl"), "size 'xl' does not exist"),
    (dict(name="ladder", size="laptop", first=0), "first = 0"), (dict(name="ladder", size="laptop", settings=("steps",)), "name=value"),
])  # fmt: skip
def test_what_is_wrong_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        campaign.grid(**arguments)


# ---- what has been recorded


RECORDED = [p.parent for p in sorted(RESULTS.glob("*/campaign.json"))]


def test_there_are_recorded_campaigns():
    assert RECORDED


@pytest.mark.parametrize("folder", RECORDED, ids=lambda p: p.name)
def test_a_recorded_summary_follows_from_its_rows(folder):
    rows = campaign.read(folder / "runs.jsonl")
    check_rows(rows)
    check_summary(json.loads((folder / "summary.json").read_text()), rows)
    assert not campaign.mend(folder / "runs.jsonl") and (folder / "README.md").exists()
    of = json.loads((folder / "campaign.json").read_text())
    assert {r["grid"] for r in rows} == {of["grid"]} and len({r["val_sha256"] for r in rows if r["status"] == "done"}) == 1
