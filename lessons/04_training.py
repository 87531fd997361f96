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
# # 04 Training: the loop
#
# **Goal:** write a whole training loop, train a model with it, and stop and resume it so exactly that no bit differs.
#
# 40 minutes, and 70 for the exercises; any CPU will do.
#
# Lesson 02 made rows of tokens, lesson 03 a model that reads them. The loop brings the two together.
#
# First a puzzle, the one of lesson 01 in another form. Two models know nothing: each gives all tokens of its vocabulary the
# same probability. The tokens of A are the 256 bytes. B has 50,000 tokens, most of them longer, so it needs fewer for the same
# text.

# %%
import math

text = "The cat sat on the mat, and purred."
models = {"A": (256, 35), "B": (50_000, 11)}  # tokens: vocabulary, text
for name, (vocabulary, tokens) in models.items():
    print(f"{name}: {math.log(vocabulary):.2f} nats per token, {tokens} tokens")

# %% [markdown]
# A has half the loss of B. Is it the better model?
#
# **The question of this lesson:** the model, its tokenizer and the number of training tokens are fixed. How much can the loop
# alone win or lose?
#
# Guess one part of the answer. A batch becomes four times as large, so the same tokens make four times fewer steps. The
# learning rate is tuned for both. How many bits per byte worse is the run with the large batch?

# %%
from gpt2course.course import lab

lab.predict("04.batch", 0.0)

# %% [markdown]
# ## The exam: bits per byte
#
# The loss per token does not decide it, bits for the whole text do: log₂ V for each token here, divided by the bytes.

# %%
for name, (vocabulary, tokens) in models.items():
    bits = tokens * math.log2(vocabulary)
    print(f"{name}: {bits:.0f} bits, {bits / len(text.encode()):.2f} bits per byte")

# %% [markdown]
# So B needs 39 % fewer bits, and the loss per token had it the wrong way round. From here on, models are compared in bits per byte.
# Lesson 01 wrote the division. Here it meets a model. Every token of every document is predicted once:

# %%
import torch

from gpt2course.data import load_corpus

score, tok, corpus = lab.mine("bpb"), lab.tokenizer(), load_corpus("embedded")

# %%
@torch.no_grad()
def measure(model, documents):
    """Bits per byte. Each document is a row of its own, with BOS before it."""
    nats = []
    for text in documents:
        row = torch.tensor([[tok.bos, *tok.encode(text)]])  # (1, n + 1)
        nats.append(model(row[:, :-1], row[:, 1:], reduction="none")[0])  # (n,)
    return float(score(nats, documents))

# %% [markdown]
# A model to measure, after 20 steps of training, and the package's number:

# %%
run = lab.train("modern", seed=1, steps=20)
model, T = run["model"], run["plan"].model.sequence_len

# %%
from gpt2course import evaluate

short = [corpus.val[i][:200] for i in range(6)]
ours, _ = evaluate.bits_per_byte(model, short, tok, T)
print(f"{measure(model, short):.4f} bits per byte")
lab.compare(measure(model, short), ours)

# %% [markdown]
# ## A rate that falls
#
# The smallest training there is: one weight w, the loss w² / 2, the gradient w. A batch shows the gradient only with noise, here
# of size 1. A step goes against this noisy gradient, times the *learning rate*. We follow 1,000 such weights and print their distance
# from the bottom (root mean square).

# %%
from gpt2course.course import plots
from gpt2course.course.figures import training as figures


def descend(rates, copies=1000):
    """One rate a step -> the distance from the bottom before and after every step."""
    g, w, path = torch.Generator().manual_seed(0), torch.full((copies,), 3.0), [3.0]
    for rate in rates:
        w = w - rate * (w + torch.randn(copies, generator=g))  # the gradient, and noise
        path.append(w.square().mean().sqrt().item())
    return path


high, low = descend([0.2] * 120), descend([0.02] * 120)
print(f"after 120 steps: rate 0.2 at {high[-1]:.2f}, rate 0.02 at {low[-1]:.2f}")

# %% [markdown]
# Both fail. The high rate is soon near the bottom, and then every step throws it about. The low rate is calm and slow. So begin
# high, and let the rate fall at the end, the *warm-down*:

