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
# # 02 Data: from documents to rows
#
# **Goal:** build the loader that lays documents into rows, row for row like the package's, and train a model on your rows.
#
# 35 minutes, and 60 for the exercises; any CPU will do.
#
# Lesson 01 turned a document into tokens. A model reads *rows*, which all have one length. This lesson lies in between.

# %% [markdown]
# Six documents, A to F, one letter a token. A row takes 8. The simplest loader glues all documents together and cuts:

# %%
text = "A" * 5 + "B" * 2 + "C" * 7 + "D" * 4 + "E" * 10 + "F" * 3
for start in range(0, len(text), 8):
    print(text[start : start + 8])

# %% [markdown]
# Every letter is there. Yet something is lost: the second row begins in the middle of C. A model that reads this row has to
# guess the end of a text whose beginning it has never seen. In use that does not happen, since a text begins at its beginning.
#
# **The question of this lesson: what is lost between a document and a row?** Three things can be lost: the beginnings of
# texts, places in rows, or the ends of texts. You can choose which, and how much.
#
# One number to guess. A good loader chooses among 1,000 waiting documents, so that most fit into their row whole. What share
# of all tokens does it still cut off, after some thousands of rows?

# %%
from gpt2course.course import lab

lab.predict("02.cropped", 0.02)  # a share, 0 to 1

# %% [markdown]
# ## Look at the documents
#
# Look at the data first. The embedded corpus has titles and leads of Wikipedia articles, and pieces of addresses to the US
# Congress.

# %%
from gpt2course.data import load_corpus

corpus, tok = load_corpus("embedded"), lab.tokenizer()
print(f"{len(corpus.train):,} documents; the first: {corpus.train[0][:70]} ...")

# %% [markdown]
# Their lengths in tokens, each with a BOS in front. The dashed line is a row of 513 tokens: T = 512 inputs, and one more,
# because each input has the next token as its target.

# %%
from gpt2course.course import plots
from gpt2course.course.figures import data as figures

texts, T = [corpus.train[i] for i in range(4000)], 512
documents = tok.encode_batch(texts, bos=True)  # 4000 lists of ids
lengths = [len(document) for document in documents]
plots.show(figures.lengths_histogram(lengths, marks=(T + 1,)))

# %% [markdown]
# ## Three ways to fill a row
#
# Which token goes where depends on lengths alone, so a row can be planned without tokens. A plan is a list of pieces. A piece
# is (document, tokens in this row, tokens of it in earlier rows, tokens lost). First the stream from above:

# %%
def stream(lengths, T):
    """Rows cut from one long stream of all documents."""
    row, space = [], T + 1
    for document, n in enumerate(lengths):
        done = 0
        while done < n:
            here = min(n - done, space)
            row.append((document, here, done, 0))
            done, space = done + here, space - here
            if space == 0:
                yield row
                row, space = [], T + 1

# %% [markdown]
# The opposite: every document gets a row of its own. *Padding* fills the empty places and counts for nothing. A document
# longer than the row loses its end; that is called *cropping*.

# %%
def padded(lengths, T):
    """One document a row."""
    for document, n in enumerate(lengths):
        here = min(n, T + 1)
        yield [(document, here, 0, n - here)]

# %% [markdown]
# The third keeps the order and crops whatever does not fit. No padding, no missing beginning:

# %%
def in_order(lengths, T):
    """Documents in order; the one that does not fit is cropped."""
    row, space = [], T + 1
    for document, n in enumerate(lengths):
        here = min(n, space)
        row.append((document, here, 0, n - here))
        space -= here
        if space == 0:
            yield row
            row, space = [], T + 1

# %%
toy = [5, 2, 7, 4, 10, 3]
ways = {"stream": stream, "padded": padded, "in order": in_order}
plans = {name: list(way(toy, 7)) for name, way in ways.items()}
plots.show(figures.rows_raster(plans, 8, names="ABCDEF"))

# %% [markdown]
# Each way fails in its own manner. To say how badly, measure. The first hole: three shares from a list of rows.

