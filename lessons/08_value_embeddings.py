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
# # 08 Value embeddings
#
# **Goal:** give a model more parameters without more arithmetic, train it, and find out what they gain and what they cost.
#
# 35 minutes, and 75 for the exercises; any CPU will do.
#
# This is the last step up to the recipe of January 2026. The lesson explains the value embeddings in
# [model.py](../gpt2course/model.py) and how [recipes.py](../gpt2course/recipes.py) trains them.

# %%
from gpt2course.recipes import resolve

for name in ("lambdas", "jan29"):
    plan = resolve(name, depth=24)
    print(f"{name}: {plan.params['total']:,} parameters, "
          f"{plan.flops_per_token / 1e9:.4f} GFLOP a token")  # fmt: skip

# %% [markdown]
# The second model has 77 % more parameters, and does not compute more. Until now nearly every parameter was a number in
# a matrix product, and cost six FLOPs a token to train. These are in no product.
#
# ## Before you run on
#
# **Can parameters be free?** Two questions hide in it. Do such parameters help more than the same number spent on
# something that does compute? And if they cost no FLOPs, what do they cost?
#
# At laptop size the model without them has about 2 bits per byte. How much lower will it be with them? Write your
# guess down.

# %%
from gpt2course.course import lab, plots

lab.predict("08.gain", 0.03)

# %% [markdown]
# ## What a matrix cannot hold
#
# In attention each token offers *values*: what others take from it if they look at it. They are a matrix product,
# v = W x. Suppose each of 1,024 tokens wants values of its own. We draw the wishes at random and look for the best W.

# %%
import torch

g = torch.Generator().manual_seed(8)
embedding, wanted = torch.randn(2, 1024, 64, generator=g)
W = torch.linalg.lstsq(embedding, wanted).solution  # the best matrix there is
left = (wanted - embedding @ W).square().sum() / wanted.square().sum()
print(f"W has {W.numel():,} numbers and leaves {left:.0%} unfulfilled")

# %% [markdown]
# A matrix of 64 x 64 cannot remember 65,536 numbers. A table can: one row for each token, added to what W gives.

# %%
table = wanted - embedding @ W
print(f"{(wanted - (embedding @ W + table)).abs().max():.0e} left")
print(f"FLOPs for a token: W {2 * 64 * 64:,}, the row: one addition for each number")

# %% [markdown]
# To fetch a row is to copy it. The table has 16 times as many numbers as W and takes a 128th of the arithmetic. A real
# token's wishes are not random, so the gain will be smaller; we have to measure.
#
# A table like this, added to the values of a layer, is a **value embedding**. The token embedding at the
# bottom is a table as well, but its row must serve everything at once, and each layer sees it through a matrix.
#
# **Whose idea?** ResFormer ([arXiv 2410.17897](https://arxiv.org/abs/2410.17897), October 2024) lets later layers use
# layer 0's *values* again. That needs no table. The table looked up by the token is KoszarskyB's, December 2024: one for each of
# 12 layers, 463 million numbers, of which a token uses 9,216. It was record 14 of modded-nanogpt, 4.66 to 4.41 minutes.
#
# ## Looked up and added

# %%
idx = torch.tensor([[5, 2, 5]])  # (B, T): token 5 stands twice
table = torch.arange(24.0).view(6, 4)  # 6 tokens, 2 heads of 2 numbers
print(table[idx].view(1, 3, 2, 2)[0])  # (T, H, D)

# %% [markdown]
# Queries and keys stay as they are. So attention still decides who looks where. The row only changes what is found
# there.
#
# Let us train a row. One token, two contexts x. In the first, the values should gain (1, -2, 3); in the second,
# nothing.

# %%
x = torch.eye(2)  # two contexts
wish = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]])

def learn(factor, decay=0.0):
    row, w = (torch.zeros(n, requires_grad=True) for n in (3, 2))
    groups = [dict(params=[row], weight_decay=0), dict(params=[w], weight_decay=decay)]
    optimizer = torch.optim.AdamW(groups, lr=0.05)
    for _ in range(400):
        loss = (factor(w) * row - wish).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item(), factor(w).flatten().tolist()

