"""Checks of lesson 00's exercises: MFU, FLOPs with frozen parts, which of two programs is faster, which machine is cheapest."""

import math
import random
import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt2course import cost
from gpt2course.course.checks import MISSING, Exercise, ask, call, known, need, several
from gpt2course.recipes import resolve


def utilisation(f) -> None:
    def mfu(log):
        tokens = log["batch_tokens"] * log["steps"]
        return cost.mfu(3 * log["forward_flops_per_token"], tokens / (3600 * log["hours"]), log["devices"], log["peak"])

    from_log = "do tokens, seconds and devices come from the log?"
    toy = dict(forward_flops_per_token=1e9, batch_tokens=1000, steps=10, hours=1.0, devices=2, peak=1e10)
    right = 3e13 / 7.2e13
    plan = resolve("jan29", depth=24)
    record = dict(forward_flops_per_token=plan.flops_per_token / 3, batch_tokens=plan.batch_tokens, steps=plan.steps,
                  hours=10949.47 / 3600, devices=8, peak=989e12)  # fmt: skip
    table = [
        ((toy,), right, "the MFU of the toy log", {
            right / 3: "only the forward pass is counted; training costs three times as much",
            right * 3600: "hours are used as seconds; an hour has 3600",
            right * 1200: "only the forward pass is counted, and hours are used as seconds",
            right * 60: "an hour has 3600 seconds",
            right * 2: "two devices could have worked, the peak is that of one",
            right * 4: "multiply the peak by the devices; did you divide?",
            right / 10: "are all 10 steps counted?",
            right * 100: "return a fraction, not a percentage",
            1 / right: "this is the inverse: divide used FLOPs by possible FLOPs",
            right * 2 / 3: "the backward pass costs twice the forward pass, together three times",
        }, "training FLOPs of all tokens / (devices * peak * seconds)"),
        ((record,), mfu(record), "the MFU of the 3.04-hour run", {}, from_log),
    ]  # fmt: skip
    draw = random.Random(3)
    for _ in range(5):
        log = dict(forward_flops_per_token=draw.uniform(1e8, 1e10), batch_tokens=draw.randint(1, 9) * 2**16,
                   steps=draw.randint(100, 9000), hours=draw.uniform(0.1, 90), devices=draw.randint(1, 64),
                   peak=draw.uniform(1e13, 2e15))  # fmt: skip
        what = f"the MFU of a log with {log['devices']} devices"
        table.append(((log,), mfu(log), what, {}, from_log))
    ask(f, table, keep="the log")


def training_flops(f) -> None:
    first = "nothing trained lies before the first matrix, so nobody needs the gradient of its input"
    forward = "this is the forward pass alone"
    table = "a table is looked up, and a look-up multiplies nothing"
    none_before = "nothing trained lies before the frozen matrix, so no gradient goes through it"
    ask(f, [
        (([(12, True, True)],), 48, "one trained matrix of 12 parameters", {72: first, 24: forward},
         "2 forward and 2 for its own gradient, for each parameter"),
        (([(12, True, False), (20, True, True)],), 104, "a frozen matrix of 12, then a trained one of 20", {
            120: "only what is trained was counted", 64: forward,
            144: "nothing before the second matrix is trained, so the gradient of its input is not needed",
            80: "the frozen matrix still works in the forward pass",
            128: f"{none_before}; parts come from the input to the output", 168: none_before,
        }, "2 for each parameter forward, and 2 for the gradient of the trained matrix"),
        (([(100, False, True), (12, True, True)],), 72, "a trained table of 100, then a trained matrix of 12", {
            48: "the table is trained, so the gradient must reach it: the matrix needs that of its input too",
            672: table, 472: table, 448: table, 24: forward, 272: table,
        }, "6 for each parameter of the matrix, nothing for the table"),
        (([(12, True, True), (20, True, False), (30, True, True)],), 308, "a frozen matrix between two trained ones", {
            268: "the frozen part must pass the gradient on to the trained part before it",
            332: first, 124: forward,
            252: "only what is trained was counted", 292: "a frozen part costs 4 here: forward, and passing on",
        }, "frozen parts need no gradient of their own, but pass on the one that earlier parts need"),
        (([(12, True, True), (20, True, False)],), 128, "a frozen matrix at the end", {
            88: "the frozen part must pass the gradient on to the trained part before it",
        }, "the gradient goes through the frozen part"),
        (([(100, False, False), (12, True, False), (20, True, False)],), 64, "nothing is trained", {
            128: "where nothing is trained, there is no backward pass",
        }, "the forward pass alone"),
    ], keep="the parts")  # fmt: skip
    draw = random.Random(2)
    for _ in range(8):
        widths = [draw.randint(2, 9) for _ in range(draw.randint(3, 7))]
        trained = [draw.random() < 0.5 for _ in widths]
        what = f"{len(widths) - 1} random matrices, counted by PyTorch"
        hint = "who needs the gradient of which input?"
        parts = [(11 * widths[0], False, trained[0])]
        parts += [(a * b, True, yes) for a, b, yes in zip(widths, widths[1:], trained[1:])]
        ask(f, [((parts,), _counted(widths, trained), what, {}, hint)], keep="the parts")


