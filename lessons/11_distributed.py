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
# # 11 Several GPUs
#
# **Goal:** divide an optimizer among processes, and prove that they still train one model.
#
# 45 minutes, and 95 for the exercises; any CPU will do, two cores are better.
#
# Model and optimizer stay those of the lessons before. New is that several processes make one step together. The lesson
# explains [ranks.py](../gpt2course/ranks.py) and the second half of [optim.py](../gpt2course/optim.py).

# %%
import torch

torch.manual_seed(0)
X, Y = torch.randn(64, 4), torch.randn(64, 2)
copies = [torch.zeros(4, 2), torch.zeros(4, 2)]  # one layer, on two ranks
for step in range(10):
    for rank, W in enumerate(copies):
        x, y = X[rank::2], Y[rank::2]  # each rank has half of the rows
        W -= 0.1 * x.T @ (x @ W - y) / len(x)
print(copies[0] - copies[1])

# %% [markdown]
# A *rank* (lesson 02) is one of several processes that train together, usually one for each GPU. Here a loop plays two of them. They
# began with equal weights, and each learned from its own half of the rows. No error came, and on each the loss falls. But
# they are two models now, each trained on half of the data.
#
# They must exchange something. The gradient of a mean over all rows is the sum of the ranks' gradients, if each rank
# divides by the number of *all* rows:

# %%
from gpt2course.course import lab, plots

def gradient(W, x, y):
    return x.T @ (x @ W - y) / len(X)

# %%
W = torch.zeros(4, 2)
total = gradient(W, X[0::2], Y[0::2]) + gradient(W, X[1::2], Y[1::2])
lab.compare(total, gradient(W, X, Y))

# %% [markdown]
# So it is enough that every rank gets this sum.
# Then all make the same step. This exchange is called an *all-reduce*.
#
# ## Before you run on
#
# **Who holds what, and when do the ranks wait for each other?** Every rank needs all weights to compute its loss. Must
# each also keep the state of the whole optimizer, and make the whole update, eight times over?
#
# Suppose each of eight ranks keeps and updates only an eighth. How many bytes must it send in a step, compared with an
# all-reduce of the gradients? Twice as many, since gradients go out and weights come back? Write your guess down.

# %%
lab.predict("11.bytes", 2.0)

# %% [markdown]
# ## All-reduce by hand
#
# First try: every rank sends its whole gradient to every other one. With eight ranks each sends seven gradients, with
# 64 ranks 63. A network that gets busier with every GPU does not help.
#
# Second try: the ranks stand in a *ring*, and each sends to its right neighbour only. Cut the gradient into as many
# chunks as there are ranks. In each round every rank sends one chunk, and its neighbour adds it to its own.

# %% tags=["hole"]
def reduce_scatter(parts):
    """parts[r][c]: chunk c of rank r. Changes parts in place and returns it.

    In round t = 0, 1, ..., world - 2 every rank r sends its chunk (r - t) % world to
    rank (r + 1) % world, which adds it to its own chunk of that number. All send at
    the same moment: what a rank sends in a round is what it had before the round.
    """
    ### BEGIN SOLUTION
    world = len(parts)
    for t in range(world - 1):
        sent = [parts[r][(r - t) % world] for r in range(world)]
        for r in range(world):
            parts[(r + 1) % world][(r - t) % world] += sent[r]
    return parts
    ### END SOLUTION

# %%
three = [[1.0, 2.0, 4.0], [10.0, 20.0, 40.0], [100.0, 200.0, 400.0]]
reduce_scatter = lab.hole("11", reduce_scatter, (three,), ([[1, 2], [3, 5]],), ([[7]],))
for row in reduce_scatter(three):
    print(row)

# %% [markdown]
# Look for 111, 222 and 444. Each rank has one whole sum, another one each. This is a *reduce-scatter*. A second trip
# around the ring passes the whole chunks on, without adding: an *all-gather*.

# %%
def all_gather(parts):
    world = len(parts)
    for t in range(world - 1):
        sent = [parts[r][(r + 1 - t) % world] for r in range(world)]
        for r in range(world):
            parts[(r + 1) % world][(r + 1 - t) % world] = sent[r]
    return parts

# %%
import copy
from gpt2course.course.figures import distributed as figures

ones = [[1] * 4 for _ in range(4)]  # how many ranks are in each chunk
half = reduce_scatter(copy.deepcopy(ones))
whole = all_gather(copy.deepcopy(half))
names = ["before", "reduce-scatter", "all-gather"]
plots.show(figures.ring([ones, half, whole], names))