# %%
loss, _ = learn(lambda w: 1 + 0 * w[:, None])
print(f"always added: error {loss:.2f}; adding nothing: {wish.square().mean():.2f}")

# %% [markdown]
# It settles for half of the wish in both contexts. The row depends on the token alone and cannot know where the token
# stands. So let the context decide how much of it is added: a **gate**, a number from 0 to 2 computed from x.

# %%
gate = lambda w: 2 * (x @ w).sigmoid()[:, None]
for decay in (0, 1, 10):
    loss, found = learn(gate, decay)
    a, b = found
    print(f"decay {decay:2} on w: error {loss:.2f}, gates {a:.2f} and {b:.2f}")

# %% [markdown]
# Without decay the gate opens in one context and shuts in the other. With a strong weight decay it does neither. Decay
# pulls w to 0, and a gate of weight 0 is not shut: 2 · sigmoid(0) = 1. Every row is added in full, as before. Nothing
# crashes, and the model trains as if you had written no gate.
#
# Write the gate. It reads the first few channels of the layer's input, and each head has its own.

# %% tags=["hole"]
def open_gate(x, weight, scale=2.0):
    """x (B, T, C), weight (H, n) -> (B, T, H): scale * sigmoid(weight · the first n
    channels of x)."""
    ### BEGIN SOLUTION
    return scale * torch.sigmoid(x[..., : weight.size(1)] @ weight.T)
    ### END SOLUTION

# %%
x, weight = torch.randn(2, 3, 8, generator=g), torch.randn(4, 5, generator=g)
cases = [(x, weight), (x, weight, 3.0), (x, torch.zeros(4, 5))]
open_gate = lab.hole("08", open_gate, *cases)
print(open_gate(x, torch.zeros(4, 5))[0, 0])

# %% [markdown]
# The weights begin at 0, so every gate begins at 1. Now the step itself:

# %% tags=["hole"]
def add_values(v, ve, x, weight, scale=2.0):
    """Values v and rows ve (B, T, H, D); x (B, T, C), weight (H, n), scale for the gate
    -> (B, T, H, D): v plus the gate times ve."""
    ### BEGIN SOLUTION
    return v + open_gate(x, weight, scale)[..., None] * ve
    ### END SOLUTION

# %%
v, ve = torch.randn(2, 2, 3, 4, 6, generator=g)
cases = [(v, ve, x, weight), (v, ve, x, weight, 3.0), (v, ve, x, 0 * weight)]
add_values = lab.hole("08", add_values, *cases)

# %% [markdown]
# The package does it in the middle of its attention:

# %%
import inspect
from gpt2course import model

print(inspect.getsource(model.Attention.forward))

# %% [markdown]
# Yours in its place, the rest as there:

# %%
sizes = dict(sequence_len=16, n_layer=2, n_embd=32, n_head=2, n_kv_head=2)
config = model.GPTConfig(**sizes, value_embeds=True)
attn = model.Attention(config, layer=1)  # random weights
x, ve = torch.randn(2, 3, 16, 32, generator=g)
cos, sin = model.rope_tables(16, 16, 10_000.0)

# %%
heads = lambda y: y.view(3, 16, 2, 16)
with torch.no_grad():
    q, k, v = (heads(f(x)) for f in (attn.c_q, attn.c_k, attn.c_v))
    v = add_values(v, heads(ve), x, attn.ve_gate.weight)
    q, k = (model.norm(model.rope(y, cos, sin)) for y in (q, k))
    y = attn.c_proj(model.attention(q, k, v, (16, 0)).reshape(3, 16, 32))
    lab.compare(y, attn(x, ve, cos, sin))

# %% [markdown]
# ## Which layers?
#
# nanochat tried tables in all layers, in alternating ones, in a U (first and last layers), in front, at the back.
# *Alternating* layers were best, better than all. And every attempt to make the tables smaller failed: layers that share
# one, tables of low rank, projections of a small one (its dev/LOG.md, 17 January 2026; it gives no numbers). The last
# layer always has one; count back from there.

