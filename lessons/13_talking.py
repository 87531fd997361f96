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
# # 13 Talking to it
#
# **Goal:** write the loop that lets a model talk, and the cache that makes its next token cheap.
#
# 35 minutes, and 75 for the exercises; any CPU will do.
#
# Lessons 00 to 12 made a model. This one uses it. The lesson explains [sample.py](../gpt2course/sample.py) and the second half
# of [attention.py](../gpt2course/attention.py), the class `Cache`.

# %%
written = 1000
read = sum(range(1, written + 1))  # one token, then two, then three ...
print(f"to write {written:,} tokens, the model reads {read:,}")

# %% [markdown]
# A GPT turns a text into probabilities for the next token. To write, take a token, append it, and give the model the
# longer text. So each new token costs the reading of a whole text, and for the thousandth the model reads a thousand times as much
# as for the first. No chat program slows down like that.
#
# ## Before you run on
#
# **Why is the second token cheap?** And what still has to be paid for it?
#
# How many times faster will the 1,000th token come with a cache, on your machine? Write your guess down.

# %%
from gpt2course.course import lab, plots

lab.predict("13.speedup", 50.0)

# %% [markdown]
# We need a model that talks, however badly: the `record` recipe, four layers, 100 steps, two seeds.
# Three layers have a window of 8 tokens, the last one sees all 128.

# %%
size = dict(recipe="record", short_window_divisor=16, short_window_tile=1)
runs = lab.experiment({"SSSL": {}}, depth=4, steps=100, **size)["SSSL"]
model, tok = runs[0]["model"].eval(), lab.tokenizer()
print("windows:", [block.attn.window[0] for block in model.blocks])

# %% [markdown]
# ## From numbers to a token
#
# The model returns a number for each token of the vocabulary, its *logit* (lesson 10). A softmax makes probabilities of them:

# %%
import torch

ids = [tok.bos, *tok.encode("The people of the")]
with torch.no_grad():
    z = model(torch.tensor([ids]))[0, -1]  # (V,), the logits after the last token

# %%
p, best = z.softmax(0).topk(5)
print({tok.decode([i]): round(x, 3) for x, i in zip(p.tolist(), best.tolist())})

# %% [markdown]
# Which one do we take? First try: always the most likely. The loop reads everything again for each token.

# %%
@torch.no_grad()
def write_again(model, ids, n, choose):
    for _ in range(n):
        ids = [*ids, choose(model(torch.tensor([ids]))[0, -1])]
    return ids

# %%
greedy = write_again(model, ids, 40, lambda z: int(z.argmax()))
print(tok.decode(greedy[1:]))

# %% [markdown]
# It goes in circles: what was likely once is likely again after the same words. So we draw instead. The *temperature* t
# decides how daring the draw is: the logits are divided by t before the softmax. A first try:

# %%
for t in (2.0, 1.0, 0.5, 0.01):
    e = (z / t).exp()
    print(t, (e / e.sum())[best])

# %% [markdown]
# A low temperature favours the likely tokens, a high one evens them out. At 0.01 all is NaN: exp overflows. As in lesson
# 06, subtract the largest logit first; that changes no probability.
#
# One more danger. A thousand unlikely tokens are together likely enough to be drawn now and then, and one odd word spoils
# what follows. *Top-k* drops all but the k most likely. Write both.

# %% tags=["hole"]
def distribution(logits, temperature, top_k):
    """Logits (V,) -> probabilities (V,): of the top_k largest alone (None: of all).

    Temperature 0 gives the largest logit all the probability.
    """
    ### BEGIN SOLUTION
    if temperature == 0:
        temperature, top_k = 1.0, 1
    z = logits.double()
    if top_k:
        dropped = z.argsort(descending=True, stable=True)[top_k:]
        z = z.index_fill(0, dropped, -torch.inf)
    return ((z - z.max()) / temperature).softmax(0)
    ### END SOLUTION

# %%
some = torch.tensor([1.0, 3.0, 2.0, -1.0, 0.5])
cases = [(some, 1.0, None), (some, 0.5, 2), (some, 0.001, None), (some, 0, None)]
distribution = lab.hole("13", distribution, *cases, (300 * some, 2.0, 3))
print(distribution(some, 0.5, 2))

# %% [markdown]
# The package's version also says what is wrong where the logits are NaN:

# %%
import inspect
from gpt2course import sample

print(inspect.getsource(sample.probabilities))
lab.compare(distribution(z, 0.8, 50), sample.probabilities(z, 0.8, 50))

# %%
from gpt2course.course.figures import talking as figures

