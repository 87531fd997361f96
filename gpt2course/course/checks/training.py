"""Checks of lesson 04's exercises: schedule, gradient accumulation, noise scale, a wrong number, checkpoints."""

import functools
import math

import torch

from gpt2course.course.checks import Exercise, call, known, need, number, several, tried
from gpt2course.model import GPT, GPTConfig
from gpt2course.recipes import Plan, resolve
from gpt2course.train import forward_backward


@functools.cache
def _plan(steps: int, warmup: int, warmdown: int, final: float):
    small = dict(depth=1, width=64, head_dim=64, sequence_len=64, vocab_size=300, batch_tokens=64)
    return resolve("modern", **small, steps=steps, warmup_steps=warmup, warmdown_ratio=warmdown / steps, final_lr=final)


def _rate(step, steps, warmup, warmdown, final):
    return _plan(steps, warmup, warmdown, final).lr(step)


def rate(f) -> None:
    zero_last = "the last step has a rate of 0 and is wasted; 0 belongs to step number `steps`"
    after = "the rate falls after `warmdown` steps; it falls during the last ones"
    ends = "the line leads from 1 to final"
    for args, what, wanted, errors, otherwise in [
        ((6, 0, 0, 0.0), "six steps without warm-up and warm-down", [1] * 6, [], "1 throughout"),
        ((5, 4, 0, 0.0), "a warm-up of 4", [0.25, 0.5, 0.75, 1, 1], [
            ([0, 0.25, 0.5, 0.75, 1], "step 0 has the rate 0 and is wasted; use (step + 1) / warmup"),
            ([1] * 5, "there is no warm-up"),
        ], "step 0 has 1 / warmup, step warmup - 1 has 1"),
        ((10, 0, 4, 0.0), "10 steps with a warm-down of 4", [1] * 7 + [0.75, 0.5, 0.25], [
            ([1] * 6 + [0.75, 0.5, 0.25, 0], "the warm-down begins a step too early and wastes the last step on a 0"),
            ([1] * 7 + [2 / 3, 1 / 3, 0], zero_last),
            ([1] * 6 + [0.8, 0.6, 0.4, 0.2], "the warm-down begins a step too early; step steps - warmdown has 1"),
            ([1 - t / 10 for t in range(10)], "the rate falls from the first step on; it is 1 until the warm-down"),
            ([1] * 4 + [(10 - t) / 6 for t in range(4, 10)], after),
            ([1] * 10, "the rate never falls"),
        ], "it falls by 1 / warmdown a step, and step steps - warmdown still has 1"),
        ((10, 0, 4, 0.2), "the same with final 0.2", [1] * 7 + [0.8, 0.6, 0.4], [
            ([1] * 7 + [0.75, 0.5, 0.25], f"final is ignored, or no more than a floor; {ends}"),
            ([1] * 7 + [0.95, 0.7, 0.45], f"final is added on top; {ends}"),
        ], f"{ends}, from step steps - warmdown to step number `steps`"),
    ]:  # fmt: skip
        got = [number(f(step, *args), f"step {step} of {args[0]}") for step in range(args[0])]
        late = args[2] and got[:8] == [1] * 8 and got[9] < 0.999
        last = "count it from the end, it takes the last `warmdown` steps"
        errors += [(got, f"the warm-down begins too late; {last}")] if late else []
        known(got, wanted, what, errors, otherwise)
    shapes = (10, 2, 4, 0.0), (97, 13, 60, 0.05), (50, 20, 30, 0.5), (40, 0, 40, 0.1), (7, 1, 1, 0.3), (30, 30, 0, 0.0)
    for shape in shapes:
        settings = ", ".join(f"{name} {x}" for name, x in zip(("steps", "warmup", "warmdown", "final"), shape))
        for step in range(shape[0]):
            what, otherwise = f"step {step} with {settings}", "look at the first and last step of each part"
            known(f(step, *shape), _rate(step, *shape), what, {}, otherwise, rtol=1e-5)


