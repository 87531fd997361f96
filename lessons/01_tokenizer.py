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
# # 01 Tokenizer
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gpt2course/gpt2course/blob/main/lessons/01_tokenizer.ipynb)
#
# **Goal:** write a whole tokenizer, trainer and encoder, that gives the same ids as the package's, and learn to compare models
# whose tokenizers differ.
#
# 40 minutes; any computer, no GPU. Explains [tokenizer.py](../gpt2course/tokenizer.py), with a glance at
# [evaluate.py](../gpt2course/evaluate.py).
#
# Before: [00 The 600x story](00_story.ipynb). Next: [02 Data](02_data.ipynb). Exercises: [01](../exercises/01_tokenizer.ipynb).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("gpt2course") is None:  # a hosted notebook: fetch and install the course first
    # !git clone -q https://github.com/gpt2course/gpt2course course && pip install -q -e "course[course]"
    import sys; sys.path.insert(0, "course")  # not gpt2course: Python would take that folder for the package

# %% [markdown]
# ## Where we are
#
# The first piece of a run: from text to numbers. The ladder is our goal. All its rungs share one tokenizer.

# %%
from gpt2course.course import lab, plots
from gpt2course.recipes import LADDER

plots.show(plots.strip(1))

# %%
plots.show(plots.ladder(lab.ladder(), list(LADDER)))

# %% [markdown]
# The new words of this lesson:

# %%
lab.words("01")

# %% [markdown]
# ## Before you run anything
#
# Two models of the same kind read the same text. The first knows 512 tokens and its loss is 4.0 nats per token. The second
# knows 2,048 tokens and its loss is 5.1. Which of them predicts the text better? Write down an answer, and what you would need
# to know to be sure. You will train two such models below.

# %% [markdown]
# ## Bytes, and what repeats
#
# A model reads numbers from a fixed list. Words make a bad list: tomorrow brings a word that is not in it. Characters are
# better, but Unicode has about 150,000 of them, and a list of the common ones still needs a sign for "unknown". Bytes have
# neither problem. UTF-8 writes every character as one to four bytes, so a list of 256 numbers holds every text there will
# ever be.

# %%
for character in "aé狐🦊":
    print(character, list(character.encode()))

# %% [markdown]
# The price is length. A model that reads bytes needs a step for every letter. So keep the bytes, and add longer tokens for
# whatever occurs often. That is byte-pair encoding, BPE: count the pairs of neighbours, make the most frequent pair a new
# token, and begin again. Each step is called a merge. Try it on two words.

# %%
from collections import Counter
from itertools import pairwise

letters = list("banana") + [" "] + list("bandana")
print(Counter(pairwise(letters)).most_common(4))

# %% [markdown]
# "a" followed by "n" comes four times, so "an" becomes a token. The 14 letters are now 10 tokens.
#
# ### Why the most frequent pair?
#
# Suppose a text is N tokens long and each is one of V. If every token costs the same, the text costs N · log₂ V bits. A merge
# that applies in n places leaves N - n tokens and V + 1 choices. Here are the bits, with numbers you can check.

# %%
from math import log, log2


def bits(N, V):
    return N * log2(V)


N, V = 1000, 256
for n in (1, 2, 50, 100):
    print(f"n = {n:3}: {bits(N, V) - bits(N - n, V + 1):+7.1f} bits saved")

# %% [markdown]
# Two effects meet. Fewer tokens save n · log₂ V bits. One more choice makes every other token slightly dearer, by about
# N / (V ln 2) bits in all, and that part is the same for each pair. So the best next merge is the most frequent pair. It pays
# if n is above N / (V ln V), here 0.7.
#
# The rule is greedy: each merge is the best next one, and nobody promises that 1,000 of them are the best 1,000. And it counts
# all tokens as equally dear, which no trained model does. It is a rule that is simple and works.

# %% [markdown]
# ## By hand
#
# Text repeats its words, so count each word once and remember how often it came. A word is a list of ids. At first these are
# its bytes.

