"""The forecast: its arithmetic by hand, its check against the published records, its chances against simulation, its page against the code."""

import dataclasses
import json
import math
import random
import shlex
import statistics
import subprocess
import sys

import pytest
import torch
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from gpt2course import bench, forecast, leaderboard
from gpt2course.cost import hours, memory_estimate
from gpt2course.figures.forecast import chance_curve, prediction_errors
from gpt2course.files import UserError
from gpt2course.forecast import (
    Link,
    Step,
    chance,
    chance_of_gpt2,
    check,
    interval,
    overhead,
    page,
    predict,
    project,
    seed_spread,
    t_cdf,
    tiers,
)
from gpt2course.leaderboard import GPT2_CORE
from gpt2course.optim import polar_express
from gpt2course.recipes import resolve
from gpt2course.train import Train

settings.register_profile("forecast", deadline=None)
settings.load_profile("forecast")
JAN29, RECORD = resolve("jan29", depth=24), resolve("record", depth=24)
STEP = Step(device="NVIDIA H100 80GB HBM3", recipe="record", depth=24, B=16, T=2048, micro_seconds=0.25, optimizer_seconds=0.04,
            flops_per_token=RECORD.flops_per_token, muon_flops=forecast.muon_flops(RECORD), fp8=True)  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return check()


# ---- the parts of a step


@given(st.integers(2, 24), st.integers(2, 24), st.integers(1, 5))
def test_muons_flops_are_those_of_its_matrix_products(m, n, steps):
    with FlopCounterMode(display=False) as counter:
        polar_express(torch.randn(m, n), steps)
    m, n = sorted((m, n))
    assert counter.get_total_flops() == steps * (4 * m * m * n + 2 * m**3)


def test_muons_flops_of_a_step_at_depth_24():
    assert forecast.muon_flops(JAN29) == pytest.approx(2.6e13, rel=0.02)  # nanochat's d24, by the same count
    assert forecast.muon_flops(resolve("modern", depth=4)) == 0.0  # AdamW


def test_the_bytes_exchanged_are_those_that_memory_is_counted_for():
    for plan in (JAN29, RECORD, resolve("modern", depth=4)):
        m = plan.model
        assert forecast.exchanged_bytes(plan) == memory_estimate(plan.params, B=1, T=8, n_layer=m.n_layer, n_embd=m.n_embd, vocab_size=m.vocab_size).gradients


@given(st.integers(1, 16), st.floats(1e9, 1e12), st.floats(0, 1), st.floats(0, 1))
def test_overhead_by_hand(gpus, bandwidth, overlap, optimizer):
    opt, wire = overhead(JAN29, gpus, Link(bandwidth, overlap), optimizer=optimizer)
    assert opt == pytest.approx(optimizer / gpus)
    assert wire == pytest.approx((1 - overlap) * 2 * (gpus - 1) / gpus * (4 * 729_813_552 + 2 * 654_311_424) / bandwidth)


# ---- the check


def test_the_published_records_are_predicted_from_the_first(rows):
    """The errors that the page states. Nothing of records 2 to 6 but their depth, ratio, batch, windows and fp8 goes in."""
    assert [r.id for r in rows] == [f"nanochat-{i}" for i in range(1, 7)]
    assert [round(100 * r.error, 1) for r in rows] == [0.0, -0.9, 0.2, -0.1, 1.0, -0.4]
    assert [round(100 * (r.left_out / r.published - 1), 1) for r in rows] == [0.0, -1.0, 0.2, 0.0, 1.2, -0.4]
    low, high = interval(rows)
    assert 0.975 < low < 1 < high < 1.025
    worse = interval(rows + check(unmerged=True))
    assert worse[0] < low and worse[1] > high + 0.03  # the claims at depth 22 took longer


def changed(monkeypatch, id, factor):
    entries = [dataclasses.replace(e, hours=forecast.seconds_of(e) * factor / 3600, seconds=None) if e.id == id else e for e in leaderboard.read()]
    monkeypatch.setattr(leaderboard, "read", lambda: entries)


@pytest.mark.parametrize("number", range(2, 7))
def test_what_is_predicted_is_not_used(monkeypatch, rows, number):
    changed(monkeypatch, f"nanochat-{number}", 1.1)
    after = check()
    assert [r.predicted for r in after] == [r.predicted for r in rows]  # only record 1 is
    for a, b in zip(rows, after):
        assert (a.left_out == b.left_out) == (a.id == f"nanochat-{number}")  # left out of its own, used for the others
        assert a.published * (1.1 if a.id == f"nanochat-{number}" else 1.0) == pytest.approx(b.published)


