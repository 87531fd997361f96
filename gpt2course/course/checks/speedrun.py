"""Checks of lesson 14's exercises: a forecast scored, a record's rule, the price of a proof, time left, luck in a search."""

import itertools
import math
import random
import statistics
from statistics import NormalDist

from gpt2course.course.checks import Exercise, call, known, need, number, plain, several, tried

# ---- 14.1

# what was changed, unit of the size, whether it was kept, the published size (None: none), where it is published
CHANGES = (
    ("FlashAttention 3", "% tokens/s", True, 9.0, "LOG 2026-01-11"),
    ("documents hidden from each other", "bpb", False, -0.0002, "LOG 2026-01-13"),
    ("three tokens ahead", "% memory", False, 38.0, "LOG 2026-01-12: 34 to 47 GB, worse by the clock"),
    ("products in 8 bits", "% tokens/s", True, 17.0, "LOG 2026-02-02: 630K to 740K"),
    ("AdamW every other step", "% tokens/s", False, 2.0, "LOG 2026-02-03: each step slightly worse"),
    ("SwiGLU for ReLU²", "none given", False, None, "LOG 2026-02-05: worse by steps, FLOPs and clock"),
    ("eight experts, two at a time", "% MFU", False, -24.0, "LOG 2026-02-19: 46 to 35 %"),
    ("unfiltered web text", "CORE", False, -0.0361, "LOG 2026-02-17: .2602 to .2241"),
    ("a curated mixture of texts", "% time", True, -27.0, "LOG 2026-03-04: 2 h 46 to 2 h 01"),
    ("no MLP in the first block", "% time", True, -0.5, "modded-nanogpt, record 30: 2.731 to 2.717 min"),
)


def _forecast():
    return [(20 / 700, 0.0)] * 10


def _brier(p, kept) -> float:
    return statistics.mean((a - b) ** 2 for a, b in zip(p, kept))


def _skill(p, kept, base):
    return 1 - _brier(p, kept) / _brier([base] * len(p), kept)


def _luck(p, kept):
    own, orders = _brier(p, kept), itertools.combinations(range(len(p)), sum(kept))
    found = [_brier(p, [i in chosen for i in range(len(p))]) <= own + 1e-12 for chosen in orders]
    return sum(found) / len(found)


