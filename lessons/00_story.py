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
# # 00 The 600x story
#
# **Goal:** train a language model in a minute, and work out what such a run costs, from your laptop to eight H100.
#
# 30 minutes, and 65 for the exercises; any CPU will do.
#
# This is the first lesson. It shows a whole run from the outside, and [cost.py](../gpt2course/cost.py); the other fourteen open it.

# %% [markdown]
# The next cell trains a language model on your machine. The model begins with random numbers and reads about 150,000
# *tokens*, pieces of text. `jan29` is a *recipe*, a list of everything about a run but its size.

# %%
from gpt2course.course import lab

run = lab.train("jan29", seed=1)
print(f"{run['plan'].params['total']:,} parameters, {run['seconds']:.0f} seconds")

# %% [markdown]
# Now the model continues two beginnings, one token at a time.

# %%
from gpt2course.sample import generate

for start in ("The history of", "In the year"):
    (text,) = generate(run["model"], lab.tokenizer(), [start], max_tokens=40, seed=1)
    print(start, text.replace("\n", " "))

# %% [markdown]
# Some words, some inventions, little sense. And the bill? We assume that such a machine rents for 10 cents an hour:

# %%
dollars = run["seconds"] / 3600 * 0.10
print(f"{100 * dollars:.3f} cents")

# %% [markdown]
# GPT-2, the model of 2019, wrote whole pages of fluent text. By the usual estimate it cost about 43,000 dollars. In January 2026 a
# run that reached the same grade cost 73 dollars, nearly 600 times less: the same recipe as yours, at a larger size.
#
# **The question of this lesson: how much of the factor of 600 is better hardware?** Guess before you read on. Put your own
# number in place of 100.

# %%
lab.predict("00.hardware", 100)  # by hardware alone, how many times cheaper?

# %% [markdown]
# ## Two bills
#
# A bill is a product of three numbers: hours, devices, and the price of one device for an hour.

# %%
bill_2019 = 168 * 32 * 8  # hours, TPU v3, dollars for an hour of one
bill_2026 = 3.04 * 8 * 3  # hours, H100, dollars for an hour of one
print(f"${bill_2019:,} and ${bill_2026:.2f}: {bill_2019 / bill_2026:.0f} times cheaper")

# %% [markdown]
# Both lines come from the [leaderboard](https://github.com/karpathy/nanochat/blob/master/dev/LEADERBOARD.md) of nanochat, the
# project whose runs this course follows. The 3.04 hours were measured. Nobody outside OpenAI can check the 168 hours: the [model
# card](https://huggingface.co/openai-community/gpt2#training-procedure) names 256 TPU v3 cores and says that the length of
# the training was not disclosed.
#
# The course keeps the published records in a table.

# %%
records = {e["id"]: e for e in lab.published() if e["who"] == "published"}
for e in records.values():
    print(f"{e['id']:10}  {e['date']:10}  {e['hours']:6.2f} h", end="  ")
    print(f"CORE {e['core']:.4f}  {e['name']}")

# %% [markdown]
# Here are their bills at 24 dollars for an hour of eight H100, with two more runs as hollow points.
# [llm.c](https://github.com/karpathy/llm.c/discussions/677) trained the model of 2019 for 24 hours. Its page says 672 dollars,
# because its node cost 28 dollars an hour; at our 24 dollars the same run is 576 dollars.
# [modded-nanogpt](https://github.com/KellerJordan/modded-nanogpt) names 233 dollars for its own run. Both were judged by one test
# alone (HellaSwag), so compare them with care.

# %%
from gpt2course.course import plots
from gpt2course.course.figures import story as figures

usd = lambda e: e["usd"] if e["id"] == "gpt2-2019" else e["hours"] * 24
costs = [(e["date"], usd(e), e["name"]) for e in records.values()]
others = [("2024-07-11", 576, "llm.c"), ("2024-10-20", 233, "modded-nanogpt")]
plots.show(figures.cost_by_year(costs, others))

# %% [markdown]
# The axis is logarithmic: one line is a factor of ten.
#
# ### What "the same grade" means
#
# The bar is a score named CORE: the mean of *centred* accuracy over 22 tests. Centred means how far a model lies above
# guessing, as a share of what there is to gain. An example: four choices, 40 % right.

# %%
accuracy, guessing = 0.40, 1 / 4
print(f"{(accuracy - guessing) / (1 - guessing):.2f}")