order = z.argsort(descending=True)[:14].tolist()
names = [plots.visible(tok.decode([i])) for i in order]
lines = {t: distribution(z, t, None)[order].tolist() for t in (0.5, 1.0, 2.0)}
plots.show(figures.temperatures(names, lines))

# %%
def drawer(temperature, top_k, seed=1):
    g = torch.Generator().manual_seed(seed)
    p = lambda z: distribution(z, temperature, top_k)
    return lambda z: int(torch.multinomial(p(z), 1, generator=g))

# %%
for t, k in ((0.8, 50), (2.0, None)):
    text = tok.decode(write_again(model, ids, 40, drawer(t, k))[1:])
    print(f"temperature {t}, top-k {k}: {' '.join(text.split())}")

# %% [markdown]
# The first is as good as this little model gets. The second is noise.
#
# ## What the model computes again
#
# Now the price. Let the model read 10 tokens, then 11, and look at the keys of the last layer both times:

# %%
keys = []
c_k = model.blocks[-1].attn.c_k
hook = c_k.register_forward_hook(lambda module, inputs, k: keys.append(k))
with torch.no_grad():
    model(torch.tensor([greedy[:10]])), model(torch.tensor([greedy[:11]]))
hook.remove()
lab.compare(keys[1][:, :10], keys[0])

# %% [markdown]
# They are the same. The mask is causal, so no position ever sees a later token, and nothing about the first ten
# changes when an eleventh arrives.
#
# What does a new token need from them? Attention at its position takes its own query, and the keys and values of all positions.
# Old queries were used once and are never asked for again. So keep keys and values, layer by layer: that is the *cache*. On six
# tokens, in one layer:

# %%
from gpt2course.attention import attention

q, k, v = torch.randn(3, 1, 6, 1, 4, generator=torch.Generator().manual_seed(3))
whole = attention(q, k, v)  # (B, T, H, D)
last = attention(q[:, 5:], k, v)  # one query, all keys and values
lab.compare(last, whole[:, 5:])

# %% [markdown]
# A layer with a window (left, 0) sees `left` earlier tokens and itself. It will never look further back, so its cache
# need not hold more. How much exactly? Not the left + 1 tokens that are seen: the next token brings its own key. Write it. There may
# be several new tokens, since a prompt is read in one go.

# %% tags=["hole"]
def remember(past, k, v, left):
    """past: None or (old_k, old_v); new k, v (B, T, H, D) -> (keys, values, new past).

    keys, values: what the new queries may look at, old and new. new past: a pair, what
    the next token may look at besides itself: its last `left` tokens; left < 0: all.
    """
    ### BEGIN SOLUTION
    if past is not None:
        k, v = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
    first = 0 if left < 0 else max(0, k.size(1) - left)
    return k, v, (k[:, first:], v[:, first:])
    ### END SOLUTION

# %%
one, two = (k[:, :1], v[:, :1]), (k[:, :2], v[:, :2])
cases = [(None, k, v, -1), (None, k, v, 2), (one, k, v, -1), (one, k, v, 3)]
cases += [(two, *one, 2), (one, *one, 5), (one, *one, 0)]
remember = lab.hole("13", remember, *cases)

# %%
past, rows = None, []
for query, key, value in zip(*(x.split(1, dim=1) for x in (q, k, v))):
    keys, values, past = remember(past, key, value, 2)
    rows.append(attention(query, keys, values, (2, 0)))

# %%
print(f"kept: {past[0].size(1)} of 6")
lab.compare(torch.cat(rows, dim=1), attention(q, k, v, (2, 0)))

# %% [markdown]
# ## Into the model
#
# Our model calls three methods of a cache. `attend` is attention with what was kept. `advance` returns the positions of the new
# tokens, for RoPE. `shift` puts the embedding of the token before in front of the new ones, for the smear of the `record`
# recipe, in which each embedding takes in a little of the one before. A first try:

# %%
class Kept:
    def __init__(self):
        self.length, self.past, self.last = 0, {}, None

    def attend(self, layer, q, k, v, window):
        k, v, self.past[layer] = remember(self.past.get(layer), k, v, window[0])
        return attention(q, k, v, window)

    def advance(self, T, device):
        self.length += T
        return torch.arange(T)

    def shift(self, x):  # x (B, T, C) -> (B, 1 + T, C)
        return torch.cat([torch.zeros_like(x[:, :1]), x], dim=1)

# %%
@torch.no_grad()
def one_by_one(model, ids, cache):
    return torch.cat([model(torch.tensor([[i]]), cache=cache) for i in ids], dim=1)

