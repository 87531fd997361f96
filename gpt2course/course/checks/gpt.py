"""Checks of lesson 03's exercises: causal attention, rotary positions, RMSNorm, the loss, and what a model costs."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from gpt2course.attention import Cache, attention, sdpa
from gpt2course.course.checks import MISSING, Exercise, call, known, need, need_close, several, tensor, tried
from gpt2course.losses import cross_entropy, cross_entropy_plain, losses_and_gradient_, softcap
from gpt2course.model import GPT, GPTConfig, norm, rope, rope_tables
from gpt2course.recipes import build


def _same(a, b) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4)


def _stays(f, inputs, cases) -> None:
    """Change every input at one place: the output at another place must stay. cases: (changed, kept, hint)."""
    y = f(*inputs)
    for changed, kept, hint in cases:
        others = [x.clone() for x in inputs]
        for x in others:
            x[changed] += 1.0
        need_close(f(*others)[kept], y[kept], hint)


def _gradients(f, ours, names: str, *inputs) -> None:
    """The gradients of a scalar of the output must be those through the package's function."""
    mine, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    y = f(*mine)
    need(y.requires_grad, f"no gradient reaches {names}: is something detached, or copied out of the graph?")
    y.pow(3).sum().backward()
    ours(*theirs).pow(3).sum().backward()
    for name, a, b in zip(names.split(", "), mine, theirs):
        need(a.grad is not None, f"no gradient reaches {name}: is something detached?")
        hint = f"the output is right, but the gradient of {name} is not: is something detached?"
        need_close(a.grad, b.grad, hint, atol=1e-4)


def causal_attention(f) -> None:
    q, k, v = torch.randn(3, 2, 5, 3, 4, generator=torch.Generator().manual_seed(31))  # B 2, T 5, H 3, D 4
    y = call(f, q, k, v, keep="q, k or v")
    tensor(y, q.shape, "the output", "is the last step the transpose back to (B, T, H, D)?")

    one = f(q[:, :1, :1], k[:, :1, :1], v[:, :1, :1])
    need_close(one, v[:, :1, :1], "a single token must come out as its value: do the weights of a query sum to 1?")

    zero = torch.zeros(1, 4, 1, 1)  # all scores 0: each position gets the mean of what it sees
    got = f(zero, zero, torch.tensor([1.0, 2, 3, 6]).view(1, 4, 1, 1))
    got = tensor(got, (1, 4, 1, 1), "the output with B = 1, H = 1 and D = 1").flatten()
    known(got, [1, 1.5, 2, 3], "values 1, 2, 3, 6 under equal scores", [
        ([3, 3, 3, 3], "every position sees the future; is there a causal mask?"),
        ([0.25, 0.75, 1.5, 3], "weights sum to less than 1; hide the future before the softmax, not after"),
        ([1.5, 2, 3, 3], "the mask is off by one; position i sees i and what is before, not i + 1"),
        ([3, 11 / 3, 4.5, 6], "the mask is upside down; a query sees the keys before it, a lower triangle"),
        ([0.25, 11 / 12, 29 / 12, 101 / 12], "the softmax is over the queries, not the keys"),
        ([1, 2, 3, 6], "each position got its own value; are the scores (T, T), with q and k as (B, H, T, D)?"),
    ], "are the weights of a query positive, and do they sum to 1 over the keys it sees?")  # fmt: skip

    q2, k2, v2 = torch.zeros(3, 1, 2, 1, 4)  # query 1 scores its own key 2 ln 3 / sqrt(4) = ln 3: weights 1 : 3
    q2[0, 1], k2[0, 1], v2[0, 1] = 1.0, math.log(3) / 2, 1.0
    known(f(q2, k2, v2)[0, 1, 0], [0.75] * 4, "the weight of a dot product of 2 ln 3 at D = 4", [
        ([0.9] * 4, "the scores are not divided; divide them by sqrt(D) before the softmax"),
        ([math.sqrt(3) / (1 + math.sqrt(3))] * 4, "the scores are divided by D; divide by its square root"),
    ], "is the score the dot product of query i and key j, divided by sqrt(D)?")  # fmt: skip

    _stays(f, (q, k, v), [
        (np.s_[:, :, 2], np.s_[:, :, :2],
         "heads 0 and 1 changed when only head 2 did: heads and positions are mixed; use transpose(1, 2), not view"),
        (np.s_[:, 4], np.s_[:, :4], "changing the last token changed earlier outputs: what hides the future?"),
        (1, 0, "row 0 of the batch changed when only row 1 did: rows do not see each other"),
    ])  # fmt: skip
    of_all_heads = "the scores are divided by sqrt(H D): D is the size of one head, the last axis"
    need(not _same(y, attention(q * math.sqrt(4 / 12), k, v)), of_all_heads)
    hint = "are query and key mixed up, or is the scale another than sqrt(D)?"
    need_close(y, attention(q, k, v), f"random input: differs from the package's attention; {hint}")
    _gradients(f, attention, "q, k, v", q, k, v)
    _unusual(f)


