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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gpt2course/gpt2course/blob/main/lessons/02_data.ipynb)
#
# **Goal:** build the loader that lays documents into rows, token for token like the package's, and that goes on after a stop
# exactly where it was.
#
# 40 minutes; any computer, no GPU. Explains [batches.py](../gpt2course/batches.py), with a glance at
# [data.py](../gpt2course/data.py).
#
# Before: [01 Tokenizer](01_tokenizer.ipynb). Next: [03 GPT](03_gpt.ipynb). Exercises: [02](../exercises/02_data.ipynb).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("gpt2course") is None:  # a hosted notebook: fetch and install the course first
    # !git clone -q https://github.com/gpt2course/gpt2course course && pip install -q -e "course[course]"
    import sys; sys.path.insert(0, "course")  # not gpt2course: Python would take that folder for the package

# %% [markdown]
# ## Where we are
#
# The tokenizer turns a document into numbers. A model is trained on rows of numbers that all have one length, and documents
# have all lengths. This lesson is about what happens in between. The ladder is our goal; all its rungs read the same rows.

# %%
import inspect
import json
import random
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from gpt2course.course import lab, plots
from gpt2course.batches import Batches, _Stream, merge_states
from gpt2course.data import from_list, load_corpus
from gpt2course.evaluate import bits_per_byte, first_bytes
from gpt2course.course.figures import data as figures
from gpt2course.recipes import LADDER, PROFILES, make_model, make_optimizer, resolve

plots.show(plots.strip(2))
plots.show(plots.ladder(lab.ladder(), list(LADDER)))

# %% [markdown]
# The new words of this lesson:

# %%
lab.words("02")

# %% [markdown]
# ## Before you run anything
#
# A thousand documents wait. To fill a row, the packer takes the longest one that still fits into what is left of the row,
# again and again. Only when none of the thousand fits does it crop one. At first it loses almost nothing that way. After 4,000
# rows of this, will it lose less, as much, or more? Write down your guess and a reason. You will measure it.
#
# ## Look at the documents
#
# Always look at the data first. The embedded corpus has two kinds of documents, and the order is mixed by hash.

# %%
corpus, tok = load_corpus("embedded"), lab.tokenizer()
print(f"{len(corpus.train):,} documents to train on, {corpus.train.bytes:,} bytes; {len(corpus.val)} to validate on")
for i in (0, 4, 1):
    print(f"[{i}]", corpus.train[i][:160].replace("\n", " / "), "...")

# %% [markdown]
# Titles and leads of Wikipedia articles, and pieces of addresses to the US Congress. Now their lengths in tokens, each
# document with a BOS in front. The dashed lines are rows for T = 128 and T = 512: how many documents are longer?

# %%
texts = [corpus.train[i] for i in range(4000)]
documents = tok.encode_batch(texts, bos=True)  # 4000 lists of ids, each beginning with BOS
lengths = [len(document) for document in documents]
plots.show(figures.lengths_histogram(lengths, marks=(129, 513)))

# %% [markdown]
# Most documents have between 100 and 400 tokens, and there is a tail to the right. The web's tail is far longer. How often
# would a run go through all of them? One pass is an *epoch*. (The count is for this lesson's tokenizer of 1,024 tokens; a
# larger vocabulary makes fewer tokens of the same text, and so more epochs.)

# %%
tokens = sum(lengths) * len(corpus.train) / len(texts)  # an estimate from 4,000 of the documents
laptop = PROFILES["laptop"]["steps"] * PROFILES["laptop"]["batch_tokens"]
print(f"the corpus has about {tokens / 1e6:.1f} million tokens")
for name, trained in {"the laptop profile": laptop, "jan29 at depth 24": resolve("jan29", depth=24).tokens}.items():
    print(f"{name} trains on {trained / 1e6:,.1f} million tokens: {trained / tokens:,.1f} epochs")

# %% [markdown]
# A real run needs a corpus thousands of times larger. That comes as *shards*, files small enough to fetch one by one and to
# read a block at a time. Here are three tiny shards, read by the course's loader.