# %% [markdown]
# Guessing gives 0, perfection 1, GPT-2 XL has 0.256525. A run above that number counts. (That number itself seems to rest on
# at most 1,000 examples a test. No source says so; we infer it, because all 22 accuracies are multiples of one thousandth,
# or of one part in N for a test with fewer than 1,000 examples.)
#
# ## How much work is a run?
#
# To explain a bill you need the amount of work. Work is counted in *FLOPs*: one FLOP is one addition or one multiplication.
# The naive count: each *parameter*, each number that training changes, meets each token once. Try it on the January run,
# whose log gives the true number.

# %%
from gpt2course.recipes import resolve

jan29, log = resolve("jan29", depth=24), records["nanochat-1"]
naive = jan29.params["total"] * jan29.tokens
print(f"{jan29.params['total']:,} parameters, {jan29.tokens:,} tokens")
print(f"naive {naive:.3g} FLOPs, log {log['flops']:.3g}")
print(f"the log has {log['flops'] / naive:.2f} times as many")

# %% [markdown]
# The naive count is far too small. So count by hand. Nearly all the work is in products of matrices. Here are 2 tokens, each
# a row of 3 numbers, times a matrix of 12 parameters.

# %%
import torch

x, W = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4)
y, flops = torch.zeros(2, 4), 0
for i in range(2):
    for j in range(4):
        for k in range(3):
            y[i, j] += x[i, k] * W[k, j]
            flops += 2  # one multiplication, one addition
print(y, flops)

# %% [markdown]
# In this course you compare what you build with the package or with PyTorch. `lab.compare` prints "equal, number for number",
# or "equal up to rounding" with the largest difference. (Rounding: computers keep about seven digits of such a number, so two
# right ways to add may differ in the last one.)

# %%
lab.compare(y, x @ W)

# %% [markdown]
# Now without loops. Fill in the first hole. A hole has a check below it and a folded solution; the lesson goes on either way.

# %% tags=["hole"]
def product_flops(rows, inner, columns):
    """FLOPs of a (rows, inner) times an (inner, columns) matrix: a whole number."""
    ### BEGIN SOLUTION
    return 2 * rows * inner * columns
    ### END SOLUTION

# %%
product_flops = lab.hole("00", product_flops, (2, 3, 4), (5, 1, 7), (1, 1536, 32768))

# %% [markdown]
# So a token costs two FLOPs for each parameter, in the forward pass. Training also runs backward. It needs the gradient of W,
# to learn, and the gradient of x, to pass on to the layer before. Those are two more products of the same size. PyTorch can
# count what it really does:

# %%
from torch.utils.flop_counter import FlopCounterMode

x.requires_grad_()
W.requires_grad_()
with FlopCounterMode(display=False) as forward:
    y = x @ W
with FlopCounterMode(display=False) as backward:
    y.sum().backward()
print(forward.get_total_flops(), backward.get_total_flops(), product_flops(2, 3, 4))

# %% [markdown]
# The backward pass costs twice the forward pass. Training costs **6 FLOPs for each parameter and token**, known as 6ND. But N
# counts only parameters that multiply. Large tables of this model are looked up by token, and a look-up multiplies nothing.

# %%
N, D = jan29.params["scaling"], jan29.tokens  # parameters that multiply; tokens
print(f"{N:,} of {jan29.params['total']:,} parameters multiply")
print(f"6ND = {6 * N * D:.3g}, {6 * N * D / log['flops']:.0%} of the log")

# %% [markdown]
# About a ninth is still missing: attention, where tokens meet each other. Lessons 03 and 06 count it. From here on the
# package counts for us; its `flops` agrees with the log.

# %%
print(f"{jan29.flops:.4g} {log['flops']:.4g}")

# %% [markdown]
# ## From work to hours
#
# A device has a peak, the FLOP/s that its maker promises at most. No run reaches it. *MFU*, model FLOPs utilisation, is the
# share of the peak that a run uses. With it, work becomes hours. The second hole:

# %% tags=["hole"]
def hours(flops, devices, peak, mfu):
    """Hours of a run on devices of `peak` FLOP/s each; mfu: the share used, 0 to 1."""
    ### BEGIN SOLUTION
    return flops / (devices * peak * mfu) / 3600
    ### END SOLUTION

# %%
hours = lab.hole("00", hours, (3.6e15, 1, 1e12, 0.5), (4.33e19, 8, 989e12, 0.37))

