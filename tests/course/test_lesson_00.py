"""Lesson 00: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math
import statistics
import time

import numpy as np
import torch
from lesson_cases import answers, lesson_tests

from gpt2course.course.figures import story as figures

NAMES = {"0.1": ("utilisation",), "0.2": ("training_flops",), "0.3": ("faster",), "0.4": ("cheapest",)}

SOLVED = answers("00", math=math, statistics=statistics)


def mfu(log, factor=3, seconds=3600, devices=None):
    used = factor * log["forward_flops_per_token"] * log["batch_tokens"] * log["steps"]
    return used / (log["hours"] * seconds * (devices or log["devices"]) * log["peak"])


def changes_the_log(log):
    log["hours"] *= 3600
    return mfu(log, seconds=1)


# ---- 0.2


def flops(own=lambda yes: yes, passes=lambda before: before, counts=lambda multiplies: multiplies, first=False, forward=2):
    """A function for exercise 0.2 with something put in or left out."""

    def f(parts):
        total, before = 0, first
        for n, multiplies, yes in parts:
            total += counts(multiplies) * n * (forward + 2 * own(yes) + 2 * passes(before))
            before = before or yes
        return total

    return f


def matrices_only(parts):
    total, before = 0, False
    for n, multiplies, yes in parts:
        total += multiplies * n * (2 + 2 * yes + 2 * before)
        before = before or (yes and multiplies)
    return total


def uses_up(parts):
    got = SOLVED["training_flops"](parts)
    parts.clear()
    return got


def backwards(parts):
    """Right: from the output to the input, with a look at what lies before."""
    return sum(2 * n * m * (1 + yes + any(t for *_, t in parts[:i])) for i, (n, m, yes) in enumerate(parts))


# ---- 0.3


def timed(f, g, clock, warmup, repeats, turns=True):
    """(the times of all calls of f, of g), the warm-up included."""
    found = {f: [], g: []}
    order = [f, g] * (warmup + repeats) if turns else [f, g] * warmup + [f] * repeats + [g] * repeats
    for program in order:
        began = clock()
        program()
        found[program].append(clock() - began)
    return found[f], found[g]


def apart(a, b):
    return min(a) > max(b) or min(b) > max(a)


def compared(middle=statistics.median, keep=lambda t, w: t[w:], ratio=lambda a, b: a / b, shown=apart, turns=True):
    """A function for exercise 0.3 with its parts to be replaced."""

    def faster(f, g, clock, warmup, repeats):
        a, b = (keep(t, warmup) for t in timed(f, g, clock, warmup, repeats, turns))
        return ratio(middle(a), middle(b)), shown(a, b)

    return faster


def no_warmup(f, g, clock, warmup, repeats):
    return compared()(f, g, clock, 0, repeats)


def own_clock(f, g, clock, warmup, repeats):
    return compared()(f, g, time.perf_counter, warmup, repeats)


def with_numpy(f, g, clock, warmup, repeats):
    a, b = np.array(timed(f, g, clock, warmup, repeats))[:, warmup:]
    return np.median(a) / np.median(b), not (a.min() <= b.max() and b.min() <= a.max())


# ---- 0.4


def rented(hours=lambda flops, n, peak, m: flops / (n * peak * m) / 3600, billed=math.ceil, price=lambda n, p: n * p,
           late=lambda hours, billed, left: hours > left, best=lambda found: min(found)[2], none=None):
    """A function for exercise 0.4 with its parts to be replaced."""

    def cheapest(flops, hours_left, offers):
        found = []
        for name, (n, peak, m, p) in offers.items():
            h = hours(flops, n, peak, m)
            if not late(h, billed(h), hours_left):
                found.append((billed(h) * price(n, p), h, name))
        return best(found) if found else none

    return cheapest


def removes_the_late(flops, hours_left, offers):
    got = SOLVED["cheapest"](flops, hours_left, offers)
    for name, (n, peak, m, _) in list(offers.items()):
        if flops / (n * peak * m) / 3600 > hours_left:
            del offers[name]
    return got


def sorted_twice(flops, hours_left, offers):
    """Right: by time, and then, stably, by the bill."""
    hours = {name: flops / n / peak / m / 3600 for name, (n, peak, m, _) in offers.items()}
    names = sorted((name for name in offers if hours[name] <= hours_left), key=hours.get)
    names.sort(key=lambda name: -(-hours[name] // 1) * offers[name][0] * offers[name][3])
    return next(iter(names), None)


WRONG = {
    ("0.1", "forward alone"): (lambda log: mfu(log, factor=1), "forward pass"),
    ("0.1", "hours as seconds"): (lambda log: mfu(log, seconds=1), "3600"),
    ("0.1", "minutes"): (lambda log: mfu(log, seconds=60), "3600 seconds"),
    ("0.1", "both"): (lambda log: mfu(log, factor=1, seconds=1), "forward pass is counted, and hours"),
    ("0.1", "one GPU for eight"): (lambda log: mfu(log, devices=1), "two devices could have worked"),
    ("0.1", "the peak by the devices"): (lambda log: mfu(log, devices=1 / log["devices"]), "did you divide?"),
    ("0.1", "eight GPUs always"): (lambda log: mfu(log, devices=8), "devices * peak"),
    ("0.1", "one step"): (lambda log: mfu(log) / log["steps"], "all 10 steps"),
    ("0.1", "a percentage"): (lambda log: 100 * mfu(log), "percentage"),
    ("0.1", "upside down"): (lambda log: 1 / mfu(log), "inverse"),
    ("0.1", "factor 2"): (lambda log: mfu(log, factor=2), "three times"),
    ("0.1", "the log changed"): (changes_the_log, "work on a copy"),
    ("0.1", "whole hours"): (lambda log: SOLVED["utilisation"](log | {"hours": math.ceil(log["hours"])}), "do tokens, seconds and devices come from the log?"),
    ("0.1", "steps + 1"): (lambda log: SOLVED["utilisation"](log | {"steps": log["steps"] + 1}), "training FLOPs of all tokens / (devices * peak * seconds)"),
    ("0.2", "6 everywhere"): (lambda parts: 6 * sum(n for n, m, _ in parts if m), "nobody needs"),
    ("0.2", "forward alone"): (flops(own=lambda yes: 0, passes=lambda b: 0), "forward pass alone"),
    ("0.2", "tables multiply"): (flops(counts=lambda m: 1), "a look-up multiplies nothing"),
    ("0.2", "the first input too"): (flops(first=True), "nobody needs the gradient of its input"),
    ("0.2", "frozen parts pass nothing on"): (lambda parts: sum(m * n * (2 + 2 * t + 2 * (t and any(x for *_, x in parts[:i]))) for i, (n, m, t) in enumerate(parts)), "must pass the gradient on"),
    ("0.2", "a trained table asks for nothing"): (matrices_only, "the gradient must reach it"),
    ("0.2", "the output first"): (lambda parts: SOLVED["training_flops"](parts[::-1]), "from the input to the output"),
    ("0.2", "frozen parts forgotten"): (lambda parts: SOLVED["training_flops"]([p for p in parts if p[2]]), "still works in the forward pass"),
    ("0.2", "parts used up"): (uses_up, "work on a copy"),
    ("0.2", "no return"): (lambda parts: None, "return missing"),
    ("0.3", "means"): (compared(statistics.mean), "these are means"),
    ("0.3", "fastest"): (compared(min), "fastest calls"),
    ("0.3", "warm-up kept"): (compared(keep=lambda t, w: t), "warm-up was kept"),
    ("0.3", "no warm-up"): (no_warmup, "expected 7 of each"),
    ("0.3", "not sorted"): (compared(lambda t: t[len(t) // 2]), "sort the times"),
    ("0.3", "g over f"): (compared(ratio=lambda a, b: b / a), "divide the time of f"),
    ("0.3", "all of f, then all of g"): (compared(turns=False), "take turns"),
    ("0.3", "shown by medians"): (compared(shown=lambda a, b: statistics.median(a) != statistics.median(b)), "every call of one"),
    ("0.3", "shown if f is slower"): (compared(shown=lambda a, b: min(a) > max(b)), "counts as well"),
    ("0.3", "touching ranges"): (compared(shown=lambda a, b: min(a) >= max(b) or min(b) >= max(a)), "every call of one"),
    ("0.3", "shown with the warm-up"): (lambda f, g, c, w, r: (lambda a, b: (statistics.median(a[w:]) / statistics.median(b[w:]), apart(a, b)))(*timed(f, g, c, w, r)), "is the warm-up in it"),
    ("0.3", "another clock"): (own_clock, "clock was never read"),
    ("0.3", "ratio alone"): (lambda *a: compared()(*a)[0], "expected two values"),
    ("0.3", "no return"): (lambda *a: None, "return missing"),
    ("0.4", "the cheapest hour"): (lambda fl, left, offers: min(offers, key=lambda k: offers[k][0] * offers[k][3]), "cheapest hour"),
    ("0.4", "the fastest"): (rented(best=lambda found: min(found, key=lambda x: x[1])[2]), "fastest is not the cheapest"),
    ("0.4", "one device paid"): (rented(price=lambda n, p: p), "all four devices are paid"),
    ("0.4", "not rounded up"): (rented(billed=lambda h: h), "every started hour"),
    ("0.4", "rounded"): (rented(billed=round), "every started hour"),
    ("0.4", "MFU forgotten"): (rented(hours=lambda fl, n, peak, m: fl / (n * peak) / 3600), "at an MFU of 0.01"),
    ("0.4", "seconds"): (rented(hours=lambda fl, n, peak, m: fl / (n * peak * m)), "expected 'one'"),
    ("0.4", "billed hours in time"): (rented(late=lambda h, billed, left: billed > left), "hours that are billed may be more"),
    ("0.4", "no deadline"): (rented(late=lambda h, billed, left: False), "2 are left|the answer is None"),
    ("0.4", "of equals the slower"): (rented(best=lambda found: min(found, key=lambda x: (x[0], -x[1]))[2]), "of equal bills the faster"),
    ("0.4", "the cheapest though late"): (lambda fl, left, offers: SOLVED["cheapest"](fl, left, offers) or SOLVED["cheapest"](fl, 1e9, offers), "the answer is None"),
    ("0.4", "a text for none"): (rented(none="none"), "no name of an offer"),
    ("0.4", "offers removed"): (removes_the_late, "work on a copy"),
}  # fmt: skip


RIGHT = {
    ("0.1", "tokens a second first"): lambda log: 3 * log["forward_flops_per_token"] * (log["batch_tokens"] * log["steps"] / (log["hours"] * 3600)) / log["devices"] / log["peak"],
    ("0.1", "a tensor"): lambda log: torch.tensor(mfu(log)),
    ("0.2", "a sum"): backwards,
    ("0.2", "a tensor"): lambda parts: torch.tensor(flops()(parts), dtype=torch.float64),
    ("0.3", "numpy"): with_numpy,
    ("0.3", "a tensor"): lambda *a: torch.tensor(compared()(*a), dtype=torch.float64),
    ("0.4", "parts"): rented(),
    ("0.4", "sorted"): sorted_twice,
}  # fmt: skip


RUNS = [("2019", 43008.0, "GPT-2"), ("2026-01-29", 73.0, "first"), ("2026-03", 40.0, "last")]
LESSONS = [
    (0, "the whole", "story", "cost.py"),
    (1, "text", "tokenizer", "tokenizer.py"),
    (3, "model", "GPT", "model.py"),
]
FIGURES = {
    "cost by year": (lambda: figures.cost_by_year(RUNS, [("2024-07-11", 576.0, "llm.c")]), ["$43,008 in 2019", "$40", "llm.c $576 in 2024"]),
    "one cost": (lambda: figures.cost_by_year(RUNS[:1]), ["$43,008"]),
    "factors": (lambda: figures.factors([("a", 5.0, "guess"), ("b", 12.0, "unknown"), ("c", 0.5, "known")]), ["5x", "12x", "0.5x", "30x"]),
    "map": (lambda: figures.course_map(LESSONS, {3: ["gpt2", "modern"]}), ["01 tokenizer", "03 GPT (adds gpt2, modern)"]),
    "core": (lambda: figures.core_draws([0.25, 0.26, 0.28], 0.2565, {"another": 0.27}), ["0.26333", "1 of them", "another 0.27000"]),
    "shares": (lambda: figures.flops_shares({"d4": {"layers": 3.0, "head": 1.0}}), ["d4 4.00", "layers 75%", "head 25%"]),
    "calls": (lambda: figures.calls([0.009, 0.002, 0.001, 0.003], 1, 0.002), ["4 calls", "1 of them", "median of the timed ones 2 ms"]),
}  # fmt: skip
REFUSED = {
    "no run": lambda: figures.cost_by_year([]),
    "a free run": lambda: figures.cost_by_year([("2019", 0.0, "free")]),
    "no factor": lambda: figures.factors([]),
    "a negative factor": lambda: figures.factors([("a", -1.0, "known")]),
    "an unknown kind": lambda: figures.factors([("a", 2.0, "sure")]),
    "no lesson": lambda: figures.course_map([], {}),
    "no score": lambda: figures.core_draws([], 0.25),
    "no model": lambda: figures.flops_shares({}),
    "warm-up alone": lambda: figures.calls([0.1], 1, 0.1),
}  # fmt: skip

globals().update(lesson_tests("00", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
