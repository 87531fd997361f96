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
# # 12 Speed
#
# **Goal:** find out what limits each part of a training step on your machine, and change it without changing the result.
#
# 40 minutes, and 85 for the exercises; any CPU will do.
#
# Model and optimizer stay those of lessons 03 to 06. New is a stopwatch, a drawing that tells how fast a part *could* be, a
# loss that needs little memory, and numbers of 8 bits. The lesson explains [losses.py](../gpt2course/losses.py),
# [fast/fp8.py](../gpt2course/fast/fp8.py) and the second half of [cost.py](../gpt2course/cost.py).

# %%
import time
import torch

torch.manual_seed(12)
torch.set_num_threads(1)  # one core, so that this page and yours compare
x = torch.randn(256, 256)
for name in ("left", "right"):
    began = time.perf_counter()
    x @ x
    print(f"{name}: {1e3 * (time.perf_counter() - began):.2f} ms")

# %% [markdown]
# The right product is faster. But both are the same. The first call pays alone for what is set up once, so the way that
# comes second wins. With `torch.compile` a first call can take a minute. A stopwatch needs a call that does not count:

# %%
import math

def seconds(f, *args, rounds=5):
    """The fewest seconds of f(*args), after a call that does not count."""
    f(*args)
    best = math.inf
    for _ in range(rounds):
        began = time.process_time()
        f(*args)
        best = min(best, time.process_time() - began)
    return best

print([f"{1e3 * seconds(torch.matmul, x, x):.2f} ms" for name in ("left", "right")])

# %% [markdown]
# `process_time` counts only the seconds in which this process computed. So it hardly sees a browser beside it. (On a GPU
# a call returns before the GPU has finished. Wait for it with `torch.cuda.synchronize()` first, or measure with the GPU's own
# events, as in [tools/bench.py](../tools/bench.py).)
#
# ## A plain step
#
# A small model with a large vocabulary, so that the head weighs a lot. Windows are masks, and the loss is written from its
# definition. The rate is 0, so that all steps compute the same.

# %%
from gpt2course import losses
from gpt2course.losses import cross_entropy_plain
from gpt2course.recipes import make_model, make_optimizer, resolve

size = dict(depth=4, width=128, head_dim=32, sequence_len=1024, vocab_size=8192)
size |= dict(short_window_divisor=16, batch_tokens=1024, steps=1)
plan = resolve("windows", **size)
gpt = make_model(plan, "cpu").init_weights(1)
with torch.no_grad():  # a fresh model has zeros, which would hide mistakes
    for block in gpt.blocks:
        block.attn.c_proj.weight.normal_(0, 0.05)
        block.mlp.c_proj.weight.normal_(0, 0.05)
    gpt.lm_head.weight.normal_(0, 0.05)
optimizer = make_optimizer(gpt, plan)
tokens = torch.randint(8192, (1, 1025), generator=torch.Generator().manual_seed(1))
idx, targets = tokens[:, :-1], tokens[:, 1:].contiguous()

# %%
def stages():
    """Seconds of the parts of a step."""
    marks = [time.process_time()]
    mark = lambda: marks.append(time.process_time())
    x = gpt.hidden(idx).flatten(0, 1)  # (1024, 128)
    mark()
    leaf = x.detach().requires_grad_()
    loss = cross_entropy_plain(leaf, gpt.lm_head.weight, targets[0], 15.0)
    loss.backward()
    mark()
    x.backward(leaf.grad)
    mark()
    optimizer.step(0.0, 0.9, 0.0)
    optimizer.zero_grad()
    mark()
    return [b - a for a, b in zip(marks, marks[1:])]

taken = [min(s) for s in zip(*[stages() for _ in range(5)][1:])]

# %%
from gpt2course.course import lab, plots
names = ["layers, forward", "head and loss", "layers, backward", "optimizer"]
fig = plots.where_time_went(dict(zip(names, taken)))
fig.axes[0].set_xlabel("seconds of this process")
plots.show(fig)

# %% [markdown]
# **The question of this lesson: where do the milliseconds go, and which of them can be saved?** How many times faster will
# the whole step be at the end of this page, with the same loss and the same gradients? Write your guess down.

# %%
lab.predict("12.step", 3.0)

