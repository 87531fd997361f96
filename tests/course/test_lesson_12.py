"""Lesson 12: wrong answers to its exercises get their hint, right ones pass; its figures draw; what it builds."""

import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from lesson_cases import answers, change, functions, lesson_tests

from gpt2course import losses
from gpt2course.course.build import lesson_cells
from gpt2course.course.checks import speed
from gpt2course.course.figures import speed as figures

NAMES = {"12.1": ("head_gain",), "12.2": ("fast_step",), "12.3": ("times_as_fast",), "12.4": ("pays",), "12.5": ("rows8",)}
SOLVED = answers("12", torch=torch, math=math, statistics=statistics, F=F)
GAIN, FAST, PAYS = SOLVED["head_gain"], SOLVED["fast_step"], SOLVED["pays"]


# ---- 12.1


def gain(ms, part, factor, target, whole=None, limit=None, needed=None):
    """Three numbers, with one of them made another way: of (total, own, rest, factor, target, right one)."""
    total, own, right = sum(ms.values()), ms[part], GAIN(ms, part, factor, target)
    args = [(total, own, total - own, factor, target, r) for r in right]
    return [f(*a) if f else a[5] for f, a in zip((whole, limit, needed), args)]


def by_shares(ms, part, factor, target):
    share = ms[part] / sum(ms.values())
    room = 1 / target - (1 - share)
    return torch.tensor([1 / (1 - share + share / factor), 1 / (1 - share), share / room if room > 1e-9 else math.inf]).double()


def by_search(ms, part, factor, target):
    speed = lambda x: sum(ms.values()) / (sum(v for k, v in ms.items() if k != part) + ms[part] / x)
    if speed(1e12) <= target * (1 + 1e-9):
        return speed(factor), speed(1e15), math.inf
    low, high = 1e-3, 1e12
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if speed(middle) < target else (low, middle)
    return speed(factor), speed(1e15), low


# ---- 12.2


def wasteful(p, idx, targets, window, rate, share=lambda t: t >= 0, more=0, sum_up=False, sign=1, keep=None, mean=None):
    """The step with one thing wrong."""
    leaves = {name: w.clone().requires_grad_() for name, w in p.items()}
    T, C = len(idx), p["emb"].size(1)
    x = leaves["emb"][idx]
    q, k, v = (x @ leaves["qkv"].T).chunk(3, dim=1)
    d = torch.arange(T)[:, None] - torch.arange(T)
    scores = (q @ k.T / math.sqrt(C)).masked_fill((d < 0) | (d > window + more), -math.inf)
    x = x + scores.softmax(1) @ v @ leaves["out"].T
    counts = share(targets)
    loss = F.cross_entropy((x @ leaves["head"].T)[counts], targets.clamp(min=0)[counts], reduction="sum")
    loss = loss if sum_up else loss / (mean(targets) if mean else counts.sum())
    loss.backward()
    return loss.item(), {name: p[name] - sign * rate * w.grad if name != keep else p[name] for name, w in leaves.items()}


def in_place(p, idx, targets, window, rate):
    loss, new = FAST(p, idx, targets, window, rate)
    for name, w in p.items():
        w.copy_(new[name])
    return loss, new


def whole_blocks(p, idx, targets, window, rate):
    assert len(idx) % 64 == 0
    return FAST(p, idx, targets, window, rate)


# ---- 12.3


def stopwatch(a, b, now, warm=1, rounds=40, turns=True, mean=statistics.median, flip=False):
    def timed(f):
        began = now()
        f()
        return now() - began

    for _ in range(warm):
        a(), b()
    if not turns:
        ta, tb = [timed(a) for _ in range(rounds)], [timed(b) for _ in range(rounds)]
    else:
        ta, tb = [], []
        for n in range(rounds):
            for f in (a, b) if n % 2 else (b, a):
                (ta if f is a else tb).append(timed(f))
    return mean(tb) / mean(ta) if flip else mean(ta) / mean(tb)


def ratios(a, b, now):
    a(), b()
    found = []
    for _ in range(30):
        times = [now()]
        for f in (a, b, a):
            f()
            times.append(now())
        first, second, third = (y - x for x, y in zip(times, times[1:]))
        found.append(math.sqrt(first * third) / second)
    return torch.tensor(found).median()