# %%
with tempfile.TemporaryDirectory() as folder:
    for n in range(3):
        lines = [json.dumps({"text": text}) for text in texts[100 * n : 100 * n + 100]]
        Path(folder, f"shard_{n:05d}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    ours = load_corpus(folder)
print(f"{len(ours.train)} documents to train on, {len(ours.val)} to validate on, which are {ours.val_name}")

# %% [markdown]
# One shard is kept for validation, and it must stay the same one. The reference, nanochat, once took the last shard *on disk*,
# so who had fetched more shards got another validation text, and other bits per byte (its issue 541). The course names the
# shard, and stores the hash of its text with each result.
#
# ## Three ways to fill a row
#
# A model with T inputs predicts T targets, each the token after its input. So a row has T + 1 tokens.

# %%
row = torch.tensor([10, 11, 12, 13, 14])  # T = 4
print("inputs ", row[:-1].tolist())
print("targets", row[1:].tolist())

# %% [markdown]
# Which token goes where depends on lengths alone, so we can plan rows without looking at any token. A piece is (document,
# tokens in this row, tokens in earlier rows, tokens lost). The simplest plan: glue all documents into one long stream and cut
# it every T + 1 tokens.

# %%
def stream(lengths, T):
    """Rows cut from one long stream: lists of pieces (document, tokens, tokens in earlier rows, tokens lost)."""
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
# The opposite plan gives every document a row of its own. Short ones are filled up with *padding*, which counts for nothing;
# long ones lose their end.

# %%
def padded(lengths, T):
    """One document a row."""
    for document, n in enumerate(lengths):
        here = min(n, T + 1)
        yield [(document, here, 0, n - here)]

# %% [markdown]
# The third plan, best fit, is the one we will build: put together what fits, and crop only what must be cropped. Here are all
# three on six documents A to F, the last one worked out by hand. Which way needs the fewest rows, and what does it lose?

# %%
toy = [5, 2, 7, 4, 10, 3]  # tokens of A, B, C, D, E, F
by_hand = [[(2, 7, 0, 0), (1, 1, 0, 1)], [(0, 5, 0, 0), (5, 3, 0, 0)], [(3, 4, 0, 0), (4, 4, 0, 6)]]
plans = {"stream": list(stream(toy, 7)), "one document a row": list(padded(toy, 7)), "best fit": by_hand}
plots.show(figures.rows_raster(plans, 8, names="ABCDEF"))

# %% [markdown]
# The stream loses nothing (the rest of E, and F, go into a fourth row), but two of its rows begin inside a document. One
# document a row begins well each time, and wastes a large part of the places. Best fit begins each row with a document and
# leaves no place empty. It pays with the ends of B and E.
#
# ### Why a row should begin with BOS
#
# In use, a text begins with BOS and the model sees all of it. A row that begins in the middle asks for something else: guess
# words of a text whose beginning you were not shown. How many tokens stand in such headless pieces, if T is 512?

# %%
def measure(rows, T):
    """Shares: (cropped, of the documents' tokens; padding, of the places; headless, of the places)."""
    pieces = [piece for row in rows for piece in row]
    kept, lost = sum(p[1] for p in pieces), sum(p[3] for p in pieces)
    places = len(rows) * (T + 1)
    return lost / (kept + lost), 1 - kept / places, sum(p[1] for p in pieces if p[2]) / places


for name, way in {"stream": stream, "one a row": padded}.items():
    cropped, padding, headless = measure(list(way(lengths, 512)), 512)
    print(f"{name:10} {cropped:6.1%} cropped {padding:6.1%} padding {headless:6.1%} without the beginning of their document")

# %% [markdown]
# More than a quarter of the stream's tokens lack their beginning. Padding is worse: more than half of the arithmetic would be
# spent on nothing.
#
# ## Best fit by hand
#
# Documents wait in a buffer, in order of arrival. The rule for what goes next has two lines. Of those that fit, take the
# longest. If none fits, take the shortest, since its end is what you lose. Among equals take the first: `max` and `min` do
# that.

# %%
def pick(buffer, space):
    """The place in the buffer of the document to put next; buffer: [(document, tokens), ...]"""
    fitting = [i for i, (_, n) in enumerate(buffer) if n <= space]
    if fitting:
        return max(fitting, key=lambda i: buffer[i][1])
    return min(range(len(buffer)), key=lambda i: buffer[i][1])

# %% [markdown]
# Follow the six documents through rows of 8. You should meet the rows of the picture.

# %%
buffer, space = [("ABCDEF"[i], n) for i, n in enumerate(toy)], 8
while buffer:
    name, n = buffer.pop(pick(buffer, space))
    print(f"{space} places left: {name} ({n} tokens)" + (f", {n - space} lost" if n > space else ""))
    space = space - n if n < space else 8

# %% [markdown]
# What is missing is where documents come from. Before each pick, the buffer is topped up: as long as fewer than `buffer_docs`
# wait, the next `top_up` documents are read, but never across the end of an epoch. That is all. The buffer and the position
# are kept as attributes, for a reason that comes soon.

# %%
class Packer:
    """Rows by best fit, without end: lists of pieces (document, tokens, 0, tokens lost)."""

    def __init__(self, lengths, T, buffer_docs=1000, top_up=128):
        self.lengths, self.T, self.top_up = lengths, T, top_up
        self.target = min(buffer_docs, len(lengths))
        self.buffer, self.position = [], 0  # who waits, and the next document to read

    def row(self):
        pieces, space = [], self.T + 1
        while space:
            while len(self.buffer) < self.target:
                end = min(self.position + self.top_up, len(self.lengths))
                self.buffer += [(d, self.lengths[d]) for d in range(self.position, end)]
                self.position = end % len(self.lengths)
            document, n = self.buffer.pop(pick(self.buffer, space))
            pieces.append((document, min(n, space), 0, max(0, n - space)))
            space -= min(n, space)
        return pieces

# %% [markdown]
# A plan becomes a row when the tokens are laid in. -1 stands for padding; the loss ignores it.

# %%
def lay(pieces, documents, T):
    tokens = [t for d, n, before, _ in pieces for t in documents[d][before : before + n]]
    return tokens + [-1] * (T + 1 - len(tokens))


first = lay(Packer(lengths, 64).row(), documents, 64)
plots.show(plots.coloured_tokens([tok.decode([i]) for i in first]))

# %% [markdown]
# ## The package's version
#
# The same rule, in the package's words. The one thing it does differently is the search: it keeps the lengths sorted and
# bisects, where `pick` looks at every waiting document.

# %%
print(inspect.getsource(_Stream.fill))

# %% [markdown]
# With one stream (more on streams below) the package must give your rows, token for token. The last line goes through 400
# documents several times, so the end of an epoch is compared too.

# %%
def compare(n_docs, T, buffer_docs, n):
    packer = Packer(lengths[:n_docs], T, buffer_docs)
    yours = torch.tensor([lay(packer.row(), documents, T) for _ in range(n)])
    ours = Batches(from_list(texts[:n_docs]), tok, T, streams=1, buffer_docs=buffer_docs)
    lab.compare(yours, ours.next_rows(n))
    print(f"    {n} rows, T = {T}, {buffer_docs} waiting, {ours.statistics()['epoch']:.1f} epochs")


for case in ((4000, 128, 1000, 500), (4000, 512, 1000, 500), (4000, 2048, 300, 100), (400, 256, 50, 1000)):
    compare(*case)

# %% [markdown]
# ## How rows are filled
#
# Now real documents, T = 512, after the first 500 rows. Black strokes are BOS. Dark pieces have lost their beginning, what is
# crossed out is padding, and pale stubs on the right were cropped.

# %%
def best_fit(lengths, T):
    packer = Packer(lengths, T)
    while True:
        yield packer.row()


ways, panels, T = {"stream": stream, "one document a row": padded, "best fit": best_fit}, {}, 512
for name, way in ways.items():
    rows = list(islice(way(lengths, T), 500, 1500))
    cropped, padding, headless = measure(rows, T)
    panels[f"{name}: {cropped:.1%} cropped, {padding:.1%} padding, {headless:.1%} headless"] = rows[:10]
plots.show(figures.rows_raster(panels, T + 1))

# %% [markdown]
# The shares are over 1,000 rows. Every row of best fit is full and begins with a stroke, and the stubs are short.
#
# ### Does it stay like that?
#
# Back to the question from the beginning. Below, best fit with 1,000 waiting documents over 4,000 rows, beside cropping
# without any choice (one document waits, and is cropped if it does not fit). The dashed line counts the tokens that lie beyond
# the end of a row in documents longer than one. In the long run no packing can keep them.

# %%
def over_time(packer, stretches=10, rows=400):
    cropped, long = [], []
    for _ in range(stretches):
        cropped.append(measure([packer.row() for _ in range(rows)], packer.T)[0])
        long.append(sum(n > packer.T + 1 for _, n in packer.buffer) / packer.target)
    return cropped, long


cropped, long = over_time(Packer(lengths, T))
in_order, _ = over_time(Packer(lengths, T, buffer_docs=1, top_up=1))
least = sum(max(0, n - T - 1) for n in lengths) / sum(lengths)
plots.show(figures.cropping({"no choice": in_order, "best fit": cropped}, 400, least, long))

# %% [markdown]
# It loses more and more. The lower picture shows why: a document longer than a row never fits, and it goes only when it is the
# shortest of all. So long documents collect, and there is less and less to choose from. At first best fit is even below the
# dashed line, since it lets the long ones wait. It stays better than no choice, by less than the first rows promise. Measure a
# loader after it has settled.
#
# It also means that a corpus with many documents longer than a row should be cut into shorter ones first. The embedded corpus
# cuts its addresses for that reason.
#
# ## Stop and go on
#
# A run of three hours will be stopped one day. Then its loader must go on with the very next row. What does it have to
# remember? The position is not enough, for the waiting documents were read long ago. Position and buffer together are, and the
# buffer can be saved as document numbers: their tokens can be made again.

# %%
packer = Packer(lengths, T)
for _ in range(700):
    packer.row()
state = json.dumps({"position": packer.position, "buffer": [d for d, _ in packer.buffer]})
expected = [packer.row() for _ in range(300)]
print(f"{len(state):,} characters: {state[:100]} ...")

# %% [markdown]
# Two loaders go on from there, one with the whole state and one with the position alone, which is what nanochat's checkpoint
# holds.

# %%
saved = json.loads(state)
whole, position_only = Packer(lengths, T), Packer(lengths, T)
whole.position = position_only.position = saved["position"]
whole.buffer = [(d, lengths[d]) for d in saved["buffer"]]
for name, again in {"position and buffer": whole, "position alone": position_only}.items():
    rows = [again.row() for _ in range(300)]
    print(f"{name}: {sum(a == b for a, b in zip(rows, expected))} of 300 rows as they would have been")
print(f"with the position alone, {len(saved['buffer'])} documents are passed over")

# %% [markdown]
# For one long run that is a small loss. But a run that was stopped is then another run than one that was not, and you cannot
# tell a mistake of yours from a change in the data.
#
# ## Several ranks, one order
#
# Eight GPUs need eight different rows at a time. Give each rank every eighth document? Then the rows depend on the number of
# GPUs, and a run begun on eight could not go on, row for row, on one. So documents are dealt to a fixed number of *streams*,
# eight by default, each packed by itself. Global row j comes from stream j mod 8, and of w ranks, rank r serves the rows with
# j mod w = r.

# %%
dealt = {world: [j % world for j in range(16)] for world in (1, 2, 4, 8)}
plots.show(figures.dealing(dealt))

# %% [markdown]
# Read a column: row 5 is the same row in every line, whoever serves it. By hand this is eight packers that take turns.

# %%
packers = [Packer(lengths[s::8], T) for s in range(8)]  # document d of stream s is document 8 d + s
yours = torch.tensor([lay(packers[j % 8].row(), documents[j % 8 :: 8], T) for j in range(200)])
lab.compare(yours, Batches(from_list(texts), tok, T).next_rows(200))

# %% [markdown]
# Now the package with 1, 2, 4 and 8 ranks. The rows of all ranks, shuffled together like cards, must be the same each time.

# %%
split = from_list(texts)
for world in (1, 2, 4, 8):
    ranks = [Batches(split, tok, T, rank=r, world=world) for r in range(world)]
    together = torch.stack([torch.from_numpy(r.next_rows(200 // world)) for r in ranks], dim=1).flatten(0, 1)
    print(f"{world} ranks: ", end="")
    lab.compare(yours, together)

# %% [markdown]
# Both at once: those eight ranks stop, their states are merged into one, and two ranks go on.

# %%
merged = merge_states([r.state_dict() for r in ranks])
two = [Batches(split, tok, T, rank=r, world=2) for r in range(2)]
for loader in two:
    loader.load_state_dict(merged)
together = torch.stack([torch.from_numpy(r.next_rows(50)) for r in two], dim=1).flatten(0, 1)
yours = torch.tensor([lay(packers[j % 8].row(), documents[j % 8 :: 8], T) for j in range(200, 300)])
lab.compare(yours, together)
print({name: merged[name] for name in ("documents", "streams", "T", "buffer_docs")})

# %% [markdown]
# What is printed must be equal in both runs; a state from another split, T or tokenizer is refused, since its rows would be
# others.
#
# ## The experiment: three ways to fill rows
#
# Same model, same number of places in rows, so the same FLOPs. For each seed the three ways pack the same 4,000 documents,
# drawn anew. Each trains on 100 rows; the first 500 are left out, so that best fit has settled a little.

# %%
def train_on(rows, plan, seed):
    """Train a toy model on rows (steps, B, T + 1): a dict for lab.table."""
    model = make_model(plan, "cpu").init_weights(seed)
    optimizer, began = make_optimizer(model, plan), time.perf_counter()
    for step, batch in enumerate(rows):
        loss = model(batch[:, :-1].clamp(min=0), batch[:, 1:].contiguous())  # -1 is no token; as a target it is ignored
        loss.backward()
        optimizer.step(plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
        optimizer.zero_grad()
    speed = plan.tokens / (time.perf_counter() - began)
    bpb, _ = bits_per_byte(model, first_bytes(corpus.val, lab.VAL_BYTES), tok, plan.model.sequence_len)
    return {"val_bpb": bpb, "tok_per_sec": speed}

# %%
plan = resolve("modern", **(lab.TOY | dict(sequence_len=T, steps=50)))
n, results = plan.steps * plan.batch_tokens // T, {name: [] for name in ways}
for seed in (1, 2):
    chosen = random.Random(seed).sample(range(len(corpus.train)), 4000)
    drawn = tok.encode_batch([corpus.train[i] for i in chosen], bos=True)
    for name, way in ways.items():
        pieces = islice(way([len(d) for d in drawn], T), 500, 500 + n)
        rows = torch.tensor([lay(row, drawn, T) for row in pieces]).view(plan.steps, -1, T + 1)
        results[name].append(train_on(rows, plan, seed))
lab.table(results)

# %% [markdown]
# One document a row is clearly behind, by several times the seed spread: it paid for as many places as the others and learned
# from less than half of them (tokens/s counts places). Between the stream and best fit, compare the difference of the means
# with the spread over two seeds before you believe in any; besides, the 100 rows do not hold the same documents. Nor does it
# show what happens when documents run out, where cropping would cost and the stream would not.
#
# ## At full size
#
# First the search. This recorded run packs the same documents by a scan, as `pick` does, and by the package's sorted list, in
# one process.

# %%
recorded = [r | r["machine"] for r in lab.recorded("packing")]
speeds = {}
for r in recorded:
    what = {"packing": "packing", "whole": "with tokenizer"}[r["what"]] + f",\nT = {r['T']}"
    speeds.setdefault(what, {"scan": [], "sorted": []})[r["way"]].append(r["tokens_per_second"])
plots.show(figures.speeds(speeds))
print(lab.provenance(recorded))

# %% [markdown]
# Alone, the sorted list is several times faster. In a whole loader the tokenizer takes most of the time, and the gain is
# smaller. That is the usual fate of a speed-up of one part.
#
# The packing itself comes from nanochat, whose log gives these shares for web text at T = 2,048 (dev/LOG.md, 13 January 2026).
# "Least" is what lies beyond the row's end in documents longer than a row:
#
# | way | cropped | padding |
# |---|---|---|
# | documents in order, cropped | 39.4 % | 0 |
# | documents in order, padded | 23.0 % | 22 % |
# | first fit, longest first | 23.0 % | 0.3 % |
# | best fit with cropping | 34.6 % | 0 |
# | least | 22.9 % | |
#
# So even best fit throws away a third of all web text, and the choice among 1,000 documents saves less than five points, which
# fits what you have seen. Its author took it because text was plentiful. The loss fell when rows began with BOS, and the log
# calls that "fake" to some extent: validation rows had become easier too.
#
# Some things that did not help, or went wrong, in the same code:
#
# Hiding the other documents of a row from attention gained 0.0002 bits per byte at depth 16 (0.85427 to 0.85407), "almost
# noise", and was not merged (same log). The fast path for copies to the GPU, pinned memory, was never taken: a device object
# was compared with the text "cuda". Mending that was measured at 7.30 s a run (pull request 830). And since the last shard is
# validation, a folder with one shard has nothing to train on: the loop over no files spins for ever, without a message. Ours
# says what is missing. Repeated text did less harm than one might fear: an unmerged run that saw 100 shards about three times
# reached a CORE of 0.2633 (pull request 492).
#
# ## Napkin arithmetic: the data of d24
#
# A third is cropped, a token of this text is about 4.8 characters, a shard holds 250 million characters and takes about 100 MB
# (nanochat's speedrun.sh). The published run trained 799,000 tokens a second.

# %%
plan = resolve("jan29", depth=24)
cropped, chars = 0.35, 4.8
read = plan.tokens / (1 - cropped)
shards = read * chars / 250e6
print(f"{plan.tokens / 1e9:.2f} billion tokens trained on, {read / 1e9:.1f} billion read")
print(f"{read * chars / 1e9:.0f} billion characters: {shards:.0f} of 1,822 shards, {shards * 0.1:.0f} GB on disk")
speed = 799e3 / (1 - cropped)  # tokens to read each second
print(f"at 799,000 tokens a second: {speed / 1e6:.1f} million tokens to tokenize, {speed * chars / 1e6:.1f} MB of text")
fetch = shards * 100 / 100  # seconds: MB over MB a second
print(f"fetched at 100 MB a second: {fetch:.0f} s, {fetch / 3600 * 24:.2f} dollars if the GPUs wait at 24 dollars an hour")

# %% [markdown]
# Six megabytes a second is nothing for a disk. Tokenizing more than a million tokens a second is the work of a core or two
# (compare the recorded speeds), shared by eight ranks. So the loader can be free, if it works while the GPU computes. The
# package has a thread for that, `Prefetch`, one batch ahead.
#
# ## Questions
#
# 1. At T = 2,048 no packing of web text can crop less than 22.9 %. What could you change instead?
#
# <details><summary>Answer</summary>
# The documents or the row. Cut long documents into pieces, each with its own BOS, or make rows longer. Pieces after the first
# then lack their beginning, as in the stream.
# </details>
#
# 2. When would you prefer the stream?
#
# <details><summary>Answer</summary>
# When text is scarce and documents are long: it loses nothing, and the alternative is another epoch over the same text.
# </details>
#
# 3. You want to go on with 16 streams where a run had 8. What happens?
#
# <details><summary>Answer</summary>
# The package refuses. Other streams mean other rows from here on. Ranks may change, as long as their number divides the
# streams.
# </details>
#
# 4. Which documents does best fit treat unfairly?
#
# <details><summary>Answer</summary>
# The long ones. They wait longest, and their ends are never seen. Whatever stands at the end of long documents, such as
# references, is rarer in training than in the corpus.
# </details>
#
# 5. A row holds the ends of two articles. Can the second one's tokens look at the first?
#
# <details><summary>Answer</summary>
# Yes, attention sees the whole row. The BOS between them tells the model that what came before is of no use, and it learns
# that.
# </details>

# %% [markdown]
# > **Takeaway.** Documents have all lengths, rows have one. Best fit fills every place and begins every row with BOS, and it pays
# > with cropped ends: a third of web text at T = 2,048. The order of rows is part of a run. It must not depend on a stop, nor on
# > the number of GPUs, so the loader saves its position and who waits, and deals documents to a fixed number of streams.
#
# ## Exercises
#
# [exercises/02_data.ipynb](../exercises/02_data.ipynb): measure a packing, choose the best fit, make a whole row, deal rows to
# ranks, and what a run reads. `make start EX=02` gives you a copy to work on.
#
# ## Further reading
#
# - Best-fit packing of training text: [arXiv 2404.10830](https://arxiv.org/abs/2404.10830), "Fewer Truncations Improve Language
#   Modeling".
# - The corpora: FineWeb-Edu [2406.17557](https://arxiv.org/abs/2406.17557), ClimbMix
#   [2504.13161](https://arxiv.org/abs/2504.13161).
# - nanochat's log of experiments: `dev/LOG.md` in github.com/karpathy/nanochat.
#
# Before: [01 Tokenizer](01_tokenizer.ipynb). Next: [03 GPT](03_gpt.ipynb).
