"""Every attention kernel that the machine has against masked SDPA, what our wrappers hand to those it has not, and the choice."""

import importlib.machinery
import subprocess
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import attention as attention_module
from gpt2course.fast import kernels
from gpt2course.attention import FULL, Cache, attention, choose, sdpa
from gpt2course.files import UserError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CPU = torch.device("cpu")
HALF = torch.bfloat16


@pytest.fixture(autouse=True)
def _every_test_begins_without_a_choice(monkeypatch):
    monkeypatch.setattr(attention_module, "_chosen", {})
    monkeypatch.setattr(kernels, "WORTH", -(2**62))  # blocks however little they save


@pytest.fixture(params=[name for name in kernels.LOAD if name != "sdpa"])
def on_this_machine(request):
    """(kernel, dtype, tolerance) of each backend; those that this machine has not are skipped, with the reason."""
    dtype = torch.float64 if DEVICE.type == "cpu" or request.param == "blocked" else HALF
    kernel, problem = kernels.load(request.param, DEVICE, dtype, 16)
    if problem:
        pytest.skip(f"{request.param}: {problem}")
    return kernel, dtype, 1e-10 if dtype == torch.float64 else kernels.TOLERANCE


def tensors(T, B=2, H=4, Hkv=4, D=16, dtype=torch.float64, seed=0, T_q=None, device=DEVICE):
    g = torch.Generator().manual_seed(seed)
    shapes = ((B, T_q or T, H, D), (B, T, Hkv, D), (B, T, Hkv, D), (B, T_q or T, H, D))
    return [torch.randn(s, generator=g, dtype=torch.float64).to(device, dtype) for s in shapes]


def with_gradients(f, q, k, v, dy):
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    y = f(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


def close(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * max(1, b.abs().max())  # gradients of a single key are 0


# ---- parity


@pytest.mark.parametrize("Hkv", [4, 2, 1])
@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 128, 150, 257])
def test_forward_and_backward_equal_the_reference_in_every_window(on_this_machine, T, Hkv):
    kernel, dtype, tolerance = on_this_machine
    attention_module._chosen[DEVICE.type] = kernel
    q, k, v, dy = tensors(T, Hkv=Hkv, dtype=dtype)
    for W in sorted({0, 1, 7, 63, 64, 65, T // 2, max(0, T - 2), max(0, T - 1), T, -1}):
        got = with_gradients(lambda q, k, v: attention(q, k, v, (W, 0)), q, k, v, dy)  # noqa: B023
        want = with_gradients(lambda q, k, v: sdpa(q, k, v, W), *(x.double() for x in (q, k, v, dy)))  # noqa: B023
        close(got, want, tolerance)


def test_the_window_is_not_off_by_one(on_this_machine):
    """(W, 0) sees exactly W previous tokens: the value of the one before them leaves no trace, that of the last of them does."""
    kernel, dtype, _ = on_this_machine
    attention_module._chosen[DEVICE.type] = kernel
    for W in (1, 5, 63, 64, 65, 100):
        q, k, v, _ = tensors(190, dtype=dtype)
        before = attention(q, k, v, (W, 0))
        v[:, 20] += 100
        changed = (attention(q, k, v, (W, 0)) != before).flatten(2).any(-1).all(0).nonzero().flatten().tolist()
        assert changed == list(range(20, 20 + W + 1)), W


@settings(max_examples=40, deadline=None)
@given(T=st.integers(1, 300), W=st.integers(-1, 310), B=st.integers(1, 3), Hkv=st.sampled_from([1, 2, 4]), D=st.sampled_from([2, 7, 16, 40]), seed=st.integers(0, 99))
def test_blocked_equals_the_reference(T, W, B, Hkv, D, seed):
    q, k, v, dy = tensors(T, B, 4, Hkv, D, seed=seed, device=CPU)
    close(with_gradients(lambda *x: kernels.blocked(*x, W), q, k, v, dy), with_gradients(lambda *x: sdpa(*x, W), q, k, v, dy), 1e-11)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 2e-6), (torch.float16, 3e-3), (torch.bfloat16, 0.015)])
def test_blocked_in_other_precisions(dtype, tolerance):
    q, k, v, dy = tensors(150, dtype=dtype, device=CPU)
    got = with_gradients(lambda *x: kernels.blocked(*x, 40), q, k, v, dy)
    assert {x.dtype for x in got} == {dtype}
    close([x.double() for x in got], with_gradients(lambda *x: sdpa(*x, 40), *(x.double() for x in (q, k, v, dy))), tolerance)