def ten_changes(forecast, skill, luck) -> None:
    rows = several(forecast(), 10, "ten pairs (chance, size), one for each change, in their order")
    for n, row in enumerate(rows, 1):
        p, size = several(row, 2, f"a chance and a size for change {n}")
        ok = 0 < number(p, f"the chance of change {n}") < 1
        need(ok, f"the chance of change {n} is {p!r:.20}; give one between 0 and 1, as 0 and 1 would be certainty")
        need(math.isfinite(number(size, f"the size of change {n}")), f"the size of change {n} is not finite")
    for p, kept, base in (
        ([0.8, 0.3], [True, False], 0.5), ([0.8, 0.4], [True, False], 0.5), ([0.9, 0.2, 0.6], [True, False, False], 0.25), 
        ([0.3, 0.3], [False, True], 0.5), ([0.1, 0.7, 0.5, 0.95, 0.2], [False, True, True, True, False], 0.4), ([0.01, 0.99], [True, False], 0.1),
    ):  # fmt: skip
        own, other = _brier(p, kept), _brier([base] * len(p), kept)
        one = lambda q, k: statistics.mean(abs(a - b) for a, b in zip(q, k))
        known(call(skill, p, kept, base, keep="its inputs"), _skill(p, kept, base), f"the skill of {p}, {kept}, base {base}", [
            (own, "this is the mean square of your forecast alone; compare it with that of the base"),
            (own / other, "this is 0 for a perfect forecast; skill is 1 minus that"),
            (other / own - 1, "divide by the base's mean square, not by the forecast's"),
            (1 - one(p, kept) / one([base] * len(p), kept), "absolute differences reward an exaggerated chance; square them"),
            (1 - _brier(p, [not k for k in kept]) / other, "the outcomes are turned round: kept is 1"),
            (1 - own / (base * (1 - base)), "the base's error is measured on these outcomes too"),
            (statistics.mean((a > 0.5) == b for a, b in zip(p, kept)), "this counts right sides; how sure you were matters"),
        ], "1 - mean((p - kept)²) / mean((base - kept)²)")  # fmt: skip
    for p, kept in (
        ([0.9, 0.1], [True, False]), ([0.1, 0.9], [True, False]), ([0.5, 0.5, 0.5], [True, False, False]),
        ([0.9, 0.6, 0.2, 0.4], [True, False, False, True]), ([0.3, 0.8, 0.6, 0.7, 0.2], [False, True, True, False, False]),
    ):  # fmt: skip
        own, orders = _brier(p, kept), list(itertools.combinations(range(len(p)), sum(kept)))
        scores = [_brier(p, [i in c for i in range(len(p))]) for c in orders]
        every = [_brier(p, k) for k in itertools.product((False, True), repeat=len(p))]
        share = lambda some: sum(some) / len(some)
        right, what = _luck(p, kept), f"the luck of {p}, {kept}"
        known(call(luck, p, kept, keep="its inputs"), right, what, [(e, hint) for e, hint in [
            (share([s < own - 1e-12 for s in scores]), "an order that scores just as well counts too, the true one among them"),
            (share([s >= own - 1e-12 for s in scores]), "these are the orders that score as badly; a smaller error is better"),
            (share([s <= own + 1e-12 for s in every]), "keep the number of kept changes as it is, and move only which they are"),
            (1 - right, "this is the share of orders that score worse"),
        ] if abs(e - right) > 1e-9], "go through all ways to choose as many kept changes, and count")  # fmt: skip


# ---- 14.2


def _counts(runs, target=3.28, margin=0.004):
    seeds = {}
    for seed, loss in runs:
        seeds.setdefault(seed, []).append(loss)
    means = [statistics.mean(x) for x in seeds.values()]
    value = (target - statistics.mean(means)) * math.sqrt(len(means))
    return len(means), value, value >= margin


def record_counts(f) -> None:
    r, tables = random.Random(14), [[(1, 3.27), (2, 3.279)]]
    tables.append([(5, 3.2790)] * 20)
    tables.append([(7, 3.2779), (7, 3.2781), (8, 3.2795), (9, 3.2786), (9, 3.2788), (9, 3.2790)])
    tables.append([(s, 3.2788 + r.gauss(0, 0.001)) for s in range(20)])
    tables.append([(1, 3.281), (2, 3.282), (2, 3.2815)])
    tables.append([(s % 3, 3.2785 + r.gauss(0, 0.0003)) for s in range(12)])
    for runs in tables:
        n, value, ok = _counts(runs)
        losses = [loss for _, loss in runs]
        flat, mean = (3.28 - statistics.mean(losses)) * math.sqrt(len(losses)), 3.28 - statistics.mean(losses)
        what = f"{len(runs)} runs of {n} seeds"
        got = several(call(f, runs, keep="its inputs"), 3, "three things: n, the value, and whether it counts")
        known(got[0], n, f"n for {what}", {len(runs): "repeats of one seed are one observation: count different seeds"})
        known(got[1], value, f"the value for {what}", [(e, hint) for e, hint in [
            (flat, "every repeat counts as a run; take the mean of each seed first"),
            (mean * math.sqrt(n), "a seed with many repeats weighs more here; take the mean of the seeds' means"),
            (value / math.sqrt(n), "the factor √n is missing"), (value * math.sqrt(n), "the factor is √n, not n"),
            (-value, "the sign: a loss below the target is good"), (flat / math.sqrt(len(runs)), "the factor √n is missing"),
        ] if abs(e - value) > 1e-7], "(3.28 - mean over seeds) √n", rtol=1e-6)  # fmt: skip
        need(
            bool(got[2]) == ok, f"{what}, value {value:.5f}: it {'counts' if ok else 'does not count'}; the bar is .004"
        )


