"""Scaling laws: a known law is found again, within its interval; budgets with one arm are left out; the published points give the published exponents."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import scaling
from gpt2course.files import UserError

RECORD = Path(__file__).resolve().parent.parent / "results" / "2026-11-23_isoflop-laptop" / "runs.jsonl"
LAW = dict(E=0.6, A=60.0, a=0.4, B=300.0, b=0.4)


def bpb(n, d, E, A, a, B, b):
    return E + A / n**a + B / d**b


def best(c, A, a, B, b, **_):
    """(N, D) of lowest bpb at c = 6 N D (arXiv 2203.15556, equation 4)."""
    g = (a * A / (b * B)) ** (1 / (a + b))
    return g * (c / 6) ** (b / (a + b)), (c / 6) ** (a / (a + b)) / g


def grid(law=LAW, budgets=(1e17, 3e17, 1e18, 3e18, 1e19), spread=3.0, sizes=7, noise=0.0, seeds=1, seed=0, shift=1.0):
    """Runs of an IsoFLOP grid that follow a law, with sizes from best / spread to best * spread, and Gaussian noise."""
    random = np.random.default_rng(seed)
    rows = []
    for c in budgets:
        for n in best(c, **law)[0] * shift * np.geomspace(1 / spread, spread, sizes):
            d = c / 6 / n
            rows += [dict(budget=c, n=float(n), tokens=d, flops=c, val_bpb=bpb(n, d, **law) + noise * random.standard_normal(), seed=s, status="done") for s in range(seeds)]
    return rows


@pytest.fixture(scope="module")
def one_armed():
    """The summary of a grid whose sizes are all far too large."""
    return scaling.summary(grid(spread=2.0, shift=8.0))


@settings(max_examples=8, deadline=None)
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
    """Noise as large as that of seeds: of 40 grids the 95 % interval of alpha holds the truth in most, and it narrows with the noise."""
    found, widths = 0, []
    for seed in range(40):
        low, high = scaling.bootstrap(grid(noise=0.004, seed=seed), draws=120, seed=seed)["alpha"]
        found += low <= 0.5 <= high
        widths.append(high - low)
    assert 33 <= found, found
    less = scaling.bootstrap(grid(noise=0.0008), draws=120)["alpha"]
    assert less[1] - less[0] < 0.5 * np.median(widths) < 0.2


def test_the_same_seed_gives_the_same_interval():
    rows = grid(noise=0.004)
    assert scaling.bootstrap(rows, draws=50) == scaling.bootstrap(rows, draws=50) != scaling.bootstrap(rows, draws=50, seed=1)


def test_a_budget_with_one_arm_is_left_out_and_says_why(one_armed):
    for s in (one_armed, scaling.summary(grid(spread=2.0, shift=1 / 8))):
        assert all("one arm" in m["left_out"] for m in s["budgets"]) and s["laws"] == {} and "left out: only one arm" in scaling.table(s)
    rows = grid() + grid(budgets=(1e20,), sizes=3) + [r | {"val_bpb": 2 - r["val_bpb"]} for r in grid(budgets=(1e21,))]
    why = {c: scaling.minimum(g).get("left_out") for c, g in scaling.by_budget(rows).items()}
    assert "3 sizes" in why[1e20] and "open upwards" in why[1e21] and not why[1e18]


def test_too_few_budgets_have_no_interval():
    s = scaling.summary(grid(budgets=(1e18, 1e19), noise=0.001))
    assert "interval" not in s["laws"]["alpha"] and "no interval: it needs three budgets" in scaling.table(s) and scaling.bootstrap(grid(budgets=(1e18, 1e19))) == {}
    assert scaling.summary(grid(budgets=(1e18,)))["laws"] == {} and scaling.parametric(grid(budgets=(1e18,))) is None
    json.dumps(s)


def test_published_points_give_the_published_exponents():
    """Discussion #420 says that both are about one half, and the ratio of tokens to parameters about 8 at every budget."""
    found = scaling.published()["nanochat"]
    assert found["alpha"] == pytest.approx(0.5, abs=0.02) and found["beta"] == pytest.approx(0.5, abs=0.02)
    assert all(7.5 < m["tokens"] / m["n"] < 8.5 for m in scaling.PUBLISHED)


