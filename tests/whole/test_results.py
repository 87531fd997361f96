"""Every recorded number is whole, has its provenance, and says what the texts say it does."""

import json
import statistics
from pathlib import Path

import pytest

from gpt2course.course import lab
from gpt2course.data import EMBEDDED_VAL_SHA256
from gpt2course.recipes import LADDER, Recipe

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_small_batch_rates():
    """The sweep behind tiny_batch_lr: the square-root rule is far too low at 2,048 tokens, and the recipe's value is the best or within the spread of it."""
    rows = [json.loads(line) for line in (RESULTS / "2026-11-23_small-batch-rates" / "runs.jsonl").read_text().splitlines()]
    assert all(r["val_sha256"] == EMBEDDED_VAL_SHA256 and r["val_bytes"] > 500_000 and r["commit"] and r["torch"] and r["device"] for r in rows)
    assert len({r["tokens"] for r in rows}) == 1 and len({r["name"] for r in rows}) == len(rows)
    bpb = {}
    for r in rows:
        bpb.setdefault((r["tiny_batch_lr"], r["weight_decay"]), []).append(r["val_bpb"])
    assert all(len(values) >= 2 for values in bpb.values())
    mean = {key: statistics.mean(values) for key, values in bpb.items()}
    spread = max(max(values) - min(values) for values in bpb.values())
    chosen = mean[Recipe().tiny_batch_lr, Recipe().weight_decay]
    assert chosen < mean[0.0625, 0.2] - 5 * spread  # what the rule gives
    assert chosen < min(mean.values()) + 0.02  # bits per byte: nothing in the sweep is clearly better


def test_gpt2_rate():
    """The sweep behind the first rung's rate: the recipe's is the best of those tried, by the mean of two seeds; seeds differ by up to 0.15."""
    rows = [json.loads(line) for line in (RESULTS / "2026-11-23_gpt2-rate" / "runs.jsonl").read_text().splitlines()]
    assert all(r["val_sha256"] == EMBEDDED_VAL_SHA256 and r["val_bytes"] > 500_000 and r["commit"] and r["torch"] and r["device"] for r in rows)
    assert len({r["tokens"] for r in rows}) == 1 and len({r["name"] for r in rows}) == len(rows)
    bpb = {}
    for r in rows:
        assert r["lr"] == pytest.approx(LADDER["gpt2"].matrix_adamw_lr * (768 / 128) ** 0.5 * r["tiny_batch_lr"])
        bpb.setdefault(r["tiny_batch_lr"], []).append(r["val_bpb"])
    chosen = LADDER["gpt2"].tiny_batch_lr
    twice = {share: statistics.mean(values) for share, values in bpb.items() if len(values) > 1}
    assert min(twice, key=twice.get) == chosen and len(twice) >= 3 and min(bpb) < chosen / 2 and max(bpb) > chosen * 2
    assert max(max(values) - min(values) for values in bpb.values()) == pytest.approx(0.15, abs=0.005)


def test_ladder_laptop():
    """The ladder the lessons draw: one corpus and one number of tokens, every rung's rate swept with the best inside the range, three seeds, and rungs in order."""
    rows = [json.loads(line) for line in (RESULTS / "2026-11-23_ladder-laptop" / "runs.jsonl").read_text().splitlines()]
    assert all(r["val_sha256"] == EMBEDDED_VAL_SHA256 and r["val_bytes"] > 500_000 and r["commit"] and not r["commit"].endswith("+") and r["torch"] and r["device"] for r in rows)
    assert len({(r["tokens"], r["val_bytes"]) for r in rows}) == 1 and {r["role"] for r in rows} == {"sweep", "ladder"}
    ladder = {}
    for recipe in ("gpt2", "modern", "muon"):
        swept = {r["rate"]: r["val_bpb"] for r in rows if r["recipe"] == recipe and r["role"] == "sweep"}
        best = min(swept, key=swept.get)
        assert len(swept) >= 4 and min(swept) < best < max(swept), f"{recipe}: the best rate {best} is at the end of what was tried"
        runs = [r for r in rows if r["recipe"] == recipe and r["role"] == "ladder"]
        assert {r["rate"] for r in runs} == {best} and [r["seed"] for r in runs] == [1, 2, 3]
        ladder[recipe] = [r["val_bpb"] for r in runs]
    for before, after in (("gpt2", "modern"), ("modern", "muon")):
        spread = max(max(ladder[name]) - min(ladder[name]) for name in (before, after))
        assert min(ladder[before]) - max(ladder[after]) > spread, "the difference is above the seed spread"
    assert list(lab.ladder(upto="modern")) == ["gpt2", "modern"] and lab.ladder("gpt2")["gpt2"][0] == pytest.approx(ladder["gpt2"][0], abs=1e-3)


