"""Lesson 11: wrong answers to its exercises get their hint, right ones pass; its figures draw; processes end; the puzzle cannot be cheated."""

import hashlib
import sys
import time
import zlib

import pytest
import torch
from lesson_cases import answers, change, lesson_tests

from gpt2course import optim
from gpt2course.course import mine, processes, puzzle
from gpt2course.course.build import lesson_cells
from gpt2course.course.checks import Wrong, run
from gpt2course.course.figures import distributed as figures
from gpt2course.files import UserError

NAMES = {
    "11.1": ("data_parallel",), "11.2": ("sharded_adamw",), "11.3": ("sharded_muon",), "11.4": ("fingerprint",), "11.5": ("wire",),
}  # fmt: skip
SOLVED = answers("11", torch=torch, hashlib=hashlib)
back = lambda me: list(reversed(me.shapes))  # noqa: E731


# ---- 11.1


def at_once(me):
    for n in back(me):
        me.store(n, me.adamw(me.weight(n), me.wait(me.all_reduce(me.backward(n)))))


def after_backward(me):
    grads = {n: me.backward(n) for n in back(me)}
    sums = {n: me.all_reduce(g) for n, g in grads.items()}
    for n, g in sums.items():
        me.store(n, me.adamw(me.weight(n), me.wait(g)))


def no_wait(me):
    for n in back(me):
        me.store(n, me.adamw(me.weight(n), me.all_reduce(me.backward(n))))


def no_sum(me):
    for n in back(me):
        me.store(n, me.adamw(me.weight(n), me.backward(n)))


def rank_zero_alone(me):
    for n in back(me):
        g = me.backward(n)
        me.store(n, me.adamw(me.weight(n), me.wait(me.all_reduce(g)) if me.rank == 0 else g))


def first_layer_first(me):
    for n in me.shapes:
        me.store(n, me.adamw(me.weight(n), me.wait(me.all_reduce(me.backward(n)))))


def summed_twice(me):
    sums = {n: me.all_reduce(me.backward(n)) for n in back(me)}
    for n, g in sums.items():
        me.wait(me.all_reduce(me.weight(n)))
        me.store(n, me.adamw(me.weight(n), me.wait(g)))


def one_missing(me):
    sums = {n: me.all_reduce(me.backward(n)) for n in back(me)}
    for n, g in list(sums.items())[:-1]:
        me.store(n, me.adamw(me.weight(n), me.wait(g)))


def updated_twice(me):
    sums = {n: me.all_reduce(me.backward(n)) for n in back(me)}
    for n, g in sums.items():
        me.adamw(me.weight(n), me.wait(g))
        me.store(n, me.adamw(me.weight(n), g))


def turned_order(me):
    sums = {n: me.all_reduce(me.backward(n)) for n in back(me)}
    for n, g in reversed(sums.items()):
        me.store(n, me.adamw(me.weight(n), me.wait(g)))


def flat_update(me):
    sums = {n: me.all_reduce(me.backward(n).flatten()) for n in back(me)}
    for n, g in sums.items():
        me.store(n, me.adamw(me.weight(n).flatten(), me.wait(g)).view(*me.shapes[n]))


def by_a_global(me, seen={}):  # noqa: B006
    """Takes what another rank recorded: a value of another rank."""
    for n in back(me):
        seen[n, me.rank] = me.backward(n)
        me.store(n, me.adamw(me.weight(n), seen.get((n, 1 - me.rank), seen[n, me.rank])))


# ---- 11.2, 11.3