def test_the_forecast_is_an_extrapolation_that_reality_refuted():
    f = scaling.forecast()
    assert 28 < f["depth"] < 44 and f["depths"][0] < f["depth"] < (f["depths"][1] or 99) and f["tokens"] > 1e10
    assert f["depths"][0] > scaling.HAPPENED  # a better recipe is not on the line through an old one
    near = scaling.forecast(target=0.14)  # between the points
    assert 12 < near["depth"] < 20
    line = {d: 0.1 + 0.02 * math.log(scaling_flops(d)) for d in (10, 12, 14, 16)}
    exact = scaling.forecast(line, target=0.1 + 0.02 * math.log(scaling_flops(20)))
    assert exact["depth"] == pytest.approx(20, abs=0.05) and exact["flops"] == pytest.approx(scaling_flops(20), rel=1e-3)


def scaling_flops(depth):
    from gpt2course.recipes import resolve

    return resolve("muon", depth=depth, ratio=8.0).flops


def test_the_record_has_both_arms_at_every_budget(tmp_path):
    done = subprocess.run([sys.executable, "-m", "gpt2course.scaling", str(RECORD), "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, s = scaling.read(RECORD), json.loads((tmp_path / "scaling.json").read_text())
    assert scaling.table(s) in done.stdout
    assert len(rows) == s["runs"] == 40 and len(s["budgets"]) == 4 and not any("left_out" in m for m in s["budgets"])
    low, high = s["laws"]["alpha"]["interval"]
    assert low < s["laws"]["alpha"]["exponent"] < high and high - low < 0.25
    sizes = [m["n"] for m in s["budgets"]]
    assert sizes == sorted(sizes)
    assert s["budgets"] == [scaling.minimum(g) for g in scaling.by_budget(rows).values()]
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("isoflop", "laws"))


def test_figures_say_what_they_show(tmp_path, monkeypatch, one_armed):
    from gpt2course.course import plots

    made = []
    real = plots.figure
    monkeypatch.setattr(plots, "figure", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    rows = grid(noise=0.002)
    s = scaling.summary(rows)
    paths = scaling.figures([*rows, {"status": "failed", "budget": 1e18}], s, tmp_path)
    assert [p.name for p in paths] == ["isoflop.png", "laws.png"]
    (curves, (ax,)), (both, _) = made
    stars = [line for line in ax.lines if line.get_marker() == "*"]
    assert [float(line.get_xdata()[0]) for line in stars] == pytest.approx([m["n"] for m in s["budgets"]])
    assert f"{s['budgets'][0]['n']:,.0f} parameters" in curves.alt and f"{s['laws']['alpha']['exponent']:.2f}" in both.alt
    none = scaling.figures(grid(spread=2.0, shift=8.0), one_armed, tmp_path / "one")
    assert [p.name for p in none] == ["isoflop.png"]  # nothing to draw a law through


@pytest.mark.parametrize("lines,message", [
    (["{"], "damaged"), ([json.dumps({"status": "failed", "budget": 1.0})], "no finished run of an IsoFLOP grid"),
    ([json.dumps({"id": "x", "status": "done", "budget": 1e18, "n": 0, "tokens": 1, "flops": 1, "val_bpb": 1})], "run x has n = 0; it must be a number above 0"),
    ([json.dumps({"id": "x", "status": "done", "budget": 1e18, "n": 5, "tokens": 1, "flops": 1, "val_bpb": "low"})], "val_bpb = 'low'"),
])  # fmt: skip
def test_bad_files_are_refused(tmp_path, lines, message):
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(UserError, match=message):
        scaling.read(path)


def test_published_by_command(capsys):
    scaling.main(scaling.Scaling("published"))  # a process of its own is proved with the record
    said = capsys.readouterr().out
    assert "N* ~ C^alpha      0.492; Hoffmann et al. 0.49" in said and "what happened" in said
