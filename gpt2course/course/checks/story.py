"""Checks of lesson 00's exercises: what a run costs, FLOPs of a model, MFU, timing, and the limit of the hardware."""

import random
import statistics

from gpt2course import cost
from gpt2course.course.checks import MISSING, Exercise, ask, known, need, several
from gpt2course.model import GPT
from gpt2course.recipes import build, resolve


def bill(f, g) -> None:
    ask(f, [
        ((2, 3, 5), 30, "2 hours of 3 devices at 5 dollars", {
            10: "did you pay for one device only?", 6: "does your answer use the price?",
            15: "does your answer use the hours?",
        }, "hours times devices times the price of an hour of one device"),
        ((0.25, 8, 3), 6, "a quarter of an hour on 8 devices", {24: "hours were rounded up"}, "hours need not be whole"),
        ((168, 32, 8), 43008, "GPT-2 in 2019", {}, "32 devices for 168 hours, each 8 dollars an hour"),
    ])  # fmt: skip
    ask(g, [
        ((3.6e15, 1, 1e12, 1.0, 2), 2, "3.6e15 FLOPs at 1e12 a second and 2 dollars", {
            7200: "3600 seconds were paid as 3600 hours; divide seconds by 3600",
            200: "mfu is a fraction, 1.0 for the whole peak, and no percentage",
            1: "does your answer use the price?",
        }, "the run takes 3600 seconds, one hour"),
        ((3.6e15, 1, 1e12, 0.5, 2), 4, "the same at half the peak", {
            1: "a lower MFU made the run cheaper; divide by the MFU",
            2: "the MFU changes nothing in your answer: at half the pace the run takes twice as long",
        }, "hours = FLOPs / (devices * peak * MFU) / 3600"),
        ((3.6e15, 4, 1e12, 0.5, 2), 4, "the same on 4 devices", {
            16: "four devices are paid, but the run did not become shorter",
            1: "the run became shorter, but only one of the four devices is paid",
        }, "4 devices need a quarter of the hours and cost 4 times as much an hour"),
    ])  # fmt: skip
    draw = random.Random(1)
    for _ in range(5):
        flops, devices, peak = 10 ** draw.uniform(17, 22), draw.randint(1, 64), draw.uniform(1e13, 2e15)
        mfu, price = draw.uniform(0.1, 0.9), draw.uniform(1, 9)
        wanted = cost.dollars(cost.hours(flops, devices, peak, mfu), devices * price)
        what = f"{flops:.3g} FLOPs on {devices} devices"
        hint = "does your answer use each of the five numbers once?"
        known(g(flops, devices, peak, mfu, price), wanted, what, {}, hint)


def flops_per_token(f) -> None:
    C, V = 4, 10  # one layer has 12 * 16 = 192 weights, the head 40
    ask(f, [
        ((C, V, [7]), 1728, "width 4, 10 tokens in the vocabulary, one layer that sees 7 keys", {
            1392: "attention is forgotten; a layer's scores and weighted sums cost 12 * width * keys",
            576: "this is the forward pass alone; the backward pass costs twice as much again",
            1504: "the backward pass is missing in attention; 4 * width * keys forward, three times that in training",
            1968: "the embedding is counted; a look-up multiplies nothing",
            1488: "the head is forgotten; it is a matrix product too, width * vocabulary",
            960: "the MLP is forgotten; its two matrices hold 8 width^2 of the 12",
            1344: "a layer holds 12 width^2 weights: 4 in attention, 8 in the MLP; did you count 8?",
            1560: "attention has two products, queries with keys and weights with values: "
                  "together 4 * width * keys forward",
            3744: "keys enter squared; one query meets `keys` keys once",
            864: "a multiplication and an addition are two FLOPs",
        }, "6 FLOPs for each weight of a layer (12 width^2) and of the head, and 12 * width * keys for attention"),
        ((C, V, [7, 1]), 2928, "two layers that see 7 keys and 1 key", {
            3216: "both layers were given the window of the first",
            2640: "both layers were given the window of the last",
            3168: "there is one head for the whole model, not one a layer",
            2544: "attention is forgotten",
        }, "each layer has its own window"),
        ((C, V, []), 240, "a model without layers", {}, "the head alone is left, 6 * width * vocabulary"),
    ])  # fmt: skip
    for settings in (
        dict(depth=4, width=128, head_dim=64, sequence_len=256, vocab_size=2048),
        dict(depth=12),
        dict(depth=24),
        dict(depth=5, width=96, head_dim=32, sequence_len=64, vocab_size=512),
    ):
        shape = resolve("windows", steps=1, batch_tokens=2048, **settings).model
        lefts = [shape.window(i)[0] for i in range(shape.n_layer)]
        windows = [shape.sequence_len if left < 0 else min(left, shape.sequence_len) for left in lefts]
        what = f"depth {shape.n_layer}, width {shape.n_embd}, windows {windows[:4]}"
        wanted = build(shape).flops_per_token()
        hint = "does each layer use its own window, and is the head counted once?"
        known(f(shape.n_embd, shape.vocab_size, windows), wanted, what, {}, hint)


