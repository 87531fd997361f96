"""kill -9 at forty random moments of a run of laptop size: in a save, in an evaluation, between. Nothing may be lost or changed.

The model is the laptop profile's; its run here is shortened to 200 steps of 512 tokens, with a small part of the text.
GPT2COURSE_KILL_STEPS=1300 makes it the profile's whole run (most of an hour on 2 cores); what that gave stands in LOG.md.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_train import curve, same, weights

from gpt2course import checkpoint
from gpt2course.data import load_corpus
from gpt2course.train import read_metrics

pytestmark = pytest.mark.slow
WHOLE = "GPT2COURSE_KILL_STEPS" in os.environ
STEPS = int(os.environ.get("GPT2COURSE_KILL_STEPS", 200))
KILLS = 40
EVERY = max(4, STEPS // 25)  # steps between evaluations


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    if WHOLE:
        return "embedded"
    folder, text = tmp_path_factory.mktemp("corpus"), load_corpus("embedded")
    for name, documents in (("train", [text.train[i] for i in range(3000)]), ("val", [text.val[i] for i in range(20)])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in documents))
    return str(folder)


def command(name, corpus):
    size = ["--corpus", corpus, "--set", f"steps={STEPS}", "eval_bytes=20000"] + ([] if WHOLE else ["batch_tokens=512", "vocab_size=1024"])
    often = ["--save-every", str(max(3, STEPS // 100)), "--eval-every", str(EVERY), "--log-seconds", "0"]
    return [sys.executable, "-m", "gpt2course.train", "jan29", "--profile", "laptop", "--name", name, "--device", "cpu", *size, *often]


def moment(run, kind, draw):
    """Wait for a moment of the kind: a save at work, an evaluation at work, or anything. True if it came before the run's end."""
    began = time.time()
    while time.time() - began < 120:
        if kind == "save" and list((run / "checkpoints").glob(".step_*.tmp")):
            time.sleep(draw.random() * 0.02)
            return
        last = (read_metrics(run) or [{"kind": "none", "step": 0}])[-1]
        if kind == "evaluation" and last["kind"] == "checkpoint" and last["step"] % EVERY == 0:
            time.sleep(draw.random() * 0.2)
            return
        if kind == "between" and last["kind"] == "train":
            time.sleep(draw.random() * 0.8)
            return
        if last["kind"] == "done":
            return
        time.sleep(0.001)
    raise AssertionError(f"no {kind} came")


def where(run):
    """Where a kill struck, from what it left."""
    if list((run / "checkpoints").glob(".step_*")):
        return "save"
    metrics = read_metrics(run)
    if not metrics:  # at once after a start without a checkpoint
        return "between"
    evaluating = metrics[-1]["kind"] == "checkpoint" and metrics[-1]["step"] % EVERY == 0
    return "evaluation" if evaluating else "between"


def test_forty_kills_change_nothing(course_home, corpus):
    quiet = dict(stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    subprocess.run(command("whole", corpus), check=True, **quiet)
    whole, run = (course_home / "runs" / name for name in ("whole", "killed"))
    draw, struck = random.Random(40), []
    for i in range(KILLS):
        process = subprocess.Popen(command("killed", corpus), **quiet)
        began = time.time()
        while not (run / "lock").exists() or (run / "lock").read_text() != f"{process.pid}\n":  # a run at work, not one that loads
            assert process.poll() is None and time.time() - began < 120
            time.sleep(0.01)
        moment(run, ("between", "save", "evaluation")[i % 3] if i else "between", draw)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        struck.append(where(run))
    last = subprocess.run(command("killed", corpus), check=True, **quiet | dict(stdout=subprocess.PIPE, text=True))
    assert last.stdout.startswith("resumed from step_")
    assert curve(run) == curve(whole) and same(weights(run), weights(whole))
    optimizers = [checkpoint.load_file(checkpoint.newest(r)[0] / checkpoint.OPTIMIZER) for r in (run, whole)]
    draws = []
    for state in optimizers:
        torch.set_rng_state(state.pop("rng"))  # its bytes hold padding, so what they draw is compared
        draws.append(torch.rand(8))
    assert same(*optimizers) and torch.equal(*draws) and checkpoint.newest(run)[1]["loader"] == checkpoint.newest(whole)[1]["loader"]
    litter = [p.name for p in (run / "checkpoints").iterdir() if not p.name.startswith("step_") or p.name.endswith(".damaged")]
    assert litter == []
    print({kind: struck.count(kind) for kind in ("save", "evaluation", "between")})
    assert all(struck.count(kind) >= 6 for kind in ("save", "evaluation", "between"))
    assert read_metrics(run)[-1]["kind"] == "done"