# %%
falling = [0.2] * 60 + [0.2 * (60 - t) / 60 for t in range(60)]
bowls = {"0.2": high, "0.02": low, "0.2, then falling": descend(falling)}
plots.show(figures.distances(bowls))

# %% [markdown]
# A *schedule* is the multiplier of the rate at every step. Ours has up to three parts: a warm-up, a flat part and a warm-down.
# This is the first hole.

# %% tags=["hole"]
def rate(step, steps, warmup, warmdown, final):
    """The multiplier at `step`, which counts from 0 to steps - 1.

    The first `warmup` steps have 1 / warmup, 2 / warmup, ... 1. The last `warmdown`
    fall on a line from 1, at step steps - warmdown, to `final`, at step `steps`.
    """
    ### BEGIN SOLUTION
    if step < warmup:
        return (step + 1) / warmup  # the first step already moves
    if step <= steps - warmdown:
        return 1.0
    left = (steps - step) / warmdown
    return left + (1 - left) * final
    ### END SOLUTION

# %%
shapes = (10, 2, 4, 0.0), (10, 0, 4, 0.2), (7, 0, 0, 0.0)
rate = lab.hole("04", rate, *[(t, *s) for s in shapes for t in range(s[0])])
lab.keep("schedule", rate)

# %% [markdown]
# The package's version also knows the half cosine of 2019:

# %%
import inspect

from gpt2course.recipes import Plan, resolve

print(inspect.getsource(Plan.lr))

# %%
plan = resolve("record", depth=24)
r, n = plan.recipe, plan.steps
end = r.warmup_steps, round(r.warmdown_ratio * n), r.final_lr
yours = torch.tensor([rate(t, n, *end) for t in range(n)])
lab.compare(yours, torch.tensor([plan.lr(t) for t in range(n)]))

# %% [markdown]
# ## A step for weights of every size
#
# Real gradients differ in size by factors of thousands. Take two weights, one with a gradient a thousand times larger, and plain
# gradient descent:

# %%
steepness = torch.tensor([1.0, 1000.0])
for lr in (0.1, 0.001):
    w = torch.ones(2)
    for _ in range(10):
        w = w - lr * steepness * w
    print(f"rate {lr}: from 1 to {w[0]:.3g} and from 1 to {w[1]:.3g}")

# %% [markdown]
# The rate that serves the first weight blows up the second. **AdamW** keeps two running means for each weight, m of the gradient and
# v of its square, and steps by m / √v. The size of the gradient drops out. Three details:
#
# - m and v begin at 0, so they are too small at first. Divide them by 1 - βᵗ.
# - A tiny eps is added to the root, so that nothing is divided by 0.
# - *Weight decay* first shrinks every weight by the share lr · decay.

# %% tags=["hole"]
def adamw(w, g, m, v, t, lr, beta1, beta2, eps, decay):
    """One step, in place (w, m, v change), on tensors of one shape; t counts from 1."""
    ### BEGIN SOLUTION
    m.copy_(beta1 * m + (1 - beta1) * g)
    v.copy_(beta2 * v + (1 - beta2) * g**2)
    w.mul_(1 - lr * decay)
    w.sub_(lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps))
    ### END SOLUTION

# %%
w, g, zero = torch.tensor([1.0, -2.0]), torch.tensor([0.3, 50.0]), torch.zeros(2)
first = (w, g, zero, zero.clone(), 1, 0.1, 0.8, 0.95, 1e-10, 0.0)
later = (w, g, g / 2, g**2 / 3, 7, 0.1, 0.8, 0.95, 1.0, 0.5)
adamw = lab.hole("04", adamw, first, later)

# %%
w, m, v = torch.ones(2), torch.zeros(2), torch.zeros(2)
for t in range(1, 11):
    adamw(w, steepness * w, m, v, t, 0.1, 0.8, 0.95, 1e-10, 0.0)
print(f"AdamW, rate 0.1: from 1 to {w[0]:.3g} and from 1 to {w[1]:.3g}")