# %% tags=["hole"]
def measure(rows, T):
    """Shares (cropped, padding, headless). Cropped: of all tokens, kept or lost.
    Padding, headless (pieces of documents begun before): of all places."""
    ### BEGIN SOLUTION
    pieces = [piece for row in rows for piece in row]
    kept, lost = sum(p[1] for p in pieces), sum(p[3] for p in pieces)
    places = len(rows) * (T + 1)
    headless = sum(p[1] for p in pieces if p[2] > 0)
    return lost / (kept + lost), 1 - kept / places, headless / places
    ### END SOLUTION

# %%
tests = [([[(0, 5, 0, 0)], [(2, 8, 0, 9)]], 7), ([[(0, 5, 0, 0), (1, 3, 2, 0)]], 9)]
measure = lab.hole("02", measure, *tests)

# %%
for name, way in ways.items():
    cropped, padding, headless = measure(list(way(lengths, T)), T)
    shares = f"{cropped:6.1%} cropped {padding:6.1%} padding {headless:6.1%} headless"
    print(f"{name:9} {shares}")

# %% [markdown]
# On real documents the stream takes the beginning from more than a quarter of all tokens. Padding wastes more than half of
# the places, and so of the arithmetic. Cropping in order throws almost a quarter of the text away. Nobody has to accept these
# numbers: the fault of the third way is that it never *chooses*.
#
# ## Best fit
#
# Let documents wait in a buffer, and choose. *Packing* is the name for laying documents into rows; *best fit* is this rule:
# take the longest one that fits. If none fits, take the shortest, since its end is what you lose. Among equals take the
# first. The second hole is the heart of the loader:

# %% tags=["hole"]
def choose(lengths, space):
    """The place in the list of the document to put next. space: what is left."""
    ### BEGIN SOLUTION
    fitting = [i for i, n in enumerate(lengths) if n <= space]
    if fitting:  # max and min give the first of equals
        return max(fitting, key=lambda i: lengths[i])
    return min(range(len(lengths)), key=lambda i: lengths[i])
    ### END SOLUTION

# %%
tests = [([3, 5, 8, 2], 6), ([4, 6, 9], 6), ([5, 2, 5], 5), ([9, 7, 7, 8], 6), ([4], 9)]
choose = lab.hole("02", choose, *tests)

# %% [markdown]
# Follow the six documents through rows of 8.

# %%
waiting, space = [("ABCDEF"[i], n) for i, n in enumerate(toy)], 8
while waiting:
    name, n = waiting.pop(choose([n for _, n in waiting], space))
    lost = f", {n - space} lost" if n > space else ""
    print(f"{space} places: {name} has {n}{lost}")
    space = space - n if n < space else 8

# %% [markdown]
# What is missing is where documents come from. Before each choice, while fewer than 1,000 wait, the next 128 are read, but
# never across the end of the corpus.

# %%
class Packer:
    """Rows by best fit, without end: lists of pieces."""

    def __init__(self, lengths, T, buffer_docs=1000):
        self.lengths, self.T = lengths, T
        self.target = min(buffer_docs, len(lengths))
        self.buffer, self.position = [], 0  # who waits; the next document to read

    def row(self):
        pieces, space = [], self.T + 1
        while space:
            while len(self.buffer) < self.target:
                end = min(self.position + 128, len(self.lengths))
                self.buffer += range(self.position, end)
                self.position = end % len(self.lengths)
            place = choose([self.lengths[d] for d in self.buffer], space)
            document = self.buffer.pop(place)
            here = min(self.lengths[document], space)
            pieces.append((document, here, 0, self.lengths[document] - here))
            space -= here
        return pieces

# %% [markdown]
# A plan becomes a row when the tokens are laid in. -1 is padding; the loss ignores it.

# %%
def lay(pieces, documents, T):
    tokens = [t for d, n, done, _ in pieces for t in documents[d][done : done + n]]
    return tokens + [-1] * (T + 1 - len(tokens))


first = lay(Packer(lengths, 64).row(), documents, 64)
plots.show(plots.coloured_tokens([tok.decode([i]) for i in first]))

