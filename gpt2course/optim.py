"""Muon for the matrices and AdamW for the rest, in one optimizer. Lesson 05 builds it.

Muon (Keller Jordan, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest matrix whose
singular values are all one, found by the Polar Express iteration (arXiv 2505.16932); rows or columns then get one
second moment each (NorMuon, arXiv 2510.05491), and weight decay acts only where it pulls the way the update goes
(cautious, arXiv 2411.16085). AdamW is arXiv 1711.05101. Constants: karpathy/nanochat, commits 348fbb3 and 92d63d4.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.optim.adamw import adamw as fused_adamw

from gpt2course.losses import at_least_float32

# (a, b, c) of the five iterations X <- a X + b (X X^T) X + c (X X^T)^2 X, from arXiv 2505.16932
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def polar_express(G: torch.Tensor, steps: int = 5, safety: float = 1.02) -> torch.Tensor:
    """Push every singular value of the matrices G (..., m, n) towards 1, keeping their singular vectors.

    safety: G is divided by `safety` times its Frobenius norm first, so that rounding lifts no singular value above 1.
    """
    X = (G / (G.norm(dim=(-2, -1), keepdim=True) * safety + 1e-6)).reshape(-1, *G.shape[-2:])  # (K, m, n)
    tall = X.size(-2) > X.size(-1)
    for a, b, c in POLAR_EXPRESS[:steps]:
        A = X.mT @ X if tall else X @ X.mT  # the smaller of the two Gram matrices
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)  # b A + c A A, the sum made inside the product
        X = torch.baddbmm(X, X, B, beta=a) if tall else torch.baddbmm(X, B, X, beta=a)  # a X + B X
    return X.reshape(G.shape)


def norm(x: torch.Tensor, dim) -> torch.Tensor:
    """Euclidean norms over `dim`, which stays with size 1, summed in float32 or better, with no tensor of squares."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))


