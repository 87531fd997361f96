"""Muon for the matrices and AdamW for all other parameters, in one optimizer. Lessons 05 and 11.

Muon (Keller Jordan, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest matrix whose
singular values are all 1, computed by the Polar Express iteration (arXiv 2505.16932). Then each row or column is scaled
by a second moment of its own (NorMuon, arXiv 2510.05491). Weight decay acts only on entries that the update shrinks too
(cautious, arXiv 2510.12402). AdamW is arXiv 1711.05101. Constants: karpathy/nanochat, commits 348fbb3 and 92d63d4.
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
    """Move every singular value of the matrices G (..., m, n) close to 1; the singular vectors stay.

    First G is divided by its Frobenius norm times `safety`, so that even after rounding no singular value exceeds 1:
    the coefficients are made for values up to 1.
    """
    X = (G / (G.norm(dim=(-2, -1), keepdim=True) * safety + 1e-6)).reshape(-1, *G.shape[-2:])  # (K, m, n)
    tall = X.size(-2) > X.size(-1)
    for a, b, c in POLAR_EXPRESS[:steps]:
        A = X.mT @ X if tall else X @ X.mT  # the smaller of the two Gram matrices
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)  # b A + c A A in one call
        X = torch.baddbmm(X, X, B, beta=a) if tall else torch.baddbmm(X, B, X, beta=a)  # a X + B X
    return X.reshape(G.shape)


def euclidean(x: torch.Tensor, dim) -> torch.Tensor:
    """Euclidean norms over `dim`, which keeps size 1. The sum is in float32 or better; no tensor of squares is made."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))