# %% [markdown]
# Now one rate serves both. The package's version, and the comparison over seven steps:

# %%
from gpt2course import optim

print(inspect.getsource(optim.adamw_update))

# %%
def seven_steps(update, shape=(16, 8)):
    g = torch.Generator().manual_seed(1)
    w, m, v = torch.randn(shape, generator=g), torch.zeros(shape), torch.zeros(shape)
    for t in range(1, 8):
        gradient = torch.randn(shape, generator=g)
        update(w, gradient, m, v, t, 0.01, 0.8, 0.95, 1e-10, 0.1)
    return w


lab.compare(seven_steps(adamw), seven_steps(optim.adamw_update))

# %% [markdown]
# ## A batch too large for the memory
#
# Half a million tokens do not fit into a GPU at once. But `backward` adds to the gradient that is there, so a batch can go through in
# pieces: *gradient accumulation*. The obvious way takes the mean of the pieces' means. Three rows with losses 1, 2 and 6, two
# at a time:

# %%
losses = torch.tensor([1.0, 2.0, 6.0])
pieces = losses.split(2)
means = [p.mean() for p in pieces]
print(f"mean of the rows {losses.mean()}, of the pieces' means {sum(means) / 2}")

# %% [markdown]
# The last piece has one row and counted as much as two. So a piece must count by its rows. The third hole, on one weight vector; then
# the same with the model.

# %% tags=["hole"]
def accumulate(loss_of, w, rows, size):
    """w.grad becomes the gradient of the mean loss of all rows, `size` at a time.

    loss_of(w, piece): the mean loss of a piece. Returns w.grad, which may hold an old
    gradient at first.
    """
    ### BEGIN SOLUTION
    w.grad = None
    for piece in rows.split(size):
        (loss_of(w, piece) * len(piece) / len(rows)).backward()
    return w.grad
    ### END SOLUTION

# %%
squared = lambda w, x: (x @ w).square().mean()
w, x = torch.tensor([1.0, 2.0], requires_grad=True), torch.randn(7, 2)
w.grad = torch.ones(2)
accumulate = lab.hole("04", accumulate, (squared, w, x, 3), (squared, w, x, 7))

# %%
def gradient(model, rows, size):
    """Every p.grad, at most `size` rows at a time; returns the mean loss."""
    total = 0.0
    for piece in rows.split(size):
        loss = model(piece[:, :-1], piece[:, 1:].contiguous())
        loss = loss * (len(piece) / len(rows))
        loss.backward()  # and frees what the forward pass kept for it
        total += loss.item()
    return total

# %%
from gpt2course.batches import Batches

rows = torch.from_numpy(Batches(corpus.train, tok, T).next_rows(64))  # (64, T + 1)
found = []
for size in (4, 10):  # pieces of 4, 4 and 2 rows, and all ten at once
    model.zero_grad()
    gradient(model, rows[:10], size)
    found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
lab.compare(*found)

# %% [markdown]
# ## Weights need their digits
#
# GPUs multiply bfloat16, numbers of 16 bits, much faster than float32. Above 1 the next bfloat16 is 1/128 away. Add 0.0001 a
# thousand times:

# %%
for dtype in (torch.float32, torch.bfloat16):
    w = torch.tensor(1.0, dtype=dtype)
    for _ in range(1000):
        w += 1e-4
    print(f"{str(dtype)[6:]}: {w.item():.4f}")

# %% [markdown]
# Every update was rounded away. So products may be bfloat16, and the weights that are updated stay float32. (The package's
# embeddings are an exception on GPUs. Their rate is high enough.)
#
# ## The loop
#
# `plan` holds the numbers of a run. Rows, gradient, rate, update:

# %%
from gpt2course.recipes import group_of, make_model


