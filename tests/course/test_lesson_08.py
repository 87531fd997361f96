"""Lesson 08: wrong answers to its exercises get their hint, right ones pass; its figures draw; what it builds is the package's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lesson_cases import change, functions, lesson_tests

from gpt2course import model
from gpt2course.course import mine
from gpt2course.course.figures import value_embeddings as figures

NAMES = {
    "8.1": ("fold",), "8.2": ("pair_rows",), "8.3": ("table_gradient",), "8.4": ("gate_by_token",), "8.5": ("tables_cost",),
}  # fmt: skip


# ---- 8.1


def folded(wte, W, ve, size=lambda x: x.square().mean(-1, keepdim=True).sqrt(), centre=False, turn=False, times=1, late=False):
    """The table with one thing wrong."""
    x = wte - wte.mean(-1, keepdim=True) if centre else wte
    x = x if late else x / size(x)
    table = x @ (W if turn else W.T) + times * ve
    return table / size(table) if late else table


def row_by_row(wte, W, ve):
    return torch.stack([W @ (x * len(x) ** 0.5 / x.norm()) + e for x, e in zip(wte, ve)])


# ---- 8.2


def pairs(idx, size, join=lambda a, b: a ^ b, mod=lambda x, size: x % (size - 1), first=lambda size: size - 1, swap=False):
    rows = torch.empty_like(idx)
    now, before = (idx[:, :-1], idx[:, 1:]) if swap else (idx[:, 1:], idx[:, :-1])
    rows[:, 1:] = mod(join(36313 * now, 27191 * before), size)
    rows[:, 0] = first(size)
    return rows


def rolled(idx, size):
    return ((36313 * idx) ^ (27191 * idx.roll(1, 1))) % (size - 1)


def zero_before(idx, size):
    return ((36313 * idx) ^ (27191 * F.pad(idx[:, :-1], (1, 0)))) % (size - 1)


def pairs_in_python(idx, size):
    return [[size - 1 if t == 0 else ((36313 * row[t]) ^ (27191 * row[t - 1])) % (size - 1) for t in range(len(row))] for row in idx.tolist()]


# ---- 8.3


def gradients(idx, table, g, dv, gate=lambda g: g, add=True, rows=True, order=(0, 1), sign=1, total=lambda x: x.sum(-1), heads=False, mean=False, turn=False, dv_counts=True, again=False):
    part = gate(g)[..., None] * (dv if dv_counts else table[idx].view(dv.shape))
    part = (part.transpose(2, 3) if turn else part).flatten(2).flatten(0, 1)
    out = torch.zeros_like(table)
    if add:
        out.index_add_(0, idx.flatten(), part)
    else:
        out[idx.flatten()] += part
    if mean:
        out = out / idx.flatten().bincount(minlength=len(table)).clamp_min(1)[:, None]
    dots = (table[idx].view(dv.shape) if rows else 1) * dv
    dg = total(dots)
    dg = dg.sum(-1, keepdim=True).expand_as(g) if heads else dg
    dg = dg * g if again else dg
    return [(sign * out, dg)[i] for i in order]


def by_autograd(idx, table, g, dv):
    leaves = [x.clone().requires_grad_() for x in (table, g)]
    return torch.autograd.grad(leaves[1][..., None] * leaves[0][idx].view(dv.shape), leaves, dv)


def by_backward(idx, table, g, dv):
    leaves = [x.clone().requires_grad_() for x in (table, g)]
    (leaves[1][..., None] * leaves[0][idx].view(dv.shape)).backward(dv)
    return [x.grad for x in leaves]


def place_by_place(idx, table, g, dv):
    dtable, dg = np.zeros(table.shape), np.zeros(g.shape)
    B, T, H, D = dv.shape
    for b in range(B):
        for t in range(T):
            for h in range(H):
                row = table[idx[b, t], h * D : (h + 1) * D].numpy()
                dtable[idx[b, t], h * D : (h + 1) * D] += g[b, t, h].item() * dv[b, t, h].numpy()
                dg[b, t, h] = row @ dv[b, t, h].numpy()
    return dtable, dg


# ---- 8.4


def gates(gpt, idx, layer, head, act=torch.sigmoid, scale=lambda gpt: gpt.config.ve_gate_scale, pick=lambda z, head: z[..., head],
          join=lambda x: x.mean(), leave=False, all_tokens=False):  # fmt: skip
    found = []
    hook = gpt.blocks[layer].attn.ve_gate.register_forward_hook(lambda m, i, out: found.append(out))
    with torch.no_grad():
        gpt(idx)
    if not leave:
        hook.remove()
    x = scale(gpt) * act(pick(found[0], head))
    return {t.item(): float(join(x if all_tokens else x[idx == t])) for t in idx.unique()}


def late_sigmoid(gpt, idx, layer, head):
    z = gates(gpt, idx, layer, head, act=lambda x: x, scale=lambda gpt: 1)
    return {t: gpt.config.ve_gate_scale * torch.tensor(x).sigmoid().item() for t, x in z.items()}


def trains(gpt, idx, layer, head):
    found = gates(gpt, idx, layer, head)
    with torch.no_grad():
        gpt.lm_head.weight.add_(1)
    return found


def other_layer(gpt, idx, layer, head):
    having = [i for i in range(len(gpt.blocks)) if i != layer and gpt.config.has_value_embed(i)]
    return gates(gpt, idx, having[0] if having else layer, head)


def by_input_hook(gpt, idx, layer, head):
    """From the input of the layer's attention, and the weights of the gate."""
    kept, attn = [], gpt.blocks[layer].attn
    hook = attn.register_forward_pre_hook(lambda m, args: kept.append(args[0]))
    with torch.no_grad():
        gpt(idx)
        weight = attn.ve_gate.weight[head]
        z = kept[0][..., : len(weight)] @ weight
    hook.remove()
    sums = {}
    for t, x in zip(idx.flatten().tolist(), (gpt.config.ve_gate_scale * z.sigmoid()).flatten().tolist()):
        sums.setdefault(t, []).append(x)
    return {t: sum(x) / len(x) for t, x in sums.items()}


