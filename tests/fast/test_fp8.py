"""fp8 linear layers on the CPU, where torch multiplies in fp8 too: against a float64 emulation and against plain linear layers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2course.fast import fp8
from gpt2course.files import UserError
from gpt2course.model import GPT, GPTConfig, Linear

FORMATS = {fp8.E4M3: (3, -6, 448.0), fp8.E5M2: (2, -14, 57344.0)}  # bits of mantissa, exponent of the smallest normal number, largest


def tiny(dtype=torch.bfloat16, seed=0, **changes):
    """One layer of width 128, every matrix random, so that no gradient is zero."""
    config = dict(vocab_size=64, sequence_len=16, n_layer=1, n_embd=128, n_head=2, n_kv_head=2)
    model = GPT(GPTConfig(**config | changes), compute_dtype=dtype).init_weights(seed)
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.c_proj.weight, 0, 0.05)
        torch.nn.init.normal_(block.mlp.c_proj.weight, 0, 0.05)
    torch.nn.init.normal_(model.lm_head.weight, 0, 0.1)
    return model


def batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 64, (1, 16), generator=g), torch.randint(0, 64, (1, 16), generator=g)


def gradients(model, *args):
    model.zero_grad()
    loss = model(*args)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


def emulated(x, dtype):
    """x in float64 as an 8-bit float with a power-of-two scale stores it, computed by arithmetic alone."""
    mantissa, smallest, largest = FORMATS[dtype]
    x = x.double().numpy()
    scale = 2.0 ** np.floor(np.log2(largest / max(np.abs(x).max(), 1e-12)))
    y = x * scale
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(y), 1e-300))), smallest)
    step = 2.0 ** (exponent - mantissa)
    return torch.from_numpy(np.clip(np.rint(y / step) * step, -largest, largest) / scale)  # rint: half to even, as in the formats


def linear(K, N, seed=0):
    """A converted linear layer (K -> N)."""
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList([Linear(K, N)])
    torch.nn.init.normal_(model.blocks[0].weight, 0, 0.1, generator=torch.Generator().manual_seed(seed))
    fp8.convert(model)
    return model.blocks[0]


@settings(deadline=None, max_examples=15)
@given(M=st.integers(1, 2), K=st.integers(8, 10), N=st.integers(8, 10), x_size=st.integers(-7, 5), g_size=st.integers(-9, 5), seed=st.integers(0, 99))
def test_all_three_products_are_those_of_the_rounded_numbers(M, K, N, x_size, g_size, seed):
    """In float32 the only difference from the float64 emulation is that sums are in float32. For every magnitude."""
    layer = linear(16 * K, 16 * N, seed)
    g = torch.Generator().manual_seed(seed)
    x, grad = torch.randn(16 * M, 16 * K, generator=g) * 10.0**x_size, torch.randn(16 * M, 16 * N, generator=g) * 10.0**g_size
    grad[-1] *= 2.0**-24  # a gradient may have such a range: e5m2 represents it, e4m3 would not
    y = layer(x.requires_grad_())
    y.backward(grad)
    x8, w8, g8 = emulated(x.detach(), fp8.E4M3), emulated(layer.weight.detach(), fp8.E4M3), emulated(grad, fp8.E5M2)
    for got, a, b in ((y.detach(), x8, w8.T), (x.grad, g8, w8), (layer.weight.grad, g8.T, x8)):
        assert ((got.double() - a @ b).abs() <= 1e-5 * (a.abs() @ b.abs())).all() and got.any()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20), st.sampled_from(list(FORMATS)))
def test_the_scale_is_the_largest_power_of_two_that_fits(values, dtype):
    x, top = torch.tensor(values), torch.finfo(dtype).max
    scale = fp8.scale_for(x, dtype).item()
    assert np.log2(scale) == round(np.log2(scale))
    largest = max(x.abs().max().item(), 1e-12)
    assert largest * scale <= top * (1 + 1e-6) and largest * scale * 2 > top * (1 - 1e-6)


def test_the_model_keeps_its_names_and_gradients_point_the_same_way():
    model = tiny()
    names, parameters, keys = list(dict(model.named_modules())), dict(model.named_parameters()), set(model.state_dict())
    loss, want = gradients(model, *batch())
    eight = fp8.convert(model)
    assert set(eight.linears) == {f"blocks.0.{n}" for n in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert list(dict(model.named_modules())) == names and set(model.state_dict()) == keys
    assert all(dict(model.named_parameters())[n] is p for n, p in parameters.items())
    on, got = gradients(model, *batch())
    assert 0 < abs(on - loss) < 0.02 * loss
    for name, g in want.items():
        assert torch.cosine_similarity(g.flatten().float(), got[name].flatten().float(), 0) > 0.95, name
    with pytest.raises(ZeroDivisionError), eight.off():
        off = gradients(model, *batch())
        raise ZeroDivisionError
    assert off[0] == loss and all(torch.equal(off[1][n], g) for n, g in want.items())
    assert model(*batch()).item() == on


def test_which_layers_fit():
    assert not fp8.fits(torch.nn.Linear(128, 128)) and not fp8.fits(Linear(128, 136)) and not fp8.fits(Linear(112, 256)) and fp8.fits(Linear(128, 144))
    small = tiny(n_embd=144, n_head=2, n_kv_head=1)  # k and v have 72 outputs, fewer than 128
    assert {name.split(".")[-1] for name in fp8.convert(small).linears} == {"c_q", "c_proj", "c_fc"}


def test_refresh_casts_all_weights_at_once_and_as_one_by_one():
    """Also zeros, infinity and NaN; the number of operators does not depend on the number of layers."""
    counts = []
    for n_layer in (1, 4):
        model = tiny(n_layer=n_layer)
        eight = fp8.convert(model)
        layers = list(eight.linears.values())
        with torch.no_grad():
            for i, fill in enumerate((0.0, torch.inf, torch.nan, 448.0, 1e-30)):
                layers[i].weight.fill_(0.1 * i)[3, 5] = fill
        with Count() as count:
            eight.refresh()
        counts.append(count.calls)
        for m in layers:
            scale = fp8.scale_for(m.weight, fp8.E4M3)
            w8 = fp8.cast(m.weight.detach(), scale, fp8.E4M3)
            torch.testing.assert_close(m.w_scale, scale, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(m.w8.view(torch.uint8), w8.view(torch.uint8)) and torch.equal(m.w8t.view(torch.uint8), w8.t().contiguous().view(torch.uint8))
    assert counts[1] - counts[0] <= 18  # the views w8.t() of 18 more layers: no work


class Count(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_weights_are_cast_at_refresh_only(monkeypatch):
    model = tiny()
    fp8.convert(model)
    calls, original = [], fp8.cast
    monkeypatch.setattr(fp8, "cast", lambda x, *a: calls.append(isinstance(x, torch.nn.Parameter)) or original(x, *a))
    model(*batch()).backward()
    assert sum(calls) == 0 and len(calls) == 2 * 6  # x and g alone
    with torch.no_grad():
        model.blocks[0].mlp.c_fc.weight.mul_(3)
    with pytest.raises(RuntimeError, match="refresh"):
        model(*batch())


def test_zeros_infinities_and_nan():
    layer = linear(128, 128)
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


def test_one_graph_under_compile():
    """The same numbers as without, no graph break, and nothing is compiled again when weights change or after an evaluation."""
    model, plain = tiny(), tiny()
    plain.load_state_dict(model.state_dict())
    model(*batch())  # makes the tables of RoPE before the graph needs them
    sides = [(model, fp8.convert(model)), (plain, fp8.convert(plain))]
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    for seed in range(2):
        want, got = gradients(plain, *batch(seed)), gradients(compiled, *batch(seed))
        assert got[0] == want[0] and all(torch.equal(got[1][f"_orig_mod.{n}"], g) for n, g in want[1].items())
        for m, eight in sides:
            with torch.no_grad():
                for p in m.parameters():
                    p.sub_(0.1 * p.grad)
            eight.refresh()
            with eight.off(), torch.no_grad():
                m(*batch(), reduction="none")
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(UserError, match="at least 128.*--fp8"):
        fp8.convert(tiny(n_embd=64))
    with pytest.raises(ValueError, match="multiple of 16 tokens.*got 17"):
        linear(128, 128)(torch.ones(17, 128))

    def refuse(*args, **kwargs):
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9\nmore")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    with pytest.raises(UserError, match="on cpu with torch .*8.9\\); it needs a GPU .*Leave out --fp8"):
        fp8.convert(tiny())
