"""The cross-entropy in pieces against the plain one: the same losses and gradients in less memory. Its Triton step: tests/fast/test_kernels.py."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from gpt2course import losses
from gpt2course.losses import cross_entropy, cross_entropy_plain

CAPS = (0.0, 2.0, 15.0, 60.0)
SHAPES = dict(N=st.integers(0, 40), V=st.integers(2, 70), D=st.integers(1, 9), cap=st.sampled_from(CAPS), ignored=st.sampled_from((0.0, 0.3, 1.0)), seed=st.integers(0, 99))


def inputs(N, V, D, ignored=0.2, seed=0, dtype=torch.float64):
    """x, weight and targets with logits of a few units."""
    g = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(n, D, generator=g, dtype=torch.float64) * 3 / D**0.25 for n in (N, V))
    targets = torch.randint(0, V, (N,), generator=g).masked_fill(torch.rand(N, generator=g) < ignored, -1)
    return x.to(dtype), w.to(dtype), targets


def with_gradients(f, x, w, *args, factor=1.0, **kwargs):
    """(loss, gradient by x, gradient by w), the loss multiplied by a factor before backward."""
    x, w = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    loss = f(x, w, *args, **kwargs)
    (loss * factor).backward()
    return loss.detach(), x.grad, w.grad


@settings(deadline=None, max_examples=60)
@given(**SHAPES, chunk=st.integers(1, 45), block=st.integers(1, 300), reduction=st.sampled_from(("mean", "sum")))
def test_loss_and_gradients_are_the_plain_ones(N, V, D, cap, ignored, seed, chunk, block, reduction):
    x, w, targets = inputs(N, V, D, ignored, seed)
    kept, losses.BLOCK["cpu"] = losses.BLOCK["cpu"], block  # small, so that a piece has several blocks
    try:
        got = with_gradients(cross_entropy, x, w, targets, cap, reduction, chunk=chunk, factor=-0.7)
        each = cross_entropy(x, w, targets, cap, "none", chunk=chunk)
    finally:
        losses.BLOCK["cpu"] = kept
    torch.testing.assert_close(each, cross_entropy_plain(x, w, targets, cap, "none"), atol=1e-12, rtol=1e-12)
    if (targets < 0).all():  # the plain mean is 0 / 0
        assert not any(g.any() for g in got)
        return
    for a, b in zip(got, with_gradients(cross_entropy_plain, x, w, targets, cap, reduction, factor=-0.7)):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_the_plain_one_is_torchs_on_softcapped_logits():
    x, w, targets = inputs(11, 20, 5)
    z = x @ w.T
    for cap, logits in ((0.0, z), (15.0, 15 * torch.tanh(z / 15))):
        torch.testing.assert_close(cross_entropy(x, w, targets, cap), F.cross_entropy(logits, targets, ignore_index=-1), atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("cap", (0.0, 15.0))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_rounding_is_no_worse_than_in_the_plain_loss(dtype, cap):
    """Against float64 on the same numbers: at most a tenth more than the error of the plain loss, in bfloat16 with its weight in float32."""
    x, w, targets = inputs(200, 1000, 32, dtype=dtype)
    w = w.float()
    want = with_gradients(cross_entropy_plain, x.double(), w.double(), targets, cap)
    plain, ours = (with_gradients(f, x, w, targets, cap) for f in (cross_entropy_plain, cross_entropy))
    for a, b, c in zip(plain[1:], ours[1:], want[1:]):
        assert b.dtype == a.dtype and (b - c).norm() <= 1.1 * (a - c).norm() + 1e-7 * c.norm()
    assert abs(ours[0] - want[0]) < (2e-6 if dtype == torch.float32 else 1e-3) * want[0]


@pytest.mark.parametrize("cap", (0.0, 15.0, 1000.0))
def test_very_large_logits_stay_finite(cap):
    x, w, targets = inputs(9, 12, 4, dtype=torch.float32)
    got, want = (with_gradients(f, 100 * x, 100 * w, targets, cap) for f in (cross_entropy, cross_entropy_plain))
    for a, b in zip(got, want):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_not_a_number_is_seen():
    x, w, targets = inputs(6, 9, 3, ignored=0)
    x[2, 1] = torch.nan
    assert cross_entropy(x, w, targets, 15.0).isnan() and cross_entropy(x, w, targets, 0.0, "none").isnan().nonzero().tolist() == [[2]]


MEMORY = """
import resource, sys, torch
from gpt2course import losses
x, w = torch.randn(2048, 8, requires_grad=True), torch.randn(32768, 8, requires_grad=True)
targets = torch.randint(0, 32768, (2048,))
losses.cross_entropy(x[:64], w, targets[:64], 15.0).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
losses.cross_entropy(x, w, targets, 15.0).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


def test_the_memory_of_a_process():
    """The logits of the whole batch are 256 MB, and the plain loss needs several times that. Ours needs a piece of 32 MB and small blocks."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 96e6


def test_without_gradients_none_is_computed(monkeypatch):
    asked = []
    monkeypatch.setitem(losses._steps, "cpu", lambda *a: asked.append(a[-1]) or losses.losses_and_gradient_(*a))
    x, w, targets = inputs(6, 9, 3)
    want = cross_entropy(x, w, targets, 15.0)  # neither is a parameter
    x, w = x.requires_grad_(), w.requires_grad_()
    with torch.no_grad():
        assert cross_entropy(x, w, targets, 15.0) == want
    each = cross_entropy(x, w, targets, 15.0, "none")
    assert asked == [False] * 3 and not each.requires_grad
    total = cross_entropy(x, w.detach(), targets, 15.0)
    total.backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(cross_entropy_plain(x, w, targets, 15.0), x)[0])
    assert asked[3:] == [True] and total == want and w.grad is None
    with pytest.raises(ValueError, match="reduction 'avg'"):
        cross_entropy(x, w, targets, reduction="avg")


@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
def test_one_graph_under_compile(backend):
    """One opaque node whatever the number of pieces, compiled once, with the same numbers."""
    counter = CompileCounterWithBackend(backend)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, w, t: cross_entropy(x * 2, w, t, 15.0, chunk=4), backend=counter, fullgraph=True, dynamic=False)
    for seed in range(3):
        x, w, targets = inputs(30, 9, 3, seed=seed)
        for a, b in zip(with_gradients(compiled, x, w, targets), with_gradients(lambda x, w, t: cross_entropy(x * 2, w, t, 15.0, chunk=4), x, w, targets)):
            assert torch.equal(a, b)
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("gradient", (True, False))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_the_operator_returns_what_its_fake_promises(gradient, dtype):
    x, w, targets = inputs(7, 9, 3)
    args = (x.to(dtype), w.float(), targets, torch.ones(()), 15.0, 4, gradient)
    torch.library.opcheck(losses._cross_entropy, args, test_utils=("test_schema", "test_faketensor"))
    found, dx, dw = losses._cross_entropy(*args)
    assert (found.dtype, dx.dtype, dw.dtype) == (torch.float32, dtype, torch.float32)
    assert dx.numel() == gradient * x.numel() and dw.numel() == gradient * w.numel()
