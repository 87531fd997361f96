"""The smoke run: its command is the large run's, its bands are where they should be, broken machines are told, and a real small run passes."""

import collections
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from gpt2course import train
from gpt2course.ops import jobs
from gpt2course.ops import smoke as s
from gpt2course.data import EMBEDDED_VAL_SHA256, load_corpus
from gpt2course.files import UserError
from gpt2course.recipes import resolve, settings_from_text
from gpt2course.tokenizer import train_or_load

ROOT = Path(__file__).resolve().parent.parent
H100 = 989e12
D12 = resolve("jan29", depth=12)
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


# ---- the command


def test_the_small_run_is_the_large_one_but_for_its_sizes():
    args = s.Smoke("record", "8xh100", ("depth=26", "ratio=8.5", "batch_tokens=1048576", "qk_gain=1.15"), corpus="climbmix:30", device_batch=8, attention="fa3", fp8=True)
    sets = s.settings(args, 8, H100, 802e6)
    assert sets == ("batch_tokens=1048576", "qk_gain=1.15", "depth=12", "steps=300", "eval_bytes=1000000")
    argv = s.train_argv(args, "smoke-x", 8, sets)
    assert argv[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=8", "-m"] and argv[6] == "gpt2course.train"
    parsed = tyro.cli(train.Train, args=argv[7:], config=(tyro.conf.OmitArgPrefixes,))
    assert (parsed.recipe, parsed.profile, parsed.corpus, parsed.device_batch, parsed.attention, parsed.fp8, parsed.set) == ("record", "8xh100", "climbmix:30", 8, "fa3", True, sets)
    assert not parsed.keep_best and parsed.eval_every > 300
    train.check(parsed)
    alone = s.train_argv(s.Smoke(), "smoke-x", 1, ("steps=3",))
    assert alone[1:3] == ["-m", "gpt2course.train"] and "--corpus" not in alone and "--fp8" not in alone


@given(st.integers(1, 8), st.floats(1e13, 1e15))
def test_a_slower_machine_gets_fewer_steps_and_never_too_few(n, peak):
    plan = D12
    steps = int(dict(x.split("=") for x in s.settings(s.Smoke(profile="1gpu"), n, peak, plan.flops_per_token, plan.batch_tokens))["steps"])
    seconds = steps * plan.batch_tokens * plan.flops_per_token / (n * peak * s.MFU)
    assert 40 <= steps <= 300 and (seconds <= s.SECONDS or steps == 40) and (steps == 300 or seconds > 0.9 * s.SECONDS)


def test_processes_are_those_that_the_machine_has(monkeypatch):
    import torch

    assert s.processes(s.Smoke(gpus=2)) == (2, None) and s.processes(s.Smoke(profile="8xh100")) == (1, None)  # gloo, on CPUs
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert s.processes(s.Smoke(profile="8xh100")) == (8, H100) and s.processes(s.Smoke(profile="1gpu")) == (1, H100)
    for gpus in (0, 9):
        with pytest.raises(UserError, match=f"gpus = {gpus} is not allowed; it must be from 1 to the number of GPUs of this machine, which is 8"):
            s.processes(s.Smoke(gpus=gpus))


# ---- a child, watched


def test_a_child_is_waited_for_and_ended_in_time(tmp_path):
    assert s.watched([sys.executable, "-c", "print('hello'); raise SystemExit(3)"], tmp_path / "a" / "log", 60) == 3 and (tmp_path / "a" / "log").read_text() == "hello\n"
    began = time.monotonic()
    hang = f"import subprocess, time; p = subprocess.Popen(['sleep', '60']); open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); time.sleep(60)"
    assert s.watched([sys.executable, "-c", hang], tmp_path / "log", 6) is None and time.monotonic() - began < 40
    assert jobs.birth(int((tmp_path / "pid").read_text())) is None  # its own child too


def test_ctrl_c_ends_the_child(tmp_path):
    code = f"from pathlib import Path; from gpt2course import smoke; smoke.watched(['sh', '-c', 'echo $$; exec sleep 60'], Path({str(tmp_path / 'log')!r}), 60)"
    parent = subprocess.Popen([sys.executable, "-c", code], env=ENV, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    parent.wait(20)
    assert jobs.birth(int((tmp_path / "log").read_text())) is None


# ---- bands


def test_frequencies_alone_give_their_entropy(tmp_path, course_home):
    path = tmp_path / "toy.txt"
    path.mkdir()
    for i in range(30):
        (path / f"{i:02d}.txt").write_text("the cat sees a dog and the dog sees the cat. " * (i % 5 + 1))
    corpus = load_corpus(str(path))
    tokenizer = train_or_load(corpus, 275)
    tokenizer.save(tmp_path / "tokenizer")
    ids = [t for text in corpus.train for t in tokenizer.encode(text)]
    counts = collections.Counter(ids)
    nats, size = s.unigram(str(path), tmp_path / "tokenizer")
    assert nats == pytest.approx(-sum(c / len(ids) * math.log(c / len(ids)) for c in counts.values()))
    assert size == pytest.approx(sum(len(text.encode()) for text in corpus.train) / len(ids)) and 0 < s.unigram(str(path), tmp_path / "tokenizer", 60)[0] < math.log(275)


@given(st.lists(st.floats(2, 8), min_size=3, max_size=9))
def test_a_recorded_band_holds_its_own_seeds(losses):
    low, high, why = s.band(losses, (0.0, 0.0))
    assert low < min(losses) and high > max(losses) and f"{len(losses)} recorded seeds" in why and high - low >= 1.999 * s.LEAST


def test_without_a_record_first_principles_bound_the_loss():
    low, high, why = s.band([3.0, 3.1], (6.9, 4.8))
    assert high == 6.9 and low == pytest.approx(0.5 * 4.8 * math.log(2)) and "first principles" in why


def test_the_record_is_that_of_the_laptops_run_and_has_its_provenance():
    rows = [json.loads(line) for line in s.RECORD.read_text().splitlines()]
    assert len({r["seed"] for r in rows}) == len(rows) >= 5 and len({json.dumps(r["same"]) for r in rows}) == 1
    recipe, sets, corpus, val, tokenizer, dtype, fp8 = rows[0]["same"]
    assert (recipe, sets, corpus, val, dtype, fp8) == ("jan29", sorted(s.settings(s.Smoke(), 1, None)), "embedded", EMBEDDED_VAL_SHA256, "float32", False) and len(tokenizer) == 64
    assert all(r["commit"] and not r["commit"].endswith("+") and r["machine"]["torch"] and r["machine"]["device"] and r["steps"] == 120 and r["command"] for r in rows)
    for i, r in enumerate(rows):  # each seed by the band of the others
        low, high, _ = s.band([other["loss"] for j, other in enumerate(rows) if j != i], (0.0, 0.0))
        assert low < r["loss"] < high
    page = (s.RECORD.parent / "README.md").read_text()
    losses = [r["loss"] for r in rows]
    low, high, _ = s.band(losses, (0.0, 0.0))
    assert " | ".join(f"{x:.3f}" for x in [*losses, statistics.mean(losses), statistics.stdev(losses)]) + f" | {low:.3f} to {high:.3f} |" in page


# ---- verdicts

FALLING = [10.4 - 5 * (1 - math.exp(-i / 30)) for i in range(300)]
judge_loss = lambda losses, low=1.7, high=7.0: s.judge_loss(losses, 32768, low, high, "why")
speed = lambda share, peak=H100: s.judge_speed(share * s.MFU * 8 * H100 / 8e8, 8e8, 8, "NVIDIA H100", peak)
VERDICTS = [
    ("falls into the band", lambda: judge_loss(FALLING), "ok", "5.400 in the last 30 steps, 10.400 in the first; allowed 1.700 to 7.000"),
    ("above the band", lambda: judge_loss(FALLING, high=5.0), "STOP", "arithmetic of this machine"),
    ("below the band: too good to be true", lambda: judge_loss(FALLING, low=5.5), "STOP", "data are wrong"),
    ("NaN", lambda: judge_loss([*FALLING[:200], math.nan, *FALLING[201:]]), "STOP", "arithmetic"),
    ("does not fall", lambda: judge_loss([6.0] * 300), "STOP", "fall from 6.000"),
    ("begins far too high", lambda: judge_loss([14.0, *FALLING]), "STOP", "begin near 10.40"),
    ("as fast as expected", lambda: speed(1.0), "ok", "100% of the expected 4,054,900"),
    ("a little slower", lambda: speed(0.85), "ok", "85%"),
    ("slow", lambda: speed(0.7), "warning", "ask for another machine"),
    ("very slow", lambda: speed(0.4), "STOP", "40% of the expected"),
    ("faster than the hardware", lambda: speed(3.0), "STOP", "more than the hardware can do"),
    ("unknown hardware", lambda: speed(0.1, None), "ok", "not judged, since the peak of NVIDIA H100 is unknown"),
    ("even", lambda: s.judge_ranks([0.1] * 8, 8, True), "ok", "1.00 times the median"),
    ("one slow GPU", lambda: s.judge_ranks([0.1] * 5 + [0.115] + [0.1] * 2, 8, True), "warning", "process 5 needs 115.0 ms .* GPU 5 is slower"),
    ("one very slow GPU", lambda: s.judge_ranks([0.1] * 5 + [0.2] + [0.1] * 2, 8, True), "STOP", "2.00 times the median"),
    ("processes of one CPU", lambda: s.judge_ranks([0.1, 0.1, 0.2], 3, False), "warning", "process 2"),
    ("nothing told", lambda: s.judge_ranks([], 8, True), "warning", "the time of 0 of 8 processes"),
    ("alone", lambda: s.judge_ranks([], 1, True), "", ""),
]


@pytest.mark.parametrize("look,levels,says", [pytest.param(*rest, id=name) for name, *rest in VERDICTS])
def test_verdicts(look, levels, says):
    found = look()
    found = [found] if isinstance(found, tuple) else found
    assert " ".join(level for level, _, _ in found) == levels and (not says or re.search(says, found[0][2])), found
    assert all(text.isprintable() and (level == "ok" or re.search(r"[;:] .*(machine|clone)", text)) for level, _, text in found)


@pytest.fixture
def node_run(tmp_path, monkeypatch):
    """The files of a smoke run of eight H100; node_run(slow=5) makes one of them slow."""
    monkeypatch.setattr(s, "unigram", lambda corpus, folder: (7.2, 4.8))

    def make(rate=1.0, slow=None, top=0.0):
        plan = {"recipe": {"name": "record"}, "model": {"vocab_size": 32768}, "flops_per_token": 8e8}
        config = {"plan": plan, "corpus": "climbmix", "val_sha256": "v", "tokenizer_sha256": "t", "dtype": "bfloat16", "fp8": False, "seed": 42, "commit": "abc",
                  "machine": {"device": "NVIDIA H100 80GB HBM3", "type": "cuda"}}  # fmt: skip
        lines = [{"kind": "train", "step": i + 1, "loss": loss + top, "tok_per_sec": rate * 4.05e6 if i > 5 else 1e4, "seconds": i / 8,
                  "rank_seconds": [0.1 * (1 + (j == slow) / 2) for j in range(8)]} for i, loss in enumerate(FALLING)]  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in [*lines, {"kind": "eval", "val_bpb": 1.2}]))
        return s.judge(tmp_path, ("depth=12", "steps=300"), 8)

    return make


