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
# # 07 Lambdas
#
# **Goal:** give every layer two learned numbers, train a model with them, and find out why the two need different learning
# rates.
#
# 40 minutes, and 65 for the exercises; any CPU will do.
#
# The model is that of lesson 06. New is what happens *between* two layers. The lesson explains `mix` and the lambdas in
# [model.py](../gpt2course/model.py), and their groups in [recipes.py](../gpt2course/recipes.py).

# %%
import torch

torch.manual_seed(7)
token = torch.randn(1000)  # an embedding
state = token
for layer in range(24):
    state = state + torch.randn(1000)  # what a layer adds, as large as the embedding
print(f"cosine of token and state: {torch.cosine_similarity(token, state, dim=0):.2f}")

# %% [markdown]
# A layer can only add to the state. After 24 layers that add unrelated vectors, the cosine with the token is 1/√25, a
# fifth. A late layer that needs the token itself must find it in that sum. And no layer can turn down what was added
# before it.
#
# ## Before you run on
#
# **Can a layer choose how much of its past to keep, and what is that worth?** Choosing takes two learned numbers a
# layer: 48 beside 780 million at depth 24. At depth 8, nanochat found them worth 0.0103 bits per byte. Our recorded
# model has four layers. Guess the change of its bits per byte; below zero is better.

# %%
from gpt2course.course import lab, plots

lab.predict("07.change", -0.01)

# %% [markdown]
# ## Two numbers a layer
#
# Before layer i the state x becomes resid[i] · x + skip[i] · x0. Here x0 is the normalised embedding, the same for all
# layers. The *residual lambda* `resid` begins at 1: keep all. The *x0 lambda* `skip` begins at 0.1: add a tenth of the
# token again. Write it. On a GPU x may be bfloat16 while the scalars are float32; the result has the dtype of x.

# %% tags=["hole"]
def mix(x, x0, resid, skip):
    """x, x0 (B, T, C); resid, skip scalars -> (B, T, C) in the dtype of x."""
    ### BEGIN SOLUTION
    return resid.to(x.dtype) * x + skip.to(x.dtype) * x0
    ### END SOLUTION

# %%
x, x0 = torch.arange(6.0).view(1, 2, 3), torch.ones(1, 2, 3)
half, two = torch.tensor(0.5), torch.tensor(2.0)
low = x.bfloat16(), x0.bfloat16(), half, two
mix = lab.hole("07", mix, (x, x0, half, two), (x, x0, two, -half), low)
print(mix(x, x0, half, two))

# %% [markdown]
# The package's version also serves recipes that have only one of the two, or none.

# %%
import inspect
from gpt2course import model as package

print(inspect.getsource(package.mix))
lab.compare(mix(x, x0, half, two), package.mix(x, x0, half, two))

# %% [markdown]
# ## Unrolled
#
# What do many mixes do together? Each multiplies all that is there and adds some embedding; then the layer adds its
# output with weight 1. So the last state is a weighted sum of L + 1 sources: the embedding and the output of each layer.
# Write down their weights.

# %% tags=["hole"]
def weights(resid, skip):
    """Lists of L numbers -> weights in the last state: [embedding, layer 0, ...]."""
    ### BEGIN SOLUTION
    found = [1.0]  # before the first layer the state is the embedding
    for r, s in zip(resid, skip):
        found = [r * w for w in found]
        found[0] += s
        found.append(1.0)
    return found
    ### END SOLUTION

# %%
cases = [([1.0] * 3, [0.0] * 3), ([2.0, 3.0], [0.5, 0.0])]
cases += [([0.5, -1.0, 0.9], [0.1, 0.2, 0.3])]
weights = lab.hole("07", weights, *cases)
print(weights([2.0, 3.0], [0.5, 0.0]))

# %%
recipe = weights([1.0] * 24, [0.1] * 24)
cosine = recipe[0] / sum(w * w for w in recipe) ** 0.5
print(f"the recipe's start: embedding {recipe[0]:.1f}; puzzle, cosine {cosine:.2f}")
for r in (1.01, 1.1):
    print(f"resid {r}: embedding {weights([r] * 24, [0.0] * 24)[0]:.2f}")

# %% [markdown]
# A tenth in every layer raises the puzzle's cosine from 0.20 to 0.57. And a multiplier acts once a layer: 1.01 makes
# 1.27 of it, 1.1 makes 9.85. Above 1, early layers count more in the last state; below 1, late ones:

# %%
from gpt2course.course.figures import lambdas as figures

