"""Scaling laws: a known law is found again, within its interval; a budget with one arm is left out; the published points."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import scaling

RECORD = Path(__file__).resolve().parents[2] / "results" / "2026-11-23_isoflop-laptop" / "runs.jsonl"
LAW = dict(E=0.6, A=60.0, a=0.4, B=300.0, b=0.4)


def bpb(n, d, E, A, a, B, b):
    return E + A / n**a + B / d**b


def best(c, A, a, B, b, **_):
    """(N, D) of lowest bpb at c = 6 N D (arXiv 2203.15556, equation 4)."""
    g = (a * A / (b * B)) ** (1 / (a + b))
    return g * (c / 6) ** (b / (a + b)), (c / 6) ** (a / (a + b)) / g


def grid(law=LAW, budgets=(1e17, 3e17, 1e18, 3e18, 1e19), spread=3.0, sizes=7, noise=0.0, seed=0, shift=1.0):
    """Runs of an IsoFLOP grid that follow a law, with sizes from best / spread to best * spread, and Gaussian noise."""
    random, rows = np.random.default_rng(seed), []
    for c in budgets:
        for n in best(c, **law)[0] * shift * np.geomspace(1 / spread, spread, sizes):
            d = c / 6 / n
            rows.append(dict(budget=c, n=float(n), tokens=d, val_bpb=bpb(n, d, **law) + noise * random.standard_normal()))
    return rows


@settings(max_examples=4, deadline=None)
@given(st.floats(0.25, 0.5), st.floats(0.25, 0.5))
def test_the_exponents_of_a_known_law_are_found(a, b):
    law = LAW | dict(a=a, b=b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "bootstrap", lambda rows: {})  # without noise an interval proves nothing
        s = scaling.summary(grid(law))
    assert [m["budget"] for m in s["budgets"]] == [1e17, 3e17, 1e18, 3e18, 1e19]
    for m in s["budgets"]:
        n, d = best(m["budget"], **law)
        assert m["n"] == pytest.approx(n, rel=0.12) and m["tokens"] == pytest.approx(d, rel=0.12) and m["val_bpb"] == pytest.approx(bpb(n, d, **law), rel=0.01)
    assert s["laws"]["alpha"]["exponent"] == pytest.approx(b / (a + b), abs=0.01) and s["laws"]["beta"]["exponent"] == pytest.approx(a / (a + b), abs=0.01)
    assert s["laws"]["gamma"]["exponent"] < 0
    p = s["parametric"]
    assert p["alpha"] == pytest.approx(b / (a + b), abs=0.02) and p["E"] == pytest.approx(0.6, rel=0.05) and p["error"] < 1e-3


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Noise as large as that of seeds: of 24 grids the 95 % interval of alpha holds the truth in most, and it narrows with the noise."""
    found, widths = 0, []
    for seed in range(24):
        low, high = scaling.bootstrap(grid(noise=0.004, seed=seed), draws=100, seed=seed)["alpha"]
        found += low <= 0.5 <= high
        widths.append(high - low)
    assert 20 <= found, found
    less = scaling.bootstrap(grid(noise=0.0008), draws=100)["alpha"]
    assert less[1] - less[0] < 0.5 * np.median(widths) < 0.2
    rows = grid(noise=0.004)
    assert scaling.bootstrap(rows, draws=50) == scaling.bootstrap(rows, draws=50) != scaling.bootstrap(rows, draws=50, seed=1)


def test_a_budget_without_a_minimum_is_left_out_and_says_why(monkeypatch):
    monkeypatch.setattr(scaling, "parametric", lambda rows: None)  # it needs no minimum
    for shift in (8.0, 1 / 8):  # all sizes far too large, or far too small
        s = scaling.summary(grid(spread=2.0, shift=shift, budgets=(1e17, 1e18, 1e19)))
        assert all("one arm" in m["left_out"] for m in s["budgets"]) and s["laws"] == {}
    rows = grid() + grid(budgets=(1e20,), sizes=3) + [r | {"val_bpb": 2 - r["val_bpb"]} for r in grid(budgets=(1e21,))]
    why = {c: scaling.minimum(g).get("left_out") for c, g in scaling.by_budget(rows).items()}
    assert "3 sizes" in why[1e20] and "open upwards" in why[1e21] and not why[1e18]


def test_too_few_budgets_have_no_interval():
    s = scaling.summary(grid(budgets=(1e18, 1e19), sizes=4, noise=0.001))
    assert "interval" not in s["laws"]["alpha"] and scaling.bootstrap(grid(budgets=(1e18, 1e19))) == {}
    one = scaling.summary([*grid(budgets=(1e18,)), dict(n=1, budget=None)])  # a run without a budget belongs to no curve
    assert one["laws"] == {} and one["parametric"] is None and len(one["budgets"]) == 1
    json.dumps([s, one, scaling.summary([])])


def test_published_points_give_the_published_exponents():
    """Discussion #420 says that both are about one half, and the ratio of tokens to parameters about 8 at every budget."""
    found = scaling.summary([])["published"]
    assert found["alpha"] == pytest.approx(0.5, abs=0.02) and found["beta"] == pytest.approx(0.5, abs=0.02)
    assert all(7.5 < m["tokens"] / m["n"] < 8.5 for m in scaling.PUBLISHED)


def test_the_record_has_both_arms_at_every_budget():
    s = scaling.summary([json.loads(line) for line in RECORD.read_text().splitlines()])
    assert len(s["budgets"]) == 4 and not any("left_out" in m for m in s["budgets"])
    low, high = s["laws"]["alpha"]["interval"]
    assert low < s["laws"]["alpha"]["exponent"] < high and high - low < 0.25
    assert s["laws"]["alpha"]["exponent"] == pytest.approx(0.512, abs=5e-4)  # as its README says
    sizes = [m["n"] for m in s["budgets"]]
    assert sizes == sorted(sizes)
