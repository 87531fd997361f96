"""Cross-entropy from softcapped logits, in pieces, so that the (N, V) logits of a batch never exist at once. Lessons 03, 12.

At depth 24 with 32 rows a device the float32 logits alone would be 8.6 GB. Since the gradient of the loss with respect
to a piece of logits needs only that piece, the forward pass computes it at once and keeps two small results: the
gradients with respect to the hidden states and to the head's weight.
"""

import torch
import torch.nn.functional as F


def softcap(logits: torch.Tensor, cap: float) -> torch.Tensor:
    """Squash logits smoothly into (-cap, cap): cap * tanh(z / cap); cap = 0 is the identity (Gemma 2, arXiv 2408.00118)."""
    return cap * torch.tanh(logits / cap) if cap else logits


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """x in float32, or in float64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cross_entropy_plain(x, weight, targets, cap: float = 0.0, reduction: str = "mean"):
    """The loss as one would write it down: x (N, D), weight (V, D), targets (N,) with -1 ignored. The reference."""
    logits = softcap(at_least_float32(F.linear(x, weight.to(x.dtype))), cap)  # (N, V)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over rows of the cross-entropy, gradients computed piece by piece in the forward pass."""

    @staticmethod
    def forward(ctx, x, weight, targets, cap, chunk):
        w = weight.to(x.dtype)
        total = torch.zeros((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        dx = torch.empty_like(x)
        dw = torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32), device=x.device)
        for start in range(0, x.size(0), chunk):
            piece, t = x[start : start + chunk], targets[start : start + chunk]
            valid = t >= 0
            rows, column = torch.arange(t.numel(), device=t.device), t.clamp_min(0)
            z = at_least_float32(F.linear(piece, w))  # (n, V)
            if cap:
                z = z.div_(cap).tanh_()
                slope = 1 - z.square()  # derivative of the softcap
                z = z.mul_(cap)
            lse = z.logsumexp(dim=-1)  # (n,)
            total += torch.where(valid, lse - z[rows, column], 0.0).sum()
            dz = z.sub_(lse[:, None]).exp_()  # (n, V) probabilities
            dz[rows, column] -= 1  # ... minus one-hot is the gradient of the loss by the capped logits
            if cap:
                dz.mul_(slope)
            dz.mul_(valid[:, None])
            dz = dz.to(x.dtype)
            dx[start : start + chunk] = dz @ w
            dw += (dz.t() @ piece).to(dw.dtype)
        ctx.save_for_backward(dx, dw.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx, grad):
        dx, dw = ctx.saved_tensors
        return (dx * grad).to(dx.dtype), (dw * grad).to(dw.dtype), None, None, None


def cross_entropy(x, weight, targets, cap: float = 0.0, reduction: str = "mean", chunk: int = 1024):
    """Cross-entropy in nats of softcap(x weight^T) against targets, equal to `cross_entropy_plain`, with little memory.

    Shapes: x (N, D) hidden states, weight (V, D), targets (N,) int64 with -1 ignored. reduction "mean" (over the targets
    that count), "sum", or "none" (N,), the last without gradients. At most `chunk` rows of logits exist at a time.
    """
    if reduction == "none":
        with torch.no_grad():
            pieces = range(0, x.size(0), chunk)
            return torch.cat([cross_entropy_plain(x[i : i + chunk], weight, targets[i : i + chunk], cap, "none") for i in pieces])
    total = _ChunkedCrossEntropy.apply(x, weight, targets, cap, chunk)
    return total / (targets >= 0).sum().clamp_min(1) if reduction == "mean" else total