# %% tags=["hole"]
def has_table(layer, n_layer):
    """Whether this layer (0 is the first) of n_layer has a value embedding."""
    ### BEGIN SOLUTION
    return (n_layer - 1 - layer) % 2 == 0
    ### END SOLUTION

# %%
has_table = lab.hole("08", has_table, *[(i, n) for n in (1, 4, 5) for i in range(n)])
for n in (4, 5, 24):
    print(f"{n:2}", "".join(".V"[has_table(i, n)] for i in range(n)))
layers = sum(has_table(i, 24) for i in range(24))
print(f"{layers} tables x 32,768 tokens x 1,536 = {layers * 32768 * 1536:,}")

# %%
from gpt2course.course.figures import value_embeddings as figures

groups = dict(tables="value_embeds", matrices="matrices")
groups |= dict(embedding="wte", head="lm_head")
plans = {n: resolve(n, depth=24) for n in ("lambdas", "jan29")}
parts = {n: {k: p.params[g] for k, g in groups.items()} for n, p in plans.items()}
plots.show(figures.budget(parts, {n: p.flops_per_token for n, p in plans.items()}))

# %% [markdown]
# There are the 603,979,776 numbers, 44 % of 1,384,124,976. The gates are 4,608 more, the only ones that multiply.
#
# ## How they are trained

# %%
from gpt2course.recipes import LADDER, group_of

for name in ("value_embeds.1.weight", "blocks.1.attn.ve_gate.weight", "wte.weight"):
    group = plans["jan29"].groups[group_of(name)]
    rate, decay = group["lr"], group["weight_decay"]
    print(f"{name:28} {group['kind']}, rate {rate:.3f}, decay {decay:g}")

# %% [markdown]
# A table is looked up, not multiplied, so it gets AdamW (lesson 05), at the embedding's rate. In January it had no decay; a search
# in March found that tables want some, and `record` decays them by 0.01. The gate lies in a block and gets Muon
# with its decay. That decay is cautious and ends at 0, which may be what spares the gates from the puzzle's fate.
# We look at them below.
#
# ## Yours trains

# %%
lab.keep("values", add_values)

# %%
mine = lab.train_with("values", recipe="jan29", steps=40)
theirs = lab.train("jan29", steps=40)

# %%
from gpt2course.course.figures.windows import losses

plots.show(losses({"package": theirs["loss"], "yours": mine["loss"]}))
print(f"bits per byte: package {theirs['val_bpb']:.4f}, yours {mine['val_bpb']:.4f}")

# %% [markdown]
# Which tokens open the gate? Its first head, over 20 rows of text, for the tokens that come most often. A gate
# above 1 (dashes) adds more than the row.

# %%
from collections import defaultdict
from gpt2course.batches import Batches
from gpt2course.data import load_corpus

tok, net, seen = lab.tokenizer(), mine["model"], defaultdict(list)
rows = Batches(load_corpus("embedded").val, tok, 128).next_rows(20)
rows = torch.from_numpy(rows)[:, :-1]
found = []
gate = net.blocks[1].attn.ve_gate
hook = gate.register_forward_hook(lambda module, x, out: found.append(out))
with torch.no_grad():
    net(rows)
hook.remove()

# %%
for token, z in zip(rows.flatten().tolist(), found[0][..., 0].flatten()):
    seen[token].append(2 * z.sigmoid().item())
often = sorted(seen, key=lambda t: -len(seen[t]))[:16]
mean = {t: sum(seen[t]) / len(seen[t]) for t in often}
spread = {repr(tok.decode([t])): (mean[t], min(seen[t]), max(seen[t]))
          for t in sorted(often, key=mean.get)}  # fmt: skip
plots.show(figures.gates(spread))

# %% [markdown]
# After 40 steps the gates have left 1 and differ by token. Within a token they hardly differ yet, and what depends on the
# token alone its row could learn without a gate. Context comes later, if at all; we did not measure it.
#
# ## Are they worth more than the same parameters elsewhere?
#
# "Better with than without" is a weak claim: the model with tables is larger. The strong one needs a third arm. **base**
# is `lambdas`, **tables** is `jan29`, and **wide** spends the same number of parameters on wider MLPs, which compute. (A
# [pull request of marin](https://github.com/marin-community/marin/pull/7230) compares the same three.)

