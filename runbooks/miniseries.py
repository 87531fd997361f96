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
# # The miniseries
#
# One recipe at several depths, each with the same number of tokens for each of its parameters. A change that helps at one depth
# only is found out here before it is paid for at full size.
#
#     papermill runbooks/miniseries.ipynb out.ipynb -k gpt2course --log-output --no-progress-bar
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
out = None  # folder of the results; default: $GPT2COURSE_HOME/campaigns/miniseries-<size>
device = "auto"  # auto, cpu, cuda or mps

# %%
from gpt2course.ops import sweep as campaign

args = campaign.check("miniseries", globals())
print(campaign.describe(campaign.grid(args.grid, args.size, args.first, args.set), args.size))

# %% [markdown]
# ## Training
#
# The runs, one after the other, in a process of their own: a line for each that is done, and every 15 seconds. If the notebook stops, they go on.

# %%
rows = campaign.work(args)

# %% [markdown]
# ## From small to large
#
# Bits per byte should fall smoothly with FLOPs; a depth that stands out hides a mistake or a rate that does not carry over.

# %%
from gpt2course.course import plots

print(campaign.table(campaign.summary(rows)))
plots.show(campaign.figure(rows))
