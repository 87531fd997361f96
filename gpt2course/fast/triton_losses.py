"""The cross-entropy between its two matrix products as one Triton kernel for CUDA. Lesson 12.

losses.losses_and_gradient_ makes a dozen passes over the logits. This kernel reads a row of logits from memory once
and from the GPU's cache a second time, and writes the gradient in its place.
"""

import functools

from torch import Tensor

# Capped logits f are in (0, 2 cap). Up to this cap exp(f - cap) neither overflows nor vanishes, so the kernel needs no
# running maximum.
BOUNDED = 40.0


@functools.cache
def _kernel():
    global tl  # Triton looks names up in this module
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(
        z_ptr, row_stride, target_ptr, loss_ptr, share_ptr, V, cap,
        CAPPED: tl.constexpr, RUNNING: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """One program per row. f is a logit plus a constant; lane i of a block sums the columns i, i + BLOCK, ..."""
        row = tl.program_id(0).to(tl.int64)  # row * V can exceed 2^31
        z_ptr += row * row_stride
        target = tl.load(target_ptr + row)
        columns = tl.arange(0, BLOCK)
        largest = tl.full((BLOCK,), -1e30, tl.float32) if RUNNING else tl.full((BLOCK,), 0.0, tl.float32) + cap
        total = tl.zeros((BLOCK,), tl.float32)
        own = tl.zeros((BLOCK,), tl.float32)  # f of the target
        for start in range(0, V, BLOCK):
            at = start + columns
            f = tl.load(z_ptr + at, mask=at < V, other=-float("inf")).to(tl.float32)
            if CAPPED:
                f = tl.where(at < V, 2 * cap * tl.sigmoid(2 / cap * f), -float("inf"))  # the softcap plus cap
            if RUNNING:
                larger = tl.maximum(largest, f)
                total *= tl.exp(largest - larger)
                largest = larger
            total += tl.exp(f - largest)
            own += tl.where(at == target, f, 0.0)
        top = tl.max(largest, 0)
        lse = top + tl.log(tl.sum(total * tl.exp(largest - top), 0))
        tl.store(loss_ptr + row, tl.where(target >= 0, lse - tl.sum(own, 0), 0.0))
        if GRADIENT:
            weight = tl.where(target >= 0, tl.load(share_ptr), 0.0)
            for start in range(0, V, BLOCK):
                at = start + columns
                f = tl.load(z_ptr + at, mask=at < V, other=0.0).to(tl.float32)
                slope = weight
                if CAPPED:
                    y = tl.sigmoid(2 / cap * f)
                    f = 2 * cap * y
                    slope = 4 * y * (1 - y) * weight
                gradient = (tl.exp(f - lse) - tl.where(at == target, 1.0, 0.0)) * slope
                tl.store(z_ptr + at, gradient.to(z_ptr.dtype.element_ty), mask=at < V)

    return kernel


def losses_and_gradient_(
    z: Tensor, targets: Tensor, losses: Tensor, share: Tensor, cap: float, gradient: bool, block: int = 4096
) -> None:
    """Like losses.losses_and_gradient_. z (n, V) bfloat16 or float32, any row stride; losses and share float32."""
    n, V = z.shape
    if n:
        settings = dict(CAPPED=cap > 0, RUNNING=not 0 < cap <= BOUNDED, GRADIENT=gradient, BLOCK=block, num_warps=8)
        _kernel()[(n,)](z, z.stride(0), targets, losses, share, V, cap, **settings)