lines = {f"resid {r}": weights([r] * 24, [0.1] * 24) for r in (1.1, 1.01, 1.0, 0.9)}
plots.show(figures.sources(lines))

# %% [markdown]
# ## What a norm takes out
#
# Every layer reads norm(x), and so does the head. A norm removes a common factor:

# %%
lab.compare(package.norm(3 * x + 3), package.norm(x + 1))

# %% [markdown]
# So what layer i reads depends on the ratio of its two scalars, not on their size. The size only sets how much the
# layer's own output counts beside the state. nanochat met this when it tried scalars where a norm follows: they gained
# 0.0001 of loss, and it dropped them (its dev/LOG.md, 18 January 2026). Exercise 7.2 takes the thought to its end: after training,
# positive residual lambdas can be removed without changing what the model computes.
#
# One consequence shows at the first step. The output projections begin at zero, so every state is a multiple of x0.
# The last norm removes the multiple. What gradient is left for the scalars?

# %%
from gpt2course.batches import Batches
from gpt2course.data import load_corpus
from gpt2course.recipes import LADDER, make_model, make_optimizer, resolve

plan = resolve("lambdas", **lab.TOY | dict(depth=4))
gpt = make_model(plan).init_weights(1)
optimizer = make_optimizer(gpt, plan)
stream = Batches(load_corpus("embedded").train, lab.tokenizer(), 128)
rows = torch.from_numpy(stream.next_rows(8))

# %%
torch.set_printoptions(precision=4, sci_mode=False)
for step in range(3):
    gpt(rows[:, :-1], rows[:, 1:].contiguous()).backward()
    size = gpt.x0_lambdas.grad.abs().max().item()
    optimizer.step(1.0, 0.85, 1.0)
    optimizer.zero_grad()
    print(f"largest gradient {size:.0e}; x0 lambdas now", gpt.x0_lambdas.data)

# %% [markdown]
# Nothing but rounding, around 1e-11. Adam divides it by its own size (plus an eps of 1e-10), so it moves the scalars
# all the same, in a direction that means nothing. And the rate of the x0 lambdas is 0.5: they begin at 0.1, and the first two
# real steps change them by several times as much.
#
# ## One rate for both
#
# With Adam a scalar moves by about its rate in each step, however small its gradient. Let ten steps point the same way,
# at depth 24:

# %%
for rate in (0.5, 0.005):
    moved = 10 * rate
    multiplied, added = (1 + moved) ** 24, 24 * (0.1 + moved)
    print(f"rate {rate}: resid multiplies by {multiplied:.3g}, skip adds {added:.3g}")

# %% [markdown]
# What adds grows as a sum, what multiplies as a power. So nanochat gives the residual lambdas a hundredth of the rate
# (LOG, 11 January 2026), and so do our groups:

# %%
groups = resolve("lambdas", depth=24).groups
for name in ("resid_lambdas", "x0_lambdas"):
    print(name, {k: groups[name][k] for k in ("lr", "beta1", "beta2", "weight_decay")})

# %% [markdown]
# Break it: one rate for both. Adam's step does not depend on the size of the gradient. So if the model uses
# 1 + 100 (resid - 1), this number moves as fast as with a rate a hundred times higher.

# %%
from gpt2course.course import mine as pieces

def one_rate(x, x0, resid, skip):
    return mix(x, x0, 1 + 100 * (resid - 1), skip)

toy = dict(depth=4, steps=40)
with pieces.installed({"mix": one_rate}):
    broken = lab.train("lambdas", **toy)
used = 1 + 100 * (broken["model"].resid_lambdas.detach() - 1)
print("residual lambdas", used, f"product {used.prod():.3g}")

# %% [markdown]
# In 40 steps they left 1 far behind. Does the loss suffer? Look at it beside the others.
#
# ## Yours trains

# %%
lab.keep("mix", mix)
theirs = lab.train("lambdas", **toy)
mine = lab.train_with("mix", recipe="lambdas", **toy)

# %%
curves = {"package": theirs["loss"], "yours": mine["loss"], "one rate": broken["loss"]}
plots.show(figures.losses(curves))
for name, run in {"package": theirs, "yours": mine, "one rate": broken}.items():
    print(f"{name}: {run['val_bpb']:.4f} bits per byte")
print("x0 lambdas after 40 steps:", mine["model"].x0_lambdas.data)

# %% [markdown]
# Yours is the package's. And the broken one does not explode: four layers are few, and the norms take the size out. The
# argument for a hundredth is about depth. Our toy cannot confirm it; we have it from nanochat's entry. But look at the x0
# lambdas. They began at 0.1.
#
# ## The experiment
#
# Train without lambdas, with them, with ten times their rates, and with a beta1 of 0.98 for the x0 lambdas (a later section needs
# it), two seeds each:

