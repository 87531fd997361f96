"""Lesson 00: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math
import statistics
import time

import numpy as np
import torch
from lesson_cases import answers, lesson_tests

from gpt2course.course.figures import story as figures

NAMES = {
    "0.1": ("bill", "bill_of_flops"),
    "0.2": ("flops_per_token",),
    "0.3": ("utilisation",),
    "0.4": ("measure",),
    "0.5": ("least_hours",),
}


SOLVED = answers("00")


def bill(hours, devices, price):
    return hours * devices * price


def costs(seconds):
    """A pair for exercise 0.1 from the seconds of a run and the devices that are paid."""
    return bill, lambda flops, devices, peak, mfu, price: seconds(flops, devices, peak, mfu) / 3600 * devices * price


def flops(weight=6, keys=12, layer=12, head=1, embedding=0, each=lambda w: w):
    """A function for exercise 0.2 with something put in or left out."""

    def f(width, vocab_size, windows):
        heads = (head if head != "each" else len(windows)) + embedding
        return weight * (layer * width**2 * len(windows) + heads * width * vocab_size) + keys * width * sum(
            each(windows)
        )

    return f


def mfu(log, factor=3, seconds=3600, devices=None):
    used = factor * log["forward_flops_per_token"] * log["batch_tokens"] * log["steps"]
    return used / (log["hours"] * seconds * (devices or log["devices"]) * log["peak"])


def changes_the_log(log):
    log["hours"] *= 3600
    return mfu(log, seconds=1)


def times(f, clock, n):
    found = []
    for _ in range(n):
        began = clock()
        f()
        found.append(clock() - began)
    return found


def summary(middle, keep=lambda found, warmup: found[warmup:], spread=lambda kept: max(kept) - min(kept)):
    """A function for exercise 0.4 that times all calls, keeps some, and sums them up."""

    def measure(f, clock, warmup, repeats):
        kept = keep(times(f, clock, warmup + repeats), warmup)
        return middle(kept), spread(kept)

    return measure


def no_warmup(f, clock, warmup, repeats):
    found = times(f, clock, repeats)
    return statistics.median(found), max(found) - min(found)


def once(f, clock, warmup, repeats):
    for _ in range(warmup):
        f()
    began = clock()
    for _ in range(repeats):
        f()
    return (clock() - began) / repeats, 2.1


def own_clock(f, clock, warmup, repeats):
    return summary(statistics.median)(f, time.perf_counter, warmup, repeats)


WRONG = {
    ("0.1", "one device paid"): ((lambda h, n, p: h * p, SOLVED["bill_of_flops"]), "one device only"),
    ("0.1", "price forgotten"): ((lambda h, n, p: h * n, SOLVED["bill_of_flops"]), "price"),
    ("0.1", "seconds as hours"): (costs(lambda f, n, peak, m: 3600 * f / (n * peak * m)), "divide seconds by 3600"),
    ("0.1", "times the MFU"): (costs(lambda f, n, peak, m: f * m / (n * peak)), "cheaper"),
    ("0.1", "no MFU"): (costs(lambda f, n, peak, m: f / (n * peak)), "changes nothing"),
    ("0.1", "MFU in percent"): (costs(lambda f, n, peak, m: f / (n * peak * m / 100)), "no percentage"),
    ("0.1", "no shorter with more devices"): (costs(lambda f, n, peak, m: f / (peak * m)), "did not become shorter"),
    ("0.1", "only one device paid"): ((bill, lambda f, n, peak, m, price: f / (n * peak * m) / 3600 * price), "one of the four"),
    ("0.1", "no return"): ((bill, lambda *a: None), "return missing"),
    ("0.1", "a text"): ((lambda h, n, p: f"{h * n * p} dollars", SOLVED["bill_of_flops"]), "expected a number"),
    ("0.2", "no attention"): (flops(keys=0), "attention is forgotten"),
    ("0.2", "factor 3 forgotten"): (flops(weight=2, keys=4), "forward pass alone"),
    ("0.2", "factor 3 forgotten in attention"): (flops(keys=4), "backward pass is missing in attention"),
    ("0.2", "embedding counted"): (flops(embedding=1), "look-up"),
    ("0.2", "no head"): (flops(head=0), "head is forgotten"),
    ("0.2", "a head in each layer"): (flops(head="each"), "one head for the whole model"),
    ("0.2", "no MLP"): (flops(layer=4), "MLP is forgotten"),
    ("0.2", "MLP alone"): (flops(layer=8), "4 in attention"),
    ("0.2", "scores alone"): (flops(keys=6), "two products"),
    ("0.2", "keys squared"): (flops(each=lambda w: [x * x for x in w]), "squared"),
    ("0.2", "one FLOP for a product and a sum"): (flops(weight=3, keys=6), "two FLOPs"),
    ("0.2", "first window for all"): (flops(each=lambda w: w[:1] * len(w)), "window of the first"),
    ("0.2", "last window for all"): (flops(each=lambda w: w[-1:] * len(w)), "window of the last"),
    ("0.2", "a window of at most 1000"): (flops(each=lambda w: [min(x, 1000) for x in w]), "depth 12"),
    ("0.3", "forward alone"): (lambda log: mfu(log, factor=1), "forward pass"),
    ("0.3", "hours as seconds"): (lambda log: mfu(log, seconds=1), "3600"),
    ("0.3", "minutes"): (lambda log: mfu(log, seconds=60), "3600 seconds"),
    ("0.3", "both"): (lambda log: mfu(log, factor=1, seconds=1), "forward pass is counted, and hours"),
    ("0.3", "one GPU for eight"): (lambda log: mfu(log, devices=1), "two devices could have worked"),
    ("0.3", "eight GPUs always"): (lambda log: mfu(log, devices=8), "devices * peak"),
    ("0.3", "one step"): (lambda log: mfu(log) / log["steps"], "all 10 steps"),
    ("0.3", "a percentage"): (lambda log: 100 * mfu(log), "percentage"),
    ("0.3", "upside down"): (lambda log: 1 / mfu(log), "inverse"),
    ("0.3", "factor 2"): (lambda log: mfu(log, factor=2), "three times"),
    ("0.3", "the log changed"): (changes_the_log, "work on a copy"),
    ("0.4", "mean"): (summary(statistics.mean), "mean of the timed calls"),
    ("0.4", "mean of one long time"): (once, "mean of the timed calls"),
    ("0.4", "warm-up kept"): (summary(statistics.median, keep=lambda found, warmup: found), "warm-up was kept"),
    ("0.4", "no warm-up"): (no_warmup, "7 calls, and your answer made 5"),
    ("0.4", "middle without sorting"): (summary(lambda kept: kept[len(kept) // 2]), "sort the times"),
    ("0.4", "slowest dropped"): (summary(statistics.median, keep=lambda found, warmup: sorted(found)[: len(found) - warmup]), "first ones"),
    ("0.4", "fastest"): (summary(min), "fastest"),
    ("0.4", "standard deviation"): (summary(statistics.median, spread=statistics.stdev), "standard deviation"),
    ("0.4", "standard deviation of the population"): (summary(statistics.median, spread=statistics.pstdev), "standard deviation"),
    ("0.4", "spread of all"): (lambda f, c, w, r: (lambda t: (statistics.median(t[w:]), max(t) - min(t)))(times(f, c, w + r)), "warm-up was kept"),
    ("0.4", "spread without sorting"): (summary(statistics.median, spread=lambda kept: kept[-1] - kept[0]), "spread"),
    ("0.4", "another clock"): (own_clock, "clock was never read"),
    ("0.4", "two warm-up calls always"): (summary(statistics.median, keep=lambda found, warmup: found[2:]), "without warm-up"),
    ("0.4", "median alone"): (lambda f, c, w, r: statistics.median(times(f, c, w + r)[w:]), "two numbers"),
    ("0.5", "seconds"): (lambda parts, n: sum(f / p for f, p in parts) / n, "seconds"),
    ("0.5", "mean of the peaks"): (lambda parts, n: sum(f for f, _ in parts) / statistics.mean(p for _, p in parts) / n / 3600, "mean of the peaks"),
    ("0.5", "sum of the peaks"): (lambda parts, n: sum(f for f, _ in parts) / sum(p for _, p in parts) / n / 3600, "same time"),
    ("0.5", "side by side"): (lambda parts, n: max(f / p for f, p in parts) / n / 3600, "longer part alone"),
    ("0.5", "all at the higher peak"): (lambda parts, n: sum(f for f, _ in parts) / max(p for _, p in parts) / n / 3600, "higher peak"),
    ("0.5", "all at the lower peak"): (lambda parts, n: sum(f for f, _ in parts) / min(p for _, p in parts) / n / 3600, "lower peak"),
    ("0.5", "devices forgotten"): (lambda parts, n: sum(f / p for f, p in parts) / 3600, "share the work"),
    ("0.5", "first part alone"): (lambda parts, n: parts[0][0] / parts[0][1] / n / 3600, "first part"),
}  # fmt: skip
WRONG |= {  # with the eye of a reviewer: state, sizes, text, types, rounding
    ("0.1", "whole numbers"): ((lambda h, n, p: h * n * p, lambda f, n, peak, m, p: (f // (n * peak * m)) / 3600 * n * p), "does your answer use each of the five numbers once?"),
    ("0.1", "rounded up to hours"): ((lambda h, n, p: h * n * p, lambda f, n, peak, m, p: math.ceil(f / (n * peak * m) / 3600) * n * p), "4 devices need a quarter of the hours and cost 4"),
    ("0.1", "whole hours"): ((lambda h, n, p: math.ceil(h) * n * p, SOLVED["bill_of_flops"]), "hours were rounded up"),
    ("0.1", "wrong for 8 devices"): ((lambda h, n, p: h * n * p if n != 8 else 0, SOLVED["bill_of_flops"]), "hours need not be whole"),
    ("0.2", "windows as a set"): (lambda C, V, w: 6 * (12 * C * C * len(w) + C * V) + 12 * C * sum(set(w)), "does each layer use its own window, and is the"),
    ("0.2", "mean window"): (lambda C, V, w: 6 * (12 * C * C * len(w) + C * V) + 12 * C * statistics.mean(w) * len(w), "your code stopped"),
    ("0.2", "layers by set"): (lambda C, V, w: 6 * (12 * C * C * len(set(w)) + C * V) + 12 * C * sum(w), "does each layer use its own window, and is the"),
    ("0.2", "int32"): (lambda C, V, w: int(np.int32(0) + np.array([SOLVED["flops_per_token"](C, V, w)]).astype(np.int32)[0]), "does each layer use its own window, and is the"),
    ("0.2", "pops windows"): (lambda C, V, w: (SOLVED["flops_per_token"](C, V, list(w)), w.clear())[0], "work on a copy"),
    ("0.3", "batch in rows"): (lambda log: SOLVED["utilisation"](log) * 2048, "training FLOPs of all tokens / (devices * peak * seconds)"),
    ("0.3", "whole hours"): (lambda log: SOLVED["utilisation"](log | {"hours": math.ceil(log["hours"])}), "do tokens, seconds and devices come from the log?"),
    ("0.3", "steps + 1"): (lambda log: SOLVED["utilisation"](log | {"steps": log["steps"] + 1}), "training FLOPs of all tokens / (devices * peak * seconds)"),
    ("0.3", "steps - 1"): (lambda log: SOLVED["utilisation"](log | {"steps": log["steps"] - 1}), "training FLOPs of all tokens / (devices * peak * seconds)"),
    ("0.3", "peak of 989"): (lambda log: SOLVED["utilisation"](log | {"peak": 989e12}), "training FLOPs of all tokens / (devices * peak * seconds)"),
    ("0.3", "at most 1"): (lambda log: min(0.42, SOLVED["utilisation"](log)), "do tokens, seconds and devices come from the log?"),
    ("0.4", "one long time, warm-up too"): (lambda f, c, w, r: (lambda a: [f() for _ in range(w + r)] and ((c() - a) / (w + r), 0))(c()), "this is the mean of all calls, warm-up included"),
    ("0.4", "median_low"): (lambda f, c, w, r: (lambda t: (statistics.median(t[w:]), t[w:][0] - min(t[w:])))(times(f, c, w + r)), "slowest minus fastest of the timed calls"),
    ("0.4", "repeats first"): (lambda f, c, w, r: (lambda t: (statistics.median(t[:r]), max(t[:r]) - min(t[:r])))(times(f, c, w + r)), "this is the middle call in order of time; sort"),
    ("0.4", "three calls warmup max"): (lambda f, c, w, r: (lambda t: (statistics.median(t[min(w, 2) :]), max(t[min(w, 2) :]) - min(t[min(w, 2) :])))(times(f, c, w + r)), "warm-up and repeats are arguments; is one of them"),
    ("0.5", "a dict by peak"): (lambda parts, n: sum(f / p for p, f in {p: f for f, p in parts}.items()) / n / 3600 if False else sum(f / p for p, f in dict((p, f) for f, p in parts).items()) / n / 3600, "equal parts are two parts"),
    ("0.5", "two parts only"): (lambda parts, n: sum(f / p for f, p in parts[:2]) / n / 3600, "the sum over all parts of FLOPs / (devices * peak)"),
    ("0.5", "whole seconds"): (lambda parts, n: math.ceil(sum(f / p for f, p in parts) / n) / 3600, "the sum over all parts of FLOPs / (devices * peak)"),
    ("0.5", "uses its input up"): (lambda parts, n: sum((lambda x: x[0] / x[1])(parts.pop()) for _ in range(len(parts))) / n / 3600, "work on a copy"),
    ("0.5", "set of parts"): (lambda parts, n: sum(f / p for f, p in set(parts)) / n / 3600, "equal parts are two parts"),
}  # fmt: skip


def by_hand(f, clock, warmup, repeats):
    found = []
    for i in range(warmup + repeats):
        began = clock()
        f()
        if i >= warmup:
            found.append(clock() - began)
    return np.median(found), np.ptp(found)


def loop(width, vocab_size, windows):
    total = 6.0 * width * vocab_size
    for keys in windows:
        for shape in ((width, width),) * 4 + ((width, 4 * width), (4 * width, width)):
            total += 6 * shape[0] * shape[1]
        total += 3 * (2 * width * keys + 2 * width * keys)
    return total


RIGHT = {
    ("0.1", "hours first"): (lambda h, n, p: p * (n * h), costs(lambda f, n, peak, m: f / peak / m / n)[1]),
    ("0.1", "tensors"): (lambda h, n, p: torch.tensor([h, n, p], dtype=torch.float64).prod(), lambda f, n, peak, m, p: np.float64(f) / (peak * m * 3600) * p),
    ("0.2", "a loop over matrices"): loop,
    ("0.2", "a tensor"): lambda C, V, w: (torch.tensor(w, dtype=torch.float64) * 12 * C + 72 * C * C).sum() + 6 * C * V,
    ("0.2", "numpy"): lambda C, V, w: np.sum([6 * 12 * C**2 + 12 * C * k for k in w]) + 6 * C * V,
    ("0.3", "tokens a second first"): lambda log: 3 * log["forward_flops_per_token"] * (log["batch_tokens"] * log["steps"] / (log["hours"] * 3600)) / log["devices"] / log["peak"],
    ("0.3", "a tensor"): lambda log: torch.tensor(mfu(log)),
    ("0.4", "numpy, one loop"): by_hand,
    ("0.4", "all times, then slices"): summary(statistics.median),
    ("0.4", "a tensor"): lambda f, c, w, r: torch.tensor(by_hand(f, c, w, r)),
    ("0.5", "a loop"): lambda parts, n: sum(f / (n * p * 3600) for f, p in parts),
    ("0.5", "numpy"): lambda parts, n: float(np.divide(*np.array(parts).T).sum() / n / 3600),
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
    "hours": (lambda: figures.hours_bars({"run": 3.04, "limit": 1.52}), ["run 3.04", "limit 1.52"]),
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
    "no hours": lambda: figures.hours_bars({}),
}  # fmt: skip

globals().update(lesson_tests("00", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
