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
# One that measures, three that use the tokenizer of the lesson elsewhere, one that counts costs. Replace each `raise
# NotImplementedError` by your answer and run the check below it. The lesson is [01 Tokenizer](../lessons/01_tokenizer.ipynb).
#
# Only answers in work/ are graded: `make start EX=01` puts your copy of this notebook there, `make grade EX=01` grades it.
# Until you run a check, it shows the line that a right answer prints.
#
# `encode` and `merge` are those that you kept in the lesson, or the course's. Plain Python is enough everywhere.

# %% tags=["setup"]
import base64
import itertools
import math

import regex
import tiktoken
import torch

from gpt2course.course import lab, plots
from gpt2course.course.checks import pictures
from gpt2course.course.checks.tokenizer import rank_file
from gpt2course.course.figures import tokenizer as figures
from gpt2course.tokenizer import SPLIT_PATTERN

encode, merge = lab.mine("encode"), lab.mine("merge")

# %% [markdown] tags=["ex-1.1"]
# ## 1.1 Bits per byte
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


# %% tags=["answer", "ex-1.1"]
def bits_per_byte(nats, texts):
    """Bits per byte, a number. nats: a list of tensors (N,), losses of the tokens of a document; texts: a list of str."""
    ### BEGIN SOLUTION
    bits = sum(n.double().sum().item() for n in nats) / math.log(2)
    return bits / sum(len(text.encode()) for text in texts)
    ### END SOLUTION


# %% tags=["check", "ex-1.1"]
from gpt2course.course.checks import check

check("1.1", bits_per_byte)

# %% tags=["picture", "ex-1.1"]
text, tok = "The government of the people met in a café near the railway.", lab.tokenizer()


def draw(f):
    guesses = {}
    for name, n, choices in (("bytes", len(text.encode()), 256), ("tokens", len(tok.encode(text)), tok.vocab_size)):
        loss = torch.full((n,), math.log(choices))  # a model that knows nothing: every choice alike
        guesses[f"{choices} {name}, nothing learned"] = [(loss[0].item(), f([loss], [text]))]
    return figures.two_measures(guesses)


pictures("1.1", draw, bits_per_byte)

# %% [markdown] tags=["ex-1.2"]
# ## 1.2 GPT-4's ranks
#
# OpenAI published GPT-4's tokenizer as a file, `cl100k_base.tiktoken`. Each line is a token: its bytes in base64, a space, its
# id. The ids are the order of learning, as in the lesson. But the merges are not in the file, and the single bytes have other
# ids than their values: "!" is 0, not 33.
#
# Recover the merges. You get the content of such a file, as bytes. Return a list of (left id, right id, new id), one for each
# token of more than one byte, in the order of the new ids: the two tokens that were joined last when this token was made.
#
# A tiny example: the tokens a, b, c have the ids 0, 1, 2, then `bc` is 3 and `abc` is 4. The merges are (1, 2, 3) and (0, 3, 4).
#
# <details><summary>Help: which two tokens?</summary>
#
# When a token was learned, only tokens with lower ids existed. Encode its bytes with these alone. Two parts are left, and they
# are the ones. `encode` takes text, so write the loop for bytes.
# </details>
# <details><summary>Help: may I take any two tokens that fit?</summary>
#
# No. " the" can be " t" + "he" or " " + "the". Only one of them was made in training.
# </details>
# <details><summary>Help: how do I read the file?</summary>
#
# `data.splitlines()` gives the lines, `line.split()` the two fields, `base64.b64decode(field)` the bytes.
# </details>
#
# The picture cuts a sentence with your merges, replayed in their order, and with tiktoken. The file is GPT-4's own if a package
# that has it is installed (litellm or llama-index-core), else one that the course makes in the same format. The rows must be the
# same.


