"""Preflight: each finding for machines that are not at hand, the command on this machine, and the small run."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from helpers import SIZE, grammar, write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import cost
from gpt2course.data import SHARD_DISK, shards_needed
from gpt2course.files import UserError
from gpt2course.ops import download
from gpt2course.ops import preflight as p
from gpt2course.recipes import resolve_run

H100 = "NVIDIA H100 80GB HBM3"
JAN29 = resolve_run("jan29", "8xh100", {}, devices=8)
SMALL = resolve_run("jan29", "1gpu", {"depth": 12}, devices=1)


def gpus(n=8, **changes):
    return [{"name": H100, "free": 84.9e9, "rate": 700e12} | (changes if i == 3 else {}) for i in range(n)]


def project(gpu=H100, price=None):
    return p.projection(JAN29.plan, JAN29.devices, gpu, 0.0, p.Preflight(profile="8xh100", price_per_hour=price))


def run(losses=(10.4, 8.0, 6.0, 5.0), rate=1e6, gpu="", plan=None):
    lines = [{"kind": "train", "step": i, "loss": loss, "tok_per_sec": rate} for i, loss in enumerate(losses, 1)]
    return p.judge_run([*lines, {"kind": "done", "step": len(losses)}], plan or SMALL.plan, 8, gpu)


EXPECTED = p.MFU_SMOKE * 8 * 989e12 / SMALL.plan.flops_per_token  # tokens/s
# name, findings, their levels, what one of the texts says
CASES = [
    ("a good node", lambda: p.judge_gpus(gpus(), "580.1", 8, 8), "ok ok", "8 x NVIDIA H100 80GB HBM3, driver 580.1"),
    ("GPUs of two kinds", lambda: p.judge_gpus(gpus(name="NVIDIA A100"), "1", 8, 8), "warning ok", "NVIDIA A100 and NVIDIA H100"),
    ("four of eight", lambda: p.judge_gpus(gpus(4), "1", 8, 4), "warning ok", "2 times as long as on 8"),
    ("a slow GPU", lambda: p.judge_gpus(gpus(rate=640e12), "1", 8, 8), "ok warning", r"GPU 3 is slower than the others \(640 to 700 TFLOP/s\)"),
    ("a very slow GPU", lambda: p.judge_gpus(gpus(rate=500e12), "1", 8, 8), "ok STOP", "GPU 3"),
    ("attention", lambda: p.judge_attention("fa3", "the fastest that works"), "ok", "fa3"),
    ("no fast attention", lambda: p.judge_attention("sdpa", "nothing else"), "warning", "windows cost more than they save"),
    ("no GPU on a laptop", lambda: p.judge_absent("laptop", []), "", ""),
    ("no GPU for a large profile", lambda: p.judge_absent("8xh100", []), "warning", "made for 8 x H100"),
    ("GPUs that torch cannot see", lambda: p.judge_absent("8xh100", ["/dev/nvidia0", "/dev/nvidia1"]), "STOP", "there are 2 GPUs, but torch sees none.*make clean setup"),
    ("memory", lambda: p.judge_memory(JAN29, 84.9e9, True), "ok", "device batch 16 needs about 63.6 GB, 84.9 GB are free"),
    ("less memory", lambda: p.judge_memory(JAN29, 40e9, True), "ok", "device batch 16 needs about 39.5 GB, 40.0 GB are free"),  # it recomputes
    ("little memory", lambda: p.judge_memory(JAN29, 30e9, True), "STOP", "take --device-batch 8$"),
    ("a GPU without bfloat16", lambda: p.judge_memory(JAN29, 84.9e9, True, each=4), "ok", "device batch 16 needs about 71.4 GB"),  # it recomputes
    ("no memory", lambda: p.judge_memory(JAN29, 4e9, True), "STOP", "choose a smaller depth"),
    ("a disk", lambda: p.judge_disk(JAN29.plan, 27e9, Path("/x"), 200e9), "ok", "200.0 GB free in /x"),
    ("a small disk", lambda: p.judge_disk(JAN29.plan, 27e9, Path("/x"), 69e9), "STOP", "GPT2COURSE_HOME"),
    ("time and cost", lambda: project(price=24.0), "ok ok", r"about 3.04 h of training on 8 x .* at 50% of the peak, 3.\d\d h"),
    ("cost", lambda: project(price=24.0), "ok ok", r"about \$80.29 at \$24 an hour, of which training is \$72.98"),
    ("an unknown GPU", lambda: project(gpu="GTX 1080"), "ok", "unknown, because the peak rate of GTX 1080 is unknown"),
    ("the loss falls", run, "ok ok", "from 10.400 to 5.000 in 4 steps"),
    ("the loss stays", lambda: run((10.4, 10.3, 10.1, 9.9)), "STOP ok", "it must fall"),
    ("no number", lambda: run((10.4, 8.0, math.nan)), "STOP ok", "nan"),
    ("the expected speed", lambda: run(rate=0.9 * EXPECTED, gpu=H100), "ok ok", "90% of the expected"),
    ("too slow", lambda: run(rate=0.59 * EXPECTED, gpu=H100), "ok STOP", "59% of the expected"),
    ("a smaller model", lambda: run(rate=1e4, gpu=H100, plan=resolve_run("jan29", "1gpu", {"depth": 4}, devices=1).plan), "ok warning", "of the expected"),
]  # fmt: skip


@pytest.mark.parametrize("look,levels,text", [pytest.param(*rest, id=name) for name, *rest in CASES])
def test_findings(look, levels, text):
    found = look()
    found = [found] if isinstance(found, tuple) else found
    assert " ".join(level for level, _, _ in found) == levels
    assert not text or any(re.search(text, line) for _, _, line in found), found
    assert all(line.isprintable() and len(line) < 400 for _, _, line in found)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 1000).map(lambda n: n * 1e8))
def test_the_device_batch_that_is_proposed_fits(free):
    level, _, text = p.judge_memory(JAN29, free, True)
    proposed = re.search(r"take --device-batch (\d+)", text)
    if level == "STOP" and proposed:
        fitting = dataclasses.replace(JAN29, device_batch=int(proposed[1]))
        assert p.judge_memory(fitting, free, True)[0] == "ok" and 32 % fitting.device_batch == 0
    sizes = cost.step_sizes(JAN29.plan) | {"B": 16, "world": 8, "recompute": True}
    need = p.SLACK * cost.memory_estimate(JAN29.plan.params, **sizes).total
    assert (level == "ok") == (free >= need)


# ---- what is looked at


def test_shards_that_the_run_downloads_are_no_stop(course_home, monkeypatch):
    asked, problem = [], None
    monkeypatch.setattr(download, "reach", lambda url: asked.append(url) or problem)
    n = shards_needed("climbmix", JAN29.plan.tokens)
    found, to_come = p.look_data("climbmix", JAN29.plan, True)
    assert [level for level, _, _ in found] == ["ok"] * 3 and f"0 of {n + 1} shards" in found[0][2] and to_come == (n + 1) * SHARD_DISK
    assert len(asked) == 2 and asked[0].endswith("/climbmix-400b-shuffle/resolve/main/shard_06542.parquet") and asked[1].endswith("/eval_bundle.zip")
    problem = "HTTP 403 Forbidden"
    assert [level for level, _, _ in p.look_data("climbmix:8", JAN29.plan, True)[0]] == ["ok", "STOP", "STOP"]
    problem = "HTTP 503 Busy"
    assert [level for level, _, _ in p.look_data("climbmix:8", JAN29.plan, False)[0]] == ["ok", "warning"]
    ((level, what, text),), to_come = p.look_data("/nowhere", JAN29.plan, False)
    assert (level, what, to_come) == ("STOP", "corpus", 0.0) and "does not exist" in text


def test_measure_where_the_gpus_are_the_cpu(monkeypatch):
    """The code of `measure`, with the CPU in the place of a GPU."""
    fakes = {"device_count": lambda: 1, "mem_get_info": lambda i: (5e9, 8e9), "synchronize": lambda i: None, "get_device_name": lambda i: H100}  # fmt: skip
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, value)
    found = p.measure(16, kind="cpu", seconds=0.01, size=64)
    assert found["gpus"][0] == {"name": H100, "free": 5e9, "rate": found["gpus"][0]["rate"]} and found["gpus"][0]["rate"] > 0
    assert found["attention"][0] in ("sdpa", "blocked") and json.dumps(found)


def test_a_crash_or_a_hang_of_the_gpus_is_a_finding(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ((level, what, text),), gpu = p.look_devices(JAN29, "8xh100")
    assert (level, what, gpu) == ("STOP", "gpus", "") and "a test of the GPUs failed" in text  # the child has no GPU
    measured = {"gpus": gpus(free=30e9), "driver": "580", "attention": ["fa3", "fits"], "bytes": 2}
    monkeypatch.setattr(p, "measure_in_child", lambda head_dim: measured)
    found, gpu = p.look_devices(JAN29, "8xh100")
    assert gpu == H100 and [what for _, what, _ in found] == ["gpus", "speed", "attention", "memory"]
    assert found[-1][0] == "STOP" and "30.0 GB are free" in found[-1][2]  # the emptiest GPU counts
    measured["bytes"] = 4
    assert p.look_devices(JAN29, "8xh100")[0][-1][2] != found[-1][2]  # in float32 it needs more


def test_a_machine_is_judged_before_it_is_rented(course_home, monkeypatch, capsys):
    monkeypatch.setattr(download, "reach", lambda url: None)
    monkeypatch.setattr(p.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10**12))
    monkeypatch.setattr(p.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=10**12))
    found = {what: (level, text) for level, what, text in p.preflight(p.Preflight("jan29", "8xh100", price_per_hour=24.0))["findings"]}
    assert "about 3.04 h of training on 8 x H100" in found["time"][1] and found["memory"][1].endswith("free on an H100")
    assert [what for what, (level, _) in found.items() if level != "ok"] == ["gpus"] and "ok       time" in capsys.readouterr().out
    monkeypatch.setattr(p, "H100_FREE", 30e9)
    found = p.preflight(p.Preflight("jan29", "8xh100", price_per_hour=24.0))["findings"]
    assert ("warning", "memory") in [(level, what) for level, what, _ in found]  # a STOP is for this machine only


# ---- the command


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "toy.jsonl", grammar())


def test_the_command_with_the_small_run(course_home, corpus, tmp_path):
    out = tmp_path / "out.json"
    argv = [sys.executable, "-m", "gpt2course.ops.preflight", "--corpus", corpus, "--set", *SIZE, "--smoke", "--out", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    result = json.loads(out.read_text())
    assert done.returncode == 0 and "ready for the run: 0 warnings" in done.stdout, done.stdout + done.stderr
    assert [what for _, what, _ in result["findings"]] == ["software", "memory", "corpus", "disk", "loss", "throughput"]
    assert (result["device"], result["torch"]) == ("cpu", torch.__version__) and "depth=2" in result["command"]
    assert not (course_home / "runs" / result["run"] / "checkpoints").exists()


def test_a_stop_ends_the_command(course_home, tmp_path, capsys):
    out = tmp_path / "out.json"
    with pytest.raises(UserError, match=r"^this machine is not ready for the run \(STOP: corpus\)"):
        p.main(p.Preflight(corpus=str(tmp_path / "nothing"), smoke=True, out=str(out)))
    assert re.search("^STOP     corpus ", capsys.readouterr().out, re.M)
    assert json.loads(out.read_text())["findings"][2][0] == "STOP" and not (course_home / "runs").exists()  # no small run


def small_run(corpus, **arguments):
    args = p.Preflight(profile="8xh100", set=SIZE, corpus=corpus, smoke=True, **arguments)
    sizes = resolve_run("jan29", "8xh100", p.settings_from_text(SIZE), devices=arguments.get("devices", 1))
    return p.smoke(args, sizes, corpus, "")


@pytest.mark.slow
def test_two_processes_and_the_settings_of_the_large_run(course_home, corpus, monkeypatch):
    small = small_run(corpus, devices=2)
    assert [level for level, _, _ in small["findings"]] == ["ok", "ok"], small["findings"]
    command = " ".join(small["command"])
    assert "--nproc_per_node=2" in command and "--profile 8xh100" in command and "width=32" in command and "steps=120" in command and "depth=2" in command


def test_a_small_run_that_fails_is_a_stop(course_home, corpus):
    ((level, what, text),) = small_run(corpus, seed=-1)["findings"]
    assert (level, what) == ("STOP", "small run") and "exit code 2: seed = -1 is not allowed" in text


def test_the_small_run_needs_only_the_first_shards(course_home, monkeypatch):
    found = []
    monkeypatch.setattr(p.subprocess, "run", lambda argv, **_: found.append(argv) or types.SimpleNamespace(returncode=1))
    for corpus in ("climbmix:182", "climbmix:3", "climbmix"):
        p.smoke(p.Preflight(profile="8xh100"), JAN29, corpus, "")
    assert [argv[argv.index("--corpus") + 1] for argv in found] == ["climbmix:10", "climbmix:3", "climbmix:10"]
