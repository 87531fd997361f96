"""GPT-2 against an independent implementation, against transformers where it is installed, and against odd weight files."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gpt2course.attention import Cache
from gpt2course.evaluate import bits_per_byte
from gpt2course.files import UserError
from gpt2course.gpt2 import GPT2, SIZES, GPT2Config, load_released, load_tokenizer
from gpt2course.losses import cross_entropy_plain
from gpt2course.recipes import make_model, make_optimizer, resolve

TINY = GPT2Config(vocab_size=97, sequence_len=24, n_layer=3, n_head=2, n_embd=128)


class Bytes:
    """A tokenizer whose tokens are bytes; 256 is BOS."""

    bos = 256

    def encode_batch(self, documents):
        return [list(d.encode()) for d in documents]

    def token_bytes(self):
        return np.array([1] * 256 + [0] * 10, dtype=np.int32)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tiny(config=TINY, seed=0, **kw):
    """Every parameter random, LayerNorm and biases too, so that none can be forgotten."""
    model = GPT2(config, **kw)
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, 1.0 if name.endswith("weight") and p.ndim == 1 else 0.0, 0.1)
    return model


def tokens(B=2, T=24, seed=0, V=97):
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(seed))


def plain_forward(w, idx, H):
    """GPT-2 written again from the paper's description, a position and a head at a time, in float64.

    w: weights by their released names, matrices (in, out); idx: list of token ids; returns (T, V).
    """
    w = {k: v.double() for k, v in w.items()}
    C = w["wte.weight"].shape[1]
    D, L = C // H, sum(k.endswith("ln_1.weight") for k in w)

    def ln(v, name):
        centred = v - v.sum() / C
        return centred / torch.sqrt((centred * centred).sum() / C + 1e-5) * w[name + ".weight"] + w[name + ".bias"]

    def linear(v, name):
        return v @ w[name + ".weight"] + w[name + ".bias"]

    x = [w["wte.weight"][token] + w["wpe.weight"][t] for t, token in enumerate(idx)]
    for i in range(L):
        qkv = [linear(ln(v, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn") for v in x]
        for t in range(len(idx)):
            heads = []
            for h in range(H):
                q, k, v = ([row[n * C + h * D : n * C + (h + 1) * D] for row in qkv[: t + 1]] for n in range(3))
                scores = [math.exp((q[t] @ k[s]).item() / math.sqrt(D)) for s in range(t + 1)]
                heads.append(sum(score / sum(scores) * v[s] for s, score in enumerate(scores)))
            x[t] = x[t] + linear(torch.cat(heads), f"h.{i}.attn.c_proj")
        for t in range(len(idx)):
            u = linear(ln(x[t], f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
            gelu = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
            x[t] = x[t] + linear(gelu, f"h.{i}.mlp.c_proj")
    return torch.stack([w["wte.weight"] @ ln(v, "ln_f") for v in x])


def released(model, prefix=""):
    """A model's weights in the released layout."""
    weights = {}
    for name, p in model.named_parameters():
        matrix = name.startswith("blocks.") and p.ndim == 2
        value = (p.T if matrix else p).detach().clone(memory_format=torch.contiguous_format)
        weights[prefix + name.replace("blocks.", "h.")] = value
    return weights


@pytest.mark.parametrize("seed, T", [(0, 24), (1, 9)])
def test_it_equals_an_independent_implementation(seed, T):
    model, idx = tiny(seed=seed), tokens(T=T, seed=seed)
    got = model(idx)
    assert got.dtype == torch.float32 and got.shape == (2, T, 97)
    for row in range(2):
        want = plain_forward(released(model), idx[row].tolist(), H=2)
        assert want.std() > 0.5
        torch.testing.assert_close(got[row].double(), want, atol=1e-5, rtol=0)


def test_the_future_does_not_reach_the_past():
    model, idx = tiny(), tokens(B=1)
    before = model(idx)
    for t in (1, 7, 23):
        changed = idx.clone()
        changed[0, t] = (changed[0, t] + 1) % 97
        after = model(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], atol=0, rtol=0)
        assert not torch.allclose(after[:, t], before[:, t])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_is_that_of_the_logits(reduction):
    model, idx, targets = tiny(), tokens(), tokens(seed=1)
    targets[0, 3:7] = -1
    loss = model(idx, targets, reduction=reduction)
    want = torch.nn.functional.cross_entropy(model(idx).flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=reduction)
    torch.testing.assert_close(loss.flatten(), want.flatten(), atol=1e-4 if reduction == "sum" else 1e-5, rtol=1e-6)
    assert loss.shape == (targets.shape if reduction == "none" else ())
    if reduction == "mean":  # the tied matrix gets a gradient from both its uses
        grads = torch.autograd.grad(loss, list(model.parameters()))
        plain = cross_entropy_plain(model.hidden(idx).flatten(0, 1), model.wte.weight, targets.flatten())
        for g, want in zip(grads, torch.autograd.grad(plain, list(model.parameters()))):
            assert want.abs().max() > 0
            torch.testing.assert_close(g, want, atol=1e-6, rtol=1e-4)