# %% tags=["answer", "ex-1.2"]
def merges_of(data):
    """[(left id, right id, new id)] of each token of more than one byte, by new id. data: a rank file, as bytes."""
    ### BEGIN SOLUTION
    ranks = {}
    for line in data.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    merges = []
    for token, new in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [parts[i] + parts[i + 1] for i in range(len(parts) - 1)]
            _, i = min((ranks[t], i) for i, t in enumerate(joined) if ranks.get(t, new) < new)
            parts[i : i + 2] = [joined[i]]
        merges.append((ranks[parts[0]], ranks[parts[1]], new))
    return merges
    ### END SOLUTION


# %% tags=["check", "ex-1.2"]
from gpt2course.course.checks import check

check("1.2", merges_of)

# %% tags=["picture", "ex-1.2"]
file, pattern = rank_file()
sentence = "Hello world, a person from the government met 12 foxes."


def draw(f):
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in file.splitlines()}
    theirs = tiktoken.Encoding("file", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    pieces = [[ranks[bytes([b])] for b in piece.encode()] for piece in regex.findall(pattern, sentence)]
    for left, right, new in f(file):
        pieces = [merge(ids, (left, right), new) if left in ids else ids for ids in pieces]
    ways = {"merges": [i for ids in pieces for i in ids], "tiktoken": theirs.encode_ordinary(sentence)}
    return figures.token_rows({name: [theirs.decode([i]) for i in ids] for name, ids in ways.items()})


pictures("1.2", draw, merges_of)

# %% [markdown] tags=["ex-1.3"]
# ## 1.3 A shortest disagreement
#
# Longest match and merge order often give the same ids. Programmers look for the smallest case in which two programs differ.
# Do that here: find a shortest text over some letters that the two encode differently.
#
# `ranks` maps the bytes of each token to its id. `letters` is a string, `longest` the largest number of letters to try. Return
# the text, or None if there is none. Of several shortest ones, any will do. `encode(piece, ranks)` of the lesson is there.
#
# A tiny example: `bc` has the id 256 and `ab` the id 257. Over the letters "abc" the answer is "abc": longest match begins with
# `ab`, merge order with `bc`.
#
# <details><summary>Help: how do I try all texts?</summary>
#
# `itertools.product(letters, repeat=n)` gives all texts of n letters, each as a tuple. Begin with n = 1.
# </details>
# <details><summary>Help: my code stops at é</summary>
#
# Tokens are bytes. Longest match must cut `text.encode()`, and é has two bytes.
# </details>
#
# The picture cuts the text that you find over six common letters, with the tokens of the course, both ways.


# %% tags=["answer", "ex-1.3"]
def disagreement(ranks, letters, longest):
    """A shortest text over the letters for which longest match and merge order give different ids, or None."""
    ### BEGIN SOLUTION
    for n in range(1, longest + 1):
        for letters_of_text in itertools.product(letters, repeat=n):
            text = "".join(letters_of_text)
            data, greedy = text.encode(), []
            while data:
                size = max(k for k in range(1, len(data) + 1) if data[:k] in ranks)
                greedy.append(ranks[data[:size]])
                data = data[size:]
            if greedy != encode(text, ranks):
                return text
    return None
    ### END SOLUTION


# %% tags=["check", "ex-1.3"]
from gpt2course.course.checks import check

check("1.3", disagreement)

# %% tags=["picture", "ex-1.3"]
tok = lab.tokenizer()


def draw(f):
    ranks = {token: i for i, token in enumerate(tok.ranks)}
    text = f(ranks, "aeinst", 5)
    ways = {"merge order": tok.encode(text), "longest match": figures.longest_match(text, ranks)}
    return figures.token_rows({name: [tok.decode([i]) for i in ids] for name, ids in ways.items()})


pictures("1.3", draw, disagreement)

# %% [markdown] tags=["ex-1.4"]
# ## 1.4 A split pattern for another language
#
# In the pattern, `\p{L}` is a letter. In many languages a letter carries marks that are characters of their own, `\p{M}`: the
# vowel signs of Hindi, the tones of Yoruba. The pattern cuts a word at each of them, so no token can be a whole word.
#
# Return a pattern, as a string, that keeps words together with their marks. Everything else must stay: English text, numbers,
# signs, spaces and line ends are cut as by `SPLIT_PATTERN`, and no character is lost.
#
# A tiny example: the word "हिन्दी" is six characters, three letters and three marks. `SPLIT_PATTERN` makes three pieces of it.
# Yours must make one.
#
# <details><summary>Help: where do I begin?</summary>
#
# Print SPLIT_PATTERN. One of its parts, between two `|`, matches words. A word begins with a letter; after it come letters and
# marks. `[\p{L}\p{M}]` is a set with both.
# </details>
# <details><summary>Help: a string with backslashes</summary>
#
# Write r"..." so that Python leaves the backslashes alone.
# </details>
#
# The picture shows a sentence in Yoruba, the beginning of the Universal Declaration of Human Rights (United Nations). The font may
# draw a mark a little beside its letter.


# %% tags=["answer", "ex-1.4"]
def split_pattern():
    """A regular expression, as a string, like SPLIT_PATTERN but with marks inside words."""
    ### BEGIN SOLUTION
    return SPLIT_PATTERN.replace(r"\p{L}+", r"\p{L}[\p{L}\p{M}]*")
    ### END SOLUTION


# %% tags=["check", "ex-1.4"]
from gpt2course.course.checks import check

check("1.4", split_pattern)

# %% tags=["picture", "ex-1.4"]
yoruba = "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba."


def draw(f):
    return plots.coloured_tokens(regex.findall(f(), yoruba))


pictures("1.4", draw, split_pattern)

# %% [markdown] tags=["ex-1.5"]
# ## 1.5 What a vocabulary costs
#
# A vocabulary of V tokens needs two tables of V · width numbers. One turns tokens into vectors and is looked up. The other, the
# head, turns vectors into a score for each token. It multiplies, as the other `weights` of the model do.
#
# Return three numbers: the parameters of the two tables; the FLOPs to train on one *byte* of text; and the bytes of the scores
# of `batch_tokens` tokens, 4 bytes each. `bytes_per_token` says how many bytes of text a token holds.
#
# A tiny example: V 10, width 8, 100 weights, 2 bytes per token, 6 tokens. The tables have 160 numbers. A token costs
# 6 · (100 + 80) = 1,080 FLOPs, and a byte 540. The scores take 10 · 6 · 4 = 240 bytes.
#
# <details><summary>Help: where does the 6 come from?</summary>
#
# From lesson 00: 2 FLOPs for each weight in the forward pass, and twice as many in the backward pass.
# </details>
# <details><summary>Help: why for each byte?</summary>
#
# A larger vocabulary makes each token dearer, and the text shorter. What counts is the cost of the text.
# </details>
#
# The picture shows the FLOPs of a byte by vocabulary, for a small and a large model, with the bytes per token that the lesson
# measured. Where is the cheapest vocabulary of each? (Try depth 24 and width 1,536: there the largest one is still cheapest.)


# %% tags=["answer", "ex-1.5"]
def vocabulary_cost(V, width, weights, bytes_per_token, batch_tokens):
    """(parameters of the two tables, training FLOPs for a byte of text, bytes of the scores of a batch)."""
    ### BEGIN SOLUTION
    head = V * width
    return 2 * head, 6 * (weights + head) / bytes_per_token, 4 * V * batch_tokens
    ### END SOLUTION


# %% tags=["check", "ex-1.5"]
from gpt2course.course.checks import check

check("1.5", vocabulary_cost)

# %% tags=["picture", "ex-1.5"]
measured = {512: 2.00, 1024: 2.50, 2048: 2.94, 4096: 3.40, 8192: 3.82, 16384: 4.17}


def draw(f):
    sizes = {"depth 4, width 128": (4, 128), "depth 8, width 512": (8, 512)}
    flops = {}
    for name, (depth, width) in sizes.items():
        weights = 12 * width * width * depth
        flops[name] = [(V, f(V, width, weights, size, 1)[1]) for V, size in measured.items()]
    return figures.cost_by_vocabulary(flops)


pictures("1.5", draw, vocabulary_cost)