def test_blocked_by_autograd_equals_the_reference():
    """The path of other devices, here on a CPU."""
    q, k, v, dy = tensors(150, device=CPU)
    for W in (0, 7, 40, 148):
        close(with_gradients(lambda *x: kernels.blocked_by_autograd(*x, W), q, k, v, dy), with_gradients(lambda *x: sdpa(*x, W), q, k, v, dy), 1e-11)  # noqa: B023


def test_blocked_takes_tensors_as_they_lie():
    """Transposed and strided inputs, and the gradient of a sum, which is one number with strides 0."""
    x = torch.randn(2, 16, 4, 150, dtype=torch.float64).permute(0, 3, 2, 1)  # (B, T, H, D), D not dense
    results = []
    for f in (kernels.blocked, sdpa):
        q = x.detach().requires_grad_()
        f(q, q * 2, q[:, :, :, torch.arange(15, -1, -1)], 40).sum().backward()
        results.append(q.grad)
    close(results[:1], results[1:], 1e-11)


def test_blocked_never_touches_what_the_mask_hides():
    """Of T keys a query meets fewer than W + BLOCK; every visible pair is in exactly one block."""
    for T, W in ((300, 70), (64, 5), (65, 0), (1, 3), (200, 198)):
        covered = torch.zeros(T, T, dtype=torch.int)
        for i, j in kernels.blocks(T, W):
            assert j.stop - j.start <= W + kernels.BLOCK
            covered[i, j] += 1
        visible = attention_module.window_mask(T, T, W, CPU)
        assert covered[visible].eq(1).all() and covered.max() == 1
    q, k, v, _ = tensors(300, device=CPU)
    k[:, :100] = v[:, :100] = torch.nan  # what is not touched cannot spoil anything
    assert attention_module.sdpa(q, k, v, 70)[:, 256:].isnan().all()
    assert kernels.blocked(q, k, v, 70)[:, 256:].isfinite().all()


def test_blocked_leaves_to_sdpa_what_is_not_worth_it(monkeypatch):
    taken = []
    monkeypatch.setattr(kernels, "cpu_blocked", lambda q, k, v, left: taken.append((q.shape, left)) or [q])
    q = torch.zeros(4, 256, 2, 64)
    for worth, W, blocks in ((2**22, 64, True), (2**22, 128, True), (2**22, -1, False), (2**40, 64, False)):
        taken.clear()
        monkeypatch.setattr(kernels, "WORTH", worth)
        kernels.blocked(q, q, q, W)
        assert bool(taken) == blocks
    monkeypatch.setattr(kernels, "WORTH", 2**22)
    taken.clear()
    kernels.blocked(q[:1], q[:1], q[:1], 128)  # one row, half of its past: 0.96 of sdpa's speed, measured
    kernels.blocked(q[:, :64], q[:, :64], q[:, :64], 16)
    assert not taken


@pytest.mark.parametrize("pad", [None, [0, 3]])
@pytest.mark.parametrize("left", [-1, 0, 5, 64])
def test_the_cache_reads_the_same_with_every_kernel(on_this_machine, left, pad):
    kernel, dtype, tolerance = on_this_machine
    q, k, v, _ = tensors(90, Hkv=2, dtype=dtype)
    results = []
    for f in (kernel, sdpa):
        attention_module._chosen[DEVICE.type] = f
        cache, parts = Cache(None if pad is None else torch.tensor(pad, device=DEVICE)), []
        for n in (slice(0, 80), slice(80, 81), slice(81, 88), slice(88, 90)):
            cache.advance(n.stop - n.start, DEVICE)
            parts.append(cache.attend("layer", q[:, n], k[:, n], v[:, n], (left, 0)))
        results.append(torch.cat(parts, dim=1).double())
    if pad is None:
        close(results[:1], [attention(*(x.double() for x in (q, k, v)), (left, 0))], tolerance)
    close(results[:1], results[1:], tolerance)


def test_reading_after_a_cache_is_always_sdpas():
    def refuses(*_):
        raise AssertionError("a kernel for whole sequences was given a part")

    attention_module._chosen[DEVICE.type] = refuses
    q, k, v, _ = tensors(30, T_q=4)
    assert torch.equal(attention(q, k, v, (7, 0)), sdpa(q, k, v, 7))
    q, k, v, _ = tensors(30)
    pad = torch.tensor([0, 3], device=DEVICE)
    assert torch.equal(attention(q, k, v, FULL, pad), sdpa(q, k, v, -1, pad))
    with pytest.raises(AssertionError, match="whole sequences"):
        attention(q, k, v)


