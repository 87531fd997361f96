"""The model against an independent implementation, its switches against the identity, its counts against the published run."""

import dataclasses
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from gpt2course.attention import Cache, window_mask
from gpt2course.model import GPT, GPTConfig, norm, rope, rope_tables
from gpt2course.recipes import LADDER, make_model, resolve


def tiny(recipe="jan29", **changes):
    """A recipe's model, small, every weight random (a fresh one has zero projections, which would hide mistakes)."""
    size = dict(depth=4, width=48, head_dim=12, sequence_len=24, vocab_size=300, batch_tokens=240, steps=10) | changes
    model = make_model(resolve(recipe, **size)).init_weights(0)
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, 0.3 if "lambda" in name else 0.0, 0.3 if p.ndim == 1 else 0.2)
    return model


def plain_forward(w, idx, *, H, windows, ve_layers, rope_base, ve_channels, ve_scale, qk_gain, smear=False, backout=False, kv_heads=None):
    """Jan29 (and, with the last arguments, the record) written again, a position and a head at a time, in float64.

    w: state dict; idx: list of token ids; windows: for each layer, how many previous tokens a query sees (None: all).
    """
    w = {k: v.double() for k, v in w.items()}
    C, T = w["wte.weight"].shape[1], len(idx)
    D = C // H
    Hkv = kv_heads or H

    def rms(v):
        return v / torch.sqrt((v * v).mean() + torch.finfo(torch.float32).eps)

    def rotate(v, t):
        out = v.clone()
        for i in range(D // 2):
            angle = t / rope_base ** (2 * i / D)
            out[i] = v[i] * math.cos(angle) + v[i + D // 2] * math.sin(angle)
            out[i + D // 2] = -v[i] * math.sin(angle) + v[i + D // 2] * math.cos(angle)
        return out

    x = [rms(w["wte.weight"][t]) for t in idx]
    if smear:
        gates = [None] + [w["smear_lambda"][0] * torch.sigmoid(w["smear_gate.weight"][0] @ x[t][:24]) for t in range(1, T)]
        x = [x[0]] + [x[t] + gates[t] * x[t - 1] for t in range(1, T)]
    x0 = list(x)
    L = len(windows)
    for layer in range(L):
        p = f"blocks.{layer}."
        x = [w["resid_lambdas"][layer] * x[t] + w["x0_lambdas"][layer] * x0[t] for t in range(T)]
        h = [rms(v) for v in x]
        q, k, v = [], [], []
        for t in range(T):
            qt, kt, vt = ((w[p + f"attn.c_{n}.weight"] @ h[t]).view(-1, D) for n in "qkv")
            if layer in ve_layers:
                extra = w[f"value_embeds.{layer}.weight"][idx[t]].view(Hkv, D)
                gate = ve_scale / (1 + torch.exp(-(w[p + "attn.ve_gate.weight"] @ h[t][:ve_channels])))
                vt = vt + torch.stack([gate[j] * extra[j] for j in range(Hkv)])
            q.append(torch.stack([rms(rotate(qt[j], t)) * qk_gain for j in range(H)]))
            k.append(torch.stack([rms(rotate(kt[j], t)) * qk_gain for j in range(Hkv)]))
            v.append(vt)
        for t in range(T):
            first = 0 if windows[layer] is None else max(0, t - windows[layer])
            heads = []
            for j in range(H):
                g = j // (H // Hkv)
                scores = torch.stack([q[t][j] @ k[s][g] / math.sqrt(D) for s in range(first, t + 1)])
                weights = torch.exp(scores - scores.max())
                weights = weights / weights.sum()
                heads.append(sum(weights[n] * v[s][g] for n, s in enumerate(range(first, t + 1))))
            x[t] = x[t] + w[p + "attn.c_proj.weight"] @ torch.cat(heads)
        for t in range(T):
            up = w[p + "mlp.c_fc.weight"] @ rms(x[t])
            x[t] = x[t] + w[p + "mlp.c_proj.weight"] @ (torch.clamp(up, min=0) ** 2)
        if layer == L // 2:
            middle = list(x)
    if backout:
        x = [x[t] - w["backout_lambda"][0] * middle[t] for t in range(T)]
    return torch.stack([15 * torch.tanh(w["lm_head.weight"] @ rms(v) / 15) for v in x])


@pytest.mark.parametrize("seed", [0, 1])
def test_jan29_equals_an_independent_implementation(seed):
    model = tiny("jan29")
    idx = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(seed))
    for row in range(2):
        want = plain_forward(model.state_dict(), idx[row].tolist(), H=4, windows=[12, 12, 12, None], ve_layers={1, 3}, rope_base=10000.0,
                             ve_channels=32, ve_scale=2.0, qk_gain=1.0)  # fmt: skip
        assert want.abs().max() > 1  # or the comparison would be one of zeros
        torch.testing.assert_close(model(idx)[row].double(), want, atol=1e-5, rtol=0)


def test_record_and_grouped_queries_equal_an_independent_implementation():
    model = tiny("record", n_kv_head=2, sequence_len=24, short_window_tile=4)
    assert model.config.short_window == 8
    idx = torch.randint(0, 300, (1, 24), generator=torch.Generator().manual_seed(3))
    want = plain_forward(model.state_dict(), idx[0].tolist(), H=4, kv_heads=2, windows=[8, 8, 8, None], ve_layers={1, 3}, rope_base=100000.0,
                         ve_channels=12, ve_scale=3.0, qk_gain=1.2, smear=True, backout=True)  # fmt: skip
    torch.testing.assert_close(model(idx)[0].double(), want, atol=1e-5, rtol=0)


OFF = {  # switch of the record -> its "off", and how its parameters must be set so that "on" is the identity too
    "resid_lambda": (None, {"resid_lambdas": 1.0}),
    "x0_lambda": (None, {"x0_lambdas": 0.0}),
    "smear": (False, {"smear_lambda": 0.0}),
    "backout": (None, {"backout_lambda": 0.0}),
    "value_embeds": (False, {"value_embeds": 0.0}),
}


@pytest.mark.parametrize("switch", OFF)
def test_off_is_the_identity(switch):
    """With a rung's parameters at their neutral value the model equals the one built without the rung."""
    off, neutral = OFF[switch]
    on = tiny("record", short_window_tile=4)
    with torch.no_grad():
        for name, p in on.named_parameters():
            for prefix, value in neutral.items():
                if name.startswith(prefix):
                    p.fill_(value)
    bare = GPT(dataclasses.replace(on.config, **{switch: off}))
    kept = bare.state_dict().keys()
    assert len(kept) < len(on.state_dict())
    bare.load_state_dict({k: v for k, v in on.state_dict().items() if k in kept})
    idx = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(on(idx), bare(idx), atol=1e-6, rtol=0)


@pytest.mark.parametrize("switch,off", [("qk_norm", False), ("softcap", 0.0), ("embed_norm", False), ("rope_base", 0.0), ("window_pattern", "L"), ("qk_gain", 1.0)])
def test_switches_without_parameters_change_the_output(switch, off):
    on = tiny("record", short_window_tile=4)
    bare = GPT(dataclasses.replace(on.config, **{switch: off}))
    bare.load_state_dict(on.state_dict())
    idx = torch.randint(0, 300, (1, 24), generator=torch.Generator().manual_seed(5))
    assert not torch.allclose(on(idx), bare(idx), atol=1e-3)


@given(st.integers(1, 12), st.text("SL", min_size=1, max_size=5))
def test_the_last_layer_is_long_and_the_others_follow_the_pattern(n_layer, pattern):
    config = GPTConfig(n_layer=n_layer, window_pattern=pattern, short_window=7, value_embeds=True)
    windows = [config.window(i) for i in range(n_layer)]
    assert windows[-1] == (2048, 0) and windows[:-1] == [{"S": (7, 0), "L": (2048, 0)}[(pattern * 12)[i]] for i in range(n_layer - 1)]
    assert [config.has_value_embed(i) for i in range(n_layer)][::-1] == [i % 2 == 0 for i in range(n_layer)]


@torch.no_grad()
def test_in_a_longer_text_a_long_window_shows_the_last_T_tokens():
    """One layer, T = 24: token 3 reaches positions 3 to 27, in a whole text and from a cache."""
    model = model_for_cache("jan29, one layer")
    idx = torch.randint(1, 300, (1, 70), generator=torch.Generator().manual_seed(6))
    other = idx.clone()
    other[0, 3] = 0

    def in_parts(text):
        cache = Cache()
        return torch.cat([model(part, cache=cache) for part in text.split(5, dim=1)], dim=1)

    for read in (model, in_parts):
        changed = (read(idx)[0] != read(other)[0]).any(dim=-1).nonzero().flatten().tolist()
        assert changed[0] == 3 and changed[-1] == 3 + 24


def test_the_initial_model_predicts_uniformly_and_blocks_start_as_the_identity():
    plan = resolve("jan29", depth=4, width=64, head_dim=16, sequence_len=32, vocab_size=512, batch_tokens=320, steps=10)
    model = GPT(plan.model).init_weights(7)
    idx = torch.randint(0, 512, (4, 32))
    loss = model(idx[:, :-1], idx[:, 1:])
    assert abs(loss.item() - math.log(512)) < 0.01
    again = GPT(plan.model).init_weights(7).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())
    assert torch.all(model.blocks[2].mlp.c_proj.weight == 0) and torch.all(model.blocks[1].attn.c_proj.weight == 0)
    bound = math.sqrt(3 / 64)
    for w in (model.blocks[0].attn.c_q.weight, model.value_embeds["1"].weight, model.blocks[3].mlp.c_fc.weight):
        assert w.abs().max() <= bound and abs(w.std().item() * 8 - 1) < 0.06
    assert abs(model.wte.weight.std().item() - 1) < 0.02 and abs(model.lm_head.weight.std().item() / 0.001 - 1) < 0.02
    assert torch.all(model.resid_lambdas == 1) and torch.all(model.x0_lambdas == 0.1)


def test_record_scalars_start_as_published():
    model = GPT(resolve("record", depth=4, width=64, head_dim=16, sequence_len=32, vocab_size=512, batch_tokens=320, steps=10).model).init_weights()
    torch.testing.assert_close(model.resid_lambdas.data, torch.tensor([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05]))
    torch.testing.assert_close(model.x0_lambdas.data, torch.tensor([0.20, 0.15, 0.10, 0.05]))
    assert model.smear_lambda.item() == 0 and abs(model.backout_lambda.item() - 0.2) < 1e-7
    gate = model.blocks[1].attn.ve_gate.weight
    assert 0 <= gate.min() and gate.max() <= 0.02 and gate.max() > 0
    assert abs(model.wte.weight.std().item() - 0.8) < 0.02 and model.blocks[0].mlp.c_fc.weight.abs().max() <= 0.4 * math.sqrt(3 / 64)


# ---- the cache

CACHED = {recipe: (recipe, {}) for recipe in LADDER} | {
    "gpt2": ("gpt2", dict(sequence_len=96, batch_tokens=960)),  # it has no positions beyond
    "record, short windows": ("record", dict(short_window_tile=4)),  # W = 8
    "record, grouped queries": ("record", dict(short_window_tile=4, n_kv_head=2)),
    "jan29, one layer": ("jan29", dict(depth=1)),
}


@functools.cache
def model_for_cache(name):
    """In float64 (the logits are rounded to float32 at the end), where only a mistake makes a difference."""
    recipe, changes = CACHED[name]
    model = tiny(recipe, **changes).double()
    model.compute_dtype = torch.float64
    return model


@pytest.mark.parametrize("name", CACHED)
@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 99))
@torch.no_grad()
def test_reading_in_parts_equals_reading_all(name, parts, seed):
    """Also past the length of training, and however the text is cut: a prompt, then tokens one by one, or several at once."""
    model, T = model_for_cache(name), sum(parts)
    idx = torch.randint(0, 300, (2, T), generator=torch.Generator().manual_seed(seed))
    cache, got = Cache(), []
    for part in idx.split(parts, dim=1):
        got.append(model(part, cache=cache))
        assert got[-1].shape == (2, part.size(1), 300)
    torch.testing.assert_close(torch.cat(got, dim=1), model(idx), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", CACHED)
@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=4), st.lists(st.sets(st.integers(0, 3), max_size=1), max_size=26), st.integers(0, 99))
@torch.no_grad()
def test_rows_of_different_lengths_that_leave_equal_each_row_alone(name, lengths, leaving, seed):
    """lengths: tokens of each text that are read first; leaving: for each token after them, which row leaves before it is read."""
    model, longest, rows = model_for_cache(name), max(lengths), list(range(len(lengths)))
    texts = torch.randint(0, 300, (len(lengths), 40), generator=torch.Generator().manual_seed(seed))
    want = [model(text[None])[0] for text in texts]
    cache = Cache(torch.tensor([longest - n for n in lengths]))
    idx = torch.stack([torch.cat([torch.full((longest - n,), seed), text[:n]]) for text, n in zip(texts, lengths)])
    for step, gone in enumerate([set(), *leaving]):
        if step:
            stay = [n for n in range(len(rows)) if n not in gone]
            if not stay:
                return
            cache.keep(stay)
            rows = [rows[n] for n in stay]
            idx = torch.stack([texts[i, lengths[i] + step - 1 : lengths[i] + step] for i in rows])  # (B, 1)
        for i, got in zip(rows, model(idx, cache=cache)):
            new = slice(lengths[i] + step - 1, lengths[i] + step) if step else slice(0, lengths[i])
            torch.testing.assert_close(got[new.start - new.stop :], want[i][new], atol=2e-6, rtol=0)