def _unusual(f) -> None:
    """3.1 on inputs that are legal and rare: long, not contiguous, with scores of +-200, in bfloat16."""
    g = torch.Generator().manual_seed(30)
    rows, one = torch.randn(3, 1, 1100, 1, 2, generator=g), torch.ones(1, 3, 1, 4)
    signs = torch.tensor([1.0, -1, 1]).view(1, 3, 1, 1)
    for (q, k, v), what, hint in (
        (rows, "T = 1100", "is a mask of a fixed size in it? make it from q.size(1)"),
        (torch.randn(3, 2, 3, 7, 4, generator=g).transpose(2, 3), "q, k and v that are not contiguous in memory",
         "view needs contiguous tensors; use transpose or reshape"),
        ((10 * one, 10 * signs * one, signs * one), "scores of 200 and -200", "use softmax, which subtracts the maximum"),
        ((10 * one, -10 * one, signs * one), "scores of -200", "use softmax, which subtracts the maximum"),
    ):  # fmt: skip
        need_close(tried(f, (q, k, v), what, hint), attention(q, k, v), f"{what}: off: {hint}", atol=1e-4)
    q, k, v = torch.randn(3, 1, 9, 2, 4, generator=g).bfloat16()
    hint = "make masks and numbers in the dtype of q"
    got = tried(f, (q, k, v), "q, k and v in bfloat16", hint)
    need(got.dtype == q.dtype, f"q, k and v in bfloat16 came out as {got.dtype}, expected the dtype of q: {hint}")
    need_close(got, attention(*(x.float() for x in (q, k, v))), f"q, k and v in bfloat16: off: {hint}", atol=0.05)


def _turned(x, start: int = 0, base: float = 10_000.0):
    cos, sin = rope_tables(start + x.size(1), x.size(3), base)
    return rope(x, cos[start:], sin[start:])


def _turn(q, k, v, start=0, base=10_000.0):
    return _turned(q, start, base), _turned(k, start, base), v


def _turned_units(f) -> None:
    """The unit vector of one channel at position 1, turned: the sign, the pairs and the angles."""
    c, s = math.cos(1), math.sin(1)
    neighbours = "channel 0 was paired with its neighbour; the pairs are the two halves, i and i + D/2"
    exponent = "the second pair turns by 10000^(-2/4) = 0.01, the exponent is -2i/D"

    def second(angle):
        return [0, math.cos(angle), 0, -math.sin(angle)]

    for channel, D, settings, what, wanted, errors in [
        (0, 2, {}, "[1, 0]", [c, -s], [([c, s], "the sign of the turn; a' = a cos + b sin, b' = b cos - a sin")]),
        (0, 4, {}, "[1, 0, 0, 0]", [c, 0, -s, 0], [([c, -s, 0, 0], neighbours), ([c, s, 0, 0], neighbours)]),
        (1, 4, {}, "[0, 1, 0, 0]", second(0.01), [
            (second(0.1), exponent), (second(1e-4), exponent), (second(100.0), exponent),
            (second(1.0), "all pairs turn alike; pair i turns by t base^(-2i/D)"),
        ]),
        (1, 4, {"base": 100.0}, "[0, 1, 0, 0] with base 100", second(0.1),
         [(second(0.01), "base was 100, but 10000 was used")]),
    ]:  # fmt: skip
        x = torch.zeros(1, 2, 1, D)
        x[..., channel] = 1.0
        known(f(x, x, x, **settings)[0][0, 1, 0], wanted, f"{what} at position 1", errors)


