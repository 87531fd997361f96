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
# # Exercises 01: the tokenizer
#
# Three functions that are a whole tokenizer together, one that measures, one that counts costs. Replace each `raise
# NotImplementedError` by your answer and run the check below it. The lesson is [01 Tokenizer](../lessons/01_tokenizer.ipynb).
#
# `make start EX=01` puts a copy of this notebook in work/, where your answers survive an update of the course. `make grade
# EX=01` grades that copy.
#
# Plain Python is enough everywhere.

# %% tags=["setup"]
import math
from collections import Counter
from itertools import pairwise

import torch

from gpt2course.course import lab, plots
from gpt2course.course.checks import pictures
from gpt2course.data import load_corpus
from gpt2course.course.figures import tokenizer as figures
from gpt2course.recipes import resolve

corpus = load_corpus("embedded")
TEXT = " ".join(corpus.train[i] for i in range(5))

# %% [markdown] tags=["ex-1.1"]
# ## 1.1 The most frequent pair
#
# One step of training begins with a count. You get words, each as a list of ids with the number of times that the word
# occurs, and return the pair of neighbouring ids that occurs most often, as a tuple (left, right). Pairs lie within a word. Of
# equally frequent pairs, take the smallest: the smaller left id first, then the smaller right id. That is the package's rule.
# Without any pair, return None.
#
# A tiny example: the words `[([1, 2, 3], 2), ([1, 2], 1), ([2, 3], 1)]` hold the pair (1, 2) three times and (2, 3) three
# times. The answer is (1, 2).
#
# <details><summary>Help: how do I count in plain Python?</summary>
#
# `collections.Counter()` is a dictionary whose missing entries are 0, and `itertools.pairwise(ids)` gives the neighbours.
# </details>
# <details><summary>Help: my answer is another pair of the same count</summary>
#
# `max(counts, key=counts.get)` takes the pair that was seen first, and then the tokenizer depends on the order of the texts.
# Python compares tuples from left to right, so `(-count, pair)` is a key whose smallest value is the pair you want.
# </details>
# <details><summary>Help: do 1 1 1 hold the pair (1, 1) once or twice?</summary>
#
# Twice, for counting: each pair of neighbours counts. Only one of the two can be merged, so the count is an upper bound.
# </details>
#
# The picture shows how many tokens each of the first 40 merges saves in a short text, with the pairs that your function chooses.
# The dots should fall from left to right.


# %% tags=["answer", "ex-1.1"]
def most_frequent_pair(words):
    """The pair of ids to merge, a tuple (left, right), or None. words: a list of (list of ids, number of times)."""
    ### BEGIN SOLUTION
    counts = Counter()
    for ids, n in words:
        for pair in pairwise(ids):
            counts[pair] += n
    if not counts:
        return None
    return min(counts, key=lambda pair: (-counts[pair], pair))
    ### END SOLUTION


# %% tags=["check", "ex-1.1"]
from gpt2course.course.checks import check

check("1.1", most_frequent_pair)

# %% tags=["picture", "ex-1.1"]
def draw(f):
    words = [(list(word.encode()), n) for word, n in Counter(TEXT.split()).items()]
    return figures.savings(figures.saved(f, words, merges=40))


pictures("1.1", draw, most_frequent_pair)

# %% [markdown] tags=["ex-1.2"]
# ## 1.2 Merge without overlap
#
# The other half of a step: replace the pair by the new id wherever it stands. Go from left to right. A token that has been
# merged is used up. Return a new list and leave the one you were given as it is.
#
# A tiny example: merging (1, 2) to 9 in `[1, 2, 3, 1, 2]` gives `[9, 3, 9]`.
#
# <details><summary>Help: what happens with 1 1 1?</summary>
#
# Merging (1, 1) to 9 gives `[9, 1]`. The first two are used up, and the third has no partner left.
# </details>
# <details><summary>Help: my last token is lost, or my code stops at the end</summary>
#
# The last token has no right neighbour. It can end a pair, or stay as it is.
# </details>
# <details><summary>Help: can I join the ids to a string and use replace?</summary>
#
# As text, the ids 11, 2 hold "1, 2". Compare numbers.
# </details>
#
# The picture shows the merges of one word as a tree, made with your function. Each branch joins two neighbours.