def variance_reduction(G: torch.Tensor, second: torch.Tensor, beta2) -> torch.Tensor:
    """Give all rows (of a tall or square matrix) or columns (of a wide one) a similar size; the Frobenius norm stays.

    G (K, m, n). `second` (K, m, 1) or (K, 1, n), the running mean square of each row or column, is updated.
    """
    dim = -1 if G.size(-2) >= G.size(-1) else -2
    mean_square = at_least_float32(G).square().mean(dim=dim, keepdim=True)
    second.lerp_(mean_square.to(second.dtype), 1 - beta2)
    scale = second.clamp_min(1e-10).rsqrt()
    before = mean_square.sum(dim=(-2, -1), keepdim=True).sqrt()  # Frobenius norms, both too small by the same factor
    after = (mean_square * at_least_float32(scale).square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    return G * (scale * (before / after.clamp_min(1e-10))).to(G.dtype)


def muon_update(
    p, grad, momentum_buffer, second, lr, momentum, beta2, weight_decay, ns_steps, safety, row_norm, renorm, ns_dtype
):
    """One Muon step, in place, on K matrices: p, grad, momentum_buffer (K, m, n); second as in variance_reduction.

    row_norm: give all rows the same norm before the iteration (MuonEq, arXiv 2603.28254); renorm: set the Frobenius
    norm to sqrt(min(m, n)) after it (Muon+, arXiv 2602.21545). ns_dtype: dtype of the iteration. The caller has
    multiplied lr by sqrt(max(1, m / n)), so that tall matrices take larger steps.
    """
    momentum_buffer.lerp_(grad, 1 - momentum)
    G = grad.lerp(momentum_buffer, momentum).to(ns_dtype)  # Nesterov
    if row_norm:
        rows = euclidean(G, -1)  # (K, m, 1)
        G = G * (rows.square().mean(dim=-2, keepdim=True).sqrt() / rows.clamp_min(1e-6)).to(G.dtype)
    U = polar_express(G, ns_steps, safety)
    if renorm:
        U = U * (min(U.shape[-2:]) ** 0.5 / euclidean(U, (-2, -1)).clamp_min(1e-6)).to(U.dtype)
    U = variance_reduction(U, second, beta2).to(p.dtype)
    decay = (U * p).ge_(0).mul_(p)  # p where the update shrinks it, else 0; in place to save memory
    p.sub_(decay.mul_(weight_decay).add_(U).mul_(lr))


def adamw_update(p, grad, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """One AdamW step, in place. m and v are the running means of grad and of its square; step counts from 1.

    This is the definition. MuonAdamW calls torch's fused kernel, which computes the same in one pass over memory
    instead of ten.
    """
    m.lerp_(grad, 1 - beta1)
    v.lerp_(grad.square(), 1 - beta2)
    if weight_decay:
        p.mul_(1 - lr * weight_decay)
    denominator = (v / (1 - beta2**step)).sqrt_().add_(eps)
    p.sub_(torch.div(m, denominator, out=denominator).mul_(lr / (1 - beta1**step)))  # in place to save memory


# torch 2.13 renamed them
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass
class Group:
    """Parameters that share their settings. The schedule multiplies `lr` and `weight_decay`."""

    name: str
    kind: str  # "muon" or "adamw"
    params: dict[str, torch.Tensor]  # name in the model -> parameter
    lr: float
    weight_decay: float = 0.0
    beta1: float = 0.8  # AdamW
    beta2: float = 0.95  # both
    eps: float = 1e-10  # AdamW
    ns_steps: int = 5  # from here on Muon
    safety: float = 1.02
    row_norm: bool = False
    renorm: bool = False


SMALL = 1024  # an AdamW parameter of up to this many numbers is updated by every rank; larger ones are divided


def stacks(device: torch.device) -> bool:
    """Whether matrices of one shape are updated as one stack: that keeps a GPU busy, but does not fit a CPU's cache."""
    return device.type != "cpu"


@dataclass
class Part:
    """What is updated together: one AdamW parameter, or the Muon matrices of one shape (without ranks on a CPU: one).

    A part is a tensor of rows. The rows of a Muon part are its K matrices, (K, m, n). The rows of an AdamW part that
    ranks divide are the single numbers of the parameter, (numel,). Rows are zero-padded so that they divide evenly
    among the ranks. A step has three phases:

        1. reduce-scatter   every rank receives the gradients of its own rows, summed over all ranks
        2. update           every rank updates its own rows, from `first` on; only that rank has their optimizer state
        3. all-gather       every rank receives the new rows of all ranks

    A small AdamW parameter is not divided: all ranks receive its whole gradient and compute the same update.
    """

    group: Group
    names: list[str]
    divided: bool  # among the ranks
    first: int
    state: dict[str, torch.Tensor]  # of this rank's rows. AdamW: m, v; Muon: momentum, second
    grad: torch.Tensor | None = None  # of this rank's rows, during a step
    handle: object = None  # a communication that has started
    sent: torch.Tensor | None = None  # its input, which must stay in memory until the communication has ended

    def __post_init__(self):
        self.muon = self.group.kind == "muon"
        self.params = [self.group.params[name] for name in self.names]
        self.k = len(next(iter(self.state.values())))  # rows of this rank, padding included

    def rows(self, get, own: bool = False) -> torch.Tensor:
        """All rows, or this rank's own rows, without padding; a view of the parameter where possible.

        get(name) returns the parameter, its gradient or its state; it is called only for parameters of these rows.
        """
        part = slice(self.first, self.first + self.k) if own and self.divided else slice(None)
        if not self.muon:
            x = get(self.names[0])
            return x.reshape(-1)[part] if self.divided else x
        matrices = [get(name) for name in self.names[part]]
        if len(matrices) == 1:
            return matrices[0][None]
        return torch.stack(matrices) if matrices else self.state["momentum"][:0]  # a rank may own padding only

    def split(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """All rows, as one tensor for each parameter; padding is cut off."""
        if self.muon:
            return list(rows.unbind(0))[: len(self.names)]
        return [rows.reshape(-1)[: self.params[0].numel()].view_as(self.params[0])]

    def wait(self) -> None:
        if self.handle is not None:
            self.handle.wait()
        self.handle = self.sent = None


def padded(x: torch.Tensor, rows: int) -> torch.Tensor:
    """x, followed by so many zeros that there are `rows` rows."""
    return x if len(x) == rows else torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])


class MuonAdamW:
    """The optimizer. `groups` contain every parameter exactly once.

    State is stored by parameter name, so a checkpoint depends neither on the number of ranks nor on how matrices are
    stacked. grad_clip: the largest common norm of all gradients; longer ones are scaled down (arXiv 1211.5063); 0: off.
    ranks: (rank, world) of torch.distributed. Each rank computes gradients from its own texts; their sum counts. The
    state is divided among the ranks as in ZeRO (arXiv 1910.02054); `Part` explains the three phases of a step.
    """

    def __init__(
        self, groups: list[Group], ns_dtype=torch.float32, compile: bool = False, grad_clip: float = 0.0, ranks=(0, 1)
    ):
        self.groups, self.ns_dtype, self.steps, self.grad_clip = groups, ns_dtype, 0, grad_clip
        self.rank, self.world = ranks
        self.muon_update = torch.compile(muon_update, dynamic=False) if compile else muon_update
        self.parts = []
        for group in groups:
            if group.kind == "adamw":
                self.parts += [self._adamw_part(group, name, p) for name, p in group.params.items()]
                continue
            for shape in sorted({p.shape for p in group.params.values()}):
                same = [name for name, p in group.params.items() if p.shape == shape]
                together = self.world > 1 or stacks(group.params[same[0]].device)
                self.parts += [self._muon_part(group, some) for some in ([same] if together else [[n] for n in same])]

    def _adamw_part(self, group: Group, name: str, p: torch.Tensor) -> Part:
        divided = self.world > 1 and p.numel() > SMALL
        own = p.new_zeros(-(-p.numel() // self.world)) if divided else torch.zeros_like(p)
        return Part(group, [name], divided, self.rank * len(own), {"m": own, "v": own.clone()})

    def _muon_part(self, group: Group, names: list[str]) -> Part:
        p, k = group.params[names[0]], -(-len(names) // self.world)
        m, n = p.shape
        state = {"momentum": p.new_zeros((k, m, n)), "second": p.new_zeros((k, m, 1) if m >= n else (k, 1, n))}
        return Part(group, names, self.world > 1, self.rank * k, state)

    @torch.no_grad()
    def step(self, lr: float = 1.0, momentum: float = 0.95, weight_decay: float = 1.0) -> None:
        """One step. lr multiplies every group's rate, weight_decay every Muon group's decay; momentum is Muon's.

        Each phase starts the communication of all parts before it waits for the first, so that the ranks compute and
        send at the same time.
        """
        self.steps += 1
        for part in self.parts:
            self._start_sum_of_gradients(part)
        if self.grad_clip:
            self._clip()
        gathered = []
        for part in self.parts:
            part.wait()
            own = self._update(part, lr, momentum, weight_decay)
            part.grad = None
            if part.divided:
                gathered.append((part, self._start_gather(part, own)))
            elif len(part.names) > 1:  # a stack is a copy; a single parameter was updated in place
                torch._foreach_copy_(part.params, part.split(own))
        for part, rows in gathered:
            part.wait()
            torch._foreach_copy_(part.params, part.split(rows))

    def _start_sum_of_gradients(self, part: Part) -> None:
        """Phase 1."""
        grad = part.rows(lambda name: part.group.params[name].grad)
        if part.divided:
            part.sent = padded(grad, part.k * self.world).contiguous()
            part.grad = grad.new_empty(part.k, *grad.shape[1:])
            part.handle = _reduce_scatter(part.grad, part.sent, async_op=True)
        else:
            part.grad = grad
            if self.world > 1:
                part.handle = dist.all_reduce(grad, async_op=True)

    def _start_gather(self, part: Part, own: torch.Tensor) -> torch.Tensor:
        """Phase 3; returns the tensor (k * world, ...) that receives the rows of all ranks."""
        rows = own.new_empty(len(own) * self.world, *own.shape[1:])
        part.sent, part.handle = own, _all_gather(rows, own, async_op=True)
        return rows

    def _clip(self) -> None:
        """Scale all gradients by one factor so that their common norm is at most grad_clip."""
        square = 0.0
        for part in self.parts:
            part.wait()
            copies = 1 if part.divided else self.world  # every rank has the whole gradient: count it once
            square = square + at_least_float32(part.grad).square().sum() / copies
        if self.world > 1:
            dist.all_reduce(square)
        scale = (self.grad_clip / (square.sqrt() + 1e-6)).clamp(max=1.0)
        for part in self.parts:
            part.grad.mul_(scale.to(part.grad.dtype))

    def _update(self, part: Part, lr: float, momentum: float, weight_decay: float) -> torch.Tensor:
        """Phase 2; returns this rank's new rows."""
        group, state = part.group, part.state
        own = padded(part.rows(group.params.__getitem__, own=True), part.k)
        if not part.muon:
            before = torch.full((), self.steps - 1.0, device=own.device)  # the kernel adds 1
            fused_adamw(
                [own], [part.grad], [state["m"]], [state["v"]], [], [before], fused=True, amsgrad=False, maximize=False,
                lr=group.lr * lr, beta1=group.beta1, beta2=group.beta2, eps=group.eps, weight_decay=group.weight_decay,
            )  # fmt: skip
            return own
        m, n = own.shape[-2:]
        rate, decay = group.lr * max(1.0, m / n) ** 0.5 * lr, group.weight_decay * weight_decay
        if self.muon_update is not muon_update:  # compiled: a new float would recompile it, a new tensor does not
            rate, momentum, decay = (torch.tensor(x) for x in (rate, momentum, decay))
        self.muon_update(
            own, part.grad, state["momentum"], state["second"], rate, momentum, group.beta2, decay, group.ns_steps,
            group.safety, group.row_norm, group.renorm, self.ns_dtype,
        )  # fmt: skip
        return own

    def zero_grad(self) -> None:
        for group in self.groups:
            for p in group.params.values():
                p.grad = None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every state tensor by `<kind>.<parameter name>`, and the number of steps; views where possible.

        With several ranks all must call it. Rank 0 receives the whole state, on the CPU; the others get an empty dict.
        """
        state = {"steps": torch.tensor(self.steps)}
        for part in self.parts:
            for kind, rows in part.state.items():
                if part.divided:
                    rows = self._start_gather(part, rows)
                    part.wait()
                    rows = rows.cpu() if self.rank == 0 else None  # at once: the whole state may not fit a GPU
                if self.rank == 0:
                    state |= {f"{kind}.{name}": tensor for name, tensor in zip(part.names, part.split(rows))}
        return state if self.rank == 0 else {}

    def load_state_dict(self, state, get=None) -> None:
        """Take this rank's rows from a whole state, whatever number of ranks saved it.

        state: what state_dict returned; or its names only, with get(name) to read one tensor at a time.
        """
        names = {"steps"} | {f"{kind}.{name}" for part in self.parts for kind in part.state for name in part.names}
        if names != set(state):
            raise ValueError(f"optimizer state does not fit this model: {sorted(names ^ set(state))[:4]} ...")
        get = get or state.__getitem__
        self.steps = int(get("steps"))
        for part in self.parts:
            for kind, rows in part.state.items():
                saved = part.rows(lambda name, kind=kind: get(f"{kind}.{name}"), own=True)
                if len(saved):  # padding is and stays 0
                    rows[: len(saved)].copy_(saved)