# %% [markdown]
# The package's version of this loop, whole. It follows the same rule. It only searches in another way: it keeps the waiting
# lengths sorted and bisects, where `choose` looks at all of them.

# %%
import inspect

from gpt2course.batches import Batches, _Stream
from gpt2course.data import from_list

print(inspect.getsource(_Stream.fill))

# %% [markdown]
# Row for row, your loader must give the package's tokens. The last case goes through 400 documents several times.

# %%
import torch

for n_docs, T_, n in ((4000, 128, 400), (4000, 512, 400), (400, 256, 800)):
    packer = Packer(lengths[:n_docs], T_, 200)
    yours = torch.tensor([lay(packer.row(), documents, T_) for _ in range(n)])
    ours = Batches(from_list(texts[:n_docs]), tok, T_, streams=1, buffer_docs=200)
    lab.compare(yours, ours.next_rows(n))

# %% [markdown]
# ## Yours trains
#
# Keep your `choose`, and train two small models with the course's loop: one on the package's rows, one on yours.

# %%
lab.keep("packing", choose)
package = lab.train(steps=40)
yours = lab.train_with("packing", steps=40)
lab.compare(torch.tensor(yours["loss"]), torch.tensor(package["loss"]))

# %%
plots.show(figures.curves({"the package's": package["loss"], "yours": yours["loss"]}))

# %% [markdown]
# The same rows, so the same losses, step for step. Later lessons get your packing by `lab.mine("packing")`.
#
# ## Does it stay that good?
#
# Back to your guess. Below, best fit with 1,000 waiting over 4,000 rows, beside cropping in order. The dashed line counts
# tokens beyond the end of a row in documents longer than one: no packing can keep those in the long run.

# %%
packer, cropped, long = Packer(lengths, T), [], []
for _ in range(10):
    cropped.append(measure([packer.row() for _ in range(400)], T)[0])
    long.append(sum(lengths[d] > T + 1 for d in packer.buffer) / len(packer.buffer))

# %%
rows = list(in_order(lengths * 8, T))
ordered = [measure(rows[i : i + 400], T)[0] for i in range(0, 4000, 400)]
least = sum(max(0, n - T - 1) for n in lengths) / sum(lengths)
lines = {"in order": ordered, "best fit": cropped}
plots.show(figures.cropping(lines, 400, least, long))
lab.result("02.cropped", round(cropped[-1], 3))

# %% [markdown]
# It loses more and more. The lower picture shows why. A document longer than a row never fits, and it leaves the buffer only
# when it is the shortest of all. So long documents collect, and less is left to choose from. At first best fit is even below
# the dashed line, because the long ones wait. Even here it has not settled: the share of long
# documents still rises. Measure a loader late, and cut very long documents before packing.
#
# ## Stop and resume
#
# A run of three hours will be stopped one day. Its loader must then continue with the very next row. The naive way saves how
# far it has read. Try it after 700 rows:

# %%
def rows_of(packer, n):
    return [packer.row() for _ in range(n)]


packer = Packer(lengths, T)
rows_of(packer, 700)
position, buffer = packer.position, list(packer.buffer)
expected = rows_of(packer, 300)

again = Packer(lengths, T)
again.position = position
same = sum(a == b for a, b in zip(rows_of(again, 300), expected))
print(f"{same} of 300 rows are the same; {len(buffer)} documents are passed over")

# %% [markdown]
# The waiting documents are lost: they were read long ago. nanochat's checkpoint holds the position alone. For one long run
# that is a small loss. But a stopped run then sees other rows than one that was not stopped, and you cannot tell a bug from
# the changed data. The fix is to save who waits:

# %%
again = Packer(lengths, T)
again.position, again.buffer = position, list(buffer)
same = sum(a == b for a, b in zip(rows_of(again, 300), expected))
print(f"{same} of 300 rows are the same")

# %% [markdown]
# ## Several GPUs, one order
#
# Eight GPUs, or *ranks*, need eight different rows at a time. Naive: of w ranks, rank r packs every w-th document. Then a run
# begun on two GPUs cannot continue on one:

