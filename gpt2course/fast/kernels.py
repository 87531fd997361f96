"""Faster kernels for `attention.attention`, what each of them needs, and the choice between them. Lessons 06 and 12.

A kernel is a function (q, k, v, left) -> y of whole sequences: q and y (B, T, H, D), k and v (B, T, Hkv, D); left is
the window's W, or -1 for the whole past. All kernels compute the same as `attention.sdpa`, except for rounding. A
package is imported only when its kernel is tried.

    blocked  any device   blocks of queries that read only the keys near them; fast on a CPU
    varlen   GPU, sm_80+  torch's own FlashAttention 2 (arXiv 2307.08691), which knows windows
    fa3      Hopper       FlashAttention 3 (arXiv 2407.08608): the package flash_attn_interface, or a build of `kernels`
    fa4      Hopper on    FlashAttention 4, the package flash-attn-4
"""

import importlib
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2course import attention, losses
from gpt2course.attention import constant, sdpa, window_mask
from gpt2course.fast import triton_losses
from gpt2course.files import UserError

# ---- blocked

BLOCK = 64  # queries in a block; measured on a CPU: the scores of so many queries stay in its cache
# Below this many saved products (of one channel of a query and of a key), many small calls are slower than one large
# call (measured)
WORTH = 2**22


@constant
def block_bias(left: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(BLOCK, left + BLOCK), added to the scores of a block: 0 where a query sees the key, -inf elsewhere."""
    visible = window_mask(BLOCK, left + BLOCK, left, device)
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)


def blocked(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """Attention with a window, block by block: each query meets at most W + BLOCK of the T keys.

    `sdpa` is faster for the whole past, where torch skips the future itself, and for small tensors (WORTH).
    """
    B, T, H, D = q.shape
    if left < 0 or B * H * D * T * (T - left - BLOCK) < WORTH:
        return sdpa(q, k, v, left)
    q, k, v = (x.transpose(1, 2) for x in (q, each_head(k, H), each_head(v, H)))  # (B, H, T, D)
    bias = block_bias(left, q.dtype, q.device)
    y = []
    for start in range(0, T, BLOCK):
        first, end = max(0, start - left), min(start + BLOCK, T)
        keys = slice(first, end)  # all keys that a query of this block sees
        near = bias[start - end :, first - end :]  # a block at either end of the text is smaller than `bias`
        y.append(F.scaled_dot_product_attention(q[:, :, start:end], k[:, :, keys], v[:, :, keys], attn_mask=near))
    return torch.cat(y, dim=2).transpose(1, 2)  # (B, T, H, D)


def each_head(x: Tensor, H: int) -> Tensor:
    """Keys or values (B, T, Hkv, D) repeated for each of the H heads of queries, (B, T, H, D)."""
    return x if x.size(2) == H else x.repeat_interleave(H // x.size(2), dim=2)


# ---- kernels of torch and of packages


def load_varlen():
    from torch.nn.attention.varlen import varlen_attn

    def varlen(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        B, T, H, _ = q.shape
        starts = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)  # (B + 1,), where each row starts
        flat = (x.flatten(0, 1) for x in (q, each_head(k, H), each_head(v, H)))  # (B * T, H, D)
        return varlen_attn(*flat, starts, starts, T, T, window_size=(left, 0)).view(q.shape)

    return varlen


# A build for the package `kernels`, which downloads it from the Hugging Face hub. The commit is pinned, because the
# build's code runs on this machine.
FA3_BUILD = ("kernels-community/flash-attn3", "9542c462013476380ce4b395b9ddc0e8118161ee")


def load_fa3():
    if importlib.util.find_spec("flash_attn_interface"):
        module = importlib.import_module("flash_attn_interface")
    else:
        repo, commit = FA3_BUILD
        module = importlib.import_module("kernels").get_kernel(repo, revision=commit, trust_remote_code=[repo])
        module = getattr(module, "flash_attn_interface", module)

    def fa3(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        y = module.flash_attn_func(q, k, v, causal=True, window_size=(left, 0))
        return y[0] if isinstance(y, tuple) else y  # builds before August 2025 return (y, lse)

    return fa3


# FlashAttention 4 registers no operators, so torch.compile would split the model's graph at each call. These two
# operators hide its forward and backward pass. Its windows use None, not -1, for "all of that side". Arguments are
# passed by keyword, because their order changed between its beta versions.


@torch.library.custom_op("gpt2course::fa4", mutates_args=())
def fa4_forward(q: Tensor, k: Tensor, v: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """y (B, T, H, D), and the logarithm of each query's softmax denominator (B, H, T) in float32."""
    from flash_attn.cute import interface

    window = (None if left < 0 else left, 0)
    y, lse = interface.flash_attn_func(q, k, v, causal=True, window_size=window, return_lse=True)[:2]
    return y.contiguous(), lse.contiguous()  # the layout that the fake below promises


@torch.library.custom_op("gpt2course::fa4_backward", mutates_args=())
def fa4_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    from flash_attn.cute import interface

    window = dict(window_size_left=None if left < 0 else left, window_size_right=0)
    gradients = interface._flash_attn_bwd(q=q, k=k, v=v, out=y, dout=dy.contiguous(), lse=lse, causal=True, **window)
    return tuple(x.contiguous() for x in gradients[:3])


@fa4_forward.register_fake
def _(q, k, v, left):
    B, T, H, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((B, H, T), dtype=torch.float32)


def _save(ctx, inputs, output):
    q, k, v, ctx.left = inputs
    ctx.save_for_backward(q, k, v, *output)


fa4_backward.register_fake(lambda dy, q, k, v, *_: tuple(x.new_empty(x.shape) for x in (q, k, v)))
fa4_forward.register_autograd(
    lambda ctx, dy, _: (*fa4_backward(dy, *ctx.saved_tensors, ctx.left), None), setup_context=_save
)


def load_fa4():
    importlib.import_module("flash_attn.cute.interface")
    return lambda q, k, v, left: fa4_forward(q, k, v, left)[0]


# ---- the choice

LOAD = {"sdpa": lambda: sdpa, "blocked": lambda: blocked, "varlen": load_varlen, "fa3": load_fa3, "fa4": load_fa4}
FASTEST_FIRST = ("fa3", "fa4", "varlen", "sdpa")  # on NVIDIA GPUs
MAJORS = {"varlen": range(8, 99), "fa3": range(9, 10), "fa4": range(9, 13)}  # major compute capabilities
INSTALL = {"fa3": "pip install 'kernels>=0.17'", "fa4": "pip install flash-attn-4==4.0.0b36"}
# The largest `deviation` allowed. Rounding to bfloat16 gives 0.004; a window that is off by one token gives much more.
TOLERANCE = 0.03


def unfit(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this kernel cannot work on this device in this dtype, or None."""
    if name in ("sdpa", "blocked"):
        return None
    if device.type != "cuda" or torch.version.hip:
        return f"it needs an NVIDIA GPU, and the device is {device.type}{' (AMD)' if torch.version.hip else ''}"
    major, minor = torch.cuda.get_device_capability(device)
    if major not in MAJORS[name]:
        low, high = MAJORS[name][0], MAJORS[name][-1]
        return f"it needs a GPU of compute capability {low}.0 to {high}.9, and this one has {major}.{minor}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in bfloat16 and float16, not in {str(dtype).removeprefix('torch.')}"
    return None


def deviation(kernel, device: torch.device | str, dtype: torch.dtype, head_dim: int) -> float:
    """The largest difference from `sdpa` in float32, in outputs and gradients, as a share of the largest value.

    On random numbers with an odd T and grouped queries, for the whole past, a short and a longer window.
    """
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
    """(kernel, None), or (None, why it cannot be used), found by trying: a package may fail in any way."""
    if problem := unfit(name, device, dtype):
        return None, problem
    try:
        kernel = LOAD[name]()
        off = deviation(kernel, device, dtype, head_dim) if name in MAJORS else 0.0
    except Exception as e:
        hint = f"; to install it: {INSTALL[name]}" if isinstance(e, ImportError) and name in INSTALL else ""
        return None, f"{type(e).__name__}: {(str(e).strip() or 'no message').splitlines()[0]}{hint}"
    if off > TOLERANCE:
        return None, f"its results differ from the reference by {off:.1%}; {TOLERANCE:.0%} is allowed"
    return kernel, None


def choose(
    name: str = "auto", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 128
) -> tuple[str, str]:
    """Install the kernel that `attention` uses on this type of device from now on; returns its name and the reason.

    name: a key of LOAD, or auto for the fastest kernel that works here. The choice changes rounding and speed only.
    """
    device = torch.device(device)
    if name not in ("auto", *LOAD):
        raise UserError(f"attention = {name!r} is not allowed; it must be auto, {', '.join(LOAD)}")
    reason = "chosen by name"
    if name != "auto":
        kernel, problem = load(name, device, dtype, head_dim)
        if problem:
            raise UserError(f"attention = {name!r} cannot be used here: {problem}; choose another, or --attention auto")
    elif device.type == "cpu":
        name, kernel, reason = "blocked", blocked, "the fastest on a CPU"
    elif device.type != "cuda" or torch.version.hip:
        name, kernel, reason = "sdpa", sdpa, "the faster kernels need an NVIDIA GPU"
    else:
        passed_over = []
        for name in FASTEST_FIRST:
            kernel, problem = load(name, device, dtype, head_dim)
            if kernel:
                break
            passed_over.append(f"not {name}: {problem}")
        reason = "; ".join(["the fastest that works here", *passed_over])
    attention.install(device.type, kernel)
    return name, reason


def choose_loss(device: torch.device | str, dtype: torch.dtype) -> str:
    """Install the Triton step of the loss on CUDA where Triton is installed; returns "triton" or "torch"."""
    device = torch.device(device)
    triton = device.type == "cuda" and dtype != torch.float64 and importlib.util.find_spec("triton") is not None
    losses.install(device.type, triton_losses.losses_and_gradient_ if triton else losses.losses_and_gradient_)
    return "triton" if triton else "torch"
