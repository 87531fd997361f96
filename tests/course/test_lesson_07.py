"""Lesson 07: wrong answers to its exercises get their hint, right ones pass; its figures draw; its piece is the package's."""

import math
import statistics

import numpy as np
import pytest
import torch
from lesson_cases import answers, change, functions, lesson_tests

from gpt2course.course import lab, mine
from gpt2course.course.build import lesson_cells
from gpt2course.course.figures import lambdas as figures
from gpt2course.model import GPT, GPTConfig

NAMES = {"7.1": ("which_is_x0",), "7.2": ("without_residual_lambdas",), "7.3": ("seeds_needed",), "7.4": ("mix_cost",)}
SOLVED = answers("07", torch=torch, math=math, statistics=statistics)


# ---- 7.1


def zeros(curve, where):
    return [0.0 if i in where else x for i, x in enumerate(curve)]


def larger(where, reverse=False):
    """The curve whose zeros hurt more is called the residual one."""

    def f(loss, a, b):
        at = where(len(a))
        return "ba"[(loss(zeros(a, at), b) < loss(a, zeros(b, at))) ^ reverse]

    return f


def in_place(loss, a, b):
    a[-1] = 0.0
    return "b" if loss(a, b) == loss(a, [x + 1 for x in b[:-1]] + b[-1:]) else "a"


def first_layer(loss, a, b):
    return "b" if loss([0.0] + a[1:], b) > loss(a, [0.0] + b[1:]) else "a"


def cut_in_the_middle(loss, a, b):
    """Layer 1 has no past: skip[0] and resid[0] do not matter. The other curve decides."""
    found = [loss(a, [0.5 * b[0], 0.0, *b[2:]]), loss(a, [0.0, 0.0, *b[2:]])]
    return "a" if found[0] == found[1] else "b"


def all_but_one(loss, a, b):
    """With one curve all zero, the other's early numbers matter only if they multiply."""
    same = loss([0.0] * len(a), b) == loss([0.0] * len(a), [7.0, *b[1:]])
    return "b" if same else "a"


# ---- 7.2


def folded(resid, skip, own=True, inverse=True, skip_too=True, alone=False, suffix=False, swap=False, whole=False):
    L = len(resid)
    product = lambda i: math.prod(resid if whole else resid[i + 1 :] if suffix else [resid[i]] if alone else resid[: i + own])
    P = [product(i) for i in range(L)]
    factors = [1 / p if inverse else p for p in P]
    new = [s / p if skip_too else s for s, p in zip(skip, [math.prod(resid[: i + 1]) for i in range(L)])]
    return (new, factors) if swap else (factors, new)


def folded_skip(by):
    return lambda resid, skip: (folded(resid, skip)[0], [by(resid, skip, i) for i in range(len(resid))])


def folded_in_numpy(resid, skip):
    P = np.cumprod(resid)
    return 1 / P, np.array(skip) / P


# ---- 7.3


def counted(before, after, effect, t95, spread=statistics.stdev, width=lambda t, s, n: t * s / math.sqrt(n), start=2, pairs=True, fixed=False):
    both = before.keys() & after.keys()
    d = [after[s] - before[s] for s in both] if pairs else list(before.values())
    for n, t in enumerate(t95, start):
        if width(t95[len(both) - 2] if fixed else t, spread(d), n) < effect:
            return n
    return None


def all_seeds(before, after, effect, t95):
    return counted(before, {s: after[s] for s in before}, effect, t95)


def unpaired(before, after, effect, t95):
    s = math.sqrt(statistics.variance(before.values()) + statistics.variance(after.values()))
    return counted(before, after, effect, t95, spread=lambda d: s)


def by_place(before, after, effect, t95):
    d = [b - a for a, b in zip(before.values(), after.values())]
    return counted(before, after, effect, t95, spread=lambda _: statistics.stdev(d))