# %% [markdown]
# The package's version, whole. It also refuses numbers that make no sense.

# %%
import inspect

from gpt2course import cost

print(inspect.getsource(cost.hours))
lab.compare(hours(2e19, 8, 989e12, 0.4), cost.hours(2e19, 8, 989e12, 0.4))

# %% [markdown]
# The same product backward gives the MFU of a run whose time is known, here January's.

# %%
def mfu(flops, seconds, devices, peak):
    return flops / (seconds * devices * peak)


H100 = cost.peak_flops("H100")
mfu_2026 = mfu(jan29.flops, log["seconds"], 8, H100)
print(f"peak {H100:.3g} FLOP/s, MFU {mfu_2026:.1%}")

# %% [markdown]
# Using this MFU to compute January's own 3.04 hours would prove nothing. Predict **another** run with it: llm.c, with
# other code, another model and other text, trained [32,000 steps of 1,048,576
# tokens](https://github.com/karpathy/llm.c/blob/master/scripts/run_gpt2_1558M.sh) on eight H100.

# %%
gpt2_xl = dict(depth=48, width=1600, head_dim=64, sequence_len=1024, vocab_size=50257)
xl, tokens_2024 = resolve("gpt2", **gpt2_xl), 32_000 * 2**20
flops_2024 = xl.flops_per_token * tokens_2024
lab.predict("00.llmc", round(hours(flops_2024, 8, H100, mfu_2026), 2))

# %%
lab.result("00.llmc", 24)  # hours, as its page says

# %% [markdown]
# Close: both runs used half of the peak. Does it always work? Record 6 (nanochat-6 in the table), with the FLOPs of the recipe `record`, took 1.65 hours.

# %%
march = resolve("record", depth=24)
lab.predict("00.record6", round(hours(march.flops, 8, H100, mfu_2026), 2))
lab.result("00.record6", 1.65)

# %% [markdown]
# This prediction is too long. Record 6 computes its matrices in 8-bit numbers (fp8), for which an H100 has twice the peak. An
# MFU belongs to a way of computing. Carry it over only to a run that computes alike.
#
# ## Where the 600x comes from
#
# Now split the factor. First, what does a dollar buy at the peak? A TPU v3 chip has a [peak of 123
# TFLOP/s](https://cloud.google.com/tpu/docs/v3) and two cores. The leaderboard writes "32 TPU v3 chips".
# But the model card's 256 cores are 128 chips, so each of the 32 should be a board of four. If they were single chips, a dollar
# bought four times less in 2019.

# %%
buys_2026 = H100 / 3  # FLOP/s for a dollar an hour
for what, chips in {"boards of four": 4, "single chips": 1}.items():
    print(f"{what}: {buys_2026 / (chips * 123e12 / 8):.2f} times more for a dollar")
hardware = buys_2026 / (4 * 123e12 / 8)

# %% [markdown]
# Then, what did the runs of 2024 and 2026 need? Both used eight H100, so hours tell all of it.

# %%
fewer_flops = xl.flops_per_token / jan29.flops_per_token
fewer_tokens = tokens_2024 / jan29.tokens
rest = 24 * 3600 / log["seconds"] / (fewer_flops * fewer_tokens)
print(f"FLOPs a token {fewer_flops:.2f}, tokens {fewer_tokens:.2f}, MFU {rest:.2f}")

# %% [markdown]
# What remains lies between 2019 and 2024: the utilisation of 2019, its number of tokens, the quality of the text. The first
# two were never published and the third has no number, so nobody can separate them. They are grey in the picture.

# %%
known = hardware * fewer_flops * fewer_tokens * rest
unknown = bill_2019 / (24 * log["seconds"] / 3600) / known
parts = [
    ("hardware: peak\nFLOPs for a dollar", hardware, "guess"),
    ("utilisation, text,\ntokens, until 2024", unknown, "unknown"),
    ("FLOPs a token\n2024 to 2026", fewer_flops, "known"),
    ("tokens\n2024 to 2026", fewer_tokens, "known"),
    ("utilisation\n2024 to 2026", rest, "known"),
]
plots.show(figures.factors(parts))

# %% [markdown]
# ## Measure your machine
#
# How long would January's run take on the computer in front of you? That needs your machine's FLOP/s. The naive way is to
# time one product of two matrices:

# %%
import time


def gaps(stamps):
    return [after - before for before, after in zip(stamps, stamps[1:])]


def call_times(n, calls):
    """Seconds of each of several products of two n x n matrices."""
    a, stamps = torch.randn(n, n), [time.perf_counter()]
    for _ in range(calls):
        a @ a
        stamps.append(time.perf_counter())
    return gaps(stamps)


print([f"{1e6 * t:.0f} µs" for t in call_times(200, 7)])

# %% [markdown]
# The calls differ, and the first ones are often the slowest: memory is fetched, code is chosen. Now and then another
# program takes the machine. So drop the first calls, the *warm-up*, and take the median of the rest. The third hole:

# %% tags=["hole"]
def typical(times, warmup):
    """The median of the times without the first `warmup`; an odd number is left."""
    ### BEGIN SOLUTION
    kept = sorted(times[warmup:])
    return kept[len(kept) // 2]
    ### END SOLUTION

# %%
tries = ([9.0, 5.0, 1.0, 1.5, 3.0], 2), ([2.0, 8.0, 4.0], 0), ([1.0, 1.0, 7.0, 2.0], 1)
typical = lab.hole("00", typical, *tries)

# %%
times = call_times(256, 20)
plots.show(figures.calls(times, 5, typical(times, 5)))

# %% [markdown]
# The highest rate over several sizes stands for the peak of your machine.

# %%
sizes = 64, 256, 512
rates = {n: product_flops(n, n, n) / typical(call_times(n, 20), 5) for n in sizes}
print({n: f"{rate / 1e9:.0f} GFLOP/s" for n, rate in rates.items()})
years = hours(jan29.flops, 1, max(rates.values()), 1.0) / 24 / 365.25
print(f"January's run here, never resting: {years:,.0f} years")

# %% [markdown]
# ### The experiment: twice the work
#
# One change, same data, same two seeds: 40 steps of training or 80. Twice the FLOPs should take twice the time. What do they
# buy? `lab.train` calls a function after each step, so each step can be timed. The clock here is `process_time`: it counts
# only the seconds in which the processor works for this program. We use one thread, since a second one that only waits would be
# counted as working.

# %%
def timed_run(steps, seed):
    """A toy run, with the seconds of each of its steps."""
    stamps = [time.process_time()]
    stamp = lambda: stamps.append(time.process_time())
    found = lab.train("jan29", seed, progress=stamp, steps=steps)
    return found | {"times": gaps(stamps)}


torch.set_num_threads(1)
results = {steps: [timed_run(steps, seed) for seed in (1, 2)] for steps in (40, 80)}

# %%
for seed, (short, long) in enumerate(zip(results[40], results[80]), 1):
    naive = sum(long["times"]) / sum(short["times"])
    fair = 80 * typical(long["times"], 5) / (40 * typical(short["times"], 5))
    print(f"seed {seed}: {naive:.2f} with the warm-up, {fair:.2f} without")

# %% [markdown]
# The first step includes all preparations, such as reading the text. With it, twice the work seems to take less than twice
# the time. Without it the ratio is about 2.
#
# What the FLOPs buy is measured in bits per byte of text that the model has not seen. Knowing nothing costs 8; less is
# better.

# %%
lab.table({f"{steps} steps": runs for steps, runs in results.items()})
lab.verdict(*([r["val_bpb"] for r in runs] for runs in results.values()))

# %% [markdown]
# A difference counts if it is larger than what seeds do by chance. FLOPs buy bits, at least at the beginning of learning.
# The experiment does not say how many in a long run (lesson 09). And the learning rate, how far a step goes, is the recipe's
# on both sides; it was not *swept*, tried at several values for each side.
#
# ## At full size: the noise
#
# Is one run above the bar a success? Record 4 was run seven times, with nothing changed but chance.

# %%
import re

draws = [float(s) for s in re.findall(r"\.\d{4,}", records["nanochat-4"]["notes"])]
bar, single = records["gpt2-2019"]["core"], {"record 1 (one run)": log["core"]}
plots.show(figures.core_draws(draws, bar, single))

# %% [markdown]
# Three of the seven would have failed. January's single run might have failed too, had it been repeated. [Twenty
# seeds](https://github.com/karpathy/nanochat/pull/807) of another size had a standard deviation of 0.0062 in CORE and 0.00023
# in bits per byte. From record 1 to 2, CORE fell by a ninth of that deviation, bits per byte by 14 of them. So this course decides by bits per byte.
#
# ## The answer
#
# How much of the factor of 600 is better hardware?

# %%
lab.result("00.hardware", round(hardware, 1))
factor = bill_2019 / bill_2026
print(f"{factor:.0f} = {hardware:.1f} x {factor / hardware:.0f}")

# %% [markdown]
# A dollar buys 5.4 times the peak FLOPs of 2019, or 21 times by the other reading. The larger part is everything else: 110
# times, or 27. Of this, 14 (or 3.5) until 2024 cannot be separated. From 2024 to January 2026 the bill fell eightfold on the
# same machine, used equally well: half the FLOPs a token, a quarter of the tokens. That part is what you will build. (One
# warning: llm.c was judged by HellaSwag and January's run by CORE, so the two have about the same grade, not exactly.)
#
# This is where it leads. The recipes form a *ladder*, each the one before it plus one idea. Lessons
# in colour add the recipes that they name.

# %%
lessons = [
    (0, "the whole", "600x story", "cost.py"),
    (14, "the whole", "the speedrun", "runbook.py"),
    (1, "text", "tokenizer", "tokenizer.py"), (2, "text", "data", "batches.py"),
    (3, "model", "GPT", "model.py"), (6, "model", "windows", "attention.py"),
    (7, "model", "lambdas", "model.py"), (8, "model", "value emb.", "model.py"),
    (4, "training", "training", "train.py"), (5, "training", "Muon", "optim.py"),
    (9, "training", "scaling laws", "scaling.py"),
    (11, "training", "several GPUs", "optim.py"),
    (12, "training", "speed", "fast/"), (10, "judging\nand use", "CORE", "core.py"),
    (13, "judging\nand use", "talking to it", "sample.py"),
]

# %%
from gpt2course.recipes import LADDER

rungs = {}
for recipe in LADDER.values():
    rungs.setdefault(int(recipe.lesson), []).append(recipe.name)
plots.show(figures.course_map(lessons, rungs))

# %% [markdown]
# ## Questions
#
# 1. A model has 100 million parameters that multiply and is trained on 2 billion tokens. How many FLOPs is that, without
# attention?
#
# <details><summary>Answer</summary>
#
# 6 · 1e8 · 2e9 = 1.2e18.
# </details>
#
# 2. You rent 16 GPUs instead of 8, and the MFU stays the same. What happens to the hours and to the bill?
#
# <details><summary>Answer</summary>
#
# Half the hours, the same bill: twice the price of an hour, for half as long. In practice the MFU falls a little, since more
# devices wait for each other.
# </details>
#
# 3. Someone reports one run with CORE 0.2580. Is the model better than GPT-2?
#
# <details><summary>Answer</summary>
#
# It may be. 0.2580 is above the bar by 0.0015, less than a third of the standard deviation of equal runs (0.0052 for record
# 4). Ask for more runs, or for bits per byte on the same text.
# </details>
#
# 4. A trick saves 10 % of the FLOPs and lowers the MFU from 50 % to 45 %. Is it worth it?
#
# <details><summary>Answer</summary>
#
# No: 0.9 / (45 / 50) = 1.0. The hours stay as they are. FLOPs saved in a form that the hardware does badly save nothing.
# </details>

# %% [markdown]
# > **Takeaway.** A run takes FLOPs / (devices · peak · MFU) seconds, and training takes 6 FLOPs for each parameter that
# > multiplies and each token, plus attention. Of the 600x, hardware is a factor of 5 to 21. Time a program after its warm-up,
# > and distrust one run above a bar.
#
# Exercises: [exercises/00_story.ipynb](../exercises/00_story.ipynb). `make start EX=00` gives you a copy to work on, `make
# grade EX=00` grades it.
#
# ## Further reading
#
# - A. Radford and others, *Language Models are Unsupervised Multitask Learners*, 2019: GPT-2 itself.
# - [The nanochat leaderboard](https://github.com/karpathy/nanochat/blob/master/dev/LEADERBOARD.md): each run's command.
# - A. Chowdhery and others, *PaLM*, [arXiv 2204.02311](https://arxiv.org/abs/2204.02311), appendix B: MFU and its FLOPs.
# - J. Li and others, *DataComp-LM*, [arXiv 2406.11794](https://arxiv.org/abs/2406.11794): where CORE comes from.