# %% [markdown]
# Each trip has world - 1 rounds, and each round sends one chunk. So a rank sends 2 (world - 1) / world gradients in all:
# 1.75 with eight ranks, and never more than two.
#
# ## In real processes
#
# Now the ranks become processes of their own. `on_ranks` writes a function of this notebook into a file, with all that it
# needs, adds the lines below, and starts Python on it once for each rank. They meet through a file, and talk by *gloo*,
# torch's library for CPUs. On GPUs the same calls go through NCCL, and `torchrun` starts the ranks.

# %%
from gpt2course.course import processes

print(processes.MAIN)

# %%
import torch.distributed as dist

def pass_on(chunk, rank, world):
    """Send a chunk to the right; returns the one from the left."""
    got = torch.empty_like(chunk)
    sending = dist.isend(chunk, (rank + 1) % world)
    dist.recv(got, (rank - 1) % world)
    sending.wait()
    return got

# %%
def ring(x, rank, world):
    parts = list(x.clone().chunk(world))
    for t in range(world - 1):
        i = (rank - t) % world
        parts[i - 1] += pass_on(parts[i], rank, world)
    for t in range(world - 1):
        i = (rank + 1 - t) % world
        parts[i - 1] = pass_on(parts[i], rank, world)
    return torch.cat(parts)

# %%
def sums(rank, world, xs):
    x = xs[rank].clone()
    mine = ring(x, rank, world)
    dist.all_reduce(x)  # torch's
    return mine, x

xs = torch.randn(3, 12)
found = processes.on_ranks(3, sums, xs)
for mine, torchs in found:
    lab.compare(mine, torchs)

# %% [markdown]
# ## Between the two trips
#
# After the reduce-scatter, a rank has the whole gradient of *its* chunk. That is all it needs to update this chunk. So
# update before the second trip, and let the all-gather carry new weights in place of gradients. The rank keeps optimizer
# state for its chunk alone. That is ZeRO ([arXiv 1910.02054](https://arxiv.org/abs/1910.02054)). For AdamW any cut
# will do, because it works number by number:

# %%
from gpt2course.optim import adamw_update
def adam(p, g):
    p, m, v = p.clone(), torch.zeros_like(p), torch.zeros_like(p)
    adamw_update(p, g, m, v, 1, 0.1, 0.8, 0.95, 1e-10, 0.0)
    return p

# %%
p, g = torch.randn(2, 10)
lab.compare(torch.cat([adam(p[:5], g[:5]), adam(p[5:], g[5:])]), adam(p, g))

# %% [markdown]
# Muon does not. A step with half of a matrix is not half of the step:

# %%
from gpt2course.optim import polar_express
G = torch.randn(6, 4)
halves = torch.cat([polar_express(half) for half in G.split(3)])
error = (halves - polar_express(G)).norm() / polar_express(G).norm()
print(f"{error:.0%} off")

# %% [markdown]
# The trap is real. In DeepSpeed a matrix could lie across the border of two ranks' flat chunks. Each of these ranks
# orthogonalised a matrix of which only its own part had been summed
# ([pull request 8090](https://github.com/deepspeedai/DeepSpeed/pull/8090)). No error came.
#
# So a rank must own *whole* matrices. All parts of a collective have one size, so n matrices are filled up with zeros
# to a multiple of the ranks.

