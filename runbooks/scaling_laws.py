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
# # Scaling laws
#
# How large should a model be for a given number of FLOPs? For each budget several sizes are trained, small ones on much text and large
# ones on little. Width is set apart from depth, so that the sizes lie close together. The best size grows as a power of the budget.
#
#     papermill runbooks/scaling_laws.ipynb out.ipynb -k gpt2course --log-output --no-progress-bar
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
out = None  # folder of the results; default: $GPT2COURSE_HOME/campaigns/isoflop-<size>
device = "auto"  # auto, cpu, cuda or mps

# %%
from gpt2course.ops import sweep as campaign

args = campaign.check("isoflop", globals())
print(campaign.describe(campaign.grid(args.grid, args.size, args.first, args.set), args.size))

# %% [markdown]
# ## Training
#
# The runs, one after the other, in a process of their own: a line for each that is done, and every 15 seconds. If the notebook stops, they go on.

# %%
rows = campaign.work(args)

# %% [markdown]
# ## The fits, and the forecast
#
# A parabola for each budget that has both arms, a power law through their minima with its interval, and what it says of larger budgets.
# A forecast far outside the budgets that were trained is an extrapolation.

# %%
from gpt2course import scaling

print(campaign.table(campaign.summary(rows)))
fits = scaling.summary(rows)
print(scaling.table(fits))

# %%
from IPython.display import Image, display

for path in scaling.figures(rows, fits, campaign.folder_of(args) / "figures"):
    display(Image(str(path)))
