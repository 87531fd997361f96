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
# One function that measures, one that chooses, a broken loader to repair, and one that counts costs. Replace each `raise
# NotImplementedError` by your answer and run the check below it. The lesson is [02 Data](../lessons/02_data.ipynb).
#
# Only answers in work/ are graded: `make start EX=02` puts your copy of this notebook there, `make grade EX=02` grades it.
# Until you run a check, it shows the line that a right answer prints.
#
# Plain Python is enough everywhere.

# %% tags=["setup"]
import json
import math

from gpt2course.course import lab
from gpt2course.course.checks import pictures
from gpt2course.data import load_corpus
from gpt2course.course.figures import data as figures
from gpt2course.recipes import resolve

corpus, tok = load_corpus("embedded"), lab.tokenizer()
TEXTS = [corpus.train[i] for i in range(800)]
LENGTHS = [len(ids) for ids in tok.encode_batch(TEXTS, bos=True)]  # tokens of 800 documents, each with BOS

# %% [markdown] tags=["ex-2.1"]
# ## 2.1 Who loses?
#
# The lesson measured one cropped share for all documents. A mean hides who pays. Measure the share for short and long documents
# apart.
#
# `rows` is a list of rows; a row is a list of pairs (document, tokens of it that lie in this row). `lengths[document]` is the
# number of tokens that a document has. `edges` cuts lengths into classes: with `[100, 300]` there are three, up to 100 tokens,
# 101 to 300, and more than 300. Return a list with one share for each class: the tokens that documents of this class have lost,
# divided by all tokens that these documents had.
#
# A document may be continued in a later row; all its pieces are kept. A document in no row is still waiting, and does not count.
# A class without documents gets 0.0.
#
# A tiny example: lengths `[5, 3, 9, 20, 100]`, edges `[4, 10]`, rows `[[(0, 5), (1, 3)], [(2, 8)], [(3, 8)], [(3, 4)]]`. Up to 4:
# document 1 lost nothing, 0. From 5 to 10: documents 0 and 2 had 14 tokens and lost 1, so 1/14. More than 10: document 3 had 20
# and lost 8, so 0.4; document 4 waits.
#
# <details><summary>Help: a document in two rows</summary>
#
# Add up its pieces first, in a dictionary from document to tokens. What is missing in the sum is lost.
# </details>
# <details><summary>Help: which class?</summary>
#
# Count the edges that the length is greater than: 0 of them is the first class.
# </details>
#
# The picture shows 300 rows of 257 tokens packed by best fit. Which documents pay, and why? (Those longer than 400 tokens all
# still wait.)


# %% tags=["answer", "ex-2.1"]
def by_length(rows, lengths, edges):
    """A list of len(edges) + 1 shares. rows: lists of (document, tokens); lengths: tokens of each document."""
    ### BEGIN SOLUTION
    placed = {}
    for row in rows:
        for document, n in row:
            placed[document] = placed.get(document, 0) + n
    had, lost = [0] * (len(edges) + 1), [0] * (len(edges) + 1)
    for document, n in placed.items():
        at = sum(lengths[document] > edge for edge in edges)
        had[at] += lengths[document]
        lost[at] += lengths[document] - n
    return [a / b if b else 0.0 for a, b in zip(lost, had)]
    ### END SOLUTION


# %% tags=["check", "ex-2.1"]
from gpt2course.course.checks import check

check("2.1", by_length)

# %% tags=["picture", "ex-2.1"]
packed_rows = [[(d, n) for d, n, _, _ in row] for row in figures.packed(LENGTHS, 257, 300)]


def draw(f):
    names = ["up to 128", "129 to 257", "more than 257"]
    return figures.losses(dict(zip(names, map(float, f(packed_rows, LENGTHS, [128, 257])))))