def test_record_1_is_what_the_first_prediction_is_fitted_to(monkeypatch, rows):
    assert rows[0].predicted == pytest.approx(rows[0].published)
    changed(monkeypatch, "nanochat-1", 1.1)
    assert all(b.predicted > 1.08 * a.predicted for a, b in zip(rows, check()))


def test_the_gain_of_fp8_turns_630_thousand_tokens_a_second_into_740(rows):
    """The published comparison, at depth 26 with batches of 2^19, by the model that the gain was taken out of."""
    link, plan = Link(), resolve("jan29", depth=26)
    rate = forecast.implied_rate(plan, plan.steps * 2**19 / 630e3, 1.0, link)
    assert plan.tokens / predict(plan, rate, forecast.fp8_factor(link), link) == pytest.approx(740e3)


@given(st.floats(1e14, 1e15), st.floats(0.8, 2), st.floats(0, 1), st.integers(1, 64))
def test_rate_and_time_undo_each_other(rate, speedup, overlap, gpus):
    link = Link(overlap=overlap)
    assert forecast.implied_rate(RECORD, predict(RECORD, rate, speedup, link, gpus), speedup, link, gpus) == pytest.approx(rate)


def test_interval_by_hand():
    logs = [0.01, -0.02, 0.0, 0.03, -0.01]
    made = [forecast.Check(f"nanochat-{i}", math.exp(x), 1.0, None) for i, x in enumerate(logs, 2)]
    half = 2.776445 * statistics.stdev(logs) * math.sqrt(1.2)  # Student's t, 4 degrees of freedom, 97.5 %
    mean = statistics.mean(logs)
    assert interval([forecast.Check("nanochat-1", 5.0, 1.0, None), *made]) == pytest.approx((math.exp(mean - half), math.exp(mean + half)), rel=1e-6)


# ---- the chance


@given(st.floats(-30, 30))
def test_students_t_where_it_has_a_closed_form(t):
    assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-9)
    assert t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-9)
    assert t_cdf(t, 4) == pytest.approx(0.5 + 3 / 8 * (s := 2 * t / math.sqrt(4 + t * t)) * (1 - s * s / 12), abs=1e-9)
    assert t_cdf(t, 3000) == pytest.approx(statistics.NormalDist().cdf(t), abs=1e-3)


def test_chances_come_true():
    """Simulated recipes: where the chance says p, the next run passes in p of the cases, though mean and spread are estimated from few runs."""
    rng, said = random.Random(0), []
    for _ in range(1500):
        runs = [rng.gauss(0.26, 0.005) for _ in range(4)]
        said.append(chance(statistics.mean(runs), statistics.stdev(runs), 4, bar=rng.gauss(0.26, 0.005)))  # the bar plays the next run: the chances are uniform
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert sum(p <= level for p in said) / len(said) == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / len(said)))


@given(st.floats(0.2, 0.3), st.floats(0.001, 0.01), st.integers(2, 30))
def test_a_chance_is_half_at_the_bar_and_rises_with_the_mean(mean, sd, n):
    assert chance(GPT2_CORE, sd, n) == pytest.approx(0.5)
    p, flipped = chance(mean, sd, n), chance(2 * GPT2_CORE - mean, sd, n)
    assert p + flipped == pytest.approx(1) and (p > 0.5) == (mean > GPT2_CORE) or p == pytest.approx(0.5)
    assert chance(mean, sd, 10**6, 10**2) == pytest.approx(statistics.NormalDist(mean, sd).cdf(2 * mean - GPT2_CORE), abs=0.01)


def test_the_published_draws():
    entries = {e.id: e for e in leaderboard.read()}
    for i in ("nanochat-4", "pr-655", "pr-733"):
        assert len(forecast.DRAWS[i]) == entries[i].core_runs and statistics.mean(forecast.DRAWS[i]) == pytest.approx(entries[i].core, abs=1e-4)
    twenty = forecast.DRAWS["pr-807"]
    assert (len(twenty), round(statistics.mean(twenty), 4), round(statistics.stdev(twenty), 4)) == (20, 0.2389, 0.0062)
    sd, dof = seed_spread()
    assert dof == 6 + 2 + 2 + 19 + 5 and 0.002 < sd < 0.006 and sd == pytest.approx(0.00545, abs=5e-5)


