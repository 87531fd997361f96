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
# # Exercises 10: CORE
#
# Five uses of what the lesson built: one task scored in three ways, a difference with an honest error, the runs that a claim needs,
# the items that a text has given away, and the bill of an evaluation. Replace each `raise NotImplementedError` by your answer and run the
# check below it. The lesson is [10 CORE](../lessons/10_core.ipynb).
#
# Only answers in work/ are graded: `make start EX=10` puts your copy of this notebook there, `make grade EX=10` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import math
import re
from collections import Counter

from gpt2course.course.checks import pictures
from gpt2course.course.figures import core as figures

# %% [markdown] tags=["ex-10.1"]
# ## 10.1 Three scores of one task
#
# A paper reports an accuracy and not how a choice is scored. Three ways are in use: the sum of the losses of a choice's
# tokens, their mean over the tokens, and their sum divided by the bytes of the choice's text in UTF-8. The lowest wins, the first
# of equals. `questions` is a list of (losses, texts, gold): for each choice the list of its tokens' losses, for each choice its
# text, and the index of the right choice. Return the accuracies by sum, by mean, and by bytes.
#
# A tiny example: losses [3.0] and [2.0, 2.0], texts "no" and "maybe", gold 1. The sums are 3 and 4, the means 3 and 2, by bytes
# 1.5 and 0.8. So the accuracies are 0, 1 and 1.
#
# <details><summary>Help: only the third is off</summary>
#
# `len(text)` counts characters. A byte is what bits per byte counts too.
# </details>

# %% tags=["answer", "ex-10.1"]
def three_scores(questions):
    """questions: list of (list of lists of losses, list of texts, gold) -> three accuracies."""
    ### BEGIN SOLUTION
    right = [0, 0, 0]
    for losses, texts, gold in questions:
        sums = [sum(x) for x in losses]
        means = [s / len(x) for s, x in zip(sums, losses)]
        by_byte = [s / len(text.encode()) for s, text in zip(sums, texts)]
        for way, values in enumerate((sums, means, by_byte)):
            right[way] += values.index(min(values)) == gold
    return [r / len(questions) for r in right]
    ### END SOLUTION


# %% tags=["check", "ex-10.1"]
from gpt2course.course.checks import check

check("10.1", three_scores)

# %% [markdown] tags=["ex-10.2"]
# ## 10.2 A difference and its error
#
# Two models answered the same n questions: a and b are lists of 0 and 1. `group` names the story that each question belongs to;
# questions on one story are not independent. Return the mean difference, a minus b over all questions, and its standard error.
#
# With d = a - b for each question and its mean m: add up d - m within each group, square these sums, add them, take the root,
# and divide by n. If each question is a group of its own, this is the usual standard error of paired differences.
#
# A tiny example: a = [1, 1, 0, 0], b = [0, 1, 0, 1], four groups. d = [1, 0, 0, -1], m = 0, and the error is √2 / 4 = 0.354.
#
# <details><summary>Help: right with one question a group, too small otherwise</summary>
#
# Add up within the group first, square then. If all questions of a story go wrong together, their deviations add up
# and do not cancel.
# </details>

# %% tags=["answer", "ex-10.2"]
def compare(a, b, group):
    """a, b: lists of n 0s and 1s, group: list of n labels -> difference, standard error."""
    ### BEGIN SOLUTION
    d = [x - y for x, y in zip(a, b)]
    mean, sums = sum(d) / len(d), Counter()
    for x, g in zip(d, group):
        sums[g] += x - mean
    return mean, math.sqrt(sum(s**2 for s in sums.values())) / len(d)
    ### END SOLUTION


# %% tags=["check", "ex-10.2"]
from gpt2course.course.checks import check

check("10.2", compare)

# %% [markdown] tags=["ex-10.3"]
# ## 10.3 Runs for a claim
#
# Two recipes truly differ by `apart` in CORE (the sign does not matter), and seeds give each a standard deviation of `sd`. You
# claim a difference where it exceeds 1.96 standard errors. To do so with a probability of 80 %, the true difference must be
# 1.96 + 0.84 = 2.8 standard errors.
#
# With n runs of each, the difference of the means has the variance 2 sd² (1 - correlation) / n. The correlation is that of runs paired by
# seed, and 0 where they are not paired. Return n, the runs of *each* recipe: a whole number, at least 2, as one run has no
# spread.
#
# A tiny example: apart 0.01, sd 0.0062: 2 · (2.8 · 0.62)² = 6.03, so 7 runs.
#
# Then try 0.003 with nanochat's 0.0062. And bits per byte, with 0.00023: how many runs for a difference of 0.0005?
#
# <details><summary>Help: half, or twice, of what the check expects</summary>
#
# Each recipe has n runs, and both means are noisy: their variances add up, 2 sd² / n. And a fraction of a run is one run more.
# </details>