# %%
with torch.no_grad():
    truth = model(torch.tensor([greedy]))  # (1, T, V), read in one go
off = (one_by_one(model, greedy, Kept()) - truth).abs()[0].amax(1)  # (T,)
print(f"logits off by up to {off[[0, 1, 2, 10, 40]]}")

# %% [markdown]
# Wrong from the second token on, and nothing crashed; the text would only be worse. Two things are missing. `arange(T)`
# begins at 0 again, so each new token believes that it is the first, and RoPE turns it by no angle. And the embedding
# before a new token was read in an earlier call; we put zeros in its place. The positions first:

# %%
class Placed(Kept):
    def advance(self, T, device):
        self.length += T
        return torch.arange(self.length - T, self.length)

# %%
off = (one_by_one(model, greedy, Placed()) - truth).abs()[0].amax(1)
print(f"logits off by up to {off[[0, 1, 2, 10, 40]]}")

# %% [markdown]
# Later tokens are closer; all are still wrong. Now the embedding before.

# %% tags=["hole"]
def shifted(x, last):
    """x (B, T, C); last: None or (B, 1, C), what the call before returned as second.

    -> x with the embedding before it in front (0 before the first), and the new last.
    """
    ### BEGIN SOLUTION
    before = torch.zeros_like(x[:, :1]) if last is None else last
    return torch.cat([before, x], dim=1), x[:, -1:]
    ### END SOLUTION

# %%
x = torch.arange(12.0).view(2, 3, 2)
shifted = lab.hole("13", shifted, (x, None), (x, -x[:, :1]), (x[:, 2:], x[:, 1:2]))

# %%
class Whole(Placed):
    def shift(self, x):
        x, self.last = shifted(x, self.last)
        return x

# %%
mine = Whole()
lab.compare(one_by_one(model, greedy, mine), truth, atol=1e-4)
kept = [k.size(1) for k, v in mine.past.values()]
print(f"kept by layer: {kept} of {len(greedy)}")

# %% [markdown]
# Cached equals uncached, token by token or all at once, up to rounding. Short layers keep 8. The package's version also serves several texts at once, of different lengths, with filler at their start (`pad`):

# %%
from gpt2course.attention import Cache

print(inspect.getsource(Cache.attend))
lab.compare(one_by_one(model, greedy, Cache()), truth, atol=1e-4)

# %% [markdown]
# ## Yours talks
#
# Keep your `remember`, and let the package write with it. `sample.generate` is the loop of this lesson; it also decodes tokens to
# characters, and ends where the model ends the document.

# %%
from gpt2course.course import mine as pieces

lab.keep("cache", remember)

# %%
ask = lambda: sample.generate(model, tok, ["The people of the"] * 2, max_tokens=30)
with pieces.installed({"cache": lab.mine("cache")}):
    texts = ask()
print(f"the package writes the same: {texts == ask()}")
print("\n".join(" ".join(text.split()) for text in texts))

# %% [markdown]
# Now a conversation: put your lines into `LINES` and run the cell. If you have a run of your own (`make speedrun` makes one), name
# it in `MY_RUN`, and it will talk instead. It is a base model: it continues texts and does not answer questions.

# %%
from gpt2course.load import load_model

MY_RUN = ""  # such as "jan29-d4"; "" is the little model of this lesson
LINES = ["The people of the", "In the year 1800", "Water is"]

talker, words = load_model(MY_RUN, "cpu")[:2] if MY_RUN else (model, tok)
for line, text in zip(LINES, sample.generate(talker, words, LINES, max_tokens=30)):
    print(f"> {line} | {' '.join(text.split())}")

# %% [markdown]
# How sure was it? Read a text once more, in one go, and take from each position the probability of the token that
# followed.

# %%
text = words.encode(LINES[0] + sample.generate(talker, words, LINES[:1])[0])
with torch.no_grad():
    logp = talker(torch.tensor([[words.bos, *text[:-1]]]))[0].log_softmax(-1)
chance = logp.gather(1, torch.tensor(text)[:, None])[:, 0].exp().tolist()
figures.show_sure([words.decode([i]) for i in text], chance)

# %% [markdown]
# ## What it saves
#
# Time does not depend on what the weights are. So take a larger model, not trained, and time one token after 8 to 1,000
# others, with your cache and without.

# %%
from gpt2course.recipes import make_model, resolve

shape = dict(width=256, head_dim=64, sequence_len=1024, vocab_size=1024)
shape |= dict(depth=4, batch_tokens=1024, steps=1)  # the recipe wants them
big = make_model(resolve("windows", **shape)).init_weights(1).eval()