class _Spy(torch.nn.Module):
    """A small GPT that records what goes through it."""

    def __init__(self):
        super().__init__()
        self.gpt = GPT(GPTConfig(vocab_size=300, sequence_len=8, n_layer=1, n_embd=16, n_head=1, n_kv_head=1))
        g = torch.Generator().manual_seed(42)
        with torch.no_grad():
            for p in self.gpt.parameters():
                p.copy_(torch.randn(p.shape, generator=g) / 4)
        self.rows, self.open, self.overlapped = [], 0, False

    def forward(self, idx, *args, **kwargs):
        self.rows.append(len(idx))
        idx = idx.clamp(min=0)  # padding is read as some token
        self.overlapped |= torch.is_grad_enabled() and self.open > 0  # the backward pass before this is missing
        out = self.gpt(idx, *args, **kwargs)
        if out.requires_grad:
            self.open += 1
            out.register_hook(self._backward)
        return out

    def _backward(self, _):
        self.open -= 1


def _flat(grads) -> torch.Tensor:
    return torch.cat([x.flatten() for x in grads]).double()


def _mean_gradient(got, wanted, old, pieces, counts, rows) -> str:
    """What is wrong with an accumulated gradient, or nothing. old: what was there before; pieces: each one's mean.

    counts, rows: of each piece, the targets that count and the rows.
    """

    def like(x):
        return (got - x).norm() <= 1e-4 * x.norm()

    def along(x):
        return got @ x >= (1 - 1e-6) * got.norm() * x.norm()

    if like(wanted):
        return ""
    total, several = sum(pieces), len(pieces) > 1
    weight = "each piece counts by its share of the targets"
    ratio = f"{(got.norm() / wanted.norm()).item():.3g} times the mean gradient"
    for found, hint in (
        (got.norm() == 0, "every gradient is 0 afterwards: is zero_grad called after the last backward?"),
        (old.any() and (like(old + wanted) or like(old + total)
                        or along(sum(c * x for c, x in zip(counts, pieces)) + old)),
         "the gradients of an earlier step are still in it; clear them once, before the first piece"),
        (several and along(pieces[-1]), "only the last piece is in the gradient; is zero_grad inside the loop?"),
        (several and like(total), f"the sum of the pieces' mean gradients, not the mean; {weight}"),
        (several and along(wanted), f"{ratio}; {weight}"),
        (several and like(total / len(pieces)),
         f"a piece with {counts[-1]} targets counts as much as one with {counts[0]}; weight each by its share of them"),
        (several and like(sum(r * x for r, x in zip(rows, pieces)) / sum(rows)),
         f"each piece counts by its rows, but one has {counts[0]} targets and another {counts[-1]}; count those"),
    ):  # fmt: skip
        if found:
            return hint
    return "the gradient is not that of the mean loss over all targets; does each piece count by its share of them?"


def accumulate(f) -> None:
    for n, size in ((6, 2), (7, 3), (5, 4), (3, 8)):
        rows = torch.randint(300, (n, 9), generator=torch.Generator().manual_seed(n))
        for i in range(n if n != 6 else 0):  # the first batch has no padding
            rows[i, 9 - (5 * i + n) % 8 :] = -1  # leaves one target to eight
        spy, old = _Spy(), torch.Generator().manual_seed(1)
        names, params = zip(*spy.named_parameters())
        before, kept = [p.detach().clone() for p in params], rows.clone()
        losses = [spy.gpt(piece[:, :-1].clamp(min=0), piece[:, 1:]) for piece in rows.split(size)]
        pieces = [_flat(torch.autograd.grad(loss, params)) for loss in losses]
        losses, of_rows = [loss.item() for loss in losses], [len(piece) for piece in rows.split(size)]
        counts = [int((piece[:, 1:] >= 0).sum()) for piece in rows.split(size)]
        wanted = _flat(torch.autograd.grad(spy.gpt(rows[:, :-1].clamp(min=0), rows[:, 1:]), params))
        fresh = n == 6  # a model without gradients, then one with those of an earlier step
        for p in params:
            p.grad = None if fresh else torch.randn(p.shape, generator=old)
        leftover = torch.zeros(len(wanted)) if fresh else _flat(p.grad for p in params)
        what, hint = "a new model, whose gradients are None,", "clear them with model.zero_grad()"
        value = tried(functools.partial(f, spy, rows, size), (), what, hint) if fresh else f(spy, rows, size)
        most, at = max(spy.rows, default=0), f"{n} rows, at most {size} at a time"
        empty = next((name for name, p in zip(names, params) if p.grad is None), None)
        for ok, hint in (
            (torch.equal(rows, kept), "rows was changed in place"),
            (most <= size, f"the model was given {most} rows at once; split the rows into pieces"),
            (sum(spy.rows) >= n,
             f"only {sum(spy.rows)} rows went through the model; the last piece may be smaller, but it counts"),
            (all(p.requires_grad for p in params), "some parameters no longer require gradients"),
            (all(map(torch.equal, params, before)), "the weights changed: make no optimizer step here"),
            (empty is None, f"p.grad of {empty} is None afterwards: is backward called, and zero_grad before it?"),
        ):  # fmt: skip
            need(ok, f"{at}: {hint}")
        wrong = _mean_gradient(_flat(p.grad for p in params), wanted, leftover, pieces, counts, of_rows)
        need(not wrong, f"{at}: {wrong}")
        together = "no backward pass ran between the pieces, so all are in memory at once; call backward for each"
        need(not spy.overlapped, f"{at}: {together}")
        mean = sum(a * b for a, b in zip(losses, counts)) / sum(counts)
        known(value, mean, f"{at}: the gradient is right, but the loss", [
            (losses[-1], "this is the last piece's loss"),
            (sum(losses), "this is the sum over the pieces"),
            (sum(losses) / len(losses), "pieces of different sizes count by their targets"),
            (sum(a * b for a, b in zip(losses, of_rows)) / n, "pieces count by their targets, not by their rows"),
        ], "the mean over all targets that count, each counted once")  # fmt: skip


