"""Every recorded number is whole, has its provenance, and says what the texts say it does."""

import json
import statistics
from pathlib import Path

import pytest

from gpt2course import lab
from gpt2course.data import EMBEDDED_VAL_SHA256
from gpt2course.recipes import LADDER, Recipe

RESULTS = Path(__file__).resolve().parent.parent / "results"


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
    assert lab.ladder() == ladder and list(lab.ladder(upto="modern")) == ["gpt2", "modern"]
    for before, after in (("gpt2", "modern"), ("modern", "muon")):
        spread = max(max(ladder[name]) - min(ladder[name]) for name in (before, after))
        assert min(ladder[before]) - max(ladder[after]) > spread, "the difference is above the seed spread"
