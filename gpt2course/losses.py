"""Cross-entropy from softcapped logits, in pieces: the (N, V) logits of a batch never exist at once. Lessons 03, 12.

At depth 24 with 32 rows a device the float32 logits alone would be 8.6 GB. Since the gradient of the loss with respect
to a piece of logits needs only that piece, the forward pass computes it at once and keeps two small results: the
gradients with respect to the hidden states and to the head's weight.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Bytes of the logits that exist at a time. On a CPU they should stay in its cache; on a GPU a product of thousands of
# rows keeps it busy, and each piece costs one more pass over the gradient of the weight.
PIECE_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
BLOCK = {"cpu": 1 << 18, "cuda": 1 << 25}  # values of scratch; on a CPU for each thread: 1 MB, about a core's own cache


def softcap(logits: Tensor, cap: float) -> Tensor:
    """Squash logits into (-cap, cap): cap * tanh(z / cap); cap = 0 is the identity (Gemma 2, arXiv 2408.00118)."""
    return cap * torch.tanh(logits / cap) if cap else logits


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cross_entropy_plain(x, weight, targets, cap: float = 0.0, reduction: str = "mean"):
    """The loss as one would write it down: x (N, D), weight (V, D), targets (N,) with -1 ignored. The reference."""
    logits = softcap(at_least_float32(F.linear(x, weight.to(x.dtype))), cap)  # (N, V)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)


def losses_and_gradient_(z: Tensor, targets: Tensor, losses: Tensor, share: Tensor, cap: float, gradient: bool) -> None:
    """Fill losses (n,), and if `gradient` replace logits z (n, V) by the gradient of share * sum(losses), share 0-d.

    The softcap is cap * tanh(z / cap) = 2 * cap * sigmoid(2 * z / cap) - cap, whose last term no softmax sees, and
    sigmoid is several times faster than tanh on a CPU. Rows are taken a few at a time, so that what one pass writes
    the next finds in the cache.
    """
    (n, V), dtype = z.shape, losses.dtype
    block = BLOCK["cpu"] * torch.get_num_threads() if z.device.type == "cpu" else BLOCK["cuda"]
    rows = min(n, max(1, block // V))
    scratch = [torch.empty((rows, V), dtype=dtype, device=z.device) for _ in range(2 + (z.dtype != dtype))]
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        y, t = z[part], targets[part, None]  # (r, V), (r, 1)
        f, p, *wide = (s[: len(y)] for s in scratch)
        if wide:  # from bfloat16
            y = wide[0].copy_(y)
        if cap:
            torch.mul(y.mul_(2 / cap).sigmoid_(), 2 * cap, out=f)  # y is now the sigmoid, f the softcap plus cap
        else:
            f = y
        torch.softmax(f, dim=-1, out=p)
        valid, column = t >= 0, t.clamp_min(0)
        # log sum exp f = max f - log max p: the largest probability is never 0, so this holds for any logits
        loss = f.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log_() - f.gather(1, column)
        losses[part] = loss.masked_fill_(~valid, 0.0)[:, 0]
        if not gradient:
            continue
        p.scatter_(1, column, p.gather(1, column) - 1)  # the gradient by f: probabilities minus one-hot
        if cap:  # and by the logit: times 1 - tanh^2 = 4 * sigmoid * (1 - sigmoid)
            p.mul_(valid * (share * 4))
            torch.ops.aten.sigmoid_backward.grad_input(p, y, grad_input=z[part])
        else:
            z[part] = p.mul_(valid * share)


_installed = {}  # device type -> another function in the place of losses_and_gradient_


def install(device_type: str, step) -> None:
    """Use this step between the matrix products on this type of device; fast/triton_losses.py has one for CUDA."""
    _installed[device_type] = step


@torch.library.custom_op("gpt2course::cross_entropy", mutates_args=())
def _cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, share: Tensor,
    cap: float, chunk: int, need_dx: bool, need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Losses (N,) and the gradients of share * their sum by x and by weight, each empty where it is not needed.

    One opaque node for torch.compile: its trace would unroll the loop over pieces into thousands of nodes, and there
    is nothing around it to fuse with.
    """
    step = _installed.get(x.device.type, losses_and_gradient_)
    N, w = x.size(0), weight.to(x.dtype)
    losses, dx, dw = _outputs(x, weight, need_dx, need_dw)
    dw.zero_()
    buffer = x.new_empty(min(chunk, N), w.size(0))
    for start in range(0, N, chunk):
        part = slice(start, start + chunk)
        piece = x[part]  # (n, D)
        z = buffer[: len(piece)]  # (n, V)
        torch.mm(piece, w.t(), out=z)
        step(z, targets[part], losses[part], share, cap, need_dx or need_dw)
        if need_dx:
            torch.mm(z, w, out=dx[part])
        if need_dw and dw.dtype == x.dtype:
            dw.addmm_(z.t(), piece)
        elif need_dw:
            dw.add_(z.t() @ piece)  # float32 sums of bfloat16 products
    return losses, dx, dw.to(weight.dtype)