# %%
class Wide(model.MLP):
    def __init__(self, config, hidden=8):  # 8 C instead of 4 C
        super().__init__(config)
        self.c_fc = model.Linear(config.n_embd, hidden * config.n_embd)
        self.c_proj = model.Linear(hidden * config.n_embd, config.n_embd)

# %%
from unittest.mock import patch

two = dict(base=dict(recipe="lambdas"), tables=dict(recipe="jan29"))
runs = lab.experiment(two, steps=40)
with patch.object(model, "MLP", Wide):
    runs |= lab.experiment(dict(wide=dict(recipe="lambdas")), steps=40)
for name, found in runs.items():
    plan = found[0]["plan"]
    print(f"{name}: {plan.params['total']:,} parameters, "
          f"{plan.flops_per_token / 1e6:.2f} MFLOP a token")  # fmt: skip

# %%
lab.table(runs)
bpb = {name: [r["val_bpb"] for r in found] for name, found in runs.items()}
lab.verdict(bpb["base"], bpb["tables"])
lab.verdict(bpb["wide"], bpb["tables"])

# %% [markdown]
# Beside `base` the verdict is an overlap: two seeds differ by more than two arms. But runs of one seed share their data and
# first weights. So compare in *pairs*, as in lesson 07. `lab.paired` returns the differences seed by seed, and half the 95 % interval
# of their mean.

# %%
def tell(name, apart, half):
    mean, better = sum(apart) / len(apart), sum(d < 0 for d in apart)
    interval = f"± {half:.4f}" if len(apart) > 1 else "(no interval)"
    print(f"{name}: {mean:+.4f} {interval}, better with {better} of {len(apart)} seeds")

# %%
live = {name: dict(enumerate(values, 1)) for name, values in bpb.items()}
tell("tables - base", *lab.paired(live["base"], live["tables"]))
tell("tables - wide", *lab.paired(live["wide"], live["tables"]))

# %% [markdown]
# In pairs the tables gain on the base with both seeds. It is a hint, no more: forty steps of a toy, rates that nobody
# swept. The course recorded longer runs: depth 4, width 128, 450 steps, all arms with the rate and decay of lesson 05's best
# Muon.

# %%
known = {}  # (arm, steps) -> {seed: bpb}
flops = {}
first = [r | {"steps": 450} for r in lab.recorded("ladder-seeds")]
more = lab.recorded("value-embeddings")
usual = first[0]["settings"]  # Muon's rate and decay
for r in [*first, *more]:
    if r["settings"] == usual:
        known.setdefault((r["arm"], r["steps"]), {})[r["seed"]] = r["val_bpb"]
        flops[r["arm"], r["steps"]] = r["flops"]

# %%
names = {"lambdas": "base", "jan29": "tables", "wide": "wide"}  # as recorded, as here
points = {name: {} for name in names.values()}
for (arm, steps), seeds in sorted(known.items()):
    if arm in names:
        points[names[arm]][flops[arm, steps]] = list(seeds.values())
plots.show(figures.arms(points))

# %% [markdown]
# A point is a whole run with a schedule of its own length. `wide` takes 43 % more FLOPs a step than the others. So
# there are runs of it with fewer steps, and runs of the others with more: points above each other have equal FLOPs.

# %%
asked = {
    "tables - base, 450 steps": (("lambdas", 450), ("jan29", 450)),
    "tables - wide, 450 steps": (("wide", 450), ("jan29", 450)),
    "tables - wide, 6.7 TFLOP": (("wide", 314), ("jan29", 450)),
    "tables - wide, 9.6 TFLOP": (("wide", 450), ("jan29", 645)),
    "wide - base, 9.6 TFLOP": (("lambdas", 645), ("wide", 450)),
    "no gates - gates, 450 steps": (("jan29", 450), ("jan29 without gates", 450)),
}
found = {}
for name, (a, b) in asked.items():
    if a in known and b in known:
        found[name] = lab.paired(known[a], known[b])
plots.show(figures.pairs(found))

