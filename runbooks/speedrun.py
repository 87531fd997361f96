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
# # The speedrun
#
# One notebook drives a whole run: corpus, tokenizer, training, bits per byte, a score on questions, samples, an export, report. The
# recipe is the one that reached GPT-2 grade in 3.04 hours on eight H100; the profile `laptop` is the same code at a size that two
# CPU cores finish in about ten minutes.
#
# From a terminal, in the folder of the course:
#
#     papermill runbooks/speedrun.ipynb out.ipynb -p profile laptop -k gpt2course \
#         --log-output --autosave-cell-every 30 --no-progress-bar
#
# Run it again whenever you like. What is done is shown and not done twice; training that was interrupted goes on.

# %% [markdown]
# ## Parameters
#
# Change them here, or with `-p name value` on papermill's command line. [README.md](README.md) explains each.

# %% tags=["parameters"]
profile = "laptop"  # sizes for a machine: laptop, 1gpu or 8xh100
name = None  # name of the run; default: <recipe>-d<depth>
recipe = "jan29"  # gpt2, modern, muon, windows, lambdas, jan29 or record
depth = None  # layers; default: the profile's
corpus = None  # embedded, climbmix, fineweb-edu, or the path of parquet, jsonl or txt; default: the profile's
seed = 42  # of the initial weights
devices = None  # processes that train together, a GPU each; default: 1, with 8xh100 all GPUs
device_batch = None  # rows of T tokens in one forward pass; default: the profile's
fp8 = False  # matrix products in 8 bits, on an H100 and newer
price_per_hour = None  # of the machine, in dollars
max_hours = None  # stop training, with a checkpoint, after so many hours at work
max_cost_usd = None  # the same for its cost; needs price_per_hour
save_minutes = None  # between checkpoints; default: 10, on a laptop 1
stall_minutes = 5.0  # training without a sign of life is started again after so long
smoke = None  # a small run first, true or false; default: not on a laptop
core_bundle = None  # folder or zip of an evaluation bundle, or mini; default: mini on a laptop
core_examples = None  # at most so many examples a task; default: all
settings = ""  # other settings of the recipe as text, see README.md
force_stage = None  # do one stage again: data, tokenizer, smoke, train, evaluate, core, samples, export or report

# %% [markdown]
# Everything above is checked before anything is done: types, ranges, and names that do not exist.

# %%
from gpt2course.ops import runbook as speedrun

params = speedrun.Params.from_namespace(globals())
print(params)

# %% [markdown]
# What follows from them. Depth fixes width, heads, batch, number of steps and learning rates; the profile sets the sizes that
# a small machine needs.

# %%
run = speedrun.open_run(params)

# %% [markdown]
# ## 1. Preflight
#
# Is this machine ready for this run? A warning says how to mend what it warns of; a STOP must be mended first.

# %%
speedrun.preflight(run);

# %% [markdown]
# ## 2. Data
#
# The text to learn from, and text kept apart to measure on. The model never trains on the validation text. Shards of a published
# corpus come in the background from here on, and CORE's questions are fetched, so that nothing is missing when it is paid for.

# %%
speedrun.data(run);

# %% [markdown]
# ## 3. Tokenizer
#
# The text is cut into tokens, pieces that occur often. A larger vocabulary makes texts shorter and the model's tables larger.

# %%
speedrun.tokenizer(run);

# %% [markdown]
# ## 4. Smoke run
#
# A few minutes of the same training at a small size, on the same machine, judged by its loss and its speed: a bad node is found before
# it costs much. Left out on a laptop.

# %%
speedrun.smoke(run);

# %% [markdown]
# ## 5. Training
#
# Training runs in processes of its own and saves checkpoints; a supervisor starts it again from the last one if it dies or hangs. This
# cell only follows it: a line every 15 seconds, from the run's files. If the notebook stops, training goes on; run the notebook
# again to follow it further. From a terminal: `python -m gpt2course.ops.runbook status`, `follow` or `stop`, and the name of the run.

# %%
speedrun.train(run);

# %% [markdown]
# ## 6. Bits per byte
#
# How many bits does the model need for each byte of text it has never seen? Any compressor can be asked the same, so `xz -9e`, which
# knows no English, stands beside it.

# %%
speedrun.evaluate(run);

# %% [markdown]
# ## 7. Questions
#
# CORE asks 22 kinds of questions and is what "GPT-2 grade" is measured by: above 0.256525. A model of laptop size would score
# about nothing on it, so there it takes mini-CORE, a small test of our own.

# %%
speedrun.core(run);

# %% [markdown]
# ## 8. Samples
#
# The model continues six prompts. It has learnt how English looks, and hardly anything about the world.

# %%
speedrun.samples(run);

# %% [markdown]
# ## 9. Export
#
# The model as a folder that another machine can use: weights as safetensors, configuration, tokenizer, a model card.

# %%
speedrun.export(run);

# %% [markdown]
# ## 10. Report
#
# Where the time went, and this run beside the published ones. CORE stays empty unless the real one was measured.

# %%
speedrun.report(run);