def turn(f) -> None:
    q, k, v = torch.randn(3, 2, 6, 3, 8, generator=torch.Generator().manual_seed(32))  # B 2, T 6, H 3, D 8
    out = several(call(f, q, k, v, keep="q, k or v"), 3, "three tensors, q, k and v")
    for name, x, y in zip("qkv", (q, k, v), out):
        tensor(y, x.shape, name, "RoPE keeps shapes")
    need_close(out[2], v, "v came out changed: only the scores need positions, so only q and k are turned")
    begin = "at position 0, where every angle is 0: do the angles run along T, the second axis, and start at 0?"
    for name, x, y in zip("qk", (q, k), out):
        need(not _same(y, x), f"{name} came out as it went in: is it turned?")
        need_close(y[:, 0], x[:, 0], f"{name} changed {begin}")
    _turned_units(f)

    late = f(q[:, :1], k[:, :1], v[:, :1], start=7)[0]
    line = "a single token with start = 7"
    need(not _same(late, q[:, :1]), f"{line} came out as at position 0: its position is start, not 0")
    need_close(late, _turned(q[:, :1], 7), f"{line} is not turned by the angles of position 7")
    later = f(q, k, v, start=3)
    same = "with start = 3 the keys came out as with start = 0: k has the same positions as q"
    need(not _same(later[1], out[1]), same)
    need_close(later[2], v, "with start = 3 v came out changed: only q and k are turned")

    def scores(a, b):
        return a.transpose(1, 2) @ b.transpose(1, 2).transpose(2, 3)  # (B, H, T, T)

    moved = "scores changed when all positions moved by 3: only the distance counts; are q and k turned alike?"
    need_close(scores(*later[:2]), scores(*out[:2]), moved, atol=1e-4)
    for start, base in ((0, 10_000.0), (3, 500.0)):
        for name, x, y in zip("qk", (q, k), f(q, k, v, start=start, base=base)):
            line = f"random input with start = {start}, base = {base:g}: {name} differs from the package's"
            need_close(y, _turned(x, start, base), line)
    _gradients(lambda *x: torch.cat(tuple(f(*x))), lambda *x: torch.cat(_turn(*x)), "q, k, v", q, k, v)
    rows = torch.randn(3, 1, 2, 40, 4, generator=torch.Generator().manual_seed(35)).transpose(2, 3)
    what = "40 positions from 5000 on, of tensors that are not contiguous in memory"
    hint = "is a table of a fixed size in it, or a view? make the angles from start and q.size(1)"
    got = tried(lambda *x: f(*x, start=5000), tuple(rows), what, hint)
    need_close(got[1], _turned(rows[1], 5000), f"{what}: off: {hint}", atol=5e-3)


def rms_norm(f) -> None:
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(33)) * 3 + 1
    y, r, small = call(f, x, keep="x"), 12.5**0.5, 0.125**0.5
    tensor(y, x.shape, "the output", "the shape stays")
    for vector, eps, wanted, errors, otherwise in [
        ([3.0, 4.0], 0.0, [3 / r, 4 / r], [
            ([-1.0, 1.0], "a mean was subtracted, as in LayerNorm; RMSNorm subtracts none"),
            ([6.0, 8.0], "a variance has its mean subtracted; take the mean of the squares"),
            ([0.6, 0.8], "the sum of squares was taken, not their mean"), ([3 / 12.5, 4 / 12.5], "the root is missing"),
            ([1.0, 1.0], "the mean runs along the wrong axis; the last one holds the vector"),
        ], "divide by the root of the mean of squares, 3.536"),
        ([0.3, 0.4], 0.125, [0.6, 0.8], [
            ([0.3 / (small + 0.125), 0.4 / (small + 0.125)], "eps was added outside the root; it belongs under it"),
            ([0.3 / small, 0.4 / small], "eps was not used"),
        ], "the root is taken of the mean of squares plus eps"),
    ]:  # fmt: skip
        got = tensor(f(torch.tensor([vector]), eps=eps), (1, 2), "the output", "the shape stays")[0]
        known(got, wanted, f"{vector} with eps = {eps:g}", errors, otherwise)
    need_close(f(torch.zeros(2, 4)), torch.zeros(2, 4), "zeros did not come out as zeros: is eps under the root?")
    size = "a norm forgets the size; is a mean over the wrong axis, or eps too large?"
    need_close(f(x * 100), y, f"100 times the input gave another output: {size}", atol=1e-4)
    last = "the mean runs over the last dimension alone"
    _stays(f, (x,), [
        (1, 0, f"row 0 changed when only row 1 did: {last}, not over all"),
        (np.s_[:, 2], np.s_[:, :2], f"vectors changed when only another one did: {last}"),
    ])  # fmt: skip
    need_close(y, norm(x), "random input: differs from the package's norm")
    one = x[0, 0, 0]
    need_close(f(one), norm(one), f"a single vector (C,) differs from the package's norm: {last}, dim=-1")
    _gradients(f, norm, "x", x)
    turned, what = x.transpose(0, 2), "a tensor that is not contiguous in memory"
    got = tried(f, (turned,), what, "view needs contiguous tensors; use mean(dim=-1, keepdim=True)")
    need_close(got, norm(turned), f"{what} came out wrong")