def test_bfloat16_is_close_and_keeps_float32_masters():
    model, half = tiny(), tiny(compute_dtype=torch.bfloat16)
    got = half(tokens())
    assert got.dtype == torch.float32 and half.hidden(tokens()).dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in half.parameters())
    want = model(tokens())
    assert (got - want).abs().mean() < 0.03 * want.std()


def test_more_tokens_than_positions():
    with pytest.raises(UserError, match="positions for 24 tokens, got 25; crop the input to its last 24 tokens"):
        tiny()(tokens(T=25))
    assert tiny()(tokens(T=1)).shape == (2, 1, 97)


@pytest.mark.parametrize("bad", [dict(n_layer=0), dict(n_head=5), dict(n_embd=1.5), dict(vocab_size=True)])
def test_bad_sizes(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GPT2Config(**bad)


# ---- numbers of the released models


@pytest.mark.parametrize("name, total", [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)])
def test_parameter_counts_of_the_four_sizes(name, total):
    config = SIZES[name]
    with torch.device("meta"):
        model = GPT2(config)
    count = model.num_params()
    C, L = config.n_embd, config.n_layer
    assert count["total"] == total == sum(p.numel() for p in model.parameters())
    groups = ("wte", "wpe", "value_embeds", "lm_head", "matrices", "scalars")
    assert sum(count[g] for g in groups) == total
    assert count["matrices"] == 12 * L * C * C and count["scalars"] == L * 13 * C + 2 * C and count["wpe"] == 1024 * C
    assert count["scaling"] == 12 * L * C * C + 50257 * C and config.head_dim == 64
    assert model.flops_per_token() == 6 * count["scaling"] + 12 * L * C * 1024
    assert model.flops_per_token(causal=True) == 6 * count["scaling"] + 12 * L * C * sum(t + 1 for t in range(1024)) / 1024


def test_the_initial_weights():
    model = GPT2(GPT2Config(vocab_size=2000, sequence_len=500, n_layer=8, n_head=2, n_embd=128)).init_weights(1)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all()
        elif p.ndim == 1:
            assert (p == 1).all()
        else:
            std = 0.01 if name == "wpe.weight" else 0.005 if name.endswith("c_proj.weight") else 0.02  # 0.02 / sqrt(2 * 8)
            assert p.std().item() == pytest.approx(std, rel=0.03) and abs(p.mean().item()) < std / 30
    same, other = GPT2(model.config).init_weights(1), GPT2(model.config).init_weights(2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters()))
    assert not torch.equal(model.wte.weight, other.wte.weight)
    matrices = [p[:100, :100] for p in model.parameters() if p.ndim == 2]
    assert len({round(m.double().sum().item(), 6) for m in matrices}) == len(matrices)  # each drew its own numbers
    loss = model(tokens(V=2000), tokens(seed=1, V=2000)).item()
    assert loss == pytest.approx(math.log(2000), abs=0.1)