def in_torch(before, after, effect, t95):
    both = sorted(set(before) & set(after))
    d = torch.tensor([after[s] - before[s] for s in both]).double()
    n = torch.arange(2, 2 + len(t95))
    enough = (torch.tensor(t95).double() * d.std() / n.double().sqrt() < effect).nonzero()
    return n[enough[0, 0]] if len(enough) else None


# ---- 7.4


def cost(layers, width, tokens, number_bytes, bandwidth, flops=9, moved=9, scalars=2, every=True, size=True, seconds=True):
    n = width * tokens * (layers if every else 1)
    return scalars * layers, flops * n, moved * n * (number_bytes if size else 1) / (bandwidth if seconds else 1)


def cost_layer_by_layer(layers, width, tokens, number_bytes, bandwidth):
    flops = moved = 0
    for _ in range(layers):
        for passes in (1, 2):
            flops += passes * 3 * width * tokens
            moved += passes * 3 * width * tokens * number_bytes
    return [layers + layers, flops, moved / bandwidth]


WRONG = {
    ("7.1", "by the values"): (lambda loss, a, b: "a" if abs(a[-1] - 1) > abs(b[-1] - 1) else "b", "never called"),
    ("7.1", "layer 0"): (first_layer, "only layer 0"),
    ("7.1", "the larger loss, all layers"): (larger(lambda L: range(L)), "depends on the model"),
    ("7.1", "the smaller loss, all layers"): (larger(lambda L: range(L), True), "depends on the model"),
    ("7.1", "the larger loss, the last layer"): (larger(lambda L: [L - 1]), "depends on the model"),
    ("7.1", "the larger loss, layer 1"): (larger(lambda L: [1]), "depends on the model"),
    ("7.1", "exchanged"): (lambda *x: "ba"[SOLVED["which_is_x0"](*x) == "b"], "x0 lambdas are in"),
    ("7.1", "one number"): (lambda loss, a, b: loss([0.0], b), "two whole lists"),
    ("7.1", "a yes"): (lambda loss, a, b: True, 'expected "a" or "b"'),
    ("7.1", "nothing"): (lambda loss, a, b: None, "return missing"),
    ("7.1", "in place"): (in_place, "changed its inputs in place"),
    ("7.2", "the product itself"): (change(folded, inverse=False), "product itself"),
    ("7.2", "without its own"): (change(folded, own=False), "own resid is missing"),
    ("7.2", "only its own"): (change(folded, alone=True), "only the layer's own"),
    ("7.2", "all at once"): (change(folded, whole=True), "all lambdas at once"),
    ("7.2", "the lesson's weights"): (change(folded, suffix=True, inverse=False), "in the old last state"),
    ("7.2", "the lambdas after it"): (change(folded, suffix=True), "the lambdas after the layer"),
    ("7.2", "resid"): (lambda r, s: (list(r), folded(r, s)[1]), "this is resid itself"),
    ("7.2", "exchanged"): (change(folded, swap=True), "P · X"),
    ("7.2", "skip as it is"): (change(folded, skip_too=False), "added to X"),
    ("7.2", "skip by its own resid"): (folded_skip(lambda r, s, i: s[i] / r[i]), "only the layer's own"),
    ("7.2", "skip by the product before"): (folded_skip(lambda r, s, i: s[i] / math.prod(r[:i])), "the state is P · X after it"),
    ("7.2", "skip by the lesson's weights"): (folded_skip(lambda r, s, i: s[i] * math.prod(r[i + 1 :])), "expected [0.2, 0.2, -0.1]: this is the weight"),
    ("7.2", "skip times the product"): (folded_skip(lambda r, s, i: s[i] * math.prod(r[: i + 1])), "divide by it"),
    ("7.2", "one list"): (lambda r, s: folded(r, s)[0], "two lists"),
    ("7.2", "too few"): (lambda r, s: (folded(r, s)[0][1:], s), "one for each layer"),
    ("7.3", "divided by n"): (change(counted, spread=statistics.pstdev), "stdev"),
    ("7.3", "variance"): (change(counted, spread=statistics.variance), "this is the variance"),
    ("7.3", "no root of n"): (change(counted, width=lambda t, s, n: t * s), "√n is missing"),
    ("7.3", "n without a root"): (change(counted, width=lambda t, s, n: t * s / n), "not by n"),
    ("7.3", "the whole width"): (change(counted, width=lambda t, s, n: 2 * t * s / n**0.5), "half the width"),
    ("7.3", "no t"): (change(counted, width=lambda t, s, n: s / n**0.5), "t is missing"),
    ("7.3", "from 1"): (change(counted, start=1), "belongs to n = 2"),
    ("7.3", "a place in the list"): (change(counted, start=0), "place in the list|stopped"),
    ("7.3", "t of the seeds there are"): (change(counted, fixed=True), "not to the number of seeds"),
    ("7.3", "the spread of one arm"): (change(counted, pairs=False), "spread of `before`"),
    ("7.3", "all seeds"): (all_seeds, "seeds that are in both"),
    ("7.3", "unpaired"): (unpaired, "arms' own spread"),
    ("7.3", "in order of the dict"): (by_place, "order of the dicts"),
    ("7.3", "never None"): (lambda *x: counted(*x) or 99, "None is expected"),
    ("7.4", "one scalar"): (change(cost, scalars=1), "two scalars a layer"),
    ("7.4", "vectors"): (lambda *x: (2 * x[0] * x[1], *cost(*x)[1:]), "not vectors"),
    ("7.4", "flops forward"): (change(cost, flops=3), "forward alone"),
    ("7.4", "flops backward"): (change(cost, flops=6), "backward alone"),
    ("7.4", "one flop"): (change(cost, flops=1), "two multiplications"),
    ("7.4", "one layer"): (change(cost, every=False), "in every layer"),
    ("7.4", "flops without tokens"): (lambda *x: (cost(*x)[0], 9 * x[0] * x[1], 0), "for every token"),
    ("7.4", "bytes forward"): (change(cost, moved=3), "forward alone"),
    ("7.4", "one byte"): (change(cost, moved=1), "3 numbers"),
    ("7.4", "numbers, not bytes"): (change(cost, size=False), "bytes, not numbers"),
    ("7.4", "bytes, not seconds"): (change(cost, seconds=False), "these are bytes"),
    ("7.4", "two numbers"): (lambda *x: cost(*x)[:2], "three numbers"),
}  # fmt: skip
RIGHT = {
    ("7.1", "cut in layer 1"): cut_in_the_middle,
    ("7.1", "one curve all zero"): all_but_one,
    ("7.2", "one product a layer"): folded,
    ("7.2", "in numpy"): folded_in_numpy,
    ("7.3", "in torch"): in_torch,
    ("7.3", "in a loop"): counted,
    ("7.4", "in one formula"): cost,
    ("7.4", "layer by layer"): cost_layer_by_layer,
}
VALUES = [[1.0, 1.0], [0.9, 1.1]]
FIGURES = {
    "sources": (lambda: figures.sources({"resid 1": [3.4] + [1.0] * 24, "resid 0.9": [1.0, 0.1, 1.0]}), ["resid 1: embedding 3.4, layer 0 1", "resid 0.9"]),
    "scalars": (lambda: figures.scalars([10, 20], VALUES, VALUES), ["residual lambdas at step 20: 0.900, 1.100; x0 lambdas"]),
    "differences": (lambda: figures.differences({"lambdas": ([0.02, 0.01], 0.06), "rates 0": ([-0.007], math.inf)}, "bits per byte"), ["lambdas: +0.0150 plus or minus 0.0600, seeds: 2", "rates 0: -0.0070"]),
    "echoes": (lambda: figures.echoes({"beta1 0.8": [1.0, 0.5], "beta1 0.98": [1.0, 1.2]}), ["beta1 0.8: 0.5 after 1 steps", "beta1 0.98: 1.2"]),
    "gains": (lambda: figures.gains({8: 0.01, 12: 0.008}, 24, {"line": 0.002, "power": 0.004, "exponential": 0.003}), ["8: 0.0100", "forecasts for 24: line 0.0020"]),
    "seeds": (lambda: figures.seeds({0.002: None, 0.01: 5, 0.02: 3}), ["0.01: 5, 0.02: 3", "none for 1 smaller"]),
}  # fmt: skip
REFUSED = {
    "no layer": lambda: figures.sources({"a": [1.0]}),
    "a weight below 0": lambda: figures.sources({"a": [1.0, -1.0]}),
    "one step": lambda: figures.scalars([1], [[1.0]], [[1.0]]),
    "an arm without a run": lambda: figures.differences({"a": ([], 0.0)}, "x"),
    "an echo of nothing": lambda: figures.echoes({"a": [0.0, 1.0]}),
    "one depth": lambda: figures.gains({8: 0.01}, 24, {"line": 0.0}),
    "no seeds": lambda: figures.seeds({0.01: None}),
}

