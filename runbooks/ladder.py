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
# # The ladder
#
# Every recipe at one size, on the same text, with the same number of tokens. The learning rates of `modern` and `muon` are
# swept, and three recipes run with three seeds, which tell a difference from luck.
#
#     papermill runbooks/ladder.ipynb out.ipynb -k gpt2course --log-output --no-progress-bar
#
# Run it again whenever you like: runs that are done are not repeated, and one that was interrupted goes on from its checkpoint.

# %% [markdown]
# ## Parameters
#
# Change them here, or with `-p name value` on papermill's command line.

# %% tags=["parameters"]
size = "laptop"  # laptop: minutes on two cores; h100: the full size, on one card
corpus = None  # default: embedded, or climbmix at full size; or the path of a folder of shards
minutes = None  # stop with a checkpoint after so many; run again to go on
first = None  # only the first so many runs
settings = ""  # settings for every run in place of the grid's, such as "steps=20"
out = None  # folder of the results; default: $GPT2COURSE_HOME/campaigns/ladder-<size>
device = "auto"  # auto, cpu, cuda or mps

# %%
from gpt2course.ops import sweep as campaign

args = campaign.check("ladder", globals())
print(campaign.describe(campaign.grid(args.grid, args.size, args.first, args.set), args.size))

# %% [markdown]
# ## Training
#
# The runs, one after the other, in a process of their own: a line for each that is done, and every 15 seconds. If the notebook stops, they go on.

# %%
rows = campaign.work(args)

# %% [markdown]
# ## What each rung buys
#
# Bits per byte on text no model has seen, the lowest first. `sd` is the spread over seeds: two rungs closer than that are not told apart.
# The figure shows the same against steps, FLOPs and seconds; only the last is what money buys.

# %%
from gpt2course.course import plots

print(campaign.table(campaign.summary(rows)))
plots.show(campaign.figure(rows))