# %% tags=["answer", "ex-1.2"]
def merge(ids, pair, new):
    """A new list in which every pair (left, right) of neighbours in ids has become the id new."""
    ### BEGIN SOLUTION
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
    ### END SOLUTION


# %% tags=["check", "ex-1.2"]
from gpt2course.course.checks import check

check("1.2", merge)

# %% tags=["picture", "ex-1.2"]
word, tokens = " government", lab.tokenizer().ranks
id_of = {token: i for i, token in enumerate(tokens)}


def draw(f):
    ids, steps = list(word.encode()), []
    for _ in word:  # at most as many merges as there are bytes
        found = [(id_of.get(tokens[a] + tokens[b], len(tokens)), (a, b)) for a, b in pairwise(ids)]
        new, pair = min(found, default=(len(tokens), None))
        if new == len(tokens):
            break
        ids = f(ids, pair, new)
        steps.append(tuple(tokens[i].decode() for i in pair))
    return figures.merge_tree(word, steps)


pictures("1.2", draw, merge)

# %% [markdown] tags=["ex-1.3"]
# ## 1.3 Encode by rank
#
# Encode one piece of text with a trained tokenizer. `ranks` maps the bytes of each token to its id, and the ids are the order
# in which the tokens were learned. Begin with the single bytes of the text in UTF-8. Then, again and again, merge the two
# neighbours whose joined bytes have the lowest id of all, the leftmost among equals, until no neighbours can be merged. Return
# the ids.
#
# A tiny example: `bc` has the id 256 and `ab` the id 257. Then "abc" is `[97, 256]`: a, and bc.
#
# <details><summary>Help: why not the longest token that fits?</summary>
#
# The model has to see text cut as in training, and training merged in the order of the ids. In the example ab was never made
# where bc could be.
# </details>
# <details><summary>Help: my code stops at é</summary>
#
# é is one character and two bytes. `text.encode()` gives bytes; `bytes([b])` makes a token of the number b.
# </details>
# <details><summary>Help: when am I done?</summary>
#
# When no two neighbours, joined, are in `ranks`. A merge makes new neighbours, so look at all of them again after each merge.
# </details>
#
# The picture shows a sentence cut by your function. Frequent words are whole, others are in parts, and é is two bytes or a
# token.


# %% tags=["answer", "ex-1.3"]
def encode(piece, ranks):
    """Ids of a piece of text, a list. piece: str; ranks: bytes of a token -> its id, with all 256 single bytes."""
    ### BEGIN SOLUTION
    parts = [bytes([b]) for b in piece.encode()]
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not found:
            return [ranks[part] for part in parts]
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    ### END SOLUTION


# %% tags=["check", "ex-1.3"]
from gpt2course.course.checks import check

check("1.3", encode)

# %% tags=["picture", "ex-1.3"]
tok = lab.tokenizer()
pieces = ["The", " government", " of", " the", " people", " met", " in", " a", " café", " near", " the", " railway", "."]


def draw(f):
    ranks = {token: i for i, token in enumerate(tok.ranks)}
    return plots.coloured_tokens([tok.decode([i]) for piece in pieces for i in f(piece, ranks)])


pictures("1.3", draw, encode)

# %% [markdown] tags=["ex-1.4"]
# ## 1.4 Bits per byte
#
# A model's losses become a number that does not depend on the tokenizer. `nats` holds one tensor for each document, of shape
# (N,), the loss of each of its tokens in nats. `texts` holds the documents. Return the bits per byte over all documents: the
# sum of all losses, in bits, divided by the number of all bytes of UTF-8.
#
# A tiny example: two tokens cost 2.0794 and 3.4657 nats, which are 3 and 5 bits. The text is "abcd". 8 bits for 4 bytes are 2
# bits per byte.
#
# <details><summary>Help: nats and bits</summary>
#
# A nat is a bit divided by ln 2: one bit is 0.693 nats. So bits are nats / ln 2, a larger number.
# </details>
# <details><summary>Help: can I take the mean of the losses?</summary>
#
# The mean over tokens depends on the number of tokens, and so on the tokenizer. Take the sum.
# </details>
# <details><summary>Help: mine is right for English and wrong for 狐</summary>
#
# `len(text)` counts characters. `len(text.encode())` counts bytes; 狐 has three.
# </details>
# <details><summary>Help: two documents</summary>
#
# Add up bits and bytes over all documents, and divide once. A mean of the documents' values gives a short one too much weight.
# </details>
#
# The picture measures two models that know nothing, one that guesses bytes and one that guesses tokens. Their two numbers should
# disagree about which is better, and the bytes should come out at 8 bits per byte.