# %%
variants = {
    "without": dict(recipe="windows"),
    "lambdas": dict(recipe="lambdas"),
    "rates x 10": dict(recipe="lambdas", scalar_lr=5.0),
    "beta1 0.98": dict(recipe="lambdas", x0_beta1=0.98),
}
runs = lab.experiment(variants, **toy)
lab.table(runs)

# %%
bpb = {name: [r["val_bpb"] for r in found] for name, found in runs.items()}
for name in ("lambdas", "rates x 10"):
    print(name, "against without:")
    lab.verdict(bpb["without"], bpb[name])

# %% [markdown]
# With ten times the rates the mean is 0.075 worse, but its two seeds lie 0.081 apart: by our rule no difference is shown. At the
# recipe's own rates the toy gains nothing from lambdas; seed by seed, both runs come out worse with them. Nothing else was swept.
#
# ## More steps, more seeds
#
# The course recorded longer runs: depth 4, width 128, 450 steps of 2,048 tokens. Runs of one seed share their first
# weights and their data, so we compare them in *pairs*: one difference for each seed. With n differences of mean d and standard
# deviation s, the *interval* d ± t s / √n holds the true difference with 95 % confidence. The factor t is large for few
# seeds. With one seed the half width is infinite.

# %% tags=["hole"]
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}

def paired(before, after):
    """{seed: bpb} of two arms -> mean of after - before over the seeds that both have,
    and half the width of its interval."""
    ### BEGIN SOLUTION
    both = sorted(before.keys() & after.keys())
    d, n = torch.tensor([after[s] - before[s] for s in both]).double(), len(both)
    half = T95[n] * d.std().item() / n**0.5 if n > 1 else float("inf")
    return d.mean().item(), half
    ### END SOLUTION

# %%
a, b = {1: 2.0, 2: 2.1, 3: 2.2}, {1: 1.9, 2: 2.1, 3: 2.1, 4: 9.0}
cases = [(a, b), (b, a), ({2: 2.0, 1: 2.5}, {1: 2.0, 2: 1.9}), ({1: 2.0}, a)]
paired = lab.hole("07", paired, *cases)
print("difference {:+.4f} ± {:.4f}".format(*paired(a, b)))

# %%
arms = {}
for r in lab.recorded("ladder-seeds") + lab.recorded("lambda-rates"):
    arms.setdefault(r["arm"], {})[r["seed"]] = r["val_bpb"]

def against(before, names):
    """Print the paired difference of each arm; returns {arm: (differences, half)}."""
    found = {}
    for name in names:
        d, half = paired(arms[before], arms[name])
        seeds = sorted(arms[before].keys() & arms[name].keys())
        found[name] = [arms[name][s] - arms[before][s] for s in seeds], half
        sure = "better" if d < 0 else "worse"
        what = sure if abs(d) > half else "not separated"
        print(f"{name}: {d:+.4f} ± {half:.4f}, n = {len(seeds)}: {what}")
    return found

# %%
names = ["rates 0", "rates / 100", "rates / 10", "lambdas", "one rate"]
swept = dict.fromkeys(r["arm"] for r in lab.recorded("lambda-rates"))
names += [name for name in swept if name not in names]
found = against("windows", names)
plots.show(figures.differences(found, "bits per byte, minus those without lambdas"))
lab.result("07.change", round(paired(arms["windows"], arms["lambdas"])[0], 4))

# %% [markdown]
# Every arm is `lambdas` with a change. "rates 0" leaves the scalars at 1 and 0.1, where they begin. The next arms raise
# both rates, up to the recipe's own; "one rate" is our broken version. Does the bar move to the right as the rates rise?
# And is the interval narrow enough to say so? The word at the end of each line answers the second.
#
# Muon's rate and decay come from a sweep without lambdas, and the other rates are the recipe's: they were swept for no
# arm. So lambdas may yet gain from other settings.
#
# Is it the skip that matters, or learning it? Take the two apart:

# %%
fixed = paired(arms["windows"], arms["rates 0"])
free = paired(arms["rates 0"], arms["lambdas"])
print("a fixed skip of 0.1: {:+.4f} ± {:.4f}".format(*fixed))
print("then learning, at the recipe's rates: {:+.4f} ± {:.4f}".format(*free))

