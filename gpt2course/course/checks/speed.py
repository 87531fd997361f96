"""Checks of lesson 12's exercises: Amdahl's law backwards, a fast step, a stopwatch, a bill, a scale for each row."""

import math
import random
import time

import torch
import torch.nn.functional as F

from gpt2course.course.checks import Exercise, call, known, need, need_close, number, several, tensor, tried
from gpt2course.fast import fp8


def _random(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- 12.1


def _head_gain(ms, part, factor, target):
    total, own = sum(ms.values()), ms[part]
    rest = total - own
    left = total / target - rest
    return total / (rest + own / factor), total / rest if rest else math.inf, own / left if left > 1e-12 else math.inf


def head_gain(f) -> None:
    for ms, part, factor, target in (
        ({"head": 25.0, "rest": 75.0}, "head", 5.0, 1.25), ({"a": 300.0, "head": 40.0, "b": 316.0}, "head", 1.38, 1.01),
        ({"a": 10.0, "b": 30.0, "c": 20.0}, "b", 3.0, 1.5), ({"a": 10.0, "b": 30.0, "c": 20.0}, "b", 3.0, 4.0),
        ({"a": 8.0, "b": 8.0}, "a", 2.0, 2.0), ({"a": 8.0, "b": 24.0}, "a", 0.5, 1.2),
    ):  # fmt: skip
        total, own = sum(ms.values()), ms[part]
        rest, share = total - own, own / total
        gain, limit, needed = _head_gain(ms, part, factor, target)
        what = f"{ms}, {part} {factor} times faster"
        got = several(call(f, dict(ms), part, factor, target, keep="its inputs"), 3, "three numbers")
        got = [number(x, f"number {n + 1}") for n, x in enumerate(got)]
        known(got[0], gain, f"the whole for {what},", [(e, hint) for e, hint in [
            (factor, "this is the part's factor; the rest of the step stays as it is"),
            (1 / gain, "this is the new time as a share; how many times faster is its inverse"),
            (gain - 1, "this is the gain; a whole that is not faster is 1"), (100 * (gain - 1), "this is a percentage"),
            (1 / (1 - share / factor), "the part now takes own / factor; what it saves is the difference"),
            (1 + share * (factor - 1), "times do not add like this: add up the new milliseconds"),
            (total / (rest + own * factor), "the part became slower: divide its time by the factor"),
            (rest / (rest + own / factor), "the old time is the whole step's, the part included"),
        ] if not math.isclose(e, gain)], "old milliseconds divided by new ones")  # fmt: skip
        need(not math.isinf(got[1]), f"the limit for {what} came out as infinity: the rest still takes its time")
        known(got[1], limit, f"the limit for {what},", [(e, hint) for e, hint in [
            (1 / share, "this is the limit if only the part were left; the rest is what stays"),
            (gain, "this is the whole with the factor; let the part take 0 ms"),
            (rest / total, "this is the time that is left, as a share"), (limit - 1, "this is the gain"),
        ] if not math.isclose(e, limit)], "the whole divided by what stays")  # fmt: skip
        named = f"the factor for a target of {target}, {ms}, {part},"
        if math.isinf(needed):
            line = f"{named} came out as {got[2]:.4g}: the rest alone takes too long, so it is math.inf"
            need(math.isinf(got[2]) and got[2] > 0, line)
            continue
        need(not math.isinf(got[2]), f"{named} came out as infinity: a finite factor is enough")
        known(got[2], needed, named, [(e, hint) for e, hint in [
            (target, "this is the target of the whole; the part needs more, as the rest stays"),
            (1 / needed, "this is the share of its time that the part may keep; turn it over"),
        ] if e != needed], "the milliseconds that the part may take, after the rest")  # fmt: skip


# ---- 12.2

AIM = 2.0  # how many times as fast as the plain step


def plain_step(p, idx, targets, window, rate):
    """The slow step of exercise 12.2: (loss, new parameters)."""
    emb, qkv, out, head = (p[name].clone().requires_grad_() for name in ("emb", "qkv", "out", "head"))
    (T,), (V, C) = idx.shape, emb.shape
    x = F.one_hot(idx, V).float() @ emb  # (T, C)
    q, k, v = (x @ qkv.T).chunk(3, dim=1)
    distance = torch.arange(T)[:, None] - torch.arange(T)
    scores = (q @ k.T / math.sqrt(C)).masked_fill((distance < 0) | (distance > window), -math.inf)
    x = x + scores.softmax(1) @ v @ out.T
    losses = -(F.one_hot(targets.clamp(min=0), V) * (x @ head.T).log_softmax(1)).sum(1)
    loss = losses[targets >= 0].mean()
    loss.backward()
    new = dict(emb=emb, qkv=qkv, out=out, head=head)
    return loss.item(), {name: (w - rate * w.grad).detach() for name, w in new.items()}


def _task(T: int, V: int, C: int, keep: float, seed: int):
    """Parameters, tokens, and targets of which a share `keep` counts."""
    p = dict(emb=_random(V, C, seed=seed), qkv=_random(3 * C, C, seed=seed + 1) / C**0.5,
             out=_random(C, C, seed=seed + 2) / C**0.5, head=_random(V, C, seed=seed + 3) / C**0.5)  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    idx, targets = torch.randint(V, (2, T), generator=g)
    targets[torch.rand(T, generator=g) >= keep] = -1
    targets[T // 2] = V - 1
    return p, idx, targets


def _seconds(f, args) -> float:
    began = time.process_time()
    f(*args)
    return time.process_time() - began


def fast_step(f) -> None:
    for T, V, C, keep, window in ((5, 7, 4, 1.0, 2), (67, 13, 8, 0.3, 0), (130, 31, 8, 0.0, 500), (201, 11, 4, 0.6, 64),
                                  (200, 53, 8, 0.25, 33)):  # fmt: skip
        args, what = _task(T, V, C, keep, seed=T), f"T {T}, V {V}, window {window}, {keep:.0%} of the targets"
        loss, new = plain_step(*args, window, 0.5)
        p = {name: w.clone() for name, w in args[0].items()}
        hint = "lengths need not divide; one target may count"
        got = tried(lambda *rest, p=p: f(p, *rest), (*args[1:], window, 0.5), what, hint)
        need(all(torch.equal(p[name], w) for name, w in args[0].items()), "your answer changed the parameters in place")
        got = several(got, 2, "the loss and a dictionary")
        every = plain_step(args[0], args[1], args[2].clamp(min=0), window, 0.5)[0]
        share = (args[2] >= 0).float().mean().item()
        known(got[0], loss, f"the loss for {what}", [(e, hint) for e, hint in [
            (every, "targets of -1 do not count"), (loss * share, "divide by the targets that count, not by all"),
            (loss * share * T, "this is the sum; the loss is the mean over the targets that count"),
            *((plain_step(*args, window + by, 0.5)[0], "the window is off by one: W and the query") for by in (1, -1)),
            (plain_step(*args, T, 0.5)[0], "the window is ignored"),
        ] if abs(e - loss) > 4e-4 * loss], "the same loss as the plain step's", rtol=1e-4)  # fmt: skip
        four = isinstance(got[1], dict) and got[1].keys() == new.keys()
        need(four, "the second result is {name: new parameter}, for all four")
        for name, wanted in new.items():
            mine = tensor(got[1][name], wanted.shape, f"{name} ({what})")
            need(not torch.equal(mine, args[0][name].double()), f"{name} ({what}) did not move: w - rate * gradient")
            uphill = torch.allclose(mine, (2 * args[0][name] - wanted).double(), atol=1e-4)
            need(not uphill, f"{name} ({what}) went uphill: subtract the gradient")
            need_close(mine, wanted, f"{name} ({what}) differs from the plain step's", 2e-5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = [math.inf, math.inf]
        for round in range(9):  # the first does not count; a fast answer needs three, a slow one gets all
            args = (*_task(1024, 4096, 64, 0.25, seed=1000 + round), 32, 0.1)
            taken = [_seconds(g, args) for g in ((plain_step, f) if round % 2 else (f, plain_step))]
            taken = taken if round % 2 else taken[::-1]
            best = [min(a, b) for a, b in zip(best, taken)] if round else best
            if round >= 3 and best[0] >= 1.2 * AIM * best[1]:
                break
    finally:
        torch.set_num_threads(threads)
    line = f"the same numbers, in {1e3 * best[1]:.0f} ms against the plain step's {1e3 * best[0]:.0f}"
    need(best[0] >= AIM * best[1], f"{line}, but {AIM:g} times as fast is asked for; what is computed in vain?")


# ---- 12.3


class _Machine:
    """A clock and two functions that take some of its time: first calls, heat, other programs."""

    def __init__(self, a, b, first=0.0, heat=0.0, bursts=0.0, seed=1):
        self.time, self.calls, self.bursts, self.heat = 0.0, 0, bursts, heat
        self.random, self.first = random.Random(seed), dict(a=first, b=first / 3)
        self.costs = dict(a=a, b=b)

    def run(self, name: str) -> None:
        self.calls += 1
        slow = (1 + self.heat) ** self.calls * (self.random.uniform(3, 12) if self.random.random() < self.bursts else 1)
        self.time += self.costs[name] * slow + self.first[name]
        self.first[name] = 0.0
        need(self.calls <= 100, "more than 100 calls of a and b")


def times_as_fast(f) -> None:
    for a, b, more, hint in (
        (3.0, 2.0, {}, "on a steady machine: time of a / time of b"),
        (0.02, 0.05, {}, "on a steady machine: time of a / time of b"),
        (0.3, 0.25, dict(first=9.0), "where first calls are slow: a first call must not count"),
        (1.0, 1.2, dict(heat=0.01), "on a machine that gets hot: take turns, so that the heat meets both"),
        (1.0, 0.8, dict(heat=0.01, first=50.0), "on a machine that gets hot: take turns, so that the heat meets both"),
        (2.0, 1.9, dict(bursts=0.15, seed=3), "where another program disturbs: a mean takes the disturbance in"),
        (1.0, 1.6, dict(bursts=0.15, seed=4), "where another program disturbs: a mean takes the disturbance in"),
        (0.8, 1.0, dict(bursts=0.1, first=5.0, heat=0.004, seed=5), "with all three: first calls, heat, disturbances"),
    ):  # fmt: skip
        m = _Machine(a, b, **more)
        got = number(f(lambda m=m: m.run("a"), lambda m=m: m.run("b"), lambda m=m: m.time), "the result")
        need(m.calls >= 2, f"{m.calls} calls of a and b: nothing was measured")
        off = got / (a / b) - 1
        line = f"{got:.4g} came out, expected {a / b:.4g} within 4 %, {hint}"
        need(abs(got * a / b - 1) > 0.04 or abs(off) <= 0.04, f"{line}; this is time of b / time of a")
        need(abs(off) <= 0.04, line)


# ---- 12.4


def _pays(steps, ms, price, once, faster, more):
    a_step = ms / 1000 * (1 - more / faster)
    saved = (steps * a_step - once) * price / 3600
    return saved, math.floor(once / a_step + 1e-9) + 1 if a_step > 0 else math.inf


def pays(f) -> None:
    for args in ((1000, 500.0, 24.0, 60.01, 1.25, 1.0), (14889, 832.0, 24.0, 120.0, 1.17, 1.17 / 1.05),
                 (400, 250.0, 10.0, 90.0, 2.0, 1.0), (5000, 300.0, 18.0, 30.0, 1.1, 1.2),
                 (70, 1000.0, 36.0, 7.6, 1.5, 1.05), (2000, 100.0, 8.0, 0.0, 4.0, 1.0)):  # fmt: skip
        steps, ms, price, once, faster, more = args
        saved, least = _pays(*args)
        what = f"{steps} steps of {ms:g} ms at ${price:g}, once {once:g} s, faster {faster:.4g}, more {more:.4g}"
        got = several(call(f, *args), 2, "dollars and steps")
        hours = lambda s, price=price: s * price / 3600
        known(got[0], saved, f"the dollars saved by {what},", [(e, hint) for e, hint in [
            (hours(steps * ms / 1000 * (1 - more / faster)), "the seconds at the start cost too"),
            (hours(steps * ms / 1000 * (1 - 1 / faster) - once), "the changed run needs `more` times as many steps"),
            (-saved, "this is the cost; savings have the other sign"), (max(saved, 0), "a change may cost: negative"),
            (saved * 1000, "a step's time is in milliseconds"), (saved * 3600, "the price is for an hour"),
            (hours(steps * ms / 1000 * more / faster + once), "this is the bill of the changed run; what is saved?"),
            (hours(steps * ms / 1000 * (1 - more * faster) - once), "faster: divide a step's time by it"),
        ] if not math.isclose(e, saved, abs_tol=1e-9)], "seconds of both runs, start included", 1e-5)  # fmt: skip
        n = number(got[1], "the second number")
        named = f"the least steps for {what},"
        if math.isinf(least):
            line = f"{named} came out as {n:.6g}: each step costs more than before, so it is math.inf"
            need(math.isinf(n) and n > 0, line)
            continue
        need(not math.isinf(n), f"{named} came out as infinity: each step saves something")
        need(n == int(n), f"{named} came out as {n:.6g}, expected a whole number")
        known(n, least, named, [(e, hint) for e, hint in [
            (least - 1, "with so many steps it does not save yet"),
            (math.floor(once / (ms / 1000 * (1 - 1 / faster))) + 1, "the changed run needs `more` times as many steps"),
        ] if e != least], "once, divided by what a step saves; and then one that saves", 1e-9)  # fmt: skip


# ---- 12.5


def _rows8(x, W):
    scale = [torch.exp2(torch.floor(torch.log2(448 / t.abs().amax(1, keepdim=True).clamp(min=1e-12)))) for t in (x, W)]
    a, b = ((t * s).to(torch.float8_e4m3fn).float() for t, s in zip((x, W), scale))
    return a @ b.T / scale[0] / scale[1].T


def rows8(f) -> None:
    x, W = _random(11, 64, seed=1), _random(7, 64, seed=2)
    exact = (x @ W.T).double()
    got = tensor(call(f, x, W, keep="its inputs"), (11, 7), "y", "x is (M, K), W (N, K), y (M, N)")
    need(got.isfinite().all(), "y is not finite: e4m3 ends at 448")
    off = ((got - exact).norm() / exact.norm()).item()
    need(off > 1e-3, f"y is off by {off:.1e} only, so this is no product of 8-bit numbers: cast both to float8_e4m3fn")
    ratio = (got * exact).sum() / (exact * exact).sum()
    hint = "divide by both scales" if ratio > 1 else "e4m3 ends at 448; does a scaled row go beyond?"
    need(abs(ratio - 1) < 0.1, f"y came out about {ratio:.3g} times the right size: {hint}")
    need(off < 0.06, f"y is off by {off:.1%}, more than 8 bits explain: is each factor scaled by its own scale?")
    for name, change in (("x", (1e6, 1.0)), ("W", (1.0, 1e6))):
        big, wide = x.clone(), W.clone()
        big[3], wide[5] = big[3] * change[0], wide[5] * change[1]
        exact = (big @ wide.T).double()
        got = tensor(call(f, big, wide, keep="its inputs"), (11, 7), "y")
        by = (got - exact).norm(dim=1 if name == "x" else 0) / exact.norm(dim=1 if name == "x" else 0)
        row = f"a row of {name} is a million times the others: the error of another row is {by.max().item():.1%}"
        need(by.isfinite().all() and by.max() < 0.08, f"{row}; each row of {name} needs its own scale")
    empty = x * (torch.arange(11) != 2)[:, None]
    got = tensor(call(f, empty, W, keep="its inputs"), (11, 7), "y")
    need((got[2] == 0).all(), "a row of zeros must give zeros: its largest value is 0, and nothing may divide by it")
    kept = [*range(2), *range(3, 11)]
    need_close(got[kept], torch.as_tensor(f(x, W))[kept], "another row of x changed, and this row's y with it", 1e-4)


EXERCISES = (
    Exercise("12.1", "Amdahl on the head", head_gain, points=2, minutes=10, difficulty=2, importance=4,
             reference=_head_gain),
    Exercise("12.2", "The fastest full step on your machine", fast_step, points=4, minutes=30, difficulty=4,
             importance=4),
    Exercise("12.3", "A fair stopwatch", times_as_fast, points=3, minutes=20, difficulty=3, importance=5),
    Exercise("12.4", "When does a change pay?", pays, points=2, minutes=10, difficulty=2, importance=4),
    Exercise("12.5", "One scale a row", rows8, points=3, minutes=15, difficulty=3, importance=3,
             forbids=(fp8.scale_for, fp8.cast), nan="the largest value of a row of zeros is 0; and e4m3 ends at 448"),
)  # fmt: skip
