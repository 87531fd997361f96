"""The fast kernels behind `attention.attention`, what each of them needs, and the choice between them. Lesson 06 uses them.

A kernel is a function (q, k, v, left) -> y of whole sequences: q and y (B, T, H, D), k and v (B, T, Hkv, D), left the window's
W, or -1 for the whole past. All give what `attention.sdpa` gives, but for rounding. No package is imported before it is chosen.

    blocked  any device    blocks of queries that touch no key which the mask hides; on a CPU with a backward pass of its own
    varlen   GPU, sm_80+   torch's built-in FlashAttention 2 (arXiv 2307.08691), which knows windows; needs nothing but torch
    flex     GPU, sm_80+   torch's FlexAttention (arXiv 2412.05496), compiled for the mask
    fa2      GPU, sm_80+   the package flash_attn
    fa3      Hopper        FlashAttention 3 (arXiv 2407.08608): the package flash_attn_interface, or a pinned build of `kernels`
    fa4      Hopper on     FlashAttention 4, the package flash-attn-4
"""

import functools
import importlib
import importlib.util
import inspect
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2course.attention import sdpa, window_mask
from gpt2course.files import UserError

# ---- blocked

BLOCK = 64  # queries in a block: measured on a CPU, where the scores of so many stay in its cache
WORTH = 2**22  # products of a query's and a key's channel: where fewer are saved, many small calls cost more than one large one (measured)


def blocks(T: int, left: int):
    """(queries, keys) of each block, as slices of the positions: all the keys that one of its queries sees, and few more."""
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        yield slice(start, end), slice(max(0, start - left), end)


@functools.lru_cache(maxsize=16)
def block_bias(left: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to a block's scores, (BLOCK, left + BLOCK): 0 where a query sees the key, -inf elsewhere. A block with fewer
    queries or keys, at the ends of a text, has its last rows or columns."""
    visible = window_mask(BLOCK, left + BLOCK, left, device)
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)


def blocked(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """Windows block by block: a query meets at most W + BLOCK of the T keys. What is left to `sdpa`, the faster there: the whole past,
    for which torch has a causal path, and what is so small that less than WORTH would be saved."""
    (B, T, H, D), saved = q.shape, q.size(1) ** 2
    for i, j in blocks(T, left):
        saved -= (i.stop - i.start) * (j.stop - j.start)
    if left < 0 or B * H * D * saved < WORTH:
        return sdpa(q, k, v, left)
    if H != k.size(2):
        k, v = (x.repeat_interleave(H // x.size(2), dim=2) for x in (k, v))  # (B, T, H, D)
    return cpu_blocked(q, k, v, left)[0] if q.device.type == "cpu" else blocked_by_autograd(q, k, v, left)


def blocked_by_autograd(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """The idea in a few lines, for any device; q, k, v (B, T, H, D)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    bias, y = block_bias(left, q.dtype, q.device), []
    for i, j in blocks(q.size(2), left):
        mask = bias[i.start - i.stop :, j.start - j.stop :]
        y.append(F.scaled_dot_product_attention(q[:, :, i], k[:, :, j], v[:, :, j], attn_mask=mask))
    return torch.cat(y, dim=2).transpose(1, 2)  # (B, T, H, D)


# On a CPU autograd would make of every slice of k and v a gradient of their whole length. So the backward pass is written out:
# block by block too, it adds to dk and dv in place. As an operator of torch's, so that torch.compile takes it as one step.


@torch.library.custom_op("gpt2course::cpu_blocked", mutates_args=())
def cpu_blocked(q: Tensor, k: Tensor, v: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """y (B, T, H, D), and the logarithm of each query's softmax denominator (B, T, H), which the backward pass needs."""
    y = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    bias = block_bias(left, q.dtype, q.device)
    q, k, v = (_last_dim_dense(x).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    for i, j in blocks(q.size(2), left):
        mask = bias[i.start - i.stop :, j.start - j.stop :]
        part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q[:, :, i], k[:, :, j], v[:, :, j], attn_mask=mask)
        y[:, i], lse[:, i] = part.transpose(1, 2), part_lse.transpose(1, 2)
    return y, lse


@torch.library.custom_op("gpt2course::cpu_blocked_backward", mutates_args=())
def cpu_blocked_backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, left: int) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = torch.empty(q.shape, dtype=q.dtype), torch.zeros(k.shape, dtype=k.dtype), torch.zeros(v.shape, dtype=v.dtype)
    bias = block_bias(left, q.dtype, q.device)
    dy, q, k, v, y, lse = (_last_dim_dense(x).transpose(1, 2) for x in (dy, q, k, v, y, lse))  # (B, H, T, D); lse (B, H, T)
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
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))


