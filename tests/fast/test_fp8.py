"""fp8 linears on the CPU, whose torch multiplies in fp8 too: against an emulation in float64, and against the linears that they stand for."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from gpt2course import checkpoint
from gpt2course.fast import fp8
from gpt2course.files import UserError
from gpt2course.model import GPT, GPTConfig, Linear

FORMATS = {fp8.E4M3: (3, -6, 448.0), fp8.E5M2: (2, -14, 57344.0)}  # bits of mantissa, exponent of the smallest normal number, largest


def tiny(dtype=torch.bfloat16, seed=0, **changes):
    """A model of two layers of width 128, every matrix random, so that every gradient is there."""
    config = dict(vocab_size=64, sequence_len=32, n_layer=2, n_embd=128, n_head=2, n_kv_head=2, value_embeds=True, ve_gate_channels=16, smear=True, smear_channels=16)
    model = GPT(GPTConfig(**config | changes), compute_dtype=dtype).init_weights(seed)
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.c_proj.weight, 0, 0.05)
        torch.nn.init.normal_(block.mlp.c_proj.weight, 0, 0.05)
    torch.nn.init.normal_(model.lm_head.weight, 0, 0.1)
    torch.nn.init.constant_(model.smear_lambda, 0.5)
    return model


def batch(seed=0, T=32):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 64, (2, T), generator=g), torch.randint(0, 64, (2, T), generator=g)


def gradients(model, *args):
    model.zero_grad()
    loss = model(*args)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


def emulated(x, dtype):
    """x in float64 as an 8-bit float with a power-of-two scale would hold it, by arithmetic alone."""
    mantissa, smallest, largest = FORMATS[dtype]
    x = x.double().numpy()
    scale = 2.0 ** np.floor(np.log2(largest / max(np.abs(x).max(), 1e-12)))
    y = x * scale
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(y), 1e-300))), smallest)
    step = 2.0 ** (exponent - mantissa)
    return torch.from_numpy(np.clip(np.rint(y / step) * step, -largest, largest) / scale)  # rint: half to even, as the formats


def linear(K, N, seed=0, std=0.1, dw_in_fp8=True, delayed=False):
    """A converted linear layer (K -> N), with what convert returned."""
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList([Linear(K, N)])
    torch.nn.init.normal_(model.blocks[0].weight, 0, std, generator=torch.Generator().manual_seed(seed))
    return model.blocks[0], fp8.convert(model, delayed, dw_in_fp8)


@settings(deadline=None, max_examples=25)
@given(M=st.integers(1, 5), K=st.integers(8, 12), N=st.integers(8, 12), x_size=st.integers(-7, 5), g_size=st.integers(-9, 5), seed=st.integers(0, 99), dw=st.booleans())
def test_all_three_products_are_those_of_the_rounded_numbers(M, K, N, x_size, g_size, seed, dw):
    """In float32: what fp8 does beside the float64 emulation is only to sum in float32. Whatever the magnitude."""
    layer, _ = linear(16 * K, 16 * N, seed, dw_in_fp8=dw)
    g = torch.Generator().manual_seed(seed)
    x, grad = torch.randn(16 * M, 16 * K, generator=g) * 10.0**x_size, torch.randn(16 * M, 16 * N, generator=g) * 10.0**g_size
    y = layer(x.requires_grad_())
    y.backward(grad)
    x8, w8, g8 = emulated(x.detach(), fp8.E4M3), emulated(layer.weight.detach(), fp8.E4M3), emulated(grad, fp8.E5M2)
    left, right = (g8, x8) if dw else (grad.double(), x.detach().double())
    for got, a, b in ((y.detach(), x8, w8.T), (x.grad, g8, w8), (layer.weight.grad, left.T, right)):
        assert ((got.double() - a @ b).abs() <= 1e-5 * (a.abs() @ b.abs())).all() and got.any()


@pytest.mark.parametrize("dw,worst", [(True, 0.09), (False, 1e-6)])
def test_the_error_is_what_fp8_must_have(dw, worst):
    """4 significant bits round by 2^-4 / sqrt(12) or so: a few per cent of a product's norm, neither more nor nothing; e5m2 has one bit less."""
    layer, _ = linear(256, 384, dw_in_fp8=dw)
    x, grad = torch.randn(512, 256), torch.randn(512, 384)
    y = layer(x.requires_grad_())
    y.backward(grad)
    for got, want, low, high in ((y, x @ layer.weight.T, 0.02, 0.06), (x.grad, grad @ layer.weight, 0.04, 0.09), (layer.weight.grad, grad.T @ x, 0.04 * dw, worst)):
        assert low <= (got - want).norm() / want.norm() <= high
        assert abs((got * want).sum() / want.square().sum() - 1) < 0.01  # unbiased


