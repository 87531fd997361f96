"""Checks of lesson 11's exercises: three puzzles with targets, a fingerprint, the bill of a network."""

import builtins
import hashlib
import math
from contextlib import contextmanager

import torch

from gpt2course.course.checks import Exercise, Wrong, ask, need, number, several
from gpt2course.course.puzzle import expected, play
from gpt2course.optim import MuonAdamW
from gpt2course.ranks import Ranks

# ---- 11.1 to 11.3: programs for one rank


def _data_parallel(me):
    sums = {name: me.all_reduce(me.backward(name)) for name in reversed(me.shapes)}
    for name, g in sums.items():
        me.store(name, me.adamw(me.weight(name), me.wait(g)))


def _sharded_adamw(me):
    sums, news = {}, {}
    for name in reversed(me.shapes):
        g = me.backward(name).flatten()
        sums[name] = me.reduce_scatter(me.pad(g, -(-g.shape[0] // me.world) * me.world))
    for name, g in sums.items():
        k = g.shape[0]
        w = me.pad(me.weight(name).flatten(), k * me.world)[me.rank * k : (me.rank + 1) * k]
        news[name] = me.all_gather(me.adamw(w, me.wait(g)))
    for name, w in news.items():
        m, n = me.shapes[name]
        me.store(name, me.wait(w)[: m * n].view(m, n))


def _sharded_muon(me):
    waiting, groups, news = {}, [], []
    last = {shape: name for name, shape in reversed(me.shapes.items())}  # of each shape, the last in the backward pass
    for name in reversed(me.shapes):
        some = waiting.setdefault(me.shapes[name], [])
        some.append((name, me.backward(name)))
        if len(some) == me.world or name == last[me.shapes[name]]:
            names, grads = zip(*waiting.pop(me.shapes[name]))
            groups.append((names, me.reduce_scatter(me.pad(me.stack(grads), me.world))))
    for names, g in groups:
        own = me.pad(me.stack([me.weight(name) for name in names]), me.world)[me.rank : me.rank + 1]
        news.append((names, me.all_gather(me.muon(own, me.wait(g)))))
    for names, w in news:
        w = me.wait(w)
        for i, name in enumerate(names):
            me.store(name, w[i])


SAME = {f"w{i}": (48, 32) for i in range(6)}
ODD = {"a": (7, 11), "b": (40, 30), "c": (23, 5), "d": (64, 31)}
LAYERS = {f"{kind}{i}": shape for i in range(8) for kind, shape in (("attn", (32, 32)), ("mlp", (64, 32)))}
FIVE = {f"w{i}": (24, 40) for i in range(5)}


def _puzzle(f, reference, rule: str, cases, hints: dict) -> None:
    """Play f and the reference. hints: "sent", "state", "ticks" -> where to look if f needs more than the reference."""
    for shapes, world in cases:
        rules = dict.fromkeys(shapes, rule)
        what = f"{len(shapes)} matrices on {world} rank{'s' * (world > 1)}"
        try:
            got, target = play(f, shapes, world, rules), play(reference, shapes, world, rules)
        except Wrong as e:
            raise e if "write it yourself" in str(e) else Wrong(f"{what}: {e}") from None
        units = {"state": "numbers of optimizer state on a rank", "sent": "bytes sent by a rank", "ticks": "ticks"}
        for name, unit in units.items():
            value, limit = getattr(got, name), getattr(target, name) * (1.15 if name == "ticks" else 1)
            need(value <= limit, f"{what}: {value:,.0f} {unit}, the target is {math.ceil(limit):,}: {hints[name]}")
        need(got.sent == target.sent, f"{what}: {got.sent:,} bytes sent, and a right program needs {target.sent:,}")


def data_parallel(f) -> None:
    _puzzle(f, _data_parallel, "adamw", ((SAME, 4), (ODD, 3), (FIVE, 2), (FIVE, 1)), {
        "state": "one adamw for each matrix is enough",
        "sent": "one all_reduce for each gradient is enough; equal updates of equal weights stay equal",
        "ticks": "start an all_reduce as soon as its gradient is there, and wait only when you need the sum",
    })  # fmt: skip


def sharded_adamw(f) -> None:
    _puzzle(f, _sharded_adamw, "adamw", ((SAME, 4), (ODD, 3), (ODD, 4), (FIVE, 1)), {
        "state": "a rank updates its own part of the numbers alone, with as few zeros as divide evenly",
        "sent": "reduce_scatter the gradient, all_gather the new weight: that is one all_reduce in all",
        "ticks": "start every reduce_scatter in the backward pass and every all_gather before you wait for the first",
    })  # fmt: skip


def sharded_muon(f) -> None:
    _puzzle(f, _sharded_muon, "muon", ((LAYERS, 4), (FIVE, 4), (LAYERS, 2), (SAME, 3), (FIVE, 1)), {
        "state": "a rank updates whole matrices of its own, and no matrix twice",
        "sent": "each gradient is scattered once and each weight gathered once; fill up to a multiple of the ranks only",
        "ticks": "scatter a stack as soon as it has a matrix for each rank, while the backward pass goes on; gather each"
                 " group at once and wait for the gathers at the end",
    })  # fmt: skip


# ---- 11.4


def _fingerprint(p) -> int:
    data = p.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


@contextmanager
def _steady_hash():
    """Python's hash of bytes and text is an error: it differs from process to process."""
    real = builtins.hash

    def steady(x):
        if isinstance(x, (bytes, str)):
            raise Wrong("Python's hash of bytes or text differs from process to process; see hashlib or zlib")
        return real(x)

    builtins.hash = steady
    try:
        yield
    finally:
        builtins.hash = real


def _changed(p, at: int, to) -> torch.Tensor:
    out = p.clone()
    out.view(-1)[at] = to
    return out


def fingerprint(f) -> None:
    def of(p, what):
        kept = p.clone()
        with _steady_hash():
            got = f(p)
        bits = lambda x: x.contiguous().flatten().view(torch.uint8)
        need(torch.equal(bits(p), bits(kept)), "your answer changed the tensor in place")
        got = number(got, f"the fingerprint of {what}")
        need(got == int(got), f"the fingerprint of {what} is {got!r}, expected a whole number")
        need(0 <= got < 2**64, f"the fingerprint of {what} is {got:.4g}: it must fit into 8 bytes, from 0 to 2**64 - 1")
        return int(got)

    for dtype in (torch.float32, torch.bfloat16):
        p = torch.randn(7, 5, generator=torch.Generator().manual_seed(114)).to(dtype)
        p[2, 3], p[4, 1], name = 0.0, 1.0, str(dtype).removeprefix("torch.")
        first = of(p, f"a {name} tensor")
        need(first == of(p.clone(), "a copy"), f"{name}: equal tensors have different fingerprints: use the bits alone")
        turned = p.T.contiguous().T
        need(first == of(turned, "the same"), f"{name}: equal numbers that lie in another order in memory differ")
        one = torch.nextafter(torch.ones((), dtype=dtype), torch.tensor(2.0, dtype=dtype))
        swapped, rows = _changed(_changed(p, 0, p[0, 1]), 1, p[0, 0]), p[[1, 0, *range(2, 7)]]
        for other, what, hint in (
            (_changed(p, 21, one), "the last bit of a 1 is changed", "rounding hides it: sum integers, not floats"),
            (_changed(p, 13, -0.0), "a 0 became -0", "they are equal as numbers, not as bits"),
            (swapped, "two neighbours are exchanged", "a sum does not see the order: let the place count"),
            (rows, "two rows are exchanged", "a sum does not see the order: let the place count"),
            (_changed(_changed(p, 0, one), 21, p[0, 0]), "two numbers are new", "let place and bits count"),
            (_changed(p, 34, 3.0), "the last number is new", "let all numbers count"),
            (_changed(p, 5, math.inf), "a number became infinite", "let every bit count"),
            (_changed(_changed(p, 5, math.inf), 6, -math.inf), "inf and -inf", "a sum of floats becomes NaN"),
        ):  # fmt: skip
            need(of(other, f"a tensor in which {what}") != first, f"{name}: {what}, and the fingerprint stays: {hint}")
        nan = _changed(p, 8, math.nan)
        need(of(nan, "a tensor with NaN") == of(nan.clone(), "a copy"), f"{name}: with NaN, equal bits differ")
        need(of(_changed(nan, 9, 7.0), "NaN, 7") != of(nan, "NaN"), f"{name}: beside a NaN a changed number is hidden")
    large = torch.ones(300, 1000)
    other = _changed(large, 299_999, 1.0000001)
    need(of(large, "ones") != of(other, "ones but one"), "of 300,000 ones the last changed, and the fingerprint stays")


# ---- 11.5


def _wire(parts, world, gb_per_s, round_us, step_ms):
    sent = sum(2 * -(-n // world) * size * (world - 1) for n, size in parts)
    ms = sent / gb_per_s / 1e6 + 2 * len(parts) * (world - 1) * round_us / 1e3
    return [sent / 1e9, ms, ms / (step_ms + ms)]


BIG = [(679_481_856, 4), (50_331_648, 4), (50_331_648, 2), (603_979_776, 2)]


def wire(f) -> None:
    rows = []
    for args in (([(8_000_000, 4)], 8, 100, 0, 100), ([(1003, 4)], 4, 1e-3, 0, 1), (BIG, 8, 450, 10, 656),
                 (BIG, 8, 12.5, 10, 656), (BIG, 1, 450, 10, 656), ([(5, 4), (2048, 2), (7, 2)], 64, 25, 40, 20)):  # fmt: skip
        parts, world, speed, us, step = args
        right = _wire(*args)
        cost = lambda sent, rounds, speed=speed, step=step: [
            sent, sent / speed * 1e3 + rounds, (sent / speed * 1e3 + rounds) / (step + sent / speed * 1e3 + rounds)]  # fmt: skip
        rounds = 2 * len(parts) * (world - 1) * us / 1e3
        errors = [
            (cost(right[0] / 2, rounds), "there are two trips: reduce-scatter and all-gather"),
            (cost(sum(2 * n * s for n, s in parts) / 1e9, rounds), "a rank does not send its own part: (world - 1) / world"),
            (cost(sum(2 * n * s * (world - 1) / world for n, s in parts) / 1e9, rounds), "numbers are filled up with zeros"),
            (cost(sum(2 * n * s * (world - 1) for n, s in parts) / 1e9, rounds), "a ring sends parts, not whole tensors"),
            (cost(sum(8 * -(-n // world) * (world - 1) for n, s in parts) / 1e9, rounds), "numbers have their own sizes"),
            (cost(right[0], 0), "each round takes round_us, however little it carries"),
            (cost(right[0], rounds / 2), "there are two trips of rounds"),
            (cost(right[0], rounds / len(parts)), "every part makes its own trips"),
            (cost(right[0], rounds / max(1, world - 1)), "a trip has world - 1 rounds"),
            (cost(right[0], rounds * 1000), "round_us is in microseconds"),
            ([*right[:2], right[1] / step], "the share is of the whole, step_ms and the messages together"),
            ([right[0], right[1] / 1e3, right[2]], "milliseconds, not seconds"),
            ([right[0] * 1e9, *right[1:]], "GB, not bytes"),
        ]  # fmt: skip
        what = f"GB, ms and share of {len(parts)} part{'s' * (len(parts) > 1)} on {world} ranks at {speed:g} GB/s"
        rows.append((args, right, what, [(e, h) for e, h in errors if e != right], "see the tiny example"))
    ask(lambda *a: [float(x) for x in several(f(*a), 3, "GB, milliseconds and a share")], rows, rtol=1e-4)


EXERCISES = (
    Exercise("11.1", "Hide the all-reduce", data_parallel, points=2, minutes=15, difficulty=2, importance=4,
             reference=_data_parallel, forbids=(expected,)),
    Exercise("11.2", "AdamW in parts", sharded_adamw, points=3, minutes=20, difficulty=3, importance=5,
             reference=_sharded_adamw, forbids=(expected,)),
    Exercise("11.3", "The ninth puzzle: Muon in parts", sharded_muon, points=4, minutes=25, difficulty=5, importance=5,
             reference=_sharded_muon, forbids=(MuonAdamW, expected)),
    Exercise("11.4", "A fingerprint that misses nothing", fingerprint, points=3, minutes=20, difficulty=3, importance=4,
             forbids=(Ranks.check_equal,)),
    Exercise("11.5", "The bill of the network", wire, points=2, minutes=15, difficulty=2, importance=4),
)  # fmt: skip
