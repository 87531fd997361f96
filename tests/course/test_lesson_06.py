"""Lesson 06: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math

import numpy as np
import pytest
import torch
from lesson_cases import answers, change, lesson_tests

from gpt2course.attention import Cache, attention
from gpt2course.course import mine
from gpt2course.course.build import lesson_cells
from gpt2course.course.checks import run
from gpt2course.course.figures import windows as figures

NAMES = {
    "6.1": ("tile_kinds",), "6.2": ("flash_backward",), "6.3": ("join",), "6.4": ("find_window",), "6.5": ("cache_bytes",),
}  # fmt: skip
SOLVED = answers("06", torch=torch, math=math)


# ---- 6.1


def kinds(T, window, rows, columns, more=0, side=lambda x, T: T if x < 0 else x, right=True, part=1, whole=2, swap=False, cut=False, last=True):
    """Kinds of tiles with one thing wrong."""
    back, ahead = (side(x, T) for x in (window[::-1] if swap else window))
    back, ahead = back + more, ahead if right else 0
    if cut:
        rows, columns = columns, rows
    out = []
    for a in range(0, T if last else T - T % rows, rows):
        out.append([])
        for c in range(0, T, columns):
            seen = [i - back <= j <= i + ahead for i in range(a, min(a + rows, T)) for j in range(c, min(c + columns, T))]
            out[-1].append(whole if all(seen) else part if any(seen) else 0)
    return out


def kinds_in_numpy(T, window, rows, columns):
    d = np.subtract.outer(np.arange(T), np.arange(T))
    left, right = window
    seen = (d <= (left if left >= 0 else T)) & (-d <= (right if right >= 0 else T))
    tiles = [np.split(r, range(columns, T, columns), axis=1) for r in np.split(seen, range(rows, T, rows))]
    return np.array([[int(t.any()) + int(t.all()) for t in row] for row in tiles])


# ---- 6.2


def back(q, k, v, y, lse, dy, left, scale=True, delta=True, mask=True, window=True, turned=False, dv_turned=False, use_lse=True, root=True, weights=True, order=(0, 1, 2)):
    """The backward pass with one thing wrong."""
    T, D = q.shape
    d = torch.arange(T)[:, None] - torch.arange(T)
    hidden = (d < 0) | ((d > left) & (left >= 0) & window)
    s = q @ k.T / (math.sqrt(D) if root else 1)
    w = (s - lse[:, None]).exp() if use_lse else s.exp() / (s.exp().masked_fill(hidden, 0).sum(-1, keepdim=True))
    w = w.masked_fill(hidden, 0) if mask else w
    ds = (w if weights else 1) * (dy @ v.T - ((dy * y).sum(-1, keepdim=True) if delta else 0)) / (math.sqrt(D) if scale else 1)
    ds = ds.T if turned else ds
    out = ds @ k, ds.T @ q, (w if dv_turned else w.T) @ dy
    return tuple(out[i] for i in order)


def by_autograd(q, k, v, y, lse, dy, left):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = SOLVED_FORWARD(*leaves, left)
    return torch.autograd.grad(out, leaves, dy)


def by_backward(q, k, v, y, lse, dy, left):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    SOLVED_FORWARD(*leaves, left).backward(dy)
    return [x.grad for x in leaves]


def SOLVED_FORWARD(q, k, v, left):
    d = torch.arange(len(q))[:, None] - torch.arange(len(q))
    s = (q @ k.T / math.sqrt(q.size(1))).masked_fill((d < 0) | ((d > left) & (left >= 0)), -math.inf)
    return s.softmax(-1) @ v


def back_in_rows(q, k, v, y, lse, dy, left):
    """Row by row, with delta from the weights."""
    dq, dk, dv, root = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v), q.size(1) ** 0.5
    for i in range(len(q)):
        first = 0 if left < 0 else max(0, i - left)
        near = slice(first, i + 1)
        w = (k[near] @ q[i] / root - lse[i]).exp()
        dw = v[near] @ dy[i]
        ds = w * (dw - w @ dw) / root
        dq[i] = ds @ k[near]
        dk[near] += ds[:, None] * q[i]
        dv[near] += w[:, None] * dy[i]
    return dq, dk, dv


def in_float64(*args):
    return back(*(x.double() if isinstance(x, torch.Tensor) else x for x in args))


def in_place(q, *rest):
    q /= 2
    return back(2 * q, *rest)


# ---- 6.3


def joined(y1, l1, y2, l2, weigh=lambda l, top: (l - top).exp(), start=torch.maximum, lse=lambda a, b: torch.logaddexp(a, b), divide=True):
    top = start(l1, l2)
    a, b = weigh(l1, top)[:, None], weigh(l2, top)[:, None]
    return (a * y1 + b * y2) / (a + b if divide else 1), lse(l1, l2)


def none(a, b):
    return torch.zeros_like(a)


def join_by_softmax(y1, l1, y2, l2):
    both = torch.stack([l1, l2])
    return (both.softmax(0)[..., None] * torch.stack([y1, y2])).sum(0), both.logsumexp(0)


def join_in_numpy(y1, l1, y2, l2):
    a, b = l1.double().numpy(), l2.double().numpy()
    lse = np.logaddexp(a, b)
    return np.exp(a - lse)[:, None] * y1.double().numpy() + np.exp(b - lse)[:, None] * y2.double().numpy(), lse


# ---- 6.4


def one_at_a_time(f, T):
    q, left, right, v = torch.zeros(1, T, 1, 2), 0, 0, torch.zeros(1, T, 1, 2)
    for j in range(T):
        other = v.clone()
        other[:, j] = 1.0
        changed = (f(q, q, other) - f(q, q, v)).abs().amax((0, 2, 3)) > 0
        for i in changed.nonzero().flatten().tolist():
            left, right = max(left, i - j), max(right, j - i)
    return [-1 if left == T - 1 else left, -1 if right == T - 1 else right]


def seen(f, T):
    return f(torch.zeros(1, T, 1, T), torch.zeros(1, T, 1, T), torch.eye(T)[None, :, None])[0, :, 0] > 0


def last_query(f, T):
    row = seen(f, T)[-1]
    left = int(row.sum()) - 1
    return (-1 if left == T - 1 else left), 0


def first_query(f, T):
    right = int(seen(f, T)[0].sum()) - 1
    return 0, (-1 if right == T - 1 else right)


def positions(f, T):
    j = seen(f, T).nonzero()
    left = int((j[:, 0] - j[:, 1]).max())
    return (-1 if left == T - 1 else left), T - 1


def in_the_middle(f, T):
    row = seen(f, T)[T // 2].nonzero()
    left, right = T // 2 - int(row.min()), int(row.max()) - T // 2
    return (-1 if left == T // 2 else left), (-1 if right == T - 1 - T // 2 else right)


def add(*by):
    return lambda f, T: tuple(x + b if x >= 0 else x for x, b in zip(SOLVED["find_window"](f, T), by))


# ---- 6.5


def cache(T, n_layer, pattern, short, heads, D, number_bytes=2, last=True, cut=min, both=2, times=lambda b: b, letter="L", repeat=True, more=0):
    """The cache with one thing wrong."""
    pattern = pattern if repeat else (pattern + "L" * n_layer)[:n_layer]
    kept = [T if pattern[i % len(pattern)] == letter or (last and i == n_layer - 1) else cut(T, short) + more * (T > short) for i in range(n_layer)]
    return sum(kept) * both * heads * D * times(number_bytes)


def cache_of_the_package(T, n_layer, pattern, short, heads, D, number_bytes=2):
    kept, dtype = Cache(), {2: torch.bfloat16, 4: torch.float32}[number_bytes]
    x = torch.zeros(1, T, heads, D, dtype=dtype)
    for i in range(n_layer):
        long = i == n_layer - 1 or pattern[i % len(pattern)] == "L"
        first = 0 if long else max(0, T - short)
        kept.past[i] = x[:, first:], x[:, first:]
    return sum(y.numel() * y.element_size() for pair in kept.past.values() for y in pair)


WRONG = {
    ("6.1", "one short"): (change(kinds, more=-1), "one short"),
    ("6.1", "one long"): (change(kinds, more=1), "one long"),
    ("6.1", "right ignored"): (change(kinds, right=False), "right is ignored"),
    ("6.1", "left ignored"): (lambda T, w, r, c: kinds(T, (-1, w[1]), r, c), "left is ignored"),
    ("6.1", "left and right exchanged"): (change(kinds, swap=True), "left and right are exchanged"),
    ("6.1", "-1 as a number"): (change(kinds, side=lambda x, T: x), "-1 stands for all"),
    ("6.1", "rows and columns exchanged"): (change(kinds, cut=True), "rows and columns are exchanged"),
    ("6.1", "no 2"): (change(kinds, whole=1), "is a 2"),
    ("6.1", "no 1"): (change(kinds, part=2), "is a 1"),
    ("6.1", "partly hidden is skipped"): (change(kinds, part=0), "cannot be skipped"),
    ("6.1", "the last tile is left out"): (change(kinds, last=False), "last tile"),
    ("6.1", "a number"): (lambda *a: 3, "a list of lists"),
    ("6.1", "numbers in one list"): (lambda *a: sum(kinds(*a), []), "a list for each"),
    ("6.1", "nothing"): (lambda *a: None, "return missing"),
    ("6.2", "no root in the gradient"): (change(back, scale=False), "1/√D of the scores is missing"),
    ("6.2", "no delta"): (change(back, delta=False), "delta, a row's sum"),
    ("6.2", "no mask"): (change(back, mask=False), "hidden scores have weights"),
    ("6.2", "no window"): (change(back, window=False), "window is ignored"),
    ("6.2", "dS transposed"): (change(back, turned=True), "dS is transposed"),
    ("6.2", "dv by the weights"): (change(back, dv_turned=True), "weights are not transposed"),
    ("6.2", "no root in the scores"): (change(back, root=False), "√D first"),
    ("6.2", "no weights"): (change(back, weights=False), "w is missing"),
    ("6.2", "another order"): (change(back, order=(2, 1, 0)), "another order"),
    ("6.2", "without lse"): (change(back, use_lse=False), "NaN came out|subtract lse"),
    ("6.2", "two gradients"): (change(back, order=(0, 1)), "three gradients"),
    ("6.2", "in place"): (in_place, "changed its inputs in place"),
    ("6.2", "autograd"): (by_autograd, "write it yourself"),
    ("6.2", "backward"): (by_backward, "write it yourself"),
    ("6.3", "mean"): (lambda a, l, b, m: ((a + b) / 2, torch.logaddexp(l, m)), "this is the mean"),
    ("6.3", "sum"): (lambda a, l, b, m: (a + b, torch.logaddexp(l, m)), "this is the sum"),
    ("6.3", "exchanged"): (lambda a, l, b, m: joined(a, m, b, l), "weights are exchanged"),
    ("6.3", "not divided"): (change(joined, divide=False, start=none), "not divided"),
    ("6.3", "weighed by lse"): (change(joined, weigh=lambda l, top: l), "by lse itself"),
    ("6.3", "only the larger"): (lambda a, l, b, m: (torch.where((l > m)[:, None], a, b), torch.maximum(l, m)), "only the larger"),
    ("6.3", "overflow"): (change(joined, start=none), "NaN came out|not finite"),
    ("6.3", "lse: the larger"): (change(joined, lse=torch.maximum), "the larger one"),
    ("6.3", "lse: the sum of both"): (change(joined, lse=torch.add), "larger one, or the sum"),
    ("6.3", "lse: no logarithm"): (change(joined, lse=lambda a, b: a.exp() + b.exp()), "the sum itself"),
    ("6.3", "lse: the mean"): (change(joined, lse=lambda a, b: (a + b) / 2), "mean of the logarithms"),
    ("6.3", "lse: log of the mean"): (change(joined, lse=lambda a, b: torch.logaddexp(a, b) - math.log(2)), "logarithm of the mean"),
    ("6.3", "one maximum for all rows"): (change(joined, start=lambda a, b: torch.maximum(a, b).max().expand_as(a)), "NaN came out|not finite|off"),
    ("6.3", "one result"): (lambda *a: joined(*a)[0], "two results"),
    ("6.3", "lse without a last dimension"): (lambda a, l, b, m: ((l.exp() * a + m.exp() * b) / (l.exp() + m.exp()), torch.logaddexp(l, m)), "stopped your code"),
    ("6.4", "counts the query"): (add(1, 0), "not the query itself"),
    ("6.4", "counts the query twice"): (add(1, 1), "not the query itself"),
    ("6.4", "right first"): (lambda f, T: SOLVED["find_window"](f, T)[::-1], "exchanged"),
    ("6.4", "never -1"): (lambda f, T: [T - 1 if x < 0 else x for x in SOLVED["find_window"](f, T)], "-1 where"),
    ("6.4", "the last query alone"): (last_query, "right was not looked at"),
    ("6.4", "the first query alone"): (first_query, "left was not looked at"),
    ("6.4", "a position for right"): (positions, "not a position"),
    ("6.4", "the query in the middle"): (in_the_middle, "one value at a time"),
    ("6.4", "four tokens"): (lambda f, T: SOLVED["find_window"](f, 4), "stopped your code"),
    ("6.4", "left alone"): (lambda f, T: SOLVED["find_window"](f, T)[:1], "left and right"),
    ("6.5", "keys alone"): (change(cache, both=1), "only once"),
    ("6.5", "four"): (change(cache, both=4), "twice too much"),
    ("6.5", "the last layer as the pattern says"): (change(cache, last=False), "always long"),
    ("6.5", "nothing cut"): (change(cache, cut=lambda T, short: T), "no layer is cut"),
    ("6.5", "short even if the text is shorter"): (change(cache, cut=lambda T, short: short), "only T tokens"),
    ("6.5", "the pattern once"): (change(cache, repeat=False), "pattern repeats"),
    ("6.5", "one more"): (change(cache, more=1), "no more"),
    ("6.5", "letters exchanged"): (change(cache, letter="S", last=False), "S is short"),
    ("6.5", "two bytes always"): (change(cache, times=lambda b: 2), "only once"),
    ("6.5", "no heads"): (lambda T, n, p, s, h, D, b=2: cache(T, n, p, s, 1, D, b), "heads are missing"),
    ("6.5", "no head size"): (lambda T, n, p, s, h, D, b=2: cache(T, n, p, s, h, 1, b), "size of a head"),
}  # fmt: skip
RIGHT = {
    ("6.1", "score by score"): kinds,
    ("6.1", "in numpy"): kinds_in_numpy,
    ("6.2", "row by row"): back_in_rows,
    ("6.2", "in float64"): in_float64,
    ("6.2", "masked afterwards"): back,
    ("6.3", "by softmax"): join_by_softmax,
    ("6.3", "in numpy"): join_in_numpy,
    ("6.4", "one value at a time"): one_at_a_time,
    ("6.4", "a list"): lambda f, T: list(SOLVED["find_window"](f, T)),
    ("6.5", "by layers"): cache,
    ("6.5", "real tensors"): cache_of_the_package,
}


SQUARE = [[True, False], [True, True]]
TIMES = {"mask": [(256, 1.0), (512, 4.0)], "tiles": [(256, 1.0), (512, 2.0)]}
FIGURES = {
    "masks": (lambda: figures.masks({"layer 0": SQUARE, "layer 1": [[True] * 2] * 2}), ["in layer 0 a query sees at most 2 of 2", "layer 1"]),
    "tiles": (lambda: figures.tiles([[1, 0, 0], [2, 1, 0]]), ["2 x 3 tiles", "3 skipped, 2 partly hidden, 1 all visible"]),
    "cost": (lambda: figures.cost(TIMES), ["mask: 4.0 times as long at 512 tokens as at 256", "tiles: 2.0"]),
    "losses": (lambda: figures.losses({"package": [6.9, 5.0], "yours": [6.9, 5.1]}), ["package from 6.900 to 5.000; yours from 6.900 to 5.100"]),
}  # fmt: skip
REFUSED = {
    "no mask": lambda: figures.masks({}),
    "a mask that is not square": lambda: figures.masks({"a": [[True, False]]}),
    "no tile": lambda: figures.tiles([]),
    "unequal rows": lambda: figures.tiles([[0, 1], [0]]),
    "a kind 3": lambda: figures.tiles([[3]]),
    "one length": lambda: figures.cost({"a": [(256, 1.0)]}),
    "no time": lambda: figures.cost({"a": [(256, 0.0), (512, 1.0)]}),
    "no curve": lambda: figures.losses({}),
}

globals().update(lesson_tests("06", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


# ---- what the lesson builds


@pytest.fixture(scope="module")
def built():
    return mine.load("attention", mine.source_of(lesson_cells("06"), "causal_attention"))


@pytest.mark.parametrize("window", [(-1, 0), (0, 0), (1, 0), (31, 0), (32, 0), (33, 0), (500, 0)])
@pytest.mark.parametrize("T", [1, 31, 32, 33, 100])
def test_the_lessons_attention_is_the_packages(built, window, T):
    """Outputs and gradients, for windows and lengths around the size of a tile."""
    q, k, v, dy = torch.randn(4, 2, T, 3, 8, generator=torch.Generator().manual_seed(T))
    found = []
    for f in (built, attention):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        y = f(*leaves, window)
        found.append([y, *torch.autograd.grad(y, leaves, dy)])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found))


def test_the_lessons_attention_is_an_answer_to_the_exercise_of_its_piece(built):
    assert run(mine.find("attention").exercise, built) is None