def train_by_hand(model, state, batches, plan, first, last):
    """Steps first to last - 1; returns the losses."""
    warmdown = round(plan.recipe.warmdown_ratio * plan.steps)
    losses = []
    for step in range(first, last):
        rows = torch.from_numpy(batches.next_rows(plan.batch_tokens // T))
        losses.append(gradient(model, rows, 8))
        share = rate(step, plan.steps, 0, warmdown, 0.0)
        with torch.no_grad():
            for name, w in model.named_parameters():
                s = plan.groups[group_of(name)]  # the settings of its kind
                adamw(w, w.grad, state[f"m.{name}"], state[f"v.{name}"], step + 1,
                      share * s["lr"], s["beta1"], s["beta2"], s["eps"],
                      s["weight_decay"])  # fmt: skip
                w.grad = None
    return losses

# %% [markdown]
# `begin` chooses documents as `lab.train` does, so that both see the same batches.

# %%
import random

from gpt2course.data import from_list


def begin(plan, seed=1):
    model = make_model(plan).init_weights(seed)
    names = [f"{kind}.{name}" for kind in "mv" for name, _ in model.named_parameters()]
    state = {name: torch.zeros_like(model.get_parameter(name[2:])) for name in names}
    chosen = random.Random(seed).sample(range(len(corpus.train)), lab.DOCUMENTS)
    return model, state, Batches(from_list([corpus.train[i] for i in chosen]), tok, T)

# %%
plan = resolve("modern", **lab.TOY | {"steps": 64})
model, state, batches = begin(plan)
by_hand = train_by_hand(model, state, batches, plan, 0, 32)
print("loss at step 1, 8, 16, 32:", [round(by_hand[i], 2) for i in (0, 7, 15, 31)])

# %% [markdown]
# The package's loop. It also saves, evaluates and stops on request. Then its step, with a watch, a check for losses that are not
# finite, and parts for several GPUs (lesson 11) and 8 bits (lesson 12). Its mean of means is right, as it refuses pieces of different
# sizes.

# %%
from gpt2course import train

source = inspect.getsource(train.train)
print(source[source.index("        while run.step") :])

# %%
print(inspect.getsource(train.take_step))
print(inspect.getsource(train.forward_backward))

# %% [markdown]
# ## Stop and go on
#
# A run takes hours, and machines fail. The obvious *checkpoint* has the weights and the step number. Save more than that, so that
# each part can be left out:

# %%
import json
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file


def save(folder, model, state, batches):
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    save_file(tensors | state, folder / "tensors.safetensors")
    (folder / "loader.json").write_text(json.dumps(batches.state_dict()))

# %%
def resume(folder, plan, parts=("weights", "optimizer", "data")):
    model, state, batches = begin(plan)
    tensors = load_file(folder / "tensors.safetensors")
    model.load_state_dict({k: tensors[f"model.{k}"] for k in model.state_dict()})
    if "optimizer" in parts:
        state = {k: tensors[k].clone() for k in state}
    if "data" in parts:
        batches.load_state_dict(json.loads((folder / "loader.json").read_text()))
    return model, state, batches

# %% [markdown]
# A checkpoint at step 32. The run goes on for eight steps. Then the same eight steps again, from the file:

# %%
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
save(folder, model, state, batches)
by_hand += train_by_hand(model, state, batches, plan, 32, 40)
for more in ("", ", data", ", optimizer", ", optimizer, data"):
    parts = "weights" + more
    again = resume(folder, plan, parts.split(", "))
    train_by_hand(*again, plan, 32, 40)
    pairs = zip(again[0].parameters(), model.parameters())
    apart = max((a - b).abs().max().item() for a, b in pairs)
    bpb = measure(again[0], short)
    print(f"{parts:26} a weight differs by up to {apart:.2g}, bpb {bpb:.3f}")

# %% [markdown]
# Every incomplete checkpoint trains on without an error, as another run. With all three parts the difference is 0: not small,
# zero. Test for exactly that before a long run. The package writes under a temporary name first and keeps checksums, so that a kill or a
# bad disk is noticed:

# %%
from gpt2course import checkpoint

print(inspect.getsource(checkpoint.save))

# %% [markdown]
# The checkpoint also lets one run end in two ways, from the same weights: with the warm-down and without.

# %%
flat = resolve("modern", **lab.TOY | {"steps": 64, "warmdown_ratio": 0.0})
unseen, ends = evaluate.first_bytes(corpus.val, 12_000), {}
for name, p in {"warm-down": plan, "constant rate": flat}.items():
    m, s, b = resume(folder, plan)
    points, down = [(32, measure(m, unseen))], round(p.recipe.warmdown_ratio * 64)
    for first in (32, 48):
        train_by_hand(m, s, b, p, first, first + 16)
        points.append((first + 16, measure(m, unseen)))
    ends[name] = points, [rate(t, 64, 0, down, 0.0) for t in range(64)]
plots.show(figures.loss_and_rate(ends))
temporary.cleanup()

# %% [markdown]
# ## Your schedule and your bits per byte train
#
# The package's loop with your pieces in place of its own, then without, and your loop's first 40 losses:

# %%
ours = lab.train("modern", seed=1, steps=64)
yours = lab.train_with("schedule", "bpb", recipe="modern", seed=1, steps=64)
print(f"{yours['val_bpb']:.4f} with yours, {ours['val_bpb']:.4f} without")
lab.compare(torch.tensor(yours["loss"]), torch.tensor(ours["loss"]), atol=1e-3)
lab.compare(torch.tensor(by_hand), torch.tensor(ours["loss"][:40]), atol=1e-2)

# %% [markdown]
# ## What the loop is worth
#
# Now the question. A setting is only as good as its rate, so every arm (kind of run) below has the rate and the weight decay swept, on 65,536
# tokens each: a constant rate, a warm-down, and a warm-down with a batch four times as large. The last two also with Muon, the
# optimizer of lesson 05. The best cell of each arm, with two or three seeds:

# %%
runs = lab.recorded("loop-settings")

# %%
def best_cell(arm):
    """((decay, share of the rates), bits per byte over seeds) of the lowest mean."""
    cells = {}
    for r in runs:
        if r["arm"] == arm:
            cells.setdefault((r["decay"], r["share"]), []).append(r["val_bpb"])
    both = {k: v for k, v in cells.items() if len(v) > 1}
    return min(both.items(), key=lambda cell: sum(cell[1]) / len(cell[1]))


# %%
arms = ("constant", "warm-down", "large", "muon", "muon large")
found = {a: best_cell(a) for a in arms}
for arm, ((decay, share), bpb) in found.items():
    mean = sum(bpb) / len(bpb)
    print(f"{arm:10} rates times {share:<4g} decay {decay:<4g} bpb {mean:.3f}")

# %%
small, large = (found[a][1] for a in ("warm-down", "large"))
lab.result("04.batch", round(sum(large) / len(large) - sum(small) / len(small), 3))
lab.verdict(small, large)
lab.verdict(found["warm-down"][1], found["constant"][1])
print(lab.provenance(runs))

# %% [markdown]
# Both differences are larger than the spreads. The large batch loses, although its rate is tuned: it makes sixteen steps where
# the small one makes 64. Its best rates are twice those of the small
# batch, for both optimizers. This agrees with the **square-root rule**: a batch k times as large has noise smaller by √k, and AdamW, whose
# steps have one size whatever the gradient, may take steps larger by √k ([arXiv 2205.10287](https://arxiv.org/abs/2205.10287)).
# The grid goes in steps of two, so a power from a quarter to three quarters would look the same. The best decays are 0.2 or 0.6, and the grid ends at 0.6, so an arm may gain a
# little more beyond it.
#
# One mistake in the rate costs more than either choice:

# %%
rates = {}
for r in runs:
    if r["arm"] == "warm-down" and r["decay"] == found["warm-down"][0][0]:
        rates.setdefault(r["share"], []).append(r["val_bpb"])
for share in sorted(rates):
    print(f"rates times {share:<4g} bpb {sum(rates[share]) / len(rates[share]):.3f}")

# %% [markdown]
# Does the rule hold over a large distance? The published rates are tuned for batches of 524,288 tokens. At 2,048 the rule asks
# for one sixteenth of them:

# %%
rows = [r for r in lab.recorded("small-batch-rates") if r["weight_decay"] == 0.2]
shares = {}
for r in rows:
    shares.setdefault(r["tiny_batch_lr"], []).append(r["val_bpb"])
plots.show(figures.rate_shares(shares, math.sqrt(2048 / 2**19)))
print(lab.provenance(rows))

# %% [markdown]
# It does not. These models have Muon (recipe `jan29`), one weight decay for all rates (not swept), and 250 steps, so the figure does
# not say whether the distance, the optimizer or the short run is the reason. Trust a scaling rule near where it was tested. For batches of
# up to 32,768 tokens our recipes keep the full rates.
#
# ## At full size
#
# How long does a run take? Lesson 00 divided FLOPs by the peak and the MFU, and carried January's MFU (depth 24, 3.04 hours) to other
# runs. Here it predicts depth 26, a week later.

# %%
from gpt2course import cost

run = {e["id"]: e for e in lab.published()}
peak = 8 * cost.peak_flops("H100")
share = run["nanochat-1"]["flops"] / (run["nanochat-1"]["hours"] * 3600 * peak)
d26 = resolve("jan29", depth=26).flops_per_token * run["nanochat-3"]["tokens"]
hours = d26 / share / peak / 3600
print(f"MFU of the first {share:.0%}; the second would take {hours:.2f} h")
print(f"published: {run['nanochat-3']['hours']} h")

# %% [markdown]
# The second run was faster than that, for the reason that you know: it computed in 8 bits (lesson 12), with twice the peak.
#
# What published runs changed in the loop (nanochat's
# [log](https://github.com/karpathy/nanochat/blob/master/dev/LOG.md) and commits): the warm-down grew from 0.2 of the run to 0.4 ("the biggest
# free win", January), 0.5 and then 0.65; a warm-up of 40 steps came in March ([commit 6ed7d1d](https://github.com/karpathy/nanochat/commit/6ed7d1d)), the batch grows with the tokens to the power 0.383
# ([arXiv 2505.13738](https://arxiv.org/abs/2505.13738)), and gradient clipping, tested alone, gained
# nothing and cost 2 % of the time. The 0.65 and the warm-up came together with other changes, so nobody knows what each is worth.
#
# **The answer.** At this size, with AdamW, the schedule is worth 0.04 bits per byte and the batch 0.08. A rate four times too high costs
# 0.10, one four times too low 0.27. So look for the rate first.

# %% [markdown]
# ## Questions
#
# 1. All losses are multiplied by 100. What changes under AdamW?
#
# <details><summary>Answer</summary>
#
# Almost nothing: m grows by 100 and √v too. Only eps is smaller in comparison. (Gradient clipping would notice.)
# </details>
#
# 2. A run of 100 steps with a warm-down of 50 is resumed at step 80 with the step counter at 0. What happens?
#
# <details><summary>Answer</summary>
#
# The rate jumps back to its peak, and the bias correction enlarges m and v, which are not too small any more.
# </details>
#
# 3. Two runs differ in the batch and have the same rate. The smaller batch wins. What has been shown?
#
# <details><summary>Answer</summary>
#
# That this rate suits the smaller batch better. Sweep the rate for both before you compare batches.
# </details>

# %% [markdown]
# > **Takeaway.** A step is: rows, forward, backward, update. High rates learn fast and cannot settle, so the rate falls at the
# > end. Every piece of a batch counts by its rows, weights stay in float32, and a checkpoint is complete if the resumed run is the
# > same to the last bit. Compare settings only after the rate of each was swept.
#
# [Exercises 04](../exercises/04_training.ipynb): the schedule, accumulation with padding, the gradient noise scale, one wrong number
# to find by experiment, and the cost of checkpoints.
#
# ## Further reading
#
# - D. Kingma and J. Ba, *Adam*, [arXiv 1412.6980](https://arxiv.org/abs/1412.6980), and I. Loshchilov and F. Hutter,
#   *Decoupled Weight Decay Regularization*, [arXiv 1711.05101](https://arxiv.org/abs/1711.05101): AdamW.
# - S. McCandlish and others, *An Empirical Model of Large-Batch Training*, [arXiv 1812.06162](https://arxiv.org/abs/1812.06162).
# - T. Brown and others, *Language Models are Few-Shot Learners*, [arXiv 2005.14165](https://arxiv.org/abs/2005.14165), appendix B:
#   the settings that `gpt2` takes over.