def utilisation(f) -> None:
    def mfu(log):
        tokens = log["batch_tokens"] * log["steps"]
        return cost.mfu(3 * log["forward_flops_per_token"], tokens / (3600 * log["hours"]), log["devices"], log["peak"])

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
        ((record,), mfu(record), "the MFU of the 3.04-hour run", {8 * mfu(record): "one GPU is counted for eight"},
         "do tokens, seconds and devices come from the log?"),
    ]  # fmt: skip
    draw = random.Random(3)
    for _ in range(5):
        log = dict(forward_flops_per_token=draw.uniform(1e8, 1e10), batch_tokens=draw.randint(1, 9) * 2**16,
                   steps=draw.randint(100, 9000), hours=draw.uniform(0.1, 90), devices=draw.randint(1, 64),
                   peak=draw.uniform(1e13, 2e15))  # fmt: skip
        what = f"the MFU of a log with {log['devices']} devices"
        table.append(((log,), mfu(log), what, {}, "does your answer use each entry of the log once?"))
    ask(f, table, keep="the log")


class _Work:
    """Something to time, and a clock that goes with it: each call takes the next of the given seconds."""

    def __init__(self, seconds):
        self.seconds, self.now, self.calls, self.reads = list(seconds), 100.0, 0, 0

    def run(self):
        self.now += self.seconds[self.calls] if self.calls < len(self.seconds) else 1.0
        self.calls += 1

    def clock(self):
        self.reads += 1
        return self.now


def measure(f) -> None:
    kept, middle = "the warm-up was kept; drop its times", "the middle one of the sorted times of the timed calls"
    deviation = "this is the standard deviation; slowest minus fastest is asked for"
    no_warmup = "without warm-up all calls are kept"
    for warmup, seconds, median, medians, otherwise, spread, spreads in [
        (2, [9.0, 5.0, 1.0, 1.1, 3.0, 1.2, 0.9], 1.1, {
            1.44: "this is the mean of the timed calls; one slow call moves it, the median not",
            21.2 / 7: "this is the mean of all calls, warm-up included",
            1.2: kept,
            3.0: "this is the middle call in order of time; sort the times first",
            0.9: "this is the fastest call",
        }, middle, 2.1, {
            8.1: kept, 0.879204: deviation, 0.786384: deviation,
            0.2: "slowest minus fastest, of the times in order of size",
        }),
        (2, [1.0, 1.0, 5.0, 2.0, 4.0], 4.0, {
            1.0: "the calls to drop are the first ones, whether slow or not",
        }, middle, 3.0, {4.0: kept}),
        (0, [2.0, 1.0, 4.0], 2.0, {}, no_warmup, 3.0, {}),
        (3, [7.0, 7.0, 7.0, 2.0], 2.0, {},
         "warm-up and repeats are arguments; is one of them typed into your answer?", 0.0, {}),
    ]:  # fmt: skip
        work, repeats = _Work(seconds), len(seconds) - warmup
        got = f(work.run, work.clock, warmup, repeats)
        need(got is not None, MISSING)
        need(work.reads, "the clock was never read: use the one you are given, and not the time module's")
        got = several(got, 2, "two numbers, the median and the spread")
        line = f"{warmup} warm-up calls and {repeats} timed ones are {len(seconds)} calls, and your answer made"
        need(work.calls == len(seconds), f"{line} {work.calls}: the warm-up comes first, and is called but not kept")
        what = f"calls of {', '.join(f'{s:g}' for s in seconds)} s, the first {warmup} of them warm-up"
        known(got[0], median, f"{what}: the median", medians, otherwise)
        known(got[1], spread, f"{what}: the spread", spreads, "slowest minus fastest of the timed calls")