# %%
@torch.no_grad()
def next_token(n, B=1):
    """Seconds for one more token after n in each of B texts, from a filled cache."""
    cache = Whole()
    big(torch.zeros(1, n, dtype=torch.long), cache=cache)
    for at, pair in cache.past.items():
        cache.past[at] = [x.repeat(B, 1, 1, 1) for x in pair]
    one = torch.zeros(B, 1, dtype=torch.long)
    return lab.clock(lambda: big(one, cache=cache), rounds=20)

# %%
lengths = (8, 32, 128, 512, 1000)
with torch.no_grad():
    texts = [torch.zeros(1, n + 1, dtype=torch.long) for n in lengths]
    again = [lab.clock(big, text) for text in texts]
cached = [next_token(n) for n in lengths]
lab.result("13.speedup", round(again[-1] / cached[-1], 1))

# %%
per_second = lambda times: [(n, 1 / t) for n, t in zip(lengths, times)]
lines = {"read again": per_second(again), "with the cache": per_second(cached)}
plots.show(figures.speed(lines, "tokens in the text"))

# %% [markdown]
# With the cache the speed falls by about a third: one position goes through the matrices whatever the length, but the cache is read, and here
# copied. Towards short texts the gain vanishes. There a call's fixed costs and the reading of the weights are nearly all, and both
# ways pay them. It vanishes a second time beyond T: then the oldest token must leave. RoPE sees distances alone, so moving up
# changes no score among the others. But their keys and values in later layers contain what the dropped token said.
# `sample.context` reads again there.
#
# Look at the left end once more. Nine positions take far less than nine times as long as one. So one position leaves most of
# the machine idle, and other texts could use it:

# %%
batches = (1, 2, 4, 8, 16)
per_batch = lambda n: [(B, B / next_token(n, B)) for B in batches]
by_batch = {f"after {n:,} tokens": per_batch(n) for n in (8, 1000)}
plots.show(figures.speed(by_batch, "texts at once"))

# %% [markdown]
# Each step reads every weight once, for one text or for many. So tokens per second grow with the batch, until the multiplications
# fill the machine. Long texts gain less or nothing: each brings its own cache, which nobody shares. (Here `cat` even copies all of it
# at each step. A server writes into memory that it set aside before.)
#
# ## The experiment: how much may be dropped?
#
# The short layers were trained with a window of 8. What if their cache is cut harder, or not at all? The same weights,
# the same text, other windows; two seeds. (A window in one reading gives the numbers of a cut cache, as you have seen, in less
# time.) More memory cannot hurt, or can it? Which window will be the best?

# %%
from gpt2course import evaluate
from gpt2course.data import load_corpus

lab.predict("13.window", "128")
held_out = evaluate.first_bytes(load_corpus("embedded").val, 25_000)

def with_window(run, W):
    short = run["model"].eval().blocks[:3]
    for block in short:
        block.attn.window = (W, 0)
    bpb, _ = evaluate.bits_per_byte(run["model"], held_out, tok, 128)
    for block in short:
        block.attn.window = (8, 0)
    return bpb

# %%
widths = (1, 2, 4, 8, 16, 32, 128)
found = {W: [with_window(run, W) for run in runs] for W in widths}
plots.show(figures.windows(found, trained=8))
lab.result("13.window", str(min(found, key=lambda W: sum(found[W]))))
lab.verdict(found[8], found[128])

# %% [markdown]
# More memory does hurt. Both seeds are best at exactly 8. Uncut they are worse by 0.02 bits per byte, more than the seeds
# differ, and worse than with a window of 2. A likely reason: layers that learned with 8 keys never learned to ignore 120 others. So the
# cut belongs to the model; it is not a saving at its expense. This does not show that a model trained without windows would be worse,
# and it is one small model after 100 steps. Weights and text are the same at every point, so there is nothing else to sweep.
#
# ## At full size
#
# Depth 24 of `jan29`, in two bytes a number. Keys and values of one token, then of 2,048:

# %%
plan = resolve("jan29", depth=24)
m, G = plan.model, 1e9
layer = 2 * m.n_kv_head * m.head_dim * 2  # bytes a token: key and value, 2 bytes each
kept = [min(m.sequence_len, m.window(i)[0]) for i in range(m.n_layer)]
full, cut = m.n_layer * layer * m.sequence_len, layer * sum(kept)
print(f"{m.n_layer * layer:,} bytes a token; at {m.sequence_len:,} tokens "
      f"{full / 1e6:.0f} MB, cut to the windows {cut / 1e6:.0f} MB")  # fmt: skip

