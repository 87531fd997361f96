"""Checks of lesson 09's exercises: the bill for a target, a broken run, a smaller model, the game on unknown clusters."""

import math
import random
import statistics

import numpy as np

from gpt2course import scaling
from gpt2course.course.checks import MISSING, Exercise, call, known, need, number, several
from gpt2course.course.cluster import Cluster
from gpt2course.files import UserError

# ---- 9.1


def _power(x, y) -> tuple[float, float]:
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return float(slope), math.exp(intercept)


def _bill(points, target, gpus, peak, mfu, price, fit=_power) -> list[float]:
    c, n, d, bpb = (list(column) for column in zip(*points))
    g, h = fit(c, bpb)
    flops = (target / h) ** (1 / g)
    hours = flops / (gpus * peak * mfu) / 3600
    (e, f), (k, m) = fit(c, n), fit(c, d)
    return [flops, f * flops**e, m * flops**k, hours, hours * gpus * price]


def _ends(x, y):
    """A power law through the last two points alone."""
    slope = math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])
    return slope, y[-1] / x[-1] ** slope


def _straight(points, target, gpus, peak, mfu, price) -> list[float]:
    """The same with straight lines in place of power laws."""
    c, n, d, bpb = (np.array(column) for column in zip(*points))
    a, b = np.polyfit(c, bpb, 1)
    flops = float((target - b) / a)
    hours = flops / (gpus * peak * mfu) / 3600
    sizes = [float(np.polyval(np.polyfit(c, y, 1), flops)) for y in (n, d)]
    return [flops, *sizes, hours, hours * gpus * price]


def bill(f) -> None:
    exact = [(c, 2 * c**0.5, c**0.5 / 12, 8 * c**-0.05) for c in (1e16, 4e16, 9e16)]
    noisy = [(1e18, 137e6, 1.12e9, 0.978), (3e18, 240e6, 1.88e9, 0.920), (6e18, 330e6, 2.71e9, 0.887)]
    uneven = [(2e17, 61e6, 0.55e9, 1.031), (5e17, 88e6, 0.97e9, 0.99), (3e18, 251e6, 1.9e9, 0.914), (4e19, 8e8, 8.1e9, 0.81)]
    for points, target, *machine in (
        (exact, 1.0, 1, 1e13, 0.5, 2.0), (noisy, 0.748, 8, 989e12, 0.5, 3.0), (uneven, 0.79, 4, 312e12, 0.37, 1.5),
    ):  # fmt: skip
        args = (points, target, *machine)
        got, wanted = several(call(f, *args, keep="the points"), 5, "C, N, D, hours and dollars"), _bill(*args)
        got = [number(x, "one of the five") for x in got]
        gpus, peak, mfu, price = machine
        what = f"C, N, D, hours, dollars for {target} bits per byte on {gpus} GPUs"
        with_law, two = [*wanted[:2], wanted[0] / 6 / wanted[1]], _bill(*args, fit=_ends)
        known(got, wanted, what, [
            ([*wanted[:4], wanted[4] / gpus] if gpus > 1 else [], "price is for one GPU and hour; there are several GPUs"),
            ([*wanted[:3], wanted[3] * mfu, wanted[4] * mfu], "the GPUs reach mfu of their peak, not all of it"),
            ([*wanted[:3], wanted[3] * mfu**2, wanted[4] * mfu**2], "mfu divides, it does not multiply"),
            ([*wanted[:3], wanted[3] * 3600, wanted[4] * 3600], "these are seconds; an hour has 3,600"),
            ([*wanted[:3], wanted[3] * gpus, wanted[4] * gpus] if gpus > 1 else [], "all GPUs work at once: gpus is missing"),
            ([*with_law, *wanted[3:]], "D has a law of its own through the points; C = 6 N D is an estimate"),
            (_straight(*args), "straight lines: fit the logarithms"),
            (two, "the last two points alone; a least-squares line uses all"),
        ], "C from bpb = f · C^g, then N and D by their own power laws, hours = C / (gpus · peak · mfu) / 3600", 1e-3)  # fmt: skip


# ---- 9.2


def _left_over(x, y) -> float:
    return float(((np.polyval(np.polyfit(x, y, 2), x) - y) ** 2).sum())


def _suspect(n, bpb) -> int:
    x, y = np.log(n) - np.log(n).mean(), np.asarray(bpb)
    return min(range(len(n)), key=lambda i: _left_over(np.delete(x, i), np.delete(y, i)))