# %%
def count_pairs(words):
    """words: word -> (ids, times)"""
    pairs = Counter()
    for ids, times in words.values():
        for pair in pairwise(ids):
            pairs[pair] += times
    return pairs


words = {"banana": (list(b"banana"), 1), "bandana": (list(b"bandana"), 1)}
count_pairs(words)

# %% [markdown]
# The pair (97, 110) is "an". Now the merge, from left to right. A token that has been merged is used up: what becomes of "aaa"?

# %%
def merge(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        out.append(new if found else ids[i])
        i += 2 if found else 1
    return out


print(merge(list(b"banana"), (97, 110), 256), merge(list(b"aaa"), (97, 97), 256))

# %% [markdown]
# "aaa" holds the pair "aa" twice, but only one can be merged, so a count is an upper bound.
#
# What if two pairs are equally frequent? Any rule will do as long as it is always the same and does not depend on the order of
# the texts. We take the smallest pair: the smaller left id, then the smaller right id. Now you can train. The
# function also notes what each merge saved, what it had to save to be worth it, and how often there was a tie.

# %%
import regex


def train(texts, vocab_size, pattern):
    """Tokens in the order of learning, as bytes; and notes (tokens saved, break-even, pairs of equal count), one a merge."""
    words = Counter(piece for text in texts for piece in regex.findall(pattern, text))
    words = {piece: (list(piece.encode()), times) for piece, times in words.items()}
    tokens, notes = [bytes([b]) for b in range(256)], []
    length = sum(len(ids) * times for ids, times in words.values())
    while len(tokens) < vocab_size:
        pairs = count_pairs(words)
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        words = {w: (merge(ids, best, len(tokens)), times) for w, (ids, times) in words.items()}
        tokens.append(tokens[best[0]] + tokens[best[1]])
        before, length = length, sum(len(ids) * times for ids, times in words.values())
        equal = sum(n == pairs[best] for n in pairs.values())
        notes.append((before - length, before / (len(tokens) * log(len(tokens))), equal))
    return tokens, notes

# %% [markdown]
# That is all of it. `regex.findall` cuts the text into pieces first; you will see why in a moment. Train on 20 documents of the
# corpus.

# %%
from gpt2course.data import load_corpus
from gpt2course.tokenizer import SPLIT_PATTERN, Tokenizer, bytes_per_token

corpus = load_corpus("embedded")
texts = [corpus.train[i] for i in range(20)]
tokens, notes = train(texts, 503, SPLIT_PATTERN)
print(f"{sum(map(len, texts)):,} characters; the first merges:", tokens[256:268])
print("ties:", sum(equal > 1 for *_, equal in notes), "of", len(notes), "merges")

# %% [markdown]
# Short and common comes first. On so little text most merges are ties. Later merges build on earlier ones, so two rules for
# ties give two tokenizers.

# %%
from gpt2course.course.figures import tokenizer as figures

plots.show(figures.savings([saved for saved, *_ in notes], [even for _, even, _ in notes]))

# %% [markdown]
# Later merges save less, since the most frequent pairs go first. All of these are worth their place by the reckoning above.
#
# ### Why a split pattern?
#
# The pattern is a regular expression. Pairs are counted within a piece, and no merge crosses from one piece to the next. Here
# is the one of the record, and what it does.

# %%
print(SPLIT_PATTERN)
sample = "I'll pay 12345 €, won't I?\n\n  Yes: in 2026."
plots.show(plots.coloured_tokens(regex.findall(SPLIT_PATTERN, sample)))

# %% [markdown]
# Contractions such as 'll stand alone. A word takes the space before it along, a number does not. Numbers are cut from the left
# into at most two digits. Signs stay together, with the line ends after them. What happens without? Let the pattern take
# everything as one piece.

# %%
docs = [corpus.train[i] for i in range(200)]
with_split = Tokenizer.train(docs, 2048)
without = Tokenizer.train(docs, 2048, pattern=r"[\s\S]+")
print("with:   ", sorted(with_split.ranks, key=len)[-6:])
print("without:", sorted(without.ranks, key=len)[-6:])

# %%
for name, t in {"with": with_split, "without": without}.items():
    across = sum(b" " in token[1:] for token in t.ranks)
    these = [token for token in t.ranks if b"the" in token.lower().split()]
    print(f"{name:8} {across:4} tokens cross words; {bytes_per_token(t, corpus.val):.3f} bytes per token")
    print(f"         {len(these)} tokens hold the word 'the': {these[:8]}")

# %% [markdown]
# Without the pattern, a large part of the vocabulary goes to scraps of phrases. One word appears under many ids, with this or
# that neighbour stuck to it, and the model must learn its meaning many times. The compression is about the same, so nothing is
# gained for it. A pattern is a guess about language, put in by hand. This one suits English; a language that writes no spaces
# gets long pieces.

# %% [markdown]
# ### Encoding
#
# To encode new text, replay the training: of all neighbours that are a token when joined, merge the pair that was learned
# first, and go on until none is left. The position in the list of tokens is the rank, and the id.

# %%
def encode(text, tokens, pattern):
    rank, ids = {token: i for i, token in enumerate(tokens)}, []
    for piece in regex.findall(pattern, text):
        parts = [bytes([b]) for b in piece.encode()]
        while found := [(rank[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in rank]:
            _, i = min(found)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [rank[part] for part in parts]
    return ids


def decode(ids, tokens):
    return b"".join(tokens[i] for i in ids).decode("utf-8", "replace")


ids = encode("the nation's café", tokens, SPLIT_PATTERN)
print(ids, [tokens[i] for i in ids], decode(ids, tokens))

# %% [markdown]
# Taking the longest token that fits would be simpler, and give other ids than the training saw. Decoding is a look-up. The
# merges of one word make a tree, built from the bottom. The numbers at the left count the merges.

# %%
def steps(word, tokens):
    rank, parts, out = {token: i for i, token in enumerate(tokens)}, [bytes([b]) for b in word.encode()], []
    while found := [(rank[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in rank]:
        a, b = parts[min(found)[1]], parts[min(found)[1] + 1]
        out.append((a.decode(), b.decode()))
        merged = merge([rank[p] for p in parts], (rank[a], rank[b]), rank[a + b])
        parts = [tokens[i] for i in merged]
    return out


plots.show(figures.merge_tree(" independence", steps(" independence", with_split.ranks)))

# %% [markdown]
# ## The package's version
#
# The package trains with [rustbpe](https://github.com/karpathy/rustbpe) and encodes with
# [tiktoken](https://github.com/openai/tiktoken). Both do what you did, in a faster language. This is the part of
# `Tokenizer.train` after its documentation and its checks.

# %%
import inspect

source = inspect.getsource(Tokenizer.train)
print(source[source.index("        def capped") : source.index("        found =")])

# %%
print(inspect.getsource(Tokenizer.encode))

# %% [markdown]
# Train the package on the same 20 documents, with the same pattern. Its vocabulary counts 9 special tokens more, so ours of 503
# is its 512. First the merges, in order. Each token is a row of bytes.

# %%
import torch

ours = Tokenizer.train(texts, 512)


def rows(tokens):
    return torch.tensor([list(token.ljust(40, b"\0")) for token in tokens])


lab.compare(rows(tokens), rows(ours.ranks))

# %% [markdown]
# All of them, ties included: rustbpe 0.1 also takes the smallest pair. Another trainer may not, and then no test of its own
# would tell you. Now the ids of four held-out documents, and of two random texts.

# %%
import random

draw = random.Random(0)
for text in [*(corpus.val[i] for i in range(4)), *("".join(draw.choices("the 12é狐🦊'.\n", k=200)) for _ in range(2))]:
    lab.compare(torch.tensor(encode(text, tokens, SPLIT_PATTERN)), torch.tensor(ours.encode(text)))

# %% [markdown]
# ## The picture: what a larger vocabulary buys
#
# Train the package on 4,000 documents, seven times, from 512 to 32,768 tokens. How many bytes does a token hold? The first
# curve is text that the tokenizer learned from, the second is text that it has not seen.

# %%
some = random.Random(1).sample(range(len(corpus.train)), 4000)
docs = [corpus.train[i] for i in some]
sizes = [512 * 2**k for k in range(7)]
toks = {V: Tokenizer.train(docs, V) for V in sizes}
curves = {}
for name, part in {"training": docs, "held out": corpus.val}.items():
    curves[name] = [(V, bytes_per_token(toks[V], part, 300_000)) for V in sizes]
plots.show(figures.compression(curves))

# %%
sentence = "The committee wanted an independent investigation of the railway companies."
cuts = {f"{V:,}": [toks[V].decode([i]) for i in toks[V].encode(sentence)] for V in (512, 2048, 8192, 32768)}
plots.show(figures.token_rows(cuts))

# %% [markdown]
# The last doublings add less, since each new token is rarer. And the two curves part: the last tokens are words that the
# training text happens to use. The real run trains its tokenizer on 2 billion characters, several hundred times more.

# %% [markdown]
# ## Tokens that no text can make
#
# A model must know where a document begins. For that there is BOS, a special token with an id after all ordinary ones.
# The other eight are for chat and not used in this course's training.

# %%
tok = toks[2048]
print("ordinary ids: 0 to", len(tok.ranks) - 1, "  special:", tok.special)
print(tok.encode("Hello", bos=True))

# %% [markdown]
# Now the trap. A document about tokenizers may contain the seven characters `<|bos|>`. Is that a beginning? tiktoken lets you
# choose, and a careless choice turns text into control.

# %%
import tiktoken

text = "Write <|bos|> here."
ranks = {token: i for i, token in enumerate(tok.ranks)}
careless = tiktoken.Encoding("careless", pat_str=tok.pattern, mergeable_ranks=ranks, special_tokens=tok.special)
cut = {"careless": careless.encode(text, allowed_special="all"), "package": tok.encode(text)}
print({name: tok.bos in ids for name, ids in cut.items()})
plots.show(figures.token_rows({name: [tok.decode([i]) for i in ids] for name, ids in cut.items()}))

# %% [markdown]
# With the careless encoder, anyone who can put text into your data can end a document, or in a chat speak as someone else. The
# package never reads special tokens from text. You ask for BOS by name. So text to ids to text always
# gives the text back, but ids to text to ids need not: decoded and encoded again, BOS comes back as plain characters.
#
# ### Half a character
#
# A token is bytes, and may end in the middle of a character. A model can therefore write bytes that are no UTF-8.

# %%
half = "🦊".encode()[:2]
ids = list(half)  # the first 256 ids are the bytes themselves
print(tok.decode_bytes(ids), repr(tok.decode(ids)), tok.encode("a\ud83e"))
print("bytes of these tokens:", tok.token_bytes()[ids].sum(), "  counted after decoding:", len(tok.decode(ids).encode()))
broken = sum("\ufffd" in tok.decode([i]) for i in range(len(tok.ranks)))
print(broken, "of", len(tok.ranks), "tokens are no whole characters")

# %% [markdown]
# Decoding puts U+FFFD, the sign �, where bytes make no sense, and so does encoding for a lone half of a surrogate pair, which a
# Python string can hold and UTF-8 cannot. The last lines show a trap in measuring: � has three bytes itself. nanochat
# counted bytes after decoding, wrong for 193 of its 32,768 tokens; [mending
# it](https://github.com/karpathy/nanochat/commit/2ce972a) raised its bits per byte by about 0.05 %.

# %% [markdown]
# ## Bits per byte
#
# Back to the question at the top. A text of 12 bytes, two tokenizers, two models.

# %%
A, B = [2.0] * 6, [3.5] * 3  # nats of each token: six short tokens, three long ones
for name, nats in {"A": A, "B": B}.items():
    total = sum(nats) / log(2)
    print(f"{name}: {sum(nats) / len(nats):.1f} nats per token, {total:.1f} bits in all, {total / 12:.2f} bits per byte")

# %% [markdown]
# B is worse for each token and better for the text. The loss per token divides by a number that the tokenizer chooses. Bits per
# byte, bpb, divide by one that it cannot change: the bytes of the text. A nat is 1 / ln 2 bits. bpb is a true code length:
# an arithmetic coder with this model would need that many bits.

# %%
def bits_per_byte(model, text, tok):
    ids = torch.tensor([tok.encode(text, bos=True)])
    with torch.no_grad():
        nats = model(ids[:, :-1], ids[:, 1:].contiguous(), reduction="none").sum().item()  # every token predicted once
    return nats / log(2) / len(text.encode())

# %% [markdown]
# ### The experiment: 512 tokens or 2,048
#
# One change, same documents, same two seeds. Equal steps would be unfair to 512, since its tokens are shorter and its head
# is smaller. So it gets a third row: 64 steps of 512 cost as many FLOPs as 40 steps of 2,048.

# %%
variants = {
    "512, 40 steps": dict(vocab_size=512, steps=40),
    "2,048, 40 steps": dict(vocab_size=2048, steps=40),
    "512, 64 steps": dict(vocab_size=512, steps=64),
}
results = lab.experiment(variants, seeds=(1, 2))
lab.table(results)

# %% [markdown]
# And the loss per token of the same models on the same text, beside bpb. Look at the order in the two halves.

# %%
from gpt2course.evaluate import first_bytes

val, pairs = first_bytes(corpus.val, lab.VAL_BYTES), {}
for name, runs in results.items():
    V = runs[0]["plan"].model.vocab_size
    nats_per_bit = log(2) * bytes_per_token(lab.tokenizer(V), val)
    pairs[name] = [(r["val_bpb"] * nats_per_bit, r["val_bpb"]) for r in runs]
    read = runs[0]["plan"].tokens * bytes_per_token(lab.tokenizer(V), val)
    print(f"{name:16} {runs[0]['plan'].flops:.3g} FLOPs, about {read / 1e3:.0f} kB of text read")
plots.show(figures.two_measures(pairs))

# %% [markdown]
# The loss says 512, bpb says 2,048, and only bpb compares like with like. At this size and length the larger vocabulary wins
# by more than the seeds differ, with equal FLOPs as well. It does not show that larger is always better: these models have read
# about 100 kB and have just begun to learn.
#
# Your bits per byte against the package's, for a model of each vocabulary.

# %%
from gpt2course.evaluate import bits_per_byte as package_bpb

for name in variants:
    run = results[name][0]
    model, plan = run["model"].eval(), run["plan"]
    for text in (val[0][:90], val[1][:120]):
        t = lab.tokenizer(plan.model.vocab_size)
        lab.compare(bits_per_byte(model, text, t), package_bpb(model, [text], t, plan.model.sequence_len)[0])

# %% [markdown]
# ### Digits: one, two or three
#
# The pattern cuts numbers into at most two digits, GPT-4's into three. For compression you need no model: train the tokenizer
# alone.

# %%
number, cuts = "In 1865: 1234567", {}
for V in (8192, 32768):
    for digits in ("{1}", "{1,2}", "{1,3}"):
        t = Tokenizer.train(docs, V, pattern=SPLIT_PATTERN.replace("{1,2}", digits))
        slots = sum(token.isdigit() and len(token) > 1 for token in t.ranks)
        compression = bytes_per_token(t, corpus.val, 300_000)
        print(f"{V:6,} {digits:6} {slots:4} tokens of several digits, {compression:.3f} bytes per token")
        cuts[digits] = [t.decode([i]) for i in t.encode(number)]
plots.show(figures.token_rows(cuts))

# %% [markdown]
# At 32,768 tokens, three digits take hundreds of places more and hardly shorten this text. One digit takes no place and makes
# numbers longer. Which is best for a model cannot be read from compression.

# %% [markdown]
# ## At full size
#
# nanochat decided it by training, at depth 12 with 32,768 tokens ([log of 13 January
# 2026](https://github.com/karpathy/nanochat/blob/master/dev/LOG.md)). One digit gave 0.969 bpb,
# two 0.965, three 0.972. How many seeds stand behind each number is not said; elsewhere its seeds differ by about 0.0002. GPT-4's
# three digits belong to a vocabulary of 100,000. The same project once had [two
# patterns](https://github.com/karpathy/nanochat/issues/291), {1,3} in the trainer's code and {1,2} in the encoder's. With such a
# pair everything runs, and tokens of three digits never occur. In our package both read one constant.
#
# The size was settled less cleanly. nanochat went [from 65,536 to
# 32,768](https://github.com/karpathy/nanochat/commit/ccf4b7f) in January 2026, in one commit with other changes. The fastest
# unmerged claim uses 49,152, together with a fused loss and a shallower model.

# %%
for e in lab.published():
    if e["id"] in ("nanochat-6", "pr-830"):
        core = f"CORE {e['core']:.4f} ({e['core_runs']:.0f} runs)"
        print(f"{e['id']}: depth {e['depth']:.0f}, {e['hours']:.2f} h, bpb {e['val_bpb']}, {core}: {e['name']}")

# %% [markdown]
# We know of no published run in which the vocabulary alone changed. So the course recorded one, at a laptop's size: depth 4, width
# 128, T = 256, and as many steps as make all runs cost the same FLOPs.

# %%
recorded = lab.recorded("vocabulary")
for V in sorted({r["vocab_size"] for r in recorded}):
    bpb = [r["val_bpb"] for r in recorded if r["vocab_size"] == V]
    r = next(r for r in recorded if r["vocab_size"] == V)
    print(f"{V:5,}  {r['steps']} steps  {r['parameters'] / 1e6:.1f}M parameters   bpb {sum(bpb) / len(bpb):.3f} ({min(bpb):.3f} to {max(bpb):.3f})")
print(lab.provenance(recorded))

# %% [markdown]
# The larger vocabulary wins at every step up, from a large gain to a small one, although it sees fewer batches. Two things
# stand behind that: more text in each row of 256 tokens, and more parameters in the two tables. This does not tell them apart, and the learning rate
# was found best at 2,048 and not swept again.
#
# A failure to learn from: in another contest a [claim of 1.03 bpb](https://github.com/openai/parameter-golf/pull/755), by a
# vocabulary chosen cleverly, was flagged in a review since its bytes may have been counted wrong. Whoever changes a tokenizer must
# first prove the count of bytes.

# %% [markdown]
# ## Napkin arithmetic
#
# Depth 24, by size of the vocabulary. Three kinds of tables have a row of 1,536 numbers for each token: `wte`, which turns
# tokens into vectors, `lm_head`, which scores them, and twelve value embeddings (lesson 08). Only the head multiplies.

# %%
from gpt2course import cost
from gpt2course.recipes import resolve

plans = {V: resolve("jan29", depth=24, vocab_size=V) for V in (16384, 32768, 49152, 65536)}
for V, plan in plans.items():
    p = plan.params
    look_up = p["wte"] + p["value_embeds"]
    state = 4 * (2 * look_up + 4 * p["lm_head"])  # weight, gradient, two moments: 2 bytes each, 4 in the head
    logits = 16 * 2048 * V * 4  # a micro-batch of 16 rows, float32
    head = 6 * p["lm_head"] / plan.flops_per_token
    print(f"{V:6,}: {(look_up + p['lm_head']) / 1e6:5.0f}M parameters, {state / 1e9:4.1f} GB,", end=" ")
    print(f"logits {logits / 1e9:.1f} GB, head {head:.1%} of FLOPs")

# %%
budget = {}
for V, plan in plans.items():
    p = plan.params
    budget[f"{V:,}"] = {"layers": p["matrices"], "wte and lm_head": 2 * p["wte"], "value embeddings": p["value_embeds"]}
plots.show(figures.vocabulary_budget(budget))

# %% [markdown]
# The parameters grow fast and the FLOPs slowly. From 32,768 to 65,536 a token costs a few percent more. If tokens get longer by
# the same share, the text costs the same FLOPs. That is the break-even, and the record's time shows what a percent is worth.

# %%
H100, old, new = cost.peak_flops("H100"), plans[32768], plans[65536]
more = new.flops_per_token / old.flops_per_token - 1
hours = cost.hours(old.tokens * old.flops_per_token, 8, H100, 0.5)
print(f"twice the vocabulary: {more:.1%} more FLOPs a token, {60 * hours * more:.0f} minutes of {hours:.2f} h at 50 % MFU")
held_out = dict(curves["held out"])
print(f"from 16,384 to 32,768 tokens grew by {held_out[32768] / held_out[16384] - 1:.1%} in the picture above")

# %% [markdown]
# FLOPs are not the whole bill: the logits are the largest single tensor of a step (lesson 12 makes them in pieces), and a rare
# token is learned from few examples.

# %% [markdown]
# ## Checkpoint questions
#
# 1. Why can this tokenizer never meet an unknown word?
#
# <details><summary>Answer</summary>
#
# All 256 bytes are tokens, and every text is bytes. What no merge covers stays as single bytes.
# </details>
#
# 2. "aaaa" occurs 10 times in a text and nothing else does. How often is the pair (a, a) counted, and how many tokens does its
# merge save?
#
# <details><summary>Answer</summary>
#
# Counted 30 times, saved 20: each "aaaa" becomes two tokens.
# </details>
#
# 3. A colleague has a loss of 3.1 nats per token, you have 3.3, on the same text. Whose model is better?
#
# <details><summary>Answer</summary>
#
# You cannot say unless the tokenizers are the same. Divide both sums of losses, in bits, by the bytes of the text.
# </details>
#
# 4. Why must the trainer and the encoder use the same split pattern?
#
# <details><summary>Answer</summary>
#
# Tokens that cross the encoder's cuts never occur, and their embeddings are never trained. Nothing fails, it is only worse.
# </details>
#
# 5. You double the vocabulary. Which costs double: parameters of the embedding, FLOPs of the layers, memory of the logits?
#
# <details><summary>Answer</summary>
#
# The embedding's parameters and the logits' memory double. The layers' FLOPs for each token stay, and there are fewer tokens.
# </details>

# %% [markdown]
# > **Takeaway.** BPE starts from bytes and merges the most frequent pair, since that shortens the text most. A split pattern
# > keeps merges within words, and encoding replays the merges in their order. Special tokens never come from text. Loss per
# > token depends on the tokenizer; bits per byte do not.

# %% [markdown]
# ## Exercises
#
# [Exercises 01](../exercises/01_tokenizer.ipynb): the most frequent pair, merge without overlap, encode by rank, bits per byte,
# what a vocabulary costs. `make start EX=01` begins, `make grade EX=01` grades.

# %% [markdown]
# ## Further reading
#
# - R. Sennrich and others, *Neural Machine Translation of Rare Words with Subword Units*,
#   [arXiv 1508.07909](https://arxiv.org/abs/1508.07909): BPE for words that a model has never seen.
# - A. Radford and others, *Language Models are Unsupervised Multitask Learners*, 2019: bytes, and the first split pattern.
# - V. Zouhar and others, *A Formal Perspective on Byte-Pair Encoding*, [arXiv 2306.16837](https://arxiv.org/abs/2306.16837):
#   how far greedy is from the best.
# - [rustbpe](https://github.com/karpathy/rustbpe) and [tiktoken](https://github.com/openai/tiktoken), which the package calls.
#
# Before: [00 The 600x story](00_story.ipynb). Next: [02 Data](02_data.ipynb)
