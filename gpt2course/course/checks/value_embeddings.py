"""Checks of lesson 08's exercises: a matrix folded into a table, pairs, a table's gradient, gates by token, memory."""

import math

import torch
import torch.nn.functional as F

from gpt2course.course.checks import Exercise, Wrong, call, known, need, need_close, number, several, tensor, tried
from gpt2course.model import GPT, GPTConfig


def _random(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _near(got: torch.Tensor, wrong: torch.Tensor, atol: float = 1e-4) -> bool:
    return got.shape == wrong.shape and torch.allclose(got, wrong.double(), rtol=1e-3, atol=atol, equal_nan=True)


# ---- 8.1


def _fold(wte, W, ve):
    return wte / wte.square().mean(-1, keepdim=True).sqrt() @ W.T + ve


def fold(f) -> None:
    wte, W, ve = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.ones(1, 2)
    cases = [(wte, W, ve), *((_random(V, C, seed=V), _random(K, C, seed=C), _random(V, K, seed=90 + K))
                             for V, C, K in ((7, 4, 4), (5, 6, 3), (3, 2, 5)))]  # fmt: skip
    for wte, W, ve in cases:
        (V, C), K = wte.shape, len(W)
        what = f"wte ({V}, {C}), W ({K}, {C})"
        got = tensor(tried(f, (wte, W, ve), what, "x Wᵀ of rows x (V, C) is (V, K)"), (V, K), f"the table ({what})")
        length = wte.norm(dim=-1, keepdim=True)
        centred = wte - wte.mean(-1, keepdim=True)
        mistakes = [
            (wte @ W.T + ve, "the embedding is not normalised: x = norm(wte[token])"),
            (_fold(wte, W, 0 * ve), "the rows of ve are missing"),
            (_fold(wte, W, -ve), "ve is subtracted"),
            (wte / length @ W.T + ve, "this divides by the length; the root mean square is the length / √C"),
            (wte / wte.square().mean(-1, keepdim=True) @ W.T + ve, "this divides by the mean square; take its root"),
            (wte / wte.square().mean().sqrt() @ W.T + ve, "each row has its own root mean square"),
            (wte / wte.square().mean(0).sqrt() @ W.T + ve, "the mean of squares is that of a row, not of a column"),
            (_fold(centred, W, ve), "the norm subtracts no mean"),
            (2 * _fold(wte, W, ve / 2), "W x counts twice"),
            (_fold(wte, W, 2 * ve), "ve counts twice; it is added in full, which is once"),
            (F.rms_norm(wte @ W.T + ve, (K,)), "the norm comes before W, and acts on the embedding alone"),
        ]  # fmt: skip
        if K == C:
            mistakes.append((_fold(wte, W.T, ve), "W is turned the wrong way: the values are x Wᵀ"))
        right = _fold(wte, W, ve)
        for wrong, hint in mistakes:
            need(_near(right.double(), wrong) or not _near(got, wrong), f"{what}: the table is off: {hint}")
        need_close(got, right, f"{what}: the table is off; row by row it is W · norm(wte[token]) + ve[token]", 1e-4)


# ---- 8.2


def _pair_rows(idx, size):
    rows = torch.full_like(idx, size - 1)
    rows[:, 1:] = ((36313 * idx[:, 1:]) ^ (27191 * idx[:, :-1])) % (size - 1)
    return rows


def pair_rows(f) -> None:
    generator = torch.Generator().manual_seed(82)
    draws = [(torch.randint(V, shape, generator=generator), size)
             for V, shape, size in ((50, (2, 7), 100), (32768, (3, 11), 163840), (9, (1, 1), 5), (400, (5, 6), 2001))]  # fmt: skip
    for idx, size in [(torch.tensor([[3, 5]]), 100), *draws]:
        what = f"the rows of {str(idx.tolist())[:40]}, size {size},"
        got = tensor(tried(f, (idx, size), what, "the first token of a row has no previous one"), idx.shape, what)
        now, before, right = idx[:, 1:], idx[:, :-1], _pair_rows(idx, size)
        whole = (36313 * now) ^ (27191 * before)
        first = lambda rest, row=size - 1, idx=idx: torch.cat([torch.full_like(idx[:, :1], row), rest], dim=1)
        mistakes = [
            (first((36313 * now) ^ (27191 * before) % (size - 1)), "% binds more tightly than ^: set brackets"),
            (first(((36313 * before) ^ (27191 * now)) % (size - 1)), "token and previous token are exchanged"),
            (first(whole % size), "mod (size - 1): the last row is for tokens that have no previous one"),
            (first(whole), "mod (size - 1) is missing"),
            (first(whole % (size - 1), 0), "a first token gets the last row, size - 1"),
            (first(whole % (size - 1), size), "the last row is size - 1; rows count from 0"),
            (first((36313 * now + 27191 * before) % (size - 1)), "the two are joined by XOR, not by a sum"),
            (first(((36313 * now) | (27191 * before)) % (size - 1)), "the two are joined by XOR (^), not by OR (|)"),
            (first((36313 * now) % (size - 1) ^ (27191 * before) % (size - 1)), "first XOR, then mod"),
            (torch.cat([first(whole % (size - 1))[:, 1:], first(idx[:, :0])], 1), "the rows are one place too early"),
            (((36313 * idx) ^ (27191 * idx.roll(1, 1))) % (size - 1), "the first token takes the last as its previous one"),
            (((36313 * idx) ^ (27191 * F.pad(before, (1, 0)))) % (size - 1), "a first token gets the last row, not that of token 0"),
        ]  # fmt: skip
        for wrong, hint in mistakes:
            need(torch.equal(wrong, right) or not torch.equal(got, wrong.double()), f"{what} came out wrong: {hint}")
        at = (got != right).nonzero()
        if len(at):
            b, t = at[0].tolist()
            raise Wrong(f"{what}: at text {b}, place {t} the row came out as {got[b, t]:g}, expected {right[b, t]}")


# ---- 8.3


def _table_gradient(idx, table, g, dv):
    rows = F.one_hot(idx.flatten(), len(table)).to(dv.dtype)  # (B * T, V)
    dtable = rows.T @ (g[..., None] * dv).flatten(2).flatten(0, 1)
    return dtable, (table[idx].view(dv.shape) * dv).sum(-1)


def table_gradient(f) -> None:
    row, g, dv = torch.tensor([[0.0], [7], [0]]), torch.tensor([[[0.5], [2]]]), torch.tensor([[[[10.0]], [[1]]]])
    cases = [(torch.tensor([[1, 1]]), row, g, dv)]
    for B, T, H, D, V in ((2, 5, 3, 4, 6), (3, 4, 2, 2, 5), (1, 7, 1, 3, 4)):
        idx = torch.randint(V - 1, (B, T), generator=torch.Generator().manual_seed(T))  # the last token never occurs
        cases.append((idx, _random(V, H * D, seed=V), _random(B, T, H, seed=H), _random(B, T, H, D, seed=D)))
    for idx, table, g, dv in cases:
        B, T, H, D = dv.shape
        what = f"B {B}, T {T}, H {H}, D {D}"
        got = tried(f, (idx, table, g, dv), what, "g (B, T, H) needs a last dimension beside dv")
        out = several(got, 2, "two gradients")
        dtable = tensor(out[0], table.shape, f"the gradient by the table ({what})")
        dg = tensor(out[1], g.shape, f"the gradient by g ({what})")
        leaves = [x.clone().requires_grad_() for x in (table, g)]
        added = leaves[1][..., None] * leaves[0][idx].view(B, T, H, D)
        right, right_g = (x.double() for x in torch.autograd.grad(added, leaves, dv))
        part = (g[..., None] * dv).flatten(2).flatten(0, 1)
        once = torch.zeros_like(table)
        once[idx.flatten()] = part
        count = idx.flatten().bincount(minlength=len(table)).clamp_min(1)[:, None]
        turned = (g[..., None] * dv).transpose(2, 3).flatten(2).flatten(0, 1)
        add = lambda x, table=table, idx=idx: torch.zeros_like(table).index_add_(0, idx.flatten(), x)
        for wrong, hint in (
            (once, "a token that comes twice must collect from both places; an assignment keeps one"),
            (add(dv.flatten(2).flatten(0, 1)), "g is missing: a place counts by its gate"),
            (right / count, "this is the mean over a token's places; add them up"),
            (add(turned), "the heads of a row lie one after the other, D numbers each"),
            (-right, "the sign is wrong"),
            (add((g[..., None] * table[idx].view(dv.shape)).flatten(2).flatten(0, 1)), "dv is missing: these are the rows"),
        ):  # fmt: skip
            need(_near(right, wrong) or not _near(dtable, wrong), f"{what}: the gradient by the table is off: {hint}")
        need_close(
            dtable, right, f"{what}: the gradient by the table is off: add up g · dv over a token's places", 1e-4
        )
        dots = table[idx].view(dv.shape) * dv
        for wrong, hint in (
            (dv.sum(-1), "the rows are missing: v grows by the row if g grows by 1"),
            (dots.mean(-1), "this is the mean over the channels; add them up"),
            (dots.sum(-1) * g, "g does not count in its own gradient"),
            (dots.sum((2, 3), keepdim=True)[..., 0].expand_as(g), "each head has its own g: do not add up the heads"),
        ):
            need(_near(right_g, wrong) or not _near(dg, wrong), f"{what}: the gradient by g is off: {hint}")
        need_close(dg, right_g, f"{what}: the gradient by g is off: add up row · dv over the channels of a head", 1e-4)


# ---- 8.4


def _gate_by_token(gpt, idx, layer, head):
    found = []
    with gpt.blocks[layer].attn.ve_gate.register_forward_hook(lambda m, i, out: found.append(out)), torch.no_grad():
        gpt(idx)
    gates = gpt.config.ve_gate_scale * found[0][..., head].sigmoid()
    return {t: gates[idx == t].mean().item() for t in idx.unique().tolist()}


def _gpt(layers: int, heads: int, scale: float, size: float) -> GPT:
    config = GPTConfig(vocab_size=40, sequence_len=16, n_layer=layers, n_embd=16 * heads, n_head=heads, n_kv_head=heads,
                       value_embeds=True, ve_gate_channels=12, ve_gate_scale=scale)  # fmt: skip
    gpt, g = GPT(config).init_weights(layers), torch.Generator().manual_seed(84)
    with torch.no_grad():
        for block in gpt.blocks:
            for p in block.parameters():
                p.add_(torch.randn(p.shape, generator=g) * (size if p.size(1) == 12 else 0.1))
    return gpt


def gate_by_token(f) -> None:
    cases = (2, 2, 2.0, 0.0, 1, 0), (2, 2, 2.0, 0.5, 1, 1), (4, 3, 3.0, 0.7, 1, 2), (3, 2, 2.0, 0.5, 0, 0)
    for layers, heads, scale, size, layer, head in cases:
        gpt = _gpt(layers, heads, scale, size)
        idx = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(layers))
        right, what = _gate_by_token(gpt, idx, layer, head), f"{layers} layers, layer {layer}, head {head}"
        before = {k: v.clone() for k, v in gpt.state_dict().items()}
        got = f(gpt, idx.clone(), layer, head)
        left = [m for m in gpt.modules() if m._forward_hooks or m._forward_pre_hooks]
        need(not left, f"{what}: a hook is left on the model: remove it")
        same = all(torch.equal(v, before[k]) for k, v in gpt.state_dict().items())
        need(same, f"{what}: the model's weights changed")
        need(got is not None and hasattr(got, "items"), f"the answer came out as {type(got).__name__}, expected a dict")
        got = {int(k): number(v, f"the gate of token {k}") for k, v in got.items()}
        line = f"{what}: the dict has {len(got)} tokens, expected the {len(right)} that occur in idx"
        need(got.keys() == right.keys(), line)
        vector = lambda d: torch.tensor([d[t] for t in sorted(d)], dtype=torch.float64)
        first = {t: None for t in right}
        found = []
        with gpt.blocks[layer].attn.ve_gate.register_forward_hook(lambda m, i, out: found.append(out)), torch.no_grad():  # noqa: B023
            gpt(idx)
        z = found[0]
        by = lambda x: {t: x[idx == t].mean().item() for t in first}  # noqa: B023
        all_places = z[..., head].sigmoid() * scale
        mistakes = [
            (by(z[..., head]), "this is what the module returns: take the sigmoid, times ve_gate_scale"),
            (by(z[..., head].sigmoid()), "ve_gate_scale is missing"),
            (by(z[..., head].sigmoid() * (5 - scale)), "take the scale from model.config.ve_gate_scale"),
            (by(scale * z.sigmoid().mean(-1)), "this is the mean over heads; take the one that is asked for"),
            (by(scale * z[..., 0].sigmoid()), "this is head 0; take the one that is asked for"),
            ({t: all_places[idx == t].sum().item() for t in first}, "this is the sum over a token's places; take the mean"),
            ({t: all_places[idx == t][-1].item() for t in first}, "this is a token's last place; take the mean over all"),
            ({t: all_places[idx == t][0].item() for t in first}, "this is a token's first place; take the mean over all"),
            ({t: all_places.mean().item() for t in first}, "this is the mean over all tokens"),
            ({t: (scale * torch.tensor(m).sigmoid()).item() for t, m in by(z[..., head]).items()}, "first the sigmoid, then the mean"),
            *((_gate_by_token(gpt, idx, i, head), f"this is the gate of layer {i}") for i in range(layers) if i != layer and gpt.config.has_value_embed(i)),
        ]  # fmt: skip
        for wrong, hint in mistakes:
            same = torch.allclose(vector(wrong), vector(right), rtol=0, atol=1e-6)
            hit = torch.allclose(vector(wrong), vector(got), rtol=0, atol=1e-5)
            need(same or not hit, f"{what}: the gates are off: {hint}")
        need_close(vector(got), vector(right), f"{what}: the gates are off: does each token have its own places?", 1e-5)