# ---- torch.compile


def two_layers(q, k, v):
    return attention(attention(q, k, v, (7, 0)), k, v)


@pytest.mark.parametrize("name", ["sdpa", "blocked"])
def test_a_compiled_model_is_one_graph_and_is_compiled_once(name):
    choose(name, "cpu")
    torch._dynamo.reset()
    compiled = torch.compile(two_layers, fullgraph=True, backend="aot_eager", dynamic=False)
    counts = torch._dynamo.utils.counters
    counts.clear()
    for seed in range(3):
        q, k, v, dy = tensors(150, Hkv=2, seed=seed, device=CPU)
        close(with_gradients(compiled, q, k, v, dy), with_gradients(two_layers, q, k, v, dy), 1e-12)
    assert counts["stats"]["unique_graphs"] == 1 and not counts["graph_break"]


@pytest.mark.parametrize("op", ["blocked", "fa4"])
def test_the_operators_are_sound(op, fake_fa4):
    """torch's own checks: schema, fake implementation against the real one, autograd registration, compiled with dynamic shapes."""
    q, k, v, _ = (x.requires_grad_() for x in tensors(70, B=1, H=2, Hkv=2, D=4, device=CPU))
    torch.library.opcheck({"blocked": kernels.cpu_blocked, "fa4": kernels.fa4_forward}[op], (q, k, v, 5))
    y, lse = kernels.cpu_blocked(q, k, v, 5)
    torch.library.opcheck(kernels.cpu_blocked_backward, tuple(x.detach() for x in (y, q, k, v, y, lse)) + (5,))


# ---- the packages that this machine has not: fakes that follow each library's documented convention, and record the call


def install(monkeypatch, name, **members):
    """A package as if it were installed; a dotted name makes those of its parents that are missing."""
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
    return module