# ---- 12.4


def bill(steps, ms, price, once, faster, more, seconds=None, least=None):
    saved, n = PAYS(steps, ms, price, once, faster, more)
    return (seconds(steps, ms / 1000, once, faster, more) * price / 3600 if seconds else saved), (least(n) if least else n)


def by_counting(steps, ms, price, once, faster, more):
    run = lambda n: once + n * more * ms / 1000 / faster
    n = 1
    while more < faster and run(n) >= n * ms / 1000 - 1e-12:
        n += 1
    return [price * (steps * ms / 1000 - run(steps)) / 3600, n if more < faster else float("inf")]


# ---- 12.5


def eight(x, W, one=(), top=448.0, power=True, kind=torch.float8_e4m3fn, back=True, least=1e-12, cast=True):
    """The product with one thing wrong; one: the factors with a single scale."""
    parts = []
    for n, t in enumerate((x, W)):
        largest = t.abs().amax() if n in one else t.abs().amax(1, keepdim=True)
        s = top / largest.clamp(min=least)
        s = torch.exp2(torch.floor(torch.log2(s))) if power else s
        parts.append(((t * s).to(kind).float() if cast else t * s, s if s.dim() else s.expand(len(t), 1)))
    (a, s), (b, t) = parts
    y = a @ b.T
    return y / s / t.T if back else y