def next_token_loss(f) -> None:
    def loss(logits, tokens, **kw):
        logits, tokens = torch.as_tensor(logits, dtype=torch.float32), torch.as_tensor(tokens)
        got = call(f, logits, tokens, keep="logits or tokens", **kw)
        need(got is not None, MISSING)
        got = torch.as_tensor(got)
        need(got.numel() == 1, f"expected one number, got the shape {tuple(got.shape)}: is the mean missing?")
        return got.item()

    ln2, tokens = math.log(2), torch.tensor([[0, 1, 2, 0, 2]])
    sure = torch.full((1, 5, 3), -10.0)
    sure[0, torch.arange(4), tokens[0, 1:]] = 10.0  # certain of every next token; nothing is right after the last
    filler = "the mean was taken over filler too; divide by the number of targets that count"
    z = 15 * math.tanh(2)  # logits 0 and 30 with the softcap 15
    for logits, ids, settings, wanted, what, errors, otherwise in [
        (torch.zeros(1, 2, 2), [[0, 1]], {}, ln2, "the loss of two equal logits",
         {1.0: "that is in bits; take the natural logarithm"}, "is it minus the logarithm of a probability?"),
        (sure, tokens, {}, 0.0, "the loss of a model that is certain of every next token", {},
         "is the shift missing? tokens[:, t + 1] judges logits[:, t]"),
        (torch.zeros(1, 3, 2), [[0, 1, -1]], {}, ln2, "the loss of tokens [0, 1, -1] with equal logits",
         {ln2 / 2: filler, ln2 / 3: filler}, "one target counts; -1 is never a target"),
        ([[[0.0, 30.0], [0.0, 0.0]]], [[0, 0]], {}, z, "the loss of logits [0, 30] with the target 0 and cap = 15", {
            30: "the softcap is missing; cap tanh(z / cap) before the softmax",
            15: "the logits were cut off at the cap; a softcap is smooth, cap tanh(z / cap)",
        }, "is the softcap cap tanh(z / cap), before the softmax?"),
        ([[[0.0, 3.0], [0.0, 0.0]]], [[0, 0]], {"cap": 0.0}, math.log1p(math.exp(3)), "the loss of [0, 3] with cap = 0",
         {}, "cap = 0 leaves the logits as they are"),
        ([[[0.0, 1000.0], [0.0, 0.0]]], [[0, 0]], {"cap": 0.0}, 1000.0, "the loss of [0, 1000] without a cap", {},
         "does exp overflow? use log_softmax"),
    ]:  # fmt: skip
        known(loss(logits, ids, **settings), wanted, what, errors, otherwise)
    g = torch.Generator().manual_seed(34)
    for cap in (15.0, 0.0, 2.0):
        logits, tokens = 4 * torch.randn(3, 6, 7, generator=g), torch.randint(7, (3, 6), generator=g)
        tokens[1, 2:], tokens[2, 4:], tokens[0, 3] = -1, -1, -1  # 4, 1 and 3 targets that count
        targets = tokens[:, 1:]
        each = cross_entropy(logits[:, :-1].flatten(0, 1), torch.eye(7), targets.flatten(), cap, "none").view(3, 5)
        n, total = (targets >= 0).sum(1), each.sum()
        logits = logits.transpose(0, 1).contiguous().transpose(0, 1)  # as a slice of a larger tensor would be
        known(loss(logits, tokens, cap=cap), (total / n.sum()).item(), f"the loss of three rows with cap = {cap:g}", {
            (each.sum(1) / n).mean().item(): "that is the mean of each row's mean; take one mean over all targets",
            total.item(): "that is the sum over targets; take the mean",
        }, "the package's loss differs")  # fmt: skip