# %% [markdown]
# ## Two numbers of your machine
#
# A part of the step computes, and it moves bytes between memory and the core. Both take time, and at best they happen
# at once. So measure the two speeds: one large product, and one copy of much memory.

# %%
A, B = torch.randn(2, 1024, 1024)
peak = 2 * 1024**3 / seconds(torch.matmul, A, B)  # a product and a sum each
big, other, third = torch.ones(3, 2**24)  # 64 MiB each
bandwidth = 2 * big.nbytes / seconds(other.copy_, big)  # read and written
print(f"{peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s")

# %% [markdown]
# A part with so many FLOPs and so many bytes then takes at least:

# %% tags=["hole"]
def least(flops, moved, peak, bandwidth):
    """Least seconds of a part; peak in FLOP/s, moved in bytes, bandwidth in bytes/s."""
    ### BEGIN SOLUTION
    return max(flops / peak, moved / bandwidth)
    ### END SOLUTION

# %%
cases = [(8e9, 1e9, 4e9, 1e9), (1e9, 6e9, 4e9, 2e9), (4.0, 1.0, 4.0, 1.0)]
least = lab.hole("12", least, *cases)

# %% [markdown]
# FLOPs divided by bytes is the *intensity* of a part. Where it is below peak / bandwidth, memory limits the part, and a
# faster processor would change nothing. Drawn against intensity, the best possible FLOP/s are a *roofline*: a slope, then
# a flat roof. Four parts of a step, large enough not to fit into a cache:

# %%
h, W, z = *torch.randn(2, 4096, 128), third.view(4096, 4096)
def relu_squared():
    torch.clamp_min(big, 0, out=other)  # 1 FLOP and 8 bytes a number
    torch.mul(other, other, out=third)  # again

work = {  # FLOPs, bytes, the call
    "head": (2**32, 2**26 + 2**22, lambda: torch.mm(h, W.T, out=z)),  # 2 · 4096² · 128
    "relu²": (2 * 2**24, 16 * 2**24, relu_squared),
    "sum": (2**24, 12 * 2**24, lambda: torch.add(big, other, out=third)),
    "one product": (2 * 1024**3, 12 * 1024**2, lambda: A @ B),
}

# %%
from gpt2course.course.figures import speed as figures

points = {}
for name, (flops, moved, call) in work.items():
    took, bound = seconds(call), least(flops, moved, peak, bandwidth)
    points[name] = flops / moved, flops / took
    print(f"{name}: {bound / took:.0%} of what is possible")
plots.show(figures.roofline(peak, bandwidth, points))

# %% [markdown]
# Products lie under the flat roof. What works number by number lies on the slope: relu² does two FLOPs for sixteen
# bytes, in two passes over memory. (A point somewhat above the roof? The roof is as good as its two measurements.)
#
# An H100 does 989 TFLOP/s in bfloat16 and moves 3.35 TB/s (its data sheet): the roof turns at 295 FLOPs a byte.

# %%
tokens_at_once, C = 16 * 2048, 1536  # depth 24, device batch 16, two bytes a number
product = 2 * tokens_at_once * C * 4 * C
moved = 2 * (tokens_at_once * C + 4 * C * C + 4 * tokens_at_once * C)
print(f"MLP product {product / moved:.0f} FLOPs a byte, relu² {2 / 8:.2f}")

# %% [markdown]
# ## 20 % faster alone
#
# Muon multiplies X by its own transpose, over and over (lesson 05). The result is symmetric, so a quarter of it need not be
# computed.

# %%
def gram(X):
    a, b = X.chunk(2, dim=-2)
    ab = a @ b.mT
    top, bottom = torch.cat([a @ a.mT, ab], -1), torch.cat([ab.mT, b @ b.mT], -1)
    return torch.cat([top, bottom], -2)

lab.compare(gram(A) / 1024, A @ A.T / 1024)
print(f"{seconds(lambda: A @ A.T) / seconds(gram, A):.2f} times as fast")

# %% [markdown]
# A good kernel, alone. What does the step gain? If a part takes a share of the time and becomes `factor` times faster, the
# rest stays. That is *Amdahl's law*. Write it.

# %% tags=["hole"]
def whole(share, factor):
    """How many times faster the whole becomes; share from 0 to 1."""
    ### BEGIN SOLUTION
    return 1 / (1 - share + share / factor)
    ### END SOLUTION