def _counted(widths: list[int], trained: list[bool]) -> float:
    """PyTorch's count for one token: a table of 11 rows, then matrices; trained: which of these."""
    layers = [torch.nn.Embedding(11, widths[0])]
    layers += [torch.nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:])]
    for layer, yes in zip(layers, trained):
        layer.requires_grad_(yes)
    with FlopCounterMode(display=False) as counter:
        y = torch.nn.Sequential(*layers)(torch.tensor([3]))
        if y.requires_grad:
            y.sum().backward()
    return float(counter.get_total_flops())


class _Two:
    """Two programs, f and g, and a clock that goes with them: each call takes the next of its seconds."""

    def __init__(self, f, g):
        self.left, self.now, self.called, self.reads = {"f": list(f), "g": list(g)}, 100.0, "", 0

    def program(self, name):
        def run():
            self.called += name
            self.now += self.left[name].pop(0) if self.left[name] else 1.0

        return run

    def clock(self):
        self.reads += 1
        return self.now


def faster(f) -> None:
    kept, sort = "the warm-up was kept", "this is the middle call in order of time; sort the times first"
    strict = "every call of one must take longer than every call of the other"
    for warmup, one, two, ratio, ratios, shown, otherwise in [
        (2, [9.0, 8.0, 2.0, 2.1, 2.6, 2.2, 1.95], [5.0, 1.0, 1.0, 1.5, 1.1, 1.2, 1.05], 2.1 / 1.1, {
            1.1 / 2.1: "divide the time of f by the time of g", 2.17 / 1.17: "these are means; one slow call moves a mean",
            2.0: kept, 1.95: "these are the fastest calls; take the medians", 2.6 / 1.1: sort,
            27.85 / 11.85: "these are the sums of all calls, the warm-up included", 1.0: "the difference was asked as a ratio: f / g",
        }, True, "each timed call of f took longer than each of g; is the warm-up in it?"),
        (1, [1.0, 1.0, 3.0, 2.0], [1.0, 2.5, 2.7, 2.6], 2 / 2.6, {3 / 2.7: sort}, False,
         f"the calls of f took 1 to 3 s and those of g 2.5 to 2.7 s; {strict}"),
        (1, [7.0, 1.0, 1.2, 1.1], [7.0, 2.0, 2.2, 2.1], 1.1 / 2.1, {1.0: kept}, True,
         "g is slower in every call, and that counts as well as f being slower"),
        (1, [1.0, 1.0, 2.0, 1.5], [1.0, 2.0, 4.0, 3.0], 0.5, {}, False, f"one call of f and one of g took 2 s; {strict}"),
        (3, [9.0, 9.0, 9.0, 1.0, 9.0, 1.0], [9.0, 9.0, 9.0, 2.0, 2.0, 2.0], 0.5, {}, False,
         f"a call of f took 9 s, longer than each of g; {strict}"),
    ]:  # fmt: skip
        two_programs, repeats = _Two(one, two), len(one) - warmup
        got = f(two_programs.program("f"), two_programs.program("g"), two_programs.clock, warmup, repeats)
        need(got is not None, MISSING)
        need(two_programs.reads, "the clock was never read: use the one you are given, and not the time module's")
        got = several(got, 2, "two values, the ratio and whether it is shown")
        called, n = two_programs.called, len(one)
        line = f"with {warmup} warm-up calls and {repeats} timed ones of each program, {called.count('f')} calls of f"
        line += f" and {called.count('g')} of g were made, expected {n} of each"
        need(called.count("f") == called.count("g") == n, f"{line}: the warm-up comes first and is not kept")
        turns = called[-2 * repeats :]
        need(turns == "fg" * repeats, f"the timed calls came in the order {turns}: take turns, f g f g, "
             "since a machine that becomes slower in between would count against one program alone")  # fmt: skip
        what = f"calls of f {_seconds(one)}, of g {_seconds(two)}, the first {warmup} of each warm-up"
        known(got[0], ratio, f"{what}: the ratio", ratios, "the median time of f divided by the median time of g")
        need(bool(got[1]) == shown, f"{what}: shown came out as {bool(got[1])}, expected {shown}: {otherwise}")


def _seconds(times: list[float]) -> str:
    return ", ".join(f"{t:g}" for t in times)


