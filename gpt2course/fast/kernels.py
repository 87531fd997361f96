"""The fast kernels behind `attention.attention`, what each of them needs, and the choice between them. Lesson 06.

A kernel is a function (q, k, v, left) -> y of whole sequences: q and y (B, T, H, D), k and v (B, T, Hkv, D), left the
window's W, or -1 for the whole past. All give what `attention.sdpa` gives, but for rounding. No package is imported
before it is chosen.

    blocked  any device   blocks of queries that touch no key which the mask hides; on a CPU with its own backward pass
    varlen   GPU, sm_80+  torch's built-in FlashAttention 2 (arXiv 2307.08691), which knows windows; needs torch alone
    flex     GPU, sm_80+  torch's FlexAttention (arXiv 2412.05496), compiled for the mask
    fa2      GPU, sm_80+  the package flash_attn
    fa3      Hopper       FlashAttention 3 (arXiv 2407.08608): the package flash_attn_interface, or a build of `kernels`
    fa4      Hopper on    FlashAttention 4, the package flash-attn-4
"""

import functools
import importlib
import importlib.util
import inspect
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2course import attention, losses
from gpt2course.attention import sdpa, window_mask
from gpt2course.fast import triton_losses
from gpt2course.files import UserError

# ---- blocked

BLOCK = 64  # queries in a block: measured on a CPU, where the scores of so many stay in its cache
# Products of a query's and a key's channel: where fewer are saved, many small calls cost more than one large (measured)
WORTH = 2**22


def blocks(T: int, left: int):
    """(queries, keys) of each block, as slices of the positions: all keys that a query of it sees, and few more."""
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        yield slice(start, end), slice(max(0, start - left), end)


@functools.lru_cache(maxsize=16)
def block_bias(left: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to a block's scores, (BLOCK, left + BLOCK): 0 where a query sees the key, -inf elsewhere. A block
    with fewer queries or keys, at the ends of a text, has its last rows or columns."""
    visible = window_mask(BLOCK, left + BLOCK, left, device)
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)


def blocked(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """Windows block by block: a query meets at most W + BLOCK of the T keys. What is left to `sdpa`, the faster there:
    the whole past, for which torch has a causal path, and what is so small that less than WORTH would be saved."""
    B, T, H, D = q.shape
    met = sum((i.stop - i.start) * (j.stop - j.start) for i, j in blocks(T, left))
    if left < 0 or B * H * D * (T * T - met) < WORTH:
        return sdpa(q, k, v, left)
    k, v = _each_head(k, H), _each_head(v, H)
    return cpu_blocked(q, k, v, left)[0] if q.device.type == "cpu" else blocked_by_autograd(q, k, v, left)


def _each_head(x: Tensor, H: int) -> Tensor:
    """Keys or values (B, T, Hkv, D) repeated for each of the H heads of queries, (B, T, H, D)."""
    return x if x.size(2) == H else x.repeat_interleave(H // x.size(2), dim=2)


def blocked_by_autograd(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """The idea in a few lines, for any device; q, k, v (B, T, H, D)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    bias = block_bias(left, q.dtype, q.device)
    y = []
    for i, j in blocks(q.size(2), left):
        mask = bias[i.start - i.stop :, j.start - j.stop :]
        y.append(F.scaled_dot_product_attention(q[:, :, i], k[:, :, j], v[:, :, j], attn_mask=mask))
    return torch.cat(y, dim=2).transpose(1, 2)  # (B, T, H, D)


# On a CPU autograd would make of every slice of k and v a gradient of their whole length. So the backward pass is
# written out: block by block too, it adds to dk and dv in place. Both are operators, one step each for torch.compile.


@torch.library.custom_op("gpt2course::cpu_blocked", mutates_args=())
def cpu_blocked(q: Tensor, k: Tensor, v: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """y (B, T, H, D), and the logarithm of each query's softmax denominator (B, T, H), for the backward pass."""
    y = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    bias = block_bias(left, q.dtype, q.device)
    q, k, v = (_last_dim_dense(x).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    for i, j in blocks(q.size(2), left):
        mask = bias[i.start - i.stop :, j.start - j.stop :]
        args = q[:, :, i], k[:, :, j], v[:, :, j]
        part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, attn_mask=mask)
        y[:, i], lse[:, i] = part.transpose(1, 2), part_lse.transpose(1, 2)
    return y, lse


@torch.library.custom_op("gpt2course::cpu_blocked_backward", mutates_args=())
def cpu_blocked_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    dq = torch.empty(q.shape, dtype=q.dtype)
    dk, dv = torch.zeros(k.shape, dtype=k.dtype), torch.zeros(v.shape, dtype=v.dtype)
    bias = block_bias(left, q.dtype, q.device)
    # All become (B, H, T, D), and lse (B, H, T)
    dy, q, k, v, y, lse = (_last_dim_dense(x).transpose(1, 2) for x in (dy, q, k, v, y, lse))
    for i, j in blocks(q.size(2), left):
        mask = bias[i.start - i.stop :, j.start - j.stop :]
        args = dy[:, :, i], q[:, :, i], k[:, :, j], v[:, :, j], y[:, :, i], lse[:, :, i]
        part = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*args, 0.0, False, attn_mask=mask)
        dq[:, i] = part[0].transpose(1, 2)
        dk[:, j] += part[1].transpose(1, 2)
        dv[:, j] += part[2].transpose(1, 2)
    return dq, dk, dv


def _last_dim_dense(x: Tensor) -> Tensor:
    """torch's kernels read D as it lies in memory; a gradient of a sum, say, is one number with all strides 0."""
    return x if x.stride(-1) == 1 else x.contiguous()


@cpu_blocked.register_fake
def _(q, k, v, left):
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))


