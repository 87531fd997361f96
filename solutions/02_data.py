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
# # Exercises 02: data
#
# One function that measures a packing, two that pack, one that deals rows to ranks, one that counts costs. Replace each `raise
# NotImplementedError` by your answer and run the check below it. The lesson is [02 Data](../lessons/02_data.ipynb).
#
# `make start EX=02` puts a copy of this notebook in work/, where your answers survive an update of the course. `make grade
# EX=02` grades that copy.
#
# Plain Python is enough everywhere.

# %% tags=["setup"]
import math

from gpt2course.course import lab, plots
from gpt2course.course.checks import pictures
from gpt2course.data import load_corpus
from gpt2course.course.figures import data as figures
from gpt2course.recipes import resolve

corpus, tok = load_corpus("embedded"), lab.tokenizer()
TEXTS = [corpus.train[i] for i in range(400)]
DOCUMENTS = tok.encode_batch(TEXTS, bos=True)  # 400 lists of ids, each beginning with BOS
LENGTHS = [len(document) for document in DOCUMENTS]

# %% [markdown] tags=["ex-2.1"]
# ## 2.1 Measure a packing
#
# You get rows, and say what they cost. `rows` is a list of rows; a row is a list of pairs (document, tokens of it that lie in
# this row). `lengths[document]` is the number of tokens that a document has. A row has room for `row_tokens` tokens. Return
# two shares, numbers from 0 to 1.
#
# *Cropped*: the tokens that were cut off the documents in these rows, as a share of all tokens of these documents. A document
# may be continued in a later row; then all its pieces count as kept. A document in no row is still waiting, and does not
# count.
#
# *Padding*: the places in the rows that hold no token, as a share of all places.
#
# A tiny example: lengths `[5, 3, 9]`, rows of 8, `[[(0, 5)], [(1, 3)], [(2, 8)]]`. One of 17 tokens is lost. Of 24 places 8
# are empty. The answer is (1/17, 8/24).
#
# <details><summary>Help: of what is the cropped share a share?</summary>
#
# Of the tokens that you had to read: 17, not the 16 that arrived. So the source text for N tokens is N / (1 - share).
# </details>
# <details><summary>Help: a document in two rows</summary>
#
# Add up its pieces first, in a dictionary from document to tokens. What is missing in the sum is lost.
# </details>
#
# The picture shows 8 rows of 512 tokens for two ways of packing, with the shares from your function. Pale means lost, crossed
# out means padding.


# %% tags=["answer", "ex-2.1"]
def shares(rows, lengths, row_tokens):
    """(cropped share, padding share). rows: lists of (document, tokens); lengths: a list, tokens of each document."""
    ### BEGIN SOLUTION
    placed = {}
    for row in rows:
        for document, n in row:
            placed[document] = placed.get(document, 0) + n
    kept = sum(placed.values())
    had = sum(lengths[document] for document in placed)
    places = len(rows) * row_tokens
    return (had - kept) / had, (places - kept) / places
    ### END SOLUTION


# %% tags=["check", "ex-2.1"]
from gpt2course.course.checks import check

check("2.1", shares)

# %% tags=["picture", "ex-2.1"]
one_a_row = [[(d, min(n, 512), 0, max(0, n - 512))] for d, n in enumerate(LENGTHS[:8])]
ways = {"one a row": one_a_row, "best fit": figures.packed(LENGTHS, 512, 8)}


def draw(f):
    panels = {}
    for name, rows in ways.items():
        cropped, padding = f([[(d, n) for d, n, _, _ in row] for row in rows], LENGTHS, 512)
        panels[f"{name}: {cropped:.0%} cropped, {padding:.0%} padding"] = rows
    return figures.rows_raster(panels, 512)


pictures("2.1", draw, shares)