def test_a_node_is_judged_from_the_files_of_its_run(node_run):
    good = node_run()
    assert [level for level, _, _ in good["findings"]] == ["ok", "ok", "ok"] and good["rank_seconds"] == [0.1] * 8 and good["tok_per_sec"] == 4.05e6
    assert good["val_bpb"] == 1.2 and good["loss"] == pytest.approx(statistics.mean(FALLING[-30:])) and good["steps"] == 300
    assert [level for level, _, _ in node_run(rate=0.3)["findings"]] == ["ok", "STOP", "ok"]
    assert [level for level, _, _ in node_run(slow=6)["findings"]] == ["ok", "ok", "STOP"]
    assert [level for level, _, _ in node_run(top=2.5)["findings"]] == ["STOP", "ok", "ok"]


# ---- for real


def smoke(home, *more):
    argv = [sys.executable, "-m", "gpt2course.ops.smoke", *more]
    return subprocess.run(argv, capture_output=True, text=True, env=ENV | {"GPT2COURSE_HOME": str(home)}, timeout=280)


def test_the_laptops_run_lies_in_its_recorded_band(tmp_path):
    done = smoke(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    result = json.loads((run / "smoke.json").read_text())
    low, high, why = result["band"]
    assert result["verdict"] == "ok" and "5 recorded seeds" in why and low < result["loss"] < high and result["same"] == json.loads(s.RECORD.read_text().splitlines()[0])["same"]
    assert "ok: this machine is fit for the large run" in done.stdout and (run / "smoke.log").read_text() and not (run / "checkpoints").exists()
    assert settings_from_text(result["command"][result["command"].index("--set") + 1 :])["steps"] == "120"


def test_a_run_that_fails_says_why_and_ends_with_1(tmp_path):
    done = smoke(tmp_path, "--corpus", str(tmp_path / "nothing"))
    assert done.returncode == 1 and re.search(r"^STOP     run       training ended with exit code 2: corpus .* does not exist; give", done.stdout, re.M), done.stdout + done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "smoke.json").read_text())["verdict"] == "STOP"
    with pytest.raises(UserError, match="no setting 'no_such_setting'"):
        s.smoke(s.Smoke(set=("no_such_setting=3",)))


def test_a_run_that_hangs_is_ended(tmp_path, monkeypatch, course_home):
    monkeypatch.setattr(s, "train_argv", lambda *a: [sys.executable, "-c", "import time; print('step 3'); import sys; sys.stdout.flush(); time.sleep(60)"])
    result = s.smoke(s.Smoke(minutes=0.02))
    assert result["verdict"] == "STOP" and "was not done after 0.02 minutes; its last line: step 3" in result["findings"][0][2]


@pytest.mark.slow
def test_two_processes_give_the_same_loss_and_are_judged_too(tmp_path):
    done = smoke(tmp_path, "--gpus", "2")
    (run,) = (tmp_path / "runs").iterdir()
    result = json.loads((run / "smoke.json").read_text())
    assert done.returncode == 0 and "--nproc_per_node=2" in result["command"] and result["band"][0] < result["loss"] < result["band"][1]
    assert [what for _, what, _ in result["findings"]] == ["loss", "speed", "evenness"] and len(result["rank_seconds"]) == 2