def differentiable(forward, backward) -> None:
    """Tell torch that this operator (q, k, v, left) -> (y, lse) has this one as its backward pass."""

    def remember(ctx, inputs, output):
        q, k, v, ctx.left = inputs
        ctx.save_for_backward(q, k, v, *output)

    def gradients(ctx, dy, _):
        return *backward(dy, *ctx.saved_tensors, ctx.left), None

    forward.register_autograd(gradients, setup_context=remember)
    backward.register_fake(lambda dy, q, k, v, *_: tuple(x.new_empty(x.shape) for x in (q, k, v)))


differentiable(cpu_blocked, cpu_blocked_backward)


# ---- what torch itself brings for GPUs


def load_varlen():
    from torch.nn.attention.varlen import varlen_attn

    groups = "enable_gqa" in inspect.signature(varlen_attn).parameters  # from torch 2.13 on

    def varlen(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        B, T, H, _ = q.shape
        gqa = {"enable_gqa": True} if groups and H != k.size(2) else {}
        if not groups:
            k, v = _each_head(k, H), _each_head(v, H)
        starts = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)  # (B + 1,), where each row begins
        q1, k1, v1 = (x.flatten(0, 1) for x in (q, k, v))  # (B * T, H, D)
        return varlen_attn(q1, k1, v1, starts, starts, T, T, window_size=(left, 0), **gqa).view(q.shape)

    return varlen