def _curve(sizes: int, broken: int, off: float, seed: int, order: bool) -> tuple[list, list]:
    """Sizes and bits per byte of one budget with a run that is off; order: not sorted by size."""
    rng = random.Random(seed)
    n = [round(2e4 * 1.9**i * rng.uniform(0.9, 1.1)) for i in range(sizes)]
    bpb = [2.6 + 0.05 * (math.log(x / n[sizes // 2]) + 0.2) ** 2 + rng.gauss(0, 0.001) for x in n]
    bpb[broken] += off
    places = rng.sample(range(sizes), sizes) if order else list(range(sizes))
    return [n[i] for i in places], [bpb[i] for i in places]


def suspect(f) -> None:
    for sizes, broken, off, seed, order in (
        (7, 3, 0.03, 1, False), (7, 6, -0.06, 2, False), (6, 5, -0.12, 4, False), (8, 0, -0.05, 3, True), (6, 4, 0.03, 5, True),
        (9, 2, -0.02, 6, True), (7, 1, 0.04, 7, False), (6, 0, -0.12, 8, True), (8, 7, 0.07, 9, False),
    ):  # fmt: skip
        n, bpb = _curve(sizes, broken, off, seed, order)
        wanted, x, y = _suspect(n, bpb), np.log(n), np.array(bpb)
        what = f"the broken one of {sizes} runs, with bpb {[round(v, 3) for v in bpb]},"
        got = number(call(f, n, bpb, keep="the runs"), what)
        need(got not in n, f"{what} came out as a size; return its place in the list, from 0")
        places = range(sizes)
        off_curve = abs(np.polyval(np.polyfit(x - x.mean(), y, 2), x - x.mean()) - y)
        alone = [abs(np.polyval(np.polyfit(np.delete(x, i), np.delete(y, i), 2), x[i]) - y[i]) for i in places]
        mean = [_left_over(np.delete(np.array(n) / 1e5, i), np.delete(y, i)) for i in places]
        known(got, wanted, what, [(int(e), hint) for e, hint in [
            (wanted + 1, "places are counted from 0"),
            (np.argmax(off_curve), "a parabola bends towards a broken run, most at an end: fit without it"),
            (np.argmax(alone), "the far end of a fit without it is unsure; compare how well the others fit"),
            (np.argmin(mean), "fit in log N, not in N"),
            (np.argmax(y), "this is the run with the most bits per byte, which may well be right"),
            (np.argmin(y), "this is the run with the fewest bits per byte, which may well be right"),
        ] if e != wanted], "leave out each run in turn: without the broken one, the others fit a parabola best")  # fmt: skip


# ---- 9.3


def _best(law, C) -> tuple[float, float]:
    """(N, bpb) of the best model at C = 6 N D."""
    E, A, a, B, b = law
    n = (a * A / (b * B) * (C / 6) ** b) ** (1 / (a + b))
    return n, E + A / n**a + B / (C / 6 / n) ** b


def _overhead(law, C, times) -> float:
    (n, bpb), (E, A, a, B, b) = _best(law, C), law
    left = bpb - E - A / (n / times) ** a
    return math.inf if left <= 0 else 6 * (n / times) * (B / left) ** (1 / b) / C


def overhead(f) -> None:
    chinchilla, even = (1.69, 406.4, 0.34, 410.7, 0.28), (0.6, 60.0, 0.4, 300.0, 0.4)
    got = number(call(f, even, 1e18, 1.0), "the best size itself")
    need(abs(got - 1) < 1e-3, f"times 1 came out as {got:.4g}, expected 1: the best model needs C itself")
    for law, C, times in (
        (chinchilla, 1e21, 2), (even, 3e18, 3), (chinchilla, 5.76e23, 4), (even, 1e20, 1.5), (even, 1e18, 60), (chinchilla, 1e22, 0.5),
    ):  # fmt: skip
        E, A, a, B, b = law
        wanted = _overhead(law, C, times)
        what = f"FLOPs at 1/{times} of the best size, by those at the best, with law {law} and C {C:g},"
        got = number(call(f, law, C, times, keep="the law"), what)
        if math.isinf(wanted):
            need(got == math.inf, f"{what} came out as {got:.4g}: so small a model never gets there; return math.inf")
            continue
        need(math.isfinite(got), f"{what} came out as {got}, expected {wanted:.4g}: enough tokens do it")
        swapped = (b * B / (a * A) * (C / 6) ** a) ** (1 / (a + b))
        left = _best(law, C)[1] - E - A / (swapped / times) ** a if swapped > 0 else -1
        known(got, wanted, what, [
            (wanted - 1, "this is the extra share; return the FLOPs by C, so 1 at the best size"),
            (wanted * times, "these are the tokens by the best model's tokens; a smaller model pays less for each"),
            (1 / wanted, "upside down: the FLOPs of the smaller model by C"),
            (_overhead(law, C, 1 / times) if math.isfinite(_overhead(law, C, 1 / times)) else -1, "the model is smaller: N / times"),
            (1.0, "with equal FLOPs the smaller model ends with more bits per byte; it needs more tokens"),
            (1 / times, "with equal tokens the smaller model ends with more bits per byte; it needs more of them"),
            (6 * swapped / times * (B / left) ** (1 / b) / C if left > 0 else -1, "N and D are exchanged in the best size"),
        ], "find the best N at C and its bpb, solve bpb = E + A / (N / times)^a + B / D^b for D, then 6 N D", 1e-3)  # fmt: skip


# ---- 9.4


def _world(seed: int) -> Cluster:
    """A cluster whose runs follow a law of its own, with noise: five budgets for sale, a sixth hidden."""
    rng = random.Random(seed)
    E, a, b = rng.uniform(1.0, 2.0), rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.6)
    A, B, rows = rng.uniform(40, 90) ** (2 * a), rng.uniform(200, 500) ** (2 * b), []
    for C in (3e10, 6e10, 1.2e11, 2.4e11, 4.8e11, 1.92e12):
        centre = _best((E, A, a, B, b), C)[0] * rng.uniform(0.8, 1.25)
        shift = rng.choice((-2, -1, 1, 2))  # the best size is not in the middle
        for i in range(-3, 4) if C < 1e12 else range(-4 + shift, 5 + shift):
            n = round(centre * 1.7**i)
            right = E + A / n**a + B / (C / 6 / n) ** b
            rows += [dict(budget=C, n=n, tokens=C / 6 / n, seed=s, val_bpb=right + rng.gauss(0, 0.003)) for s in (1, 2)]
    return Cluster(rows, 2.5e12)


GAMES, MOST_REGRET, MOST_SCORE = 8, 0.006, 0.1


def _played(f, seeds=range(GAMES)) -> list[dict]:
    """The score of each game."""
    scores = []
    for seed in seeds:
        cluster = _world(seed)
        try:
            got = f(cluster)
        except UserError as e:
            need(False, f"the cluster stopped your game: {e}")
        need(got is not None, MISSING)
        n, bpb, low, high = (number(x, "one of the four") for x in several(got, 4, "a size, bits per byte, low and high"))
        need(cluster.scored is None, "leave cluster.forecast to the check; return what you would give it")
        need(len(cluster.done) >= 3, f"{len(cluster.done)} runs were bought; a forecast needs more")
        sizes = cluster.offers()[cluster.target]
        need(n > 0 and sizes[0] / 4 < n < sizes[-1] * 4, f"the size came out as {n:,.0f}; the target has {sizes[0]:,} to {sizes[-1]:,}")
        need(low <= bpb <= high, f"the interval {low:.3f} to {high:.3f} does not contain your own forecast {bpb:.3f}")
        scores.append(cluster.forecast(n, bpb, low, high) | dict(width=high - low, off=bpb))
    return scores


def game(f) -> None:
    scores = _played(f)
    regret = statistics.mean(s["regret"] for s in scores)
    inside, width = sum(s["inside"] for s in scores), statistics.mean(s["width"] for s in scores)
    score = statistics.mean(s["score"] for s in scores)
    line = f"{GAMES} clusters, mean regret {regret:.4f}, {inside} intervals with the truth, mean width {width:.3f}: "
    need(regret <= MOST_REGRET, f"{line}the regret is above {MOST_REGRET}; how does the best size move with the budget?")
    off = statistics.mean(abs(s["off"] - s["truth"]) for s in scores)
    hint = "the intervals are too narrow" if off < 0.015 else f"forecasts are off by {off:.3f}; do bits per byte have a floor?"
    need(inside >= GAMES - 2, f"{line}at least {GAMES - 2} must contain it; {hint}")
    need(score <= MOST_SCORE, f"{line}the score, width and 40 times each miss, is {score:.3f}, above {MOST_SCORE}; too wide says nothing")


EXERCISES = (
    Exercise("9.1", "The bill for a target", bill, points=2, minutes=15, difficulty=2, importance=4,
             forbids=(scaling.power, scaling.laws)),
    Exercise("9.2", "One run is broken", suspect, points=3, minutes=15, difficulty=3, importance=4, reference=_suspect),
    Exercise("9.3", "Smaller than best", overhead, points=3, minutes=15, difficulty=3, importance=5),
    Exercise("9.4", "The game on unknown clusters", game, points=4, minutes=35, difficulty=5, importance=4),
)  # fmt: skip