WRONG = {
    ("12.1", "the factor"): (change(gain, whole=lambda total, own, rest, f, t, r: f), "the part's factor"),
    ("12.1", "the time"): (change(gain, whole=lambda *a: 1 / a[5]), "as a share"),
    ("12.1", "the gain"): (change(gain, whole=lambda *a: a[5] - 1), "this is the gain"),
    ("12.1", "percent"): (change(gain, whole=lambda *a: 100 * (a[5] - 1)), "percentage"),
    ("12.1", "minus the rest of the part"): (change(gain, whole=lambda total, own, rest, f, t, r: 1 / (1 - own / total / f)), "what it saves"),
    ("12.1", "times added"): (change(gain, whole=lambda total, own, rest, f, t, r: 1 + own / total * (f - 1)), "do not add"),
    ("12.1", "slower"): (change(gain, whole=lambda total, own, rest, f, t, r: total / (rest + own * f)), "became slower"),
    ("12.1", "the limit of the part"): (change(gain, limit=lambda total, own, rest, f, t, r: total / own), "only the part"),
    ("12.1", "no limit"): (change(gain, limit=lambda *a: math.inf), "still takes its time"),
    ("12.1", "the limit with the factor"): (change(gain, limit=lambda total, own, rest, f, t, r: total / (rest + own / f)), "take 0 ms"),
    ("12.1", "the target itself"): (change(gain, needed=lambda total, own, rest, f, t, r: t), "needs more|math.inf"),
    ("12.1", "the share that is left"): (change(gain, needed=lambda *a: 1 / a[5]), "turn it over"),
    ("12.1", "negative"): (change(gain, needed=lambda total, own, rest, f, t, r: own / (total / t - rest) if total / t != rest else math.inf), "math.inf"),
    ("12.1", "never"): (change(gain, needed=lambda *a: math.inf), "finite factor is enough"),
    ("12.1", "two numbers"): (lambda *a: GAIN(*a)[:2], "three numbers"),
    ("12.2", "all targets"): (change(wasteful, share=lambda t: t > -9), "-1 do not count"),
    ("12.2", "mean over all"): (change(wasteful, mean=len), "not by all"),
    ("12.2", "sum"): (change(wasteful, sum_up=True), "this is the sum|differs|not by all"),
    ("12.2", "window one long"): (change(wasteful, more=1), "off by one"),
    ("12.2", "window one short"): (change(wasteful, more=-1), "off by one|NaN"),
    ("12.2", "no window"): (change(wasteful, more=10**6), "window is ignored|off by one"),
    ("12.2", "uphill"): (change(wasteful, sign=-1), "uphill"),
    ("12.2", "twice the rate"): (change(wasteful, sign=2), "differs"),
    ("12.2", "a parameter stays"): (change(wasteful, keep="out"), "did not move"),
    ("12.2", "in place"): (in_place, "in place"),
    ("12.2", "whole blocks"): (whole_blocks, "lengths need not divide"),
    ("12.2", "the loss alone"): (lambda *a: FAST(*a)[0], "the loss and a dictionary"),
    ("12.2", "a list of parameters"): (lambda *a: (FAST(*a)[0], list(FAST(*a)[1].values())), "{name: new parameter}"),
    ("12.2", "no faster"): (lambda *a: [wasteful(*a) for _ in range(9)][-1], "what is computed in vain"),
    ("12.3", "no warm-up"): (change(stopwatch, warm=0, rounds=20, mean=statistics.mean), "first call must not count"),
    ("12.3", "one after the other"): (change(stopwatch, turns=False), "take turns"),
    ("12.3", "means"): (change(stopwatch, mean=statistics.mean), "a mean takes"),
    ("12.3", "the other way round"): (change(stopwatch, flip=True), "time of b / time of a"),
    ("12.3", "too many calls"): (change(stopwatch, rounds=60), "more than 100"),
    ("12.3", "once"): (change(stopwatch, warm=0, rounds=1), "first calls are slow"),
    ("12.3", "the largest"): (change(stopwatch, mean=max), "heat|disturbs"),
    ("12.3", "never called"): (lambda a, b, now: 1.5, "nothing was measured"),
    ("12.4", "no start"): (change(bill, seconds=lambda n, s, once, f, m: n * s * (1 - m / f)), "at the start cost too"),
    ("12.4", "no more steps"): (change(bill, seconds=lambda n, s, once, f, m: n * s * (1 - 1 / f) - once), "times as many steps"),
    ("12.4", "the cost"): (change(bill, seconds=lambda n, s, once, f, m: once - n * s * (1 - m / f)), "other sign"),
    ("12.4", "never negative"): (change(bill, seconds=lambda n, s, once, f, m: max(0, n * s * (1 - m / f) - once)), "may cost"),
    ("12.4", "seconds as milliseconds"): (change(bill, seconds=lambda n, s, once, f, m: 1000 * (n * s * (1 - m / f) - once)), "milliseconds"),
    ("12.4", "a price a second"): (change(bill, seconds=lambda n, s, once, f, m: 3600 * (n * s * (1 - m / f) - once)), "for an hour"),
    ("12.4", "the whole bill"): (change(bill, seconds=lambda n, s, once, f, m: once + n * s * m / f), "bill of the changed run"),
    ("12.4", "multiplied"): (change(bill, seconds=lambda n, s, once, f, m: n * s * (1 - m * f) - once), "divide a step's time|math.inf|expected"),
    ("12.4", "even"): (change(bill, least=lambda n: n - 1), "does not save yet"),
    ("12.4", "never"): (change(bill, least=lambda n: math.inf), "saves something"),
    ("12.4", "always"): (change(bill, least=lambda n: 1 if n == math.inf else n), "math.inf"),
    ("12.4", "half a step"): (change(bill, least=lambda n: n - 0.5), "whole number"),
    ("12.4", "dollars alone"): (lambda *a: PAYS(*a)[0], "dollars and steps"),
    ("12.5", "one scale for x"): (change(eight, one=(0,)), "each row of x needs"),
    ("12.5", "one scale for W"): (change(eight, one=(1,)), "each row of W needs"),
    ("12.5", "above the top"): (change(eight, top=4000.0), "NaN came out|not finite|ends at 448"),
    ("12.5", "never divided"): (change(eight, back=False), "divide by both scales"),
    ("12.5", "no cast"): (change(eight, cast=False), "no product of 8-bit numbers"),
    ("12.5", "e5m2"): (change(eight, kind=torch.float8_e5m2), "more than 8 bits explain"),
    ("12.5", "a row of zeros"): (change(eight, least=0.0, power=False), "NaN came out"),
    ("12.5", "far below"): (change(eight, top=1e-2), "more than 8 bits explain|right size"),
    ("12.5", "turned"): (lambda x, W: eight(x, W).T, "y (M, N)"),
    ("12.5", "in place"): (lambda x, W: eight(x.mul_(2), W) / 2, "in place"),
}  # fmt: skip
RIGHT = {
    ("12.1", "by shares"): by_shares,
    ("12.1", "by search"): by_search,
    ("12.2", "the solution in lists"): lambda *a: list(FAST(*a)),
    ("12.2", "with a tensor as the loss"): lambda *a: (lambda loss, new: (torch.tensor(loss), new))(*FAST(*a)),
    ("12.3", "medians in turns"): stopwatch,
    ("12.3", "a, b, a"): ratios,
    ("12.4", "by counting"): by_counting,
    ("12.4", "a list"): lambda *a: list(PAYS(*a)),
    ("12.5", "rows to the very top"): change(eight, power=False),
    ("12.5", "powers of two"): eight,
}


