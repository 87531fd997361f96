"""Lesson 03: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lesson_cases import change, lesson_tests

from gpt2course.course import lab
from gpt2course.course.figures import gpt as figures
from gpt2course.model import GPTConfig

NAMES = {
    "3.1": ("causal_attention",),
    "3.2": ("reordered",),
    "3.3": ("halves",),
    "3.4": ("next_token_loss",),
    "3.5": ("budget",),
}


# ---- 3.1, causal attention


def attend(q, k, v, scale=None, mask="before", diagonal=0, upper=False, axis=-1, keep="all"):
    """Causal attention with one thing wrong."""
    T, D = q.size(1), q.size(3)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) * (D**-0.5 if scale is None else scale(q))
    ones = torch.ones(T, T, dtype=torch.bool)
    visible = ones.triu(diagonal) if upper else ones.tril(diagonal)
    if mask == "before":
        scores = scores.masked_fill(~visible, -math.inf)
    weights = scores.softmax(axis)
    if mask == "after":
        weights = weights * visible
    if mask == "renormalised":
        weights = weights * visible
        weights = weights / weights.sum(-1, keepdim=True)
    if keep == "detached":
        weights = weights.detach()
    return (weights @ v).transpose(1, 2)


def view_instead_of_transpose(q, k, v):
    B, T, H, D = q.shape
    q, k, v = (x.reshape(B, H, T, D) for x in (q, k, v))
    hide = ~torch.ones(T, T, dtype=torch.bool).tril()
    return ((q @ k.transpose(2, 3) / D**0.5).masked_fill(hide, -math.inf).softmax(-1) @ v).reshape(B, T, H, D)


def among_heads(q, k, v):  # attention of the heads of one position to each other
    return (q @ k.transpose(2, 3) / q.size(3) ** 0.5).softmax(-1) @ v


def of_heads_together(q, k, v):  # one head of size H D
    B, T, H, D = q.shape
    q, k, v = (x.reshape(B, T, 1, H * D) for x in (q, k, v))
    return attend(q, k, v).reshape(B, T, H, D)


def batch_and_heads_in_one_axis(q, k, v):  # and taken apart as (H, B)
    B, T, H, D = q.shape
    q, k, v = (x.transpose(1, 2).reshape(B * H, T, 1, D) for x in (q, k, v))
    return attend(q, k, v).reshape(H, B, T, D).permute(1, 2, 0, 3)


def einsum_attention(q, k, v):
    T = q.shape[1]
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    scores = scores + torch.full((T, T), -math.inf, dtype=q.dtype).triu(1)
    return torch.einsum("bhij,bjhd->bihd", F.softmax(scores, dim=3), v)


def loops(q, k, v, stable=True):
    rows = []
    for i in range(q.size(1)):
        scores = (q[:, i : i + 1] * k[:, : i + 1]).sum(-1) / q.size(-1) ** 0.5  # (B, i + 1, H)
        p = (scores - scores.amax(1, keepdim=True) * stable).exp()
        rows.append((p[..., None] * v[:, : i + 1]).sum(1) / p.sum(1)[..., None])
    return torch.stack(rows, dim=1)


def wide_numbers(q, k, v, dtype=None):  # a large finite number for minus infinity, in float64
    dtype = dtype or q.dtype
    q, k, v = (x.double().permute(0, 2, 1, 3) for x in (q, k, v))
    scores = q.mul(q.size(-1) ** -0.5) @ k.mT
    scores = torch.where(torch.arange(q.size(2))[:, None] >= torch.arange(q.size(2)), scores, -1e30)
    return (torch.softmax(scores, -1) @ v).permute(0, 2, 1, 3).to(dtype)


MASK = torch.ones(1024, 1024, dtype=torch.bool).tril()


def with_a_mask_of_one_size(q, k, v):
    T = q.size(1)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return ((q @ k.mT / q.size(-1) ** 0.5).masked_fill(~MASK[:T, :T], -math.inf).softmax(-1) @ v).transpose(1, 2)


def with_views(q, k, v):  # (B, T, H D) as it comes from a linear layer, cut into heads
    B, T, H, D = q.shape
    return attend(*(x.view(B, T, H * D).unflatten(2, (H, D)) for x in (q, k, v)))


# ---- 3.2, heads in another order


def channels(order, D):
    return [h * D + i for h in order for i in range(D)]


def heads(c_q, c_k, c_v, c_proj, order, inverse=False, every=False, only="qkvo", proj="columns", back=False, upside=False, flip=False):
    """Another order of the heads with one thing wrong."""
    H = len(order)
    D = c_q.shape[0] // H
    if inverse:
        order = [order.index(h) for h in range(H)]
    rows = [i * H + h for i in range(D) for h in order] if every else channels(order, D)
    if flip:
        rows = [i for h in order for i in reversed(range(h * D, (h + 1) * D))]
    out = [w[rows] if n in only else w for n, w in zip("qkv", (c_q, c_k, c_v))]
    if proj == "columns":
        last = c_proj[:, channels([order.index(h) for h in range(H)], D) if back else rows] if "o" in only else c_proj
    else:
        last = c_proj[[r % len(c_proj) for r in rows]]
    return (*out, last)


def heads_by_views(c_q, c_k, c_v, c_proj, order):
    split = lambda w: w.reshape(len(order), -1, w.shape[-1])[list(order)].reshape(w.shape)
    return [split(c_q), split(c_k), split(c_v), split(c_proj.T.contiguous()).T]


def heads_by_loops(c_q, c_k, c_v, c_proj, order):
    D = len(c_q) // len(order)
    new = [w.clone() for w in (c_q, c_k, c_v, c_proj)]
    for j, h in enumerate(order):
        for a, b in zip(new[:3], (c_q, c_k, c_v)):
            a[j * D : (j + 1) * D] = b[h * D : (h + 1) * D]
        new[3][:, j * D : (j + 1) * D] = c_proj[:, h * D : (h + 1) * D]
    return tuple(new)


def heads_in_place(c_q, c_k, c_v, c_proj, order):
    for w, new in zip((c_q, c_k, c_v, c_proj), heads(c_q, c_k, c_v, c_proj, order)):
        w.copy_(new)
    return c_q, c_k, c_v, c_proj


# ---- 3.3, other pairs


def pairs(W, H, of="head", back=False, odd_first=False, upside=False, axis=0, first=False):
    """From neighbours to halves with one thing wrong."""
    n = W.shape[axis]
    D = n // H if of == "head" else n
    one = [*range(0, D, 2), *range(1, D, 2)]
    if odd_first:
        one = [*range(1, D, 2), *range(0, D, 2)]
    if upside:
        one = [*range(0, D, 2), *reversed(range(1, D, 2))]
    if back:
        one = [x for i in range(D // 2) for x in (i, i + D // 2)]
    rows = [h * D + i for h in range(n // D) for i in (one if not first or h == 0 else range(D))]
    return W[rows] if axis == 0 else W[:, rows]


def pairs_by_view(W, H):
    D = W.shape[0] // H
    return W.view(H, D // 2, 2, W.shape[1]).transpose(1, 2).reshape(W.shape)


def pairs_in_numpy(W, H):
    D = len(W) // H
    return torch.from_numpy(np.ascontiguousarray(W.numpy().reshape(H, D // 2, 2, -1).swapaxes(1, 2)).reshape(W.shape))


def heads_and_pairs_mixed(W, H):
    return W.reshape(-1, 2, H, W.shape[1]).permute(2, 1, 0, 3).reshape(W.shape) if H > 1 else pairs(W, H)


# ---- 3.4, the loss


def loss(logits, tokens, cap=15.0, shift=1, squash="tanh", mean="targets", base=math.e):
    z = logits
    if squash == "tanh" and cap:
        z = cap * torch.tanh(z / cap)
    if squash == "clamp" and cap:
        z = z.clamp(-cap, cap)
    if squash == "always":
        z = cap * torch.tanh(z / (cap or 1.0))
    if shift == 1:
        z, targets = z[:, :-1], tokens[:, 1:]
    elif shift == 0:
        targets = tokens
    else:
        z, targets = z[:, 1:], tokens[:, :-1]
    counts = targets >= 0
    each = -z.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0] * counts / math.log(base)
    if mean == "targets":
        return each.sum() / counts.sum()
    if mean == "all":
        return each.mean()
    if mean == "sum":
        return each.sum()
    return (each.sum(1) / counts.sum(1)).mean()


def naive_exp(logits, tokens, cap=15.0):
    z = (cap * torch.tanh(logits / cap) if cap else logits)[:, :-1].exp()
    targets = tokens[:, 1:]
    p = z.gather(2, targets.clamp(min=0)[..., None])[..., 0] / z.sum(-1)
    return -p.log()[targets >= 0].mean()


def torchs_loss(logits, tokens, cap=15.0):
    z = cap * torch.tanh(logits / cap) if cap else logits
    return F.cross_entropy(z[:, :-1].transpose(1, 2), tokens[:, 1:], ignore_index=-1)


def numpys_loss(logits, tokens, cap=15.0):
    z, t = logits.numpy().astype(np.float64), tokens.numpy()
    z = cap * np.tanh(z / cap) if cap else z
    nats = [
        np.logaddexp.reduce(z[b, i]) - z[b, i, t[b, i + 1]]
        for b in range(len(t))
        for i in range(t.shape[1] - 1)
        if t[b, i + 1] != -1
    ]
    return float(np.mean(nats))


# ---- 3.5, the budget


def count(
    config, matrices=4, inner=8, tied=False, bias=0, factor=6, scores=12, wte_flops=False, head_flops=True, layers=True
):
    L, C, V, T = config.n_layer if layers else 1, config.n_embd, config.vocab_size, config.sequence_len
    found = {
        "wte": V * C,
        "attention": L * (matrices * C * C + 4 * C * bias),
        "mlp": L * (inner * C * C + 5 * C * bias),
        "lm_head": 0 if tied else V * C,
    }
    multiplied = found["attention"] + found["mlp"] + (V * C if head_flops else 0) + (V * C if wte_flops else 0)
    return found | {"total": sum(found.values()), "flops": factor * multiplied + scores * L * C * T}


def count_by_shapes(config):
    C, V = config.n_embd, config.vocab_size
    layer = {"attention": [(C, C)] * 4, "mlp": [(4 * C, C), (C, 4 * C)]}
    found = {part: config.n_layer * sum(np.prod(s) for s in shapes) for part, shapes in layer.items()}
    found |= {"wte": np.int64(V * C), "lm_head": np.int64(V * C)}
    total = sum(found.values())
    return {**found, "total": total, "flops": 6 * (total - V * C) + 12.0 * config.n_layer * C * config.sequence_len}


WRONG = {
    ("3.1", "no 1/sqrt(D)"): (change(attend, scale=lambda q: 1.0), "not divided"),
    ("3.1", "divided by D"): (change(attend, scale=lambda q: 1 / q.size(3)), "square root"),
    ("3.1", "divided by sqrt(H D)"): (change(attend, scale=lambda q: (q.size(1) * q.size(3)) ** -0.5), "sqrt(H D)"),
    ("3.1", "mask after the softmax"): (change(attend, mask="after"), "before the softmax"),
    ("3.1", "no mask"): (change(attend, mask="none"), "causal mask"),
    ("3.1", "mask hides the position itself"): (change(attend, diagonal=-1), "NaN"),
    ("3.1", "mask shows the next position"): (change(attend, diagonal=1), "off by one"),
    ("3.1", "mask upside down"): (change(attend, upper=True), "upside down"),
    ("3.1", "softmax over the queries"): (change(attend, axis=-2), "over the queries"),
    ("3.1", "softmax over the heads"): (change(attend, axis=1), "another axis"),
    ("3.1", "view for transpose"): (view_instead_of_transpose, "transpose"),
    ("3.1", "heads attend to each other"): (among_heads, "(T, T)"),
    ("3.1", "all heads as one"): (of_heads_together, "mixed"),
    ("3.1", "batch and heads in one axis"): (batch_and_heads_in_one_axis, "row 0 of the batch"),
    ("3.1", "queries and keys swapped"): (lambda q, k, v: attend(k, q, v), "query"),
    ("3.1", "output left as (B, H, T, D)"): (lambda q, k, v: attend(q, k, v).transpose(1, 2), "shape"),
    ("3.1", "weights detached"): (change(attend, keep="detached"), "gradient"),
    ("3.1", "no return"): (lambda q, k, v: None, "return"),
    ("3.1", "values changed in place"): (lambda q, k, v: attend(q, k, v.mul_(1.5)), "in place"),
    ("3.1", "a mask of one size"): (with_a_mask_of_one_size, "mask of a fixed size"),
    ("3.1", "views"): (with_views, "use transpose or reshape"),
    ("3.1", "exp without the maximum"): (change(loops, stable=False), "exp overflow"),
    ("3.1", "always float32"): (change(wide_numbers, dtype=torch.float32), "in bfloat16"),
    ("3.2", "the inverse order"): (change(heads, inverse=True), "the inverse order"),
    ("3.2", "c_proj by the inverse order"): (change(heads, back=True), "c_proj is wrong"),
    ("3.2", "every H-th channel"): (change(heads, every=True), "every H-th channel"),
    ("3.2", "c_proj left alone"): (change(heads, only="qkv"), "c_proj is wrong with H = 3, D = 4, C = 15, order [2, 0, 1]: it came out as it went in"),
    ("3.2", "c_v left alone"): (change(heads, only="qko"), "c_v is wrong"),
    ("3.2", "queries alone"): (change(heads, only="q"), "c_k is wrong"),
    ("3.2", "rows of c_proj"): (change(heads, proj="rows"), "the columns of c_proj"),
    ("3.2", "channels of a head upside down"): (change(heads, flip=True), "in their old order"),
    ("3.2", "in place"): (heads_in_place, "in place"),
    ("3.2", "three matrices"): (lambda *a: heads(*a)[:3], "four matrices"),
    ("3.2", "no return"): (lambda *a: None, "return"),
    ("3.3", "nothing moved"): (lambda W, H: W.clone(), "nothing has moved"),
    ("3.3", "the way back"): (change(pairs, back=True), "the way back"),
    ("3.3", "odd rows first"): (change(pairs, odd_first=True), "first half"),
    ("3.3", "second half upside down"): (change(pairs, upside=True), "upside down"),
    ("3.3", "all heads as one"): (change(pairs, of="all"), "taken as one"),
    ("3.3", "the first head alone"): (change(pairs, first=True), "only the first head"),
    ("3.3", "heads and pairs mixed"): (heads_and_pairs_mixed, "heads and pairs are mixed up"),
    ("3.3", "columns"): (lambda W, H: pairs(W, H) if W.shape[1] == 1 else pairs(W, 1, axis=1)[:, : W.shape[1]] if W.shape[1] % 2 == 0 else W.flip(1), "move whole rows"),
    ("3.3", "turned, not moved"): (lambda W, H: pairs(W, H) * -1, "the rows 0 to 5"),
    ("3.3", "a flat list"): (lambda W, H: pairs(W, H).flatten(), "the shape stays"),
    ("3.3", "no return"): (lambda W, H: None, "return"),
    ("3.4", "no shift"): (change(loss, shift=0), "shift"),
    ("3.4", "shift the wrong way"): (change(loss, shift=-1), "shift"),
    ("3.4", "mean over filler"): (change(loss, mean="all"), "filler"),
    ("3.4", "mean of means"): (change(loss, mean="rows"), "row"),
    ("3.4", "sum"): (change(loss, mean="sum"), "expected 0.693|sum"),
    ("3.4", "no softcap"): (change(loss, squash="none"), "softcap is missing"),
    ("3.4", "clamped"): (change(loss, squash="clamp"), "smooth"),
    ("3.4", "cap 0 squashes"): (change(loss, squash="always"), "as they are"),
    ("3.4", "in bits"): (change(loss, base=2), "bits"),
    ("3.4", "no return"): (lambda logits, tokens, cap=15.0: None, "return"),
    ("3.4", "exp overflows"): (naive_exp, "log_softmax"),
    ("3.4", "views"): (lambda logits, tokens, cap=15.0: loss(logits.view(-1, logits.size(-1)).view(logits.shape), tokens, cap), "your code stopped"),
    ("3.4", "token 0 as filler"): (lambda logits, tokens, cap=15.0: loss(logits, torch.where(tokens == 0, -1, tokens), cap), "expected|NaN"),
    ("3.4", "nothing judged after filler"): (lambda logits, tokens, cap=15.0: loss(logits, torch.where((tokens < 0).cummax(1).values, -1, tokens), cap), "package's loss differs|mean"),
    ("3.4", "filler replaced in place"): (lambda logits, tokens, cap=15.0: loss(logits, tokens.masked_fill_(tokens < 0, -1).clamp_(min=-2).mul_(1), cap) if tokens.min() >= 0 else loss(logits, tokens.copy_(tokens.clamp(min=0)), cap), "in place"),
    ("3.4", "a cap of 15 always"): (lambda logits, tokens, cap=15.0: loss(logits, tokens, 15.0 * bool(cap)), "package's loss differs"),
    ("3.4", "one loss a token"): (lambda logits, tokens, cap=15.0: torchs_loss(logits, tokens, cap) + torch.zeros(3), "mean"),
    ("3.5", "three matrices"): (change(count, matrices=3), "four matrices"),
    ("3.5", "half an MLP"): (change(count, inner=4), "two matrices"),
    ("3.5", "head tied"): (change(count, tied=True), "untied"),
    ("3.5", "biases"): (change(count, bias=1), "biases"),
    ("3.5", "attention forgotten"): (change(count, scores=0), "12 C T"),
    ("3.5", "factor 3 forgotten"): (change(count, factor=2, scores=12), "4 backward"),
    ("3.5", "factor 3 forgotten throughout"): (change(count, factor=2, scores=4), "factor 3"),
    ("3.5", "wte multiplies"): (change(count, wte_flops=True), "looking up"),
    ("3.5", "head costs nothing"): (change(count, head_flops=False), "head"),
    ("3.5", "one layer"): (change(count, layers=False), "number of layers"),
    ("3.5", "the vocabulary rounded up to 64"): (lambda config: count(GPTConfig(**vars(config) | {"vocab_size": -(-config.vocab_size // 64) * 64})), "wte at"),
    ("3.5", "norms with weights"): (lambda config: count(config) | {"total": count(config)["total"] + 2 * config.n_layer * config.n_embd}, "total at"),
    ("3.5", "causal attention, half"): (change(count, scores=6), "flops at"),
    ("3.5", "of one layer's attention"): (lambda config: count(config) | {"flops": count(config)["flops"] - 12 * (config.n_layer - 1) * config.n_embd * config.sequence_len}, "flops at"),
    ("3.5", "flops missing"): (lambda config: {k: v for k, v in count(config).items() if k != "flops"}, "lacks flops"),
    ("3.5", "a number"): (lambda config: 88, "dict"),
}  # fmt: skip
RIGHT = {
    ("3.1", "einsum"): einsum_attention,
    ("3.1", "loops"): loops,
    ("3.1", "float64 and a large negative number"): wide_numbers,
    ("3.1", "mask after, then renormalised"): change(attend, mask="renormalised"),
    ("3.2", "an index"): heads,
    ("3.2", "views, a list"): heads_by_views,
    ("3.2", "loops"): heads_by_loops,
    ("3.3", "an index"): pairs,
    ("3.3", "slices"): lambda W, H: torch.cat([half for w in W.tensor_split(H) for half in (w[::2], w[1::2])]),
    ("3.3", "a view"): pairs_by_view,
    ("3.3", "numpy"): pairs_in_numpy,
    ("3.4", "torch's own"): torchs_loss,
    ("3.4", "numpy, a float"): numpys_loss,
    ("3.4", "gathered"): loss,
    ("3.5", "formula"): count,
    ("3.5", "from shapes, numpy integers"): count_by_shapes,
}  # fmt: skip


TINY = count(GPTConfig(vocab_size=10, sequence_len=3, n_layer=1, n_embd=2, n_head=1, n_kv_head=1))
OLD = dict(start=["wte + wpe"], attention=["LayerNorm", "scores"], mlp=["LayerNorm", "GELU"], end=["head"])
NEW = dict(start=["wte"], attention=["RMSNorm", "scores"], mlp=["RMSNorm", "ReLU²"], end=["lm_head"])
PARTS = dict(wte=1e6, attention=1e6, mlp=2e6)
FIGURES = {
    "block diagram": (lambda: figures.block_diagram({"2019": OLD, "modern": NEW}), ["2019: wte + wpe", "New against the first: wte, RMSNorm, ReLU², lm_head"]),
    "attention map": (lambda: figures.attention_maps({"a head": [[1.0, 0.0], [0.75, 0.25]]}, ["the", " cat"]), ["1 head", "2 tokens", "diagonal is 0", "a head 0.4"]),
    "attention maps": (lambda: figures.attention_maps({str(i): [[1 / 9] * 9] * 9 for i in range(3)}, [" a"] * 9), ["3 head", "diagonal is 0.11"]),
    "clocks": (lambda: figures.rope_clocks([[0.0, 1.0, 2.0], [0.0, 0.1, 0.2]]), ["2 pairs", "positions 0 to 2", "1, 0.1 radians"]),
    "scores": (lambda: figures.score_by_distance({"key at 0": [1.0, 0.5], "key at 9": [1.0, 0.25]}), ["0 to 1", "key at 9", "at most 0.25"]),
    "parameters": (lambda: figures.parameter_budget({"small": PARTS, "large": PARTS | {"value embeddings": 4e6}}), ["small, 4M in all", "mlp 50%", "value embeddings 50%"]),
    "parameters of the tiny example": (lambda: figures.parameter_budget({"tiny": {k: TINY[k] for k in ("wte", "attention", "mlp", "lm_head")}}), ["tiny, 88 in all"]),
    "losses": (lambda: figures.losses({"package": [6.9, 5.0], "yours": [6.9, 5.5]}), ["package from 6.90 to 5.00", "differ by at most 0.5"]),
    "two models": (figures.two_models, ["2019: wte + wpe", "QK-norm", "softcap"]),
    "changes": (lambda: figures.changes({"2019": [3.4, 3.6], "+ RoPE": [3.3, 3.5]}), ["2019 3.500, + RoPE 3.400"]),
    "rates": (lambda: figures.rate_sweep({"gpt2": [(1e-3, 2.5), (3e-4, 2.6)], "modern": [(3e-3, 2.1)]}), ["best 2.500 at 0.001", "worst 2.600", "modern: best 2.100"]),
}  # fmt: skip
REFUSED = {
    "a model without parts": lambda: figures.block_diagram({"2019": dict(start=["wte"])}),
    "a map too small": lambda: figures.attention_maps({"a head": [[1.0]]}, ["a", "b", "c"]),
    "no map": lambda: figures.attention_maps({}, []),
    "pairs of different lengths": lambda: figures.rope_clocks([[0.0, 1.0], [0.0]]),
    "no scores": lambda: figures.score_by_distance({}),
    "no parameters": lambda: figures.parameter_budget({"small": {"wte": 0}}),
    "no run": lambda: figures.rate_sweep({"gpt2": []}),
    "no loss": lambda: figures.losses({"package": []}),
    "no seed": lambda: figures.changes({"2019": []}),
}

globals().update(lesson_tests("03", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


def test_what_the_lesson_says_of_the_recorded_sweep():
    """results/2026-11-29_toy-2019: both optima inside the grid with two seeds or more on each side, and the numbers of the text."""
    rows, bpb = lab.recorded("toy-2019"), {}
    assert all(r["commit"] and r["torch"] and r["seed"] in (1, 2, 3) and r["toy"]["steps"] == 50 for r in rows)
    for r in rows:
        bpb.setdefault((r["arm"], r["decay"]), {}).setdefault(r["rate"], {})[r["seed"]] = r["val_bpb"]
    best = {}
    for arm, found in bpb.items():
        means = {rate: (seeds[1] + seeds[2]) / 2 for rate, seeds in found.items() if len(seeds) > 1}
        rate = min(means, key=means.get)
        inside = sum(x < rate for x in means), sum(x > rate for x in means)
        assert min(inside) >= (2 if arm[0] in ("2019", "modern", "own rates") else 1), arm
        if len(found[rate]) == 3:
            best[arm] = rate, sum(found[rate].values()) / 3
    old, new = best["2019", None], best["modern", None]
    assert new[0] == 8 * old[0] and (old[1], new[1]) == (pytest.approx(3.494, abs=1e-3), pytest.approx(2.999, abs=1e-3))
    assert best["2019", 0.0][1] - best["modern", 0.0][1] == pytest.approx(0.46, abs=5e-3)
    assert best["own rates", 0.0][1] == pytest.approx(2.905, abs=1e-3)
    low = [sum(bpb[arm, None][6e-4][seed] for seed in (1, 2)) / 2 for arm in ("2019", "modern")]
    assert abs(low[0] - low[1]) < 0.01
    modern = best["modern", 0.0][1]
    assert all(best[f"without {name}", 0.0][1] - modern < 0.01 for name in ("untied", "embed_norm", "relu2"))
    assert best["without untied and embed_norm", 0.0][1] - modern == pytest.approx(0.275, abs=5e-3)
    assert best["+ untied", 0.0][0] == 4 * best["+ relu2", 0.0][0]
