"""Checks of lesson 03's exercises: causal attention, heads in another order, other pairs, the loss, what a model costs."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from gpt2course.attention import Cache, attention, sdpa
from gpt2course.course.checks import MISSING, Exercise, call, known, need, need_close, plain, several, tensor, tried
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
        (1, 0, "row 0 of the batch changed when only row 1 did: if batch and heads are one axis, take them apart again "
         "in the same order"),
        (np.s_[:, :, 2], np.s_[:, :, :2],
         "heads 0 and 1 changed when only head 2 did: heads and positions are mixed; use transpose(1, 2), not view"),
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


def _order_rows(order: list[int], D: int) -> torch.Tensor:
    return torch.cat([torch.arange(h * D, (h + 1) * D) for h in order])


def _reordered(c_q, c_k, c_v, c_proj, order):
    rows = _order_rows(order, c_q.size(0) // len(order))
    return c_q[rows], c_k[rows], c_v[rows], c_proj[:, rows]


def _layer(x, c_q, c_k, c_v, c_proj, H: int) -> torch.Tensor:
    """The modern attention layer: x (B, T, C), three matrices (H D, C), c_proj (C, H D)."""
    q, k, v = ((x @ w.T).unflatten(-1, (H, -1)) for w in (c_q, c_k, c_v))
    tables = rope_tables(x.size(1), q.size(3), 10_000.0)
    return attention(norm(rope(q, *tables)), norm(rope(k, *tables)), v).flatten(2) @ c_proj.T


def reordered(f) -> None:
    names = ("c_q", "c_k", "c_v", "c_proj")
    for H, D, C, order in ((3, 4, 15, [2, 0, 1]), (4, 2, 9, [1, 3, 0, 2]), (5, 6, 7, [4, 0, 3, 1, 2]), (1, 4, 5, [0])):
        g = torch.Generator().manual_seed(32 + H)
        x, c_proj = torch.randn(2, 6, C, generator=g), torch.randn(C, H * D, generator=g)
        w = (*torch.randn(3, H * D, C, generator=g), c_proj)
        what = f"H = {H}, D = {D}, C = {C}, order {order}"
        got = several(call(f, *w, list(order), keep="the matrices or order"), 4, "four matrices, c_q, c_k, c_v, c_proj")
        back = [order.index(h) for h in range(H)]
        for name, a, b in zip(names, got, w):
            axis = "the columns of c_proj are the channels of the heads" if name == "c_proj" else "shapes stay"
            tensor(a, b.shape, f"{name} ({what})", axis)
        for name, a, b in zip(names, got, w):
            move = (lambda m, rows: m[:, rows]) if name == "c_proj" else (lambda m, rows: m[rows])
            for rows, hint in (
                (torch.arange(H * D), "it came out as it went in; every one of the four matrices knows the heads"),
                (_order_rows(back, D), "that is the inverse order; the new head j is the old head order[j]"),
                (torch.arange(H * D).view(D, H)[:, order].flatten(),
                 "every H-th channel was taken as a head; head h owns the channels h D to (h + 1) D"),
            ):  # fmt: skip
                same = H > 1 and torch.equal(torch.as_tensor(a), move(b, rows))
                need(not same, f"{name} is wrong with {what}: {hint}")
            line = f"{name} is wrong with {what}: head j must be the old head order[j], its channels in their old order"
            need_close(a, move(b, _order_rows(order, D)), line)
        line = f"the layer computes something else with {what}: are all four matrices in the same order?"
        need_close(_layer(x, *got, H), _layer(x, *w, H), line, atol=1e-4)


def _halves(W, H):
    return W.unflatten(0, (H, -1, 2)).transpose(1, 2).flatten(0, 2)


def _neighbour_scores(x, W, H: int) -> torch.Tensor:
    """Scores (B, H, T, T) of keys as their own queries where RoPE's pairs are the channels 2i and 2i + 1."""
    k = (x @ W.T).unflatten(-1, (H, -1))
    cos, sin = (t[:, None] for t in rope_tables(x.size(1), k.size(3), 10_000.0))
    a, b = k[..., 0::2], k[..., 1::2]
    k = torch.stack([a * cos + b * sin, b * cos - a * sin], -1).flatten(-2).transpose(1, 2)
    return k @ k.mT


def halves(f) -> None:
    def rows(n, H):  # which row lies where
        got = call(f, torch.arange(float(n))[:, None], H, keep="W")
        return plain(tensor(got, (n, 1), f"a matrix of {n} rows and one column, H = {H}", "the shape stays")[:, 0], "rows")

    stays = ([0, 1, 2, 3, 4, 5], "nothing has moved")
    known(rows(6, 1), [0, 2, 4, 1, 3, 5], "the rows 0 to 5 of one head", [
        stays, ([0, 3, 1, 4, 2, 5], "that is the way back, from halves to neighbours"),
        ([1, 3, 5, 0, 2, 4], "the first of each pair belongs in the first half"),
        ([0, 2, 4, 5, 3, 1], "the second half is upside down; pair i is made of i and i + D/2"),
    ], "pair i, the old rows 2i and 2i + 1, becomes the rows i and i + D/2")  # fmt: skip
    known(rows(8, 2), [0, 2, 1, 3, 4, 6, 5, 7], "the rows 0 to 7 of two heads", [
        ([0, 2, 4, 6, 1, 3, 5, 7], "all heads were taken as one; each head has its own halves"),
        ([0, 4, 2, 6, 1, 5, 3, 7], "heads and pairs are mixed up; a head's rows stay together"),
        ([0, 2, 1, 3, 4, 5, 6, 7], "only the first head has moved"),
    ], "each head by itself: its even rows, then its odd ones")  # fmt: skip
    g = torch.Generator().manual_seed(36)
    for H, D, C in ((3, 8, 20), (2, 6, 12), (1, 2, 5)):
        x, W = torch.randn(2, 7, C, generator=g), torch.randn(H * D, C, generator=g)
        what = f"H = {H}, D = {D}, C = {C}"
        got = torch.as_tensor(call(f, W, H, keep="W"))
        tensor(got, W.shape, f"W with {what}", "the shape stays")
        hint = "move whole rows; the columns are the channels of the input"
        need_close(got.sum(0), W.sum(0), f"a column of W has other numbers with {what}: {hint}", atol=1e-4)
        k = (x @ got.float().T).unflatten(-1, (H, -1))
        k = rope(k, *rope_tables(7, D, 10_000.0)).transpose(1, 2)
        line = f"the scores are not those of the old model with {what}: each head by itself, even rows before odd ones"
        need_close(k @ k.mT, _neighbour_scores(x, W, H), line, atol=1e-3)
    W = torch.randn(5, 12, generator=g).T  # not contiguous
    got = tried(f, (W, 2), "a matrix that is not contiguous in memory", "view needs contiguous tensors; use reshape")
    need_close(got, _halves(W, 2), "a matrix that is not contiguous in memory came out wrong")


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
    Exercise("3.2", "Heads in another order", reordered, points=2, minutes=15, difficulty=3, importance=4),
    Exercise("3.3", "A model with other pairs", halves, points=2, minutes=15, difficulty=3, importance=3),
    Exercise("3.4", "Measuring: the loss", next_token_loss, points=2, minutes=15, difficulty=2, importance=5,
             forbids=(cross_entropy, cross_entropy_plain, losses_and_gradient_, softcap, GPT),
             nan="does exp overflow? use log_softmax"),
    Exercise("3.5", "Cost: parameters and FLOPs", budget, points=2, minutes=10, difficulty=2, importance=4,
             forbids=(build, GPT), reference=_budget),
)  # fmt: skip
