"""Lesson 04: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lesson_cases import cells, change, lesson_tests

from gpt2course.course.checks.training import CONFIG
from gpt2course.course.figures import training as figures

NAMES = {
    "4.1": ("rate",),
    "4.2": ("accumulate",),
    "4.3": ("noise_scale",),
    "4.4": ("wrong_number",),
    "4.5": ("paid_hours", "best_minutes"),
}


# ---- 4.1, the schedule


def lr(step, steps, warmup, warmdown, final, up=1, shift=0, length=0, line=None, start=0):
    """The schedule with one thing wrong."""
    if step < warmup:
        return (step + up) / warmup
    if step <= steps - warmdown + start:
        return 1.0
    left = (steps - shift - step) / (warmdown + length)
    return line(left, final) if line else left + (1 - left) * final


def too_late(step, steps, warmup, warmdown, final):
    return lr(step, steps, warmup, warmdown // 2, final)


def from_the_warmup_on(step, steps, warmup, warmdown, final):
    return lr(step, steps, warmup, steps - warmup, final)


def from_the_beginning(step, steps, warmup, warmdown, final):
    return lr(step, steps, warmup, steps if warmdown else 0, final)


def after_warmdown_steps(step, steps, warmup, warmdown, final):
    return lr(step, steps, warmup, steps - warmdown if warmdown else 0, final)


def with_min(step, steps, warmup, warmdown, final):
    up = (step + 1) / warmup if warmup else 1
    left = (steps - step) / warmdown if warmdown else 1
    return min(1, up, left + (1 - left) * final)


def table(step, steps, warmup, warmdown, final):
    up = np.linspace(0, 1, warmup + 1)[1:]
    down = np.linspace(1, final, warmdown + 1)[:-1]
    return np.concatenate([up, np.ones(steps - warmup - warmdown), down])[step]


def as_tensor(step, steps, warmup, warmdown, final):
    if step < warmup:
        return torch.tensor((step + 1) / warmup)
    done = torch.tensor(max(0, step - (steps - warmdown))) / max(warmdown, 1)
    return 1 + (final - 1) * done


# ---- 4.2, gradient accumulation


def counted(rows):
    return int((rows[:, 1:] >= 0).sum())


def grow(
    model, rows, size, cut="split", weigh="targets", clear="first", loss_of="right", step=False, heap=False, drop=False
):
    """Gradient accumulation with one thing wrong."""
    if clear == "first":
        model.zero_grad()
    pieces = getattr(rows, cut)(size)
    if drop:
        pieces = [p for p in pieces if len(p) == len(pieces[0])]
    total, kept = 0.0, []
    for piece in pieces:
        if clear == "inside":
            model.zero_grad()
        weight = {
            "targets": counted(piece) / counted(rows),
            "rows": len(piece) / len(rows),
            "sum": 1.0,
            "pieces": 1 / len(pieces),
            "size": size / len(rows),
            "places": piece[:, 1:].numel() / counted(rows),
            "total": len(piece),
        }[weigh]
        mean = model(piece[:, :-1], piece[:, 1:])
        loss = mean * weight
        if heap:
            kept.append(loss)
        else:
            loss.backward()
        total += {"pieces": mean.item() / len(pieces), "sum": mean.item()}.get(loss_of, loss.item())
    if heap:
        sum(kept).backward()
    if clear == "last":
        model.zero_grad()
    if step:
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
    return {"last": mean.item(), "none": None}.get(loss_of, total)


def all_at_once(model, rows, size):
    model.zero_grad()
    loss = model(rows[:, :-1], rows[:, 1:])
    loss.backward()
    return loss.item()


def never_backward(model, rows, size):
    model.zero_grad(set_to_none=True)
    return sum(model(p[:, :-1], p[:, 1:]).item() * counted(p) for p in rows.split(size)) / counted(rows)


def with_ranges_and_logits(model, rows, size):
    for p in model.parameters():
        p.grad = None
    total = torch.zeros(())
    for i in range(0, len(rows), size):
        x, y = rows[i : i + size, :-1], rows[i : i + size, 1:]
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum", ignore_index=-1) / counted(rows)
        loss.backward()
        total += loss.detach()
    return total


def with_autograd(model, rows, size):
    params = list(model.parameters())
    sums, total = [torch.zeros_like(p) for p in params], 0.0
    for piece in reversed(rows.split(size)):
        loss = model(piece[:, :-1], piece[:, 1:], reduction="sum")
        for s, g in zip(sums, torch.autograd.grad(loss, params)):
            s += g / counted(rows)
        total += loss.item()
    for p, s in zip(params, sums):
        p.grad = s
    return total / counted(rows)


def divide_at_the_end(model, rows, size):
    model.zero_grad()
    total = 0.0
    for piece in rows.split(size):
        loss = counted(piece) * model(piece[:, :-1], piece[:, 1:])
        loss.backward()
        total += loss.detach()
    for p in model.parameters():
        p.grad /= counted(rows)
    return (total / counted(rows)).item()


# ---- 4.3, the noise scale


def squares(lengths):
    return sum(x**2 for x in lengths) / len(lengths)


def noise(small, big, b, B, mean=squares, part=None, gradient=None, variance=None, out=lambda S, G: S / G):
    """The noise scale with one thing wrong."""
    few, many = mean(small[part] if part else small), mean(big[part] if part else big)
    S = variance(few, many, b, B) if variance else (few - many) / (1 / b - 1 / B)
    G = gradient(few, many, b, B) if gradient else (B * many - b * few) / (B - b)
    return out(S, G)


def of_pairs(small, big, b, B, low=-math.inf, ratios=False):
    pairs = [noise([x], [y], b, B, out=lambda S, G: (max(S, low), max(G, low))) for x, y in zip(small, big)]
    if ratios:
        return sum(S / G for S, G in pairs) / len(pairs)
    return sum(S for S, _ in pairs) / sum(G for _, G in pairs)


def sorts(small, big, b, B):
    small.sort(reverse=True)
    return noise(small, big, b, B)


def by_a_line(small, big, b, B):  # mean squares against 1 / B: the slope over the height at 0
    slope, height = np.polyfit([1 / b, 1 / B], [np.mean(np.square(small)), np.mean(np.square(big))], 1)
    return slope / height


def by_solving(small, big, b, B):
    means = torch.stack([torch.tensor(x, dtype=torch.float64).square().mean() for x in (small, big)])
    G, S = torch.linalg.solve(torch.tensor([[1, 1 / b], [1, 1 / B]], dtype=torch.float64), means)
    return S / G


def by_one_unknown(small, big, b, B):
    few, many = squares(small), squares(big)
    S = (few - many) * b * B / (B - b)
    return S / (many - S / B)


# ---- 4.4, one wrong number


def says(*got):
    """An answer that returns this."""
    return lambda: got


def by_steps():
    config = {"steps": 48, "warmdown": 12}
    return ["warmdown_ratio", config["warmdown"] / config["steps"]]


@pytest.mark.slow
def test_the_hints_of_the_wrong_number_are_what_runs_show():
    """Every step and size that a hint names, by running it; and the right value gives the log."""
    space = {}
    exec(next(c.source for c in cells("04", "setup") if "target = [" in c.source), space)
    losses, apart, target = space["losses"], space["apart"], space["target"]
    assert space["config"] == CONFIG and len(target) == 48

    def parts(**changes):
        found = apart(losses(**changes))
        return next((i for i, x in enumerate(found) if abs(x) > 1e-3), None), max(map(abs, found))

    assert parts(warmdown_ratio=0.25) == (None, pytest.approx(0, abs=2e-4))
    assert parts()[0] == 26 and parts(warmdown_ratio=0.3)[0] > 26
    for name in ("matrix_adamw_lr", "wte_lr", "head_lr", "weight_decay", "warmup_steps"):
        assert parts(**{name: CONFIG[name] * 2})[0] <= 2, name
    for value in (0.3, 0.5, 0.8):
        first, most = parts(final_lr=value)
        assert first >= 26 and most > 0.06


# ---- 4.5, checkpoints


def hours(steps, seconds, every, save, crashes, restart, saves=math.ceil, lost=0.5, unit=60, per_crash=1):
    train = steps * seconds / 60
    return (train + saves(train / every) * save / unit + crashes * (every * lost + restart * per_crash)) / 60


def best(train_hours, save, crashes, inside=2.0, unit=60):
    return math.sqrt(inside * save * train_hours * 3600 / crashes) / unit


def by_search(train_hours, save, crashes):
    minutes = np.linspace(0.5, 300, 30_000)
    return minutes[np.argmin(save * train_hours * 3600 / (minutes * 60) + crashes * minutes * 30)]


def with_a_walk(steps, seconds, every, save, crashes, restart):
    total, since = 0.0, 0.0
    for step in range(1, steps + 1):
        total, since = total + seconds, since + seconds
        if since >= every * 60 - 1e-6 or step == steps:
            total, since = total + save, max(0.0, since - every * 60)
    return torch.tensor((total + crashes * (restart + every / 2) * 60) / 3600)


WRONG = {
    ("4.1", "warm-down too late"): (too_late, "too late"),
    ("4.1", "begins one step early"): (change(lr, length=1, start=-1), "a step"),
    ("4.1", "0 at the last step"): (change(lr, shift=1, start=-1), "wasted|wastes"),
    ("4.1", "0 at the last step, begun in time"): (change(lr, shift=1, length=-1), "wasted"),
    ("4.1", "0 at the first step"): (change(lr, up=0), "step 0"),
    ("4.1", "final ignored"): (change(lr, line=lambda left, final: left), "final is ignored"),
    ("4.1", "final as a floor"): (change(lr, line=max), "final is ignored"),
    ("4.1", "final added"): (change(lr, line=lambda left, final: left + final), "added on top"),
    ("4.1", "falls from the warm-up on"): (from_the_warmup_on, "without warm-up and warm-down"),
    ("4.1", "falls from the first step on"): (from_the_beginning, "from the first step on"),
    ("4.1", "falls after warmdown steps"): (after_warmdown_steps, "during the last ones"),
    ("4.1", "never falls"): (lambda s, n, up, down, end: lr(s, n, up, 0, end), "never falls"),
    ("4.1", "no warm-up"): (lambda s, n, up, down, end: lr(s, n, 0, down, end), "no warm-up"),
    ("4.1", "no return"): (lambda *a: None, "return missing"),
    ("4.2", "sum for mean"): (change(grow, weigh="sum"), "sum of the pieces"),
    ("4.2", "zero_grad inside the loop"): (change(grow, clear="inside"), "only the last piece"),
    ("4.2", "uneven pieces count alike"): (change(grow, weigh="pieces"), "counts as much as"),
    ("4.2", "uneven pieces count as whole ones"): (change(grow, weigh="size"), "share of them"),
    ("4.2", "pieces count by their rows"): (change(grow, weigh="rows"), "counts by its rows"),
    ("4.2", "padding counts"): (change(grow, weigh="places"), "does each piece count by its share"),
    ("4.2", "rows for weights"): (change(grow, weigh="total"), "times the mean gradient"),
    ("4.2", "never cleared"): (change(grow, clear="never"), "earlier step"),
    ("4.2", "cleared after the last backward"): (change(grow, clear="last"), "is None"),
    ("4.2", "zeros after the last backward"): (lambda m, rows, size: (grow(m, rows, size), m.zero_grad(set_to_none=False))[0], "every gradient is 0"),
    ("4.2", "all at once"): (all_at_once, "rows at once"),
    ("4.2", "one backward at the end"): (change(grow, heap=True), "no backward pass ran"),
    ("4.2", "drops the last piece"): (change(grow, drop=True), "only 6 rows went"),
    ("4.2", "makes a step"): (change(grow, step=True), "weights changed"),
    ("4.2", "no backward"): (never_backward, "is None"),
    ("4.2", "loss of the last piece"): (change(grow, loss_of="last"), "last piece's loss"),
    ("4.2", "loss as a mean of means"): (change(grow, loss_of="pieces"), "count by their targets"),
    ("4.2", "loss as a sum"): (change(grow, loss_of="sum"), "sum over the pieces"),
    ("4.2", "no loss"): (change(grow, loss_of="none"), "return missing"),
    ("4.3", "not squared"): (change(noise, mean=lambda x: sum(x) / len(x)), "not squared"),
    ("4.3", "the mean length squared"): (change(noise, mean=lambda x: (sum(x) / len(x)) ** 2), "square each length"),
    ("4.3", "the first alone"): (change(noise, part=slice(1)), "only the first pair"),
    ("4.3", "the last alone"): (change(noise, part=slice(-1, None)), "only the last pair"),
    ("4.3", "mean of ratios"): (change(of_pairs, ratios=True), "mean of ratios"),
    ("4.3", "cut off at 0"): (change(of_pairs, low=0), "negative estimates count"),
    ("4.3", "pairs by zip"): (of_pairs, "cut to the shorter one"),
    ("4.3", "sums"): (change(noise, mean=lambda x: sum(y * y for y in x)), "these are sums"),
    ("4.3", "sizes swapped"): (lambda small, big, b, B: noise(small, big, B, b), "swapped"),
    ("4.3", "the wrong sign"): (change(noise, out=lambda S, G: -S / G), "wrong sign"),
    ("4.3", "no 1 / B"): (change(noise, variance=lambda m, M, b, B: m - M), "still to be divided"),
    ("4.3", "B for 1 / B"): (change(noise, variance=lambda m, M, b, B: (m - M) / (B - b)), "falls as 1 / B"),
    ("4.3", "the large batch as the truth"): (lambda s, l, b, B: b * (squares(s) / squares(l) - 1), "free of noise"),
    ("4.3", "the large batch for |G|²"): (change(noise, gradient=lambda m, M, b, B: M), "the large batch alone"),
    ("4.3", "upside down"): (change(noise, out=lambda S, G: G / S), "upside down"),
    ("4.3", "over |G|"): (change(noise, out=lambda S, G: S / math.sqrt(G)), "not by |G|^2"),
    ("4.3", "tr(S)"): (change(noise, out=lambda S, G: S), "not yet divided"),
    ("4.3", "|G|²"): (change(noise, out=lambda S, G: G), "belongs under tr(S)"),
    ("4.3", "both"): (change(noise, out=lambda S, G: (S, G)), "expected one number"),
    ("4.3", "no return"): (lambda *a: None, "return missing"),
    ("4.4", "a rate"): (says("wte_lr", 0.25), "from step 1 on"),
    ("4.4", "the decay"): (says("weight_decay", 0.02), "up to step 25"),
    ("4.4", "the warm-up"): (says("warmup_steps", 2), "second half"),
    ("4.4", "where the rate ends"): (says("final_lr", 0.5), "still 0.06 or more"),
    ("4.4", "the value of config"): (says("warmdown_ratio", 0.5), "already"),
    ("4.4", "longer"): (says("warmdown_ratio", 0.75), "before step 24"),
    ("4.4", "too long"): (says("warmdown_ratio", 0.3), "14, expected 12: too many"),
    ("4.4", "too short"): (says("warmdown_ratio", 0.2), "10, expected 12: too few"),
    ("4.4", "no warm-down"): (says("warmdown_ratio", 0), "too few"),
    ("4.4", "in steps"): (says("warmdown_ratio", 12), "share of the run"),
    ("4.4", "another name"): (says("warmdown", 0.25), "not in config"),
    ("4.4", "a name alone"): (lambda: "warmdown_ratio", "its right value"),
    ("4.4", "a config"): (lambda: {"warmdown_ratio": 0.25}, "not a config"),
    ("4.4", "two numbers"): (says(0.5, 0.25), "expected a name"),
    ("4.4", "no return"): (lambda: None, "return missing"),
    ("4.5", "a whole interval lost"): ((change(hours, lost=1), best), "whole interval"),
    ("4.5", "saves rounded down"): ((change(hours, saves=math.floor), best), "after the last step is missing"),
    ("4.5", "a save too many"): ((change(hours, saves=lambda x: math.floor(x) + 1), best), "one save too many; the save at minute 60 is that"),
    ("4.5", "saves not rounded"): ((change(hours, saves=lambda x: x), best), "round up"),
    ("4.5", "seconds for minutes"): ((change(hours, unit=1), best), "taken as minutes"),
    ("4.5", "no restart"): ((change(hours, per_crash=0), best), "restarts are missing"),
    ("4.5", "nothing done again"): ((change(hours, lost=0), best), "done again is missing"),
    ("4.5", "minutes for hours"): ((lambda *a: 60 * hours(*a), best), "these are minutes"),
    ("4.5", "seconds for hours"): ((lambda *a: 3600 * hours(*a), best), "expected 1: these are seconds"),
    ("4.5", "best in seconds"): ((hours, change(best, unit=1)), "these are seconds"),
    ("4.5", "best in hours"): ((hours, lambda *a: best(*a) / 60), "these are hours"),
    ("4.5", "best without the half"): ((hours, change(best, inside=1.0)), "and not a whole one"),
    ("4.5", "best without crashes"): ((hours, lambda t, s, c: best(t, s, 1)), "crashes"),
    ("4.5", "best without the root"): ((hours, lambda t, s, c: best(t, s, c) ** 2), "root is missing"),
}  # fmt: skip


def clears_by_hand(model, rows, size):
    for p in model.parameters():
        p.grad.zero_()
    return grow(model, rows, size, clear="never")


def tokens_inplace(model, rows, size):
    r = grow(model, rows, size)
    rows.clamp_(max=250)
    return r


def freezes(model, rows, size):
    r = grow(model, rows, size)
    for p in model.parameters():
        p.requires_grad_(False)
    return r


def clip(model, rows, size):
    r = grow(model, rows, size)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return r


WRONG |= {  # with the eye of a reviewer: state, sizes, text, types, rounding
    ("4.1", "whole numbers"): (lambda s, n, u, d, e: lr(s, n, u, d, e) if s >= u else (s + 1) // u, "step 0 has 1 / warmup, step warmup - 1 has 1"),
    ("4.1", "cosine"): (lambda s, n, u, d, e: lr(s, n, u, d, e, line=lambda l, f: f + (1 - f) * (0.5 - 0.5 * math.cos(math.pi * l))), "it falls by 1 / warmdown a step, and step steps -"),
    ("4.1", "warm from final"): (lambda s, n, u, d, e: e + (1 - e) * (s + 1) / u if s < u else lr(s, n, u, d, e), "look at the first and last step of each part"),
    ("4.1", "rounded"): (lambda s, n, u, d, e: round(lr(s, n, u, d, e), 3), "look at the first and last step of each part"),
    ("4.2", "p.grad.zero_()"): (clears_by_hand, "clear them with model.zero_grad()"),
    ("4.2", "chunk"): (change(grow, cut="chunk"), "the model was given 3 rows at once; split the"),
    ("4.2", "rows changed"): (tokens_inplace, "rows was changed in place"),
    ("4.2", "freezes"): (freezes, "some parameters no longer require gradients"),
    ("4.2", "clips"): (clip, "times the mean gradient"),
    ("4.3", "sorts in place"): (sorts, "changed the lists in place"),
    ("4.3", "rounded"): (lambda *a: round(noise(*a)), "two equations"),
    ("4.3", "n - 1"): (change(noise, mean=lambda x: sum(y * y for y in x) / max(1, len(x) - 1)), "two equations"),
    ("4.3", "twelve lengths at most"): (lambda s, l, b, B: noise(s[:12], l[:12], b, B), "however many there are"),
    ("4.5", "a save at each crash"): ((lambda *a: hours(*a, saves=lambda x: math.ceil(x) + a[4]), best), "does your answer use each of the six numbers once?"),
    ("4.5", "whole minutes"): ((hours, lambda *a: round(best(*a))), "at which interval are the costs of saving and of"),
    ("4.5", "restart once"): ((lambda s, sec, e, sv, c, r: hours(s, sec, e, sv, c, r * (c > 0) / max(c, 1)), best), "12.5 minutes done again and 5 minutes of restart"),
}  # fmt: skip
RIGHT = {
    ("4.1", "the least of three"): with_min,
    ("4.1", "from a table of numpy"): table,
    ("4.1", "as tensors"): as_tensor,
    ("4.2", "ranges and logits"): with_ranges_and_logits,
    ("4.2", "autograd.grad, last piece first"): with_autograd,
    ("4.2", "divided at the end"): divide_at_the_end,
    ("4.2", "one row at a time"): lambda model, rows, size: grow(model, rows, 1),
    ("4.3", "a line through both, in numpy"): by_a_line,
    ("4.3", "solved, in torch"): by_solving,
    ("4.3", "one after the other"): by_one_unknown,
    ("4.4", "a list, by steps"): by_steps,
    ("4.4", "as a tensor"): lambda: (np.str_("warmdown_ratio"), torch.tensor([12 / 48])),
    ("4.4", "the value first"): says(0.25, "warmdown_ratio"),
    ("4.4", "nearly"): says("warmdown_ratio", 0.2478),
    ("4.5", "by search"): (hours, by_search),
    ("4.5", "step by step"): (with_a_walk, best),
}  # fmt: skip


FLAT, FALLING = ([(0, 3.0), (4, 2.5)], [1.0, 1.0]), ([(0, 3.0), (4, 2.25)], [1.0, 0.5])
FIGURES = {
    "distances": (lambda: figures.distances({"a": [1.0, 0.5, 0.25], "b": [1.0, 0.7, 0.7]}), ["over 2 steps", "a 1 to 0.25", "b 1 to 0.7"]),
    "schedules": (lambda: figures.schedules({"flat": [1, 1], "falling": [1, 0.5]}), ["flat: 1 at the first", "0.5 at the last"]),
    "apart": (lambda: figures.apart({"a": [0.0, 0.0, 0.25], "b": [0.0, 1e-5, 0.0]}), ["a, from step 2 on, by up to 0.25", "b, nowhere"]),
    "noise": (lambda: figures.noise_by_batch([1, 4, 16], [2.0, 1.1, 0.5], 0.7), ["2 with 1 row to", "0.5 with 16 rows", "gives 0.5", "0.7 long"]),
    "loss and rate": (lambda: figures.loss_and_rate({"flat": FLAT, "falling": FALLING}), ["flat: 3.000", "2.250 at step 4", "0.5 at the end"]),
    "parts": (lambda: figures.step_parts({"1 row": {"data": 0.001, "forward": 0.003}, "2 rows": {"data": 0.001, "forward": 0.009}}), ["1 row, 4 ms", "forward 75%", "forward 90%"]),
    "shares": (lambda: figures.rate_shares({1.0: [2.0, 2.1], 0.25: [2.5]}, 0.0625), ["2.500 at 0.25", "2.050 at 1", "asks for 0.0625"]),
    "checkpoints": (lambda: figures.checkpoint_interval([1, 2, 4], [4.0, 2.0, 1.0], [0.5, 1.0, 2.0], 2.83), ["every 1 to 4 minutes", "best interval: 2.8 minutes"]),
}  # fmt: skip
REFUSED = {
    "a distance of 0": lambda: figures.distances({"a": [1.0, 0.0]}),
    "no schedule": lambda: figures.schedules({}),
    "one step": lambda: figures.apart({"a": [1.0]}),
    "one batch size": lambda: figures.noise_by_batch([1], [2.0], 0.7),
    "one point": lambda: figures.loss_and_rate({"flat": ([(0, 3.0)], [1.0, 1.0])}),
    "different parts": lambda: figures.step_parts({"a": {"data": 1.0}, "b": {"forward": 1.0}}),
    "one share": lambda: figures.rate_shares({1.0: [2.0]}, 0.5),
    "one interval": lambda: figures.checkpoint_interval([1], [1.0], [1.0], 1.0),
}

globals().update(lesson_tests("04", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