def test_chance_of_a_recipe():
    sd, dof = seed_spread()
    r = chance_of_gpt2("record", 24, 8)
    assert (r["mean"], r["probability"]) == (0.262634, chance(0.262634, sd, 5, dof)) and 0.8 < r["probability"] < 0.9 and "nanochat-6" in r["source"] and "bound" not in r["source"]
    assert "nanochat-5" in chance_of_gpt2("record", 24, 8.7)["source"] and "a lower bound" in chance_of_gpt2("record", 24, 12)["source"]
    assert "an upper bound" in chance_of_gpt2("record", 24, 6)["source"]
    four = chance_of_gpt2("jan29", 24, 9.5)
    assert "nanochat-4" in four["source"] and 0.5 < four["probability"] < 0.6
    one = chance_of_gpt2("jan29", 24, 12, corpus="fineweb-edu")
    assert one["mean"] == 0.25851 and 0.5 < one["probability"] < chance(0.25851, sd, 100, dof)  # one run says less than a hundred
    for nothing in (("record", 22, 9.4), ("muon", 24, 12), ("jan29", 26, 8.5, "climbmix"), ("record", 24, 8, "/my/texts")):
        r = chance_of_gpt2(*nothing)
        assert (r["mean"], r["probability"], r["sd"]) == (None, None, sd) and "no published record" in r["source"]


def test_impossible_spreads_are_refused():
    for bad in ((0.26, 0.0, 5), (0.26, -1.0, 5), (0.26, 0.005, 0), (0.26, 0.005, 1), (0.26, math.nan, 5)):
        with pytest.raises(UserError, match="not allowed"):
            chance(*bad)


# ---- a projection


def test_a_projection_by_hand():
    r = project(RECORD, step=STEP, fp8=True, link=Link(3e11, 0.25))
    wire = 0.75 * 2 * 7 / 8 * forecast.exchanged_bytes(RECORD) / 3e11
    seconds = 5568 * (4 * 0.25 + 0.04 / 8 + wire)
    assert r["label"] == "projection" and r["hours"] == pytest.approx(seconds / 3600) and r["mfu"] == pytest.approx(RECORD.flops / (seconds * 8 * 989e12))
    low, high = interval(check(Link(3e11, 0.25)))
    assert r["low_hours"] == pytest.approx(min(seconds * low, 5568 * (1 + 0.005)) / 3600)
    assert r["high_hours"] == pytest.approx(max(seconds * high, 5568 * (1 + 0.005 + wire / 0.75)) / 3600)
    assert len(r["notes"]) == 2 and all("assumed" in r["notes"][0] or "check" in note for note in r["notes"])


def test_record_1s_own_step_gives_record_1():
    outside = sum(overhead(JAN29, 8, Link()))
    step = dataclasses.replace(
        STEP, recipe="jan29", flops_per_token=JAN29.flops_per_token, fp8=False, micro_seconds=(10949.47 / 16704 - outside) / 2, optimizer_seconds=8 * overhead(JAN29, 8, Link())[0]
    )
    r = project(JAN29, step=step)
    assert r["hours"] == pytest.approx(10949.47 / 3600) and r["mfu"] == pytest.approx(0.5, abs=5e-4)


def test_other_recipes_depths_devices_and_precisions_are_scaled_and_said():
    base = project(RECORD, step=STEP, fp8=True)
    slower = project(RECORD, step=STEP, fp8=False)
    assert slower["compute_seconds"] / base["compute_seconds"] == pytest.approx(forecast.fp8_factor()) and "without fp8" not in slower["notes"][0]
    assert "measured with fp8" in slower["notes"][0]
    a100 = project(RECORD, step=STEP, fp8=True, gpu="A100")
    assert a100["compute_seconds"] / base["compute_seconds"] == pytest.approx(989 / 312) and "NVIDIA H100" in a100["notes"][0]
    h200 = project(RECORD, step=dataclasses.replace(STEP, device="NVIDIA H200"), fp8=True)
    assert h200["hours"] == pytest.approx(base["hours"]) and "NVIDIA H200" in h200["notes"][0]  # the same peak, and said all the same
    d26 = resolve("record", depth=26)
    other = project(d26, step=STEP, fp8=True)
    assert other["compute_seconds"] / base["compute_seconds"] == pytest.approx(d26.flops_per_token / RECORD.flops_per_token) and "depth 24" in other["notes"][0]
    assert other["optimizer_seconds"] / base["optimizer_seconds"] == pytest.approx(forecast.muon_flops(d26) / forecast.muon_flops(RECORD))
    d22 = project(resolve("record", depth=22), step=STEP, fp8=True)
    assert d22["high_hours"] / d22["hours"] > 1.05 > other["high_hours"] / other["hours"]  # nothing official was published there