pictures("2.1", draw, by_length)

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
# ## 2.3 Repair the loader
#
# This loader makes one pass over the documents. It packs rows by best fit, and can be stopped: `serve` returns the next `n` rows
# and a state, which the caller saves as JSON and gives back at the next call (`None` at the first). It loses documents in three
# ways.
#
# ```python
# def serve(lengths, row_tokens, buffer_docs, n, state):
#     position = state["position"] if state else 0  # the next document to read
#     waiting, rows = [], []
#     while len(rows) < n and position < len(lengths):
#         row, space = [], row_tokens
#         while space:
#             while len(waiting) < buffer_docs and position < len(lengths):
#                 if lengths[position] <= row_tokens:
#                     waiting.append(position)
#                 position += 1
#             if not waiting:
#                 break
#             place = choose([lengths[d] for d in waiting], space)
#             document = waiting.pop(place)
#             here = min(lengths[document], space)
#             row.append((document, here))
#             space -= here
#         rows.append(row)
#     return rows, {"position": position}
# ```
#
# Repair it: **every document must come exactly once**, whole or cropped, and the rows must be the same however often the loader
# is stopped. A row is a list of pairs (document, tokens in this row). Only the last row may have empty places. At the end fewer
# than `n` rows come out, then none. You may use your `choose` of 2.2.
#
# A tiny example: lengths `[5, 2, 7, 4, 10, 3]`, rows of 8, 3 documents waiting. The rows are `[(2, 7), (1, 1)]`, `[(0, 5), (5,
# 3)]` and `[(3, 4), (4, 4)]`, in one call with n = 3 or in three calls with n = 1.
#
# <details><summary>Help: how do I find the three?</summary>
#
# Run it on the tiny example and count each document: once with n = 10, then with n = 1 and the state given back. Which are
# missing? A long one, some at the end, some at a stop?
# </details>
# <details><summary>Help: my state does not fit into JSON</summary>
#
# JSON has numbers, texts, lists, and dicts with texts as keys. A set or a tensor must become a list.
# </details>
#
# The picture shows the tiny example, stopped after every row. All six letters are there.


# %% tags=["answer", "ex-2.3"]
def serve(lengths, row_tokens, buffer_docs, n, state):
    """(the next n rows, the state after them). state: None at the first call, then what the call before returned."""
    ### BEGIN SOLUTION
    position = state["position"] if state else 0
    waiting = list(state["waiting"]) if state else []  # 1: who waits is part of the state
    rows = []
    while len(rows) < n and (waiting or position < len(lengths)):  # 2: go on until none waits
        row, space = [], row_tokens
        while space:
            while len(waiting) < buffer_docs and position < len(lengths):
                waiting.append(position)  # 3: a document longer than a row is cropped, not skipped
                position += 1
            if not waiting:
                break
            place = choose([lengths[d] for d in waiting], space)
            document = waiting.pop(place)
            here = min(lengths[document], space)
            row.append((document, here))
            space -= here
        rows.append(row)
    return rows, {"position": position, "waiting": waiting}
    ### END SOLUTION


# %% tags=["check", "ex-2.3"]
from gpt2course.course.checks import check

check("2.3", serve)

# %% tags=["picture", "ex-2.3"]
def draw(f):
    lengths, rows, state = [5, 2, 7, 4, 10, 3], [], None
    for _ in range(4):
        some, state = f(lengths, 8, 3, 1, state)
        rows, state = rows + [[(int(d), int(n)) for d, n in row] for row in some], json.loads(json.dumps(state))
    plan = [[(d, n, 0, lengths[d] - n) for d, n in row] for row in rows]
    return figures.rows_raster({"stopped after every row": plan}, 8, names="ABCDEF")


pictures("2.3", draw, serve)

# %% [markdown] tags=["ex-2.4"]
# ## 2.4 What a run needs to read
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


# %% tags=["answer", "ex-2.4"]
def data_bill(tokens, cropped, chars_per_token, tokens_per_second):
    """(shards, gigabytes on disk, megabytes of text a second): three numbers. cropped: a share, 0 to 1."""
    ### BEGIN SOLUTION
    read = 1 / (1 - cropped)  # tokens read for each token that is trained on
    shards = math.ceil(tokens * read * chars_per_token / 250e6) + 1
    return shards, shards * 0.1, tokens_per_second * read * chars_per_token / 1e6
    ### END SOLUTION


# %% tags=["check", "ex-2.4"]
from gpt2course.course.checks import check

check("2.4", data_bill)

# %% tags=["picture", "ex-2.4"]
tokens = {depth: resolve("jan29", depth=depth).tokens for depth in (8, 12, 16, 20, 24, 28)}


def draw(f):
    return figures.shards_by_depth({depth: float(f(n, 0.35, 4.8, 800_000)[0]) for depth, n in tokens.items()})


pictures("2.4", draw, data_bill)