def test_rate_and_decay():
    """Every optimizer at its own best rate and decay, three seeds, the best inside the grid (no decay is the end of its axis); what the README and lesson 05 say holds."""
    rows = [json.loads(line) for line in (RESULTS / "2026-11-28_rate-and-decay" / "runs.jsonl").read_text().splitlines()]
    assert all(r["val_sha256"] == EMBEDDED_VAL_SHA256 and r["val_bytes"] > 500_000 and r["commit"] and r["torch"] and r["device"] for r in rows)
    assert len({(r["tokens"], r["val_bytes"]) for r in rows}) == 1 and len({(r["arm"], r["rate"], r["decay"], r["seed"]) for r in rows}) == len(rows)
    found = {}
    for arm in ("gpt2", "modern", "orthogonal", "normuon", "muon"):
        swept = {(r["rate"], r["decay"]): r["val_bpb"] for r in rows if r["arm"] == arm and r["seed"] == 1}
        if arm == "normuon":  # without decay it is muon
            swept |= {(r["rate"], 0.0): r["val_bpb"] for r in rows if r["arm"] == "muon" and r["seed"] == 1 and r["decay"] == 0}
        (rate, decay), rates, decays = min(swept, key=swept.get), *map(set, zip(*swept))
        assert min(rates) < rate < max(rates) and decay < max(decays) and 0 in decays, f"{arm}: the best cell {rate}, {decay} is at an end of what was tried"
        found[arm] = [r["val_bpb"] for r in rows if (r["arm"], r["rate"], r["decay"]) == (arm, rate, decay)]
        assert len(found[arm]) == 3
    assert all(lab.ladder()[arm][:3] == pytest.approx(found[arm], abs=1e-3) for arm in ("gpt2", "modern", "muon"))
    assert min(found.pop("gpt2")) - max(found["modern"]) > 0.4
    gap = statistics.mean(found["modern"]) - statistics.mean(found["muon"])
    assert gap == pytest.approx(0.0245, abs=5e-5) and min(found["modern"]) > max(found["muon"])
    assert gap > max(max(bpb) - min(bpb) for bpb in found.values())
    steps = [[x - y for x, y in zip(found[a], found[b])] for a, b in (("modern", "orthogonal"), ("orthogonal", "normuon"), ("normuon", "muon"))]
    assert [round(statistics.mean(s), 4) for s in steps] == [0.0089, 0.0112, 0.0044] and min(map(min, steps)) > 0


def test_core_fast():
    """The fast CORE evaluator against the plain one on the real bundle: every example once, and 200 a task for a trained and a random model; and its speed."""
    folder = RESULTS / "2026-11-23_core-fast"
    rows = [json.loads(line) for line in (folder / "compare.jsonl").read_text().splitlines()]
    assert all(r["commit"] and not r["commit"].endswith("+") and r["torch"] and r["device"] and r["weights"] and r["bundle_sha256"] for r in rows)
    assert len({(r["model"], r["task"], r["first"]) for r in rows}) == len(rows) and len({r["bundle_sha256"] for r in rows}) == 1
    examples = {}
    for r in rows:
        examples.setdefault(r["model"], {}).setdefault(r["task"], 0)
        examples[r["model"]][r["task"]] += r["n"]
    assert sum(examples["narrow"].values()) == 91_037 and all(len(tasks) == 22 for tasks in examples.values())
    for model in ("lap", "lap (random)"):  # trained, and not
        assert all(n == min(200, examples["narrow"][task]) for task, n in examples[model].items())
    assert not [(r["task"], pair) for r in rows for pair in r["different"] if pair[1] >= 1e-5], "a decision differs although the plain evaluator's margin is clear"
    blocked = [json.loads(line) for line in (folder / "compare-blocked.jsonl").read_text().splitlines()]
    assert {r["task"] for r in blocked} == set(examples["lap"]) and not [r["task"] for r in blocked for pair in r["different"] if pair[1] >= 1e-5]
    assert {r["model"]: (r["depth"], r["width"], r["vocab_size"]) for r in rows} == {"lap": (4, 128, 4096), "lap (random)": (4, 128, 4096), "narrow": (1, 32, 1024)}

    speed = [json.loads(line) for line in (folder / "speed.jsonl").read_text().splitlines()]
    assert {r["task"] for r in speed} == {"hellaswag", "arc_easy", "boolq", "bigbench_language_identification", "squad", "lambada_openai", "winograd"}
    assert len({r["n"] for r in speed}) == 1 and all(r["depth"] == 4 and r["vocab_size"] == 4096 and r["cpu_threads"] == 2 for r in speed)
    assert sum(sum(r["plain_s"]) for r in speed) >= 4 * sum(sum(r["fast_s"]) for r in speed)
    assert max(r["peak_memory_bytes"] for r in speed) < 1.5e9