# %%
whole = lab.hole("12", whole, (0.5, 2.0), (0.1, 1.2), (1.0, 3.0), (0.0, 9.0))

# %%
X, Y = torch.randn(16, 128, 128), torch.randn(8, 128, 512)  # the step's matrices
share = 5 * (seconds(lambda: X @ X.mT) + seconds(lambda: Y @ Y.mT)) / sum(taken)
print(f"these products take {share:.1%} of the step; 1.2 times faster makes it "
      f"{whole(share, 1.2):.4f} times faster")  # fmt: skip

# %% [markdown]
# Nothing, that is. The same happened to nanochat on GPUs: a symmetric product was about 20 % faster alone, and the run gained
# nothing (dev/LOG.md, 18 January 2026). So look for a large share first.
#
# ## A loss that never holds the logits
#
# The largest share above is head and loss. Its logits are also the largest tensor of a step:

# %%
for rows in (16, 32):
    print(f"depth 24, batch {rows}: {rows * 2048 * 32768 * 4 / 2**30:.1f} GiB")

# %% [markdown]
# And the plain loss makes several tensors of this size. How many live at one time? The class below counts. Torch shows it
# every tensor that an operation makes, and a weak reference tells when the memory is free again.

# %%
import weakref
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

class Peak(TorchDispatchMode):
    """The most bytes of tensors made inside that lived at one time."""
    def __init__(self):
        super().__init__()
        self.seen, self.now, self.most = {}, 0, 0
    def see(self, values, new):
        for s in [v.untyped_storage() for v in values if torch.is_tensor(v)]:
            key, size = s._cdata, s.nbytes() * new
            if key not in self.seen:
                gone = lambda _, key=key, size=size: self.free(key, size)
                self.seen[key] = weakref.ref(s, gone)
                self.now += size
                self.most = max(self.most, self.now)
    def free(self, key, size):
        del self.seen[key]
        self.now -= size
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        self.see(tree_leaves((args, kwargs)), new=False)  # came from outside
        if "gpt2course" in str(f):  # the package's loss: look inside
            with self:
                out = losses._cross_entropy._init_fn(*args, **kwargs or {})
        else:
            out = f(*args, **kwargs or {})
        self.see(tree_leaves(out), new=True)
        return out

# %%
leaf = torch.randn(1024, 128).requires_grad_()
weight = gpt.lm_head.weight.detach().clone().requires_grad_()

def megabytes(f, *args):
    with Peak() as p:
        f(*args)
    return p.most / 1e6

plain = lambda: cross_entropy_plain(leaf, weight, targets[0], 15.0).backward()
print(f"{megabytes(plain):.0f} MB; the logits alone {1024 * 8192 * 4 / 1e6:.0f} MB")

# %% [markdown]
# The way out: the gradient by a row's logits needs this row alone. So take a few rows, compute their loss *and*
# gradient at once, and forget their logits.
#
# With f = cap · tanh(z / cap): the loss of a row is logsumexp(f) - f[target]. Its gradient by f is softmax(f), less 1 at
# the target. The cap contributes the factor 1 - (f / cap)².

# %% tags=["hole"]
def chunked(x, W, targets, cap, chunk):
    """x (N, C), W (V, C), targets (N,): the mean loss, and its gradients by x and W."""
    ### BEGIN SOLUTION
    loss, dx, dW = x.new_zeros(()), torch.empty_like(x), torch.zeros_like(W)
    for n in range(0, len(x), chunk):
        part, own = x[n : n + chunk], targets[n : n + chunk, None]
        f = cap * torch.tanh(part @ W.T / cap)  # (chunk, V)
        lse = f.logsumexp(-1, keepdim=True)
        loss += (lse - f.gather(1, own)).sum() / len(x)
        g = (f - lse).exp() / len(x)
        g.scatter_add_(1, own, torch.full_like(lse, -1 / len(x)))
        g *= 1 - (f / cap) ** 2
        dx[n : n + chunk] = g @ W
        dW += g.T @ part
    return loss, dx, dW
    ### END SOLUTION

# %%
few, head3 = torch.randn(5, 3), 9 * torch.randn(7, 3)
t5 = torch.tensor([0, 6, 2, 2, 1])
cases = [(few, head3, t5, 15.0, n) for n in (2, 5, 1)] + [(few, head3, t5, 2.0, 9)]
chunked = lab.hole("12", chunked, *cases)