@pytest.mark.parametrize("delayed", (False, True))
@pytest.mark.parametrize("dw", (True, False))
def test_gradients_of_a_model_point_the_same_way(delayed, dw):
    model = tiny()
    loss, want = gradients(model, *batch())
    eight = fp8.convert(model, delayed, dw)
    if delayed:
        assert np.isnan(gradients(model, *batch())[0])  # no scale yet, and loudly so
        with eight.calibrate():
            gradients(model, *batch())
    got_loss, got = gradients(model, *batch())
    assert 0 < abs(got_loss - loss) < 0.02 * loss
    for name, g in want.items():
        assert g.numel() == 1 or torch.cosine_similarity(g.flatten().float(), got[name].flatten().float(), 0) > 0.95, name


def test_which_layers_are_converted():
    model = tiny()
    names, parameters, keys = list(dict(model.named_modules())), dict(model.named_parameters()), set(model.state_dict())
    eight = fp8.convert(model)
    layers = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert set(eight.linears) == {f"blocks.{i}.{name}" for i in (0, 1) for name in layers}
    assert eight.describe() == {"layers": 12, "scaling": "dynamic", "dw": "fp8"}
    after = dict(model.named_parameters())
    assert list(dict(model.named_modules())) == names and set(model.state_dict()) == keys and all(after[n] is p for n, p in parameters.items())
    small = tiny(n_embd=144, n_head=2, n_kv_head=1)  # k and v have 72 outputs, below 128
    assert {name.split(".")[-1] for name in fp8.convert(small).linears} == {"c_q", "c_proj", "c_fc"}
    assert not fp8.fits(torch.nn.Linear(128, 128)) and not fp8.fits(Linear(128, 136)) and not fp8.fits(Linear(112, 256)) and fp8.fits(Linear(128, 144))


def test_a_checkpoint_is_that_of_the_plain_model(tmp_path):
    model = tiny()
    eight = fp8.convert(model, delayed=True)
    with eight.calibrate():
        gradients(model, *batch())
    folder = checkpoint.save(tmp_path, 1, model, {}, {})
    plain = tiny(seed=1)
    checkpoint.load(folder, plain)
    with eight.off():
        assert torch.equal(plain(*batch()), model(*batch()))
    other = tiny(seed=2)
    again = fp8.convert(other)
    checkpoint.load(folder, other)
    with pytest.raises(RuntimeError, match="refresh"):  # its weights were cast before
        other(*batch())
    again.refresh()
    dynamic = fp8.convert(plain)
    assert torch.equal(other(*batch()), plain(*batch())) and dynamic.linears


def test_off_is_the_plain_model_and_ends():
    model = tiny()
    want, (x, y) = gradients(model, *batch()), batch()
    eight = fp8.convert(model)
    on = model(x, y).item()
    with eight.off():
        got = gradients(model, x, y)
    assert got[0] == want[0] != on and all(torch.equal(got[1][n], g) for n, g in want[1].items())
    with pytest.raises(ZeroDivisionError), eight.off():
        raise ZeroDivisionError
    assert model(x, y).item() == on


def test_weights_are_cast_once_a_step(monkeypatch):
    model = tiny()
    eight = fp8.convert(model)
    calls, original = [], fp8.cast
    monkeypatch.setattr(fp8, "cast", lambda x, *a: calls.append(isinstance(x, torch.nn.Parameter)) or original(x, *a))
    for _ in range(3):
        model(*batch()).backward()
    assert sum(calls) == 0 and len(calls) == 3 * 2 * 12  # x and g alone
    with torch.no_grad():
        model.blocks[0].mlp.c_fc.weight.mul_(3)
    with pytest.raises(RuntimeError, match="refresh"):
        model(*batch())
    eight.refresh()
    assert sum(calls) == 12
    assert torch.equal(model.blocks[0].mlp.c_fc.w8t, model.blocks[0].mlp.c_fc.w8.T) and model(*batch()).isfinite()


def test_zeros_infinities_and_what_is_not_a_number():
    layer, _ = linear(128, 128)
    x = torch.zeros(16, 128, requires_grad=True)
    layer(x).backward(torch.zeros(16, 128))
    assert not layer(x).any() and not x.grad.any() and not layer.weight.grad.any()
    for bad in (torch.nan, torch.inf):
        x = torch.ones(16, 128)
        x[3, 5] = bad
        assert layer(x)[3].isnan().all()
        layer.weight.grad = None
        layer(torch.ones(16, 128)).backward(x)
        assert layer.weight.grad[5].isnan().all()


