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
# This notebook drives a whole run: corpus, tokenizer, training, bits per byte, a score on questions, samples, an export. The recipe
# is the one that reached GPT-2 grade in 3.04 hours on eight H100; the profile `laptop` runs the same code at a size that two CPU
# cores finish in about ten minutes.
#
# From a terminal, in the folder of the course:
#
#     papermill runbooks/speedrun.ipynb out.ipynb -p profile laptop -k gpt2course \
#         --log-output --autosave-cell-every 30 --no-progress-bar
#
# You can run it again at any time. A stage that is done is shown and not repeated; training that was interrupted resumes.

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
max_hours = None  # stop training, with a checkpoint, after so many hours of training
max_cost_usd = None  # the same for the cost of these hours; needs price_per_hour
save_minutes = None  # between checkpoints; default: 10, on a laptop 1
stall_minutes = 10.0  # without progress for so long, training restarts from the last checkpoint
smoke = None  # a small run first, true or false; default: not on a laptop
core_bundle = None  # folder or zip of an evaluation bundle, or mini; default: mini on a laptop
core_examples = None  # at most so many examples a task; default: all
settings = ""  # other settings of the recipe as text, see README.md
mine = False  # train with your own pieces from the exercises and lessons, in work/mine

# %% [markdown]
# The next cell checks everything above before any work is done: types, ranges, and names that do not exist.

# %%
from gpt2course.ops import parameters, runbook

params = parameters.Params.from_namespace(globals())
print(params)

# %% [markdown]
# What follows from them. Depth fixes width, heads, batch, number of steps and learning rates; the profile sets the sizes that
# a small machine needs.

# %%
run = parameters.open_run(params)

# %% [markdown]
# ## 1. Preflight
#
# Is this machine ready for this run? A warning says how to fix its cause. A STOP must be fixed before the run can start.

# %%
runbook.preflight(run);

# %% [markdown]
# ## 2. Data
#
# The text to learn from, and other text to measure on. The model never trains on the validation text. A published corpus consists
# of many files (shards), which are downloaded in the background from here on.

# %%
runbook.data(run);

# %% [markdown]
# ## 3. Tokenizer
#
# The tokenizer cuts text into tokens, pieces that occur often. A larger vocabulary makes texts shorter and the model's tables larger.

# %%
runbook.tokenizer(run);

# %% [markdown]
# ## 4. Smoke run
#
# A few minutes of the same training at a small size, on the same machine, judged by its loss and its speed. It finds a bad machine
# before much money is spent. A laptop skips it.

# %%
runbook.smoke(run);

# %% [markdown]
# ## 5. Training
#
# Training runs in processes of its own and saves checkpoints; torchrun restarts it from the last checkpoint if a process dies or
# hangs. This cell only prints its progress. If the notebook stops, training continues; run the notebook again to follow it
# further. To stop it with a checkpoint: `python -m gpt2course.ops.runbook stop` and the name of the run.

# %%
runbook.train(run);

# %% [markdown]
# ## 6. Bits per byte
#
# How many bits does the model need for each byte of text that it has never seen? Every compressor answers the same question, so
# `xz -9e`, which knows no English, is measured on the same text.

# %%
runbook.evaluate(run);

# %% [markdown]
# ## 7. Questions
#
# CORE asks 22 kinds of questions, and "GPT-2 grade" means a score above 0.256525. A model of laptop size would score about zero
# on CORE, so a laptop takes mini-CORE, a small test that comes with the course. The two scores cannot be compared.

# %%
runbook.core(run);

# %% [markdown]
# ## 8. Samples
#
# The model continues six prompts. A small model has learned how English looks, and hardly anything about the world.

# %%
runbook.samples(run);

# %% [markdown]
# ## 9. Export
#
# The model as a folder that another machine can use: weights as safetensors, configuration, tokenizer, a model card.

# %%
runbook.export(run);

# %% [markdown]
# ## 10. Summary
#
# Where the time went, and this run beside the published ones. CORE stays empty unless all of CORE was measured.

# %%
runbook.summary(run);