# %% [markdown]
# If the second line is above zero, learning cost more than it gave. Then we suspect the rate. nanochat's 0.5 was swept at
# batches of 524,288 tokens; a batch of 2,048 has noisier gradients. And you saw that at this rate the scalars leave 0.1
# in the first steps, before any layer has learned to add something.
#
# What did the layers choose? At a tenth of the rates, seed 1:

# %%
slow = next(r for r in lab.recorded("lambda-rates") if r["arm"] == "rates / 10")
slow = slow["values"]
plots.show(figures.scalars(slow["step"], slow["resid_lambdas"], slow["x0_lambdas"]))
last = weights(slow["resid_lambdas"][-1], slow["x0_lambdas"][-1])
print("weights in the last state:", [round(w, 2) for w in last])

# %% [markdown]
# The residual lambdas stay within 6 % of 1. The x0 lambdas climb together for 100 steps and then part. Layer 0 needs none,
# since its state *is* the token. The last layer settles at 1.4. In the sum the token's weight is almost four times that of any
# layer's output. (How large those outputs are, we did not record.) So training does ask for the token again. Whether that pays is the line "rates / 10" above.
#
# `jan29`, the next rung, was also recorded with each of the two left out (lesson 08 has it without gates):

# %%
names_08 = ("jan29 without x0", "jan29 without residual lambdas")
without = [n for n in names_08 if n in arms]
_ = against("jan29", without)

# %% [markdown]
# So at this size, at the recipe's rates, x0 costs, and the residual lambdas change nothing that shows.
#
# ## A cliff of another kind
#
# Adam's step is m / √v. The running mean of gradients, m, forgets by the factor beta1; that of their squares, v, by beta2.
# Let one large gradient come, and then none. Does its step fade?

# %%
def echo(beta1, beta2=0.95, steps=120):
    m, v, sizes = 0.0, 0.0, []
    for t in range(steps):
        g = 1.0 if t == 0 else 0.0
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        sizes.append(m / v**0.5)
    return [size / sizes[0] for size in sizes]

plots.show(figures.echoes({f"beta1 {b}": echo(b) for b in (0.8, 0.96, 0.97, 0.98)}))

# %% [markdown]
# m fades as beta1^t and √v as √beta2^t. So the step fades only if beta1 < √beta2, here 0.975. Above, one gradient is
# answered by steps that *grow* until others come.
#
# nanochat swept the beta1 of the x0 lambdas at depth 20 (LOG, 19 January 2026). From 0.90 to 0.96 it is a plateau, with 0.7971
# bits per byte at 0.96. 0.97 gives 0.7977. 0.98 gives 0.8011, worse than before the sweep. The cliff lies where our formula
# puts it; that it is the reason was not tested. The toy's 40 steps cannot show it: compare "beta1 0.98" in the table above.
#
# The same entry has a warning. About 320 runs tuned depth 12, then 16, then 20, and the optimum of 12 *hurt* at 20. Only
# beta1 = 0.96 survived.
#
# ## Decay on a scalar
#
# A matrix near zero is harmless: its output is small. A residual lambda near zero erases the past. Give the residual
# lambdas the weight decay of the matrices at depth 4:

# %%
decay = resolve("lambdas", depth=4).groups["matrices"]["weight_decay"]
pulled = lab.train("lambdas", resid_weight_decay=decay, **toy)
alone = 1.0
for step in range(40):
    alone *= 1 - 0.005 * pulled["plan"].lr(step) * decay
print(pulled["model"].resid_lambdas.data, f"decay {decay:.1f} alone: {alone:.4f}")

# %% [markdown]
# All are pulled to zero alike, wherever the loss wants them; in 450 steps decay alone would leave
# 0.05. So `lambdas` has no decay on scalars (`record` has 0.05 on the residual ones). Gates, as in lesson 08, are
# pulled to their middle in the same way.
#
# ## At full size

# %%
gains = {8: 0.0103, 12: 0.0077, 16: 0.0057, 20: 0.0039}  # nanochat, 11 January 2026
d = torch.tensor(list(gains)).double()
g = torch.tensor(list(gains.values())).double()

def line(x, y, at):
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return (y.mean() + slope * (at - x.mean())).item()

# %%
import math

forecast = {
    "straight line": line(d, g, 24.0),
    "exponential": math.exp(line(d, g.log(), 24.0)),
    "power of depth": math.exp(line(d.log(), g.log(), math.log(24))),
}
plots.show(figures.gains(gains, 24, forecast))
print({name: round(value, 4) for name, value in forecast.items()})