# %%
def naive(world, n=16):
    packers = [Packer(lengths[rank::world], T) for rank in range(world)]
    rows = [(j % world, packers[j % world].row()) for j in range(n)]
    return [[(d * world + rank, n) for d, n, *_ in row] for rank, row in rows]


one, two = naive(1), naive(2)
print(sum(row in one for row in two), "of 16 rows are the same")

# %% [markdown]
# The fix: deal documents to a fixed number of *streams*, eight by default, and pack each by itself. Global row j comes from
# stream j mod 8, whose rows come one after the other. Of w ranks, rank r serves the rows with j mod w = r. The third hole:

# %% tags=["hole"]
def place(j, streams, world):
    """(stream of global row j, its number in that stream, rank that serves it)."""
    ### BEGIN SOLUTION
    return j % streams, j // streams, j % world
    ### END SOLUTION

# %%
place = lab.hole("02", place, (0, 8, 2), (13, 8, 4), (21, 6, 3), (7, 1, 1))
dealt = {world: [place(j, 8, world)[2] for j in range(16)] for world in (1, 2, 4, 8)}
plots.show(figures.dealing(dealt))

# %% [markdown]
# Read a column: row 5 is the same row in every line, whichever rank serves it. Your eight packers against the package with 2
# and with 8 ranks, their rows put together again:

# %%
packers = [Packer(lengths[s::8], T) for s in range(8)]
yours = []
for j in range(200):
    s = place(j, 8, 1)[0]
    yours.append(lay(packers[s].row(), documents[s::8], T))