def test_vocabulary():
    """The sweep that lesson 01 shows: only the vocabulary changes, FLOPs are equal, two seeds; what the lesson says of the order holds."""
    rows = [json.loads(line) for line in (RESULTS / "2026-11-23_vocabulary" / "runs.jsonl").read_text().splitlines()]
    assert all(r["val_sha256"] == EMBEDDED_VAL_SHA256 and r["val_bytes"] > 500_000 and r["commit"] and not r["commit"].endswith("+") and r["torch"] and r["device"] for r in rows)
    assert sorted((r["vocab_size"], r["seed"]) for r in rows) == [(V, seed) for V in (512, 1024, 2048, 4096, 8192) for seed in (1, 2)]
    assert max(r["flops"] for r in rows) < 1.003 * min(r["flops"] for r in rows)  # whole steps
    bpb = {V: sorted(r["val_bpb"] for r in rows if r["vocab_size"] == V) for V in (512, 1024, 2048, 4096, 8192)}
    gains = [statistics.mean(bpb[a]) - statistics.mean(bpb[b]) for a, b in ((512, 1024), (1024, 2048), (2048, 4096), (4096, 8192))]
    assert all(gain > 0 for gain in gains) and gains[-1] < min(gains[:-1])


def test_cpu_speed():
    """Beside nanochat on a CPU: losses agree before timing, the ratios keep what is promised, and the README says what the files say."""
    folder = RESULTS / "2026-11-23_cpu-speed"
    files = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
    text = (folder / "README.md").read_text()
    for name, most in {"step-d4": 1.0, "step-d4-windows": 0.8, "step-d4-vocabulary": 0.7, "optimizer-d4": 0.9}.items():
        made, result = files[name]["made"], files[name]["result"]
        assert made["commit"] and not made["commit"].endswith("+") and made["machine"]["torch"] and made["machine"]["device"] and made["against"] == "nanochat 92d63d4"
        assert not made["compile"] and made["plan"]["depth"] == 4 and made["plan"]["recipe"] == "record"
        sides, r = result["sides"], result["ratio"]["nanochat 92d63d4"]["seconds"]
        ours, theirs = (side["seconds"]["values"] for side in sides.values())
        assert statistics.median(a / b for a, b in zip(ours, theirs)) == pytest.approx(r["median"], rel=1e-4) and len(ours) == len(theirs) >= 6
        assert r["interval"][1] < most
        assert f"| {r['median']:.3f} ({r['interval'][0]:.3f} to {r['interval'][1]:.3f}) |" in text
        if "loss" in result:
            assert len({round(x, 4) for x in result["loss"].values()}) == 1
            memory = [side["peak_memory_bytes"] for side in sides.values()]
            assert memory[0] < memory[1] and f"{memory[0] / 1e6:,.0f} / {memory[1] / 1e6:,.0f} MB" in text
        else:
            assert max(result["differ"].values()) < 7e-5
    for name in ("parity-record", "parity-jan29"):
        made, result = files[name]["made"], files[name]["result"]
        ours, *theirs = result["losses"].values()
        assert made["commit"] and not made["commit"].endswith("+") and [len(curve) for curve in (ours, *theirs)] == [200] * 4 and abs(ours[0] - theirs[0][0]) < 1e-4
        apart = lambda a, b: statistics.mean(abs(x - y) for x, y in zip(a[-50:], b[-50:]))  # noqa: E731
        spread = [apart(a, b) for i, a in enumerate(theirs) for b in theirs[:i]]
        assert apart(ours, theirs[0]) == pytest.approx(result["difference"], abs=1e-4) and result["spread"] == pytest.approx(spread, abs=1e-4)
        assert apart(ours, theirs[0]) < min(spread) and f"{result['difference']:.4f}" in text