# %% [markdown]
# The gain shrinks with depth, and at 24, the depth of the real run, three curves through four points disagree by more than a factor of two.
# **Nobody measured it there.** Each gain is at the best of several rates, with x0 lambdas that began at 0, not 0.1. The entry
# names no seeds. The residual lambdas, it says, add little to those of x0.
#
# The idea is from modded-nanogpt. Its record 9 went from 10.8 to 8.2 minutes with embedding skips, the values of layer 0 used again,
# momentum warm-up and a softcap *together*; its README gives only their sum. Later a start of 1.1 for
# resid, in place of 1, was worth 0.001 of loss (pull request 159): the growth above, used on purpose.

# %%
known = {name: b for name, b in lab.ladder().items() if name in list(LADDER)[:5]}
plots.show(plots.ladder(known, list(LADDER)))

# %% [markdown]
# In two larger and longer pairs ([width 192, three million tokens](../results/2026-11-29_ladder-larger), another text) the same lambdas
# *gained* 0.042 and 0.031 bits per byte. So do not take the small loss for a law.
#
# **A story.** In August 2025 someone plotted every lambda of a modded-nanogpt run and explained what each layer does. A
# day later he wrote that the labels of x and x0 had been swapped, which turned the analysis around, and left the old text in place
# ([snimu.github.io](https://snimu.github.io/2025/08/11/modded-nanogpt-lambdas.html)). A plausible story fits two swapped
# curves as well. What could have told them apart is an experiment: set one scalar to zero and see what breaks. That is exercise 7.1.
#
# ## The answer

# %%
change, half = paired(arms["windows"], arms["lambdas"])
print(f"lambdas, the recipe's rates, four layers: {change:+.4f} ± {half:.4f}")
best = min(names, key=lambda n: paired(arms["windows"], arms[n])[0])
change, half = paired(arms["windows"], arms[best])
print(f"the lowest of these arms, {best}: {change:+.4f} ± {half:.4f} bits per byte")

# %% [markdown]
# Yes, a layer can choose, with a number that multiplies the past and one that adds the token. The first acts as a power
# of depth and gets a hundredth of the rate. What the pair is worth depends on its rates, on the length of the run, and perhaps on the batch they were made for.
# Published gains are 0.004 to 0.010 bits per byte, smaller in deeper models. The lines above are ours, for one small size and batch.
#
# ## Questions
#
# 1. Layer 0 has two scalars. How many does it need?
#
# <details><summary>Answer</summary>
#
# One at most. Its state *is* x0, so the two only add up: (resid + skip) · x0. A user asked modded-nanogpt the same
# (issue 234).
# </details>
#
# 2. All residual lambdas are 0.9 at depth 24. What is the weight of layer 0's output in the last state?
#
# <details><summary>Answer</summary>
#
# 0.9^23 = 0.089. The 23 layers after it multiply it, its own mix comes before it.
# </details>
#
# 3. Someone tunes `scalar_lr` at depth 12 for a week. What do you expect at depth 20?
#
# <details><summary>Answer</summary>
#
# Nothing certain. nanochat's best settings of depth 12 made depth 20 worse, and the best scalar rates at depths 8, 12, 16, 20 were 0.2,
# 0.6, 0.2, 0.1: no trend to follow.
# </details>
#
# 4. The interval of an arm holds zero. Is the arm without effect?
#
# <details><summary>Answer</summary>
#
# It may have an effect up to the ends of the interval. With two seeds t is 12.7, and hardly anything separates.
# </details>

# %% [markdown]
# > **Takeaway.** Two scalars let a layer weigh its past against the token. One that multiplies acts once in every layer, so
# > its rate must be smaller. A norm erases common factors, so ratios count. And a rate tuned at one batch and depth is a
# > guess at another: measure it, in pairs.

# %% [markdown]
# ## Exercises
#
# [Exercises 07](../exercises/07_lambdas.ipynb): which of two curves is x0, a model without its residual lambdas, how many
# seeds an effect needs, and what mixing costs. `make start EX=07`, `make grade EX=07`.

# %% [markdown]
# ## Further reading
#
# - snimu, *modded-nanogpt: analyzing lambdas*,
# [snimu.github.io](https://snimu.github.io/2025/08/11/modded-nanogpt-lambdas.html), with its erratum.
# - nanochat, [dev/LOG.md](https://github.com/karpathy/nanochat/blob/master/dev/LOG.md), entries of 11 and 19 January 2026.
# - T. Bachlechner and others, *ReZero is All You Need*, [arXiv 2003.04887](https://arxiv.org/abs/2003.04887): a scalar that
# begins at zero.
