"""The chunked cross-entropy and its Triton kernel against the plain one: same losses, same gradients, less memory.

The kernel runs in Triton's interpreter, and is compiled for three generations of GPUs without one. Where Triton is missing, these tests
fetch it into a folder of their own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2course import losses
from gpt2course.files import UserError
from gpt2course.losses import cross_entropy, cross_entropy_plain, loss_backend

CAPS = (0.0, 2.0, 15.0, 60.0)
SHAPES = dict(N=st.integers(1, 40), V=st.integers(2, 70), D=st.integers(1, 9), cap=st.sampled_from(CAPS), ignored=st.sampled_from((0.0, 0.3, 1.0)), seed=st.integers(0, 99))


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
    kept, losses.BLOCK["cpu"] = losses.BLOCK["cpu"], block  # so that few rows at a time are more than one
    try:
        got = with_gradients(cross_entropy, x, w, targets, cap, reduction, chunk=chunk, factor=-0.7)
        each = cross_entropy(x, w, targets, cap, "none", chunk=chunk)
    finally:
        losses.BLOCK["cpu"] = kept
    torch.testing.assert_close(each, cross_entropy_plain(x, w, targets, cap, "none"), atol=1e-12, rtol=1e-12)
    if (targets < 0).all():  # where the plain mean is 0 / 0
        assert not any(g.any() for g in got)
        return
    for a, b in zip(got, with_gradients(cross_entropy_plain, x, w, targets, cap, reduction, factor=-0.7)):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_the_plain_one_is_torchs_on_softcapped_logits():
    x, w, targets = inputs(11, 20, 5)
    z = x @ w.T
    for cap, logits in ((0.0, z), (15.0, 15 * torch.tanh(z / 15))):
        torch.testing.assert_close(cross_entropy(x, w, targets, cap), F.cross_entropy(logits, targets, ignore_index=-1), atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("cap", CAPS)
def test_the_gradients_belong_to_the_loss(cap):
    x, w, targets = inputs(5, 7, 3)
    assert torch.autograd.gradcheck(lambda a, b: cross_entropy(a, b, targets, cap, chunk=2), (x.requires_grad_(), w.requires_grad_()))


@pytest.mark.parametrize("cap", (0.0, 15.0))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_its_rounding_is_no_worse_than_the_plain_ones(dtype, cap):
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


def test_no_rows():
    loss, dx, dw = with_gradients(cross_entropy, *inputs(0, 5, 3), 15.0)
    assert loss == 0 and dx.shape == (0, 3) and not dw.any()


class Largest(TorchDispatchMode):
    """The most bytes of one tensor that an operation made anew."""

    bytes = 0

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **kwargs or {})
        old = {t.untyped_storage().data_ptr() for t in [*args, *(kwargs or {}).values()] if isinstance(t, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in old:
            self.bytes = max(self.bytes, out.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("cap", (0.0, 15.0))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_the_scratch_beside_a_piece_of_logits_is_small(monkeypatch, dtype, cap):
    monkeypatch.setitem(losses.BLOCK, "cpu", 3000)
    z, targets, out = torch.randn(64, 1000).to(dtype), torch.zeros(64, dtype=torch.long), torch.empty(64)
    with Largest() as seen:
        losses.losses_and_gradient_(z, targets, out, torch.ones(()), cap, True)
    assert seen.bytes == 3 * 1000 * 4 * torch.get_num_threads()


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


def python(*args, TRITON_AT="", **env):
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *filter(None, [TRITON_AT])])
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths} | env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_memory_of_a_process():
    """The logits of the whole batch are 256 MB, and the plain loss needs several times that; ours a piece of 32 MB and the scratch."""
    pytest.importorskip("resource")
    assert int(python("-c", MEMORY)) < 96e6


def test_nothing_is_computed_that_nobody_needs(monkeypatch):
    asked, original = [], losses.losses_and_gradient_
    monkeypatch.setattr(losses, "losses_and_gradient_", lambda *a: asked.append(a[-1]) or original(*a))
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
    dx, dw = losses._cross_entropy(x.detach(), w.detach(), targets, torch.ones((), dtype=x.dtype), 15.0, 4, False, True, "torch")[1:]
    assert dx.numel() == 0 and dw.shape == w.shape


@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
def test_one_graph_under_compile(backend):
    """Whatever the number of pieces: one opaque node, compiled once, the same numbers."""
    counter = CompileCounterWithBackend(backend)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, w, t: cross_entropy(x * 2, w, t, 15.0, chunk=4), backend=counter, fullgraph=True, dynamic=False)
    for seed in range(3):
        x, w, targets = inputs(30, 9, 3, seed=seed)
        for a, b in zip(with_gradients(compiled, x, w, targets), with_gradients(lambda x, w, t: cross_entropy(x * 2, w, t, 15.0, chunk=4), x, w, targets)):
            assert torch.equal(a, b)
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("needed", ((True, True), (False, True), (False, False)))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_the_operator_says_what_it_returns(needed, dtype):
    x, w, targets = inputs(7, 9, 3)
    args = (x.to(dtype), w.float(), targets, torch.ones(()), 15.0, 4, *needed, "torch")
    torch.library.opcheck(losses._cross_entropy, args, test_utils=("test_schema", "test_faketensor"))
    found, dx, dw = losses._cross_entropy(*args)
    assert (found.dtype, dx.dtype, dw.dtype) == (torch.float32, dtype, torch.float32)


def test_which_backend(monkeypatch):
    for there, wanted in ((True, "triton"), (False, "torch")):
        monkeypatch.setattr(losses, "HAS_TRITON", there)
        assert loss_backend("cuda", torch.bfloat16) == loss_backend("cuda", torch.float32) == wanted
        assert loss_backend("cpu", torch.float32) == loss_backend("mps", torch.float32) == loss_backend("cuda", torch.float64) == "torch"
        assert loss_backend("cuda", torch.bfloat16, "torch") == "torch"
    with pytest.raises(UserError, match="pip install triton"):
        loss_backend("cuda", torch.bfloat16, "triton")
    with pytest.raises(UserError, match="'cuda'.*auto, triton and torch"):
        cross_entropy(*inputs(3, 4, 2), backend="cuda")
    with pytest.raises(ValueError, match="reduction 'avg'"):
        cross_entropy(*inputs(3, 4, 2), reduction="avg")


# --- the Triton kernel ---


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    """Environment in which Triton can be imported: 200 MB, which the set-up of a machine without a GPU leaves out."""
    if losses.HAS_TRITON:
        return {}
    lock = (Path(__file__).parents[1] / "requirements-cuda.lock").read_text()
    folder = tmp_path_factory.mktemp("triton")
    (folder / "lock").write_text(re.search(r"(?m)^triton==.*(\n +--hash.*)+", lock)[0])
    got = subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder / "packages", "-r", folder / "lock"], capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f"Triton cannot be installed here: {got.stderr.strip().splitlines()[-1]}")
    return {"TRITON_AT": str(folder / "packages")}


def interpreted():
    """Run by itself, with TRITON_INTERPRET=1 set before Triton is imported."""
    from gpt2course.fast import triton_losses

    original = triton_losses.losses_and_gradient_

    @settings(deadline=None, max_examples=12, database=None)
    @given(**SHAPES, chunk=st.integers(1, 45), block=st.sampled_from((16, 64, 128)))
    def in_float32(N, V, D, cap, ignored, seed, chunk, block):
        triton_losses.losses_and_gradient_ = lambda *a: original(*a, block=block)
        x, w, targets = inputs(N, V, D, ignored, seed)
        torch.testing.assert_close(
            cross_entropy(x.float(), w.float(), targets, cap, "none", chunk, "triton").double(), cross_entropy_plain(x, w, targets, cap, "none"), atol=2e-5, rtol=1e-5)  # fmt: skip
        got = with_gradients(cross_entropy, x.float(), w.float(), targets, cap, "sum", chunk, "triton")
        for a, b in zip(got, with_gradients(cross_entropy_plain, x, w, targets, cap, "sum")):
            torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)

    in_float32()
    triton_losses.losses_and_gradient_ = original
    for cap in CAPS:
        x, w, targets = inputs(20, 100, 8, dtype=torch.bfloat16)
        want = with_gradients(cross_entropy_plain, x.double(), w.double(), targets, cap)
        errors = [[(a.double() - b).norm() for a, b in zip(with_gradients(cross_entropy, x, w.float(), targets, cap, backend=name), want)] for name in ("torch", "triton")]
        assert all(b <= 2 * a + 1e-6 for a, b in zip(*errors)), (cap, errors)  # the interpreter cuts bfloat16 where a GPU rounds
    z = torch.randn(3, 128)[:, :100]  # rows with a gap between them, whose numbers must stay
    gap, out, half = z._base, torch.empty(3), torch.tensor(0.5)
    after = gap[:, 100:].clone()
    original(z, torch.tensor([5, -1, 99]), out, half, 15.0, True)
    assert torch.equal(gap[:, 100:], after) and out[1] == 0 and not z[1].any() and -0.5 < z[0, 5] < 0 < z[0, 6]
    kept = torch.randn(2, 50)
    z = kept.clone()
    original(z, torch.tensor([1, 2]), out[:2], half, 0.0, False)
    assert torch.equal(z, kept)  # without a gradient nothing is written
    z[1, 3] = torch.nan
    original(z, torch.tensor([1, 2]), out[:2], half, 0.0, False)
    assert out[:2].isnan().tolist() == [False, True]
    print("interpreted")


@pytest.mark.slow
def test_the_triton_kernel_in_the_interpreter(triton):
    assert "interpreted" in python("-c", "import test_losses; test_losses.interpreted()", TRITON_INTERPRET="1", **triton)


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gpt2course.fast.triton_losses import _kernel
signature = dict(z_ptr="*bf16", row_stride="i32", target_ptr="*i64", loss_ptr="*fp32", share_ptr="*fp32", V="i32", cap="fp32", CAPPED="constexpr", RUNNING="constexpr", GRADIENT="constexpr", BLOCK="constexpr")
for generation, settings in ((80, (False, True, True)), (90, (True, False, True)), (100, (False, True, False))):
    source = ASTSource(fn=_kernel(), signature=signature, constexprs=dict(zip(("CAPPED", "RUNNING", "GRADIENT", "BLOCK"), (*settings, 4096))))
    print(len(compile(source, target=GPUTarget("cuda", generation, 32), options={"num_warps": 8}).asm["cubin"]) > 0)
"""


@pytest.mark.slow
def test_the_triton_kernel_compiles_for_gpus(tmp_path, triton):
    assert python("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0", **triton).split() == ["True"] * 3