# %% tags=["answer", "ex-1.4"]
def bits_per_byte(nats, texts):
    """Bits per byte, a number. nats: a list of tensors (N,), losses of the tokens of a document; texts: a list of str."""
    ### BEGIN SOLUTION
    bits = sum(n.double().sum().item() for n in nats) / math.log(2)
    return bits / sum(len(text.encode()) for text in texts)
    ### END SOLUTION


# %% tags=["check", "ex-1.4"]
from gpt2course.course.checks import check

check("1.4", bits_per_byte)

# %% tags=["picture", "ex-1.4"]
text, tok = "The government of the people met in a café near the railway.", lab.tokenizer()


def draw(f):
    guesses = {}
    for name, n, choices in (("bytes", len(text.encode()), 256), ("tokens", len(tok.encode(text)), tok.vocab_size)):
        loss = torch.full((n,), math.log(choices))  # a model that knows nothing: every choice alike
        guesses[f"{choices} {name}, nothing learned"] = [(loss[0].item(), f([loss], [text]))]
    return figures.two_measures(guesses)


pictures("1.4", draw, bits_per_byte)

# %% [markdown] tags=["ex-1.5"]
# ## 1.5 What a vocabulary costs
#
# In the recipe `jan29` three kinds of tables have one row of `width` numbers for each token of the vocabulary. `wte` turns
# tokens into vectors, `lm_head` turns vectors into scores, and the value embeddings stand on every second layer, counted
# back from the last one: of 4 layers on the last and the second, of 3 layers on the last and the first.
#
# Return three numbers: the parameters of all these tables; their bytes, where `wte` and the value embeddings have 2 bytes a
# number and the head has 4; and the FLOPs that they add to the training of one token. Only the head multiplies. The others are
# looked up.
#
# A tiny example: a vocabulary of 10, depth 4 and width 8. One table has 80 numbers, and there are 4: 320 parameters, 3 · 80 · 2
# + 80 · 4 = 800 bytes, and 6 · 80 = 480 FLOPs.
#
# <details><summary>Help: where does the 6 come from?</summary>
#
# From lesson 00: 2 FLOPs for each weight in the forward pass, and twice as many in the backward pass.
# </details>
# <details><summary>Help: odd depths</summary>
#
# The last layer always has a value embedding. So 3 layers have 2, and 1 layer has 1.
# </details>
#
# The picture shows the parameters of depth 24 by vocabulary. The tables grow with the vocabulary, and the matrices of the
# layers stay as they are.


# %% tags=["answer", "ex-1.5"]
def vocabulary_cost(vocab_size, depth, width):
    """(parameters, bytes, training FLOPs of one token) of the tables that a vocabulary needs: three numbers."""
    ### BEGIN SOLUTION
    table = vocab_size * width
    looked_up = 1 + (depth + 1) // 2  # wte, and a value embedding on every second layer
    return table * (looked_up + 1), table * (looked_up * 2 + 4), 6 * table
    ### END SOLUTION


# %% tags=["check", "ex-1.5"]
from gpt2course.course.checks import check

check("1.5", vocabulary_cost)

# %% tags=["picture", "ex-1.5"]
matrices = resolve("jan29", depth=24).params["matrices"]


def draw(f):
    budget = {}
    for vocab in (16384, 32768, 49152, 65536):
        parameters, _, flops = f(vocab, 24, 1536)
        two = 2 * flops / 6
        budget[f"{vocab:,}"] = {"layers": matrices, "wte and lm_head": two, "value embeddings": parameters - two}
    return figures.vocabulary_budget(budget)


pictures("1.5", draw, vocabulary_cost)