# %%
leaf.grad = weight.grad = None
plain()
x, W = leaf.detach(), weight.detach()
loss, dx, dW = chunked(x, W, targets[0], 15.0, 64)
lab.compare(loss, losses.cross_entropy(x, W, targets[0], 15.0))
lab.compare(dx, leaf.grad)
lab.compare(dW, weight.grad)
print(f"{megabytes(chunked, x, W, targets[0], 15.0, 64):.0f} MB")

# %% [markdown]
# The package does the same inside one operator, so that `torch.compile` sees a single node. Its `step` computes loss and
# gradient of a piece; on a GPU a Triton kernel does that.

# %%
import inspect

print(inspect.getsource(losses._cross_entropy._init_fn))

# %% [markdown]
# Does a model learn with yours?

# %%
lab.keep("loss", chunked)
like = dict(recipe="muon", steps=40)
mine, theirs = lab.train_with("loss", **like), lab.train(**like)
plots.show(figures.losses({"package": theirs["loss"], "yours": mine["loss"]}))
print(f"bits per byte: package {theirs['val_bpb']:.4f}, yours {mine['val_bpb']:.4f}")

# %% [markdown]
# ## Numbers of 8 bits
#
# An H100's peak is twice as high for 8-bit numbers as for 16-bit ones. *e4m3* has a sign, four bits of exponent and three of
# mantissa: up to 448, and 7 to 12 % between neighbours. First try: cast a gradient.

# %%
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
g = 1e-4 * torch.randn(6, generator=torch.Generator().manual_seed(3))
print(g, g.to(E4M3).float(), (2.0**20 * g).to(E4M3).float() / 2.0**20, sep="\n")

# %% [markdown]
# All zero: the smallest number of e4m3 is 0.002. With a scale in front, digits come back. Which scale?

# %%
def error(x, power, kind):
    scaled = (x * 2.0**power).to(kind).float() / 2.0**power
    return ((scaled - x).norm() / x.norm()).item()

x, curves = torch.randn(10000), {}
for name, kind in (("e4m3", E4M3), ("e5m2", E5M2)):
    curves[name] = [(p, error(x, p, kind)) for p in range(-12, 10)]
plots.show(figures.eight(curves))

# %% [markdown]
# The floor is wide, because these are floats. On the right the largest values of e4m3 no longer fit; on the left all become
# 0. So bring the largest value just below the top. A power of two moves the exponent and rounds nothing.
# (e5m2 has coarser steps and more range. It serves for gradients.)

# %% tags=["hole"]
def scale8(x, top):
    """The largest power of two by which x can be multiplied with no value above top,
    as a tensor (); if all x are below 1e-12, as if the largest were 1e-12."""
    ### BEGIN SOLUTION
    largest = x.abs().max().clamp_min(1e-12)
    return torch.exp2(torch.floor(torch.log2(top / largest)))
    ### END SOLUTION

# %%
cases = [(few, 448.0), (-1e-5 * few, 57344.0), (torch.tensor([448.0]), 448.0)]
scale8 = lab.hole("12", scale8, *cases, (torch.zeros(2), 448.0))

# %%
from gpt2course.fast import fp8

print(inspect.getsource(fp8.scale_for))
for x in (few, 1e-7 * few, 1e4 * few):
    lab.compare(scale8(x, 448.0), fp8.scale_for(x, E4M3))

# %% [markdown]
# A product of two scaled factors is divided by both scales. A layer needs three: one forward, two for the gradients. The last
# two take their gradient in e5m2.

# %%
def product8(a, b, kind=E4M3):
    """a (M, K) @ b (K, N) in 8 bits: a in `kind`, b in e4m3."""
    s, t = scale8(a, torch.finfo(kind).max), scale8(b, 448.0)
    return (a * s).to(kind).float() @ (b * t).to(E4M3).float() / (s * t)

class Eight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W):
        ctx.save_for_backward(x, W)
        return product8(x, W.T)
    @staticmethod
    def backward(ctx, g):
        x, W = ctx.saved_tensors
        return product8(g, W, E5M2), product8(g.T, x, E5M2)

