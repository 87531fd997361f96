"""kill -9 at six moments of a run: in a save, in an evaluation, between. Nothing may be lost or changed. More kills: test_rehearsal.py."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import curve, embedded_corpus, same, weights

from gpt2course import checkpoint
from gpt2course.runlog import read_metrics

pytestmark = pytest.mark.slow
KILLS, STEPS, EVERY = 6, 75, 5  # kills; steps; steps between evaluations
SIZE = (f"steps={STEPS}", "depth=3", "width=64", "head_dim=32", "sequence_len=128", "batch_tokens=512", "vocab_size=512", "eval_bytes=20000")


def command(name, corpus):
    often = ["--save-every", "2", "--eval-every", str(EVERY), "--log-seconds", "0"]
    return [sys.executable, "-m", "gpt2course.train", "jan29", "--name", name, "--device", "cpu", "--corpus", corpus, "--set", *SIZE, *often]


def moment(run, kind, draw):
    """Wait for a moment of the kind: a save at work, an evaluation at work, or anything."""
    began = time.time()
    while time.time() - began < 120:
        if kind == "save" and list((run / "checkpoints").glob(".step_*.tmp")):
            return time.sleep(draw.random() * 0.004)
        last = (read_metrics(run) or [{"kind": "none", "step": 0}])[-1]
        if kind == "evaluation" and last["kind"] == "checkpoint" and last["step"] % EVERY == 0:
            return time.sleep(draw.random() * 0.02)
        if kind == "between" and last["kind"] == "train":
            return time.sleep(draw.random() * 0.01)
        if last["kind"] == "done":
            return None
        time.sleep(0.0005)
    raise AssertionError(f"no {kind} came")


def where(run):
    """Where a kill struck, by what it left."""
    if list((run / "checkpoints").glob(".step_*")):
        return "save"
    last = (read_metrics(run) or [{"kind": "none"}])[-1]
    return "evaluation" if last["kind"] == "checkpoint" and last["step"] % EVERY == 0 else "between"


def test_kills_change_nothing(course_home, tmp_path_factory):
    corpus = embedded_corpus(tmp_path_factory.mktemp("corpus"), 300)
    quiet = dict(stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    subprocess.run(command("whole", corpus), check=True, **quiet)
    whole, run = (course_home / "runs" / name for name in ("whole", "killed"))
    draw, struck = random.Random(40), []
    for i in range(KILLS):
        process = subprocess.Popen(command("killed", corpus), **quiet)
        began = time.time()
        while not (run / "lock").exists() or (run / "lock").read_text() != f"{process.pid}\n":  # it still starts
            assert process.poll() is None and time.time() - began < 120
            time.sleep(0.005)
        moment(run, ("between", "save", "evaluation")[i % 3], draw)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL  # not at its end yet
        struck.append(where(run))
    last = subprocess.run(command("killed", corpus), check=True, **quiet | dict(stdout=subprocess.PIPE, text=True))
    assert "resumed from step_" in last.stdout
    assert curve(run) == curve(whole) and same(weights(run), weights(whole))
    optimizers = [checkpoint.load_file(checkpoint.newest(r)[0] / checkpoint.OPTIMIZER) for r in (run, whole)]
    draws = []
    for state in optimizers:
        torch.set_rng_state(state.pop("rng"))  # its bytes hold padding, so its draws are compared
        draws.append(torch.rand(8))
    assert same(*optimizers) and torch.equal(*draws) and checkpoint.newest(run)[1]["loader"] == checkpoint.newest(whole)[1]["loader"]
    assert [p.name for p in (run / "checkpoints").iterdir() if not p.name.startswith("step_") or p.name.endswith(".damaged")] == []
    print({kind: struck.count(kind) for kind in ("save", "evaluation", "between")})
    assert len(set(struck)) >= 2  # each kill aims at one of three kinds of moment; where it strikes depends on the machine
    assert read_metrics(run)[-1]["kind"] == "done"