def test_delayed_scales_cut_off_what_they_did_not_expect_and_then_follow():
    layer, eight = linear(128, 128, delayed=True)
    x = torch.rand(16, 128, generator=torch.Generator().manual_seed(0)) + 0.5

    def step(x):
        y = layer(x)
        y.backward(torch.ones_like(y))
        eight.refresh()
        return y.detach()

    with eight.calibrate():
        layer(x).backward(torch.ones(16, 128))

    def close(got, want):
        return (got - want).norm() < 0.05 * want.norm()

    want = step(x)
    assert close(step(x * 1.9), want * 1.9)  # within the margin of 2
    cut = step(x * 1000)
    assert cut.isfinite().all() and cut.norm() < 10 * want.norm()  # cut off
    assert close(step(x * 1000), want * 1000)  # the next step knows
    step(x * 1e6)
    lost = step(x)  # still scaled for what was a million times larger
    for _ in range(fp8.HISTORY):
        step(x)
    assert torch.equal(step(x), want) and not lost.any()  # forgotten after HISTORY steps
    x[0, 0] = torch.inf
    step(x)
    assert step(torch.ones(16, 128)).isnan().all()  # seen one step later


def test_a_layer_without_a_gradient_yet_takes_the_others_scale():
    """At the start the output projections are 0, and so is every gradient before them."""
    model = GPT(GPTConfig(vocab_size=64, sequence_len=32, n_layer=2, n_embd=128, n_head=2, n_kv_head=2), torch.bfloat16).init_weights(0)
    eight = fp8.convert(model, delayed=True)
    with eight.calibrate():
        gradients(model, *batch())
    scales = {name: m.g_scale.item() for name, m in eight.linears.items()}
    assert not model.blocks[0].mlp.c_fc.weight.grad.any() and scales["blocks.0.mlp.c_fc"] == min(scales.values()) < 1e9


@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
@pytest.mark.parametrize("delayed", (False, True))
def test_one_graph_under_compile(backend, delayed):
    """The same numbers as without, no graph break, nothing compiled again when weights and scales change or after an evaluation."""
    model = tiny(n_layer=1)
    model(*batch())  # makes the tables of RoPE, which a graph must find there
    eight = fp8.convert(model, delayed)
    plain, counter = copy.deepcopy(model), CompileCounterWithBackend(backend)
    reference = fp8.Float8({n: dict(plain.named_modules())[n] for n in eight.linears}, delayed)
    for m in reference.linears.values():
        m.cast_version = m.weight._version

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    if delayed:
        for m, e in ((model, eight), (plain, reference)):
            with e.calibrate():
                gradients(m, *batch())
    for seed in range(3):
        want, got = gradients(plain, *batch(seed)), gradients(compiled, *batch(seed))
        assert got[0] == want[0] and all(torch.equal(got[1][f"_orig_mod.{n}"], g) for n, g in want[1].items())
        for m, e in ((model, eight), (plain, reference)):
            with torch.no_grad():
                for p in m.parameters():
                    p.sub_(0.1 * p.grad)
            e.refresh()
        with eight.off(), torch.no_grad():
            model(*batch(), reduction="none")
    a, b = ([m.g_scale.item() for m in e.linears.values()] for e in (eight, reference))
    assert counter.frame_count == 1 and (a == b if delayed else True)
    torch._dynamo.reset()


def test_it_learns_as_without():
    """A batch by heart in 40 steps of plain gradient descent with momentum, within a few per cent of the bfloat16 model's loss."""
    final = []
    for convert in (False, True):
        model = tiny()
        eight = fp8.convert(model) if convert else None
        optimizer, (x, y) = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batch()
        for _ in range(40):
            optimizer.zero_grad()
            model(x, y).backward()
            optimizer.step()
            if eight:
                eight.refresh()
        with eight.off() if eight else torch.no_grad(), torch.no_grad():
            final.append(model(x, y).item())
    assert final[0] < 2.0 and abs(final[1] - final[0]) < 0.2, final


def test_errors_name_the_mend(monkeypatch):
    with pytest.raises(UserError, match="at least 128.*--fp8"):
        fp8.convert(GPT(GPTConfig(vocab_size=64, n_embd=64, n_head=2, n_kv_head=2, n_layer=1)).init_weights(0))
    layer, _ = linear(128, 128)
    with pytest.raises(ValueError, match="multiple of 16 tokens.*got 17"):
        layer(torch.ones(17, 128))

    def refuse(*args, **kwargs):
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9\nmore")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    with pytest.raises(UserError, match="on cpu with torch .*8.9\\); it needs a GPU .*Leave out --fp8"):
        fp8.convert(tiny())
    monkeypatch.delattr(torch, "_scaled_mm")
    with pytest.raises(UserError, match="_scaled_mm"):
        fp8.convert(tiny())