# %%
for name, (apart, half) in found.items():
    tell(name, apart, half)

# %% [markdown]
# In every pair the tables beat the same parameters in MLPs: at equal steps, where the MLPs compute 43 % more, and
# by three times as much at equal FLOPs.
# (nanochat found that a gate helps, in longer runs.)
#
# What this does not show: these runs read half a token for each parameter; in long runs wide MLPs may do better. Rate and decay are
# lesson 05's. Other rates of Muon for `wide` and of the tables, one seed each:

# %%
others = [r for r in more if r["steps"] == 450 and r["settings"] != usual]
for r in others:
    apart = r["val_bpb"] - known[r["arm"], 450][r["seed"]]
    print(f"{names[r['arm']]}, {', '.join(r['settings'])}: {apart:+.4f}")

# %% [markdown]
# No rate closes the gap. And at equal *seconds*? We timed single steps of the three arms in turn, in processor time; the median of the paired ratios:

# %%
from statistics import median

step = [r["cpu_seconds"] for r in more if r["arm"] == "step time"][-1]
ratio = lambda arm: median(x / y for x, y in zip(step[arm], step["lambdas"]))
slower = {name: ratio(arm) for arm, name in names.items()}
print("a step takes, base = 1:", {n: round(x, 2) for n, x in slower.items()})
wide, base = (450 * slower["tables"] / slower[n] for n in ("wide", "base"))
print(f"in the time of 450 steps of tables: wide {wide:.0f}, base {base:.0f} steps")

# %% [markdown]
# So on this CPU equal time is nearly equal FLOPs, the third line of the figure. On a GPU it need not be; there memory counts.

# %%
gains = found["tables - base, 450 steps"][0]
lab.result("08.gain", round(-sum(gains) / len(gains), 4))
plots.show(plots.ladder(lab.ladder(), list(LADDER)))

# %% [markdown]
# The top rung, `record`, was found at depth 12 and more; here it loses. Does an effect grow with size? The steps,
# beside [two larger runs each](../results/2026-11-29_ladder-larger) on other text (width 192, three million tokens):

# %%
def by_arm(name):
    runs = {}
    for r in lab.recorded(name):
        if r.get("T", 256) == 256:
            runs.setdefault(r["arm"], {})[r["seed"]] = r["val_bpb"]
    return runs

# %%
small, larger = by_arm("ladder-seeds"), by_arm("ladder-larger")
steps = list(LADDER)[1:]  # from modern on
effects = {
    f"{b} - {a}, width {width}": lab.paired(runs[a], runs[b])
    for a, b in (*zip(steps, steps[1:]), ("wide", "jan29"))
    for width, runs in ((128, small), (192, larger)) if a in runs and b in runs
}
plots.show(figures.pairs(effects))

# %% [markdown]
# There tables gain less, 0.042 ± 0.026. Lambdas gain 0.042 and 0.031, where the small runs lose 0.024; `record` gains 0.006 twice, for a loss of
# 0.033. Windows gain 0.031 and 0.004: one run alone would have misled. `jan29` without one thing at a time, at width 128:

# %%
arms = {"without value embeddings": small["lambdas"]}
arms |= {arm[6:]: runs for arm, runs in small.items() if " without " in arm}
plots.show(figures.pairs({a: lab.paired(small["jan29"], r) for a, r in arms.items()}))

# %% [markdown]
# Without Muon it loses most (0.082; AdamW has its own best rate and decay), then without tables, windows and QK-norm. Gates, softcap and residual
# lambdas show nothing. Without x0 it is *lower*, as lesson 07 found.
#
# ## What is not free
#
# Memory, and moving it. At depth 24 in bfloat16, on eight GPUs that divide the optimizer's work:

# %%
size = 2 * plans["jan29"].params["value_embeds"] / 1e9  # GB of the tables
each = 2 * size + 2 * size / 8  # with the gradient, and an eighth of Adam's two means
print(f"tables {size:.2f} GB; a GPU keeps {each:.1f} GB, one alone {4 * size:.1f}")
sent = 2 * size * 7 / 8
print(f"a step sends {sent:.2f} GB from each: {sent / 0.45:.1f} ms of 656, at 450 GB/s")

