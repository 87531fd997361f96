"""The faster kernels against the reference, our wrappers around packages that this machine does not have, and the choice.

Triton's kernel of the loss runs in Triton's interpreter, and is compiled for three generations of GPUs without one. If Triton is
missing, the slow tests install it into a folder of their own.
"""

import importlib.machinery
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import attention as attention_module
from gpt2course import losses
from gpt2course.attention import attention, sdpa
from gpt2course.fast import kernels, triton_losses
from gpt2course.fast.kernels import choose, choose_loss
from gpt2course.files import UserError
from gpt2course.losses import cross_entropy, cross_entropy_plain

HALF = torch.bfloat16
PACKAGES = ("varlen", "fa3", "fa4")


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setattr(attention_module, "_kernels", {})
    monkeypatch.setattr(losses, "_steps", {})
    monkeypatch.setattr(kernels, "WORTH", -(2**62))  # blocks, however little they save


def tensors(T, B=2, H=4, Hkv=4, D=16, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, T, h, D, generator=g, dtype=torch.float64).to(dtype) for h in (H, Hkv, Hkv, H)]


def with_gradients(f, q, k, v, dy):
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    y = f(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


def close(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * max(1, b.abs().max())  # gradients of a single key are 0


# ---- blocked


@settings(max_examples=60, deadline=None)
@given(T=st.integers(1, 300), W=st.integers(-1, 310), B=st.integers(1, 3), Hkv=st.sampled_from([1, 2, 4]), D=st.sampled_from([2, 7, 16]), seed=st.integers(0, 99))
def test_blocked_equals_the_reference(T, W, B, Hkv, D, seed):
    q, k, v, dy = tensors(T, B, 4, Hkv, D, seed=seed)
    close(with_gradients(lambda *x: kernels.blocked(*x, W), q, k, v, dy), with_gradients(lambda *x: sdpa(*x, W), q, k, v, dy), 1e-11)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 2e-6), (torch.bfloat16, 0.015)])
def test_blocked_in_other_precisions(dtype, tolerance):
    q, k, v, dy = tensors(150, dtype=dtype)
    got = with_gradients(lambda *x: kernels.blocked(*x, 40), q, k, v, dy)
    assert {x.dtype for x in got} == {dtype}
    close([x.double() for x in got], with_gradients(lambda *x: sdpa(*x, 40), *(x.double() for x in (q, k, v, dy))), tolerance)


def test_blocked_never_reads_what_the_mask_hides():
    q, k, v, _ = tensors(300)
    k[:, :100] = v[:, :100] = torch.nan  # a key that is read makes its query NaN
    assert sdpa(q, k, v, 70)[:, 256:].isnan().all()
    assert kernels.blocked(q, k, v, 70)[:, 256:].isfinite().all()
    W = kernels.BLOCK  # its last block may read W + BLOCK keys, and no more
    k[:, : 300 - 300 % kernels.BLOCK - W] = torch.nan
    assert kernels.blocked(q, k, v, W)[:, 300 - 300 % kernels.BLOCK :].isfinite().all()


@pytest.mark.parametrize("B,T,W,blocks", [(4, 256, 64, True), (4, 256, 128, True), (4, 256, -1, False), (1, 256, 128, False), (4, 64, 16, False)])
def test_blocked_leaves_to_sdpa_what_saves_too_little(monkeypatch, B, T, W, blocks):
    monkeypatch.setattr(kernels, "WORTH", 2**22)
    taken = []
    monkeypatch.setattr(kernels, "sdpa", lambda q, k, v, left: taken.append(left) or q)
    q = torch.zeros(B, T, 2, 64)
    kernels.blocked(q, q, q, W)
    assert (not taken) == blocks


# ---- packages that this machine does not have: fakes that follow each library's documented convention


def package(monkeypatch, name, **members):
    """A package as if it were installed; missing parents of a dotted name are made."""
    parts = name.split(".")
    for n in range(1, len(parts) + 1):
        if n < len(parts) and ".".join(parts[:n]) in sys.modules:
            continue
        module = types.ModuleType(".".join(parts[:n]))
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, module.__name__, module)
        if n > 1:
            monkeypatch.setattr(sys.modules[".".join(parts[: n - 1])], parts[n - 1], module, raising=False)
    for key, value in members.items():
        setattr(module, key, value)