# ---- 8.5


def _tables_cost(n_layer, vocab, width, ranks, size=2):
    whole = (n_layer + 1) // 2 * vocab * width * size
    return 2 * whole + 2 * whole / ranks, 7 * whole / ranks, 2 * whole * (ranks - 1) / ranks


def tables_cost(f) -> None:
    for args in ((5, 10, 64, 4), (24, 32768, 1536, 8, 2), (2, 10, 4, 2, 2), (7, 33, 16, 1, 4), (12, 1000, 48, 3, 4)):
        n, vocab, width, ranks, *size = args
        size, wanted = (size or [2])[0], _tables_cost(*args)
        whole = (n + 1) // 2 * vocab * width * size
        config = GPTConfig(vocab_size=9, n_layer=n, n_embd=32, n_head=1, n_kv_head=1, value_embeds=True)
        real = sum(config.has_value_embed(i) for i in range(n))
        assert whole == real * vocab * width * size
        got = several(call(f, *args), 3, "three numbers: kept, moved, sent")
        names = ("the bytes that a GPU keeps", "the bytes that Adam moves", "the bytes that a GPU sends")
        some = lambda k, whole=whole, n=n: whole * k / ((n + 1) // 2)  # with k tables
        for i, mistakes in enumerate((
            [(4 * whole, "Adam's means are divided among the GPUs"), (4 * whole / ranks, "tables and gradient are whole on each GPU"),
             (whole + 2 * whole / ranks, "the gradient is missing"), (2 * whole, "Adam's means are missing"),
             (2 * whole + whole / ranks, "Adam has two means")],
            [(7 * whole, "a GPU updates its part alone, 1 / ranks"), (6 * whole / ranks, "four are read and three written"),
             (8 * whole / ranks, "the gradient is read, not written"), (4 * whole / ranks, "what is written counts too"),
             (3 * whole / ranks, "what is read counts too")],
            [(whole * (ranks - 1) / ranks, "there are two rounds: the gradients, then the new numbers"),
             (2 * whole, "a GPU sends nothing to itself: (ranks - 1) / ranks"), (2 * whole * (ranks - 1), "in a ring a GPU sends (ranks - 1) / ranks, not (ranks - 1) times all"),
             (2 * whole / ranks, "a GPU sends all parts but one, not one")],
        )):  # fmt: skip
            factor = wanted[i] / whole
            mistakes += [(some(n) * factor, "only every second layer has a table"), (some(n // 2) * factor, "the last layer always has one: count back from it"),
                         (wanted[i] / size, "these are numbers: times their size in bytes"), (wanted[i] / size * 4, "size is an argument, in bytes")]  # fmt: skip
            usable = [(e, hint) for e, hint in mistakes if not math.isclose(e, wanted[i], rel_tol=1e-3, abs_tol=0.1)]
            value, what = number(got[i], names[i]), f"{names[i]} for {args}"
            known(value, float(wanted[i]), what, usable, "see the three rules above")


EXERCISES = (
    Exercise("8.1", "A matrix folded into a table", fold, points=2, minutes=12, difficulty=2, importance=3),
    Exercise("8.2", "A table for pairs", pair_rows, points=2, minutes=13, difficulty=3, importance=2),
    Exercise("8.3", "The gradient of a table", table_gradient, points=3, minutes=20, difficulty=4, importance=4,
             forbids=(torch.autograd.grad, torch.autograd.backward)),
    Exercise("8.4", "Which tokens open the gate?", gate_by_token, points=3, minutes=18, difficulty=3, importance=4,
             reference=_gate_by_token),
    Exercise("8.5", "Tables on several GPUs", tables_cost, points=2, minutes=12, difficulty=2, importance=4),
)  # fmt: skip
