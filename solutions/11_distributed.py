# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: gpt2course
#     language: python
#     name: gpt2course
# ---

# %% [markdown]
# # Exercises 11: Several GPUs
#
# Three puzzles on ranks that do not exist, with targets; a fingerprint; and the bill of a network. Replace each
# `raise NotImplementedError` by your answer and run the check below it. The lesson is
# [11 Several GPUs](../lessons/11_distributed.ipynb).
#
# Only answers in work/ are graded: `make start EX=11` puts your copy of this notebook there, `make grade EX=11` grades it.
# Until you run a check, it shows the line that a right answer prints.
#
# **The rules of the puzzles.** An answer is a program for one rank, `program(me)`. Every rank runs it. It sees shapes and
# no numbers: the numbers come when the check runs what your program asked for. `me` offers
#
# | | |
# |---|---|
# | `me.rank`, `me.world`, `me.shapes` | number of this rank, of all ranks; name of a matrix -> its shape, first layer first |
# | `me.backward(name)` | the gradient of this rank's own rows; last matrix first, each once |
# | `me.weight(name)`, `me.store(name, w)` | the old weight; the new one, which every rank must store |
# | `me.adamw(w, g)`, `me.muon(w, g)` | the new w from the *sum* of all gradients; muon takes a matrix or a stack of them |
# | `me.all_reduce(v)`, `me.reduce_scatter(v)`, `me.all_gather(v)` | start a collective; it cuts or joins the first dimension |
# | `me.wait(v)` | wait for the result of a collective, and return it |
# | `v.shape`, `v[a:b]`, `v.flatten()`, `v.view(m, n)`, `me.stack([v, ...])`, `me.pad(v, rows)` | free; pad adds zeros at the end |
#
# Computing takes ticks, and so does sending: 64 numbers of a gradient a tick, 64 numbers sent, and 1 tick more for each
# round of the ring (world - 1 rounds; an all-reduce has twice as many). AdamW is four times as fast,
# Muon half as fast. There is one network: a collective begins when all ranks have started it and the one before has ended. A
# rank computes meanwhile. The targets are what a good program needs, and 15 % more for ticks.

# %% tags=["setup"]
import hashlib

import torch

from gpt2course.course import puzzle
from gpt2course.course.checks import pictures
from gpt2course.course.figures import distributed as figures

# %% [markdown] tags=["ex-11.1"]
# ## 11.1 Hide the all-reduce
#
# Every rank keeps the whole optimizer state: all-reduce each gradient and update each matrix with `me.adamw`. This program is
# right, but too slow:
#
# ```python
# for name in reversed(me.shapes):
#     g = me.wait(me.all_reduce(me.backward(name)))
#     me.store(name, me.adamw(me.weight(name), g))
# ```
#
# With six matrices of 48 x 32 on 4 ranks it takes 432 ticks. The target is 325. The bytes must not grow.
#
# The picture shows what each rank computes (upper bars) and what the network carries (lower bars).
#
# <details><summary>Help: where do the ticks go?</summary>
#
# While a rank waits, it could compute the next gradient. Look at the grey bars.
# </details>

# %% tags=["answer", "ex-11.1"]
def data_parallel(me):
    """A program for one rank; see the rules above."""
    ### BEGIN SOLUTION
    sums = {}
    for name in reversed(me.shapes):
        sums[name] = me.all_reduce(me.backward(name))
    for name, g in sums.items():
        me.store(name, me.adamw(me.weight(name), me.wait(g)))
    ### END SOLUTION


# %% tags=["check", "ex-11.1"]
from gpt2course.course.checks import check

check("11.1", data_parallel)

# %% tags=["picture", "ex-11.1"]
def draw(program):
    shapes = {f"w{i}": (48, 32) for i in range(6)}
    return figures.timeline(puzzle.play(program, shapes, 4, dict.fromkeys(shapes, "adamw")).spans)


pictures("11.1", draw, data_parallel)