def _scale(small, big, b, B):
    """The noise scale from two mean squared lengths."""
    return b * B * (small - big) / (B * big - b * small)


def _squares(lengths):
    return sum(x * x for x in lengths) / len(lengths)


def _noise_scale(small, big, B_small, B_big):
    return _scale(_squares(small), _squares(big), B_small, B_big)


def _noise_mistakes(small, big, b, B) -> list:
    """(what a known mistake makes of these lengths, its hint)"""
    m, M, pairs = _squares(small), _squares(big), [(x * x, y * y) for x, y in zip(small, big)]
    G, S = (B * M - b * m) / (B - b), (m - M) / (1 / b - 1 / B)
    ones = [((B * y - b * x) / (B - b), (x - y) / (1 / b - 1 / B)) for x, y in pairs]
    flat = [sum(x) / len(x) for x in (small, big)]
    one = "is in it, and one measurement is mostly noise; take the mean of all"
    return [
        (_scale(*flat, b, B), "the lengths were not squared"),
        (_scale(*(x * x for x in flat), b, B), "the mean length was squared; square each length, then take the mean"),
        (_scale(*pairs[0], b, B), f"only the first pair of lengths {one}"),
        (_scale(small[-1] ** 2, big[-1] ** 2, b, B), f"only the last pair of lengths {one}"),
        (sum(s / g for g, s in ones) / len(ones), "this is a mean of ratios; take the means first, then one ratio"),
        (sum(max(s, 0) for _, s in ones) / (sum(max(g, 0) for g, _ in ones) or 1), "negative estimates count too"),
        (_scale(*map(sum, zip(*pairs)), b, B), "the longer list was cut to the shorter one; use every length"),
        (_scale(m * len(small), M * len(big), b, B), "these are sums, and one list is longer; take means"),
        (_scale(m, M, B, b), "the two batch sizes (or the two lists) are swapped"),
        (-S / G, "both estimates have the right size, and one the wrong sign"),
        ((m - M) / G, "tr(S) is still to be divided by 1 / B_small - 1 / B_big"),
        ((m - M) / (B - b) / G, "tr(S) was divided by B_big - B_small; the noise falls as 1 / B"),
        (b * (m - M) / M, "the large batch was taken to be free of noise; tr(S) / B_big is left in it"),
        (S / M, "the large batch alone stands for |G|^2; take the tr(S) / B_big out that is left in it"),
        (G / S, "upside down: it is tr(S) / |G|^2"),
        (S / abs(G) ** 0.5, "tr(S) was divided by |G|, not by |G|^2"),
        (S, "this is tr(S), not yet divided by |G|^2"),
        (G, "this is |G|^2; it belongs under tr(S)"),
    ]