@torch.no_grad()
def test_bfloat16_is_close_and_keeps_float32_weights():
    model = tiny("record", short_window_tile=4)
    half = GPT(model.config, compute_dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    idx = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(0))
    cache = Cache(torch.tensor([0, 3]))
    got = [half(part, cache=cache) for part in (idx[:, :20], *idx[:, 20:].split(1, dim=1))]
    assert {t.dtype for pair in cache.past.values() for t in pair} == {torch.bfloat16} and got[0].dtype == torch.float32
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    want = model(idx)
    assert (torch.cat(got, dim=1)[0] - want[0]).abs().mean() < 0.06 * want.std()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 200), st.sampled_from([2, 8, 16]), st.sampled_from([100.0, 1e4]))
def test_rope_turns_products_by_the_distance_alone(s, t, shift, D, base):
    g = torch.Generator().manual_seed(s * 501 + t)
    q, k = (torch.randn(1, 1, 1, D, generator=g, dtype=torch.float64) for _ in range(2))
    cos, sin = (table.double() for table in rope_tables(701, D, base))
    at = lambda x, n: rope(x, cos[n : n + 1], sin[n : n + 1])  # noqa: E731
    torch.testing.assert_close((at(q, s) * at(k, t)).sum(), (at(q, s + shift) * at(k, t + shift)).sum(), atol=1e-3, rtol=0)
    torch.testing.assert_close(at(q, s).norm(), q.norm())
    torch.testing.assert_close(norm(at(q, s)), at(norm(q), s))  # QK-norm before or after RoPE is the same


