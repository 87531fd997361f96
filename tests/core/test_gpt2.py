"""GPT-2 against an independent implementation, against transformers where it is installed, and its reader of weight files."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gpt2course.attention import Cache
from gpt2course.files import UserError
from gpt2course.gpt2 import GPT2, GPT2Config, load_released
from gpt2course.losses import cross_entropy_plain

TINY = GPT2Config(vocab_size=97, sequence_len=24, n_layer=3, n_head=2, n_embd=128)


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
    with pytest.raises(UserError, match="positions for 24 tokens, got 25; pass the last 24 tokens only"):
        tiny()(tokens(T=25))
    assert tiny()(tokens(T=1)).shape == (2, 1, 97)


@pytest.mark.parametrize("bad", [dict(n_layer=0), dict(n_head=5), dict(n_embd=1.5), dict(vocab_size=True)])
def test_bad_sizes(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GPT2Config(**bad)


# ---- numbers of the released models


@pytest.mark.parametrize("L, H, total", [(12, 12, 124_439_808), (24, 16, 354_823_168), (36, 20, 774_030_080), (48, 25, 1_557_611_200)])
def test_parameter_counts_of_the_four_sizes(L, H, total):
    config = GPT2Config(n_layer=L, n_head=H, n_embd=64 * H)
    with torch.device("meta"):
        model = GPT2(config)
    count = model.num_params()
    C = config.n_embd
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


# ---- released files


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 12), st.integers(1, 2), st.integers(2, 40), st.integers(1, 9), st.sampled_from(["", "transformer."]), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_files_of_any_size_are_read(tmp_path_factory, layers, heads, V, T, prefix, dtype):
    """With and without masks, a head, and a prefix; from 11 layers on, h.10 sorts before h.2 as text."""
    model = tiny(GPT2Config(V, T, layers, heads, 64 * heads)).to(dtype)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    mask = torch.ones(1, 1, T, T).tril().bool()
    masks = {f"{prefix}h.{i}.attn.{n}": mask.clone() for i in range(layers) for n in ("bias", "masked_bias")}
    head = {"lm_head.weight": model.wte.weight.detach().clone()} if T % 2 else {}
    save_file(released(model, prefix) | masks | head, path)
    got = load_released(path.parent, torch.bfloat16)
    assert got.config == model.config and not got.training and got.compute_dtype == torch.bfloat16
    want = dict(model.named_parameters())
    for name, p in got.named_parameters():
        assert p.dtype == torch.float32 and p.is_contiguous() and p.requires_grad and torch.equal(p, want[name].float())


def test_heads_come_from_config_json_or_the_width(tmp_path):
    model = tiny(GPT2Config(97, 24, 3, 4, 128))  # 4 heads of 32 channels
    save_file(released(model), tmp_path / "model.safetensors")
    assert load_released(tmp_path).config.n_head == 2
    (tmp_path / "config.json").write_text(json.dumps({"n_head": 4, "activation_function": "gelu_new"}))
    torch.testing.assert_close(load_released(tmp_path)(tokens()), model(tokens()), atol=1e-5, rtol=0)


BAD_FILES = {
    "no wte": (lambda w: w.pop("wte.weight"), "tensor 'wte.weight' is missing"),
    "layer missing": (lambda w: [w.pop(k) for k in list(w) if k.startswith("h.1.")], "Missing key.*blocks.1.ln_1.weight.*Unexpected key.*blocks.2"),
    "extra": (lambda w: w.update({"h.0.attn.q_norm.weight": torch.ones(4)}), "Unexpected key.*q_norm"),
    "not transposed": (lambda w: w.update({"h.0.attn.c_attn.weight": w["h.0.attn.c_attn.weight"].T.contiguous()}), "size mismatch for blocks.0.attn.c_attn.weight"),
    "flat wte": (lambda w: w.update({"wte.weight": torch.zeros(97)}), "model.safetensors: "),
    "a width without heads": (lambda w: w.update({"wte.weight": torch.zeros(97, 48)}), "n_head must be a positive integer, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_odd_files_name_the_tensor(tmp_path, case):
    damage, message = BAD_FILES[case]
    weights = released(tiny())
    damage(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message) as e:
        load_released(tmp_path)
    assert "\n" not in str(e.value) and str(tmp_path) in str(e.value)


@pytest.mark.parametrize("content", [None, b"", b"<html>404</html>", 0.5])
def test_broken_files(tmp_path, content):
    path = tmp_path / "model.safetensors"
    if content is not None:
        save_file(released(tiny()), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == 0.5 else content)
    with pytest.raises(UserError, match="cannot be read .*; download the file again"):
        load_released(tmp_path)


@pytest.mark.parametrize("other", [{"activation_function": "gelu"}, {"layer_norm_epsilon": 1e-6}, {"scale_attn_by_inverse_layer_idx": True}])
def test_variants_that_compute_something_else_are_refused(tmp_path, other):
    save_file(released(tiny()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=f"computes something else.*{next(iter(other))}"):
        load_released(tmp_path)


@pytest.mark.parametrize("bare", [False, True])
def test_it_equals_transformers(tmp_path, bare):
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=97, n_positions=24, n_embd=128, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    torch.manual_seed(0)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, 1.0 if p.ndim == 1 else 0.0, 0.1)
    (theirs.transformer if bare else theirs).save_pretrained(tmp_path)  # names without and with "transformer."
    ours, idx = load_released(tmp_path), tokens()
    with torch.no_grad():
        torch.testing.assert_close(ours(idx), theirs(idx).logits, atol=1e-5, rtol=0)
        loss = theirs(idx, labels=idx).loss  # which shifts the labels itself
    torch.testing.assert_close(ours(idx[:, :-1], idx[:, 1:]), loss, atol=1e-5, rtol=0)
    assert sum(p.numel() for p in theirs.parameters()) == ours.num_params()["total"]


# ---- the cache


def test_positions_of_a_cache_are_those_of_the_text():
    """They end at 24 tokens of text, however many columns of filler there are. What is computed with one: test_model.py."""
    model, cache = tiny(), Cache(torch.tensor([9, 9]))
    assert model(tokens(T=30), cache=cache).shape == (2, 30, 97)
    for _ in range(3):
        model(tokens(T=1), cache=cache)
    with pytest.raises(UserError, match="positions for 24 tokens, got 25"):
        model(tokens(T=1), cache=cache)