# %%
sizes = [layer * n / 1e6 for n in kept]
plots.show(figures.memory(sizes, layer * m.sequence_len / 1e6))

# %% [markdown]
# And the weights? A step multiplies by all matrices and the head. Of the embeddings and the value embeddings it looks up one row a
# token. An H100 reads 3.35 TB/s from its memory (NVIDIA's data sheet, SXM).

# %%
weights = 2 * plan.params["scaling"]  # matrices and head
everything = 2 * plan.params["total"]  # with the tables
bandwidth, peak = 3.35e12, 989e12
print(f"read: {weights / G:.2f} GB of {everything / G:.2f} GB, "
      f"at least {weights / bandwidth * 1e3:.2f} ms a token")  # fmt: skip
print(f"caches as large as these weights: {weights / full:.1f} uncut, "
      f"{weights / cut:.1f} cut")  # fmt: skip
print(f"a token's multiplications: {weights / peak * 1e6:.1f} µs, "
      f"{peak / bandwidth:.0f} times less")  # fmt: skip

# %% [markdown]
# So one text, written one token a step, cannot go beyond 2,300 tokens a second, whatever the code, and uses a third of a percent of
# the multiplications. (Exercise 13.4 gets several tokens out of a step.) Up to about 295 positions cost no more than one as far as the weights are concerned. That is why a
# prompt is read so fast (*prefill*) and writing is slow (*decoding*). At 5 full texts the caches weigh as much as the weights; from
# there on a larger batch gains less and less. These are bounds from two numbers of a data sheet; we have not
# measured them.
#
# ## The answer
#
# The second token is cheap because the past of a causal model never changes. Its keys and values are kept, so 1,000 positions
# go through the matrices for 1,000 tokens, in place of 500,500. `13.speedup` has what that made of the 1,000th on your machine; here it was
# about fifty times as fast. What still has to be paid for each step at depth 24 is one reading of all weights, 1.46 GB or 0.44 ms, which
# many texts can share, and the reading of each text's own cache, up to 302 MB, or 189 MB cut to the windows. The first
# tokens of a text gain nothing, and beyond T the package reads again.

# %% [markdown]
# ## Questions
#
# 1. Why are queries not kept?
#
# <details><summary>Answer</summary>
#
# A query is used by its own position alone, at the moment of reading. Later tokens look at its key and its value.
# </details>
#
# 2. You change the temperature in the middle of a text. Must the cache be emptied?
#
# <details><summary>Answer</summary>
#
# No. It depends on the tokens that were read, not on how they were chosen.
# </details>
#
# 3. A key of a short layer is dropped after 8 tokens. Is what it said lost?
#
# <details><summary>Answer</summary>
#
# Not all of it. Later positions have taken it in, and their keys and values carry it on. The last layer also keeps its own
# keys of all tokens.
# </details>
#
# 4. Someone keeps keys before RoPE and turns them anew at each step, by their position in the window. What does it buy, and
# what not?
#
# <details><summary>Answer</summary>
#
# Among tokens that move up together it changes no score, since RoPE sees distances. It keeps BOS, which stays in front, as near as
# in training, so a text can go on beyond T. It is not what reading again computes: in deeper layers the kept values still contain
# what the dropped tokens said.
# </details>

# %% [markdown]
# > **Takeaway.** The past of a causal model never changes, so keep its keys and values and read one token at a time. What
# > is left to pay is the reading of all weights, which many texts can share, and of the cache, which they cannot. Cut the cache to
# > the window of the training, exactly. And check cached against uncached, number for number: errors there are silent.

# %% [markdown]
# ## Exercises
#
# [Exercises 13](../exercises/13_talking.ipynb): draw a token by a maximum alone, which becomes the sampler of your own run; correct a
# benchmark that counts too many bytes; find out from outside how a service draws; and let a small model guess for a large one.
# `make start EX=13`, `make grade EX=13`.

# %% [markdown]
# ## Further reading
#
# - R. Pope and others, *Efficiently scaling transformer inference*, [arXiv 2211.05102](https://arxiv.org/abs/2211.05102).
# - A. Holtzman and others, *The curious case of neural text degeneration*, [arXiv 1904.09751](https://arxiv.org/abs/1904.09751).
# - G. Xiao and others, *Efficient streaming language models with attention sinks*, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453).
# - Y. Leviathan and others, *Fast inference from transformers via speculative decoding*,
# [arXiv 2211.17192](https://arxiv.org/abs/2211.17192).