# %% [markdown]
# The sums stay in float32 here. An H100 adds 8-bit products in about 14 bits ([arXiv 2412.19437](https://arxiv.org/abs/2412.19437)), and
# the package allows that in the forward pass. A CPU has no 8-bit units, but torch computes the GPU's operation there too,
# `torch._scaled_mm`, slowly. So the package's layer runs here, and yours can be compared with it:

# %%
from gpt2course.model import Linear

box = torch.nn.Module()
box.blocks = torch.nn.ModuleList([Linear(128, 256)])
fp8.convert(box)
layer = box.blocks[0]
both = []
for f in (layer, lambda x: Eight.apply(x, layer.weight)):
    leaf = torch.linspace(-3, 3, 64 * 128).sin().view(64, 128).requires_grad_()
    layer.zero_grad()
    y = f(leaf)
    y.sin().sum().backward()
    both.append([y, leaf.grad, layer.weight.grad])

exact = leaf.detach() @ layer.weight.T
for theirs, ours in zip(*both):
    lab.compare(ours, theirs, atol=1e-4)
print(f"8 bits against 32: {((y - exact).norm() / exact.norm()).item():.1%} off")

# %% [markdown]
# ## The experiment
#
# Each product is wrong by some percent. What does that do to the model? All layers in your 8 bits, forward and backward; head and
# evaluation as they were; 40 steps, two seeds. Better, worse, or an overlap?

# %%
from unittest.mock import patch
from gpt2course import model as model_file

def linear8(self, x):
    if not torch.is_grad_enabled():  # evaluation
        return torch.nn.functional.linear(x, self.weight)
    return Eight.apply(x.flatten(0, -2), self.weight).view(*x.shape[:-1], -1)

lab.predict("12.bits", "overlap")
runs = lab.experiment({"32 bits": {}}, **like)
with patch.object(model_file.Linear, "forward", linear8):
    runs |= lab.experiment({"8 bits": {}}, **like)

# %%
lab.table(runs)
a, b = ([r["val_bpb"] for r in found] for found in runs.values())
lab.verdict(a, b)
word = "better" if max(b) < min(a) else "worse" if min(b) > max(a) else "overlap"
lab.result("12.bits", word)

# %% [markdown]
# An overlap: errors of some percent in each product do not show at this size. Rate and weight decay are the recipe's on both
# sides and were swept on neither. And 40 steps of 0.3 million parameters say nothing about depth 24.
#
# ## Compile: one pass in place of many
#
# The parts on the slope gain from *fusion*: read once, do everything, write once. `torch.compile` writes such kernels. On a
# CPU it needs a C++ compiler. The package compiles on GPUs only, unless you ask for it.

# %%
def compiled(f, *example):
    """f compiled, or f itself and a line that says why not."""
    try:
        g = torch.compile(f, dynamic=False)
        g(*example)
        return g
    except Exception as e:  # usually: no C++ compiler
        print(f"no torch.compile here: {type(e).__name__}")
        return f