# %% [markdown] tags=["ex-2.2"]
# ## 2.2 The best fit
#
# Documents of the given lengths wait, in order of arrival, and the row has `space` places left. Return the place in the list
# (0, 1, 2, ...) of the document that goes next: the longest of those that fit. Where none fits, the shortest of all, which
# will then be cropped. Among equals the first.
#
# A tiny example: `[3, 5, 8, 2]` with 6 places left. 3, 5 and 2 fit, and 5 is the longest, so the answer is 1.
#
# <details><summary>Help: does a document fit that has exactly as many tokens as there are places?</summary>
#
# Yes, and nothing can be better: the row is full and nothing is lost.
# </details>
# <details><summary>Help: why crop the shortest?</summary>
#
# The end of a cropped document is lost. With 6 places left a document of 7 loses 1 token, and one of 700 loses 694.
# </details>
# <details><summary>Help: I get a length, not a place</summary>
#
# `lengths.index(n)` is the first place of the length n. Don't sort `lengths`: the places would be others.
# </details>
#
# The picture shows 10 rows of 257 tokens filled with your choice. Most rows end in a document that is cropped, and no row is
# left with a gap.


# %% tags=["answer", "ex-2.2"]
def choose(lengths, space):
    """The place in the list of the document to put next. lengths: a list of numbers; space: a number."""
    ### BEGIN SOLUTION
    fitting = [i for i, n in enumerate(lengths) if n <= space]
    if fitting:
        return max(fitting, key=lambda i: lengths[i])  # max and min give the first of equals
    return min(range(len(lengths)), key=lambda i: lengths[i])
    ### END SOLUTION


# %% tags=["check", "ex-2.2"]
from gpt2course.course.checks import check

check("2.2", choose)

# %% tags=["picture", "ex-2.2"]
def draw(f):
    return figures.rows_raster({"rows of 257": figures.packed(LENGTHS, 257, 10, f)}, 257)


pictures("2.2", draw, choose)

# %% [markdown] tags=["ex-2.3"]
# ## 2.3 A whole row, as inputs and targets
#
# `buffer` is a list of documents, each a list of ids that begins with BOS. Fill one row by the rule of 2.2: again and again,
# the longest that fits, else the shortest, cropped to what is left; the rest of a cropped document is dropped. For T inputs
# and T targets a row needs T + 1 tokens: the target of a position is the token after it.
#
# Return three things: the inputs (T ids), the targets (T ids), and the documents that still wait, in their order. Leave
# `buffer` itself as it is. There are always enough documents.
#
# A tiny example with T = 7, and 0 for BOS: `[[0, 1, 1], [0, 2, 2, 2, 2], [0, 3]]`. The row is 0 2 2 2 2 0 1 1. The inputs are
# `[0, 2, 2, 2, 2, 0, 1]`, the targets `[2, 2, 2, 2, 0, 1, 1]`, and `[[0, 3]]` waits.
#
# <details><summary>Help: I am one token short</summary>
#
# T inputs have T - 1 targets among themselves. The last one needs another token, so fill T + 1 places and cut: all but the
# last, and all but the first.
# </details>
# <details><summary>Help: may I use my answer to 2.2?</summary>
#
# Yes. If it does not pass its check, the grader gives this answer the course's own `choose`, and the report says so.
# </details>
#
# The picture shows the first row of 64 inputs that your function makes of real documents. It begins with BOS.


# %% tags=["answer", "ex-2.3"]
def next_row(buffer, T):
    """(inputs, targets, waiting): T ids, T ids, and the list of documents left. buffer: a list of lists of ids."""
    ### BEGIN SOLUTION
    row, waiting = [], list(buffer)
    while len(row) < T + 1:
        space = T + 1 - len(row)
        fitting = [i for i, document in enumerate(waiting) if len(document) <= space]
        if fitting:
            i = max(fitting, key=lambda i: len(waiting[i]))
        else:
            i = min(range(len(waiting)), key=lambda i: len(waiting[i]))
        row += waiting.pop(i)[:space]
    return row[:-1], row[1:], waiting
    ### END SOLUTION


# %% tags=["check", "ex-2.3"]
from gpt2course.course.checks import check

check("2.3", next_row)

# %% tags=["picture", "ex-2.3"]
def draw(f):
    inputs, _, _ = f([document for document in DOCUMENTS if len(document) < 60], 64)
    return plots.coloured_tokens([tok.decode([int(i)]) for i in inputs])


pictures("2.3", draw, next_row)

