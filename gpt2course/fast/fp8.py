"""Linear layers whose products run in 8-bit floats, an option for GPUs that have them (H100, RTX 40, newer). Lesson 12.

    y  = x W^T    e4m3 by e4m3    3 bits of mantissa, up to 448: activations and weights
    dx = g W      e5m2 by e4m3    2 bits of mantissa, up to 57344: gradients
    dW = g^T x    e5m2 by e4m3, or in the compute dtype

One scale for a whole tensor (tensorwise) moves its largest value near the top of the format (arXiv 2209.05433). Scales
are powers of two, so that scaling itself rounds nothing. Which layers: the rule of karpathy/nanochat, commit 92d63d4,
except that the head, which the loss multiplies by itself (losses.py), stays in the compute dtype.

    eight = fp8.convert(model)   # names, parameters and checkpoints stay what they are
    eight.refresh()              # after loading and every optimizer step: weights are cast once, not in each micro-step
    with eight.off(): ...        # evaluation, in the compute dtype
"""

import contextlib

import torch
import torch.nn as nn

from gpt2course.files import UserError
from gpt2course.model import Linear

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
HISTORY = 16  # optimizer steps whose largest values a delayed scale looks back on
MARGIN = 2.0  # a delayed scale leaves room for values this many times larger; beyond, they are cut off


def scale_for(amax: torch.Tensor, dtype: torch.dtype, margin: float = 1.0) -> torch.Tensor:
    """The largest power of two by which values up to margin * amax can be multiplied and still fit; 0-d float32.

    NaN where amax is infinite or NaN, so that nothing hides in the cast; zeros are scaled as values of 1e-12 would be.
    """
    top = (amax.float() * margin).clamp_min(1e-12)  # clamp lets NaN through
    exponent = torch.floor(torch.log2(torch.finfo(dtype).max / top))
    return torch.where(top.isfinite(), torch.exp2(exponent), torch.nan)