def test_published_counts_of_the_jan29_run():
    plan = resolve("jan29", depth=24)
    assert plan.params["total"] == 1_384_124_976 and plan.params["scaling"] == 729_813_504
    assert (plan.params["wte"], plan.params["value_embeds"], plan.params["lm_head"], plan.params["matrices"], plan.params["scalars"]) == (
        50_331_648, 603_979_776, 50_331_648, 679_481_856, 48)  # fmt: skip
    assert (plan.steps, plan.batch_tokens) == (16_704, 524_288)
    assert abs(plan.flops_per_token / 4.945e9 - 1) < 1e-3 and abs(plan.flops / 4.330784e19 - 1) < 1e-6
    assert [plan.model.window(i)[0] for i in range(24)].count(1024) == 18


def test_causal_flops_count_every_visible_key():
    """By counting mask entries: what a query really sees, averaged over the row."""
    model = tiny("jan29")
    T, C = 24, 48
    keys = sum(window_mask(T, T, model.config.window(i)[0], torch.device("cpu")).sum().item() for i in range(4)) / T
    weights = sum(p.numel() for n, p in model.named_parameters() if n.startswith(("blocks", "lm_head")))
    assert model.flops_per_token(causal=True) == pytest.approx(6 * weights + 12 * C * keys)
    assert model.flops_per_token() == pytest.approx(6 * weights + 12 * C * (12 + 12 + 12 + 24))