@cpu_blocked_backward.register_fake
def _(dy, q, k, v, y, lse, left):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))


def _remember(ctx, inputs, output):
    q, k, v, ctx.left = inputs
    ctx.save_for_backward(q, k, v, *output)


cpu_blocked.register_autograd(lambda ctx, dy, _: (*cpu_blocked_backward(dy, *ctx.saved_tensors, ctx.left), None), setup_context=_remember)


# ---- what torch itself brings for GPUs


def load_varlen():
    from torch.nn.attention.varlen import varlen_attn

    grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else None  # torch 2.13

    def varlen(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        B, T, H, _ = q.shape
        gqa = {}
        if H != k.size(2):
            gqa = grouped or {}
            if grouped is None:
                k, v = (x.repeat_interleave(H // x.size(2), dim=2) for x in (k, v))  # (B, T, H, D)
        starts = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)  # (B + 1,), where each row begins
        y = varlen_attn(*(x.flatten(0, 1) for x in (q, k, v)), starts, starts, T, T, window_size=(left, 0), **gqa)  # (B * T, H, D)
        return y.view(q.shape)

    return varlen


@functools.lru_cache(maxsize=64)
def block_mask(T: int, left: int, device: torch.device):
    """FlexAttention's list of the blocks to compute, built once for each T and window (in a compiled model it is part of the graph)."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(_b, _h, i, j):
        return (j <= i) & (j >= i - left) if left >= 0 else j <= i

    return create_block_mask(visible, None, None, T, T, device=device)


def load_flex():
    from torch.nn.attention.flex_attention import flex_attention

    importlib.import_module("triton")  # which it is compiled to; without that it would hold all T x T scores in memory
    compiled = torch.compile(flex_attention)

    def flex(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        run = flex_attention if torch.compiler.is_compiling() else compiled  # inside a compiled model it is compiled already
        mask = block_mask(q.size(1), left, q.device)
        y = run(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=mask, enable_gqa=q.size(2) != k.size(2))
        return y.transpose(1, 2)  # (B, H, T, D) -> (B, T, H, D)

    return flex


# ---- the FlashAttention packages

# A build for the package `kernels`, which downloads it from the Hugging Face hub: always this commit, and no other repository is trusted.
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
            raise UserError(f"GPT2COURSE_FA3 = {build!r} is not allowed; it must be repository@commit, for example {FA3_BUILD}")
        module = get_kernel(repo, revision=revision, trust_remote_code=[repo])
        module = getattr(module, "flash_attn_interface", module)

    def fa3(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        y = module.flash_attn_func(q, k, v, causal=True, window_size=(left, 0))
        return y[0] if isinstance(y, tuple) else y  # builds before August 2025 give (y, lse)

    return fa3


# FlashAttention 4 registers no operators, and torch.compile would stop at each call. These two are its forward and backward pass
# as operators. Its windows: None, not -1, is "all of that side"; arguments by keyword, since their order changed between betas.


@torch.library.custom_op("gpt2course::fa4", mutates_args=())
def fa4_forward(q: Tensor, k: Tensor, v: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """y (B, T, H, D), and the logarithm of each query's softmax denominator (B, H, T) in float32."""
    from flash_attn.cute import interface

    window = (None if left < 0 else left, 0)
    y, lse = interface.flash_attn_func(q, k, v, causal=True, window_size=window, return_lse=True)[:2]  # a tuple in every version
    return y.contiguous(), lse.contiguous()  # as the fake implementation says


@torch.library.custom_op("gpt2course::fa4_backward", mutates_args=())
def fa4_backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, left: int) -> tuple[Tensor, Tensor, Tensor]:
    from flash_attn.cute import interface

    window = dict(window_size_left=None if left < 0 else left, window_size_right=0)
    gradients = interface._flash_attn_bwd(q=q, k=k, v=v, out=y, dout=_last_dim_dense(dy), lse=lse, causal=True, **window)
    return tuple(x.contiguous() for x in gradients[:3])


@fa4_forward.register_fake
def _(q, k, v, left):
    B, T, H, _ = q.shape
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty((B, H, T), dtype=torch.float32)


@fa4_backward.register_fake
def _(dy, q, k, v, y, lse, left):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))


fa4_forward.register_autograd(lambda ctx, dy, _: (*fa4_backward(dy, *ctx.saved_tensors, ctx.left), None), setup_context=_remember)


def load_fa4():
    importlib.import_module("flash_attn.cute.interface")
    return lambda q, k, v, left: fa4_forward(q, k, v, left)[0]


# ---- the choice

