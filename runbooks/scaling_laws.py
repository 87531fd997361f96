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
# How large should a model be for a given number of FLOPs? For each budget the notebook trains several sizes: small models on much text,
# and large models on little text. Width is set apart from depth, so that the sizes lie close together. The best size grows as a power of the budget.
#
# With `grid` = `miniseries` it trains one recipe at several depths instead, with 8 tokens for each scaling parameter. A change
# that helps at one depth only shows there before you pay for it at full size.
#
#     papermill runbooks/scaling_laws.ipynb out.ipynb -k gpt2course --log-output --no-progress-bar
#
# Run it again at any time: finished runs are not repeated, and a run that was stopped continues from its checkpoint.

# %% [markdown]
# ## Parameters
#
# Change them here, or with `-p name value` on papermill's command line.

# %% tags=["parameters"]
grid = "isoflop"  # isoflop: several sizes for each budget of FLOPs; miniseries: several depths
size = "laptop"  # laptop: minutes on two cores; h100: the full size, on one card
corpus = None  # default: embedded, or climbmix at full size; or the path of a folder of shards
minutes = None  # stop with a checkpoint after so many minutes; restart the kernel and run all to continue
first = None  # only the first so many runs
settings = ""  # settings for every run in place of the grid's, such as "steps=20"
out = None  # folder of the results; default: $GPT2COURSE_HOME/sweeps/<grid>-<size>
device = "auto"  # auto, cpu, cuda or mps

# %% [markdown]
# ## The runs
#
# For each budget the models whose N lies closest to the expected minimum: D = 10 N gives N = sqrt(C / 60), times `around`,
# because small models are the ones that run out of text. First all runs with one seed, then all with the next.

# %%
import math

from gpt2course.ops import sweep
from gpt2course.recipes import resolve, settings_from_text

args = sweep.Sweep.from_namespace(globals())

RECIPE, FIXED = {
    "laptop": ("muon", ("eval_bytes=20000", "head_dim=16", "sequence_len=64", "vocab_size=512", "batch_tokens=1024")),
    "h100": ("jan29", ("eval_bytes=1000000", "head_dim=64", "sequence_len=1024", "vocab_size=4096", "batch_tokens=32768")),
}[args.size]
ISOFLOP = {  # shapes: (depth, width) from small to large; text: most tokens, 4 epochs of the development shards
    "laptop": dict(budgets=(3e10, 6e10, 1.2e11, 2.4e11), sizes=5, around=1.2, text=6e6, shapes=((1, 16), (1, 32), (2, 32), (2, 48), (2, 64), (3, 64), (3, 96))),
    "h100": dict(budgets=(3e14, 6e14, 1.2e15, 2.4e15), sizes=6, around=1.4, text=160e6,
                 shapes=((2, 128), (2, 192), (3, 192), (4, 192), (4, 256), (6, 256), (5, 320), (4, 384), (6, 384), (7, 448), (6, 512), (8, 512))),
}[args.size]
DEPTHS, CHANNELS = {"laptop": ((1, 2, 3), 16), "h100": ((2, 3, 4, 5, 6, 7), 64)}[args.size]  # channels: width for each layer


def isoflop(budget):
    options = []  # (distance from the expected N, N, run)
    for depth, width in ISOFLOP["shapes"]:
        changes = (*FIXED, f"depth={depth}", f"width={width}")
        step = resolve(RECIPE, **settings_from_text((*changes, "steps=1")))
        n, steps = step.params["scaling"], round(budget / step.flops)
        if steps >= 20 and steps * step.tokens <= ISOFLOP["text"]:
            id = f"c{budget:g}-d{depth}-w{width}".replace("+", "")
            expected = ISOFLOP["around"] * math.sqrt(budget / 60)
            options.append((abs(math.log(n / expected)), n, sweep.Run(id, RECIPE, (*changes, f"steps={steps}"), budget=budget)))
    closest = sorted(options, key=lambda option: option[0])[: ISOFLOP["sizes"]]
    return [run for _, _, run in sorted(closest, key=lambda option: option[1])]


if args.grid == "isoflop":
    runs = [run for budget in ISOFLOP["budgets"] for run in isoflop(budget)]
else:
    runs = [sweep.Run(f"d{d}", RECIPE, (*FIXED, "ratio=8", f"depth={d}", f"width={d * CHANNELS}")) for d in DEPTHS]
runs = args.chosen(sweep.with_seeds(runs))
print(sweep.describe(runs))

# %% [markdown]
# ## Training
#
# A line for each finished run, and every 15 seconds.

# %%
rows = sweep.sweep(runs, args, f"{args.grid}-{args.size}")
print(sweep.table(rows))

# %% [markdown]
# ## The fits
#
# A parabola for each budget that has both arms, and power laws through the minima, with 95 % intervals. The published exponents
# stand beside them. A law that is used far outside the budgets that were trained is an extrapolation.

# %%
from gpt2course import scaling
from gpt2course.course import plots

fits = scaling.summary(rows)
best = [m for m in fits["budgets"] if "left_out" not in m]
for m in fits["budgets"]:
    print(f"{m['budget']:.2e} FLOPs: " + (m.get("left_out") or f"best N {m['n']:,.0f}, {m['tokens'] / m['n']:.1f} tokens for each, {m['val_bpb']:.4f} bits per byte"))
for name, law in fits["laws"].items():
    interval = "{:.2f} to {:.2f}".format(*law["interval"]) if "interval" in law else "unknown: it needs three budgets with both arms"
    others = f"nanochat {fits['published'][name]:.3f}" + (f", Hoffmann et al. {scaling.HOFFMANN[name]:.2f}" if name in scaling.HOFFMANN else "")
    print(f"{scaling.LAWS[name]} ~ C^{law['exponent']:.3f}, 95 % interval {interval}; published: {others}")
if law := fits["parametric"]:
    print("bits per byte = {E:.3f} + {A:.3g} / N^{a:.3f} + {B:.3g} / D^{b:.3f}, so N ~ C^{alpha:.3f}; off by {error:.2%}".format(**law))

# %% [markdown]
# ## Bits per byte against size
#
# Each budget has its own colour; a star marks the minimum of its parabola. In a miniseries, bits per byte should fall smoothly: a depth
# that stands out shows a mistake, or a learning rate that does not fit that size.

# %%
import numpy as np

fig, (ax,) = plots.figure(4.6)
for n, (budget, group) in enumerate(scaling.by_budget(rows if best else [row | {"budget": 0} for row in rows]).items()):
    ax.plot([row["n"] for row in group], [row["val_bpb"] for row in group], "o", color=f"C{n}", markersize=5, label=f"{budget:.1e} FLOPs" if budget else None)
    for m in best:
        if m["budget"] == budget:
            a, x, y = scaling.parabola([row["n"] for row in group], [row["val_bpb"] for row in group])
            line = np.linspace(*np.log([min(row["n"] for row in group), max(row["n"] for row in group)]), 100)
            ax.plot(np.exp(line), y + a * (line - x) ** 2, color=f"C{n}", linewidth=1.2)
            ax.plot(m["n"], m["val_bpb"], "*", color=f"C{n}", markersize=13, markeredgecolor="black")
ax.set_xscale("log")
plots.name_axes(ax, "scaling parameters N", "validation bits per byte")
if best:
    ax.legend(fontsize=plots.FONT, frameon=False)
fig.alt = "Bits per byte against model size. " + " ".join(f"At {m['budget']:.1e} FLOPs the best size is {m['n']:,.0f} parameters." for m in best)
plots.show(fig)