def least_hours(f) -> None:
    one, two = (3.6e15, 1e12), (1.44e16, 2e12)  # an hour, and two
    ask(f, [
        (([one], 1), 1, "3.6e15 FLOPs at 1e12 a second", {
            3600: "these are seconds; an hour has 3600", 60: "these are minutes",
        }, "3600 seconds are one hour"),
        (([one, two], 1), 3, "one part of an hour and one of two hours", {
            2: "this is the longer part alone; the same device does both, one after the other",
            2.5: "all FLOPs were done at the higher peak",
            5: "all FLOPs were done at the lower peak",
            10 / 3: "a mean of the peaks was taken; slow parts take longer, so add up times",
            5 / 3: "the peaks were added up; the parts do not run at the same time",
            1: "is only the first part counted?",
            10800: "these are seconds; an hour has 3600",
        }, "add up the times of the parts, each at its own peak"),
        (([one, one], 1), 2, "two parts of one hour each", {1: "equal parts are two parts"}, "add up both"),
        (([one, two], 8), 3 / 8, "the same on 8 devices", {
            3: "eight devices share the work",
        }, "eight devices need an eighth of the time"),
    ])  # fmt: skip
    draw = random.Random(5)
    for _ in range(5):
        parts = [(10 ** draw.uniform(17, 20), draw.uniform(1e13, 2e15)) for _ in range(draw.randint(1, 5))]
        n = draw.randint(1, 64)
        wanted = _least_hours(parts, n)
        what, hint = f"{len(parts)} parts on {n} devices", "the sum over all parts of FLOPs / (devices * peak)"
        ask(f, [((parts, n), wanted, what, {}, hint)], keep="the parts")


# ---- right answers, for the pictures


def _bill(hours, devices, price):
    return cost.dollars(hours, devices * price)


def _bill_of_flops(flops, devices, peak, mfu, price):
    return _bill(cost.hours(flops, devices, peak, mfu), devices, price)


def _flops(width, vocab_size, windows):
    return 6 * (12 * width**2 * len(windows) + width * vocab_size) + 12 * width * sum(windows)


def _measure(f, clock, warmup, repeats):
    times = []
    for _ in range(warmup + repeats):
        began = clock()
        f()
        times.append(clock() - began)
    kept = times[warmup:]
    return statistics.median(kept), max(kept) - min(kept)


def _least_hours(parts, devices):
    return sum(cost.hours(flops, devices, peak, 1.0) for flops, peak in parts)


EXERCISES = (
    Exercise("0.1", "The bill", bill, points=2, minutes=5, difficulty=1, importance=4,
             forbids=(cost.hours, cost.dollars), reference=(_bill, _bill_of_flops)),
    Exercise("0.2", "FLOPs from a shape", flops_per_token, points=3, minutes=15, difficulty=3, importance=5,
             forbids=(GPT.flops_per_token,), reference=_flops),
    Exercise("0.3", "MFU from a log", utilisation, points=2, minutes=10, difficulty=2, importance=4,
             forbids=(cost.mfu, cost.hours)),
    Exercise("0.4", "Measuring time", measure, points=3, minutes=15, difficulty=2, importance=5,
             reference=_measure),
    Exercise("0.5", "The physical limit", least_hours, points=2, minutes=10, difficulty=2, importance=3,
             forbids=(cost.hours, cost.mfu), reference=_least_hours),
)  # fmt: skip