def cast(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x times its scale in 8 bits; what does not fit is cut off, NaN stays NaN."""
    top = torch.finfo(dtype).max
    return (x * scale).clamp(-top, top).to(dtype)


@torch._dynamo.allow_in_graph  # one node for Dynamo; the compiler below it still fuses the casts with their neighbours
class _Product(torch.autograd.Function):
    """x (M, K) by weight (N, K), of which only the 8-bit forms w8 (N, K) and w8t (K, N) are read, to y (M, N)."""

    @staticmethod
    def forward(ctx, x, weight, w8, w8t, w_scale, x_scale, x_amax, g_scale, g_amax, dw_in_fp8):
        ctx.dw_in_fp8, ctx.dtypes, ctx.g_amax = dw_in_fp8, (x.dtype, weight.dtype), g_amax
        x_scale = _note(x, x_scale, x_amax, E4M3)
        x8 = cast(x, x_scale, E4M3)
        ctx.save_for_backward(x8 if dw_in_fp8 else x, x_scale, w8t, w_scale, g_scale)
        scales = dict(scale_a=1 / x_scale, scale_b=1 / w_scale)
        return torch._scaled_mm(x8, w8.t(), **scales, out_dtype=x.dtype, use_fast_accum=True)

    @staticmethod
    def backward(ctx, g):
        x, x_scale, w8t, w_scale, g_scale = ctx.saved_tensors
        dtype, weight_dtype = ctx.dtypes
        g = g.contiguous()
        g_scale = _note(g, g_scale, ctx.g_amax, E5M2)
        g8 = cast(g, g_scale, E5M2)  # (M, N)
        dx = torch._scaled_mm(g8, w8t.t(), scale_a=1 / g_scale, scale_b=1 / w_scale, out_dtype=dtype)  # (M, K)
        if ctx.dw_in_fp8:  # the kernels want the rows of the first factor and the columns of the second in one piece
            g8t, x8 = g8.t().contiguous(), x.t().contiguous().t()
            dw = torch._scaled_mm(g8t, x8, scale_a=1 / g_scale, scale_b=1 / x_scale, out_dtype=weight_dtype)  # (N, K)
        else:
            dw = (g.t() @ x).to(weight_dtype)
        return dx, dw, *[None] * 8


def _note(x, scale, amax, dtype):
    """The scale to cast x with: the one given (delayed), or x's own (dynamic). x's largest value is noted in amax."""
    largest = x.detach().abs().amax().float()
    if amax is not None:
        amax.copy_(torch.maximum(amax, largest))
    return scale_for(largest, dtype) if scale is None else scale


class Float8Linear(Linear):
    """A Linear that `convert` has turned; the float32 weight stays the parameter, under its name."""

    def forward(self, x):
        if not self.active:
            return super().forward(x)
        flat = x.reshape(-1, x.size(-1)).contiguous()  # (M, K)
        if flat.size(0) % 16:
            raise ValueError(f"fp8 needs a multiple of 16 tokens in a forward pass, got {flat.size(0)}")
        if not torch.compiler.is_compiling() and self.weight._version != self.cast_version:
            raise RuntimeError(
                "a weight has changed since it was cast to fp8; "
                "call refresh() of what fp8.convert returned after each change"
            )
        x_scale, g_scale = (None, None) if self.dynamic else (self.x_scale, self.g_scale)
        weights = self.weight, self.w8, self.w8t, self.w_scale
        y = _Product.apply(flat, *weights, x_scale, self.x_amax, g_scale, self.g_amax, self.dw_in_fp8)
        return y.view(*x.shape[:-1], -1)


class Float8:
    """What `convert` returns: the converted layers by name, and the few things to do with all of them."""

    def __init__(self, linears: dict[str, Float8Linear], delayed: bool):
        self.linears, self.delayed = linears, delayed
        self.history = []  # of each step the largest values of x and of g, (2, layers)

    @torch.no_grad()
    def cast_weights(self) -> None:
        """Cast the weights as they are now."""
        for m in self.linears.values():
            m.w_scale.copy_(scale_for(m.weight.abs().amax(), E4M3))
            m.w8.copy_(cast(m.weight, m.w_scale, E4M3))
            m.w8t.copy_(m.w8.t())
            m.cast_version = m.weight._version

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the weights, and move delayed scales to the largest values of the last HISTORY steps."""
        self.cast_weights()
        if not self.delayed:
            return
        layers = list(self.linears.values())
        amax = torch.stack([torch.stack([m.x_amax for m in layers]), torch.stack([m.g_amax for m in layers])])
        self.history = [*self.history, amax][-HISTORY:]
        top = torch.stack(self.history).amax(0)  # (2, layers)
        # A layer behind one that starts at 0 has seen no gradient yet, and takes the largest of all layers
        top = torch.where(top == 0, top.amax(1, keepdim=True), top)
        for m, x, g in zip(layers, scale_for(top[0], E4M3, MARGIN), scale_for(top[1], E5M2, MARGIN)):
            m.x_scale.copy_(x)
            m.g_scale.copy_(g)
        self._forget()

    def _forget(self):
        """No largest values noted, as at the beginning of a step."""
        for m in self.linears.values():
            m.x_amax.zero_()
            m.g_amax.zero_()

    @contextlib.contextmanager
    def calibrate(self):
        """For delayed scales, once before the first step and after resuming: what runs in here takes its scales from
        its own values, and they are the first history. They are not in a checkpoint."""
        self.history = []
        if self.delayed:
            self._forget()
        self.cast_weights()
        with self._set("dynamic", True):
            yield
        self.refresh()

    def off(self):
        """A context in which the layers compute as if never converted, without recompiling what was compiled on."""
        return self._set("active", False)

    @contextlib.contextmanager
    def _set(self, name, value):
        before = [getattr(m, name) for m in self.linears.values()]
        for m in self.linears.values():
            setattr(m, name, value)
        try:
            yield
        finally:
            for m, old in zip(self.linears.values(), before):
                setattr(m, name, old)

    def describe(self) -> dict:
        """For a run's config.json."""
        first = next(iter(self.linears.values()))
        return {
            "layers": len(self.linears),
            "scaling": "delayed" if self.delayed else "dynamic",
            "dw": "fp8" if first.dw_in_fp8 else "compute dtype",
        }


def check_available(device: torch.device) -> None:
    """UserError where this device or this torch cannot multiply in fp8: found by trying."""
    try:
        one, a = torch.ones((), device=device), torch.ones(16, 16, device=device)
        for left in (E4M3, E5M2):
            torch._scaled_mm(a.to(left), a.to(E4M3).t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    except (RuntimeError, TypeError, ValueError, AttributeError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        raise UserError(
            f"fp8 cannot be had on {device} with torch {torch.__version__} ({reason}); "
            "it needs a GPU of compute capability 8.9 or more, such as an H100 or an RTX 4090. Leave out --fp8"
        ) from None


def fits(linear: nn.Module) -> bool:
    """Whether a layer is converted: both sides multiples of 16, as the hardware asks, and at least 128 (nanochat)."""
    return isinstance(linear, Linear) and all(n % 16 == 0 and n >= 128 for n in linear.weight.shape)


def convert(model, delayed: bool = False, dw_in_fp8: bool = True) -> Float8:
    """Turn the linear layers of the model's blocks that fit into fp8 ones, in place, and cast their weights.

    The weights must be on their device and filled. delayed: scales come from earlier steps (arXiv 2209.05433), so that
    a cast needs no pass of its own to find the largest value; see `Float8.calibrate`. dw_in_fp8: False keeps x in the
    compute dtype for dW = g^T x. UserError where the device has no fp8 or no layer fits.
    """
    blocks = getattr(model, "blocks", nn.Module())
    linears = {name: m for name, m in blocks.named_modules(prefix="blocks") if fits(m)}
    if not linears:
        raise UserError(
            "fp8: no layer of this model has both sides multiples of 16 and at least 128; "
            "choose a larger depth, or leave out --fp8"
        )
    device = next(iter(linears.values())).weight.device
    check_available(device)
    for m in linears.values():
        m.__class__ = Float8Linear  # the same module, so every reference to it and to its parameter holds
        m.active, m.dynamic, m.dw_in_fp8 = True, not delayed, dw_in_fp8
        N, K = m.weight.shape
        buffers = {
            "w8": torch.empty(N, K, dtype=E4M3, device=device),
            "w8t": torch.empty(K, N, dtype=E4M3, device=device),
            "w_scale": torch.ones((), device=device),
        }
        for name in ("x", "g"):  # a delayed scale is NaN until there is a history
            buffers[f"{name}_scale"] = torch.full((), torch.nan, device=device)
            buffers[f"{name}_amax"] = torch.zeros((), device=device) if delayed else None
        for name, tensor in buffers.items():
            m.register_buffer(name, tensor, persistent=False)  # not in checkpoints
    eight = Float8(linears, delayed)
    eight.cast_weights()
    return eight