def variance_reduction(G: torch.Tensor, second: torch.Tensor, beta2) -> torch.Tensor:
    """Even out the rows (of a tall or square matrix) or the columns (of a wide one), keeping the Frobenius norm.

    G (K, m, n); `second`, the running mean of squares over the shorter side, is (K, m, 1) or (K, 1, n) and is updated.
    """
    dim = -1 if G.size(-2) >= G.size(-1) else -2
    mean_square = at_least_float32(G).square().mean(dim=dim, keepdim=True)
    second.lerp_(mean_square.to(second.dtype), 1 - beta2)
    scale = second.clamp_min(1e-10).rsqrt()
    before = mean_square.sum(dim=(-2, -1), keepdim=True).sqrt()  # Frobenius norms, up to a factor common to both
    after = (mean_square * at_least_float32(scale).square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    return G * (scale * (before / after.clamp_min(1e-10))).to(G.dtype)


def muon_update(
    p, grad, momentum_buffer, second, lr, momentum, beta2, weight_decay, ns_steps, safety, row_norm, renorm, ns_dtype
):
    """One Muon step, in place, on K matrices: p, grad, momentum_buffer (K, m, n); second as in variance_reduction.

    row_norm: MuonEq's equilibration of the rows before the iteration (arXiv 2603.28254); renorm: Muon+'s Frobenius norm
    sqrt(min(m, n)) after it (arXiv 2602.21545). ns_dtype: dtype of the iteration. lr already holds sqrt(max(1, m / n)).
    """
    momentum_buffer.lerp_(grad, 1 - momentum)
    G = grad.lerp(momentum_buffer, momentum).to(ns_dtype)  # Nesterov
    if row_norm:
        rows = norm(G, -1)  # (K, m, 1)
        G = G * (rows.square().mean(dim=-2, keepdim=True).sqrt() / rows.clamp_min(1e-6)).to(G.dtype)
    U = polar_express(G, ns_steps, safety)
    if renorm:
        U = U * (min(U.shape[-2:]) ** 0.5 / norm(U, (-2, -1)).clamp_min(1e-6)).to(U.dtype)
    U = variance_reduction(U, second, beta2).to(p.dtype)
    decay = (U * p).ge_(0).mul_(p)  # p where the update shrinks it, 0 elsewhere; in place, since the tensors are large
    p.sub_(decay.mul_(weight_decay).add_(U).mul_(lr))


def adamw_update(p, grad, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """One AdamW step, in place; m and v are the running means of grad and of its square, step counts from 1.

    This is the definition. MuonAdamW lets torch's fused kernel compute the same in one pass over memory instead of ten.
    """
    m.lerp_(grad, 1 - beta1)
    v.lerp_(grad.square(), 1 - beta2)
    if weight_decay:
        p.mul_(1 - lr * weight_decay)
    denominator = (v / (1 - beta2**step)).sqrt_().add_(eps)
    p.sub_(torch.div(m, denominator, out=denominator).mul_(lr / (1 - beta1**step)))  # in place: the tensors are large


# torch 2.13 renamed them
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass
class Group:
    """Parameters that share their settings. `lr` and `weight_decay` are bases, to be multiplied by the schedule."""

    name: str
    kind: str  # "muon" or "adamw"
    params: dict[str, torch.Tensor]  # name in the model -> parameter
    lr: float
    weight_decay: float = 0.0
    beta1: float = 0.8  # AdamW
    beta2: float = 0.95  # both
    eps: float = 1e-10  # AdamW
    ns_steps: int = 5  # Muon, this and below
    safety: float = 1.02
    row_norm: bool = False
    renorm: bool = False


SMALL = 1024  # numbers: an AdamW parameter of up to this many is updated by every rank, larger ones are divided


def stacks(device: torch.device) -> bool:
    """Whether matrices of one shape are updated as one stack: a GPU is kept busy, a CPU's cache fits but one."""
    return device.type != "cpu"


@dataclass
class Part:
    """What is updated in one go: one AdamW parameter, or the Muon matrices of one shape (on a CPU alone: one of them).

    As one tensor it is (L, ...): (K, m, n) for K matrices; for AdamW the parameter itself, flat where ranks divide it.
    Of the L places, filled up with zeros to a multiple of the ranks, this rank owns those from `first` on, and has the
    `state` of these alone.
    """

    group: Group
    names: list[str]
    divided: bool  # among ranks
    first: int
    state: dict[str, torch.Tensor]  # AdamW: m, v; Muon: momentum (k, m, n), second (k, m, 1) or (k, 1, n)
    grad: torch.Tensor | None = None  # of what this rank owns, during a step
    handle: object = None  # the communication under way

    def joined(self, tensors: list[torch.Tensor], length: int) -> torch.Tensor:
        """One tensor (length, ...) of the parameters or of what has their shapes; a view where that can be."""
        if self.group.kind == "muon":
            if not tensors:
                x = self.state["momentum"][:0]
            else:
                x = tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)
        else:
            x = tensors[0].reshape(-1) if self.divided else tensors[0]
        return x if len(x) == length or not self.divided else torch.cat([x, x.new_zeros(length - len(x), *x.shape[1:])])

    def owned(self, get) -> torch.Tensor:
        """The same of what this rank owns; get(name) gives a parameter's tensor, and is asked for no other rank's."""
        k = len(next(iter(self.state.values())))
        if not self.divided or self.group.kind == "muon":
            names = self.names[self.first : self.first + k] if self.divided else self.names
            return self.joined([get(name) for name in names], k)
        return self.joined([get(self.names[0]).reshape(-1)[self.first : self.first + k]], k)


class MuonAdamW:
    """The optimizer: `groups` hold every parameter exactly once. State is kept by parameter name, so a checkpoint
    depends neither on how matrices are stacked nor on the number of ranks.

    step(lr, momentum, weight_decay): lr multiplies every group's rate, weight_decay every Muon group's decay (AdamW
    groups keep theirs), momentum is Muon's. grad_clip: the largest norm of all gradients together, longer ones are
    scaled down to it before anything else (arXiv 1211.5063); 0 is off.

    With ranks (rank, world) of torch.distributed each rank brings the gradient of its own rows, and their sum is what
    counts: every rank receives the sum for what it owns (reduce-scatter), updates it, and all collect the new
    parameters (all-gather), as in ZeRO (arXiv 1910.02054). All communication is started before it is waited for.
    """

    def __init__(
        self, groups: list[Group], ns_dtype=torch.float32, compile: bool = False, grad_clip: float = 0.0, ranks=(0, 1)
    ):
        names = [name for group in groups for name in group.params]
        if len(names) != len(set(names)):
            raise ValueError(f"parameters in more than one group: {sorted({n for n in names if names.count(n) > 1})}")
        self.groups, self.ns_dtype, self.steps, self.grad_clip = groups, ns_dtype, 0, grad_clip
        self.rank, self.world = ranks
        self.muon_update = torch.compile(muon_update, dynamic=False) if compile else muon_update
        self.parts = []
        for group in groups:
            if group.kind == "adamw":
                for name, p in group.params.items():
                    divided = self.world > 1 and p.numel() > SMALL
                    own = p.new_zeros(-(-p.numel() // self.world)) if divided else torch.zeros_like(p)
                    first = self.rank * len(own) if divided else 0
                    self.parts.append(Part(group, [name], divided, first, {"m": own, "v": own.clone()}))
                continue
            for shape in sorted({p.shape for p in group.params.values()}):
                names = [name for name, p in group.params.items() if p.shape == shape]
                (m, n), p = shape, group.params[names[0]]
                for some in [names] if self.world > 1 or stacks(p.device) else [[name] for name in names]:
                    k = -(-len(some) // self.world)
                    second = p.new_zeros((k, m, 1) if m >= n else (k, 1, n))
                    state = {"momentum": p.new_zeros((k, m, n)), "second": second}
                    self.parts.append(Part(group, some, self.world > 1, self.rank * k, state))

    @torch.no_grad()
    def step(self, lr: float = 1.0, momentum: float = 0.95, weight_decay: float = 1.0) -> None:
        self.steps += 1
        for part in self.parts:
            self._share_gradient(part)
        if self.grad_clip:
            self._clip()
        gathered = []
        for part in self.parts:
            self._wait(part)
            own = self._update(part, lr, momentum, weight_decay)
            part.grad = None
            if part.divided:
                gathered.append((part, self._gather(part, own)))
            elif len(part.names) > 1:  # one alone was updated in place
                torch._foreach_copy_([part.group.params[name] for name in part.names], list(own.unbind(0)))
        for part, whole in gathered:
            self._wait(part)
            params = [part.group.params[name] for name in part.names]
            if part.group.kind == "muon":
                values = list(whole.unbind(0))[: len(params)]
            else:
                values = [whole[: params[0].numel()].view_as(params[0])]
            torch._foreach_copy_(params, values)

    def _share_gradient(self, part: Part) -> None:
        """Begin to fetch the gradient, summed over the ranks, of what this rank owns."""
        k = len(next(iter(part.state.values())))
        whole = part.joined([part.group.params[name].grad for name in part.names], k * self.world)
        if part.divided:
            part.grad = whole.new_empty(k, *whole.shape[1:])
            part.handle = _reduce_scatter(part.grad, whole.contiguous(), async_op=True)
        else:
            part.grad = whole
            if self.world > 1:
                part.handle = dist.all_reduce(whole, async_op=True)

    def _wait(self, part: Part) -> None:
        if part.handle is not None:
            part.handle.wait()
            part.handle = None

    def _clip(self) -> None:
        """Scale all gradients together so that their norm is at most grad_clip."""
        square = 0.0
        for part in self.parts:
            self._wait(part)
            holders = 1 if part.divided else self.world  # what all ranks hold counts once
            square = square + at_least_float32(part.grad).square().sum() / holders
        if self.world > 1:
            dist.all_reduce(square)
        scale = (self.grad_clip / (square.sqrt() + 1e-6)).clamp(max=1.0)
        for part in self.parts:
            part.grad.mul_(scale.to(part.grad.dtype))

    def _update(self, part: Part, lr: float, momentum: float, weight_decay: float) -> torch.Tensor:
        """One step of what this rank owns of a part; returns its new values."""
        group, state = part.group, part.state
        compiled = self.muon_update is not muon_update
        scalar = torch.tensor if compiled else float  # 0-d tensors: a new value must not recompile
        own = part.owned(group.params.__getitem__)
        if group.kind == "adamw":
            before = torch.tensor(self.steps - 1.0, device=own.device)  # the kernel counts on
            fused_adamw(
                [own], [part.grad], [state["m"]], [state["v"]], [], [before], fused=True, amsgrad=False, maximize=False,
                lr=group.lr * lr, beta1=group.beta1, beta2=group.beta2, eps=group.eps, weight_decay=group.weight_decay,
            )  # fmt: skip
        else:
            m, n = own.shape[-2:]
            rate = scalar(group.lr * max(1.0, m / n) ** 0.5 * lr)
            self.muon_update(
                own, part.grad, state["momentum"], state["second"], rate, scalar(momentum), group.beta2,
                scalar(group.weight_decay * weight_decay), group.ns_steps, group.safety, group.row_norm, group.renorm,
                self.ns_dtype,
            )  # fmt: skip
        return own

    def _gather(self, part: Part, own: torch.Tensor) -> torch.Tensor:
        """Begin to collect what the ranks own: (k * world, ...)."""
        whole = own.new_empty(len(own) * self.world, *own.shape[1:])
        part.handle = _all_gather(whole, own, async_op=True)
        return whole

    def zero_grad(self) -> None:
        for group in self.groups:
            for p in group.params.values():
                p.grad = None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every state tensor by `<kind>.<parameter name>`, and the number of steps; views, not copies, where possible.

        With several ranks all must call it; rank 0 receives all of it, on the CPU, the others an empty dict.
        """
        state = {"steps": torch.tensor(self.steps)}
        for part in self.parts:
            params = [part.group.params[name] for name in part.names]
            for kind, own in part.state.items():
                if part.divided:
                    own = self._gather(part, own)
                    self._wait(part)
                    own = own.cpu() if self.rank == 0 else own[:0]
                if self.rank == 0:
                    each = (
                        own.unbind(0)
                        if part.group.kind == "muon"
                        else [own.reshape(-1)[: params[0].numel()].view_as(params[0])]
                    )
                    state |= {f"{kind}.{name}": tensor for name, tensor in zip(part.names, each)}
        return state if self.rank == 0 else {}

    def names(self) -> set[str]:
        """The names of a whole state."""
        return {"steps"} | {f"{kind}.{name}" for part in self.parts for kind in part.state for name in part.names}

    def load_state_dict(self, state, get=None) -> None:
        """Take from a whole state, whatever number of ranks it was saved with, what this rank owns.

        state: what state_dict gave; or its names, with get(name) to fetch one tensor at a time.
        """
        if self.names() != set(state):
            raise ValueError(f"optimizer state does not fit this model: {sorted(self.names() ^ set(state))[:4]} ...")
        get = get or state.__getitem__
        self.steps = int(get("steps"))
        for part in self.parts:
            for kind, own in part.state.items():
                if part.group.kind == "muon" and part.first >= len(part.names):
                    own.zero_()  # more ranks than matrices: this one owns nothing but filling
                else:
                    own.copy_(part.owned(lambda name, kind=kind: get(f"{kind}.{name}")))