# ---- 8.5


def cost(n, vocab, width, ranks, size=2, tables=lambda n: (n + 1) // 2, keep=lambda w, r: 2 * w + 2 * w / r, move=lambda w, r: 7 * w / r,
         send=lambda w, r: 2 * w * (r - 1) / r, byte=lambda size: size):  # fmt: skip
    whole = tables(n) * vocab * width * byte(size)
    return keep(whole, ranks), move(whole, ranks), send(whole, ranks)


WRONG = {
    ("8.1", "not normalised"): (change(folded, size=lambda x: 1), "not normalised"),
    ("8.1", "by the length"): (change(folded, size=lambda x: x.norm(dim=-1, keepdim=True)), "divides by the length"),
    ("8.1", "no root"): (change(folded, size=lambda x: x.square().mean(-1, keepdim=True)), "take its root"),
    ("8.1", "one number for all rows"): (change(folded, size=lambda x: x.square().mean().sqrt()), "its own root mean square"),
    ("8.1", "columns"): (change(folded, size=lambda x: x.square().mean(0).sqrt()), "not of a column"),
    ("8.1", "mean subtracted"): (change(folded, centre=True), "subtracts no mean|NaN"),
    ("8.1", "W turned"): (change(folded, turn=True), "wrong way|(V, C) is (V, K)"),
    ("8.1", "no table"): (change(folded, times=0), "rows of ve are missing"),
    ("8.1", "table twice"): (change(folded, times=2), "ve counts twice"),
    ("8.1", "table subtracted"): (change(folded, times=-1), "subtracted"),
    ("8.1", "norm at the end"): (change(folded, late=True), "before W|on the embedding alone"),
    ("8.1", "W x twice"): (lambda wte, W, ve: 2 * folded(wte, W, ve) - ve, "W x counts twice"),
    ("8.1", "in place"): (lambda wte, W, ve: (wte.div_(2), folded(wte, W, ve))[1], "in place"),
    ("8.2", "no brackets"): (lambda idx, size: pairs(idx, size, mod=lambda x, size: x, join=lambda a, b: a ^ b % (size - 1)), "binds more tightly"),
    ("8.2", "exchanged"): (change(pairs, swap=True), "exchanged"),
    ("8.2", "mod size"): (change(pairs, mod=lambda x, size: x % size), "mod (size - 1): the last row"),
    ("8.2", "no mod"): (change(pairs, mod=lambda x, size: x), "mod (size - 1) is missing"),
    ("8.2", "first is 0"): (change(pairs, first=lambda size: 0), "gets the last row, size - 1"),
    ("8.2", "first is size"): (change(pairs, first=lambda size: size), "rows count from 0"),
    ("8.2", "a sum"): (change(pairs, join=lambda a, b: a + b), "not by a sum"),
    ("8.2", "or"): (change(pairs, join=lambda a, b: a | b), "not by OR"),
    ("8.2", "mod first"): (lambda idx, size: pairs(idx, size, mod=lambda x, size: x, join=lambda a, b: a % (size - 1) ^ b % (size - 1)), "first XOR"),
    ("8.2", "around the end"): (rolled, "takes the last as its previous"),
    ("8.2", "zero before"): (zero_before, "token 0"),
    ("8.2", "no first"): (lambda idx, size: pairs(idx, size)[:, 1:], "shape"),
    ("8.3", "one of many"): (change(gradients, add=False), "must collect from both"),
    ("8.3", "no gate"): (change(gradients, gate=torch.ones_like), "g is missing"),
    ("8.3", "mean of places"): (change(gradients, mean=True), "mean over a token's places"),
    ("8.3", "heads turned"): (change(gradients, turn=True), "one after the other"),
    ("8.3", "sign"): (change(gradients, sign=-1), "sign is wrong"),
    ("8.3", "rows for dv"): (change(gradients, dv_counts=False), "dv is missing"),
    ("8.3", "g without rows"): (change(gradients, rows=False), "rows are missing"),
    ("8.3", "g by the mean"): (change(gradients, total=lambda x: x.mean(-1)), "mean over the channels"),
    ("8.3", "g times g"): (change(gradients, again=True), "its own gradient"),
    ("8.3", "heads added"): (change(gradients, heads=True), "each head has its own g"),
    ("8.3", "exchanged"): (change(gradients, order=(1, 0)), "shape"),
    ("8.3", "by autograd"): (by_autograd, "write it yourself"),
    ("8.3", "by backward"): (by_backward, "write it yourself"),
    ("8.4", "no sigmoid"): (change(gates, act=lambda x: x, scale=lambda gpt: 1), "take the sigmoid"),
    ("8.4", "no scale"): (change(gates, scale=lambda gpt: 1), "ve_gate_scale is missing"),
    ("8.4", "always 2"): (change(gates, scale=lambda gpt: 2), "model.config.ve_gate_scale"),
    ("8.4", "mean over heads"): (change(gates, pick=lambda z, h: z.mean(-1)), "does each token|mean over heads"),
    ("8.4", "gates' mean over heads"): (change(gates, act=lambda x: x, pick=lambda z, h: z.sigmoid().mean(-1)), "mean over heads"),
    ("8.4", "head 0"): (change(gates, pick=lambda z, h: z[..., 0]), "this is head 0"),
    ("8.4", "sum"): (change(gates, join=lambda x: x.sum()), "sum over a token's places"),
    ("8.4", "last place"): (change(gates, join=lambda x: x[-1]), "last place"),
    ("8.4", "first place"): (change(gates, join=lambda x: x[0]), "first place"),
    ("8.4", "all tokens alike"): (change(gates, all_tokens=True), "mean over all tokens"),
    ("8.4", "sigmoid of the mean"): (late_sigmoid, "first the sigmoid"),
    ("8.4", "another layer"): (other_layer, "gate of layer"),
    ("8.4", "hook left"): (change(gates, leave=True), "hook is left"),
    ("8.4", "weights changed"): (trains, "weights changed"),
    ("8.4", "a list"): (lambda *a: list(gates(*a).values()), "expected a dict"),
    ("8.4", "a token too few"): (lambda *a: dict(list(gates(*a).items())[1:]), "that occur in idx"),
    ("8.5", "all layers"): (change(cost, tables=lambda n: n), "only every second layer"),
    ("8.5", "from the front"): (change(cost, tables=lambda n: n // 2), "count back from it"),
    ("8.5", "means whole"): (change(cost, keep=lambda w, r: 4 * w), "means are divided"),
    ("8.5", "all divided"): (change(cost, keep=lambda w, r: 4 * w / r), "whole on each GPU"),
    ("8.5", "no gradient"): (change(cost, keep=lambda w, r: w + 2 * w / r), "gradient is missing"),
    ("8.5", "no means"): (change(cost, keep=lambda w, r: 2 * w), "means are missing"),
    ("8.5", "one mean"): (change(cost, keep=lambda w, r: 2 * w + w / r), "two means"),
    ("8.5", "moves all"): (change(cost, move=lambda w, r: 7 * w), "updates its part alone"),
    ("8.5", "six"): (change(cost, move=lambda w, r: 6 * w / r), "four are read"),
    ("8.5", "eight"): (change(cost, move=lambda w, r: 8 * w / r), "read, not written"),
    ("8.5", "reads"): (change(cost, move=lambda w, r: 4 * w / r), "what is written counts"),
    ("8.5", "one round"): (change(cost, send=lambda w, r: w * (r - 1) / r), "two rounds"),
    ("8.5", "to itself too"): (change(cost, send=lambda w, r: 2 * w), "nothing to itself"),
    ("8.5", "to each"): (change(cost, send=lambda w, r: 2 * w * (r - 1)), "in a ring"),
    ("8.5", "numbers"): (change(cost, byte=lambda size: 1), "times their size"),
    ("8.5", "always four bytes"): (change(cost, byte=lambda size: 4), "size is an argument"),
    ("8.5", "two"): (lambda *a: cost(*a)[:2], "three numbers"),
}  # fmt: skip
RIGHT = {
    ("8.1", "row by row"): row_by_row,
    ("8.1", "by rms_norm"): lambda wte, W, ve: F.linear(F.rms_norm(wte, wte.shape[-1:], eps=0), W) + ve,
    ("8.2", "in plain Python"): pairs_in_python,
    ("8.2", "by parts"): pairs,
    ("8.3", "place by place"): place_by_place,
    ("8.3", "one-hot"): lambda idx, table, g, dv: (
        torch.einsum("btv,btx->vx", F.one_hot(idx, len(table)).float(), (g[..., None] * dv).flatten(2)),
        torch.einsum("bthd,bthd->bth", table[idx].view(dv.shape), dv)),
    ("8.3", "by index_add_"): gradients,
    ("8.4", "from the input"): by_input_hook,
    ("8.4", "from the output"): gates,
    ("8.5", "by parts"): cost,
    ("8.5", "a list"): lambda *a: list(cost(*a)),
}  # fmt: skip


PARTS = {"small": dict(matrices=300, embedding=100, head=100), "with tables": dict(matrices=300, embedding=100, head=100, tables=500)}
FIGURES = {
    "budget": (lambda: figures.budget(PARTS, {"small": 2000.0, "with tables": 2000.0}), ["small 500 parameters, 0% in tables, 2k FLOPs", "with tables 1k parameters, 50% in tables"]),
    "gates": (lambda: figures.gates({"' of'": (0.8, 0.5, 1.2), "'.'": (1.5, 1.4, 1.6)}), ["2 tokens, from ' of' 0.80 to '.' 1.50"]),
    "arms": (lambda: figures.arms({"base": {1e12: [2.0, 2.1], 2e12: [1.9]}, "wide": {1e12: [2.2]}}), ["base 2.050 at 1T FLOPs (2 seeds); base 1.900 at 2T FLOPs (1 seed); wide 2.200"]),
    "pairs": (lambda: figures.pairs({"a - b": ([-0.1, -0.2], 0.05), "c - b": ([0.01], float("inf"))}), ["a - b -0.1500 (-0.2000 to -0.1000, 2 seeds)", "c - b +0.0100 (1 seed)"]),
}  # fmt: skip
REFUSED = {
    "no model": lambda: figures.budget({}, {}),
    "no FLOPs": lambda: figures.budget(PARTS, {"small": 1.0}),
    "an unknown part": lambda: figures.budget({"a": {"gates": 3}}, {"a": 1.0}),
    "no token": lambda: figures.gates({}),
    "a mean outside": lambda: figures.gates({"a": (2.0, 0.5, 1.0)}),
    "no arm": lambda: figures.arms({}),
    "an empty arm": lambda: figures.arms({"base": {}}),
    "no pair": lambda: figures.pairs({"a": ([], 0.1)}),
}

globals().update(lesson_tests("08", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


# ---- what the lesson builds


@pytest.mark.parametrize("scale, heads, channels", [(2.0, 2, 32), (3.0, 4, 12), (2.0, 1, 8)])
def test_the_lessons_layer_is_the_packages(scale, heads, channels):
    """Outputs and gradients of a layer, with the lesson's function in it and without."""
    f = mine.stand_in("values")
    sizes = dict(sequence_len=16, n_layer=1, n_embd=16 * heads if heads > 1 else 32, n_head=heads, n_kv_head=heads)
    attend = model.Attention(model.GPTConfig(**sizes, value_embeds=True, ve_gate_channels=channels, ve_gate_scale=scale), 0)
    D, g, found = sizes["n_embd"] // heads, torch.Generator().manual_seed(heads), []
    x, ve, dy = torch.randn(3, 2, 16, sizes["n_embd"], generator=g)
    for pieces in ({}, {"values": f}):
        leaves = [t.clone().requires_grad_() for t in (x, ve)]
        with mine.installed(pieces):
            y = attend(*leaves, *model.rope_tables(16, D, 10_000.0))
        found.append([y, *torch.autograd.grad(y, [*leaves, *attend.parameters()], dy)])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found))
    assert not attend.c_v._forward_hooks


def test_the_lesson_counts_layers_as_the_package_does():
    has_table = functions("08", "has_table")["has_table"]
    for n in (1, 2, 5, 24):
        config = model.GPTConfig(n_layer=n, value_embeds=True)
        assert [has_table(i, n) for i in range(n)] == [config.has_value_embed(i) for i in range(n)]