def parts(me, own=None, pad=True, early=True, whole=False, more=0, shift=0):
    """AdamW in parts with one thing wrong."""
    sums, news, k_of = {}, {}, {}
    if not early:
        kept = {n: me.backward(n) for n in back(me)}
    for n in back(me):
        g = (me.backward(n) if early else kept[n]).flatten()
        k = k_of[n] = -(-g.shape[0] // me.world) + more if pad else g.shape[0] // me.world
        g = me.pad(g, k * me.world) if pad else g[: k * me.world]
        sums[n] = me.all_reduce(g) if whole else me.reduce_scatter(g)
    for n, g in sums.items():
        k, g = k_of[n], me.wait(g)
        if whole:
            g = g[me.rank * k : (me.rank + 1) * k]
        at = (me.rank + shift) % me.world
        w = me.pad(me.weight(n).flatten(), k * me.world)[at * k : (at + 1) * k]
        news[n] = me.all_gather(me.adamw(w, g))
        if own == "wait":
            me.wait(news[n])
    for n, w in news.items():
        a, b = me.shapes[n]
        me.store(n, me.wait(w)[: a * b].view(a, b))


def rows_of_matrix(me):
    for n in back(me):
        g = me.wait(me.reduce_scatter(me.backward(n)))
        k = g.shape[0]
        me.store(n, me.wait(me.all_gather(me.adamw(me.weight(n)[me.rank * k : (me.rank + 1) * k], g))))


def sharded_in_another_order(me):
    """Right: weights are cut before the backward pass, and gathers are waited for from the last."""
    k_of = {n: -(-a * b // me.world) for n, (a, b) in me.shapes.items()}
    own = {n: me.pad(me.weight(n).flatten(), k * me.world)[me.rank * k :][:k] for n, k in k_of.items()}
    sums = [(n, me.reduce_scatter(me.pad(me.backward(n).flatten(), k_of[n] * me.world))) for n in back(me)]
    news = [(n, me.all_gather(me.adamw(own[n], me.wait(g)))) for n, g in sums]
    for n, w in reversed(news):
        me.store(n, me.wait(w)[: me.shapes[n][0] * me.shapes[n][1]].view(*me.shapes[n]))


def stacks(me, size=None, early=True, wait=False, rule="muon", flat=False, own=lambda me: me.rank, ungathered=False, whole=False):
    """Muon in groups of `size` matrices of one shape, with one thing wrong."""
    size, kept, groups, waiting = size or me.world, {}, [], {}
    left = {s: [n for n in me.shapes if me.shapes[n] == s] for s in me.shapes.values()}

    def send(names):
        rows = -(-len(names) // me.world) * me.world
        g = me.pad(me.stack([kept[n] for n in names]), rows)
        groups.append((names, rows, me.all_reduce(g) if whole else me.reduce_scatter(g)))

    for n in back(me):
        kept[n] = me.backward(n)
        s = me.shapes[n]
        left[s].remove(n)
        waiting.setdefault(s, []).append(n)
        if early and (len(waiting[s]) == size or not left[s]):
            send(waiting.pop(s))
    for names in list(waiting.values()):
        for i in range(0, len(names), size):
            send(names[i : i + size])
    news = []
    for names, rows, g in groups:
        k, g = rows // me.world, me.wait(g)
        g = g[own(me) * k : own(me) * k + k] if whole else g
        w = me.pad(me.stack([me.weight(n) for n in names]), rows)[own(me) * k : own(me) * k + k]
        if flat:
            w, g = w.flatten(), g.flatten()
        w = getattr(me, rule)(w, g)
        news.append((names, w if ungathered else me.all_gather(w)))
        if wait:
            me.wait(news[-1][1])
    for names, w in news:
        w = me.wait(w)
        for i, n in enumerate(names):
            me.store(n, w[i])


def groups_in_advance(me):
    """Right: the groups follow from the shapes, and gathers are waited for from the last."""
    names, groups, grads, sums, news = back(me), [], {}, {}, {}
    for s in dict.fromkeys(me.shapes.values()):
        same = [n for n in names if me.shapes[n] == s]
        groups += [tuple(same[i : i + me.world]) for i in range(0, len(same), me.world)]
    ends = {group[-1]: group for group in groups}
    for n in names:
        grads[n] = me.backward(n)
        if group := ends.get(n):
            sums[group] = me.reduce_scatter(me.pad(me.stack([grads[m] for m in group]), me.world))
    for group, g in sums.items():
        own = me.pad(me.stack([me.weight(n) for n in group]), me.world)[me.rank : me.rank + 1]
        news[group] = me.all_gather(me.muon(own, me.wait(g)))
    for group, w in reversed(news.items()):
        w = me.wait(w)
        for i, n in enumerate(group):
            me.store(n, w[i])


def everyone(me):
    sums = {n: me.all_reduce(me.backward(n)) for n in back(me)}
    for n, g in sums.items():
        me.store(n, me.muon(me.weight(n), me.wait(g)))


def cut_matrices(me):
    """Muon on flat parts that cut matrices."""
    news = {}
    for n in back(me):
        g = me.wait(me.reduce_scatter(me.backward(n)))
        k = me.shapes[n][0] // me.world
        news[n] = me.all_gather(me.muon(me.weight(n)[me.rank * k : me.rank * k + k], g))
    for n, w in news.items():
        me.store(n, me.wait(w))


def one_at_a_time(me):
    """A matrix is filled up to one for each rank: four times the bytes."""
    stacks(me, size=1)


def mixed(me):
    me.stack([me.backward(n) for n in back(me)])


# ---- 11.4


def crc(p):
    bits = p.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return zlib.crc32(bits)


def polynomial(p):
    size = {2: torch.int16, 4: torch.int32}[p.element_size()]
    x = p.contiguous().flatten().view(size).long() & 0xFFFFFFFF
    weights = (torch.arange(len(x)) * 2 + 1) * 0x9E3779B97F4A7C1
    return int((((x + 1) * weights) ^ ((x + 7) * weights >> 31)).sum()) % 2**64


def of_memory(p):
    return int.from_bytes(hashlib.sha256(p.clone().as_strided((p.numel(),), (1,)).view(torch.uint8).numpy().tobytes()).digest()[:8], "big")


def bits_of(p):
    return p.contiguous().flatten().view({2: torch.int16, 4: torch.int32}[p.element_size()]).long()


def in_place(p):
    p.nan_to_num_()
    return SOLVED["fingerprint"](p)


COUNTER = iter(range(10**9))


# ---- 11.5


def bill(parts, world, speed, us, step, trips=2, fill=True, own=False, sizes=True, rounds=lambda w, n: (w - 1) * n, share=True, whole=False, both=2, micro=1e3):
    """The bill with one thing wrong."""
    share_of = lambda n: n if whole else -(-n // world) if fill else n / world  # noqa: E731
    sent = sum(trips * share_of(n) * (size if sizes else 4) * (world if own else world - 1) for n, size in parts)
    ms = sent / speed / 1e9 * 1e3 + both * rounds(world, len(parts)) * us / micro
    return [sent / 1e9, ms, ms / ((step + ms) if share else step)]


WRONG = {
    ("11.1", "waits at once"): (at_once, "start an all_reduce as soon as"),
    ("11.1", "after the backward pass"): (after_backward, "start an all_reduce as soon as"),
    ("11.1", "no wait"): (no_wait, "before me.wait"),
    ("11.1", "no sum"): (no_sum, "wrong numbers"),
    ("11.1", "rank 0 alone"): (rank_zero_alone, "a real run hangs"),
    ("11.1", "first layer first"): (first_layer_first, "from the last to the first"),
    ("11.1", "weights summed too"): (summed_twice, "one all_reduce for each gradient"),
    ("11.1", "one is not stored"): (one_missing, "not stored"),
    ("11.1", "updated twice"): (updated_twice, "one adamw for each"),
    ("11.1", "numbers of another rank"): (by_a_global, "takes values such as"),
    ("11.2", "data parallel"): (SOLVED["data_parallel"], "a rank updates its own part"),
    ("11.2", "all-reduce in place of reduce-scatter"): (change(parts, whole=True), "reduce_scatter the gradient"),
    ("11.2", "the rest is lost"): (change(parts, pad=False), "stopped with RuntimeError: shape"),
    ("11.2", "another rank's part"): (change(parts, shift=1), "wrong numbers"),
    ("11.2", "more zeros"): (change(parts, more=1), "as few zeros"),
    ("11.2", "scattered after the backward pass"): (change(parts, early=False), "start every reduce_scatter"),
    ("11.2", "rows of the matrix"): (rows_of_matrix, "start every|do not divide"),
    ("11.3", "every rank all"): (everyone, "whole matrices of its own"),
    ("11.3", "scattered after the backward pass"): (change(stacks, early=False), "as soon as it has a matrix"),
    ("11.3", "one stack for each shape"): (change(stacks, size=99), "as soon as it has a matrix"),
    ("11.3", "waits for each gather"): (change(stacks, wait=True), "wait for the gathers at the end"),
    ("11.3", "cut matrices"): (cut_matrices, "wrong numbers|do not divide"),
    ("11.3", "a stack for each matrix"): (one_at_a_time, "whole matrices of its own"),
    ("11.3", "shapes in one stack"): (mixed, "stopped with RuntimeError: stack"),
    ("11.3", "flat"): (change(stacks, flat=True), "muon got the shapes"),
    ("11.3", "adamw"): (change(stacks, rule="adamw"), "wrong numbers"),
    ("11.3", "another rank's matrix"): (change(stacks, own=lambda me: (me.rank + 1) % me.world), "wrong numbers"),
    ("11.3", "not gathered"): (change(stacks, ungathered=True), "stopped with IndexError"),
    ("11.3", "all-reduce in place of reduce-scatter"): (change(stacks, whole=True), "each gradient is scattered once"),
    ("11.4", "a sum of floats"): (lambda p: int(p.double().nan_to_num().sum().abs() * 1e6), "fingerprint|last bit"),
    ("11.4", "a sum of bits"): (lambda p: int(bits_of(p).sum()) % 2**64, "sum does not see the order"),
    ("11.4", "Python's hash of bytes"): (lambda p: hash(p.contiguous().flatten().view(torch.uint8).numpy().tobytes()) % 2**64, "differs from process to process"),
    ("11.4", "Python's hash of text"): (lambda p: hash(str(p)) % 2**64, "differs from process to process"),
    ("11.4", "the printed tensor"): (lambda p: zlib.crc32(str(p).encode()), "fingerprint stays"),
    ("11.4", "as numbers"): (lambda p: zlib.crc32(str((p.double() + 0.0).tolist()).encode()), "not as bits"),
    ("11.4", "layout of memory"): (of_memory, "another order in memory"),
    ("11.4", "too long"): (lambda p: int.from_bytes(hashlib.sha256(p.contiguous().flatten().view(torch.uint8).numpy().tobytes()).digest(), "big"), "8 bytes"),
    ("11.4", "below 0"): (lambda p: -crc(p) - 1, "8 bytes"),
    ("11.4", "a half"): (lambda p: crc(p) + 0.5, "whole number"),
    ("11.4", "a text"): (lambda p: hashlib.sha256(b"").hexdigest(), "expected a number"),
    ("11.4", "another each time"): (lambda p: next(COUNTER), "different fingerprints"),
    ("11.4", "in place"): (in_place, "in place"),
    ("11.4", "the first numbers"): (lambda p: crc(p.flatten()[:20]), "all numbers count|last bit"),
    ("11.5", "one trip"): (change(bill, trips=1), "two trips: reduce-scatter"),
    ("11.5", "its own part too"): (change(bill, own=True), "does not send its own part"),
    ("11.5", "no zeros"): (change(bill, fill=False), "filled up"),
    ("11.5", "whole tensors"): (change(bill, whole=True), "parts, not whole"),
    ("11.5", "always four bytes"): (change(bill, sizes=False), "their own sizes"),
    ("11.5", "rounds for nothing"): (change(bill, rounds=lambda w, n: 0), "each round takes round_us"),
    ("11.5", "one trip of rounds"): (change(bill, both=1), "two trips of rounds"),
    ("11.5", "one part's rounds"): (change(bill, rounds=lambda w, n: w - 1), "every part makes its own trips"),
    ("11.5", "one round a trip"): (change(bill, rounds=lambda w, n: n if w > 1 else 0), "world - 1 rounds"),
    ("11.5", "share of computing"): (change(bill, share=False), "of the whole"),
    ("11.5", "seconds"): (lambda *a: [bill(*a)[0], bill(*a)[1] / 1e3, bill(*a)[2]], "milliseconds, not seconds"),
    ("11.5", "bytes"): (lambda *a: [bill(*a)[0] * 1e9, *bill(*a)[1:]], "GB, not bytes"),
    ("11.5", "rounds in milliseconds"): (change(bill, micro=1.0), "microseconds"),
    ("11.5", "two results"): (lambda *a: bill(*a)[:2], "GB, milliseconds and a share"),
}  # fmt: skip
RIGHT = {
    ("11.1", "waits from the first layer"): turned_order,
    ("11.1", "flat"): flat_update,
    ("11.2", "one loop, another cut"): sharded_in_another_order,
    ("11.2", "waits for each gather"): change(parts, own="wait"),
    ("11.3", "groups as they fill"): stacks,
    ("11.3", "groups made in advance"): groups_in_advance,
    ("11.4", "crc"): crc,
    ("11.4", "weights by place"): polynomial,
    ("11.5", "formula"): bill,
    ("11.5", "a list"): lambda *a: list(SOLVED["wire"](*a)),
}

SPANS = [(0, "backward", 0, 40), (0, "wait", 40, 60), (1, "backward", 0, 60), (0, "all_reduce", 60, 80), (1, "all_reduce", 60, 80)]
FIGURES = {
    "ring": (lambda: figures.ring([[[1, 1], [1, 1]], [[2, 1], [1, 2]]], ["before", "after"]), ["each of 2 ranks; of 4 chunks, before: 0 whole, after: 2 whole"]),
    "timeline": (lambda: figures.timeline(SPANS), ["One step on 2 ranks, 80 ticks: rank 0 waits 20, rank 1 waits 0"]),
    "bars": (lambda: figures.bars({"matrices": 2.378, "head": 0.176}, "GB", "Sent"), ["Sent, GB: matrices 2.38, head 0.176"]),
    "losses": (lambda: figures.losses({"1 rank": [6.9, 5.0], "2 ranks": [6.9, 5.0]}, 1), ["1 rank from 6.900 to 5.000; 2 ranks from"]),
}  # fmt: skip
REFUSED = {
    "no state": lambda: figures.ring([], []),
    "no name": lambda: figures.ring([[[1]]], []),
    "no span": lambda: figures.timeline([]),
    "an unknown kind": lambda: figures.timeline([(0, "sleep", 0, 1)]),
    "no part": lambda: figures.bars({}, "GB", "Sent"),
    "no curve": lambda: figures.losses({}),
}

globals().update(lesson_tests("11", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


# ---- the puzzle


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_puzzle_counts_what_a_ring_sends(world):
    shapes = {"a": (12, 8), "b": (24, 2)}
    one = puzzle.play(SOLVED["data_parallel"], shapes, world, dict.fromkeys(shapes, "adamw"))
    two = puzzle.play(SOLVED["sharded_adamw"], shapes, world, dict.fromkeys(shapes, "adamw"))
    assert one.sent == two.sent == 2 * (96 + 48) * 4 * (world - 1) // world
    assert one.state == world * two.state == 2 * (96 + 48)


def test_collectives_in_another_order_hang():
    def f(me):
        names = back(me)
        grads = {n: me.backward(n) for n in names}
        for n in names if me.rank else names[::-1]:
            me.store(n, me.adamw(me.weight(n), me.wait(me.all_reduce(grads[n]))))

    with pytest.raises(Wrong, match="a real run hangs"):
        puzzle.play(f, {"a": (4, 4), "b": (4, 2)}, 2, {"a": "adamw", "b": "adamw"})


def test_the_rules_of_the_puzzle_stay_as_they_are():
    def f(me):
        puzzle.SPEED = 1e9
        at_once(me)

    try:
        assert "your answer changed gpt2course.course.puzzle.SPEED" in run("11.1", f) and puzzle.SPEED == 256
    finally:
        puzzle.SPEED = 256


def test_a_value_has_no_numbers_while_a_program_runs():
    seen = []

    def f(me):
        seen.append(me.backward("a").data)

    with pytest.raises(Wrong):
        puzzle.play(f, {"a": (4, 4)}, 2, {"a": "adamw"})
    assert seen == [None, None]


# ---- processes


def hello(rank, world, x):
    total = x[rank].clone()
    torch.distributed.all_reduce(total)
    return total, world


def fails(rank, world):
    if rank == 1:
        raise ValueError("no")
    torch.distributed.barrier()


def hangs(rank, world):
    if rank == 1:
        time.sleep(100)
    torch.distributed.barrier()


def test_functions_run_on_ranks_and_a_rank_that_fails_is_named():
    x = torch.randn(2, 3)
    found = processes.on_ranks(2, hello, x)
    assert all(world == 2 and torch.allclose(total, x.sum(0)) for total, world in found)
    with pytest.raises(UserError, match="rank 1 ended with code 1 .*ValueError: no"):
        processes.on_ranks(2, fails)
    assert sys.modules[__name__].hello is hello


@pytest.mark.slow
def test_a_rank_that_hangs_ends():
    began = time.monotonic()
    with pytest.raises(UserError, match="did not end in time"):
        processes.on_ranks(2, hangs, limit=6)
    assert time.monotonic() - began < 40


# ---- what the lesson builds


def test_the_lessons_shares_are_the_packages():
    owned = mine.load("owned", mine.source_of(lesson_cells("11"), "owned"))
    for n in (1, 2, 5, 12, 96):
        for world in (1, 2, 3, 8):
            group = optim.Group("", "muon", {f"{i}": torch.zeros(3, 2) for i in range(n)}, lr=0.1)
            parts = [optim.MuonAdamW([group], ranks=(rank, world)).parts[0] for rank in range(world)]
            if world > 1:
                assert [owned(n, rank, world) for rank in range(world)] == [(p.first, p.k) for p in parts]