def by_hand(q, k, v, left, right, dy=None):
    """(y, log of the softmax denominator (B, H, T)), or with dy the gradients, from the definition; None: all of that side."""
    (B, T, H, D), Hkv = q.shape, k.size(2)
    k, v = (x.repeat_interleave(H // Hkv, 2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / D**0.5
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    hidden = torch.zeros(T, T, dtype=torch.bool)
    hidden = hidden | (j < i - left) if left is not None else hidden
    hidden = hidden | (j > i + right) if right is not None else hidden
    p = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    if dy is None:
        return torch.einsum("bhij,bjhd->bihd", p, v), scores.masked_fill(hidden, -torch.inf).logsumexp(-1)
    dp = torch.einsum("bihd,bjhd->bhij", dy, v)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / D**0.5
    dk, dv = torch.einsum("bhij,bihd->bjhd", ds, q), torch.einsum("bhij,bihd->bjhd", p, dy)
    return torch.einsum("bhij,bjhd->bihd", ds, k), *(x.view(B, T, Hkv, H // Hkv, D).sum(3) for x in (dk, dv))


@pytest.fixture
def calls():
    return []


@pytest.fixture
def fake_fa4(monkeypatch, calls):
    """flash_attn.cute.interface of flash-attn-4 4.0.0b36: returns a tuple; None is all of a side; (-1, 0) would be an empty window."""

    def flash_attn_func(q, k, v, *, causal=False, window_size=(None, None), return_lse=False):
        calls.append(window_size)
        y, lse = by_hand(q, k, v, window_size[0], 0 if causal else window_size[1])
        return y, (lse.float() if return_lse else None)

    def _flash_attn_bwd(*, q, k, v, out, dout, lse, causal=False, window_size_left=None, window_size_right=None):
        assert lse.dtype == torch.float32 and lse.shape == (q.size(0), q.size(2), q.size(1)) and dout.stride(-1) == 1 and causal
        assert torch.allclose(out, by_hand(q, k, v, window_size_left, 0)[0], atol=1e-5)
        calls.append((window_size_left, window_size_right))
        return (*by_hand(q, k, v, window_size_left, 0, dout), None)

    package(monkeypatch, "flash_attn.cute.interface", flash_attn_func=flash_attn_func, _flash_attn_bwd=_flash_attn_bwd)


def flash_attn_func(calls, with_lse=False):
    """FlashAttention 3: -1 is all of a side."""

    def function(q, k, v, *, causal=False, window_size=(-1, -1)):
        calls.append(window_size)
        y = by_hand(q, k, v, None if window_size[0] < 0 else window_size[0], 0 if causal else None)
        return y if with_lse else y[0]

    return function


def varlen_attn(calls):
    """torch.nn.attention.varlen.varlen_attn: rows laid end to end; (-1, 0) is causal."""

    def function(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
        calls.append(window_size)
        assert query.size(1) == key.size(1)
        assert cu_seq_q.dtype == torch.int32 and (cu_seq_q.diff() == max_q).all() and cu_seq_q[-1] == len(query) == len(key) and cu_seq_k is cu_seq_q
        rows = zip(*(x.split(cu_seq_q.diff().tolist()) for x in (query, key, value)), strict=True)
        left = None if window_size[0] < 0 else window_size[0]
        return torch.cat([by_hand(*(x[None] for x in row), left, window_size[1])[0][0] for row in rows])

    return function


@pytest.mark.parametrize("name", ["varlen", "fa3", "fa3, older", "fa4"])
def test_a_library_gets_the_window_in_its_own_convention(name, monkeypatch, calls, fake_fa4):
    package(monkeypatch, "torch.nn.attention.varlen", varlen_attn=varlen_attn(calls))
    package(monkeypatch, "flash_attn_interface", flash_attn_func=flash_attn_func(calls, with_lse=name == "fa3, older"))
    attention_module.install("cpu", kernels.LOAD[name.split(",")[0]]())
    everything = (None, 0) if name == "fa4" else (-1, 0)
    for W, window in ((-1, everything), (0, (0, 0)), (7, (7, 0)), (33, (33, 0)), (34, everything)):
        q, k, v, dy = tensors(35, Hkv=2)
        dy = dy if W else dy[:1, :1, :1, :1].expand_as(dy)  # the gradient of a sum is one number with strides 0
        calls.clear()
        got = with_gradients(lambda *x: attention(*x, (W, 0)), q, k, v, dy)  # noqa: B023
        close(got, with_gradients(lambda *x: sdpa(*x, W), q, k, v, dy), 1e-6 if name == "fa4" else 1e-12)  # noqa: B023
        assert calls and set(calls) == {window}


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .functools.lru_cache")
@pytest.mark.parametrize("name", ["sdpa", "blocked", "fa4"])
def test_a_compiled_model_is_one_graph(name, fake_fa4):
    attention_module.install("cpu", kernels.LOAD[name]())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def two_layers(q, k, v):
        return attention(attention(q, k, v, (7, 0)), k, v)

    compiled = torch.compile(two_layers, fullgraph=True, backend="aot_eager", dynamic=False)
    for seed in range(2):
        q, k, v, dy = tensors(90, Hkv=2, seed=seed)
        close(with_gradients(compiled, q, k, v, dy), with_gradients(lambda q, k, v: sdpa(sdpa(q, k, v, 7), k, v, -1), q, k, v, dy), 1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_fa3_comes_at_a_pinned_commit(monkeypatch, calls):
    asked = []

    def get_kernel(repo_id, *, revision=None, trust_remote_code=False):
        asked.append((repo_id, revision, trust_remote_code))
        return types.SimpleNamespace(flash_attn_interface=types.SimpleNamespace(flash_attn_func=flash_attn_func(calls)))

    package(monkeypatch, "kernels", get_kernel=get_kernel)
    kernel, (repo, commit) = kernels.load_fa3(), kernels.FA3_BUILD
    assert asked == [(repo, commit, [repo])] and len(commit) == 40
    q, k, v, dy = tensors(35, Hkv=2)
    close(with_gradients(lambda *x: kernel(*x, 7), q, k, v, dy), with_gradients(lambda *x: sdpa(*x, 7), q, k, v, dy), 1e-12)


# ---- the choice


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU of some capability and some packages."""

    def make(capability, *there, hip=None):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(kernels, "deviation", lambda *_: 0.0)
        for name in PACKAGES:
            monkeypatch.setitem(kernels.LOAD, name, lambda name=name: (lambda *a: name) if name in there else importlib.import_module(f"no_{name}"))

    return make


@pytest.mark.parametrize(
    "capability,there,dtype,wanted",
    [
        ((9, 0), PACKAGES, HALF, "fa3"), ((9, 0), ("varlen", "fa4"), HALF, "fa4"), ((9, 0), ("varlen",), HALF, "varlen"), ((9, 0), (), HALF, "sdpa"),
        ((9, 0), PACKAGES, torch.float32, "sdpa"), ((9, 0), PACKAGES, torch.float16, "fa3"), ((8, 0), PACKAGES, HALF, "varlen"),
        ((10, 0), PACKAGES, HALF, "fa4"), ((12, 0), ("varlen", "fa3"), HALF, "varlen"), ((7, 5), PACKAGES, torch.float16, "sdpa"),
    ],
)  # fmt: skip
def test_auto_takes_the_fastest_and_says_what_it_passed_over(gpu, capability, there, dtype, wanted):
    gpu(capability, *there)
    name, reason = choose("auto", "cuda:0", dtype, 128)
    assert name == wanted and "\n" not in reason and "cpu" not in attention_module._kernels
    assert wanted == "sdpa" or attention_module._kernels["cuda"]() == wanted
    passed = kernels.FASTEST_FIRST[: kernels.FASTEST_FIRST.index(wanted)]
    assert [part.split(":")[0] for part in reason.split("; ") if part.startswith("not ")] == [f"not {p}" for p in passed]


def test_the_locked_package_of_a_hopper_gpu_is_fa4():
    lock = (Path(__file__).parents[2] / "requirements-cuda.lock").read_text()
    assert kernels.INSTALL["fa4"].split()[-1] + " " in lock and "\nkernels==" not in lock


def test_auto_elsewhere(gpu):
    assert choose()[0] == "blocked" and attention_module._kernels["cpu"] is kernels.blocked
    assert choose("auto", "mps")[0] == "sdpa"
    gpu((9, 4), *PACKAGES, hip="6.4")  # an AMD MI300 says that it is 9.4
    assert choose("auto", "cuda", HALF)[0] == "sdpa"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_backend_that_cannot_work_is_an_error(name, gpu):
    with pytest.raises(UserError, match=f"'{name}' cannot be used here: it needs an NVIDIA GPU, and the device is cpu; .*--attention auto"):
        choose(name)
    for capability, dtype, text in (((7, 5), HALF, "has 7.5"), ((9, 0), torch.float32, "not in float32"), ((9, 0), HALF, "ModuleNotFoundError")):
        gpu(capability)
        with pytest.raises(UserError, match=text) as e:
            choose(name, "cuda", dtype)
    assert kernels.INSTALL.get(name, "") in str(e.value) and not attention_module._kernels
    gpu((9, 0), *PACKAGES)
    assert choose(name, "cuda", HALF) == (name, "chosen by name")


def test_unknown_names():
    with pytest.raises(UserError, match="attention = 'flash' is not allowed; it must be auto, sdpa, blocked, varlen, fa3, fa4"):
        choose("flash")


def shifted(q, k, v, left):
    """A window that is off by one, as a library with another convention would give."""
    return sdpa(q, k, v, left if left < 0 else left + 1)


@pytest.mark.parametrize("wrong", [shifted, lambda q, k, v, left: sdpa(q, k, v, -1), lambda q, k, v, left: sdpa(q, k, v, left) * torch.nan, lambda *_: 1 / 0])
def test_a_package_that_fails_or_computes_something_else_is_not_used(monkeypatch, gpu, wrong):
    deviation = kernels.deviation
    gpu((9, 0), "varlen")
    monkeypatch.setattr(kernels, "deviation", lambda kernel, device, dtype, head_dim: deviation(kernel, "cpu", HALF, head_dim))
    monkeypatch.setitem(kernels.LOAD, "varlen", lambda: kernels.blocked)  # right, and rounded as bfloat16 is
    monkeypatch.setitem(kernels.LOAD, "fa3", lambda: wrong)
    name, reason = choose("auto", "cuda", HALF, 64)
    assert name == "varlen" and re.search("not fa3: (its results differ|ZeroDivisionError)", reason)
    with pytest.raises(UserError, match="fa3"):
        choose("fa3", "cuda", HALF, 64)


def test_which_loss(monkeypatch):
    for there, wanted in ((importlib.machinery.ModuleSpec("triton", None), "triton"), (None, "torch")):
        monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name, there=there: there)
        assert choose_loss("cuda", HALF) == wanted and choose_loss("cpu", HALF) == choose_loss("cuda:1", torch.float64) == "torch"
        choose_loss("cuda:0", torch.float32)
        assert losses._steps["cuda"] is (triton_losses if there else losses).losses_and_gradient_


def test_nothing_optional_is_imported_before_it_is_chosen():
    code = """if True:
        import sys
        import gpt2course.model
        assert "gpt2course.fast.kernels" not in sys.modules
        from gpt2course.fast import kernels
        kernels.choose(), kernels.choose_loss("cpu", None)
        loaded = {"triton", "kernels", "flash_attn", "flash_attn_interface", "torch.nn.attention.varlen"} & set(sys.modules)
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---- the Triton kernel of the loss


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    """Environment in which Triton can be imported: 200 MB, which the set-up of a machine without a GPU leaves out."""
    if importlib.util.find_spec("triton"):
        return {}
    lock = (Path(__file__).parents[2] / "requirements-cuda.lock").read_text()
    folder = tmp_path_factory.mktemp("triton")
    (folder / "lock").write_text(re.search(r"(?m)^triton==.*(\n +--hash.*)+", lock)[0])
    got = subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder / "packages", "-r", folder / "lock"], capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f"Triton cannot be installed here: {got.stderr.strip().splitlines()[-1]}")
    return {"TRITON_AT": str(folder / "packages")}


def python(code, TRITON_AT="", **env):
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), TRITON_AT]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths} | env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interpreted():
    """Run in a process of its own, with TRITON_INTERPRET=1 set before Triton is imported."""
    original = triton_losses.losses_and_gradient_

    def both(x, w, targets, cap, chunk=None):
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        loss = cross_entropy(x, w, targets, cap, "sum", chunk)
        loss.backward()
        return loss.detach(), x.grad, w.grad

    def plain(x, w, targets, cap):
        x, w = x.double().requires_grad_(), w.double().requires_grad_()
        loss = cross_entropy_plain(x, w, targets, cap, "sum")
        return loss.detach(), *torch.autograd.grad(loss, (x, w))

    def inputs(N, V, C, seed):
        g = torch.Generator().manual_seed(seed)
        x, w = (torch.randn(n, C, generator=g) * 3 / C**0.25 for n in (N, V))
        return x, w, torch.randint(-1, V, (N,), generator=g)

    @settings(deadline=None, max_examples=12, database=None)
    @given(N=st.integers(1, 40), V=st.integers(2, 70), C=st.integers(1, 9), cap=st.sampled_from((0.0, 2.0, 15.0, 60.0)), chunk=st.integers(1, 45), block=st.sampled_from((16, 64, 128)), seed=st.integers(0, 99))
    def in_float32(N, V, C, cap, chunk, block, seed):
        losses.install("cpu", lambda *a: original(*a, block=block))
        x, w, targets = inputs(N, V, C, seed)
        for a, b in zip(both(x, w, targets, cap, chunk), plain(x, w, targets, cap)):
            torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)

    in_float32()
    for cap in (0.0, 2.0, 15.0, 60.0):
        x, w, targets = inputs(20, 100, 8, 0)
        errors = []
        for step in (losses.losses_and_gradient_, original):
            losses.install("cpu", step)
            errors.append([(a.double() - b).norm() for a, b in zip(both(x.bfloat16(), w, targets, cap), plain(x.bfloat16(), w.bfloat16(), targets, cap))])
        assert all(b <= 2 * a + 1e-6 for a, b in zip(*errors)), (cap, errors)  # the interpreter truncates to bfloat16 where a GPU rounds
    z = torch.randn(3, 128)[:, :100]  # rows with a gap between them, whose numbers must not change
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
    assert "interpreted" in python("import test_kernels; test_kernels.interpreted()", TRITON_INTERPRET="1", **triton)


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
    assert python(COMPILE, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0", **triton).split() == ["True"] * 3