# ---- 14.3


def _proof(margin, sd, z, hours, extra, price):
    n = max(1, math.ceil((z * sd / margin) ** 2 - 1e-9))
    return n, math.ceil(n * hours + extra - 1e-9) * price


def price_of_proof(f) -> None:
    for args in ((0.004, 0.005, 2, 1.65, 0.5, 24.0), (0.002, 0.005, 2, 1.5, 0.4, 20.0), (0.02, 0.005, 2, 3.04, 0.27, 24.0),
                 (0.0005, 0.0002, 3, 1.25, 0.75, 30.0), (0.01, 0.005, 2, 2.5, 0.5, 16.0)):  # fmt: skip
        margin, sd, z, hours, extra, price = args
        n, dollars = _proof(*args)
        root = max(1, math.ceil(z * sd / margin))
        got = several(call(f, *args, keep="its inputs"), 2, "two numbers: runs and dollars")
        known(got[0], n, f"the runs for {args}", [(e, hint) for e, hint in [
            (root, "the error of a mean falls with √n, so n grows with the square"),
            (max(1, math.ceil((sd / margin) ** 2)), "z is missing: how many standard errors the margin must be"),
            (math.floor((z * sd / margin) ** 2), "round up: one run fewer is not enough"),
            ((z * sd / margin) ** 2, "a number of runs is whole: round up"),
        ] if e != n], "the smallest n with z sd / √n <= margin")  # fmt: skip
        known(got[1], dollars, f"the dollars for {args}", [(e, hint) for e, hint in [
            (math.ceil(n * (hours + extra)) * price, "the machine is prepared once, not for each run"),
            ((n * hours + extra) * price, "a started hour is paid whole: round the hours up"),
            (n * math.ceil(hours) * price, "round once, at the end; and add the hours of preparation"),
            (math.ceil(n * hours) * price, "the hours of preparation are missing"),
            (math.ceil(hours + extra) * price, "this is the bill of one run"),
        ] if abs(e - dollars) > 1e-9], "started hours of n runs and one preparation, times the price")  # fmt: skip


# ---- 14.4


def _log(steps, last, dt, start=0, slow=(), back=None, noise=True, seed=0) -> list[str]:
    """Lines of a log: the first ten steps are slow, evaluations stand between, `back` is a step to which it once returned."""
    r, lines = random.Random(seed), ["attention by fa3", "compiling"]
    todo = [*range(start, back[0] + 1), *range(back[1], last + 1)] if back else range(start, last + 1)
    for step in todo:
        ms = dt * (40 if step - start < 2 else 3 if step - start < 10 else 9 if step in slow else 1)
        ms *= 1 + r.uniform(-0.01, 0.01) * noise
        lines.append(
            f"step {step:05d}/{steps} ({100 * step / steps:.2f}%) | loss: {r.uniform(2, 4):.6f} | dt: {ms:.2f}ms"
        )
        if step % 25 == 0:
            lines.append(f"step {step:05d} | validation bpb: {r.uniform(0.7, 1.2):.4f} | took 5.00s")
    return lines


def _read(lines):
    rows = [line for line in lines if line.startswith("step ") and "dt:" in line]
    return [(int(x.split()[1].split("/")[0]), int(x.split("/")[1].split()[0]), float(x.split("dt:")[1].strip().split("ms")[0])) for x in rows]  # fmt: skip


def _left(lines):
    rows = _read(lines)
    return (rows[-1][1] - 1 - rows[-1][0]) * statistics.median(dt for _, _, dt in rows[10:]) / 60_000