def _budget(config) -> dict:
    """The parts, counted on a model of the package (on the meta device, so without memory)."""
    model = build(config)
    count = model.num_params()
    attn = sum(p.numel() for b in model.blocks for p in b.attn.parameters())
    parts = {"wte": count["wte"], "attention": attn, "mlp": count["matrices"] - attn, "lm_head": count["lm_head"]}
    return parts | {"total": count["total"], "flops": int(model.flops_per_token())}


def budget(f) -> None:
    tiny = GPTConfig(vocab_size=10, sequence_len=3, n_layer=1, n_embd=2, n_head=1, n_kv_head=1)  # the tiny example
    mistakes = {  # part -> what a known mistake gives for the tiny model, and the hint
        "attention": {12: "there are four matrices: q, k, v and the output projection", 24: "there are no biases"},
        "mlp": {16: "there are two matrices, C to 4C and back", 42: "there are no biases", },
        "lm_head": {0: "the head is untied, a table of its own", 30: "there are no biases"},
        "total": {68: "the head is untied and counts by itself", },
        "flops": {
            408: "the attention's own 12 C T a layer is missing",
            160: "the factor 3 is missing; backward costs twice as much as forward",
            208: "6 for each weight: 2 forward, 4 backward",
            600: "looking up a row of wte costs no FLOPs", 360: "the head is a matrix product too",
        },
    }  # fmt: skip
    for config in (
        tiny,
        GPTConfig(vocab_size=300, sequence_len=16, n_layer=3, n_embd=8, n_head=2, n_kv_head=2),
        GPTConfig(n_layer=24, n_embd=1536, n_head=12, n_kv_head=12),
    ):
        wanted, got = _budget(config), f(config)
        need(isinstance(got, dict), f"expected a dict, got {type(got).__name__}: is the return missing?")
        need(got.keys() >= wanted.keys(), f"the dict lacks {', '.join(wanted.keys() - got.keys())}")
        size = f"L = {config.n_layer}, C = {config.n_embd}, V = {config.vocab_size}, T = {config.sequence_len}"
        layers = "are the parts multiplied by the number of layers, and by nothing else?"
        for part, value in wanted.items():
            known(got[part], value, f"{part} at {size}", mistakes.get(part, {}) if config is tiny else {}, layers, 0.0)


EXERCISES = (
    Exercise("3.1", "Causal attention", causal_attention, points=3, minutes=20, difficulty=3, importance=5,
             forbids=(attention, sdpa, Cache, F.scaled_dot_product_attention, F.multi_head_attention_forward),
             reference=attention,
             nan="does the mask hide a whole row, does the softmax run along another axis, or does exp overflow?"),
    Exercise("3.2", "Rotary positions", turn, points=3, minutes=20, difficulty=3, importance=4,
             forbids=(rope, rope_tables, GPT.rope), reference=_turn),
    Exercise("3.3", "RMSNorm", rms_norm, points=1, minutes=5, difficulty=1, importance=4,
             forbids=(norm,), nan="zeros are divided by 0: is eps under the root?"),
    Exercise("3.4", "Measuring: the loss", next_token_loss, points=2, minutes=15, difficulty=2, importance=5,
             forbids=(cross_entropy, cross_entropy_plain, losses_and_gradient_, softcap, GPT),
             nan="does exp overflow? use log_softmax"),
    Exercise("3.5", "Cost: parameters and FLOPs", budget, points=2, minutes=10, difficulty=2, importance=4,
             forbids=(build, GPT), reference=_budget),
)  # fmt: skip
