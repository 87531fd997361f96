"""Attention against its definition, the window's edge, the installed kernel, and the cache."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import attention as attention_module
from gpt2course.attention import FULL, Cache, attention, install, sdpa, window_mask
from gpt2course.fast import kernels


@pytest.fixture(autouse=True)
def no_kernel_installed(monkeypatch):
    monkeypatch.setattr(attention_module, "_kernels", {})


def tensors(T, B=2, H=4, Hkv=4, D=6, T_q=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, n, h, D, generator=g, dtype=torch.float64) for n, h in ((T_q or T, H), (T, Hkv), (T, Hkv))]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 9), st.integers(-1, 12), st.sampled_from([4, 2, 1]), st.none() | st.tuples(*[st.integers(0, 17)] * 2))
def test_attention_is_its_definition(T, past, left, Hkv, filler):
    """Against a loop over the visible keys, also when the queries are the last T of many keys.

    No text sees the filler before it. The filler itself gets numbers too, not NaN.
    """
    H, D = 4, 6
    q, k, v = tensors(T + past, Hkv=Hkv, T_q=T, seed=T * 1000 + past * 100 + left + 1)
    filler = filler and [min(n, T + past - 1) for n in filler]  # the last token is always text
    got = attention(q, k, v, (left, 0), filler and torch.tensor(filler))
    for row, t, h in itertools.product(range(2), range(T), range(H)):
        position, g = past + t, h * Hkv // H
        if filler and position < filler[row]:  # filler sees itself alone
            want = v[row, position, g]
        else:
            first = max(0, filler[row] if filler else 0, 0 if left < 0 else position - left)
            weights = torch.softmax(k[row, first : position + 1, g] @ q[row, t, h] / math.sqrt(D), dim=-1)
            want = weights @ v[row, first : position + 1, g]
        torch.testing.assert_close(got[row, t, h], want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kernel", [sdpa, kernels.blocked])
def test_torch_compile_keeps_the_masks(kernel, monkeypatch):
    """One graph, which computes no mask; lru_cache is ignored by Dynamo."""
    monkeypatch.setattr(kernels, "WORTH", 0)
    q, k, v = (x.float() for x in tensors(140))
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda *x: kernel(*x, 5) + kernel(*x, 5), backend=backend, dynamic=False)
    for _ in range(2):
        assert torch.equal(compiled(q, k, v), 2 * kernel(q, k, v, 5))
    (graph,) = graphs
    text = graph.print_readable(print_output=False)
    assert "arange" not in text and "masked_fill" not in text


def test_extreme_scores():
    q, k, v = tensors(12)
    assert attention(1e4 * q, 1e4 * k, v, (5, 0)).isfinite().all()


def test_it_looks_back_only():
    x = torch.zeros(1, 4, 1, 2)
    with pytest.raises(ValueError, match="causal"):
        attention(x, x, x, (3, 1))


def test_the_mask_is_built_once():
    assert window_mask(8, 8, 3, torch.device("cpu")) is window_mask(8, 8, 3, torch.device("cpu"))


def test_the_installed_kernel_gets_whole_sequences_of_its_device_only():
    seen = []
    install("cpu", lambda q, k, v, left: seen.append(left) or sdpa(q, k, v, left))
    install("cuda", None)  # would fail if it were called
    q, k, v = tensors(30)
    for W, left in ((7, 7), (28, 28), (29, -1), (40, -1), (-1, -1)):  # a window that hides nothing is the whole past
        assert torch.equal(attention(q, k, v, (W, 0)), sdpa(q, k, v, left)) and seen.pop() == left
    pad = torch.tensor([0, 3])
    assert torch.equal(attention(q, k, v, FULL, pad), sdpa(q, k, v, -1, pad))
    assert torch.equal(attention(q[:, 26:], k, v, (7, 0)), sdpa(q[:, 26:], k, v, 7))
    assert not seen


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(-1, 12), st.none() | st.tuples(*[st.integers(0, 5)] * 2), st.sampled_from([4, 2]))
def test_reading_in_parts_equals_reading_all(parts, W, pad, Hkv):
    """Also with filler, which fits into the first part. A short window keeps W keys and no more. Rows that leave: test_model.py."""
    T = sum(parts)
    q, k, v = tensors(T, Hkv=Hkv, seed=T)
    pad = pad and torch.tensor([min(n, parts[0] - 1) for n in pad])
    cache, got, start = Cache(pad), [], 0
    for n in parts:
        positions = cache.advance(n)
        assert (positions == (torch.arange(start, start + n) if pad is None else (torch.arange(start, start + n) - pad[:, None]).clamp(0))).all()
        got.append(cache.attend("layer", *(x[:, start : start + n] for x in (q, k, v)), (W, 0)))
        start += n
        assert cache.past["layer"][0].size(1) == (start if W < 0 else min(start, W))
    torch.testing.assert_close(torch.cat(got, dim=1), attention(q, k, v, (W, 0), pad), atol=1e-12, rtol=1e-12)
