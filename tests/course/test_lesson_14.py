"""Lesson 14: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import itertools
import json
import math
import re
import statistics

import numpy as np
import pytest
from lesson_cases import answers, change, lesson_tests

from gpt2course.course.figures import speedrun as figures
from gpt2course.files import UserError

NAMES = {
    "14.1": ("forecast", "skill", "luck"), "14.2": ("record_counts",), "14.3": ("price_of_proof",), "14.4": ("minutes_left",), "14.5": ("bar_for",),
}  # fmt: skip
SOLVED = answers("14", math=math, statistics=statistics, itertools=itertools)
FORECAST, SKILL, LUCK = (SOLVED[name] for name in NAMES["14.1"])


# ---- 14.1


def skill(p, kept, base, error=lambda a, k: (a - k) ** 2, of=lambda own, other: 1 - own / other, turn=False):
    kept = [not k for k in kept] if turn else kept
    own, other = (statistics.mean(error(a, k) for a, k in zip(q, kept)) for q in (p, [base] * len(p)))
    return of(own, other)


def skill_by_numpy(p, kept, base):
    p, kept = np.array(p), np.array(kept, dtype=float)
    return 1 - ((p - kept) ** 2).sum() / ((base - kept) ** 2).sum()


def luck(p, kept, better=lambda s, own: s <= own + 1e-12, ways=None):
    error = lambda k: sum((a - b) ** 2 for a, b in zip(p, k))
    ways = ways(kept) if ways else [k for k in itertools.product((0, 1), repeat=len(p)) if sum(k) == sum(kept)]
    return statistics.mean(better(error(k), error(kept)) for k in ways)


def luck_by_order(p, kept):
    return luck(p, kept, ways=lambda k: list(itertools.permutations(k)))  # each way as often as any other


def with_(forecast=FORECAST, skill=SKILL, luck=LUCK):
    return forecast, skill, luck


# ---- 14.2


def counts(runs, average=True, weigh=False, root=math.sqrt, sign=1, bar=0.004):
    seeds = {}
    for seed, loss in runs:
        seeds.setdefault(seed, []).append(loss)
    losses = [loss for _, loss in runs] if weigh or not average else [statistics.mean(x) for x in seeds.values()]
    n = len(seeds) if average else len(runs)
    value = sign * (3.28 - statistics.mean(losses)) * root(n)
    return n, value, value >= bar


def counts_by_numpy(runs):
    seeds, losses = map(np.array, zip(*runs))
    each = np.array([losses[seeds == s].mean() for s in np.unique(seeds)])
    value = (3.28 - each.mean()) * len(each) ** 0.5
    return [len(each), value, bool(value >= 0.004)]


def n_of_seeds_alone(runs):
    n, value, _ = counts(runs, average=False)
    return len({s for s, _ in runs}), value, value >= 0.004


# ---- 14.3


def proof(margin, sd, z, hours, extra, price, power=2, up=math.ceil, each=False, whole=True, prepared=True, one=False):
    n = max(1, up((z * sd / margin) ** power - 1e-9))
    total = (1 if one else n) * hours + extra * (n if each else 1) * prepared
    return n, (math.ceil(total - 1e-9) if whole else total) * price


def proof_by_counting(margin, sd, z, hours, extra, price):
    n = next(n for n in itertools.count(1) if z * sd / math.sqrt(n) <= margin * (1 + 1e-9))
    return n, -(-(n * hours + extra - 1e-9) // 1) * price


# ---- 14.4


def left(lines, drop=10, middle=statistics.median, one=1, unit=60_000, top=False, whole=False):
    rows = [(int(a), int(b), float(c)) for a, b, c in re.findall(r"step (\d+)/(\d+).*dt: ([\d.]+)ms", "\n".join(lines))]
    step, steps = max(r[0] for r in rows) if top else rows[-1][0], rows[-1][1]
    return (steps if whole else steps - one - step) * middle([dt for _, _, dt in rows[drop:]]) / unit


# ---- 14.5


def bar(tried, sd, allowed=1.0, width=2**0.5, tails=1, sign=1, share=None):
    return sign * statistics.NormalDist(0, sd * width).inv_cdf(1 - (share or allowed / tried) / tails)


def bar_by_halving(tried, sd, allowed=1.0):
    low, high = -20 * sd, 20 * sd
    for _ in range(200):
        x = (low + high) / 2
        above = tried * math.erfc(x / (2 * sd)) / 2  # sd √2 times √2
        low, high = (x, high) if above > allowed else (low, x)
    return low


WRONG = {
    ("14.1", "certain"): (with_(lambda: [(1.0, 0.0)] * 10), "certainty"),
    ("14.1", "nine"): (with_(lambda: [(0.5, 0.0)] * 9), "ten pairs"),
    ("14.1", "chances alone"): (with_(lambda: [0.5] * 10), "a chance and a size"),
    ("14.1", "an endless size"): (with_(lambda: [(0.5, math.inf)] * 10), "not finite"),
    ("14.1", "in per cent"): (with_(lambda: [(50, 1.0)] * 10), "between 0 and 1"),
    ("14.1", "error alone"): (with_(skill=change(skill, of=lambda own, other: own)), "compare it with that of the base"),
    ("14.1", "ratio"): (with_(skill=change(skill, of=lambda own, other: own / other)), "skill is 1 minus that"),
    ("14.1", "by one's own"): (with_(skill=change(skill, of=lambda own, other: other / own - 1)), "divide by the base's"),
    ("14.1", "absolute"): (with_(skill=change(skill, error=lambda a, k: abs(a - k))), "square them"),
    ("14.1", "turned"): (with_(skill=lambda p, k, b: 1 - skill(p, k, b, turn=True, of=lambda x, y: x) / skill(p, k, b, of=lambda x, y: y)), "turned round"),
    ("14.1", "base times its rest"): (with_(skill=lambda p, k, b: 1 - skill(p, k, b, of=lambda x, y: x) / (b * (1 - b))), "measured on these outcomes"),
    ("14.1", "right sides"): (with_(skill=lambda p, k, b: statistics.mean((a > 0.5) == x for a, x in zip(p, k))), "how sure you were"),
    ("14.1", "strictly better"): (with_(luck=change(luck, better=lambda s, own: s < own - 1e-12)), "just as well counts too"),
    ("14.1", "worse"): (with_(luck=change(luck, better=lambda s, own: s > own + 1e-12)), "score worse|score as badly|count"),
    ("14.1", "as bad"): (with_(luck=change(luck, better=lambda s, own: s >= own - 1e-12)), "smaller error is better"),
    ("14.1", "any number kept"): (with_(luck=change(luck, ways=lambda k: list(itertools.product((0, 1), repeat=len(k))))), "keep the number of kept"),
    ("14.2", "all runs"): (change(counts, average=False), "repeats of one seed"),
    ("14.2", "n of seeds, mean and root of runs"): (n_of_seeds_alone, "every repeat counts"),
    ("14.2", "mean of runs"): (change(counts, weigh=True), "weighs more"),
    ("14.2", "no root"): (change(counts, root=lambda n: 1), "√n is missing"),
    ("14.2", "n"): (change(counts, root=lambda n: n), "√n, not n"),
    ("14.2", "sign"): (change(counts, sign=-1), "the sign"),
    ("14.2", "another bar"): (change(counts, bar=0.04), "it counts"),
    ("14.2", "always"): (change(counts, bar=-9), "does not count"),
    ("14.2", "the value alone"): (lambda runs: counts(runs)[1], "three things"),
    ("14.2", "sorted in place"): (lambda runs: runs.reverse() or counts(runs), "in place"),
    ("14.3", "no square"): (change(proof, power=1), "grows with the square"),
    ("14.3", "no z"): (lambda m, s, z, *rest: proof(m, s, 1, *rest), "z is missing"),
    ("14.3", "down"): (change(proof, up=math.floor), "round up"),
    ("14.3", "not whole"): (change(proof, up=lambda x: x), "round up|a number of runs is whole"),
    ("14.3", "prepared each time"): (change(proof, each=True), "prepared once"),
    ("14.3", "parts of hours"): (change(proof, whole=False), "started hour"),
    ("14.3", "no preparation"): (change(proof, prepared=False), "preparation"),
    ("14.3", "one run"): (change(proof, one=True), "bill of one run"),
    ("14.3", "dollars alone"): (lambda *a: proof(*a)[1], "runs and dollars"),
    ("14.4", "with the compiling steps, mean"): (change(left, drop=0, middle=statistics.mean), "leave them out"),
    ("14.4", "mean"): (change(left, middle=statistics.mean), "take the median"),
    ("14.4", "the last step"): (change(left, middle=lambda x: x[-1]), "one step is noise"),
    ("14.4", "one too many"): (change(left, one=0), "count from 0"),
    ("14.4", "seconds"): (change(left, unit=1000), "seconds"),
    ("14.4", "milliseconds for seconds"): (change(left, unit=60), "milliseconds"),
    ("14.4", "the highest step"): (change(left, top=True), "after a restart"),
    ("14.4", "the whole run"): (change(left, whole=True), "what is left"),
    ("14.4", "every line is a step"): (lambda lines: float(lines[0].split("dt: ")[1]), "only the lines with dt"),
    ("14.4", "nothing"): (lambda lines: None, "return missing|NoneType"),
    ("14.5", "one run's scatter"): (change(bar, width=1), "sd √2"),
    ("14.5", "twice"): (change(bar, width=2), "variances add up"),
    ("14.5", "two tails"): (change(bar, tails=2), "one tail"),
    ("14.5", "one allowed"): (lambda tried, sd, allowed=1.0: bar(tried, sd, 1.0 if tried != 50 else allowed), "allowed number is missing"),
    ("14.5", "sign"): (change(bar, sign=-1), "the sign"),
    ("14.5", "two sd"): (lambda tried, sd, allowed=1.0: 2 * sd, "number of changes tried"),
    ("14.5", "two sd of a difference"): (lambda tried, sd, allowed=1.0: 2 * sd * math.sqrt(2), "number of changes tried"),
    ("14.5", "no sd"): (lambda tried, sd, allowed=1.0: bar(tried, 1, allowed, width=1), "in standard deviations"),
    ("14.5", "for one change"): (change(bar, share=0.05), "the bar for one change|one allowed|sd √2"),
}  # fmt: skip
RIGHT = {
    ("14.1", "by products"): (FORECAST, skill, luck),
    ("14.1", "in numpy, all orders, another forecast"): (lambda: [[0.1 + 0.08 * i, -i] for i in range(10)], skill_by_numpy, luck_by_order),
    ("14.2", "with a dict"): counts,
    ("14.2", "in numpy"): counts_by_numpy,
    ("14.3", "by the square"): proof,
    ("14.3", "by counting"): proof_by_counting,
    ("14.4", "by a pattern"): left,
    ("14.4", "in numpy"): change(left, middle=np.median),
    ("14.5", "by NormalDist"): bar,
    ("14.5", "by halving"): bar_by_halving,
}

STAGES = {"set-up": 5, "training": 182.5, "scores": 2}
FIGURES = {
    "records": (lambda: figures.records({"1": 3.04, "6": 1.65}, {"1": [("at 16 bits", 1.52)]}), ["1 3.04, 6 1.65", "1 needs 1.52 h at 16 bits"]),
    "records without floors": (lambda: figures.records({"1": 3.04}, {}), ["Hours of the records: 1 3.04"]),
    "three hours": (lambda: figures.three_hours(STAGES, {"checkpoint": 10}), ["set-up 5, training 182.5, scores 2", "checkpoint at 10"]),
    "changes": (lambda: figures.changes([(0.5, 1.0)] * 10, 0.0, 1.0), ["skill 0.00", "luck 100%", "Kept: FlashAttention 3"]),
}  # fmt: skip
REFUSED = {
    "no record": lambda: figures.records({}, {}),
    "one stage": lambda: figures.three_hours({"training": 1}, {}),
    "a stage without time": lambda: figures.three_hours({"a": 1, "b": 0}, {}),
    "no piece": lambda: figures.certificate("", {}, []),
}

globals().update(lesson_tests("14", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


def test_nine_forecasts_are_refused():
    with pytest.raises(UserError, match="9 forecasts for 10 changes"):
        figures.changes([(0.5, 0.0)] * 9, 0.0, 1.0)


def test_the_page_names_what_is_yours_and_what_is_not():
    page = figures.certificate("A & B", {"attention": True, "muon": False}, ["1.62 < 1.75"])
    assert "<b>1 of 2 pieces are yours</b>: attention" in page and "from the package: muon" in page
    assert "A &amp; B" in page and "1.62 &lt; 1.75" in page
    assert "color" not in page and "background" not in page  # light and dark
    assert "none yet" in figures.certificate("", {"muon": False}, [])


def test_your_finished_run_is_found(course_home):
    name, metrics, theirs, samples = figures.finished()
    assert name.startswith("recorded") and metrics[-1]["step"] == 1300 and theirs[-1]["step"] == 2000 and not samples
    run = course_home / "runs" / "jan29-d4-mine-abc123"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps(dict(kind="done", step=7, tokens=7, flops=1.0, seconds=1.0)) + "\n")
    assert figures.finished()[0].startswith("recorded")  # not finished yet
    (run / "summary.json").write_text(json.dumps(dict(samples={"Water is": [" wet"]})))
    name, metrics, _, samples = figures.finished()
    assert name == run.name and metrics[-1]["step"] == 7 and samples == "Water is wet"