for world in (2, 8):
    split = from_list(texts)
    ranks = [Batches(split, tok, T, rank=r, world=world) for r in range(world)]
    rows = [torch.from_numpy(rank.next_rows(200 // world)) for rank in ranks]
    lab.compare(torch.tensor(yours), torch.stack(rows, dim=1).flatten(0, 1))

# %% [markdown]
# ## The experiment: what does a loss cost?
#
# Same model, same 4,000 documents, same number of places, so the same FLOPs. Which way to fill rows trains best? A way with
# fewer tokens in a row may want another learning rate, so each way got its own sweep. These runs are recorded.

# %%
recorded = lab.recorded("packing-rates")
bpb = {}
for r in recorded:
    bpb.setdefault(r["way"], {}).setdefault(r["rate"], []).append(r["val_bpb"])
best = {way: min(rates, key=lambda x: sum(rates[x][:2])) for way, rates in bpb.items()}
for way, rates in bpb.items():
    means = {f"{rate:g}": round(sum(v[:2]) / 2, 3) for rate, v in sorted(rates.items())}
    print(f"{way:18} {means}, best {best[way]:g}")

# %% [markdown]
# Validation bits per byte, mean of two seeds, for the recipe's rate times a factor. Now one seed live, each way at its best
# factor. The first 500 rows are left out, so that best fit has settled a little.

# %%
import random
from itertools import islice

from gpt2course.recipes import resolve

plan = resolve("modern", **(lab.TOY | dict(sequence_len=T, steps=50)))
chosen = random.Random(1).sample(range(len(corpus.train)), 4000)
drawn = tok.encode_batch([corpus.train[i] for i in chosen], bos=True)
n = [len(d) for d in drawn]
packer = Packer(n, T)
fills = {"stream": stream(n, T), "one document a row": padded(n, T)}
fills["best fit"] = (packer.row() for _ in range(600))

# %%
for name, fill in fills.items():
    rows = [lay(row, drawn, T) for row in islice(fill, 500, 600)]
    found = figures.train_rows(rows, plan, seed=1, rate=best[name])
    print(f"{name:18} {found['val_bpb']:.3f}, recorded {bpb[name][best[name]][0]:.3f}")

# %% [markdown]
# The verdicts use the three recorded seeds of each way at its best rate:

# %%
for name in ("stream", "one document a row"):
    print(f"from {name} to best fit:")
    lab.verdict(bpb[name][best[name]], bpb["best fit"][best["best fit"]])
print(lab.provenance(recorded))

# %% [markdown]
# One document a row is behind by far more than the spreads: it paid for as many places as the others and learned from less
# than half of them. Between the stream and best fit no difference is shown with three seeds. The rates were swept on all
# sides; the weight decay is the recipe's and was not. Nor does it show what happens when documents run out, where cropping
# would cost and the stream would not.
#
# ## At full size
#
# The packing comes from nanochat, whose log gives these shares for web text at T = 2,048 (dev/LOG.md, 13 January 2026):
#
# | way | cropped | padding |
# |---|---|---|
# | in order, cropped | 39.4 % | 0 |
# | in order, padded | 23.0 % | 22 % |
# | longest first, padded | 23.0 % | 0.3 % |
# | best fit with cropping | 34.6 % | 0 |
# | beyond the end of any row | 22.9 % | |
#
# Even best fit throws away a third of all web text, under five points less than in order. Longest first, with a little
# padding, would crop only 23.0 %; the log does not say why it was not taken. Text was plentiful. The loss fell when rows began with BOS, and the log calls that "fake" to some extent: validation rows
# had become easier too.
#
# Two things that did not help: hiding the other documents of a row from attention (lesson 03) gained 0.0002 bits per byte at
# depth 16, "almost noise" (same log); and a search by a sorted list packs about 4 times faster alone, but a whole loader only 1.5 to
# 1.8 times (results/2026-11-23_packing), because the tokenizer takes most of the time.
#
# What does the run of January 2026 have to read?

# %%
tokens, cropped = resolve("jan29", depth=24).tokens, 0.346
print(f"trained on {tokens / 1e9:.2f} billion, read {tokens / (1 - cropped) / 1e9:.1f}")

# %% [markdown]
# ## The answer
#
# What is lost between a document and a row? It depends on the loader, and each loses another thing (T = 512, our corpus):
#
# - the stream loses beginnings: 29 % of the places;
# - padding loses places: 55 %;
# - cropping in order loses ends: 23 to 24 % of the tokens;
# - best fit loses ends too: 1 % at first, 12 % after 4,000 rows.
#
# And a loader that resumes from its position alone loses 1,083 whole documents at every stop.
#
# ## Questions
#
# 1. At T = 2,048 no packing of web text can crop less than 22.9 %. What could you change instead?
#
# <details><summary>Answer</summary>
#
# The documents or the row. Cut long documents into pieces, each with its own BOS, or make rows longer. Pieces after the first
# then lack their beginning, as in the stream.
# </details>
#
# 2. When would you prefer the stream?
#
# <details><summary>Answer</summary>
#
# When text is scarce and documents are long: it loses no token, and the alternative is to read the same text again.
# </details>
#
# 3. You want to continue with 16 streams where a run had 8. What happens?
#
# <details><summary>Answer</summary>
#
# The package refuses. Other streams mean other rows from here on. The number of ranks may change, if it divides the streams.
# </details>
#
# 4. A row has the ends of two articles. Can the second one's tokens look at the first?
#
# <details><summary>Answer</summary>
#
# Yes: a token sees all that stands before it in the row. The BOS between them tells the model that what came before is of no
# use, and it learns that.
# </details>

# %% [markdown]
# > **Takeaway.** Documents have all lengths, rows have one, so something is lost: beginnings, places, or ends. Best fit loses
# > ends, and more of them once long documents fill its buffer. The order of rows is part of a run. It must depend neither on a
# > stop nor on the number of GPUs, so a loader saves who waits and deals documents to a fixed number of streams.
#
# Exercises: [exercises/02_data.ipynb](../exercises/02_data.ipynb). `make start EX=02` gives you a copy to work on.
#
# ## Further reading
#
# - Best-fit packing of training text: [arXiv 2404.10830](https://arxiv.org/abs/2404.10830), "Fewer Truncations Improve
#   Language Modeling".
# - The corpora: FineWeb-Edu [2406.17557](https://arxiv.org/abs/2406.17557), ClimbMix
#   [2504.13161](https://arxiv.org/abs/2504.13161).
# - nanochat's log of experiments: `dev/LOG.md` in github.com/karpathy/nanochat.