globals().update(lesson_tests("07", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


# ---- what the lesson builds


@pytest.fixture(scope="module")
def lesson():
    return functions("07", "weights", "paired", "line", "echo")


def test_the_weights_are_those_of_a_chain_of_mixes(lesson):
    """Orthogonal outputs: the last state's coordinates are the weights."""
    resid, skip = [0.5, 1.3, -0.7, 2.0], [0.1, -0.2, 0.3, 0.4]
    axes = torch.eye(5)
    x = axes[0]
    for i, (r, s) in enumerate(zip(resid, skip)):
        x = r * x + s * axes[0] + axes[i + 1]
    assert torch.allclose(torch.tensor(lesson["weights"](resid, skip)), x)


def test_an_interval_and_a_slope_by_hand(lesson):
    d, half = lesson["paired"]({1: 2.0, 2: 2.0, 3: 1.0}, {2: 2.03, 1: 2.01, 4: 5.0})
    assert d == pytest.approx(0.02) and half == pytest.approx(12.71 * 0.0141421 / 2**0.5, rel=1e-4)
    assert lesson["paired"]({1: 2.0}, {1: 2.5}) == (0.5, math.inf)
    x = torch.tensor([1.0, 2.0, 4.0])
    assert lesson["line"](x, 3 * x + 1, 10.0) == pytest.approx(31)
    assert lesson["echo"](0.97)[-1] < 1 < lesson["echo"](0.98)[-1]


@pytest.mark.parametrize("resid, skip", [((1.1, 0.9), (0.3, 0.1)), (None, (0.3, 0.1)), ((1.1, 0.9), None), (None, None)])
def test_the_lessons_mix_in_a_model_with_both_scalars_one_or_none(resid, skip):
    """The same loss and gradients as the package's."""
    config = GPTConfig(n_layer=3, n_embd=16, n_head=2, n_kv_head=2, vocab_size=19, sequence_len=8, resid_lambda=resid, x0_lambda=skip)
    rows, found = torch.randint(19, (2, 9), generator=torch.Generator().manual_seed(1)), []
    for pieces in ({}, {"mix": mine.load("mix", mine.source_of(lesson_cells("07"), "mix"))}):
        model = GPT(config).init_weights(1)
        for block in model.blocks:  # zero at the beginning
            torch.nn.init.constant_(block.mlp.c_proj.weight, 0.1)
        with mine.installed(pieces):
            loss = model(rows[:, :-1], rows[:, 1:].contiguous())
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found))


def test_the_recorded_arms_are_of_one_size_and_text():
    """What the lesson pairs was measured on the same bytes, after the same number of tokens, one run for each seed."""
    seeds, rates = lab.recorded("ladder-seeds"), lab.recorded("lambda-rates")
    assert {(r["val_sha256"], r["val_bytes"], r["tokens"]) for r in seeds} == {(r["val_sha256"], r["val_bytes"], r["tokens"]) for r in rates}
    keys = [(r["arm"], r["seed"]) for r in seeds + rates]
    assert len(keys) == len(set(keys))
    values = next(r for r in rates if r["arm"] == "rates / 10")["values"]
    assert len(values["step"]) == len(values["x0_lambdas"]) and values["step"][-1] == 450