def by_hand(q, k, v, causal, left, right, dy=None):
    """(y, log of the softmax denominator (B, H, T)), or with dy the gradients (dq, dk, dv), from the definition; left and right
    None: all of that side."""
    (B, T, H, D), Hkv = q.shape, k.size(2)
    k, v = (x.repeat_interleave(H // Hkv, 2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / D**0.5
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    hidden = (j > i) if causal else torch.zeros(T, T, dtype=torch.bool)
    hidden = hidden | (j < i - left) if left is not None else hidden
    hidden = hidden | (j > i + right) if right is not None else hidden
    scores = scores.masked_fill(hidden, -torch.inf)
    p = scores.softmax(-1)
    if dy is None:
        return torch.einsum("bhij,bjhd->bihd", p, v), scores.logsumexp(-1)
    dp = torch.einsum("bihd,bjhd->bhij", dy, v)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / D**0.5
    dk, dv = torch.einsum("bhij,bihd->bjhd", ds, q), torch.einsum("bhij,bihd->bjhd", p, dy)
    return torch.einsum("bhij,bjhd->bihd", ds, k), *(x.view(B, T, Hkv, H // Hkv, D).sum(3) for x in (dk, dv))


@pytest.fixture
def calls():
    return []


@pytest.fixture
def fake_fa4(monkeypatch, calls):
    """flash_attn.cute.interface of flash-attn-4 4.0.0b36: always a tuple; None is all of a side; (-1, 0) is an empty window, not the whole past."""

    def flash_attn_func(q, k, v, *, causal=False, window_size=(None, None), return_lse=False):
        calls.append(dict(causal=causal, window_size=window_size))
        y, lse = by_hand(q, k, v, causal, *window_size)
        return y, (lse.float() if return_lse else None)

    def _flash_attn_bwd(*, q, k, v, out, dout, lse, causal=False, window_size_left=None, window_size_right=None):
        assert lse.dtype == torch.float32 and lse.shape == (q.size(0), q.size(2), q.size(1)) and dout.stride(-1) == 1
        assert torch.allclose(out, by_hand(q, k, v, causal, window_size_left, window_size_right)[0], atol=1e-5)
        calls.append(dict(causal=causal, window_size=(window_size_left, window_size_right)))
        return (*by_hand(q, k, v, causal, window_size_left, window_size_right, dout), None)

    return install(monkeypatch, "flash_attn.cute.interface", flash_attn_func=flash_attn_func, _flash_attn_bwd=_flash_attn_bwd)


def minus_one_is_all(causal, window_size):
    """The window convention of FlashAttention 2 and 3: -1 is all of that side."""
    return causal, *(None if w < 0 else w for w in window_size)


def fake_fa2_or_fa3(calls, with_lse=False):
    def flash_attn_func(q, k, v, *, causal=False, window_size=(-1, -1)):
        calls.append(dict(causal=causal, window_size=window_size))
        y = by_hand(q, k, v, *minus_one_is_all(causal, window_size))
        return y if with_lse else y[0]

    return flash_attn_func


def fake_varlen(calls, knows_gqa):
    """torch.nn.attention.varlen.varlen_attn: rows laid end to end, (-1, 0) causal; grouped queries are an argument from torch 2.13 on."""

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False):
        calls.append(dict(window_size=window_size, enable_gqa=enable_gqa))
        assert enable_gqa or query.size(1) == key.size(1)
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and (cu_seq_q.diff() == max_q).all() and cu_seq_q[-1] == len(query) == len(key) == cu_seq_k[-1]
        rows = zip(*(x.split(cu_seq_q.diff().tolist()) for x in (query, key, value)), strict=True)
        return torch.cat([by_hand(*(x[None] for x in row), *minus_one_is_all(False, window_size))[0][0] for row in rows])

    def varlen_attn_of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
        return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)

    return varlen_attn if knows_gqa else varlen_attn_of_2_11


def faked(name, monkeypatch, calls):
    """Our kernel over a fake of the library."""
    if name.startswith("varlen"):
        install(monkeypatch, "torch.nn.attention.varlen", varlen_attn=fake_varlen(calls, name != "varlen, torch 2.11"))
    elif name == "fa2":
        install(monkeypatch, "flash_attn", flash_attn_func=fake_fa2_or_fa3(calls))
    elif name.startswith("fa3"):
        install(monkeypatch, "flash_attn_interface", flash_attn_func=fake_fa2_or_fa3(calls, with_lse=name == "fa3, older"))
    return kernels.LOAD[name.split(",")[0]]()


FAKES = ["varlen", "varlen, torch 2.11", "fa2", "fa3", "fa3, older", "fa4"]


@pytest.mark.parametrize("name", FAKES)
def test_a_library_is_handed_the_window_in_its_own_convention(name, monkeypatch, calls, fake_fa4):
    attention_module._chosen["cpu"] = faked(name, monkeypatch, calls)
    everything = (None, 0) if name == "fa4" else (-1, 0)
    for W, handed in ((-1, everything), (0, (0, 0)), (7, (7, 0)), (33, (33, 0)), (34, everything), (35, everything)):
        for Hkv in (4, 2):
            q, k, v, dy = tensors(35, Hkv=Hkv, device=CPU)
            calls.clear()
            got = with_gradients(lambda *x: attention(*x, (W, 0)), q, k, v, dy)  # noqa: B023
            close(got, with_gradients(lambda *x: sdpa(*x, W), q, k, v, dy), 1e-6 if name == "fa4" else 1e-12)  # noqa: B023
            assert calls and all(call["window_size"] == handed for call in calls)
            assert all(call.get("causal", True) for call in calls)
            assert all(call.get("enable_gqa", False) == (name == "varlen" and Hkv == 2) for call in calls)


def test_fa4_does_not_break_a_compiled_model(fake_fa4, calls):
    attention_module._chosen["cpu"] = kernels.LOAD["fa4"]()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(two_layers, fullgraph=True, backend="aot_eager", dynamic=False)
    for seed in range(2):
        q, k, v, dy = tensors(40, Hkv=2, seed=seed, device=CPU)
        close(with_gradients(compiled, q, k, v, dy), with_gradients(lambda q, k, v: sdpa(sdpa(q, k, v, 7), k, v, -1), q, k, v, dy), 1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert len(calls) == 2 * 4  # forward and backward of two layers, all through the operators


def test_fa3_comes_from_kernels_at_a_pinned_commit_and_trusts_no_other_repository(monkeypatch, calls):
    asked = []

    def get_kernel(repo_id, *, revision=None, version=None, trust_remote_code=False):
        if not (revision or version):  # kernels 0.17.2
            raise ValueError("Either a revision or a version must be specified.")
        asked.append((repo_id, revision, trust_remote_code))
        return types.SimpleNamespace(flash_attn_interface=types.SimpleNamespace(flash_attn_func=fake_fa2_or_fa3(calls)))

    install(monkeypatch, "kernels", get_kernel=get_kernel)
    monkeypatch.delenv("GPT2COURSE_FA3", raising=False)
    kernel = kernels.load_fa3()
    ((repo, revision, trusted),) = asked
    assert f"{repo}@{revision}" == kernels.FA3_BUILD and len(revision) == 40 and trusted == [repo]
    q, k, v, dy = tensors(35, Hkv=2, device=CPU)
    close(with_gradients(lambda *x: kernel(*x, 7), q, k, v, dy), with_gradients(lambda *x: sdpa(*x, 7), q, k, v, dy), 1e-12)
    monkeypatch.setenv("GPT2COURSE_FA3", "somebody/kernel@abc")
    kernels.load_fa3()
    assert asked[-1] == ("somebody/kernel", "abc", ["somebody/kernel"])
    monkeypatch.setenv("GPT2COURSE_FA3", "somebody/kernel")
    with pytest.raises(UserError, match="repository@commit"):
        kernels.load_fa3()


def flex_here(monkeypatch):
    """FlexAttention as torch runs it on a CPU, forward only, without Triton."""
    with monkeypatch.context() as only_here:
        install(only_here, "triton")
        only_here.setattr(torch, "compile", lambda f: f)
        return kernels.load_flex()


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_sees_the_window_and_builds_a_mask_once(monkeypatch):
    attention_module._chosen["cpu"] = flex_here(monkeypatch)
    kernels.block_mask.cache_clear()
    q, k, v, _ = tensors(150, Hkv=2, dtype=torch.float32, device=CPU)
    windows = (0, 1, 7, 75, 148, -1)
    for W in windows * 2:
        torch.testing.assert_close(attention(q, k, v, (W, 0)), sdpa(q, k, v, W), atol=3e-6, rtol=0)
    assert kernels.block_mask.cache_info().misses == len(windows)
    compiled = torch.compile(two_layers, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(q, k, v), sdpa(sdpa(q, k, v, 7), k, v, -1), atol=3e-6, rtol=0)


# ---- the choice


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU of some capability and some packages; every kernel that is there is `blocked` under another name."""

    def make(capability, *there, hip=None):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(kernels, "deviation", lambda *_: 0.0)

        def loader(name):
            def load():
                if name not in there:
                    raise ModuleNotFoundError(f"No module named '{name}'")
                return lambda *a: name

            return load

        monkeypatch.setattr(kernels, "LOAD", {name: loader(name) for name in kernels.LOAD} | {"sdpa": lambda: sdpa, "blocked": lambda: kernels.blocked})

    return make


ALL = ("varlen", "flex", "fa2", "fa3", "fa4")


@pytest.mark.parametrize(
    "capability,there,dtype,head_dim,wanted",
    [
        ((9, 0), ALL, HALF, 128, "fa3"),
        ((9, 0), ("varlen", "flex", "fa2", "fa4"), HALF, 128, "fa4"),
        ((9, 0), ("varlen", "flex"), HALF, 128, "varlen"),
        ((9, 0), ("flex",), HALF, 128, "flex"),
        ((9, 0), (), HALF, 128, "sdpa"),
        ((9, 0), ALL, torch.float32, 128, "sdpa"),
        ((9, 0), ALL, torch.float16, 256, "fa3"),
        ((9, 0), ALL, HALF, 12, "sdpa"),
        ((8, 0), ALL, HALF, 128, "varlen"),
        ((8, 6), ("flex", "fa2"), HALF, 64, "fa2"),
        ((10, 0), ALL, HALF, 128, "fa4"),
        ((10, 0), ALL, HALF, 256, "varlen"),
        ((12, 0), ("varlen", "flex", "fa3"), HALF, 128, "varlen"),
        ((7, 5), ALL, torch.float16, 64, "sdpa"),
    ],
)
def test_auto_takes_the_fastest_that_is_there_and_says_what_it_passed_over(gpu, capability, there, dtype, head_dim, wanted):
    gpu(capability, *there)
    name, reason = choose("auto", "cuda", dtype, head_dim)
    assert name == wanted
    passed = kernels.FASTEST_FIRST[: kernels.FASTEST_FIRST.index(wanted)]
    assert [part.split(":")[0] for part in reason.split("; ")[1:]] == [f"not {p}" for p in passed]
    assert "\n" not in reason


def test_auto_elsewhere(gpu):
    assert choose("auto", "cpu")[0] == "blocked" and attention_module._chosen["cpu"] is kernels.blocked
    assert choose("auto", "mps")[0] == "sdpa"
    gpu((9, 4), *ALL, hip="6.4")  # an AMD MI300 gives itself out as 9.4
    assert choose("auto", "cuda", HALF, 128)[0] == "sdpa"
    with pytest.raises(UserError, match="needs an NVIDIA GPU, and the device is cuda .AMD."):
        choose("fa3", "cuda", HALF, 128)


def test_a_choice_counts_for_its_kind_of_device_alone(gpu):
    gpu((9, 0), *ALL)
    choose("auto", "cuda:0", HALF, 128)
    q, k, v, _ = tensors(8, device=CPU)
    assert torch.equal(attention(q, k, v, (3, 0)), sdpa(q, k, v, 3))  # not the GPU's kernel
    assert attention_module._chosen["cuda"]() == "fa3"


@pytest.mark.parametrize("name", ALL)
def test_a_forced_backend_that_cannot_be_is_an_error_that_says_what_to_do(name, gpu):
    with pytest.raises(UserError, match=f"attention = '{name}' cannot be used here: it needs an NVIDIA GPU, and the device is cpu; .*--attention auto"):
        choose(name, "cpu", HALF, 128)
    gpu((9, 0))
    with pytest.raises(UserError, match="cannot be used here: ModuleNotFoundError: .*; install it: (pip install|git clone)") as e:
        choose(name, "cuda", HALF, 128)
    assert kernels.INSTALL[name] in str(e.value) and "\n" not in str(e.value)
    for capability, dtype, head_dim, told in (
        ((7, 5), HALF, 128, "has 7.5"),
        ((9, 0), torch.float32, 128, "not in float32"),
        ((9, 0), HALF, 20, "not 20"),
        ((9, 0), HALF, 264, "not 264"),
    ):
        gpu(capability, *ALL)
        with pytest.raises(UserError, match=told):
            choose(name, "cuda", dtype, head_dim)
    assert not attention_module._chosen
    gpu((9, 0), *ALL)
    assert choose(name, "cuda", HALF, 128) == (name, "asked for by name")


def test_unknown_names_are_told():
    with pytest.raises(UserError, match="attention = 'flash' is not allowed; it must be auto, sdpa, blocked, varlen, flex, fa2, fa3, fa4"):
        choose("flash")


def test_a_package_that_computes_something_else_is_not_used(monkeypatch, gpu, calls):
    """A window off by one, as a library with another convention would give, or NaN: refused by name, passed over by auto."""
    deviation = kernels.deviation
    gpu((9, 0), "varlen")
    monkeypatch.setattr(kernels, "deviation", lambda kernel, device, dtype, head_dim: deviation(kernel, "cpu", torch.bfloat16, head_dim))
    for wrong in (lambda q, k, v, left: sdpa(q, k, v, left if left < 0 else left + 1), lambda q, k, v, left: sdpa(q, k, v, -1), lambda q, k, v, left: sdpa(q, k, v, left) * torch.nan):
        monkeypatch.setitem(kernels.LOAD, "fa3", lambda: wrong)  # noqa: B023
        name, reason = choose("auto", "cuda", HALF, 64)
        assert name == "varlen" and "not fa3: its results are" in reason
        with pytest.raises(UserError, match="its results are .* away from the reference's, 3% being allowed"):
            choose("fa3", "cuda", HALF, 64)
    monkeypatch.setitem(kernels.LOAD, "fa3", lambda: kernels.blocked)  # right, and rounded as bfloat16 is
    assert choose("auto", "cuda", HALF, 64)[0] == "fa3"


def test_a_package_that_crashes_at_its_import_is_a_reason(monkeypatch, gpu):
    def crash():
        raise OSError("libcudart.so.13: cannot open shared object file\nand more lines")

    gpu((9, 0), "varlen")
    monkeypatch.setitem(kernels.LOAD, "fa3", crash)
    name, reason = choose("auto", "cuda", HALF, 64)
    assert name == "varlen" and "not fa3: OSError: libcudart.so.13: cannot open shared object file" in reason and "more lines" not in reason


def test_nothing_optional_is_imported_before_it_is_chosen():
    code = """if True:
        import sys
        import gpt2course.model
        assert "gpt2course.fast.kernels" not in sys.modules
        from gpt2course import attention
        attention.choose()
        loaded = {"triton", "kernels", "flash_attn", "flash_attn_interface", "torch.nn.attention.flex_attention", "torch.nn.attention.varlen"} & set(sys.modules)
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
