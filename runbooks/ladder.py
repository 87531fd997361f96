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
# swept. Three recipes run with three seeds, so that you can tell a difference between recipes from the noise of the seed.
#
#     papermill runbooks/ladder.ipynb out.ipynb -k gpt2course --log-output --no-progress-bar
#
# Run it again at any time: finished runs are not repeated, and a run that was stopped continues from its checkpoint.

# %% [markdown]
# ## Parameters
#
# Change them here, or with `-p name value` on papermill's command line.

# %% tags=["parameters"]
size = "laptop"  # laptop: minutes on two cores; h100: the full size, on one card
corpus = None  # default: embedded, or climbmix at full size; or the path of a folder of shards
minutes = None  # stop with a checkpoint after so many minutes; restart the kernel and run all to continue
first = None  # only the first so many runs
settings = ""  # settings for every run in place of the grid's, such as "steps=20"
out = None  # folder of the results; default: $GPT2COURSE_HOME/sweeps/ladder-<size>
device = "auto"  # auto, cpu, cuda or mps

# %% [markdown]
# ## The runs
#
# First every recipe once, then the other learning rates, then the other seeds: a sweep that is cut short leaves whole answers.

# %%
from gpt2course.ops import sweep

args = sweep.Sweep.from_namespace(globals())

from gpt2course.recipes import LADDER

FIXED = {
    "laptop": ("depth=2", "width=64", "head_dim=32", "sequence_len=128", "vocab_size=1024", "batch_tokens=2048", "steps=80", "eval_bytes=20000"),
    "h100": ("depth=8", "vocab_size=8192", "batch_tokens=65536", "steps=1144", "eval_bytes=1000000"),  # 75 million tokens
}[args.size]
RATES = {"modern": ("matrix_adamw_lr", (0.0015, 0.006)), "muon": ("matrix_lr", (0.01, 0.04))}  # beside the recipes' own, 0.003 and 0.02

runs = [sweep.Run(recipe, recipe, FIXED) for recipe in LADDER]
repeated = [run for run in runs if run.recipe in ("modern", "muon", "jan29")]
for recipe, (name, rates) in RATES.items():
    runs += [sweep.Run(f"{recipe}-{name}-{rate:g}", recipe, (*FIXED, f"{name}={rate:g}")) for rate in rates]
runs = args.chosen(sweep.with_seeds(runs, (1,)) + sweep.with_seeds(repeated, (2, 3)))
print(sweep.describe(runs))

# %% [markdown]
# ## Training
#
# A line for each finished run, and every 15 seconds.

# %%
rows = sweep.sweep(runs, args, f"ladder-{args.size}")

# %% [markdown]
# ## What each rung buys
#
# Bits per byte on validation text, the lowest first. `sd` is the standard deviation over seeds: a difference of that size says nothing.
# The figure shows the same curves against steps, FLOPs and seconds. You pay for seconds.

# %%
from gpt2course.course import plots

print(sweep.table(rows))
fig, axes = plots.figure(9.5, rows=3)
groups = {name: group for name, group in sweep.variants(rows).items() if name in LADDER}
for ax, column, label in zip(axes, (0, 2, 3), ("steps", "training FLOPs", "seconds of training")):
    for n, (name, group) in enumerate(groups.items()):
        for row in group:
            points = [point for point in row["curve"] if point[0] > 0]
            ax.plot([p[column] for p in points], [p[4] for p in points], color=f"C{n}", linewidth=1.3, label=name if row is group[0] else None)
    plots.name_axes(ax, label, "validation bits per byte")
axes[0].legend(fontsize=plots.FONT, frameon=False, ncols=2)
ends = ", ".join(f"{name} {group[0]['val_bpb']:.3f}" for name, group in groups.items())
fig.alt = f"Validation bits per byte against steps, FLOPs and seconds of training. At the end: {ends}."
plots.show(fig)