POINTS = {"product": (100.0, 5e10), "sum": (0.1, 1e9)}
BARS = {"batch 8": {"activations": 20.0, "weights": 4.0}, "batch 16": {"activations": 40.0, "weights": 4.0}}
FIGURES = {
    "roofline": (lambda: figures.roofline(1e11, 2e10, POINTS), ["large products 100 G", "product 50 GFLOP/s at 100 FLOPs a byte, 50% of the roof"]),
    "eight": (lambda: figures.eight({"e4m3": [(0, 0.5), (3, 0.03)]}), ["e4m3: least error 3.0%, at a scale of 2 to the power 3"]),
    "memory": (lambda: figures.memory(BARS), ["batch 8: 24.0 GB, most of it activations (20.0)", "card of 80 GB"]),
    "gains": (lambda: figures.gains({"head": [(1, 1.0), (2, 1.5)]}), ["head: 1.500 times with a part 2 times faster"]),
}  # fmt: skip
REFUSED = {
    "no point": lambda: figures.roofline(1e11, 1e10, {}),
    "no roof": lambda: figures.roofline(0.0, 1e10, POINTS),
    "one scale": lambda: figures.eight({"e4m3": [(0, 0.5)]}),
    "no bar": lambda: figures.memory({}),
    "no memory": lambda: figures.memory({"a": {"x": 0.0}}),
    "no line": lambda: figures.gains({}),
}

globals().update(lesson_tests("12", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


# ---- what the lesson builds


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("cap", [2.0, 15.0])
def test_the_lessons_loss_is_the_packages(chunk, cap):
    """Loss and both gradients, for chunks that do not divide."""
    chunked = functions("12", "chunked", math=math, torch=torch)["chunked"]
    g = torch.Generator().manual_seed(3)
    x, W, targets = torch.randn(64, 8, generator=g), 4 * torch.randn(31, 8, generator=g), torch.arange(64) % 31
    leaves = [t.clone().requires_grad_() for t in (x, W)]
    loss = losses.cross_entropy_plain(*leaves, targets, cap)
    wanted = loss, *torch.autograd.grad(loss, leaves)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(chunked(x, W, targets, cap, chunk), wanted))


def test_the_lessons_bounds_and_scales():
    names = "least", "whole", "scale8", "gram"
    least, whole, scale8, gram = map(functions("12", *names, math=math, torch=torch).get, names)
    assert least(10.0, 4.0, 5.0, 1.0) == 4.0 and least(30.0, 4.0, 5.0, 1.0) == 6.0
    assert whole(1.0, 4.0) == 4.0 and whole(0.0, 4.0) == 1.0
    for size in (1e-9, 0.3, 448.0, 1e6):
        x = size * torch.linspace(-1, 1, 7)
        s = scale8(x, 448.0)
        assert torch.equal(s, speed.fp8.scale_for(x, torch.float8_e4m3fn)) and 224 < (x * s).abs().max() <= 448
    X = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(gram(X), X @ X.mT, atol=1e-6)


def test_memory_is_counted_and_freed():
    """The lesson's counter: what comes from outside costs nothing, what is freed no longer counts, the loss is seen inside."""
    cell = next(c for c in lesson_cells("12") if "class Peak" in c)
    space = {"torch": torch, "losses": losses}
    exec(cell, space)
    x = torch.zeros(1000)
    with space["Peak"]() as p:
        x.view(10, 100).add_(1)
        assert p.most == 0
        y = x + 1
        del y
        y = x + 2
        assert p.now == y.nbytes == 4000 and p.most <= 8000
        (x * 2).mul(2)
    assert p.most <= 12000
    with space["Peak"]() as p:
        losses.cross_entropy(torch.randn(512, 8), torch.randn(300, 8), torch.zeros(512, dtype=torch.long), 15.0)
    assert p.most > 512 * 300 * 4