def cheapest(f) -> None:
    offers = {"one": (1, 1e13, 0.5, 2.0), "four": (4, 1e13, 0.4, 2.0), "fast": (1, 1e14, 0.2, 9.0),
              "busy": (2, 1e14, 0.01, 0.5)}  # fmt: skip
    asked = "the least bill among those that finish in time"
    whole = "every started hour is billed: 1.2 hours cost as much as 2"
    four = f"all four devices are paid, 2 hours; {whole}"
    table = [  # work 7e16: 3.9 h, 4 h billed, $8; 1.2 h, 2 h, $16; 0.97 h, 1 h, $9; 9.7 h, 10 h, $10
        (5.0, "one", {
            "busy": "the cheapest hour is not the cheapest run: at an MFU of 0.01 it takes 9.7 hours, and is late",
            "fast": "the fastest is not the cheapest", "four": four,
        }),
        (2.0, "fast", {
            "one": "one device needs 3.9 hours, and 2 are left", "four": four,
            "busy": "it needs 9.7 hours, and 2 are left",
        }),
        (1.0, "fast", {None: "0.97 hours are in time"}),
        (0.5, None, dict.fromkeys(offers, "none finishes within half an hour, so the answer is None")),
    ]  # fmt: skip
    for left, wanted, errors in table:
        _named(f, (7e16, left, offers), wanted, errors, f"7e16 FLOPs, {left:g} hours left", asked)
    pair = {"a": (1, 1e12, 0.5, 3.0), "b": (1, 1e12, 0.4, 2.3)}  # 1.94 h and 2.43 h: $6 and $6.90
    _named(f, (3.5e15, 9.0, pair), "a", {"b": whole}, "two offers, 1.94 hours at 3 dollars and 2.43 at 2.30", asked)
    pair = {"a": (1, 1e12, 0.5, 3.0), "b": (1, 1e12, 0.95, 5.9)}  # 1.17 h and 0.61 h: $6 and $5.90
    _named(f, (2.1e15, 9.0, pair), "b", {"a": whole}, "1.17 hours at 3 dollars and 0.61 at 5.90", asked)
    same = {"slow": (1, 1e12, 0.5, 2.0), "quick": (1, 1e12, 0.7, 2.0)}  # 1.94 h and 1.39 h, both $4
    _named(f, (3.5e15, 9.0, same), "quick", {"slow": "of equal bills the faster"}, "two equal bills", asked)
    late = {"a": (1, 1e12, 0.5, 1.0)}  # 1.25 h
    hint = "the run must end in time; the hours that are billed may be more"
    _named(f, (2.25e15, 1.5, late), "a", {None: hint}, "1.25 hours, 1.5 left", asked)
    draw = random.Random(4)
    for _ in range(20):
        offers = {f"offer {i}": (draw.randint(1, 16), draw.uniform(1e13, 2e15), draw.uniform(0.1, 0.6),
                                 draw.uniform(0.5, 9)) for i in range(draw.randint(1, 6))}  # fmt: skip
        args = 10 ** draw.uniform(18, 20), draw.uniform(2, 60), offers
        _named(f, args, _cheapest(*args), {}, f"{len(offers)} random offers", asked)


def _named(f, args, wanted, errors, case: str, otherwise: str) -> None:
    got = call(f, *args, keep="the offers")
    need(got is None or got in args[2], f"{case}: {got!r:.40} came out, which is no name of an offer")
    line = f"{case}: {got!r} came out, expected {wanted!r}"
    need(got == wanted or got not in errors, f"{line}: {errors.get(got)}")
    need(got == wanted, f"{line}: {otherwise}")


# ---- right answers, for the pictures


def _training_flops(parts):
    total, reaches = 0, False  # whether a gradient must pass through this part
    for parameters, multiplies, trained in parts:
        if multiplies:
            total += 2 * parameters * (1 + trained + reaches)
        reaches = reaches or trained
    return total


def _faster(f, g, clock, warmup, repeats):
    times = {f: [], g: []}
    for i in range(-warmup, repeats):
        for program, found in times.items():
            began = clock()
            program()
            if i >= 0:
                found.append(clock() - began)
    a, b = times.values()
    return statistics.median(a) / statistics.median(b), min(a) > max(b) or min(b) > max(a)


def _cheapest(flops, hours_left, offers):
    found = []
    for name, (devices, peak, mfu, price) in offers.items():
        hours = cost.hours(flops, devices, peak, mfu)
        if hours <= hours_left:
            found.append((cost.dollars(math.ceil(hours), devices * price), hours, name))
    return min(found)[2] if found else None


EXERCISES = (
    Exercise("0.1", "MFU from a log", utilisation, points=2, minutes=10, difficulty=2, importance=4,
             forbids=(cost.mfu, cost.hours)),
    Exercise("0.2", "What freezing saves", training_flops, points=3, minutes=20, difficulty=3, importance=4,
             reference=_training_flops),
    Exercise("0.3", "Which is faster?", faster, points=3, minutes=20, difficulty=3, importance=5,
             reference=_faster),
    Exercise("0.4", "Which machine to rent", cheapest, points=2, minutes=15, difficulty=2, importance=4,
             forbids=(cost.hours, cost.dollars), reference=_cheapest),
)  # fmt: skip