# %% tags=["answer", "ex-10.3"]
def runs_needed(apart, sd, correlation=0.0):
    """Numbers -> runs of each recipe, a whole number."""
    ### BEGIN SOLUTION
    n = 2 * (1 - correlation) * (2.8 * sd / apart) ** 2
    return max(2, math.ceil(n))
    ### END SOLUTION


# %% tags=["check", "ex-10.3"]
from gpt2course.course.checks import check

check("10.3", runs_needed)

# %% [markdown] tags=["ex-10.4"]
# ## 10.4 Dirty items
#
# Find the items that the training text has given away. `items` and `documents` are lists of texts. An item is dirty if n of its words in a
# row stand in a document. The rules are those of GPT-3's analysis:
#
# - Words are runs of letters and digits, in lower case: `re.findall(r"[^\W_]+", text.lower())`. No gram crosses from one document to the next.
# - A gram of more than `common` documents is a usual phrase and does not count. Count documents, not places.
# - An item of fewer than n words, but at least 8, is one gram of its own length. Still shorter items are not searched for.
#
# Return the indices of the dirty items, in order. Items are few and documents are many: put the items' grams into a set, and read each document
# once for each length of gram.
#
# A tiny example with n = 2 and common = 10: the item "One two, three four five six seven eight!" is dirty if a document has "two three".
#
# <details><summary>Help: which lengths of gram?</summary>
#
# The lengths of the items' grams: n, and for each short item its number of words. A tuple of words can be a member of a set.
# </details>
#
# The picture shows the share of items found, for n from 2 to 13: the documents are other texts on the same subjects, with one item copied.

# %% tags=["answer", "ex-10.4"]
def dirty(items, documents, n=13, common=10):
    """Lists of texts, two numbers -> list of indices."""
    ### BEGIN SOLUTION
    def words(text):
        return re.findall(r"[^\W_]+", text.lower())

    def grams(found, size):
        return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}

    mine = []
    for found in map(words, items):
        mine.append(grams(found, min(n, len(found))) if len(found) >= min(n, 8) else set())
    every, counts = set().union(*mine), Counter()
    for found in map(words, documents):
        for size in {len(g) for g in every}:
            counts.update(grams(found, size) & every)
    return [i for i, g in enumerate(mine) if any(0 < counts[x] <= common for x in g)]
    ### END SOLUTION


# %% tags=["check", "ex-10.4"]
from gpt2course.course.checks import check

check("10.4", dirty)

# %% tags=["picture", "ex-10.4"]
ITEMS = [
    "The ships of the king came to the harbour in the night and lay there until the morning",
    "In the year after the war the king gave the town its bridge and the people their bread",
    "The bridge over the river was built of stone by the people of the town and not by the king",
]
DOCUMENTS = [
    "the people of the town came to the harbour in the morning and the ships of the king lay there",
    "in the night after the war the people gave the king their bread and the town its ships",
    f"it is told that {ITEMS[2].lower()}, who never paid",
]


def draw(f):
    return figures.found({"items": [(n, len(f(ITEMS, DOCUMENTS, n)) / 3) for n in range(2, 14)]})


pictures("10.4", draw, dirty)

# %% [markdown] tags=["ex-10.5"]
# ## 10.5 The bill of an evaluation
#
# `questions` is a list of (tokens of the prompt, [tokens of each choice]). Without sharing, each choice is read after the whole prompt, as one
# row. With sharing, the prompt is read once, and each choice continues from its cache. The last token of a choice need not be read then,
# as nothing after it is scored; a choice of one token costs nothing.
#
# Return the tokens read without sharing, those with sharing, and the dollars that sharing saves. `flops` are those of one token's forward pass,
# `speed` is in FLOP/s, `dollars` the price of an hour.
#
# A tiny example: a prompt of 100 tokens and four choices of one token: 404 tokens, and 100.
#
# CORE's 160 million tokens become 68 million in this way.
#
# <details><summary>Help: dollars</summary>
#
# Tokens saved times FLOPs a token are FLOPs; divided by the speed they are seconds, and an hour has 3,600.
# </details>

# %% tags=["answer", "ex-10.5"]
def bill(questions, flops, speed, dollars):
    """-> tokens without sharing, tokens with sharing, dollars saved."""
    ### BEGIN SOLUTION
    alone = sum(prompt * len(choices) + sum(choices) for prompt, choices in questions)
    shared = sum(prompt + sum(choices) - len(choices) for prompt, choices in questions)
    return alone, shared, (alone - shared) * flops / speed / 3600 * dollars
    ### END SOLUTION


# %% tags=["check", "ex-10.5"]
from gpt2course.course.checks import check

check("10.5", bill)