@functools.lru_cache(maxsize=64)
def block_mask(T: int, left: int, device: torch.device):
    """FlexAttention's list of the blocks to compute, built once for each T and window; a part of a compiled graph."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_b, _h, i, j):
        return (j <= i) & (j >= i - left) if left >= 0 else j <= i

    return create_block_mask(visible, None, None, T, T, device=device)


def load_flex():
    from torch.nn.attention.flex_attention import flex_attention

    importlib.import_module("triton")  # which it is compiled to; without that it would hold all T x T scores in memory
    compiled = torch.compile(flex_attention)

    def flex(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        run = flex_attention if torch.compiler.is_compiling() else compiled  # a compiled model compiles it itself
        mask = block_mask(q.size(1), left, q.device)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
        return run(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1)).transpose(1, 2)  # (B, T, H, D)

    return flex


# ---- the FlashAttention packages

# A build for the package `kernels`, which downloads it from the Hugging Face hub: always this commit, and no other
# repository is trusted.
FA3_BUILD = "kernels-community/flash-attn3@9542c462013476380ce4b395b9ddc0e8118161ee"


def load_fa2():
    from flash_attn import flash_attn_func

    return lambda q, k, v, left: flash_attn_func(q, k, v, causal=True, window_size=(left, 0))


def load_fa3():
    if importlib.util.find_spec("flash_attn_interface"):
        module = importlib.import_module("flash_attn_interface")
    else:
        get_kernel = importlib.import_module("kernels").get_kernel
        build = os.environ.get("GPT2COURSE_FA3", FA3_BUILD)
        repo, _, revision = build.partition("@")
        if not revision:
            raise UserError(
                f"GPT2COURSE_FA3 = {build!r} is not allowed; it must be repository@commit, for example {FA3_BUILD}"
            )
        module = get_kernel(repo, revision=revision, trust_remote_code=[repo])
        module = getattr(module, "flash_attn_interface", module)

    def fa3(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        y = module.flash_attn_func(q, k, v, causal=True, window_size=(left, 0))
        return y[0] if isinstance(y, tuple) else y  # builds before August 2025 give (y, lse)

    return fa3


# FlashAttention 4 registers no operators, and torch.compile would stop at each call. These two are its forward and
# backward pass as operators. Its windows: None, not -1, is "all of that side"; arguments by keyword, since their order
# changed between betas.


@torch.library.custom_op("gpt2course::fa4", mutates_args=())
def fa4_forward(q: Tensor, k: Tensor, v: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """y (B, T, H, D), and the logarithm of each query's softmax denominator (B, H, T) in float32."""
    from flash_attn.cute import interface

    window = (None if left < 0 else left, 0)
    y, lse = interface.flash_attn_func(q, k, v, causal=True, window_size=window, return_lse=True)[:2]  # always a tuple
    return y.contiguous(), lse.contiguous()  # as the fake implementation says


@torch.library.custom_op("gpt2course::fa4_backward", mutates_args=())
def fa4_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    from flash_attn.cute import interface

    dy = _last_dim_dense(dy)
    window = dict(window_size_left=None if left < 0 else left, window_size_right=0)
    gradients = interface._flash_attn_bwd(q=q, k=k, v=v, out=y, dout=dy, lse=lse, causal=True, **window)
    return tuple(x.contiguous() for x in gradients[:3])


@fa4_forward.register_fake
def _(q, k, v, left):
    B, T, H, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((B, H, T), dtype=torch.float32)


differentiable(fa4_forward, fa4_backward)


def load_fa4():
    importlib.import_module("flash_attn.cute.interface")
    return lambda q, k, v, left: fa4_forward(q, k, v, left)[0]


# ---- the choice

LOAD = {"sdpa": lambda: sdpa, "blocked": lambda: blocked, "varlen": load_varlen, "flex": load_flex,
        "fa2": load_fa2, "fa3": load_fa3, "fa4": load_fa4}  # fmt: skip
GENERATIONS = {"fa3": (range(9, 10), "9 (Hopper)"), "fa4": (range(9, 13), "9 to 12")}  # major compute capabilities
FASTEST_FIRST = ("fa3", "fa4", "varlen", "fa2", "flex", "sdpa")  # on NVIDIA's GPUs
INSTALL = {
    "varlen": "pip install -U 'torch>=2.11'",
    "flex": "pip install -U torch triton",
    "fa2": "pip install flash-attn --no-build-isolation (compiles it, which needs nvcc and takes an hour or so)",
    "fa3": "pip install 'kernels>=0.17'; or compile it: git clone https://github.com/Dao-AILab/flash-attention, "
           "then python setup.py install in its folder hopper",
    "fa4": "pip install flash-attn-4==4.0.0b36",
}  # fmt: skip
# Of the largest value, see `deviation`: bfloat16 rounds to 0.004, a window that is off by one token gives far more
TOLERANCE = 0.03