def noise_scale(f) -> None:
    draw, two = torch.Generator().manual_seed(43), "two equations, |G|^2 + tr(S) / B = mean square, with two unknowns"
    cases = [("1 and 7 with 1 row, 4 and 2 with 4 rows", ([1.0, 7.0], [4.0, 2.0], 1, 4))]
    cases += [("of six pieces of 2 rows and two means of 6", ([5.0, 1.0, 4.0, 2.0, 6.0, 3.0], [2.0, 3.5], 2, 6))]
    for n, k, b, B, low in ((1, 1, 1, 8, 1.0), (7, 7, 8, 64, 1.0), (12, 3, 16, 64, 1.0), (9, 9, 1, 5, 1.8)):
        sets = [(y + torch.rand(x, generator=draw)).tolist() for x, y in ((n, 2.0), (k, low))]
        cases += [(f"of {n} batches of {b} rows and {k} of {B}", (*sets, b, B))]
    for what, args in cases:
        got, what = call(f, *args, keep="the lists"), f"the noise scale from lengths {what}"
        known(got, _noise_scale(*args), what, _noise_mistakes(*args), two)
    G = torch.randn(60, generator=draw)  # the true gradient; each of its 60 numbers has noise of another size
    for b, B, wanted in ((4, 32, 20.0), (3, 50, 7.0)):
        noise = torch.rand(60, generator=draw)
        noise *= (wanted * G.square().sum() / noise.square().sum()).sqrt()
        sets = [(G + torch.randn(2000, 60, generator=draw) * noise / n**0.5).norm(dim=1).tolist() for n in (b, B)]
        what = f"the noise scale of 2,000 simulated batches of {b} rows and of {B}"
        known(f(*sets, b, B), wanted, what, {}, "does your answer use every length, however many there are?", rtol=0.05)


CONFIG = dict(matrix_adamw_lr=0.003, wte_lr=0.3, head_lr=0.004, weight_decay=0.2, warmup_steps=4, warmdown_ratio=0.5,
              final_lr=0.1)  # fmt: skip


def _wrong_number():
    return "warmdown_ratio", 12 / 48


def wrong_number(f) -> None:
    """The numbers in the hints are those of runs, which a test repeats."""
    got = f()
    need(not isinstance(got, dict), "return the name and the right value, not a config")
    name, value = several(got, 2, "the name of the wrong number and its right value")
    if isinstance(value, str) and not isinstance(name, str):
        name, value = value, name
    need(isinstance(name, str), f"the first of the two came out as {name!r:.40}, expected a name in config")
    need(name in CONFIG, f"{name!r:.40} is not in config; its names are {', '.join(CONFIG)}")
    value = number(value, f"the right value of {name}")
    need(value != CONFIG[name], f"{name} = {value:g} is what config has already")
    early = "the loss changes from step 1 on (counted from 0); config agrees with the log up to step 25"
    need(name not in ("matrix_adamw_lr", "wte_lr", "head_lr", "weight_decay"), f"with another {name} {early}")
    need(name != "warmup_steps", f"with another warm-up {early}; what acts only in the second half?")
    late = "it acts late enough, but with 0.3, 0.5 and 0.8 some loss is still 0.06 or more from the log"
    need(name != "final_lr", f"final_lr is not it: {late}; what else acts from there on?")
    need(value < 1, f"warmdown_ratio is a share of the run, not a number of steps: {value:g} came out")
    need(0 <= value < 0.5, "a longer warm-down begins before step 24, and there config agrees with the log")
    known(round(value * 48), 12, f"with warmdown_ratio = {value:g} the steps of the warm-down", [
        (n, "too many: your curve falls while the log still has the full rate; where do the two part?")
        for n in range(13, 25)
    ], "too few: the log falls while your curve still has the full rate; where do the two part?")  # fmt: skip


def _run_cost(steps, seconds, every, save, crashes, restart) -> tuple[float, str]:
    """Hours of a run, by walking through it save by save; and the run in words."""
    train, saves, at = steps * seconds, 0, 0.0
    while at < train:
        at, saves = min(at + every * 60, train), saves + 1
    what = f"the hours of {steps} steps of {seconds:g} s, a save of {save:g} s every {every:g} minutes"
    what += f", {crashes} crashes with a restart of {restart:g} minutes"
    return (train + saves * save + crashes * (every * 30 + restart * 60)) / 3600, what