LOAD = {"sdpa": lambda: sdpa, "blocked": lambda: blocked, "varlen": load_varlen, "flex": load_flex, "fa2": load_fa2, "fa3": load_fa3, "fa4": load_fa4}
FASTEST_FIRST = ("fa3", "fa4", "varlen", "fa2", "flex", "sdpa")  # on NVIDIA's GPUs
INSTALL = {
    "varlen": "pip install -U 'torch>=2.11'",
    "flex": "pip install -U torch triton",
    "fa2": "pip install flash-attn --no-build-isolation (compiles it, which needs nvcc and takes an hour or so)",
    "fa3": "pip install 'kernels>=0.17'; or compile it: git clone https://github.com/Dao-AILab/flash-attention, then python setup.py install in its folder hopper",
    "fa4": "pip install flash-attn-4==4.0.0b36",
}
TOLERANCE = 0.03  # of the largest value, see `deviation`: bfloat16 rounds to 0.004, a window that is off by one token gives far more


def unfit(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why this kernel cannot work on such tensors, or None."""
    if name in ("sdpa", "blocked"):
        return None
    if device.type != "cuda" or torch.version.hip:
        return f"it needs an NVIDIA GPU, and the device is {device.type}{' (AMD)' if torch.version.hip else ''}"
    major, minor = torch.cuda.get_device_capability(device)
    if major not in {"fa3": (9,), "fa4": (9, 10, 11, 12)}.get(name, range(8, 99)):
        needs = {"fa3": "9 (Hopper)", "fa4": "9 to 12"}.get(name, "8 (Ampere) or more")
        return f"it needs compute capability {needs}, and this GPU has {major}.{minor}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in bfloat16 and float16, not in {str(dtype).removeprefix('torch.')}"
    most = 128 if name == "fa4" and major > 9 else 256
    if head_dim % 8 or not 16 <= head_dim <= most:
        return f"it takes head sizes from 16 to {most} that are multiples of 8, not {head_dim}"
    return None


def deviation(kernel, device: torch.device | str, dtype: torch.dtype, head_dim: int) -> float:
    """How far a kernel is from masked SDPA in float32 on random numbers: the largest difference, in the output and the gradients, as
    a share of the largest value; the whole past, short and longer windows, grouped queries, an odd T."""
    generator, worst = torch.Generator().manual_seed(0), 0.0
    q, k, v, dy = (torch.randn(2, 199, H, head_dim, generator=generator).to(device, dtype) for H in (4, 2, 2, 4))
    for left in (-1, 3, 70):
        results = []
        for f, tensors in ((kernel, (q, k, v)), (sdpa, (q.float(), k.float(), v.float()))):
            leaves = [x.detach().requires_grad_() for x in tensors]
            y = f(*leaves, left)
            results.append([y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))])
        worst = max([worst, *(((a - b).abs().max() / b.abs().max()).nan_to_num(torch.inf).item() for a, b in zip(*results))])
    return worst


def load(name: str, device: torch.device, dtype: torch.dtype, head_dim: int):
    """(kernel, None), or (None, why it cannot be used). Whatever a package throws at its import is a reason, not a crash."""
    if problem := unfit(name, device, dtype, head_dim):
        return None, problem
    try:
        kernel = LOAD[name]()
        off = deviation(kernel, device, dtype, head_dim) if name.startswith("fa") else 0.0
    except UserError:
        raise
    except Exception as e:
        return None, f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else 'no message'}"
    if off > TOLERANCE:
        return None, f"its results are {off:.1%} away from the reference's, {TOLERANCE:.0%} being allowed"
    return kernel, None


def choose(name: str, device: torch.device, dtype: torch.dtype, head_dim: int):
    """(name, reason, kernel); see `attention.choose`."""
    if name not in ("auto", *LOAD):
        raise UserError(f"attention = {name!r} is not allowed; it must be auto, {', '.join(LOAD)}")
    if name != "auto":
        kernel, problem = load(name, device, dtype, head_dim)
        if problem:
            cannot = unfit(name, device, dtype, head_dim)
            mend = "take another, or leave the choice to --attention auto" if cannot else f"install it: {INSTALL[name]}; or leave the choice to --attention auto"
            raise UserError(f"attention = {name!r} cannot be used here: {problem}; {mend}")
        return name, "asked for by name", kernel
    if device.type == "cpu":
        return "blocked", f"a CPU computes windows fastest in blocks of {BLOCK} queries, the whole past by SDPA's causal path", blocked
    if device.type != "cuda" or torch.version.hip:
        return "sdpa", "the faster kernels need an NVIDIA GPU", sdpa
    passed_over = []
    for name in FASTEST_FIRST:
        kernel, problem = load(name, device, dtype, head_dim)
        if kernel:
            return name, "; ".join(["the fastest that this machine has", *passed_over]), kernel
        passed_over.append(f"not {name}: {problem}")