def test_it_learns():
    model, x = GPT2(TINY).init_weights(0), tokens(B=4, seed=5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        loss = model(x[:, :-1], x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 2


def test_a_plan_trains_and_is_evaluated():
    """From the plan alone: the loss falls in 30 steps, and so do the bits per byte of the text it was shown."""
    plan = resolve("gpt2", depth=2, width=32, head_dim=16, sequence_len=16, vocab_size=266, batch_tokens=128, steps=30, matrix_adamw_lr=2e-3)
    model = make_model(plan).init_weights(0)
    optimizer, text = make_optimizer(model, plan), list(b"the cat sat on the mat; " * 40)
    x = torch.tensor([[256, *text[i : i + 16]] for i in range(8)])  # (8, 17): BOS and 16 bytes
    before, losses = bits_per_byte(model, ["the cat sat"], Bytes(), 16)[0], []
    for step in range(plan.steps):
        loss = model(x[:, :-1], x[:, 1:])
        loss.backward()
        optimizer.step(plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(266), abs=0.1) and losses[-1] < losses[0] - 2
    assert bits_per_byte(model, ["the cat sat"], Bytes(), 16)[0] < before - 2


# ---- released files


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(2, 40), st.integers(1, 9), st.sampled_from(["", "transformer."]))
def test_files_of_any_size_are_read(tmp_path_factory, layers, heads, V, T, prefix):
    model = tiny(GPT2Config(V, T, layers, heads, 64 * heads))
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    mask = torch.ones(1, 1, T, T).tril().bool()
    masks = {f"{prefix}h.{i}.attn.{n}": mask.clone() for i in range(layers) for n in ("bias", "masked_bias")}
    head = {"lm_head.weight": model.wte.weight.detach().clone()} if T % 2 else {}
    save_file(released(model, prefix) | masks | head, path)
    for place in (path, path.parent, str(path)):
        got = load_released(place)
        assert got.config == model.config and not got.training
        assert all(torch.equal(a, b) for a, b in zip(got.parameters(), model.parameters()))


def test_every_layer_and_matrix_lands_in_its_place(tmp_path):
    """The file is written here by hand: value 1000 * layer + kind at (row, column) of a known place."""
    C, L = 64, 12  # twelve layers, so that h.10 sorts before h.2 as text
    model = tiny(GPT2Config(50, 8, L, 1, C))
    weights = released(model)
    weights["h.2.attn.c_attn.weight"][3, 150] = 777.0  # (in, out)
    weights["h.10.mlp.c_fc.weight"][5, 200] = 888.0
    weights["h.11.mlp.c_proj.weight"][200, 5] = 999.0
    save_file(weights, tmp_path / "a.safetensors")
    got = load_released(tmp_path / "a.safetensors")
    assert got.blocks[2].attn.c_attn.weight[150, 3] == 777 and got.blocks[10].mlp.c_fc.weight[200, 5] == 888
    assert got.blocks[11].mlp.c_proj.weight[5, 200] == 999
    idx = tokens(1, 8, V=50)
    want = plain_forward(weights, idx[0].tolist(), H=1)
    torch.testing.assert_close(got(idx)[0].double(), want, atol=1e-3, rtol=1e-5)  # the logits are in the thousands


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_read(tmp_path, dtype):
    weights = {k: v.to(dtype) for k, v in released(tiny()).items()} | {"lm_head.weight": tiny().wte.weight.detach().to(dtype)}
    save_file(weights, tmp_path / "model.safetensors")
    got = load_released(tmp_path, compute_dtype=torch.bfloat16)
    assert got.wte.weight.dtype == torch.float32 and torch.equal(got.wte.weight, weights["wte.weight"].float())
    assert got.compute_dtype == torch.bfloat16


def test_heads_come_from_the_argument_then_config_json_then_the_width(tmp_path):
    model = tiny(GPT2Config(97, 24, 3, 4, 128))  # 4 heads of 32 channels
    save_file(released(model), tmp_path / "model.safetensors")
    idx = tokens()
    assert load_released(tmp_path).config.n_head == 2
    torch.testing.assert_close(load_released(tmp_path, n_head=4)(idx), model(idx), atol=1e-5, rtol=0)
    said = {"n_head": 4, "n_layer": 3, "n_embd": 128, "n_positions": 24, "vocab_size": 97, "n_ctx": 24}
    (tmp_path / "config.json").write_text(json.dumps(said))
    torch.testing.assert_close(load_released(tmp_path)(idx), model(idx), atol=1e-5, rtol=0)
    assert load_released(tmp_path, n_head=1).config.n_head == 1


def change(**tensors):
    """A damage: tensors replaced or added; None takes one away."""
    return lambda w: {k: v for k, v in (w | {k.replace("__", "."): v for k, v in tensors.items()}).items() if v is not None}


def without_layer(i):
    return lambda w: {k: v for k, v in w.items() if not k.startswith(f"h.{i}.")}


def rename(old, new):
    return lambda w: {new if k == old else k: v for k, v in w.items()}


BAD_FILES = {
    "missing bias": (change(h__1__mlp__c_fc__bias=None), "tensor h.1.mlp.c_fc.bias is missing"),
    "missing ln_f": (change(ln_f__weight=None), "tensor ln_f.weight is missing"),
    "no wte": (change(wte__weight=None), "tensor wte.weight is missing"),
    "no wpe": (change(wpe__weight=None), "tensor wpe.weight is missing"),
    "nothing at all": (lambda w: {"x": torch.zeros(1)}, "tensor wte.weight is missing"),
    "only embeddings": (lambda w: {k: v for k, v in w.items() if k[0] != "h"}, "all tensors of layer h.0 are missing"),
    "hole": (without_layer(1), "all tensors of layer h.1 are missing"),
    "first layer missing": (without_layer(0), "all tensors of layer h.0 are missing"),
    "several missing": (lambda w: {k: v for k, v in w.items() if ".ln_1." not in k}, "h.0.ln_1.bias is missing; .*; and 3 more"),
    "extra": (change(h__0__attn__q_norm__weight=torch.ones(4)), "tensor h.0.attn.q_norm.weight does not belong to a GPT-2"),
    "extra value head": (change(v_head__bias=torch.ones(4)), "tensor v_head.bias does not belong"),
    "mask of no layer": (change(attn__bias=torch.ones(4)), "tensor attn.bias does not belong"),
    "another name": (rename("h.0.mlp.c_fc.weight", "layers.0.up.weight"),
                     "h.0.mlp.c_fc.weight is missing; tensor layers.0.up.weight does not"),
    "not transposed": (lambda w: w | {"h.0.attn.c_attn.weight": w["h.0.attn.c_attn.weight"].T.contiguous()},
                       r"h.0.attn.c_attn.weight has shape \(384, 128\); \(128, 384\) is expected"),
    "short bias": (change(h__2__attn__c_proj__bias=torch.zeros(127)), r"c_proj.bias has shape \(127,\); \(128,\) is expected"),
    "positions of another width": (change(wpe__weight=torch.zeros(24, 64)), r"wpe.weight has shape \(24, 64\); \(24, 128\)"),
    "flat wte": (change(wte__weight=torch.zeros(97)), r"wte.weight has shape \(97,\); two dimensions"),
    "empty wpe": (change(wpe__weight=torch.zeros(0, 128)), r"wpe.weight has shape \(0, 128\); two dimensions"),
    "integers": (change(ln_f__bias=torch.zeros(128, dtype=torch.int64)), "ln_f.bias is of torch.int64; a floating-point type"),
    "both names": (lambda w: w | {"transformer.wte.weight": w["wte.weight"].clone()}, "wte.weight is there twice"),
    "untied head": (change(lm_head__weight=torch.zeros(97, 128)), "tensor lm_head.weight is not the same as wte.weight"),
    "head of another shape": (change(lm_head__weight=torch.zeros(98, 128)), "tensor lm_head.weight is not the same"),
    "a layer too far": (change(**{f"h__{'9' * 30}__ln_1__bias": torch.zeros(128)}), "9999.ln_1.bias does not belong"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_odd_files_name_the_tensor(tmp_path, case):
    damage, message = BAD_FILES[case]
    save_file(damage(released(tiny())), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message) as e:
        load_released(tmp_path)
    assert "\n" not in str(e.value) and str(tmp_path) in str(e.value)


@pytest.mark.parametrize("case", ["empty", "text", "half", "missing", "empty folder"])
def test_files_that_are_none(tmp_path, case):
    path = tmp_path / "model.safetensors"
    save_file(released(tiny()), path)
    content = {"empty": b"", "text": b"<html>404</html>", "half": path.read_bytes()[: path.stat().st_size // 2]}.get(case)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="do not exist" if content is None else "no whole safetensors file .*; download it again"):
        load_released(tmp_path if case == "empty folder" else path)


@pytest.mark.parametrize(
    "said, message",
    [
        ({"n_layer": 4}, "n_layer is 3 by the shapes, but 4 in"),
        ({"n_positions": 1024}, "n_positions is 24 by the shapes, but 1024"),
        ({"vocab_size": 50257}, "vocab_size is 97 by the shapes"),
        ({"n_embd": 768}, "n_embd is 128 by the shapes"),
        ({"n_head": 3}, "3 heads do not divide the width 128; say how many there are with n_head"),
        ({"n_head": "2"}, "'2' heads do not divide"),
        ({"activation_function": "relu"}, "says activation_function = 'relu'; GPT-2 has 'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "says layer_norm_epsilon = 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "says scale_attn_by_inverse_layer_idx = True"),
        ([1], "does not hold an object"),
    ],
)
def test_a_contradicting_config_json_is_refused(tmp_path, said, message):
    save_file(released(tiny()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=message):
        load_released(tmp_path)


def test_width_that_is_no_multiple_of_64_asks_for_the_heads(tmp_path):
    model = tiny(GPT2Config(97, 24, 1, 2, 48))
    save_file(released(model), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="0 heads do not divide the width 48; say how many there are with n_head"):
        load_released(tmp_path)
    assert load_released(tmp_path, n_head=2).config == model.config


# ---- the other implementation


@pytest.mark.parametrize("bare", [False, True])
def test_it_equals_transformers(tmp_path, bare):
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=97, n_positions=24, n_embd=128, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    torch.manual_seed(0)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, 1.0 if p.ndim == 1 else 0.0, 0.1)
    (theirs.transformer if bare else theirs).save_pretrained(tmp_path)  # names without and with "transformer."
    names = load_file(tmp_path / "model.safetensors").keys()
    assert any(name.startswith("transformer.") for name in names) != bare
    ours, idx = load_released(tmp_path), tokens()
    with torch.no_grad():
        want = theirs(idx).logits
        assert want.std() > 0.5
        torch.testing.assert_close(ours(idx), want, atol=1e-5, rtol=0)
        loss = theirs(idx, labels=idx).loss  # which shifts the labels itself
    torch.testing.assert_close(ours(idx[:, :-1], idx[:, 1:]), loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts_equal_those_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    c = SIZES[name]
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd))
        ours = GPT2(c)
    assert sum(p.numel() for p in theirs.parameters()) == ours.num_params()["total"]


# ---- the cache


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=4), st.integers(0, 14), st.integers(0, 99))
@torch.no_grad()
def test_rows_read_into_a_cache_equal_each_row_alone(lengths, more, seed):
    """Texts of different lengths, then `more` tokens one at a time, the first row leaving half-way."""
    model, longest, rows = tiny(compute_dtype=torch.float64).double(), max(lengths), list(range(len(lengths)))
    texts = tokens(B=len(lengths), seed=seed)
    cache = Cache(torch.tensor([longest - n for n in lengths]))
    idx = torch.stack([torch.cat([torch.full((longest - n,), seed % 97), text[:n]]) for text, n in zip(texts, lengths)])
    for step in range(more + 1):
        if step:
            if step == more // 2 and len(rows) > 1:
                rows = rows[1:]
                cache.keep(list(range(1, len(rows) + 1)))
            idx = torch.stack([texts[i, lengths[i] + step - 1 : lengths[i] + step] for i in rows])  # (B, 1)
        for i, got in zip(rows, model(idx, cache=cache)):
            new = slice(lengths[i] + step - 1, lengths[i] + step) if step else slice(0, lengths[i])
            torch.testing.assert_close(got[new.start - new.stop :], model(texts[i : i + 1])[0, new], atol=2e-6, rtol=0)


@torch.no_grad()
def test_in_float32_the_cache_changes_only_the_rounding():
    model, idx, cache = tiny(), tokens(B=3), Cache()
    got = torch.cat([model(part, cache=cache) for part in (idx[:, :9], idx[:, 9:13], *idx[:, 13:].split(1, dim=1))], dim=1)
    torch.testing.assert_close(got, model(idx), atol=1e-5, rtol=0)


def test_positions_of_a_cache_are_those_of_the_text():
    """They end at 24 tokens of text, however many columns of filler there are."""
    model, cache = tiny(), Cache(torch.tensor([9, 9]))
    assert model(tokens(T=30), cache=cache).shape == (2, 30, 97)
    for _ in range(3):
        model(tokens(T=1), cache=cache)
    with pytest.raises(UserError, match="positions for 24 tokens, got 25"):
        model(tokens(T=1), cache=cache)


# ---- the tokenizer and CORE


@pytest.fixture
def folder(tmp_path):
    """A folder as the released models have it, with random weights and a small vocabulary made by hand."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in seen]
    letter = {b: chr(b) for b in seen} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    order = seen + hidden  # GPT-2's own order of the bytes
    merges = [("t", "h"), ("th", "e"), (letter[32], "the"), ("i", "n"), (letter[32], "a"), (letter[10], letter[10]), ("1", "2"), ("12", "3")]
    names = [letter[b] for b in order] + ["".join(m) for m in merges] + ["<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    model = GPT2(GPT2Config(len(names), 64, 2, 2, 128)).init_weights(3)
    save_file(released(model), tmp_path / "model.safetensors")
    return tmp_path


def test_the_released_tokenizer_is_read(folder):
    t = load_tokenizer(folder)
    assert t.vocab_size == 265 and t.bos == 264 and t.special == {"<|endoftext|>": 264}
    words = {bytes(token): i for i, token in enumerate(t.ranks)}
    assert t.encode("the thin a", bos=True) == [264, words[b"the"], words[b" "], words[b"th"], words[b"in"], words[b" a"]]
    assert t.encode("123") == [words[b"123"]]  # GPT-2 keeps a run of digits together, our own tokenizer does not
    assert t.encode("<|endoftext|>")[0] != 264 and t.token_bytes()[264] == 0
    for text in ("in the beginning\n\n", "ünïcödé 漢字 🙂\x00"):
        assert t.decode(t.encode(text)) == text


@pytest.mark.parametrize("spoil,text", [
    (lambda d: (d / "merges.txt").unlink(), "merges.txt cannot be read"),
    (lambda d: (d / "merges.txt").write_text("#version: 0.2\nt h\n"), "has 1 merges, vocab.json 264 tokens"),
    (lambda d: (d / "merges.txt").write_text((d / "merges.txt").read_text().replace("i n", "i m")), r"merge 4 \(i m\) does not make token 259"),
    (lambda d: (d / "vocab.json").write_text("[]"), "has no <|endoftext|>"),
    (lambda d: (d / "vocab.json").write_text((d / "vocab.json").read_text().replace('"the": 257', '"the": 300')), "are not 0, 1, 2 and so on"),
    (lambda d: (d / "vocab.json").write_text((d / "vocab.json").read_text().replace('"the": 257', '"the": null')), "an id that is no whole number"),
    (lambda d: (d / "vocab.json").write_text((d / "vocab.json").read_text().replace('"Z": 57', '"ab": 57')), "the first 256 tokens of vocab.json are not the 256 bytes"),
    (lambda d: (d / "vocab.json").write_text((d / "vocab.json").read_text()[:-9]), "not valid JSON")])  # fmt: skip
def test_a_damaged_tokenizer_is_refused(folder, spoil, text):
    spoil(folder)
    with pytest.raises(UserError, match=text):
        load_tokenizer(folder)


def test_the_released_tokenizer_equals_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    ours = load_tokenizer(folder)
    for text in ("the thin man in the inn", "a  b\n\n c\t'll  x ", "ünïcödé 漢字 🙂", "12345 !?"):
        assert ours.encode(text) == theirs.encode(text)


def test_released_weights_are_scored_like_a_run(folder, capsys, monkeypatch, tmp_path):
    """The command scores the folder, cropped to the 64 positions there are, and both evaluators decide alike."""
    from gpt2course import core

    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path / "home"))
    for plain in (True, False):
        core.main(core.Core(str(folder), bundle=str(core.MINI), max_examples=6, plain=plain, out=str(tmp_path / f"{plain}.json"), device="cpu"))
    slow, fast = (json.loads((tmp_path / f"{p}.json").read_text()) for p in (True, False))
    assert slow["max_len"] == 64 and slow["core"] == fast["core"]
    assert {k: v["accuracy"] for k, v in slow["tasks"].items()} == {k: v["accuracy"] for k, v in fast["tasks"].items()}
    assert "mini-CORE" in capsys.readouterr().out


def test_a_tokenizer_larger_than_the_model_is_refused(folder):
    from gpt2course.checkpoint import load_model

    model = GPT2(GPT2Config(200, 64, 2, 2, 128)).init_weights(3)
    save_file(released(model), folder / "model.safetensors")
    with pytest.raises(UserError, match="its tokenizer has 265 tokens, its model 200"):
        load_model(str(folder), "cpu")


def test_the_memory_estimate_counts_all_of_gpt2():
    """Weights, gradients and two moments of every parameter, in float32."""
    from gpt2course.cost import memory_estimate
    from gpt2course.recipes import resolve

    plan = resolve("gpt2", depth=4, width=128, head_dim=64, sequence_len=256, vocab_size=4096, batch_tokens=2048, steps=10)
    m = memory_estimate(plan.params, B=8, T=256, n_layer=4, n_embd=128, vocab_size=4096, matrix_optimizer="adamw", embed_bytes=4, compute_bytes=4)
    assert m.weights == m.gradients == 4 * plan.params["total"] and m.optimizer == 8 * plan.params["total"]
