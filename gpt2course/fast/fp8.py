"""Linear layers whose products run in 8-bit floats, for GPUs that have them (H100, RTX 40 and newer). Lesson 12.

    y  = x W^T    e4m3 by e4m3    3 bits of mantissa, up to 448: activations and weights
    dx = g W      e5m2 by e4m3    2 bits of mantissa, up to 57344: gradients
    dW = g^T x    e5m2 by e4m3

One scale per tensor moves its largest value near the top of the format (arXiv 2209.05433). It is computed from the
tensor itself (dynamic scaling) and is a power of two, so that scaling rounds nothing. Layers are chosen as in
karpathy/nanochat, commit 92d63d4, except that the head, which losses.py multiplies, stays in the compute dtype.

    eight = fp8.convert(model)   # names, parameters and checkpoints stay the same
    eight.refresh()              # after loading and after each optimizer step; one cast serves all micro-steps
    with eight.off(): ...        # evaluation, in the compute dtype
"""

import contextlib

import torch
import torch.nn as nn

from gpt2course.files import UserError
from gpt2course.model import Linear

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def scale_for(x: torch.Tensor, dtype: torch.dtype, top: torch.Tensor | None = None) -> torch.Tensor:
    """The largest power of two by which x can be multiplied so that all its values fit into dtype; 0-d float32.

    0 if x holds infinity, NaN if it holds NaN: both make the product NaN, so that neither disappears in the cast.
    top: the largest absolute value where it is known, or those of several tensors.
    """
    top = x.detach().abs().amax() if top is None else top
    top = top.float().clamp_min(1e-12)  # all zeros: as if the largest value were 1e-12
    return torch.exp2(torch.floor(torch.log2(torch.finfo(dtype).max / top)))


def cast(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x times its scale in 8 bits. The clamp guards against rounding above the largest value; NaN stays NaN."""
    top = torch.finfo(dtype).max
    return (x * scale).clamp(-top, top).to(dtype)


@torch._dynamo.allow_in_graph  # one node for Dynamo; Inductor still fuses the casts with the operations around them
class _Product(torch.autograd.Function):
    """y (M, N) of x (M, K) and weight (N, K). Only the weight's 8-bit copies w8 (N, K) and w8t (K, N) are read."""

    @staticmethod
    def forward(ctx, x, weight, w8, w8t, w_scale):
        x_scale = scale_for(x, E4M3)
        x8 = cast(x, x_scale, E4M3)
        ctx.dtypes = x.dtype, weight.dtype
        ctx.save_for_backward(x8, x_scale, w8t, w_scale)
        scales = dict(scale_a=1 / x_scale, scale_b=1 / w_scale)
        return torch._scaled_mm(x8, w8.t(), **scales, out_dtype=x.dtype, use_fast_accum=True)

    @staticmethod
    def backward(ctx, g):
        x8, x_scale, w8t, w_scale = ctx.saved_tensors
        dtype, weight_dtype = ctx.dtypes
        g_scale = scale_for(g, E5M2)
        g8 = cast(g.contiguous(), g_scale, E5M2)  # (M, N)
        dx = torch._scaled_mm(g8, w8t.t(), scale_a=1 / g_scale, scale_b=1 / w_scale, out_dtype=dtype)  # (M, K)
        # The kernels need the first factor in row-major order and the second in column-major order
        g8t, x8 = g8.t().contiguous(), x8.t().contiguous().t()
        dw = torch._scaled_mm(g8t, x8, scale_a=1 / g_scale, scale_b=1 / x_scale, out_dtype=weight_dtype)  # (N, K)
        return dx, dw, None, None, None


class Float8Linear(Linear):
    """A Linear that `convert` has changed. The float32 weight is still the parameter, under the same name."""

    def forward(self, x):
        if not self.active:
            return super().forward(x)
        flat = x.reshape(-1, x.size(-1)).contiguous()  # (M, K)
        if flat.size(0) % 16:
            raise ValueError(f"fp8 needs a multiple of 16 tokens in a forward pass, got {flat.size(0)}")
        if not torch.compiler.is_compiling() and self.weight._version != self.cast_version:
            raise RuntimeError("a weight changed after its cast to fp8; call refresh() after each change")
        y = _Product.apply(flat, self.weight, self.w8, self.w8t, self.w_scale)
        return y.view(*x.shape[:-1], -1)


class Float8:
    """What `convert` returns: the converted layers by name."""

    def __init__(self, linears: dict[str, Float8Linear]):
        self.linears = linears
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the weights as they are now, all at once: one by one it is 4,000 small operations at depth 24."""
        layers = list(self.linears.values())
        weights, top = [m.weight for m in layers], torch.finfo(E4M3).max
        scales = scale_for(None, E4M3, torch.stack(torch._foreach_norm(weights, torch.inf))).unbind()
        torch._foreach_copy_([m.w_scale for m in layers], scales)
        scaled = torch._foreach_mul(weights, scales)  # as in `cast`
        torch._foreach_clamp_min_(scaled, -top)
        torch._foreach_clamp_max_(scaled, top)
        torch._foreach_copy_([m.w8 for m in layers], scaled)
        torch._foreach_copy_([m.w8t for m in layers], [m.w8.t() for m in layers])
        for m in layers:
            m.cast_version = m.weight._version

    @contextlib.contextmanager
    def off(self):
        """Inside, the layers compute in the compute dtype; a compiled model is not compiled again afterwards."""
        for m in self.linears.values():
            m.active = False
        try:
            yield
        finally:
            for m in self.linears.values():
                m.active = True


def check_available(device: torch.device) -> None:
    """UserError if this device or this torch cannot multiply in fp8, found by trying."""
    try:
        one, a = torch.ones((), device=device), torch.ones(16, 16, device=device)
        for left in (E4M3, E5M2):
            torch._scaled_mm(a.to(left), a.to(E4M3).t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    except (RuntimeError, TypeError, ValueError, AttributeError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        raise UserError(
            f"fp8 does not work on {device} with torch {torch.__version__} ({reason}); "
            "it needs a GPU of compute capability 8.9 or more, such as an H100 or an RTX 4090. Leave out --fp8"
        ) from None


def fits(linear: nn.Module) -> bool:
    """Whether a layer is converted: both sides multiples of 16, as the hardware needs, and at least 128 (nanochat)."""
    return isinstance(linear, Linear) and all(n % 16 == 0 and n >= 128 for n in linear.weight.shape)


def convert(model) -> Float8:
    """Change the linear layers of the model's blocks that fit into fp8 layers, in place, and cast their weights.

    The weights must be on their device and filled. UserError if the device has no fp8 or no layer fits.
    """
    blocks = getattr(model, "blocks", nn.Module())
    linears = {name: m for name, m in blocks.named_modules(prefix="blocks") if fits(m)}
    if not linears:
        problem = "no layer of this model has both sides multiples of 16 and at least 128"
        raise UserError(f"fp8: {problem}; choose a larger depth, or leave out --fp8 (recipe gpt2 has none)")
    device = next(iter(linears.values())).weight.device
    check_available(device)
    for m in linears.values():
        m.__class__ = Float8Linear  # the same module, so all references to it and to its parameter stay valid
        m.active = True
        N, K = m.weight.shape
        m.register_buffer("w8", torch.empty(N, K, dtype=E4M3, device=device), persistent=False)  # not in checkpoints
        m.register_buffer("w8t", torch.empty(K, N, dtype=E4M3, device=device), persistent=False)
        m.register_buffer("w_scale", torch.ones((), device=device), persistent=False)
    return Float8(linears)