def test_more_gpus_faster_links_and_more_overlap_never_cost_time():
    by_gpus = [project(RECORD, step=STEP, fp8=True, gpus=g)["hours"] for g in (1, 2, 4, 8)]
    assert all(a > 1.9 * b for a, b in zip(by_gpus, by_gpus[1:])) and project(RECORD, step=STEP, gpus=1)["communication_seconds"] == 0
    by_link = [project(RECORD, step=STEP, link=Link(rate, share))["hours"] for rate, share in ((1e11, 0.0), (4e11, 0.0), (4e11, 0.5), (4e11, 1.0))]
    assert by_link == sorted(by_link, reverse=True) and len(set(by_link)) == 4


def test_from_an_mfu():
    r = project(JAN29, mfu=0.5)
    assert r["hours"] == pytest.approx(hours(JAN29.flops, 8, 989e12, 0.5)) and round(r["hours"], 2) == 3.04
    assert r["low_hours"] is None and "assumed MFU" in r["notes"][0]


def test_bad_projections_are_refused():
    for bad, words in (
        (dict(), "one of the two"), (dict(step=STEP, mfu=0.5), "one of the two"), (dict(mfu=0.5, gpu="Voodoo 2"), "unknown"), (dict(mfu=50), "mfu"),
        (dict(step=dataclasses.replace(STEP, B=24)), "divides the rows"), (dict(step=dataclasses.replace(STEP, T=1024)), "same T"),
        (dict(step=dataclasses.replace(STEP, device="a CPU")), "unknown"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            project(RECORD, **bad)
    for bad in (dict(bytes_per_second=0), dict(overlap=1.5), dict(bytes_per_second=math.nan)):
        with pytest.raises(UserError, match="not allowed"):
            Link(**bad)


def bench_file(path, part, **changes):
    """A file in the form of bench.py (its own test below holds the two together)."""
    plan = {"recipe": "record", "rows": 16, "micro": 2, "T": 2048, "depth": 24, "width": 1536, "vocab_size": 32768} | {
        k: changes.pop(k) for k in list(changes) if k in ("depth", "micro", "width")
    }
    seconds = changes.pop("seconds", 0.54 if part == "step" else 0.04)
    result = {"sides": {"gpt2course": {"seconds": {"median": seconds}}}, "flops_per_token": RECORD.flops_per_token, "flops": forecast.muon_flops(RECORD)}
    path.write_text(json.dumps({"part": part, "made": {"machine": {"device": "NVIDIA H100 80GB HBM3"}, "fp8": True, "plan": plan}, "result": result} | changes))
    return path


def test_a_measured_step_is_read_from_the_files_of_bench(tmp_path, capsys):
    step, optimizer = bench_file(tmp_path / "step-d24-fp8.json", "step"), bench_file(tmp_path / "optimizer-d24.json", "optimizer")
    read = forecast.read_step(step)
    assert read == dataclasses.replace(STEP, micro_seconds=read.micro_seconds) and read.micro_seconds == pytest.approx(0.25)
    forecast.main(forecast.Forecast(file=step, price=3.0, fp8=True))
    out = capsys.readouterr().out
    assert out.startswith("PROJECTION, not a measurement") and "1.57, between" in out and "at 24 an hour" in out and "84% of single runs" in out
    for where, content, words in (
        (step, {}, "is none of"), (step, [], "is none of"), (optimizer, {"part": "loss"}, "is of loss, not of optimizer"), (step, {"part": "step", "made": {}, "result": {}}, "is none of"),
    ):  # fmt: skip
        before = where.read_text()
        where.write_text(json.dumps(content))
        with pytest.raises(UserError, match=words):
            forecast.read_step(step)
        where.write_text(before)
    for changes, words in ((dict(depth=12), "different models"), (dict(width=768), "different models"), (dict(seconds=0.6), "quiet machine")):
        with pytest.raises(UserError, match=words):
            forecast.read_step(step, bench_file(tmp_path / "o.json", "optimizer", **changes))
    optimizer.unlink()
    with pytest.raises(UserError, match="optimizer's own time is not beside it"):
        forecast.read_step(step)


def test_bench_writes_what_is_read_here(tmp_path):
    """Real files of a tiny model on the CPU: they are read, and refused only for the CPU, whose peak nobody knows."""
    size = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=512")
    for part in ("step", "optimizer"):
        args = bench.Bench(what=part, set=size, rows=2, micro=2 if part == "step" else 1, rounds=3, seconds=5.0, device="cpu", dtype="float32", compile=False)
        (tmp_path / f"{part}.json").write_text(json.dumps(bench.record(args)))
    step = forecast.read_step(tmp_path / "step.json")
    tiny = resolve("record", batch_tokens=64, steps=1, **dict(pair.split("=") for pair in size))
    assert (step.recipe, step.depth, step.B, step.T, step.fp8) == ("record", 2, 2, 32, False) and step.micro_seconds > 0
    assert (step.flops_per_token, step.muon_flops) == pytest.approx((tiny.flops_per_token, forecast.muon_flops(tiny)))
    with pytest.raises(UserError, match="peak of gpu"):
        project(resolve("record", depth=2, width=32, head_dim=16, sequence_len=32, vocab_size=512, batch_tokens=1024, steps=5), step=step, gpus=8)


def test_the_command_says_what_is_wrong_on_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "gpt2course.forecast", "--from", tmp_path / "none.json"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: measurement") and done.stderr.count("\n") == 1


# ---- one GPU, and the page


@pytest.mark.parametrize("row", tiers(), ids=lambda t: f"{t['memory_gb']}GB")
def test_tiers(row):
    plan = resolve("record", depth=row["depth"])
    m = plan.model
    need = [memory_estimate(plan.params, B=B, T=2048, n_layer=m.n_layer, n_embd=m.n_embd, vocab_size=32768, compiled=True).total for B in (row["device_batch"], 2 * row["device_batch"])]
    assert need[0] <= 0.9 * row["memory_gb"] * 1e9 < need[1]  # it fits, and twice as much does not
    assert (plan.batch_tokens // 2048) % row["device_batch"] == 0 and row["tokens"] == plan.tokens
    for card, h in row["hours"].items():
        assert h == pytest.approx(plan.flops / {"RTX 5080": 112.6e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12, "H100": 989e12, "A100": 312e12}[card] / 0.4 / 3600)
    args = tyro.cli(Train, args=shlex.split(row["command"])[3:])
    assert (args.recipe, args.profile, args.device_batch, args.set) == ("record", "1gpu", row["device_batch"], (f"depth={row['depth']}",))


def test_expected_scores_are_the_published_ones_and_near_two_others():
    assert {d: forecast.expected_core(resolve("record", depth=d)) for d in (14, 24)} == pytest.approx({14: 0.1574, 24: 0.262634})
    for ratio, score in ((10.5, 0.145), (12, 0.148)):
        assert forecast.expected_core(resolve("jan29", depth=12, ratio=ratio)) == pytest.approx(score, abs=0.005)
    d14 = resolve("record", depth=14)
    assert d14.flops / (12180 * 312e12) == pytest.approx(0.39, abs=0.005)  # 3 h 23 min on one A100: what TIER_MFU leans on


def test_the_page_is_what_the_code_makes():
    text = forecast.PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run `python -m gpt2course.forecast page`"
    assert text.count("| nanochat-") == 12 and "| 24 GB | 16 | 8 |" in text
    with pytest.raises(UserError, match="no place for the table check"):
        page(text.replace("<!-- check -->", ""))


# ---- figures


def test_figures(rows, tmp_path):
    data = [(r.id, r.published / 3600, r.predicted / 3600) for r in rows + check(unmerged=True)]
    fig = prediction_errors(data, interval(rows), "nanochat-1")
    fig.savefig(tmp_path / "a.png")
    assert "nanochat-4 2.02 h, predicted 2.02 h, -0.1 %" in fig.alt and "fitted to nanochat-1" in fig.alt
    dots = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert [d.get_xdata()[0] for d in dots] == pytest.approx([100 * (p / h - 1) for _, h, p in data]) and dots[0].get_fillstyle() == "none"
    sd, dof = seed_spread()
    points = [(m / 1e3, chance(m / 1e3, sd, 5, dof)) for m in range(245, 280)]
    fig = chance_curve(sd, [("record 6", 0.262634, chance(0.262634, sd, 5, dof))], GPT2_CORE, points)
    fig.savefig(tmp_path / "b.png")
    assert "record 6 with mean 0.2626 84%" in fig.alt and len(fig.axes[0].lines[0].get_xdata()) == 35
    for bad in (lambda: prediction_errors([], (1, 1), "x"), lambda: prediction_errors([("a", 0.0, 1.0)], (1, 1), "x"), lambda: chance_curve(1, [], 0.2, points)):
        with pytest.raises(UserError, match="nothing to draw"):
            bad()
