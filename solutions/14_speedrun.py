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
# # Exercises 14: The speedrun
#
# What separates a faster recipe from a lucky one: a forecast that can be scored, the rule of a race, the price of a proof, the time
# left, and the gains that luck alone would keep. Replace each `raise NotImplementedError` by your answer and run the check
# below it. The lesson is [14 The speedrun](../lessons/14_speedrun.ipynb).
#
# Only answers in work/ are graded: `make start EX=14` puts your copy of this notebook there, `make grade EX=14` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import itertools
import math
import statistics

from gpt2course.course.checks import pictures
from gpt2course.course.figures import speedrun as figures

# %% [markdown] tags=["ex-14.1"]
# ## 14.1 Ten changes, unseen
#
# Ten changes that were really tried, each against the recipe of its day, and either kept or rejected. Kept means: the record
# took it in. The first nine are nanochat's, the last is modded-nanogpt's. They are not a random sample; some are famous.
#
# | | change | size asked for |
# |---|---|---|
# | 1 | attention by FlashAttention 3 in place of 2 | tokens/s, in % |
# | 2 | a token sees only its own document in the row (depth 16) | bits per byte |
# | 3 | train to predict three tokens ahead, fading to one (depth 12) | GPU memory, in % |
# | 4 | the matrix products in 8 bits (depth 26) | tokens/s, in % |
# | 5 | update what AdamW updates only every other step (depth 12) | tokens/s, in % |
# | 6 | SwiGLU in place of ReLU², equal FLOPs (depth 12 and 24) | none was published |
# | 7 | eight experts in place of an MLP, two for each token and one shared (depth 18) | MFU, in % of what it was |
# | 8 | all web text in place of its educational part (depth 26) | CORE, in points such as 0.01 |
# | 9 | another mixture of texts, the sixth that was tried | time to GPT-2 grade, in % |
# | 10 | no MLP in the first block (124 million parameters) | time, in % |
#
# 1. `forecast()` returns ten pairs: the chance p that the change was kept, and its size in the unit of the table, with its sign (0
#    for change 6). The check accepts every honest forecast; your score comes below it.
# 2. `skill(p, kept, base)` scores it. The error is the mean of (p - kept)², with kept as 1 or 0. Skill is 1 minus the ratio of
#    your error to that of someone who says `base` for every change. 1 is perfect; 0 is no better than the base. With squares it
#    pays to state the chance that you believe.
# 3. `luck(p, kept)`: of all ways to choose as many kept changes among these, the share on which your p would have an error
#    at most as large as on the true ones. Allow for rounding (1e-12).
#
# A tiny example: p 0.8 and 0.4, the first kept. The error is (0.04 + 0.16) / 2 = 0.1. A coin (base 0.5) has 0.25, so the skill is 0.6. Of
# the two ways to keep one, only the true one scores so well: luck 0.5.
#
# The last cell shows what happened, so write your forecast first. The notebook that you get shows nothing until you have.
#
# <details><summary>Help: what is a good base?</summary>
#
# 0.5 knows nothing. An automatic search of nanochat kept about 20 of about 700 changes (its author, 9 March 2026), so 0.03 is
# what ideas are worth before they are chosen for a page like this one.
# </details>

# %% tags=["answer", "ex-14.1"]
def forecast():
    """Ten pairs (chance that it was kept, size)."""
    ### BEGIN SOLUTION
    return [(20 / 700, 0.0)] * 10  # knows only what a search kept
    ### END SOLUTION


def skill(p, kept, base):
    """Lists of chances and of True or False, a number -> the skill, a number."""
    ### BEGIN SOLUTION
    own = statistics.mean((a - k) ** 2 for a, k in zip(p, kept))
    return 1 - own / statistics.mean((base - k) ** 2 for k in kept)
    ### END SOLUTION


def luck(p, kept):
    """Lists of chances and of True or False -> the share of ways that score as well."""
    ### BEGIN SOLUTION
    def error(chosen):
        return sum((a - (i in chosen)) ** 2 for i, a in enumerate(p))

    own = error([i for i, k in enumerate(kept) if k])
    ways = list(itertools.combinations(range(len(p)), sum(kept)))
    return sum(error(way) <= own + 1e-12 for way in ways) / len(ways)
    ### END SOLUTION


# %% tags=["check", "ex-14.1"]
from gpt2course.course.checks import check

check("14.1", forecast, skill, luck)

# %% tags=["picture", "ex-14.1"]
def draw(forecast_, skill_, luck_):
    forecast()  # shows nothing before yours is written
    rows, kept = forecast_(), [change[2] for change in figures.CHANGES]
    p = [chance for chance, _ in rows]
    if forecast_ is forecast:
        print(*(f"{change[0]}: {change[4]}" for change in figures.CHANGES), sep="\n")
    return figures.changes(rows, skill_(p, kept, 0.5), luck_(p, kept))


pictures("14.1", draw, forecast, skill, luck)

# %% [markdown] tags=["ex-14.2"]
# ## 14.2 When does a record count?
#
# In modded-nanogpt's optimization track a claim counts if (3.28 - mean) √n is at least 0.004, where mean is the mean final loss
# of n runs. A claim in its main track (pull request 358) was measured again, because its first runs repeated one seed. Repeats of a seed
# differ only by rounding, and say little about other seeds.
#
# `runs` is a list of pairs (seed, loss). Take the mean of each seed first; n is the number of different seeds. Return n, the
# value, and whether it counts.
#
# A tiny example: seed 1 with 3.270, seed 2 with 3.279. The mean is 3.2745, so the value is 0.0055 · √2 = 0.0078: it counts.
#
# <details><summary>Help: the value is a little off</summary>
#
# A seed that was run often must not weigh more than the others.
# </details>