# %%
def add_norm(x, y):
    z = x + y
    return z * (z.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

xy = torch.randn(2, 4096, 512)
fused = compiled(add_norm, *xy)
lab.compare(fused(*xy), add_norm(*xy))
print(f"{seconds(add_norm, *xy) / seconds(fused, *xy):.1f} times as fast")

# %% [markdown]
# ## One row a change
#
# Now the whole step. The first four rows add up; each of the last three is added to these four alone.

# %%
from contextlib import ExitStack
from gpt2course import attention, optim
from gpt2course.course import mine as pieces
from gpt2course.fast import kernels

def half_polar(G, steps=5, safety=1.02):
    X = G / (G.norm(dim=(-2, -1), keepdim=True) * safety + 1e-6)
    X = X.mT if G.size(-2) > G.size(-1) else X
    for a, b, c in optim.POLAR_EXPRESS[:steps]:
        A = gram(X)
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if G.size(-2) > G.size(-1) else X

mlp = compiled(model_file.MLP.forward, gpt.blocks[0].mlp, torch.randn(1, 1024, 128))
kernel = {"cpu": kernels.blocked}  # lesson 06: skips what the window hides

# %%
swap = lambda *args: lambda: patch.object(*args)
changes = {
    "plain": swap(model_file, "cross_entropy", cross_entropy_plain),
    "your loss in chunks": lambda: pieces.installed({"loss": chunked}),
    "the package's loss": swap(model_file, "cross_entropy", losses.cross_entropy),
    "windows skipped": lambda: patch.dict(attention._kernels, kernel),
    "half of X Xᵀ": swap(optim, "polar_express", half_polar),
    "MLPs compiled": swap(model_file.MLP, "forward", mlp),
    "8 bits": swap(model_file.Linear, "forward", linear8),
}

# %%
def step(n):
    made = list(changes.values())
    with ExitStack() as stack:
        for change in made[: min(n + 1, 4)] + made[n : n + 1] * (n > 3):
            stack.enter_context(change())
        loss = gpt(idx, targets)
        loss.backward()
        optimizer.step(0.0, 0.9, 0.0)
        optimizer.zero_grad()
    return loss.item()

# %%
from IPython.display import Markdown, display

def once(n):
    began = time.process_time()
    step(n)
    return time.process_time() - began

turns = range(4)  # not one after the other: a slow minute must hit all
rounds = [[once(n) for n in range(len(changes))] for _ in turns]
best = [min(times) for times in zip(*rounds[1:])]
lines = ["| change | tokens/s | times | MB | loss |", "|---|---|---|---|---|"]
for n, name in enumerate(changes):
    memory = "not seen" if name == "MLPs compiled" else f"{megabytes(step, n):.0f}"
    times = best[min(max(n - 1, 0), 3)] / best[n]
    row = f"{name} | {1024 / best[n]:,.0f} | {times:.2f} | {memory} | {step(n):.5f}"
    lines.append(f"| {row} |")
display(Markdown("\n".join(lines)))
lab.result("12.step", round(best[0] / min(best), 2))

# %% [markdown]
# The loss is the same up to rounding, but in the last row. Three rows count: your chunks, for time and memory; the package's loss, which uses cheaper operations, such as a sigmoid in place of tanh; the
# skipped tiles. Half of X Xᵀ gains nothing, as computed; on small matrices its copies even cost. The compiled MLPs gain next to nothing:
# presumably their tensors stay in the cache, so there is no pass over memory to save. And 8 bits without 8-bit units cost time, as
# casts come on top.
#
# ## At full size
#
# Nothing here ran on a GPU. What follows is recorded, published or derived, as each line says.
#
# **Memory**, recorded: a rehearsal on fake GPUs runs every operation of a step without numbers
# ([results/2026-11-29_rehearsal](../results/2026-11-29_rehearsal/README.md)) and knows what each byte is for. An eager step of the
# recipe of January, on one of eight GPUs, at its peak:

# %%
import json

def rehearsed(name):
    text = next(lab.RESULTS.glob(f"*_rehearsal/{name}")).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]

# %%
bars = {}
for step in rehearsed("parts_d24.jsonl"):
    gb = {name: size / 1e9 for name, size in step["parts"].items()}
    rest = sum(gb.pop(name, 0) for name in ("loss", "temporary", "buffers"))
    bars[f"batch {step['B']}"] = gb | {"loss, temporaries": rest}
plots.show(figures.memory(bars))

# %% [markdown]
# Activations take most, and they grow with the batch. At batch 32 the plain loss would add several tensors of
# 8.0 GiB; above, four of the logits' size lived at once. A fused loss is one of the changes with which nanochat's pull request 830 ran batch 32 (at depth 22, 81.8 minutes).
# Other settings of the rehearsal:

# %%
for p in rehearsed("points.jsonl"):
    if (p["recipe"], p["depth"], p["world"]) == ("jan29", 24, 8):
        how = "compiled" if p["compiled"] else "eager"
        how += ", recomputing" * p.get("recompute", False) + ", fp8" * p["fp8"]
        print(f"batch {p['B']:2}, {how}: {p['peak_bytes'] / 1e9:.1f} GB")

# %% [markdown]
# **Adam's bytes**, derived. AdamW reads a number, its gradient and two moments, and writes three of them: seven numbers moved
# for about a dozen FLOPs. The tables of lesson 08 cost no FLOPs forward, but their update is all memory:

# %%
full = resolve("jan29", depth=24)
tables = full.params["value_embeds"] + full.params["wte"]
once = 2 * tables + 4 * full.params["lm_head"]  # bytes of the numbers themselves
state, moved = 2 * once, 7 * once
print(f"state {state / 1e9:.2f} GB; {moved / 1e9:.1f} GB moved a step: "
      f"{1e3 * moved / 3.35e12:.1f} ms at 3.35 TB/s, on 8 GPUs an eighth")  # fmt: skip

