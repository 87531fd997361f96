"""Lesson 03: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from lesson_cases import change, lesson_tests

from gpt2course.course.figures import gpt as figures
from gpt2course.model import GPTConfig

NAMES = {
    "3.1": ("causal_attention",),
    "3.2": ("turn",),
    "3.3": ("rms_norm",),
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


def transposed_in_view_out(q, k, v):
    return attend(q, k, v).transpose(1, 2).reshape(q.shape)


def among_heads(q, k, v):  # attention of the heads of one position to each other
    return (q @ k.transpose(2, 3) / q.size(3) ** 0.5).softmax(-1) @ v


def of_heads_together(q, k, v):  # one head of size H D
    B, T, H, D = q.shape
    q, k, v = (x.reshape(B, T, 1, H * D) for x in (q, k, v))
    return attend(q, k, v).reshape(B, T, H, D)


def keys_ask(q, k, v):
    return attend(k, q, v)


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


def baddbmm(q, k, v):  # heads as one batch
    B, T, H, D = q.shape
    q, k, v = (x.transpose(1, 2).reshape(B * H, T, D) for x in (q, k, v))
    hidden = torch.zeros(T, T, dtype=q.dtype).masked_fill(torch.ones(T, T).triu(1) > 0, -math.inf)
    weights = torch.baddbmm(hidden, q, k.mT, alpha=D**-0.5).softmax(-1)
    return (weights @ v).view(B, H, T, D).transpose(1, 2)


# ---- 3.2, rotary positions


def spin(x, start, base, sign=1, pairs="halves", power=2, ahead=0, head_axis=False):
    D = x.size(3)
    n = x.size(2) if head_axis else x.size(1)
    frequencies = base ** (-torch.arange(D // 2) * power / D)
    angles = torch.arange(start + ahead, start + ahead + n)[:, None] * frequencies
    c, s = angles.cos(), sign * angles.sin()
    if not head_axis:
        c, s = c[:, None], s[:, None]
    if pairs == "halves":
        a, b = x.chunk(2, -1)
        return torch.cat([a * c + b * s, b * c - a * s], -1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * c + b * s, b * c - a * s], -1).flatten(-2)


def spinning(**kw):
    return lambda q, k, v, start=0, base=10_000.0: (spin(q, start, base, **kw), spin(k, start, base, **kw), v)


def with_a_table(q, k, v, start=0, base=10_000.0):
    angles = torch.arange(16)[:, None] * base ** (-2 * torch.arange(q.size(3) // 2) / q.size(3))
    angles = angles[start : start + q.size(1), None]
    c, s = angles.cos(), angles.sin()
    f = lambda a, b: torch.cat([a * c + b * s, b * c - a * s], -1)
    return f(*q.chunk(2, -1)), f(*k.chunk(2, -1)), v


def keep_tables():
    kept = {}

    def f(q, k, v, start=0, base=10_000.0):  # by D and base, but not by start
        key = q.size(1), q.size(3), base
        kept.setdefault(key, start)
        return spin(q, kept[key], base), spin(k, kept[key], base), v

    return f


def with_a_generator(q, k, v, start=0, base=10_000.0):
    yield from (spin(q, start, base), spin(k, start, base))
    yield v


def with_complex_numbers(q, k, v, start=0, base=10_000.0):
    D = q.shape[-1]
    angles = torch.outer(
        torch.arange(start, start + q.shape[1]).double(), base ** (-2 * torch.arange(D // 2).double() / D)
    )
    by = torch.polar(torch.ones_like(angles), -angles)[None, :, None]

    def f(x):
        z = torch.complex(x[..., : D // 2].double(), x[..., D // 2 :].double()) * by
        return torch.cat([z.real, z.imag], -1).float()

    return [f(q), f(k), v.clone()]


def with_a_loop(q, k, v, start=0, base=10_000.0):
    D = q.shape[-1]

    def f(x):
        out = x.clone()
        for t in range(x.shape[1]):
            for i in range(D // 2):
                angle = (start + t) * base ** (-2 * i / D)
                a, b = x[:, t, :, i], x[:, t, :, i + D // 2]
                out[:, t, :, i] = a * math.cos(angle) + b * math.sin(angle)
                out[:, t, :, i + D // 2] = b * math.cos(angle) - a * math.sin(angle)
        return out

    return f(q), f(k), v


def with_matrices(q, k, v, start=0, base=10_000.0):  # x cos + swapped(x) sin
    D = q.shape[-1]
    angles = (torch.arange(q.shape[1]) + start).float()[:, None] / base ** (torch.arange(0, D, 2) / D)
    c, s = (torch.cat([t, t], -1)[None, :, None] for t in (angles.cos(), angles.sin()))
    f = lambda x: x * c + torch.cat([x[..., D // 2 :], -x[..., : D // 2]], -1) * s
    return f(q), f(k), v


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
    ("3.1", "view for transpose at the end"): (transposed_in_view_out, "transpose"),
    ("3.1", "heads attend to each other"): (among_heads, "(T, T)"),
    ("3.1", "all heads as one"): (of_heads_together, "mixed"),
    ("3.1", "queries and keys swapped"): (keys_ask, "query"),
    ("3.1", "output left as (B, H, T, D)"): (lambda q, k, v: attend(q, k, v).transpose(1, 2), "shape"),
    ("3.1", "weights detached"): (change(attend, keep="detached"), "gradient"),
    ("3.1", "no return"): (lambda q, k, v: None, "return"),
    ("3.1", "values changed in place"): (lambda q, k, v: attend(q, k, v.mul_(1.5)), "in place"),
    ("3.1", "a mask of one size"): (with_a_mask_of_one_size, "mask of a fixed size"),
    ("3.1", "views"): (with_views, "use transpose or reshape"),
    ("3.1", "exp without the maximum"): (change(loops, stable=False), "exp overflow"),
    ("3.1", "always float32"): (change(wide_numbers, dtype=torch.float32), "in bfloat16"),
    ("3.1", "a float32 mask added"): (lambda q, k, v: attend(q, k, v).float() + torch.zeros(1), "in bfloat16"),
    ("3.2", "the sign"): (spinning(sign=-1), "sign"),
    ("3.2", "neighbours"): (spinning(pairs="neighbours"), "halves"),
    ("3.2", "neighbours, other sign"): (spinning(pairs="neighbours", sign=-1), "sign"),
    ("3.2", "exponent -i/D"): (spinning(power=1), "exponent"),
    ("3.2", "exponent -4i/D"): (spinning(power=4), "exponent"),
    ("3.2", "exponent positive"): (spinning(power=-2), "exponent"),
    ("3.2", "one speed for all"): (spinning(power=0), "alike"),
    ("3.2", "v turned too"): (lambda q, k, v, start=0, base=1e4: tuple(spin(x, start, base) for x in (q, k, v)), "v came out changed"),
    ("3.2", "k left alone"): (lambda q, k, v, start=0, base=1e4: (spin(q, start, base), k, v), "k came out as it went in"),
    ("3.2", "start ignored"): (lambda q, k, v, start=0, base=1e4: (spin(q, 0, base), spin(k, 0, base), v), "start"),
    ("3.2", "start for q alone"): (lambda q, k, v, start=0, base=1e4: (spin(q, start, base), spin(k, 0, base), v), "same positions"),
    ("3.2", "base ignored"): (lambda q, k, v, start=0, base=1e4: (spin(q, start, 1e4), spin(k, start, 1e4), v), "base was 100"),
    ("3.2", "positions from 1"): (spinning(ahead=1), "start at 0"),
    ("3.2", "angles along the heads"): (spinning(head_axis=True), "second axis"),
    ("3.2", "one tensor"): (lambda q, k, v, start=0, base=1e4: spin(q, start, base), "three tensors"),
    ("3.2", "q detached"): (lambda q, k, v, start=0, base=1e4: (spin(q.detach(), start, base), spin(k, start, base), v), "no gradient reaches q"),
    ("3.2", "heads first"): (lambda q, k, v, start=0, base=1e4: (spin(q, start, base).transpose(1, 2), spin(k, start, base), v), "RoPE keeps shapes"),
    ("3.2", "a table of 16 positions"): (with_a_table, "table of a fixed size"),
    ("3.2", "a table kept from the first call"): (keep_tables(), "start"),
    ("3.2", "k detached"): (lambda q, k, v, start=0, base=1e4: (spin(q, start, base), spin(k.detach(), start, base), v), "no gradient reaches k"),
    ("3.2", "v detached"): (lambda q, k, v, start=0, base=1e4: (spin(q, start, base), spin(k, start, base), v.detach()), "no gradient reaches v"),
    ("3.2", "views"): (lambda q, k, v, start=0, base=1e4: (spin(q.view(-1).view(q.shape), start, base), spin(k, start, base), v), "your code stopped"),
    ("3.2", "q and k in place"): (lambda q, k, v, start=0, base=1e4: (q.copy_(spin(q, start, base)), k.copy_(spin(k, start, base)), v), "in place"),
    ("3.3", "epsilon outside"): (lambda x, eps=1e-6: x / (x.square().mean(-1, keepdim=True).sqrt() + eps), "under"),
    ("3.3", "epsilon forgotten"): (lambda x, eps=1e-6: x / x.square().mean(-1, keepdim=True).sqrt(), "eps was not used"),
    ("3.3", "mean subtracted"): (lambda x, eps=1e-6: F.layer_norm(x, x.shape[-1:], eps=eps), "mean was subtracted"),
    ("3.3", "standard deviation"): (lambda x, eps=1e-6: x / (x.var(-1, keepdim=True, correction=0) + eps).sqrt(), "variance"),
    ("3.3", "sum for mean"): (lambda x, eps=1e-6: x / (x.square().sum(-1, keepdim=True) + eps).sqrt(), "sum of squares"),
    ("3.3", "no root"): (lambda x, eps=1e-6: x / (x.square().mean(-1, keepdim=True) + eps), "root is missing"),
    ("3.3", "axis before the last"): (lambda x, eps=1e-6: x / (x.square().mean(-2, keepdim=True) + eps).sqrt(), "wrong axis"),
    ("3.3", "first axis"): (lambda x, eps=1e-6: x / (x.square().mean(0, keepdim=True) + eps).sqrt(), "wrong axis"),
    ("3.3", "all axes"): (lambda x, eps=1e-6: x / (x.square().mean() + eps).sqrt(), "last dimension"),
    ("3.3", "all but the first axis"): (lambda x, eps=1e-6: x / (x.square().mean(tuple(range(1, x.ndim)) or 0, keepdim=True) + eps).sqrt(), "last dimension"),
    ("3.3", "a fixed axis"): (lambda x, eps=1e-6: x / (x.square().mean(min(3, x.ndim - 1) or -2, keepdim=True) + eps).sqrt(), "stopped"),
    ("3.3", "root detached"): (lambda x, eps=1e-6: x / (x.square().mean(-1, keepdim=True) + eps).sqrt().detach(), "detached"),
    ("3.3", "in place"): (lambda x, eps=1e-6: x.div_((x.square().mean(-1, keepdim=True) + eps).sqrt()), "in place"),
    ("3.3", "views"): (lambda x, eps=1e-6: (x.view(-1, x.size(-1)) / (x.view(-1, x.size(-1)).square().mean(-1, keepdim=True) + eps).sqrt()).view(x.shape), "contiguous"),
    ("3.3", "in numpy"): (lambda x, eps=1e-6: torch.from_numpy(x.detach().numpy() / np.sqrt((x.detach().numpy() ** 2).mean(-1, keepdims=True) + eps)), "gradient"),
    ("3.3", "a small constant for eps"): (lambda x, eps=1e-6: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(), "eps"),
    ("3.3", "eps twice"): (lambda x, eps=1e-6: x / ((x.square().mean(-1, keepdim=True) + eps).sqrt() + eps), "eps"),
    ("3.3", "a fixed number of channels"): (lambda x, eps=1e-6: x / (x.square().sum(-1, keepdim=True) / 8 + eps).sqrt(), "expected"),
    ("3.3", "the mean kept"): (lambda x, eps=1e-6: x.square().mean(-1), "shape"),
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
    ("3.4", "a sum over rows of different length, divided by B"): (lambda logits, tokens, cap=15.0: loss(logits, tokens, cap, mean="sum") / len(tokens), "package's loss|filler|came out"),
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
    ("3.5", "T of 2048"): (lambda config: count(GPTConfig(**vars(config) | {"sequence_len": 2048})), "flops at"),
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
    ("3.1", "heads as one batch"): baddbmm,
    ("3.2", "complex numbers, in float64"): with_complex_numbers,
    ("3.2", "loops"): with_a_loop,
    ("3.2", "a generator"): with_a_generator,
    ("3.2", "swapped halves"): with_matrices,
    ("3.3", "rsqrt and pow"): lambda x, eps=1e-6: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps),
    ("3.3", "torch's own"): lambda x, eps=1e-6: F.rms_norm(x, x.shape[-1:], eps=eps),
    ("3.3", "length over sqrt(C), in float64"): lambda x, eps=1e-6: (x.double() / (x.double().norm(dim=-1, keepdim=True) ** 2 / x.size(-1) + eps) ** 0.5).float(),
    ("3.3", "in place on a clone"): lambda x, eps=1e-6: x.clone().div_((x.square().sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()),
    ("3.4", "torch's own"): torchs_loss,
    ("3.4", "numpy, a float"): numpys_loss,
    ("3.4", "a one-hot sum"): loss,
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
}

globals().update(lesson_tests("03", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
