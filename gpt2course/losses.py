"""Cross-entropy of softcapped logits in pieces: the (N, V) logits of a batch never exist at once. Lesson 12.

At depth 24 with 32 rows per device the float32 logits alone would take 8.6 GB. The gradient with respect to a piece of
the logits needs only that piece. So the forward pass computes it at once and keeps two small results: the gradients
with respect to the hidden states and to the head's weight.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Bytes of the logits that exist at a time. On a CPU they should stay in its cache. On a GPU a product of thousands of
# rows keeps it busy, and each piece costs one more pass over the gradient of the weight.
PIECE_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
# Logits that one pass of `losses_and_gradient_` handles at a time. On a CPU this is per thread: 1 MB, about the size of
# a core's own cache.
BLOCK = {"cpu": 1 << 18, "cuda": 1 << 25}


def softcap(logits: Tensor, cap: float) -> Tensor:
    """Squash logits into (-cap, cap): cap * tanh(z / cap); cap = 0 is the identity (Gemma 2, arXiv 2408.00118)."""
    return cap * torch.tanh(logits / cap) if cap else logits


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cross_entropy_plain(x, weight, targets, cap: float = 0.0, reduction: str = "mean"):
    """The reference, written from the definition: x (N, C), weight (V, C), targets (N,) with -1 ignored."""
    logits = softcap(at_least_float32(F.linear(x, weight.to(x.dtype))), cap)  # (N, V)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)


def losses_and_gradient_(z: Tensor, targets: Tensor, losses: Tensor, share: Tensor, cap: float, gradient: bool) -> None:
    """Fill losses (n,); if `gradient`, replace logits z (n, V) by the gradient of share * sum(losses). share is 0-d.

    The softcap is cap * tanh(z / cap) = 2 * cap * sigmoid(2 * z / cap) - cap. Softmax ignores the constant -cap, and
    sigmoid is several times faster than tanh on a CPU. A block of rows passes through all steps before the next block
    starts, so each step finds its input in the processor's cache.
    """
    block = BLOCK["cpu"] * torch.get_num_threads() if z.device.type == "cpu" else BLOCK["cuda"]
    rows = max(1, block // z.size(1))
    for z_, target, loss in zip(z.split(rows), targets[:, None].split(rows), losses[:, None].split(rows)):
        valid, column = target >= 0, target.clamp_min(0)  # (r, 1)
        y = z_.to(losses.dtype)  # (r, V)
        if cap:
            y = y.mul_(2 / cap).sigmoid_()
        f = y * (2 * cap) if cap else y  # the softcap plus the constant cap
        p = torch.softmax(f, dim=-1)
        # log sum exp f = max f - log max p: the largest probability is never 0, so no logit can overflow
        lse = f.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log_()
        loss.copy_((lse - f.gather(1, column)).masked_fill_(~valid, 0.0))
        if not gradient:
            continue
        p.scatter_(1, column, p.gather(1, column) - 1)  # gradient with respect to f: probabilities minus one-hot
        if cap:  # times df/dz = 1 - tanh^2 = 4 * sigmoid * (1 - sigmoid)
            torch.ops.aten.sigmoid_backward.grad_input(p.mul_(valid * (share * 4)), y, grad_input=z_)
        else:
            torch.mul(p, valid * share, out=z_)


_steps = {}  # device type -> the function that is used in place of losses_and_gradient_


def install(device_type: str, step) -> None:
    """From now on use this function in place of `losses_and_gradient_` on this type of device ("cpu", "cuda")."""
    _steps[device_type] = step


@torch.library.custom_op("gpt2course::cross_entropy", mutates_args=())
def _cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, share: Tensor, cap: float, chunk: int, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (N,), and the gradients of share * their sum with respect to x and weight; empty if not `gradient`.

    One opaque operator for torch.compile, which would otherwise unroll the loop over pieces into thousands of nodes.
    """
    step = _steps.get(x.device.type, losses_and_gradient_)
    N, w = x.size(0), weight.to(x.dtype)
    losses, dx, dw = _outputs(x, weight, gradient)
    dw.zero_()
    buffer = x.new_empty(min(chunk, N), w.size(0))  # (chunk, V), used again for every piece
    for start in range(0, N, chunk):
        part = slice(start, start + chunk)
        piece = x[part]  # (n, C)
        z = buffer[: len(piece)]  # (n, V)
        torch.mm(piece, w.t(), out=z)
        step(z, targets[part], losses[part], share, cap, gradient)
        if gradient:
            torch.mm(z, w, out=dx[part])
            if dw.dtype == x.dtype:
                dw.addmm_(z.t(), piece)
            else:
                dw.add_(z.t() @ piece)  # float32 sums of bfloat16 products
    return losses, dx, dw.to(weight.dtype)


def _outputs(x, weight, gradient):
    """Empty losses, dx and dw. The losses and dw are sums, so they have at least float32."""
    losses = x.new_empty(x.size(0), dtype=torch.promote_types(x.dtype, torch.float32))
    dx = x.new_empty(x.shape if gradient else 0)
    dw = x.new_empty(weight.shape if gradient else 0, dtype=torch.promote_types(weight.dtype, torch.float32))
    return losses, dx, dw


@_cross_entropy.register_fake
def _(x, weight, targets, share, cap, chunk, gradient):
    losses, dx, dw = _outputs(x, weight, gradient)
    return losses, dx, dw.to(weight.dtype)


class _Loss(torch.autograd.Function):
    """share * the sum of all losses. The forward pass computes the gradients; the backward pass only scales them."""

    @staticmethod
    def forward(ctx, x, weight, targets, share, cap, chunk):
        losses, dx, dw = _cross_entropy(x, weight, targets, share, cap, chunk, any(ctx.needs_input_grad))
        ctx.save_for_backward(dx, dw)
        return losses.sum() * share

    @staticmethod
    def backward(ctx, grad):
        dx, dw = ctx.saved_tensors
        return (dx * grad).to(dx.dtype), (dw * grad).to(dw.dtype), None, None, None, None


def cross_entropy(x, weight, targets, cap: float = 0.0, reduction: str = "mean", chunk: int | None = None):
    """Cross-entropy in nats of softcap(x weight^T) against targets; equal to `cross_entropy_plain`, with less memory.

    x (N, C) hidden states, weight (V, C), targets (N,) int64 with -1 ignored. reduction: "mean" over the targets that
    count (0 if there are none), "sum", or "none" (N,) without gradients. At most `chunk` rows of logits exist at a
    time, in the dtype of x; by default as many as fit in PIECE_BYTES.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction {reduction!r} does not exist; there are mean, sum and none")
    if not chunk:
        row = weight.size(0) * x.element_size()  # bytes of one row of logits
        chunk = max(1, PIECE_BYTES.get(x.device.type, PIECE_BYTES["cuda"]) // row)
    share = torch.ones((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    if reduction == "none":
        return _cross_entropy(x.detach(), weight.detach(), targets, share, float(cap), chunk, False)[0]
    if reduction == "mean":  # the gradient is multiplied by 1 / n before it is rounded to the dtype of x, not after
        share = share / (targets >= 0).sum().clamp_min(1)
    if not torch.is_grad_enabled():
        x, weight = x.detach(), weight.detach()
    return _Loss.apply(x, weight, targets, share, float(cap), chunk)