def _paid_hours(*run):
    return _run_cost(*run)[0]


def _best_minutes(hours, save, crashes):
    """The interval of the least cost, found by trying all of them in steps of a hundredth of a minute."""
    return min((x / 100 for x in range(1, 60_000)), key=lambda x: save * hours * 60 / x / 60 + crashes * x / 2)


def checkpoints(f, g) -> None:
    draw = torch.Generator().manual_seed(45)
    random_runs = []
    for _ in range(6):
        u = torch.rand(6, generator=draw).tolist()
        random_runs.append((int(1000 + 9000 * u[0]), 0.2 + u[1], round(3 + 30 * u[2], 2), round(1 + 60 * u[3], 1),
                            int(5 * u[4]), round(2 + 10 * u[5], 1)))  # fmt: skip
    many = "one save too many"
    for args, errors, otherwise in [
        ((3600, 1.0, 20, 0, 0, 0), {3600.0: "these are seconds", 60.0: "these are minutes"}, "training takes one hour"),
        ((1800, 2.0, 20, 12, 0, 0), {
            1 + 48 / 3600: f"{many}; the save at minute 60 is that of the last step",
            1 + 24 / 3600: "the save after the last step is missing",
            1 + 36 / 60: "the seconds of a save were taken as minutes",
            1.0: "the saves cost nothing",
        }, "3 saves, at 20, 40 and 60 minutes, 36 seconds"),
        ((3600, 1.0, 25, 12, 0, 0), {
            1 + 24 / 3600: "the save after the last step is missing; saves come at 25, 50 and 60 minutes",
            1 + 28.8 / 3600: "2.4 saves; round up", 1 + 48 / 3600: many,
        }, "3 saves, at 25, 50 and 60 minutes"),
        ((3600, 1.0, 25, 0, 2, 5), {
            1 + 60 / 60: "a whole interval was lost at each crash; on average it is half of one",
            1 + 25 / 60: "the restarts are missing", 1 + 10 / 60: "the training done again is missing",
        }, "2 crashes, each of 12.5 minutes done again and 5 minutes of restart"),
        *((args, {}, "does your answer use each of the six numbers once?") for args in random_runs),
    ]:  # fmt: skip
        wanted, what = _run_cost(*args)
        known(f(*args), wanted, what, errors, otherwise, rtol=1e-5)
    for hours, save, crashes in ((2.0, 18.0, 1), (3.0, 20.0, 4), (24.0, 5.0, 3), (1.0, 2.0, 11)):
        wanted = _best_minutes(hours, save, crashes)
        what = f"{hours:g} hours of training, saves of {save:g} s, {crashes} crashes: the best minutes"
        known(g(hours, save, crashes), wanted, what, [
            (wanted * 60, "these are seconds"), (wanted / 60, "these are hours"),
            (wanted / math.sqrt(2), "is it half an interval that is lost, and not a whole one?"),
            (wanted * math.sqrt(2), "half an interval is lost, so x / 2 once; is there a factor of 2 too many?"),
            (wanted**2, "the square root is missing"),
            (wanted * math.sqrt(crashes), "the number of crashes is not in it"),
        ], "at which interval are the costs of saving and of repeated training equal?", rtol=0.02)  # fmt: skip


EXERCISES = (
    Exercise("4.1", "The learning-rate schedule", rate, points=2, minutes=10, difficulty=2, importance=4,
             forbids=(Plan.lr,), reference=_rate),
    Exercise("4.2", "Gradient accumulation with padding", accumulate, points=3, minutes=15, difficulty=3, importance=5,
             forbids=(forward_backward,)),
    Exercise("4.3", "The gradient noise scale", noise_scale, points=3, minutes=15, difficulty=3, importance=4,
             reference=_noise_scale),
    Exercise("4.4", "One wrong number", wrong_number, points=3, minutes=15, difficulty=3, importance=4,
             reference=_wrong_number),
    Exercise("4.5", "What checkpoints cost", checkpoints, points=2, minutes=15, difficulty=2, importance=3,
             reference=(_paid_hours, _best_minutes)),
)  # fmt: skip