# %% [markdown]
# **The whole step** of the January record took 656 ms (its published time, divided by its steps). How much of it would the FLOPs
# need at the peak? That share is the MFU of lesson 00, and there are two of them: nanochat counts attention as if each query saw
# the future too; the other counts what is seen.

# %%
from gpt2course.cost import mfu
for name in ("flops_per_token", "flops_per_token_causal"):
    f, rate = getattr(full, name), full.batch_tokens / 0.6555
    ms = 1e3 * f * full.batch_tokens / (8 * 989e12)
    print(f"{name}: {ms:.0f} ms at the peak, MFU {mfu(f, rate, 8, 989e12):.1%}")

# %% [markdown]
# **8 bits**, published (nanochat's dev/LOG.md, 2 February 2026): a forward product 1.38 times as fast; depth 26 as a whole
# 1.17 times; at equal capability about 1.05, since 8 bits learn a little less a token; depth 12 slower; without
# `torch.compile` 4 times slower, presumably because each scale and cast is then a pass over memory. The head alone in 8 bits gave
# 1 % at depth 12 (13 January). It has 18.8 % of the FLOPs there. If that were its share of time, Amdahl's law would promise more:

# %%
print(f"{whole(0.188, 1.38):.3f} times; with a head in no time {1 / 0.812:.3f}")

# %% [markdown]
# **All together**, published: Sebastian Raschka's
# [table](https://github.com/rasbt/LLMs-from-scratch/tree/main/ch05/10_llm-training-speed) takes a plain GPT on one A100 from 12.5K
# to 142K tokens/s, one row a change.
#
# ## The answer
#
# In this step, more than half of the milliseconds went into head and loss, many of them into passes over logits of 34 MB that need not
# exist. Chunks saved those passes, cheaper operations a part of the rest, and skipped tiles the scores that the window hides: together about 1.9
# times as fast on the machine that made this page, with the same loss. The last three rows gained nothing. At full size, half of the January step's 656 ms would be enough at the GPUs' peak. The
# rest are products below the peak, passes over memory, and waiting.

# %% [markdown]
# ## Questions
#
# 1. A kernel of yours takes 3 % of the step, and you make it twice as fast. How much faster is the step?
#
# <details><summary>Answer</summary>
#
# 1 / (0.97 + 0.015) = 1.015 times. A run of three hours ends 2.7 minutes earlier.
# </details>
#
# 2. Your GPU shows a utilisation of 100 %, and the MFU is 20 %. How can both be true?
#
# <details><summary>Answer</summary>
#
# The first only says that some kernel was running. It may have waited for memory all the time.
# </details>
#
# 3. The chunked loss does the same FLOPs as the plain one. Why is it faster on a CPU?
#
# <details><summary>Answer</summary>
#
# A chunk's logits stay in the cache while they pass through all steps. The plain loss writes 34 MB to memory and reads them
# again, several times.
# </details>
#
# 4. Why is the scale of an 8-bit tensor a power of two?
#
# <details><summary>Answer</summary>
#
# It changes the exponent alone, so multiplying and dividing by it rounds nothing. Only the cast does.
# </details>

# %% [markdown]
# > **Takeaway.** Measure warm, in turns, and the whole step. Two numbers of a machine bound every part: FLOP/s and bytes/s. A
# > part's gain counts by its share. What never needs to exist, such as the logits of a batch, need not be stored.

# %% [markdown]
# ## Exercises
#
# [Exercises 12](../exercises/12_speed.ipynb): Amdahl's law backwards for the head, the fastest full step on your machine, a fair
# stopwatch, when a change pays for itself, and one scale for each row. `make start EX=12`, `make grade EX=12`.

# %% [markdown]
# ## Further reading
#
# - H. He, [Making Deep Learning Go Brrrr From First Principles](https://horace.io/brrr_intro.html): compute, memory, overhead.
# - The JAX scaling book, [All About Rooflines](https://jax-ml.github.io/scaling-book/roofline/).
# - P. Micikevicius and others, *FP8 Formats for Deep Learning*, [arXiv 2209.05433](https://arxiv.org/abs/2209.05433).