def unfit(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why this kernel cannot work on such tensors, or None."""
    if name in ("sdpa", "blocked"):
        return None
    if device.type != "cuda" or torch.version.hip:
        return f"it needs an NVIDIA GPU, and the device is {device.type}{' (AMD)' if torch.version.hip else ''}"
    majors, needs = GENERATIONS.get(name, (range(8, 99), "8 (Ampere) or more"))
    major, minor = torch.cuda.get_device_capability(device)
    if major not in majors:
        return f"it needs compute capability {needs}, and this GPU has {major}.{minor}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in bfloat16 and float16, not in {str(dtype).removeprefix('torch.')}"
    most = 128 if name == "fa4" and major > 9 else 256
    if head_dim % 8 or not 16 <= head_dim <= most:
        return f"it takes head sizes from 16 to {most} that are multiples of 8, not {head_dim}"
    return None


def deviation(kernel, device: torch.device | str, dtype: torch.dtype, head_dim: int) -> float:
    """How far a kernel is from masked SDPA in float32 on random numbers: the largest difference, in the output and the
    gradients, as a share of the largest value; the whole past, short and longer windows, grouped queries, an odd T."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, dy = (torch.randn(2, 199, H, head_dim, generator=generator).to(device, dtype) for H in (4, 2, 2, 4))
    worst = 0.0
    for left in (-1, 3, 70):
        results = []
        for f, tensors in ((kernel, (q, k, v)), (sdpa, (q.float(), k.float(), v.float()))):
            leaves = [x.detach().requires_grad_() for x in tensors]
            y = f(*leaves, left)
            results.append([y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))])
        for a, b in zip(*results):
            share = (a - b).abs().max() / b.abs().max()
            worst = max(worst, share.nan_to_num(torch.inf).item())
    return worst


def load(name: str, device: torch.device, dtype: torch.dtype, head_dim: int):
    """(kernel, None), or (None, why it cannot be used). What a package throws when imported is a reason, no crash."""
    if problem := unfit(name, device, dtype, head_dim):
        return None, problem
    try:
        kernel = LOAD[name]()
        off = deviation(kernel, device, dtype, head_dim) if name.startswith("fa") else 0.0
    except UserError:
        raise
    except Exception as e:
        message = str(e).strip().splitlines() or ["no message"]
        return None, f"{type(e).__name__}: {message[0]}"
    if off > TOLERANCE:
        return None, f"its results are {off:.1%} away from the reference's, {TOLERANCE:.0%} being allowed"
    return kernel, None


def choose(
    name: str = "auto", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 128
) -> tuple[str, str]:
    """Install the kernel that `attention` uses on this type of device from now on; returns its name and the reason.

    name: "auto" for the fastest one that is installed and works here, or one of LOAD; UserError if that cannot work.
    The choice changes rounding and speed, nothing else.
    """
    device = torch.device(device)
    name, reason, kernel = _choose(name, device, dtype, head_dim)
    attention.install(device.type, kernel)
    return name, reason


def _choose(name: str, device: torch.device, dtype: torch.dtype, head_dim: int):
    if name not in ("auto", *LOAD):
        raise UserError(f"attention = {name!r} is not allowed; it must be auto, {', '.join(LOAD)}")
    if name != "auto":
        kernel, problem = load(name, device, dtype, head_dim)
        if problem:
            mend = "take another," if unfit(name, device, dtype, head_dim) else f"install it: {INSTALL[name]};"
            raise UserError(
                f"attention = {name!r} cannot be used here: {problem}; {mend} or leave the choice to --attention auto"
            )
        return name, "asked for by name", kernel
    if device.type == "cpu":
        reason = f"a CPU computes windows fastest in blocks of {BLOCK} queries, the whole past by SDPA's causal path"
        return "blocked", reason, blocked
    if device.type != "cuda" or torch.version.hip:
        return "sdpa", "the faster kernels need an NVIDIA GPU", sdpa
    passed_over = []
    for name in FASTEST_FIRST:
        kernel, problem = load(name, device, dtype, head_dim)
        if kernel:
            return name, "; ".join(["the fastest that this machine has", *passed_over]), kernel
        passed_over.append(f"not {name}: {problem}")


def choose_loss(device: torch.device | str, dtype: torch.dtype) -> str:
    """Install the Triton step of the loss on CUDA where Triton is installed; returns "triton" or "torch"."""
    device = torch.device(device)
    found = device.type == "cuda" and dtype != torch.float64 and importlib.util.find_spec("triton") is not None
    losses.install(device.type, triton_losses.losses_and_gradient_ if found else losses.losses_and_gradient_)
    return "triton" if found else "torch"
