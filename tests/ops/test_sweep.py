"""A sweep: finished runs are not repeated, a killed run continues to the same numbers, a failure is one line."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import grammar, write_corpus

from gpt2course.files import UserError
from gpt2course.ops import sweep
from gpt2course.ops.sweep import Run, Sweep
from gpt2course.recipes import settings_from_text
from gpt2course.runlog import read_metrics

RECORD = Path(__file__).resolve().parents[2] / "results" / "2026-11-23_isoflop-laptop" / "runs.jsonl"
TOY = ("depth=1", "width=16", "head_dim=16", "sequence_len=32", "vocab_size=300", "batch_tokens=128", "steps=120", "eval_bytes=400")
RUNS = [Run("a-s1", "gpt2", TOY), Run("b-s1", "modern", TOY)]
CODE = f"""
from gpt2course.ops.sweep import Run, Sweep, sweep
sweep([Run(id, recipe, {TOY}) for id, recipe in (("a-s1", "gpt2"), ("b-s1", "modern"))], Sweep(**ARGUMENTS), "toy")
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "toy.jsonl", grammar())


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """The home of a sweep that nothing interrupted, and its rows."""
    home = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2COURSE_HOME", str(home))
        return home, sweep.sweep(RUNS, Sweep(corpus=corpus, device="cpu"), "toy")


def same(row):
    """What of a row does not depend on time."""
    changing = ("seconds", "tok_per_sec", "peak_memory_bytes", "curve", "commit", "machine")
    return {k: v for k, v in row.items() if k not in changing} | {"curve": [p[:3] + p[4:] for p in row["curve"]]}


def test_a_row_has_everything(undisturbed, capsys):
    home, rows = undisturbed
    assert [r["id"] for r in rows] == ["a-s1", "b-s1"] and sweep.read(home / "sweeps" / "toy" / "runs.jsonl") == rows
    for r in rows:
        assert r["curve"][-1][:3] == [r["steps"], r["tokens"], r["flops"]] == [120, 120 * 128, r["flops"]] and r["curve"] == sorted(r["curve"]) and 10 <= len(r["curve"]) <= 21
        assert 0 < r["val_bpb"] < 10 and r["n"] > 1000 and len(r["val_sha256"]) == len(r["tokenizer_sha256"]) == 64 and r["machine"]["torch"]
        assert r["corpus"] == "toy.jsonl" and r["seed"] == 1 and tuple(r["set"]) == TOY
    assert rows[0]["val_bpb"] != rows[1]["val_bpb"] and rows[0]["tokenizer_sha256"] == rows[1]["tokenizer_sha256"]
    assert not list(home.glob("runs/*/checkpoints"))  # a sweep does not fill the disk


def test_finished_runs_are_not_repeated_and_other_settings_are_refused(undisturbed, corpus, monkeypatch):
    home, rows = undisturbed
    monkeypatch.setenv("GPT2COURSE_HOME", str(home))
    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("a run was started"))
    args = Sweep(corpus=corpus, device="cpu")
    assert sweep.sweep(RUNS, args, "toy") == rows
    with pytest.raises(UserError, match="has run a-s1 with other settings; give another folder with out"):
        sweep.sweep([Run("a-s1", "gpt2", (*TOY[:-2], "steps=7"))], args, "toy")


@pytest.mark.slow
def test_stopped_and_killed_it_continues_to_the_same_numbers(undisturbed, corpus, course_home):
    """Ctrl-C in the first run, SIGKILL in the second: the next call ends with the rows of an undisturbed sweep."""

    def start():
        code = CODE.replace("ARGUMENTS", repr(dict(corpus=corpus, device="cpu")))
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for(run, step, child):
        end = time.monotonic() + 120
        while not any(m["step"] >= step for p in course_home.glob(f"runs/{run}-*") for m in read_metrics(p)):
            assert time.monotonic() < end and child.poll() is None, child.communicate()[0]
            time.sleep(0.01)

    child = start()
    wait_for("a-s1", 20, child)
    child.send_signal(signal.SIGINT)
    child.communicate()
    assert list(course_home.glob("runs/a-s1-*/checkpoints/step_*")), "no checkpoint was saved"
    child = start()
    wait_for("b-s1", 20, child)
    child.kill()
    child.communicate()
    out = course_home / "sweeps" / "toy"
    assert [r["id"] for r in sweep.read(out / "runs.jsonl")] == ["a-s1"]
    child = start()
    printed = child.communicate()[0]
    assert child.returncode == 0 and "all 2 runs are finished" in printed, printed
    assert [same(r) for r in sweep.read(out / "runs.jsonl")] == [same(r) for r in undisturbed[1]]
    assert "resumed from" in (out / "train.log").read_text()


def test_minutes_end_a_call(corpus, course_home, capsys):
    assert sweep.sweep(RUNS, Sweep(corpus=corpus, device="cpu", minutes=0.001), "toy") == []
    assert "minutes = 0.001 are over; restart the kernel and run all" in capsys.readouterr().out


def test_a_failure_is_one_line(course_home):
    with pytest.raises(UserError, match=r"run a-s1 ended: .*nowhere.jsonl.*; all its lines are in .*train.log"):
        sweep.sweep(RUNS[:1], Sweep(corpus="nowhere.jsonl", device="cpu"), "toy")
    assert sweep.read(course_home / "sweeps" / "toy" / "runs.jsonl") == []


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "runs.jsonl").write_text('{"id": "a"}\n{"id": \n')
    with pytest.raises(UserError, match="runs.jsonl is damaged .*; delete the damaged line"):
        sweep.read(tmp_path / "runs.jsonl")
    assert sweep.read(tmp_path / "none.jsonl") == []


# ---- parameters and tables


def test_parameters_as_papermill_passes_them():
    assert Sweep.check(minutes="2.5", first="3", settings="steps=20 depth=1", corpus="None", out="") == Sweep(minutes=2.5, first=3, settings="steps=20 depth=1")
    args = Sweep(first=2, settings="steps=20 matrix_lr=0.5")
    runs = args.chosen([*RUNS, Run("c", "muon", TOY)])
    assert [r.id for r in runs] == ["a-s1", "b-s1"]
    assert all(settings_from_text(r.set) == settings_from_text(TOY) | dict(steps="20", matrix_lr="0.5") for r in runs)


@pytest.mark.parametrize("given, message", [
    (dict(sise="laptop"), "parameter sise does not exist; did you mean size"), (dict(size="big"), "size = 'big'"), (dict(minutes="-1"), "minutes"),
    (dict(first=1.5), "first"), (dict(device="tpu"), "device"), (dict(grid="ladders"), "grid"),
])  # fmt: skip
def test_wrong_parameters_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        Sweep.check(**given)


def test_the_table_of_the_record():
    rows = sweep.read(RECORD)
    groups = sweep.variants(rows)
    assert len(rows) == 40 and len(groups) == 20 and all(sorted(r["seed"] for r in g) == [1, 2] for g in groups.values())
    lines = sweep.table(rows).splitlines()
    assert len(lines) == 21 and re.match(r"c2.4e11-d2-w48 +2.6708  0.0097     2 ", lines[1])  # the lowest first
    shown = [float(line.split()[1]) for line in lines[1:]]
    assert shown == sorted(shown)