# %% tags=["answer", "ex-14.2"]
def record_counts(runs):
    """[(seed, loss), ...] -> n, value, True or False."""
    ### BEGIN SOLUTION
    seeds = {seed for seed, _ in runs}
    means = [statistics.mean(loss for s, loss in runs if s == seed) for seed in seeds]
    value = (3.28 - statistics.mean(means)) * math.sqrt(len(means))
    return len(means), value, value >= 0.004
    ### END SOLUTION


# %% tags=["check", "ex-14.2"]
from gpt2course.course.checks import check

check("14.2", record_counts)

# %% [markdown] tags=["ex-14.3"]
# ## 14.3 What a proof costs
#
# A recipe is `margin` above the bar on average, and one run scatters by `sd`. To show it, the mean of n runs must be at
# least z of its own standard errors above the bar: z sd / √n is at most the margin. One run of training takes `hours`; the
# machine is prepared once, in `extra` hours; it costs `price` for each started hour.
#
# Return the smallest n, at least 1, and the bill. You may subtract 1e-9 before you round up, since 4.000000001 should be 4.
#
# A tiny example: margin 0.01, sd 0.005, z 2 give n = 1. With 2.5 hours, 0.5 extra and 16 dollars that is 3 hours, 48 dollars.
#
# Then try nanochat's sixth record: `price_of_proof(0.2626 - 0.2565, 0.005, 2, 1.65, 0.3, 24)`, and half that margin.
#
# <details><summary>Help: n is too small</summary>
#
# The error of a mean falls with √n. Half the margin needs four times the runs.
# </details>

# %% tags=["answer", "ex-14.3"]
def price_of_proof(margin, sd, z, hours, extra, price):
    """Six numbers -> runs, dollars."""
    ### BEGIN SOLUTION
    n = max(1, math.ceil((z * sd / margin) ** 2 - 1e-9))
    return n, math.ceil(n * hours + extra - 1e-9) * price
    ### END SOLUTION


# %% tags=["check", "ex-14.3"]
from gpt2course.course.checks import check

check("14.3", price_of_proof)

# %% [markdown] tags=["ex-14.4"]
# ## 14.4 How long still?
#
# You have rented a machine, and the log runs past. `lines` are its lines so far, as text:
#
#     step 00090/16704 (0.54%) | loss: 3.100212 | dt: 655.91ms
#     step 00075 | validation bpb: 1.0312 | took 5.00s
#
# Steps count from 0, so 16704 steps end with step 16703. The first ten steps that the log shows compile, and a few later ones are slow for
# other reasons. After a restart the log goes back to an earlier step. Return the minutes of training that are left after
# the last step line: the steps that are left, times the median dt of all step lines but the first ten.
#
# A tiny example: 100 steps, the last line is step 12, and dt is 600 ms. 87 steps are left, 0.87 minutes.
#
# <details><summary>Help: ValueError</summary>
#
# Lines without `dt:` are not steps. `re.search(r"step (\d+)/(\d+).*dt: ([\d.]+)ms", line)` is None for them.
# </details>

# %% tags=["answer", "ex-14.4"]
def minutes_left(lines):
    """A list of lines of text -> minutes, a number."""
    ### BEGIN SOLUTION
    rows = []
    for line in lines:
        if "dt: " in line:
            step, steps = line.split()[1].split("/")
            rows.append((int(step), int(steps), float(line.split("dt: ")[1].removesuffix("ms"))))
    step, steps, _ = rows[-1]
    return (steps - 1 - step) * statistics.median(dt for _, _, dt in rows[10:]) / 60_000
    ### END SOLUTION


# %% tags=["check", "ex-14.4"]
from gpt2course.course.checks import check

check("14.4", minutes_left)

# %% [markdown] tags=["ex-14.5"]
# ## 14.5 What luck alone would keep
#
# You try `tried` changes, each in one run against one run of the recipe, and keep those that gain. A run scatters by `sd`, and so even
# a change without any effect gains half of the time. How large a gain must you demand, so that of `tried` changes without
# effect you expect to keep only `allowed`?
#
# Scatter is normal. The gain is a difference of two runs, so it scatters by more than one. Return the bar, in the unit of sd.
# `statistics.NormalDist(mean, sd).inv_cdf(share)` is the value below which that share lies.
#
# A tiny example: 50 changes, 25 allowed. Half of all gains are above 0, so the bar is 0.
#
# Then look: 700 changes, sd 0.0002, 1 allowed. nanochat's LOG of 19 January 2026 lists a gain of 0.0007 at depth 20, and one of 0.0001 that was not used.
#
# <details><summary>Help: too low by a factor of 1.41</summary>
#
# Both runs scatter. The variance of a difference is the sum of the variances.
# </details>

# %% tags=["answer", "ex-14.5"]
def bar_for(tried, sd, allowed=1.0):
    """Three numbers -> the gain to demand."""
    ### BEGIN SOLUTION
    return statistics.NormalDist(0, sd * math.sqrt(2)).inv_cdf(1 - allowed / tried)
    ### END SOLUTION


# %% tags=["check", "ex-14.5"]
from gpt2course.course.checks import check

check("14.5", bar_for)
