"""The benchmark: its statistics, both sides agreeing before they are timed, one command for every part."""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace

import bench
import pytest
import torch
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course.fast import kernels
from gpt2course.files import UserError

TINY = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=300", "ve_gate_channels=8", "short_window_tile=1")
ARGS = bench.Bench("step", set=TINY, rows=2, rounds=3, device="cpu")

# another implementation: our own model again, a little wrong where the environment asks for it
ADAPTER = """
import os, types
import bench
NAME = "twin"
def training(plan, weights, device, compute, embed, compile):
    side = bench.training(plan, weights, device, compute, embed, compile)
    factor = float(os.environ.get("TWIN", "1"))
    return types.SimpleNamespace(params=side.params, step=side.step, loss=lambda idx, targets: factor * side.loss(idx, targets))
"""


@pytest.fixture
def twin(tmp_path):
    path = tmp_path / "twin.py"
    path.write_text(ADAPTER)
    return str(path)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=40), st.floats(0.5, 2))
@settings(deadline=None, max_examples=50)
def test_a_ratio_is_of_rounds_and_not_of_medians(theirs, factor):
    found = bench.ratio([factor * t for t in theirs], theirs)
    assert found["median"] == pytest.approx(factor)
    assert (found["interval"] is None) == (len(theirs) < 6)  # 2 * 2^-n is 5 % or less from n = 6 on
    if found["interval"]:
        assert found["interval"] == pytest.approx([factor, factor])


@pytest.mark.parametrize("n", [6, 7, 12, 20, 31])
def test_the_interval_covers_the_median_often_enough(n):
    """For a continuous distribution the share is known exactly: at least 95 %, and less than that with an interval one narrower."""
    r = bench.ratio(random.Random(n).sample(range(1, n + 1), n), [1] * n)
    low, high = (round(x) for x in r["interval"])
    k = low  # the interval runs from the k-th smallest to the k-th largest
    assert high == n + 1 - k

    def covered(k):
        return 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n

    assert covered(k) >= 0.95 > covered(k + 1)


def test_sides_take_turns_in_both_orders():
    called, prepared = [], []
    sides = {name: lambda name=name: called.append(name) for name in "ab"}
    samples = bench.alternate(sides, replace(ARGS, rounds=4), torch.device("cpu"), prepared.append)
    assert "".join(called) == "baab" + "baabbaab" and prepared == called  # two rounds of warm-up, then four
    assert {len(s["seconds"]) for s in samples.values()} == {4}
    found = bench.compared(samples)
    assert list(found["ratio"]) == ["b"] and found["sides"]["a"]["seconds"]["n"] == 4
    assert len(bench.alternate(sides, replace(ARGS, rounds=10**6, seconds=0.01), torch.device("cpu"))["a"]["seconds"]) < 10**6


def test_a_step_beside_another_implementation(twin, monkeypatch):
    """Both losses are the same, so are the weights after a step, and a side that computes something else is refused before any timing."""
    found = bench.record(replace(ARGS, against=twin))
    result = found["result"]
    assert set(result["sides"]) == {"gpt2course", "twin"} and result["loss"]["gpt2course"] == result["loss"]["twin"]
    for side in result["sides"].values():
        assert side["tokens_per_second"] == pytest.approx(2 * 32 / side["seconds"]["median"])
        assert 0 < side["peak_memory_bytes"] < 1e9 and side["mfu_published"] is None
    assert 0.1 < result["ratio"]["twin"]["seconds"]["median"] < 10
    assert found["made"]["commit"] and found["made"]["machine"]["torch"] == torch.__version__ and found["made"]["against"] == "twin"
    json.dumps(found, allow_nan=False)
    assert any("gpt2course / twin, seconds" in line for line in bench.lines(found))
    monkeypatch.setenv("TWIN", "1.1")
    with pytest.raises(UserError, match="the losses of the two sides differ by more than 0.001"):
        bench.record(replace(ARGS, against=twin))