# %% [markdown]
# (656 ms is a step of the 3.04-hour run, 450 GB/s what an H100's NVLink carries each way. Gradients are summed and parameters
# collected around a ring; lesson 11 does it.) A lookup touches few rows, but Adam touches all: a row that did not come in this batch still has momentum. One step of a toy:

# %%
batch = rows[:8]
used = batch.unique().numel()
print(f"{batch.numel():,} tokens use {used} of {tok.vocab_size:,} rows")

# %% [markdown]
# ## At full size
#
# - nanochat, 17 January 2026: tables win over steps, FLOPs and time. As parameters they change its accounts: the best ratio of
# tokens to parameters fell from 8 to 4 when all parameters count.
# - modded-nanogpt, in minutes: gates on value embeddings and on a skip 1.940 to 1.918 (record 55); tables no longer shared
# between layers 1.655 to 1.650 (63); other layers and gates 1.528 to 1.521 (70).
# - **Against it.** Memory buys bits, not always ability. A table of 300 million rows for two and three tokens in a row gave nanochat
# bits per byte lower by 0.014, and CORE *lower* by 0.005 ([pull request
# 854](https://github.com/karpathy/nanochat/pull/854)). And its own tables for pairs of tokens helped depth 12; at depth 25 the
# gain was tiny and gone by the clock (28 January).
#
# So gains of tables can shrink as models grow. We know of nobody who has published the three arms at depth 24.
#
# ## The answer

# %%
for name in list(found)[:3]:
    tell(name, *found[name])
print(f"price: {slower['tables'] - 1:.1%} of the time here; "
      f"{each:.1f} GB on each of 8 GPUs at depth 24")  # fmt: skip

# %% [markdown]
# In FLOPs, parameters can be free. In every recorded pair they were worth more than as many that compute: a matrix must share
# its numbers among all tokens, a row belongs to one. They are not free in memory: 2.7 gigabytes on each of eight GPUs at depth
# 24, with gradient and Adam's means, and 4.8 on one alone.

# %% [markdown]
# ## Questions
#
# 1. A table of one layer is made twice as wide as the values and a matrix brings it back to their width. Is it still free?
#
# <details><summary>Answer</summary>
#
# No. The matrix is a product at every token. And nanochat tried projections: they failed.
# </details>
#
# 2. Why is a gate with weight 0 not shut, and why is that a good beginning?
#
# <details><summary>Answer</summary>
#
# 2 · sigmoid(0) = 1: the row is added in full, so the table receives a gradient from the first step in which its layer has one.
# </details>
#
# 3. The vocabulary doubles. What happens to the tables' parameters, to their FLOPs, and to how often a row is trained?
#
# <details><summary>Answer</summary>
#
# Twice the parameters, the same FLOPs, and each row comes about half as often.
# </details>
#
# 4. "Our method adds 600 million parameters at no cost and beats the baseline." What do you ask?
#
# <details><summary>Answer</summary>
#
# Against what? The same parameters elsewhere, equal FLOPs, equal time. Then memory, seeds, and rates tuned for both.
# </details>

# %% [markdown]
# > **Takeaway.** A table looked up by the token adds parameters without FLOPs. Compare it with the same parameters
# > elsewhere, not with nothing. Its price is memory and its traffic. And a gate whose weights decay to 0 is always open.

# %% [markdown]
# ## Exercises
#
# [Exercises 08](../exercises/08_value_embeddings.ipynb): a layer folded into a table, tables for pairs of tokens, the gradient by
# hand, the gates by token, and memory on eight GPUs. `make start EX=08`, `make grade EX=08`.

# %% [markdown]
# ## Further reading
#
# - Z. Zhou and others, *Value Residual Learning*, [arXiv 2410.17897](https://arxiv.org/abs/2410.17897).
# - modded-nanogpt's [record of 4 December 2024](https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2024-12-04_ValueEmbed),
# the first tables.
# - nanochat's [dev/LOG.md](https://github.com/karpathy/nanochat/blob/master/dev/LOG.md), 17, 27 and 28 January 2026.