def _outputs(x, weight, need_dx, need_dw):
    """Room for losses, dx and dw, the losses and dw in at least float32."""
    losses = x.new_empty(x.size(0), dtype=torch.promote_types(x.dtype, torch.float32))
    dx = x.new_empty(x.shape if need_dx else 0)
    dw = x.new_empty(weight.shape if need_dw else 0, dtype=torch.promote_types(weight.dtype, torch.float32))
    return losses, dx, dw


@_cross_entropy.register_fake
def _(x, weight, targets, share, cap, chunk, need_dx, need_dw):
    losses, dx, dw = _outputs(x, weight, need_dx, need_dw)
    return losses, dx, dw.to(weight.dtype)


class _Loss(torch.autograd.Function):
    """share * the sum of all losses; its gradients are there when the forward pass is done."""

    @staticmethod
    def forward(ctx, x, weight, targets, share, cap, chunk):
        need_dx, need_dw = ctx.needs_input_grad[:2]
        losses, dx, dw = _cross_entropy(x, weight, targets, share, cap, chunk, need_dx, need_dw)
        ctx.save_for_backward(dx, dw)
        return losses.sum() * share

    @staticmethod
    def backward(ctx, grad):
        dx, dw = ctx.saved_tensors
        need_dx, need_dw = ctx.needs_input_grad[:2]
        dx = (dx * grad).to(dx.dtype) if need_dx else None
        dw = (dw * grad).to(dw.dtype) if need_dw else None
        return dx, dw, None, None, None, None


def cross_entropy(x, weight, targets, cap: float = 0.0, reduction: str = "mean", chunk: int | None = None):
    """Cross-entropy in nats of softcap(x weight^T) against targets, equal to `cross_entropy_plain`, with little memory.

    Shapes: x (N, D) hidden states, weight (V, D), targets (N,) int64 with -1 ignored. reduction "mean" (over the
    targets that count; 0 where none does), "sum", or "none" (N,), the last without gradients. At most `chunk` rows of
    logits exist at a time, in the dtype of x; by default as many as fit in PIECE_BYTES.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction {reduction!r} does not exist; there are mean, sum and none")
    cap = float(cap)
    if not chunk:
        row = weight.size(0) * x.element_size()  # bytes of one row of logits
        chunk = max(1, PIECE_BYTES.get(x.device.type, PIECE_BYTES["cuda"]) // row)
    share = torch.ones((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    if reduction == "none":
        return _cross_entropy(x.detach(), weight.detach(), targets, share, cap, chunk, False, False)[0]
    if reduction == "mean":  # 1 / n goes into the gradient before that is rounded to the dtype of x, not after
        share = share / (targets >= 0).sum().clamp_min(1)
    if not torch.is_grad_enabled():
        x, weight = x.detach(), weight.detach()
    return _Loss.apply(x, weight, targets, share, cap, chunk)