def test_the_optimizer_beside_another(twin, monkeypatch):
    result = bench.record(replace(ARGS, what="optimizer", against=twin))["result"]
    assert result["differ"] == {"twin": 0.0}
    make = bench.make_side

    def shifted(s, name, module):
        side = make(s, name, module)
        if name == "twin":
            step = side.step
            side.step = lambda lr, *rest: step(2 * lr, *rest)
        return side

    monkeypatch.setattr(bench, "make_side", shifted)
    assert bench.record(replace(ARGS, what="optimizer", against=twin))["result"]["differ"]["twin"] > 1e-4


def test_flops_of_the_optimizer_are_those_of_its_products():
    from torch.utils.flop_counter import FlopCounterMode

    s = bench.setting(replace(ARGS, what="optimizer"))
    side = bench.training(s.plan, bench.initial(s), s.device, s.compute, s.embed, False)
    for p in side.params.values():
        p.grad = torch.ones_like(p)
    with FlopCounterMode(display=False) as counter:
        side.step(0.1, 0.9, 1.0)
    assert bench.optimizer_part(s, None)["flops"] == counter.get_total_flops()


@pytest.mark.parametrize("change,message", [
    (dict(against="nothing.py"), "--against 'nothing.py' does not exist"), (dict(rounds=0), "rounds = 0 is not allowed"),
    (dict(rows=-1), "rows = -1 is not allowed"), (dict(what="all"), "`all` needs --out"), (dict(what="attention", against="TWIN"), "has no attention;"),
])  # fmt: skip
def test_mistakes_are_told(change, message, twin):
    with pytest.raises(UserError, match=message):
        bench.main(replace(ARGS, **{k: twin if v == "TWIN" else v for k, v in change.items()}))


@pytest.mark.slow
def test_all_in_one_command_continues_where_it_stopped(tmp_path, monkeypatch, capsys):
    """At a tiny size on the CPU, every part. A part that fails is named, the others are kept, and a second call makes only that one."""
    args = replace(ARGS, what="all", out=str(tmp_path / "out"), rounds=2)
    ran, broken = [], {"loss"}

    def here(command, really=subprocess.run, **more):  # a part in this process, which has torch imported already
        if "--name" not in command:
            return really(command, **more)
        ran.append(command[command.index("--name") + 1])
        if ran[-1] in broken:
            return subprocess.CompletedProcess(command, 2, "", "error: no reason")
        bench.main(tyro.cli(bench.Bench, args=command[2:], config=(tyro.conf.OmitArgPrefixes,)))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(bench.subprocess, "run", here)
    with pytest.raises(UserError, match="1 of 5 parts failed: loss"):
        bench.main(args)
    assert "loss failed: error: no reason" in capsys.readouterr().out and ran == list(bench.PARTS)
    ran.clear()
    broken.clear()
    bench.main(args)
    assert ran == ["loss"]
    files = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out").glob("*.json")}
    assert set(files) == set(bench.PARTS)
    assert set(files["attention"]["result"]["windows"]["-1"]["forward"]["sides"]) == {"sdpa", "blocked"}
    assert set(files["attention"]["result"]["cannot"]) == set(kernels.LOAD) - {"sdpa", "blocked"}
    assert all(side["seconds"]["median"] > 0 for name in ("step", "optimizer", "loss") for side in files[name]["result"]["sides"].values())


def test_every_part_for_a_gpu_is_a_command_that_is_understood():
    """The list for one GPU: each kernel at B 16, H 12, D 128; steps at depths 12 and 24 in bfloat16 and fp8."""
    parts = bench.parts_of_all(bench.Bench("all", out="x", against=__file__), cuda=True)
    parsed = {name: tyro.cli(bench.Bench, args=more, config=(tyro.conf.OmitArgPrefixes,)) for name, more in parts.items()}
    assert {f"attention-{k}" for k in kernels.LOAD} | {"roof", "loss-d24"} <= set(parsed)
    for depth in (12, 24):
        assert parsed[f"step-d{depth}-bf16"].against and not parsed[f"step-d{depth}-bf16"].fp8 and parsed[f"step-d{depth}-fp8"].fp8
    m = bench.resolve("record", depth=24).model
    assert (parsed["attention-fa3"].rows, m.n_head, m.head_dim, m.sequence_len) == (16, 12, 128, 2048) and bench.WINDOWS == (2048, 1024, 512)


def test_it_is_a_command():
    done = subprocess.run([sys.executable, bench.__file__, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Measure one part" in done.stdout