# %% tags=["hole"]
def owned(n, rank, world):
    """n matrices -> (first, k): rank owns matrices first to first + k - 1, in the order
    of the ranks. k is the same on all ranks, and as small as possible."""
    ### BEGIN SOLUTION
    k = -(-n // world)
    return rank * k, k
    ### END SOLUTION

# %%
cases = [(12, 3, 4), (5, 0, 2), (5, 1, 2), (3, 7, 8), (9, 0, 1)]
owned = lab.hole("11", owned, *cases)
lab.keep("owned", owned)

# %% [markdown]
# Now the step itself: sum, update, share. It gets the collectives as functions.

# %% tags=["hole"]
def divided_step(P, G, update, rank, world, scatter, gather):
    """All rows P (n, ...), this rank's gradients G (n, ...) -> the new rows (n, ...).

    scatter(x): x has k * world rows -> this rank's k rows of the sum over all ranks.
    update(p, g): k rows and their summed gradients -> k new rows.
    gather(x): k rows -> k * world rows, those of all ranks.
    """
    ### BEGIN SOLUTION
    first, k = owned(len(P), rank, world)
    zeros = P.new_zeros(k * world - len(P), *P.shape[1:])
    own = torch.cat([P, zeros])[first : first + k]
    g = scatter(torch.cat([G, zeros]))
    return gather(update(own, g))[: len(P)]
    ### END SOLUTION

# %%
P3, G3 = torch.arange(6.0).view(3, 2), torch.ones(3, 2)
second, both = (lambda x: 2 * x[2:]), (lambda x: torch.cat([x - 9, x]))
down = lambda p, g: p - 0.5 * g
as_rank_1, alone = (1, 2, second, both), (0, 1, torch.clone, torch.clone)
cases = [(P3, G3, down, *rest) for rest in (as_rank_1, alone)]
divided_step = lab.hole("11", divided_step, *cases)

# %% [markdown]
# ## How would you notice?
#
# Three matrices on two ranks, updated in three ways. The border of the flat halves runs through the second matrix.

# %%
def scatter(x):
    mine = x.new_empty(len(x) // dist.get_world_size(), *x.shape[1:])
    dist.reduce_scatter_tensor(mine, x.contiguous())
    return mine

# %%
def gather(x):
    every = x.new_empty(len(x) * dist.get_world_size(), *x.shape[1:])
    dist.all_gather_into_tensor(every, x.contiguous())
    return every

# %%
def three_ways(rank, world, P, Gs):
    G, flat = Gs[rank], Gs[rank].flatten().clone()  # 36 numbers
    flat[18 * rank : 18 * (rank + 1)] = scatter(flat)  # the rest is unsummed
    partly = down_muon(P, flat.view_as(P))
    kept = gather(partly.flatten()[18 * rank : 18 * (rank + 1)]).view_as(P)
    whole = divided_step(P, G, down_muon, rank, world, scatter, gather)
    return partly, kept, whole

# %%
def down_muon(P, G):
    return P - 0.1 * polar_express(G)

P, Gs = torch.randn(3, 4, 3), torch.randn(2, 3, 4, 3)
a, b = processes.on_ranks(2, three_ways, P, Gs)

# %%
def fingerprint(p):
    """The sum of the bits of all numbers, read as integers."""
    return int(p.view(torch.int32).long().sum())

# %%
right = down_muon(P, Gs.sum(0))  # one process
ways = ("flat halves", "flat, then gathered", "whole matrices")
for name, x, y in zip(ways, a, b):
    same = "equal" if fingerprint(x) == fingerprint(y) else "DIFFERENT"
    print(f"{name:20} ranks {same:10} off by {(x - right).abs().max():.1e}")

# %% [markdown]
# - **Flat halves.** The ranks drift apart, silently. A *fingerprint* shows it: eight bytes a tensor, compared after the step. It
#   compares bits, so that no tolerance can hide anything.
# - **Gathered.** Each rank gives away only its own part. Now all ranks agree, *and all are wrong*. No comparison of
#   ranks can find that. Only a comparison with one process does.
# - **Whole matrices** agree with one process.
#
# Clipping has the same trap. If each rank clips its own gradient before the sum, all ranks agree on a wrong step. That
# was a bug of nanochat's (dev/LOG.md, 8 January 2026). Two ranks, and a limit of 1 for the norm of the sum:

# %%
def clip(g):
    return g * min(1.0, 1 / g.norm().item())

g0, g1 = torch.tensor([3.0, 0.0]), torch.tensor([-3.0, 4.0])
print("sum, then clip", clip(g0 + g1), "| clip, then sum", clip(g0) + clip(g1))

# %% [markdown]
# The package compares fingerprints in the first two steps of every run:

# %%
import inspect
from gpt2course import optim
from gpt2course.ranks import Ranks

print(inspect.getsource(Ranks.check_equal))

# %% [markdown]
# Its divided step has the three phases of yours. `Part` decides what goes together: the matrices of one shape, or the
# numbers of an embedding.

# %%
print(inspect.getsource(optim.MuonAdamW._start_sum_of_gradients))
print(inspect.getsource(optim.MuonAdamW._start_gather))

# %% [markdown]
# Two things are new. `async_op=True` only *starts* a collective, so the update of one part runs while the next part is
# still on its way. And `part.sent` keeps the input of a running collective. If it is dropped before the wait, its memory
# may be given to other numbers, and the ranks gather torn weights (nanochat pull request 843 describes it).
#
# A small parameter is all-reduced, and every rank updates it. nanochat did so because small shapes do not divide among
# the ranks (its LOG, 11 January 2026). The few bytes are not worth a division anyway.
#
# ## Yours trains a model

# %%
from gpt2course.recipes import make_model, make_optimizer, resolve

SIZE = lab.TOY | dict(steps=12)

def rule(group, state, plan, t):
    """update(rows, gradients) of lesson 05, with the state of these rows."""
    def update(P, G):
        P, muon, lr = P.clone(), group.kind == "muon", group.lr * plan.lr(t)
        m = state.setdefault("m", torch.zeros_like(P))
        if muon:
            wide = P.size(1) < P.size(2)
            one = P[:, :1] if wide else P[:, :, :1]
            v = state.setdefault("v", torch.zeros_like(one))
            lr *= max(1, P.size(1) / P.size(2)) ** 0.5
            decay = group.weight_decay * plan.weight_decay(t)
            numbers = (lr, plan.muon_momentum(t), group.beta2, decay, 5, 1.02)
            optim.muon_update(P, G, m, v, *numbers, False, False, torch.float32)
        else:
            v = state.setdefault("v", torch.zeros_like(P))
            betas = (group.beta1, group.beta2, group.eps, group.weight_decay)
            adamw_update(P, G, m, v, t + 1, lr, *betas)
        return P
    return update

# %%
@torch.no_grad()
def my_step(groups, states, plan, t, rank, world, scatter, gather):
    for group in groups:
        for shape in sorted({p.shape for p in group.params.values()}):
            some = [p for p in group.params.values() if p.shape == shape]
            P, G = torch.stack(some), torch.stack([p.grad for p in some])
            if group.kind == "adamw":  # its rows are single numbers
                P, G = P.flatten(), G.flatten()
            update = rule(group, states.setdefault((group.name, shape), {}), plan, t)
            new = divided_step(P, G, update, rank, world, scatter, gather)
            for p, x in zip(some, new.view(len(some), *shape)):
                p.copy_(x)

# %%
from gpt2course.batches import Batches
from gpt2course.data import load_corpus

def batches(seed):
    texts = load_corpus("embedded").train
    stream = Batches(texts, lab.tokenizer(), 128, streams=seed)  # another order
    return torch.stack([torch.from_numpy(stream.next_rows(8)) for _ in range(12)])

rows = batches(1)
print(rows.shape)  # step, row, token

# %% [markdown]
# The function below trains on two ranks, each with its half of every batch. In the last step rank 1 has three times the
# work, as if it had a slower GPU. A clock runs along.

# %%
import time

def timed(what, f, log):
    def g(x):
        began, y = time.time(), f(x)
        log.append((what, began, time.time()))
        return y
    return g

# %%
def train_mine(rank, world, rows):
    plan = resolve("muon", **SIZE)
    model = make_model(plan, "cpu").init_weights(1)
    groups, states, losses, prints = make_optimizer(model, plan).groups, {}, [], []
    for t, batch in enumerate(rows):
        log, x = [], batch[rank::world]
        def gradients(times, x=x):
            for _ in range(times):
                model.zero_grad()
                loss = model(x[:, :-1].contiguous(), x[:, 1:].contiguous()) / world
                loss.backward()
            return loss.item()
        work = timed("forward and backward", gradients, log)
        loss = work(3 if rank and t == len(rows) - 1 else 1)
        losses += timed("wait", Ranks(rank, world).reduce, log)(loss)
        links = timed("reduce_scatter", scatter, log), timed("all_gather", gather, log)
        my_step(groups, states, plan, t, rank, world, *links)
        bits = [p.detach().view(torch.int32).long().sum() for p in model.parameters()]
        prints.append(int(sum(bits)))
    kept = sum(x.numel() for state in states.values() for x in state.values())
    return losses, prints, log, kept

# %%
a, b = processes.on_ranks(2, train_mine, rows)
print("fingerprints equal in all 12 steps:", a[1] == b[1])
print(f"numbers of state: {a[3]:,} on rank 0, {b[3]:,} on rank 1")

# %%
began = a[2][0][1]
spans = [(rank, what, max(0, 1000 * (start - began)), 1000 * (end - began))
         for rank, run in enumerate((a, b)) for what, start, end in run[2]]  # fmt: skip
plots.show(figures.timeline(spans, "milliseconds", "The last step"))

# %% [markdown]
# Rank 0 waits in grey. No rank has a sum before the last gradient has come, so a step is as slow as its slowest rank. Then
# short messages follow, a reduce-scatter and an all-gather for each shape, and the updates fill the gaps between them. Each
# rank keeps half of the optimizer's state.
#
# ## The experiment: one model?
#
# Now the package's optimizer, on one, two and four ranks, with two seeds and equal batches. All have the recipe's rates.
# They need no sweep, since the claim is that nothing changes.

# %%
import os

def train_on(rank, world, rows, seed, kept=None, saved=None, dies=False):
    plan, losses = resolve("muon", **SIZE), []
    model = make_model(plan, "cpu").init_weights(seed)
    optimizer = make_optimizer(model, plan, ranks=(rank, world))
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    for t in range(optimizer.steps, len(rows)):
        x = rows[t][rank::world]
        loss = model(x[:, :-1].contiguous(), x[:, 1:].contiguous()) / world
        loss.backward()
        losses += Ranks(rank, world).reduce(loss.item())
        optimizer.step(plan.lr(t), plan.muon_momentum(t), plan.weight_decay(t))
        optimizer.zero_grad()
        if t < 2:
            Ranks(rank, world).check_equal(dict(model.named_parameters()))
        if kept and t == 5:
            state = dict(optimizer=optimizer.state_dict(), model=model.state_dict())
            torch.save(state, kept) if rank == 0 else None
        if dies and rank == 1 and t == 8:
            os._exit(1)
    return losses, model.state_dict()

# %%
def both_seeds(rank, world, first, second):
    return [train_on(rank, world, rows, s) for s, rows in ((1, first), (2, second))]
data = rows, batches(2)
runs = {1: both_seeds(0, 1, *data)}
runs[2] = processes.on_ranks(2, both_seeds, *data)[0]

# %%
runs[4] = processes.on_ranks(4, both_seeds, *data)[0]

# %%
from gpt2course import evaluate

def bpb(weights):
    model = make_model(resolve("muon", **SIZE), "cpu")
    model.load_state_dict(weights)
    text = evaluate.first_bytes(load_corpus("embedded").val, 50_000)
    return evaluate.bits_per_byte(model, text, lab.tokenizer(), 128)[0]

one = torch.tensor(runs[1][0][0])
scores = {}
for world, found in runs.items():
    scores[world] = [bpb(weights) for _, weights in found]
    apart = (torch.tensor(found[0][0]) - one).abs()
    text = f"losses off by {apart[0]:.0e} in step 1, by {apart.max():.0e} at most"
    print(f"ranks: {world}, bpb {[round(s, 4) for s in scores[world]]}, {text}")

# %%
lab.verdict(scores[1], scores[2])
lab.verdict(scores[1], scores[4])
curves = {"1 rank": runs[1][0][0], "4 ranks": runs[4][0][0], "yours, 2 ranks": a[0]}
plots.show(figures.losses(curves))

# %% [markdown]
# The verdict: no difference is shown, as we hoped. Two seeds would be weak evidence. The losses are strong evidence: over
# 12 steps they agree to better than 1e-04, and rounding alone, in another order of the same sums, does that much. It shows
# nothing about GPUs, where NCCL sums in an order of its own.
#
# ## A rank dies
#
# Rank 0 saves after step 6, and rank 1 ends without a word in step 9.

# %%
import tempfile
from gpt2course.files import UserError

place = f"{tempfile.mkdtemp()}/state.pt"
try:
    processes.on_ranks(2, train_on, rows, 1, place, None, True)
except UserError as e:
    print(e)

# %% [markdown]
# What one rank has of the optimizer is worth nothing alone. So `state_dict` first gathers all of it, by the names of the
# parameters, and rank 0 saves it. Nothing in the file depends on the number of ranks. Go on with *one*:

# %%
rest, weights = train_on(0, 1, rows, 1, None, torch.load(place))
apart = (torch.tensor(rest) - one[6:]).abs().max()
print(f"6 more steps, losses off by at most {apart:.0e}; bpb {bpb(weights):.4f}")

# %% [markdown]
# ## At full size
#
# A rehearsal on GPUs that do not exist counted the messages of depth 24 on eight ranks. Every shape is real there, and no
# number. A trip is one reduce-scatter or one all-gather of everything.

# %%
import json

path = lab.RESULTS / "2026-11-29_rehearsal" / "points.jsonl"
points = [json.loads(line) for line in path.read_text().splitlines()]
wanted = {"recipe": "jan29", "depth": 24, "world": 8}
big = next(r for r in points if wanted.items() <= r.items())
for kind, sent in big["communication"].items():
    print(f"{kind}: {sent['calls']} calls, {sent['bytes']:,} bytes sent by a rank")

# %%
full = resolve("jan29", depth=24).params
number = {"matrices": 4, "lm_head": 4, "wte": 2, "value_embeds": 2}  # bytes
parts = {name: full[name] * b * 7 / 8 / 1e9 for name, b in number.items()}
plots.show(figures.bars(parts, "GB in one trip", "Sent by a rank at depth 24"))
counted = big["communication"]
trips = [counted[kind]["bytes"] for kind in ("reduce_scatter", "allgather")]
lab.result("11.bytes", round(sum(trips) / 1e9 / (2 * sum(parts.values())), 3))

# %%
for name, gb in (("matrices", parts["matrices"]), ("all", sum(parts.values()))):
    ms = 1000 * gb / 450
    print(f"{name}: {gb:.2f} GB a trip, {ms:.1f} ms; both {2 * ms / 656:.1%} of a step")

# %% [markdown]
# That is derived, not measured: 450 GB/s is what an H100's NVLink carries each way, and 656 ms is a step of nanochat's
# first record. Without NVLink, or on several machines, the same bytes may take longer than the step.
#
# What others measured, at 124 million parameters (modded-nanogpt's README):
#
# - dividing Muon's work, which every GPU had repeated before, took record 6 from 15.2 to 13.1 minutes, with other changes;
# - a faster all-reduce, overlap with the backward pass, and then reduce-scatter in its place took records 22 to 24
#   from 3.014 to 2.966 minutes.
#
# The first division is worth most. Hiding what is left is worth little, as long as the wires are fast.
#
# ## The answer
#
# Every rank holds all weights, and an equal part of the optimizer's state: whole matrices for Muon, any numbers for
# AdamW. In a step the ranks wait twice, for the sum of the gradients and for the new weights. Together that is exactly
# what one all-reduce sends, 1.0 times: 3.70 GB and 3.70 GB at depth 24. On one, two and four ranks we got one model, up
# to rounding. Equal fingerprints prove that ranks agree; only one process shows that they are right.

# %% [markdown]
# ## Questions
#
# 1. Why does the ring send the same bytes with 8 ranks as with 64, nearly?
#
# <details><summary>Answer</summary>
#
# 2 (world - 1) / world of a gradient: 1.75 with 8 ranks, 1.97 with 64. But it takes 126 rounds in place of 14, and each
# round costs time even for a short message.
# </details>
#
# 2. One rank skips an all-reduce because its gradient is zero. What happens?
#
# <details><summary>Answer</summary>
#
# The others wait for it. Or its *next* collective meets theirs, and numbers are summed that do not belong together. All
# ranks must make the same calls in the same order.
# </details>
#
# 3. Depth 24 has 12 gates of one shape. How many does each of 8 ranks own?
#
# <details><summary>Answer</summary>
#
# Two, since 12 are filled up to 16. Ranks 6 and 7 own zeros only. Updating them is wasted, but harmless.
# </details>
#
# 4. All fingerprints agree. Is the run right?
#
# <details><summary>Answer</summary>
#
# Not necessarily. If every rank makes the same mistake, as with clipping before the sum, they agree. Compare a few steps
# with one process.
# </details>

# %% [markdown]
# > **Takeaway.** An all-reduce is a reduce-scatter and an all-gather. Put the update between them, and the optimizer is
# > divided at no cost in bytes. Cut where the update allows it, make the same calls on all ranks, and compare with one
# > process before you trust many.

# %% [markdown]
# ## Exercises
#
# [Exercises 11](../exercises/11_distributed.ipynb): three puzzles on ranks that do not exist, with targets for bytes, memory
# and time; a fingerprint that misses nothing; the bill of a slow network. `make start EX=11`, `make grade EX=11`.

# %% [markdown]
# ## Further reading
#
# - S. Rajbhandari and others, *ZeRO*, [arXiv 1910.02054](https://arxiv.org/abs/1910.02054).
# - A. Gibiansky, *Bringing HPC techniques to deep learning*, on rings, [andrew.gibiansky.com](https://andrew.gibiansky.com/blog/machine-learning/baidu-allreduce/).
# - S. Rush, [LLM Training Puzzles](https://github.com/srush/LLM-Training-Puzzles): eight more puzzles of this kind.
# - J. Liu and others, *Muon is scalable for LLM training*, on dividing Muon, [arXiv 2502.16982](https://arxiv.org/abs/2502.16982).