# %% [markdown] tags=["ex-11.2"]
# ## 11.2 AdamW in parts
#
# Now a rank may update only its own part of each matrix's numbers. Sizes need not divide: 7 x 11 = 77 numbers on 3 ranks are
# 26 a rank, and one zero. Targets: the bytes of an all-reduce (of the filled-up size), 2 numbers of state for each number of a
# rank's part, and the ticks of a program that lets the network run beside the computing.
#
# A tiny example: one matrix of 2 x 3 on 2 ranks. Each rank updates 3 numbers, so it keeps 6 numbers of state.
#
# <details><summary>Help: the rows do not divide</summary>
#
# `flatten` first: then the rows are single numbers. `me.pad` fills up.
# </details>
# <details><summary>Help: too many ticks</summary>
#
# Three loops: start all reduce-scatters, then update and start all all-gathers, then wait for these.
# </details>

# %% tags=["answer", "ex-11.2"]
def sharded_adamw(me):
    """A program for one rank; see the rules above."""
    ### BEGIN SOLUTION
    sums, news = {}, {}
    for name in reversed(me.shapes):
        g = me.backward(name).flatten()
        k = -(-g.shape[0] // me.world)
        sums[name] = me.reduce_scatter(me.pad(g, k * me.world))
    for name, g in sums.items():
        k = g.shape[0]
        w = me.pad(me.weight(name).flatten(), k * me.world)
        own = w[me.rank * k : (me.rank + 1) * k]
        news[name] = me.all_gather(me.adamw(own, me.wait(g)))
    for name, w in news.items():
        m, n = me.shapes[name]
        me.store(name, me.wait(w)[: m * n].view(m, n))
    ### END SOLUTION


# %% tags=["check", "ex-11.2"]
from gpt2course.course.checks import check

check("11.2", sharded_adamw)

# %% tags=["picture", "ex-11.2"]
def draw(program):
    shapes = {f"w{i}": (48, 32) for i in range(6)}
    return figures.timeline(puzzle.play(program, shapes, 4, dict.fromkeys(shapes, "adamw")).spans)


pictures("11.2", draw, sharded_adamw)

# %% [markdown] tags=["ex-11.3"]
# ## 11.3 The ninth puzzle: Muon in parts
#
# The same for `me.muon`, which needs whole matrices. A model has matrices of several shapes, in turn: `attn0` (32, 32), `mlp0`
# (64, 32), `attn1`, `mlp1` and so on. Only matrices of one shape can be stacked.
#
# Targets: each rank updates as few matrices as possible; each gradient is scattered once and each weight gathered once, filled up
# to a multiple of the ranks and no more; and the ticks. With eight layers on 4 ranks they are 6,144 numbers of state and 147,456
# bytes a rank, and 941 ticks. A program that scatters after the backward pass takes 1,001: the first reduce-scatter can start as
# soon as one shape has a gradient for every rank.
#
# <details><summary>Help: who updates what?</summary>
#
# A group of `world` matrices of one shape: reduce-scatter of the stack gives each rank one summed gradient.
# </details>
# <details><summary>Help: the last group of a shape has fewer matrices</summary>
#
# Fill it up with `me.pad`. It starts with the last gradient of its shape, not at the end of the backward pass.
# </details>

# %% tags=["answer", "ex-11.3"]
def sharded_muon(me):
    """A program for one rank; see the rules above."""
    ### BEGIN SOLUTION
    names_of = {}  # shape -> groups of names, in the order of the backward pass
    for name in reversed(me.shapes):
        groups = names_of.setdefault(me.shapes[name], [[]])
        if len(groups[-1]) == me.world:
            groups.append([])
        groups[-1].append(name)
    ends = {group[-1]: group for groups in names_of.values() for group in groups}
    grads, sums, news = {}, [], []
    for name in reversed(me.shapes):
        grads[name] = me.backward(name)
        if name in ends:
            stack = me.stack([grads[n] for n in ends[name]])
            sums.append((ends[name], me.reduce_scatter(me.pad(stack, me.world))))
    for group, g in sums:
        stack = me.pad(me.stack([me.weight(n) for n in group]), me.world)
        own = stack[me.rank : me.rank + 1]
        news.append((group, me.all_gather(me.muon(own, me.wait(g)))))
    for group, w in news:
        w = me.wait(w)
        for i, name in enumerate(group):
            me.store(name, w[i])
    ### END SOLUTION


# %% tags=["check", "ex-11.3"]
from gpt2course.course.checks import check

check("11.3", sharded_muon)

# %% tags=["picture", "ex-11.3"]
def draw(program):
    kinds = (("attn", (32, 32)), ("mlp", (64, 32)))
    shapes = {f"{kind}{i}": shape for i in range(8) for kind, shape in kinds}
    return figures.timeline(puzzle.play(program, shapes, 4, dict.fromkeys(shapes, "muon")).spans)


pictures("11.3", draw, sharded_muon)

# %% [markdown] tags=["ex-11.4"]
# ## 11.4 A fingerprint that misses nothing
#
# The package's check adds up the bits of all numbers as integers. That is quick, but it does not see two numbers that changed
# places. Write a fingerprint that sees every change of the bits or of their order, in eight bytes: a whole number from 0 to
# 2**64 - 1. It must be the same on every rank that has the same numbers, whatever their layout in memory. Tensors are
# float32 or bfloat16; NaN and infinity are allowed, since a run that diverges must be compared too.
#
# A tiny example: `[0.0, 1.0]`, `[1.0, 0.0]` and `[-0.0, 1.0]` have three fingerprints.
#
# <details><summary>Help: how do I get at the bits?</summary>
#
# `p.contiguous().flatten().view(torch.uint8)` is the bytes in the order of the numbers.
# </details>
# <details><summary>Help: Python's hash is refused</summary>
#
# `hash(b"...")` starts from another secret number in every process. `hashlib` does not.
# </details>

# %% tags=["answer", "ex-11.4"]
def fingerprint(p):
    """A tensor -> a whole number from 0 to 2**64 - 1."""
    ### BEGIN SOLUTION
    bits = p.detach().contiguous().flatten().view(torch.uint8)
    digest = hashlib.sha256(bits.numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "big")
    ### END SOLUTION


# %% tags=["check", "ex-11.4"]
from gpt2course.course.checks import check

check("11.4", fingerprint)

# %% [markdown] tags=["ex-11.5"]
# ## 11.5 The bill of the network
#
# A step reduce-scatters the gradient of each part and all-gathers its new weights. `parts` lists (numbers, bytes of a number).
# Numbers are filled up with zeros to a multiple of `world`. In a ring each trip has world - 1 rounds; a round sends one
# rank's share, and takes `round_us` microseconds more, however little it carries. Return the GB (1e9 bytes) that a rank sends
# in a step, the milliseconds that takes at `gb_per_s`, and its share of a step that computes for `step_ms` and hides nothing.
#
# A tiny example: one part of 8 million numbers of 4 bytes on 8 ranks at 100 GB/s, rounds for nothing, 100 ms of computing.
# A share has 4 MB, and 7 rounds twice send 0.056 GB in 0.56 ms: 0.557 % of the step.
#
# Then take depth 24 (679,481,856 and 50,331,648 numbers of 4 bytes, 50,331,648 and 603,979,776 of 2) on 8 ranks at 450 GB/s,
# NVLink, and at 12.5 GB/s, a 100 Gbit network, both with 656 ms.
#
# <details><summary>Help: a little too small</summary>
#
# Seven numbers on 64 ranks are filled up to 64.
# </details>

# %% tags=["answer", "ex-11.5"]
def wire(parts, world, gb_per_s, round_us, step_ms):
    """-> (GB sent by a rank, milliseconds, share of the step)."""
    ### BEGIN SOLUTION
    sent, ms = 0, 0.0
    for numbers, size in parts:
        share = -(-numbers // world) * size  # bytes
        sent += 2 * (world - 1) * share
        ms += 2 * (world - 1) * round_us / 1000
    ms += sent / (gb_per_s * 1e9) * 1000
    return sent / 1e9, ms, ms / (step_ms + ms)
    ### END SOLUTION


# %% tags=["check", "ex-11.5"]
from gpt2course.course.checks import check

check("11.5", wire)
