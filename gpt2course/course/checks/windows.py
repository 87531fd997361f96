"""Checks of lesson 06's exercises: kinds of tiles, a backward pass, two softmaxes joined, a window found, a cache."""

import math

import torch
import torch.nn.functional as F

from gpt2course.attention import Cache, attention, sdpa, window_mask
from gpt2course.course.checks import Exercise, call, known, need, need_close, several, tensor, tried
from gpt2course.model import GPT, GPTConfig


def _random(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- 6.1


def _visible(T: int, window, minus_one=True) -> torch.Tensor:
    """(T, T), True where query i sees key j; -1 in the window is all of that side, if minus_one."""
    distance, (left, right) = torch.arange(T)[:, None] - torch.arange(T), window
    back = torch.ones(T, T, dtype=torch.bool) if left < 0 and minus_one else distance <= left
    return back if right < 0 and minus_one else back & (distance >= -right)


def _kinds(visible: torch.Tensor, rows: int, columns: int) -> list[list[int]]:
    parts = [[t.float().mean().item() for t in r.split(columns, dim=1)] for r in visible.split(rows)]
    return [[2 if p == 1 else 1 if p else 0 for p in row] for row in parts]


def _tile_kinds(T, window, rows, columns):
    return _kinds(_visible(T, window), rows, columns)


def tile_kinds(f) -> None:
    for T, window, rows, columns in (
        (8, (2, 0), 2, 2), (8, (3, 0), 4, 2), (9, (-1, 0), 2, 4), (10, (2, 1), 3, 2), (11, (0, 4), 2, 3),
        (7, (-1, -1), 3, 2), (12, (2, -1), 5, 3), (23, (9, 0), 4, 3), (6, (100, 0), 2, 2), (5, (0, 0), 1, 1),
    ):  # fmt: skip
        (left, right), whole = window, _visible(T, window)
        wanted, of = _kinds(whole, rows, columns), lambda w, r=rows, c=columns, T=T: _tile_kinds(T, w, r, c)
        errors = [
            (of((left - (left > 0), right)), "the window is one short: left = 2 shows two tokens and the query itself"),
            (of((left + (left >= 0), right)), "the window is one long: left = 2 shows two tokens and the query itself"),
            (of((left, 0)), "right is ignored; query i sees the keys up to i + right"),
            (of((-1, right)), "left is ignored; query i sees no key before i - left"),
            (of((right, left)), "left and right are exchanged, or queries and keys: a row of the list is a query tile"),
            (_kinds(_visible(T, window, False), rows, columns), "-1 stands for all of that side, not for a number"),
            ([[min(x, 1) for x in r] for r in wanted], "a tile in which all scores are visible is a 2"),
            ([[2 * (x > 0) for x in r] for r in wanted], "a tile in which only some scores are visible is a 1"),
            ([[2 * (x == 2) for x in r] for r in wanted], "a tile with some visible scores is a 1; it cannot be skipped"),
        ]  # fmt: skip
        what = f"T {T}, window {window}, tiles of {rows} x {columns}"
        got = tried(f, (T, window, rows, columns), what, "the last tiles may be smaller")
        got = several(got, None, "a list of lists")
        sizes = [len(several(r, None, "a list for each tile of queries")) for r in got]
        shape = f"{what}: {len(sizes)} rows of {set(sizes)} tiles, expected {len(wanted)} of {len(wanted[0])}"
        turned = sizes == [len(wanted)] * len(wanted[0])
        hint = "rows and columns are exchanged; rows are queries"
        hint = hint if turned else "the last tile may be smaller, but it counts"
        need(sizes == [len(wanted[0])] * len(wanted), f"{shape}: {hint}")
        known([list(r) for r in got], wanted, what, [(e, hint) for e, hint in errors if e != wanted],
              "0: none of its scores is visible, 1: some, 2: all; the last tile may be smaller")  # fmt: skip


# ---- 6.2


def _forward(q, k, v, left: int):
    """(y (T, D), log-sum-exp (T,)) of one head."""
    s = (q @ k.T / math.sqrt(q.size(1))).masked_fill(~window_mask(len(q), len(q), left, q.device), -math.inf)
    return s.softmax(-1) @ v, s.logsumexp(-1)


def _backward(q, k, v, y, lse, dy, left: int):
    hidden = ~window_mask(len(q), len(q), left, q.device)
    w = (q @ k.T / math.sqrt(q.size(1)) - lse[:, None]).exp().masked_fill(hidden, 0)
    ds = w * (dy @ v.T - (dy * y).sum(-1, keepdim=True)) / math.sqrt(q.size(1))
    return ds @ k, ds.T @ q, w.T @ dy


def _mistakes(q, k, v, y, lse, dy, left: int) -> list[dict]:
    """Gradients by known mistakes: {"dq", "dk", "dv", "hint"}, without what is right."""
    root, hidden = math.sqrt(q.size(1)), ~window_mask(len(q), len(q), left, q.device)
    plain = (q @ k.T / root - lse[:, None]).exp()
    w, dw, delta = plain.masked_fill(hidden, 0), dy @ v.T, (dy * y).sum(-1, keepdim=True)
    no_root, no_delta = w * (dw - delta), w * dw / root
    wide = (q @ k.T / root - lse[:, None]).exp().masked_fill(~window_mask(len(q), len(q), -1, q.device), 0)
    return [
        dict(dv=w @ dy, hint="the weights are not transposed: key j collects over the queries"),
        dict(dv=plain.T @ dy, hint="hidden scores have weights; where the mask hides, the weight is 0"),
        dict(dv=wide.T @ dy, hint="the window is ignored: tokens before i - left have weights"),
        dict(dv=(q @ k.T - lse[:, None]).exp().masked_fill(hidden, 0).T @ dy, hint="divide the scores by √D first"),
        dict(dq=no_root @ k, dk=no_root.T @ q, hint="the 1/√D of the scores is missing"),
        dict(dq=no_delta @ k, dk=no_delta.T @ q, hint="delta, a row's sum of dy · y, is not subtracted"),
        dict(dq=no_root.T @ k / root, dk=no_root @ q / root, hint="dS is transposed: dq = dS k, dk = dSᵀ q"),
        dict(dq=(dw - delta) @ k / root, dk=(dw - delta).T @ q / root, hint="dS is w · (dw - delta): w is missing"),
    ]  # fmt: skip


def flash_backward(f) -> None:
    for T, D, left, scale in ((1, 3, -1, 1), (5, 3, -1, 1), (7, 4, 2, 1), (6, 5, 0, 1), (9, 2, 3, 300)):
        q, k, v, dy = (_random(T, D, seed=10 * T + n) for n in range(4))
        q = q * scale
        y, lse = _forward(q, k, v, left)
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        wanted = torch.autograd.grad(sdpa(*(x[None, :, None] for x in leaves), left)[0, :, 0], leaves, dy)
        what, args = f"T {T}, D {D}, left {left}", (q, k, v, y, lse, dy, left)
        out = several(call(f, *args, keep="its inputs"), 3, "three gradients, dq, dk and dv")
        names = ("dq", "dk", "dv")
        got = [tensor(x, (T, D), f"{name} ({what})") for name, x in zip(names, out)]
        if all(torch.allclose(got[a], wanted[b].double(), atol=1e-4) for a, b in ((0, 2), (2, 0))):
            need(False, f"{what}: the gradients came out in another order; return dq, dk, dv")
        for name, mine, right in sorted(zip(names, got, wanted), reverse=True):  # dv first: it needs the weights alone
            if torch.allclose(mine, right.double(), rtol=1e-3, atol=1e-4 * scale):
                continue
            for wrong in _mistakes(*args):
                near = name in wrong and torch.allclose(mine, wrong[name].double(), rtol=1e-3, atol=1e-4 * scale)
                need(not near, f"{what}: {name} is off: {wrong['hint']}")
            large = " with large scores: subtract lse before exp" if scale > 1 else ""
            line = f"{what}: {name} is off{large}; w = exp(s - lse), dS = w · (dy vᵀ - delta) / √D"
            need_close(mine, right, line, 1e-4 * scale)


# ---- 6.3


def _joined(y1, lse1, y2, lse2):
    lse = torch.logaddexp(lse1, lse2)
    return (lse1 - lse).exp()[:, None] * y1 + (lse2 - lse).exp()[:, None] * y2, lse


def join(f) -> None:
    def both(*args, what):
        hint = "lse is (T,), y is (T, D): give lse a last dimension of 1 before they meet"
        y, lse = several(tried(f, args, what, hint), 2, "two results, y and lse")
        return tensor(y, args[0].shape, f"y ({what})"), tensor(lse, args[1].shape, f"lse ({what})")

    one, log = torch.ones(1, 1), lambda x: torch.tensor([math.log(x)])
    y, lse = both(one, log(1.0), 5 * one, log(3.0), what="y 1 and 5, lse log 1 and log 3")
    known(y.item(), 4.0, "y from y 1 with lse log 1 and y 5 with lse log 3", {
        3.0: "this is the mean; a part counts by exp(lse)", 6.0: "this is the sum; weigh a part by exp(lse - new lse)",
        2.0: "the weights are exchanged", 16.0: "the sum of exp(lse) y is not divided by the sum of exp(lse)",
        5.0: "the parts are weighed by lse itself, or only the larger counts; a part counts by exp(lse)",
    }, "(1 · 1 + 3 · 5) / (1 + 3)")  # fmt: skip
    known(lse.item(), math.log(4), "lse of log 1 and log 3", {
        math.log(3): "this is the larger one, or the sum; add the exponentials and take the logarithm",
        4.0: "this is the sum itself; take its logarithm", math.log(3) / 2: "this is the mean of the logarithms",
        math.log(2): "this is the logarithm of the mean; take that of the sum",
    }, "log(1 + 3)")  # fmt: skip
    q, k, v = (_random(7, 4, seed=n) for n in (61, 62, 63))
    for scale in (1.0, 300.0):
        s = scale * q @ k.T
        parts = [(s[:, c].softmax(-1) @ v[c], s[:, c].logsumexp(-1)) for c in (slice(0, 3), slice(3, 7))]
        what = f"keys 0 to 2 and 3 to 6, scores times {scale:g}"
        y, lse = both(*parts[0], *parts[1], what=what)
        need(y.isfinite().all(), f"{what}: y is not finite: subtract the larger lse before exp")
        need_close(y, s.softmax(-1) @ v, f"{what}: y is off: does each row have its own weights?", 1e-4)
        need_close(lse, s.logsumexp(-1), f"{what}: lse is off, y is right", 1e-3)
    nothing = torch.full((7,), -math.inf)
    for args in ((*parts[0], torch.zeros(7, 4), nothing), (torch.zeros(7, 4), nothing, *parts[0])):
        y, lse = both(*args, what="a part without any visible key, lse -inf")
        need_close(y, parts[0][0], "a part with lse -inf: y is off; it has no weight, the other has all")
        need_close(lse, parts[0][1], "a part with lse -inf: lse is off; it is that of the other")


# ---- 6.4


def _box(window, T: int, scale: float = 1.0):
    """Attention of T tokens with a window that nobody can see from outside."""
    hidden = ~_visible(T, window)

    def f(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        s = (scale * q @ k.mT / math.sqrt(q.size(-1))).masked_fill(hidden, -math.inf)
        return (s.softmax(-1) @ v).transpose(1, 2)

    return f


def _found(f, T: int) -> tuple[int, int]:
    y = f(torch.zeros(1, T, 1, T), torch.zeros(1, T, 1, T), torch.eye(T)[None, :, None])[0, :, 0]  # the weights (T, T)
    i, j = y.nonzero(as_tuple=True)
    left, right = (i - j).max().item(), (j - i).max().item()
    return (-1 if left == T - 1 else left, -1 if right == T - 1 else right)


def find_window(f) -> None:
    for window, T, scale in (((3, 0), 12, 1), ((0, 0), 9, 1), ((-1, 0), 10, 1), ((4, 2), 13, 1), ((0, 5), 11, 1),
                             ((-1, -1), 8, 1), ((2, -1), 9, 1), ((7, 1), 16, 30), ((1, 0), 64, 1)):  # fmt: skip
        (left, right), last = window, T - 1
        what = f"the window of a function with T {T}, in truth {window},"
        got = several(
            tried(f, (_box(window, T, scale), T), what, "f takes q, k, v as (B, T, H, D)"), 2, "left and right"
        )
        known([int(x) for x in got], [left, right], what, [(e, hint) for e, hint in [
            ([left + 1, right], "left counts the tokens before the query, not the query itself"),
            ([left + 1, right + 1], "left and right count other tokens, not the query itself"),
            ([right, left], "left and right are exchanged: left looks at earlier tokens"),
            ([left if left >= 0 else last, right if right >= 0 else last], "-1 where a query sees all of that side"),
            ([left, 0], "right was not looked at; the last query has no later token, look at earlier queries"),
            ([0, right], "left was not looked at; the first query has no earlier token, look at later queries"),
            ([left, last if right >= 0 else right], "is right the largest distance over all queries, not a position?"),
        ] if e != [left, right]], "change one value at a time and see which outputs change")  # fmt: skip


# ---- 6.5


def _cache_bytes(T, n_layer, pattern, short, n_kv_head, head_dim, number_bytes=2) -> int:
    long = [i == n_layer - 1 or pattern[i % len(pattern)] == "L" for i in range(n_layer)]
    return sum(T if x else min(T, short) for x in long) * 2 * n_kv_head * head_dim * number_bytes


def _real_bytes(T, n_layer, pattern, short, n_kv_head, head_dim, number_bytes=4) -> int:
    """The bytes of the package's cache after T tokens."""
    sizes = dict(n_layer=n_layer, window_pattern=pattern, short_window=short, n_head=n_kv_head, n_kv_head=n_kv_head)
    config, cache = GPTConfig(vocab_size=32, sequence_len=T, n_embd=n_kv_head * head_dim, **sizes), Cache()
    model = GPT(config).init_weights(1)
    with torch.no_grad():
        model(torch.zeros(1, T, dtype=torch.long), cache=cache)
    return sum(x.numel() * x.element_size() for pair in cache.past.values() for x in pair)


def cache_bytes(f) -> None:
    for args in ((2048, 24, "SSSL", 1024, 12, 128), (2048, 24, "L", 1024, 12, 128), (20, 5, "SSL", 8, 2, 16, 4),
                 (6, 3, "SSS", 8, 2, 16, 4),
                 (31, 7, "SSSL", 5, 3, 8, 4), (1, 2, "SL", 4, 1, 32, 4)):  # fmt: skip
        T, n, pattern, short, heads, D, *size = args
        right, one = _cache_bytes(*args), 2 * heads * D * (size or [2])[0]
        real = _real_bytes(*args) if size else right
        letters = [pattern[i % len(pattern)] for i in range(n)]
        no_last, nothing_cut = sum(T if x == "L" else min(T, short) for x in letters), n * T
        once = (pattern + "L" * n)[:n]
        known(call(f, *args, keep="its inputs"), real, f"the bytes of the cache for {args}", [(e, hint) for e, hint in [
            (no_last * one, "the last layer is always long, whatever the pattern says"),
            (nothing_cut * one, "no layer is cut: a short layer keeps its last `short` tokens"),
            (right // 2, "keys and values are both kept, each number_bytes; something is there only once"),
            (right * 2, "twice too much: number_bytes is the size of one number"),
            (right // heads, "the heads are missing"),
            (right // D, "the size of a head is missing"),
            (right + sum(x == "S" for x in letters[:-1]) * (T > short) * one, "a short layer keeps `short`, no more"),
            (sum(short if x == "S" else T for x in [*letters[:-1], "L"]) * one, "there are only T tokens to keep"),
            (_cache_bytes(T, n, once, short, heads, D, *size), "the pattern repeats over the layers"),
            (sum(T if x == "S" else min(T, short) for x in letters) * one, "S is short, L is long"),
        ] if e != real], "tokens of each layer, times 2 (key, value), heads, head_dim, number_bytes")  # fmt: skip


EXERCISES = (
    Exercise("6.1", "Which tiles are worth computing?", tile_kinds, points=3, minutes=15, difficulty=3, importance=4,
             reference=_tile_kinds),
    Exercise("6.2", "FlashAttention's backward", flash_backward, points=4, minutes=25, difficulty=5, importance=4,
             forbids=(attention, sdpa, F.scaled_dot_product_attention, torch.autograd.grad, torch.autograd.backward)),
    Exercise("6.3", "Two halves of a softmax", join, points=3, minutes=15, difficulty=3, importance=4,
             nan="-inf minus -inf, or exp of a large lse; subtract the larger of the two first"),
    Exercise("6.4", "Measure a window from outside", find_window, points=2, minutes=10, difficulty=3, importance=3),
    Exercise("6.5", "The memory of a cache", cache_bytes, points=2, minutes=10, difficulty=2, importance=4),
)  # fmt: skip