def time_left(f) -> None:
    for n, lines in enumerate((
        _log(100, 12, 600, noise=False), _log(16704, 90, 655.5, seed=1), _log(5568, 60, 1069, slow=(20, 33, 41), seed=2),
        _log(5568, 140, 1069, start=100, seed=3), _log(4000, 70, 300, back=(80, 50), seed=4), _log(200, 199, 50, seed=5),
    )):  # fmt: skip
        rows, right = _read(lines), _left(lines)
        step, steps, dt = rows[-1]
        left, times, top = steps - 1 - step, [x for _, _, x in rows], max(s for s, _, _ in rows)
        every, later = statistics.mean(times), times[10:]
        got = tried(f, (lines,), f"log {n}", "only the lines with dt: are steps; other lines stand between them")
        known(got, right, f"the minutes left after step {step} of {steps} (log {n})", [(e, hint) for e, hint in [
            (left * every / 60_000, "the first ten steps of a start compile; leave them out"),
            (left * statistics.mean(later) / 60_000, "a few slow steps pull the mean up; take the median"),
            (left * dt / 60_000, "one step is noise; take the median of all after the first ten"),
            (right * 60, "these are seconds"), (right * 1000, "dt is in milliseconds"),
            ((left + 1) * right / left if left else 1e9, "steps count from 0: after step s, steps - 1 - s are left"),
            ((steps - 1 - top) * statistics.median(later) / 60_000, "after a restart the last line counts, not the highest step"),
            (steps * statistics.median(later) / 60_000, "this is the whole run; what is left?"),
        ] if abs(e - right) > 1e-4 * max(right, 0.1)], "steps left x the median of dt after the first ten", rtol=1e-4)  # fmt: skip


# ---- 14.5


def _bar(tried_changes, sd, allowed=1.0):
    return NormalDist(0, sd * math.sqrt(2)).inv_cdf(1 - allowed / tried_changes)


def bar_for(f) -> None:
    for args in (
        (20, 0.001, 1.0),
        (700, 0.0002, 1.0),
        (700, 0.0002, 7.0),
        (10, 0.005, 2.0),
        (3, 0.02, 0.1),
        (50, 1.0, 25.0),
    ):
        m, sd, allowed = args
        right, tail = _bar(*args), lambda s, share: NormalDist(0, s).inv_cdf(1 - share)
        got = plain(call(f, *args, keep="its inputs"), "the bar")
        known(got, right, f"the bar for {m} changes, sd {sd}, {allowed:g} allowed", [(e, hint) for e, hint in [
            (tail(sd, allowed / m), "a difference of two runs has a standard deviation of sd √2"),
            (tail(2 * sd, allowed / m), "variances add up, so the difference has sd √2, not 2 sd"),
            (tail(sd * math.sqrt(2), allowed / m / 2), "only gains pass, so one tail counts"),
            (tail(sd * math.sqrt(2), 1 / m), "the allowed number is missing"),
            (-right, "the sign: a gain is positive"), (2 * sd, "the number of changes tried matters"),
            (2 * sd * math.sqrt(2), "the number of changes tried matters"),
            (tail(1, allowed / m), "in standard deviations; times sd √2 it is in bits per byte"),
            (tail(sd * math.sqrt(2), 0.05), "this is the bar for one change; there are more"),
        ] if abs(e - right) > 1e-3 * max(abs(right), 1e-6)], "where a normal with sd √2 leaves allowed / tried above it")  # fmt: skip


EXERCISES = (
    Exercise("14.1", "Ten changes, unseen", ten_changes, points=4, minutes=25, difficulty=3, importance=5,
             reference=(_forecast, _skill, _luck)),
    Exercise("14.2", "When does a record count?", record_counts, points=2, minutes=10, difficulty=2, importance=5),
    Exercise("14.3", "What a proof costs", price_of_proof, points=2, minutes=10, difficulty=2, importance=4),
    Exercise("14.4", "How long still?", time_left, points=3, minutes=15, difficulty=3, importance=4),
    Exercise("14.5", "What luck alone would keep", bar_for, points=3, minutes=15, difficulty=4, importance=5),
)  # fmt: skip