# %% [markdown] tags=["ex-2.4"]
# ## 2.4 Deal the rows to ranks
#
# `streams` is a list of S streams, each a list of the rows that it has packed, in order. Together they make one global order
# of rows that has nothing to do with the number of ranks: global row j is from stream j mod S, and each stream gives its rows
# one after the other. With `world` ranks, rank r gets the global rows r, r + world, r + 2 · world, and so on. Return the first
# n rows of one rank, in order.
#
# A tiny example: four streams with the rows a0 a1 ..., b0 b1 ..., c0 c1 ... and d0 d1 .... The global order is a0 b0 c0 d0 a1
# b1 .... With two ranks, rank 0 gets a0 c0 a1 c1 ....
#
# <details><summary>Help: which row of its stream is global row j?</summary>
#
# Each round of S rows takes one from every stream. Before row j there were j // S whole rounds.
# </details>
# <details><summary>Help: why not give rank 0 the first half of a batch?</summary>
#
# It would work for one batch size. With row numbers dealt in turn, the same rows make a batch for any number of ranks and any
# number of rows in a batch.
# </details>
#
# The picture shows, for 1, 2, 4 and 8 ranks, which rank gets each of the first 16 global rows. Each line holds each rank
# equally often, and numbers run from left to right.


# %% tags=["answer", "ex-2.4"]
def rank_rows(streams, rank, world, n):
    """The first n rows of a rank, a list. streams: a list of lists of rows; rank: 0 to world - 1."""
    ### BEGIN SOLUTION
    S, rows = len(streams), []
    for k in range(n):
        j = k * world + rank  # the number of the row in the global order
        rows.append(streams[j % S][j // S])
    return rows
    ### END SOLUTION


# %% tags=["check", "ex-2.4"]
from gpt2course.course.checks import check

check("2.4", rank_rows)

# %% tags=["picture", "ex-2.4"]
numbered = [[s + 8 * m for m in range(2)] for s in range(8)]  # a row is its global number


def draw(f):
    dealt = {}
    for world in (1, 2, 4, 8):
        owner = {j: rank for rank in range(world) for j in f(numbered, rank, world, 16 // world)}
        dealt[world] = [owner[j] for j in range(16)]
    return figures.dealing(dealt)


pictures("2.4", draw, rank_rows)

# %% [markdown] tags=["ex-2.5"]
# ## 2.5 What a run needs to read
#
# A run trains on `tokens` tokens in rows packed by best fit, and a share `cropped` of all tokens that are read is lost. The
# text has `chars_per_token` characters a token. A shard holds 250 million characters and takes 0.1 GB on disk, where it is
# compressed. Nothing is read twice. Return three numbers: the whole shards to fetch, with one more for validation; the
# gigabytes of all these shards on disk; and the megabytes of text, at one byte a character, that must be read each second so
# that `tokens_per_second` tokens can be trained on.
#
# A tiny example: 1 billion tokens, half of them cropped, 4 characters a token. 2 billion tokens must be read, 8 billion
# characters, 32 shards. With the validation shard that makes 33 shards and 3.3 GB. Training on 1,000,000 tokens a second needs
# 8 MB a second.
#
# <details><summary>Help: a third is cropped, so I read a third more?</summary>
#
# If a third of what you read is lost, two thirds are left. To be left with N tokens, read N / (1 - 1/3), one half more.
# </details>
# <details><summary>Help: half a shard</summary>
#
# Shards are fetched whole, so round up: `math.ceil`.
# </details>
#
# The picture shows the shards that the recipe `jan29` needs at each depth. The line bends upwards: a deeper model is wider
# too, and each of its scaling parameters gets 12 tokens.


# %% tags=["answer", "ex-2.5"]
def data_bill(tokens, cropped, chars_per_token, tokens_per_second):
    """(shards, gigabytes on disk, megabytes of text a second): three numbers. cropped: a share, 0 to 1."""
    ### BEGIN SOLUTION
    read = 1 / (1 - cropped)  # tokens read for each token that is trained on
    shards = math.ceil(tokens * read * chars_per_token / 250e6) + 1
    return shards, shards * 0.1, tokens_per_second * read * chars_per_token / 1e6
    ### END SOLUTION


# %% tags=["check", "ex-2.5"]
from gpt2course.course.checks import check

check("2.5", data_bill)

# %% tags=["picture", "ex-2.5"]
tokens = {depth: resolve("jan29", depth=depth).tokens for depth in (8, 12, 16, 20, 24, 28)}


def draw(f):
    return figures.shards_by_depth({depth: float(f(n, 0.35, 4.8, 800_000)[0]) for depth, n in tokens.items()})


pictures("2.5", draw, data_bill)