@pytest.mark.parametrize("bad,text", [
    (dict(n_embd=100, n_head=3), "not a multiple"), (dict(window_pattern="SXL"), "only S and L"), (dict(window_pattern="SL"), "short_window must be positive"),
    (dict(n_layer=0), "positive integer"), (dict(n_embd=6, n_head=2, n_kv_head=2), "even"), (dict(n_kv_head=4), "n_kv_head"),
    (dict(value_embeds=True, ve_gate_channels=1000), "ve_gate_channels"), (dict(smear=True, smear_channels=1000), "smear_channels")])  # fmt: skip
def test_impossible_configurations_are_refused(bad, text):
    with pytest.raises(ValueError, match=text):
        GPTConfig(**bad)


def test_steps_after_the_first_compile_nothing():
    """Weights that change keep one graph for the forward pass."""
    model = tiny("record", depth=2)
    model.compute_dtype = torch.bfloat16
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    forward = torch.compile(model, dynamic=False, backend=counter)
    model.rope(24, "cpu")  # the tables exist before the graph, as in training
    for step in range(3):
        idx = torch.randint(0, 300, (2, 25), generator=torch.Generator().manual_seed(step))
        for _ in range(2):
            forward(idx[:, :-1].contiguous(), idx[:, 1:].contiguous()).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(p.grad, alpha=0.01)
                p.grad = None
    assert counter.frame_count == 1
