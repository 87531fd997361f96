"""Muon for the matrices and AdamW for the rest, in one optimizer. Lesson 05 builds it.

Muon (Keller Jordan, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest matrix whose
singular values are all one, found by the Polar Express iteration (arXiv 2505.16932); rows or columns then get one
second moment each (NorMuon, arXiv 2510.05491), and weight decay acts only where it pulls the way the update goes
(cautious, arXiv 2411.16085). AdamW is arXiv 1711.05101. Constants: karpathy/nanochat, commits 348fbb3 and 92d63d4.
"""

from dataclasses import dataclass

import torch

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

    safety: G is divided by `safety` times its Frobenius norm first, so that rounding cannot lift a singular value above 1.
    """
    X = G / (G.norm(dim=(-2, -1), keepdim=True) * safety + 1e-6)
    tall = X.size(-2) > X.size(-1)
    for a, b, c in POLAR_EXPRESS[:steps]:
        A = X.mT @ X if tall else X @ X.mT  # the smaller of the two Gram matrices
        B = b * A + c * (A @ A)
        X = a * X + (X @ B if tall else B @ X)
    return X


def variance_reduction(G: torch.Tensor, second: torch.Tensor, beta2) -> torch.Tensor:
    """Even out the rows (of a tall or square matrix) or the columns (of a wide one), keeping the Frobenius norm.

    G (K, m, n); `second`, the running mean of squares over the shorter side, is (K, m, 1) or (K, 1, n) and is updated.
    """
    dim = -1 if G.size(-2) >= G.size(-1) else -2
    mean_square = G.float().square().mean(dim=dim, keepdim=True)
    second.lerp_(mean_square.to(second.dtype), 1 - beta2)
    scale = second.clamp_min(1e-10).rsqrt()
    before = mean_square.sum(dim=(-2, -1), keepdim=True).sqrt()  # Frobenius norms, up to a factor common to both
    after = (mean_square * scale.float().square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    return G * (scale * (before / after.clamp_min(1e-10))).to(G.dtype)


def muon_update(p, grad, momentum_buffer, second, lr, momentum, beta2, weight_decay, ns_steps, safety, row_norm, renorm, ns_dtype):
    """One Muon step, in place, on K stacked matrices: p, grad, momentum_buffer (K, m, n); second as in variance_reduction.

    row_norm: MuonEq's equilibration of the rows before the iteration (arXiv 2603.28254); renorm: Muon+'s Frobenius norm
    sqrt(min(m, n)) after it (arXiv 2602.21545). ns_dtype: dtype of the iteration. lr already holds sqrt(max(1, m / n)).
    """
    momentum_buffer.lerp_(grad, 1 - momentum)
    G = grad.lerp(momentum_buffer, momentum).to(ns_dtype)  # Nesterov
    if row_norm:
        target = G.float().norm(dim=(-2, -1), keepdim=True) / G.size(-2) ** 0.5
        G = G * (target / G.float().norm(dim=-1, keepdim=True).clamp_min(1e-6)).to(G.dtype)
    U = polar_express(G, ns_steps, safety)
    if renorm:
        U = U * (min(U.shape[-2:]) ** 0.5 / U.float().norm(dim=(-2, -1), keepdim=True).clamp_min(1e-6)).to(U.dtype)
    U = variance_reduction(U, second, beta2).to(p.dtype)
    p.sub_(lr * U + lr * weight_decay * p * (U * p >= 0))


def adamw_update(p, grad, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """One AdamW step, in place; m and v are the running means of grad and of its square, step counts from 1."""
    m.lerp_(grad, 1 - beta1)
    v.lerp_(grad.square(), 1 - beta2)
    if weight_decay:
        p.mul_(1 - lr * weight_decay)
    denominator = (v / (1 - beta2**step)).sqrt_().add_(eps)
    p.sub_(torch.div(m, denominator, out=denominator).mul_(lr / (1 - beta1**step)))  # in place: the tensors are large


@dataclass
class Group:
    """Parameters that share their settings. `lr` and `weight_decay` are bases, multiplied by the schedule at each step."""

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


class MuonAdamW:
    """The optimizer: `groups` hold every parameter exactly once. State is kept by parameter name, so a checkpoint
    does not depend on how matrices are stacked.

    step(lr, momentum, weight_decay): lr multiplies every group's rate, weight_decay every Muon group's decay (AdamW
    groups keep theirs), momentum is Muon's. grad_clip: the largest norm of all gradients together, longer ones are scaled
    down to it before anything else (arXiv 1211.5063); 0 is off.
    """

    def __init__(self, groups: list[Group], ns_dtype=torch.float32, compile: bool = False, grad_clip: float = 0.0):
        names = [name for group in groups for name in group.params]
        if len(names) != len(set(names)):
            raise ValueError(f"parameters in more than one group: {sorted({n for n in names if names.count(n) > 1})}")
        self.groups, self.ns_dtype, self.steps, self.grad_clip = groups, ns_dtype, 0, grad_clip
        self.muon_update = torch.compile(muon_update, dynamic=False) if compile else muon_update
        self.adamw_update = torch.compile(adamw_update, dynamic=False) if compile else adamw_update
        self.stacks = []  # Muon: (group, names, momentum (K, m, n), second (K, m, 1) or (K, 1, n)), one for each shape
        self.moments = {}  # AdamW: name -> (m, v)
        for group in groups:
            if group.kind == "adamw":
                self.moments |= {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in group.params.items()}
                continue
            for shape in sorted({p.shape for p in group.params.values()}):
                names = [name for name, p in group.params.items() if p.shape == shape]
                p, K = group.params[names[0]], len(names)
                m, n = shape
                second = p.new_zeros((K, m, 1) if m >= n else (K, 1, n))
                self.stacks.append((group, names, p.new_zeros((K, m, n)), second))

    @torch.no_grad()
    def step(self, lr: float = 1.0, momentum: float = 0.95, weight_decay: float = 1.0) -> None:
        self.steps += 1
        if self.grad_clip:
            torch.nn.utils.clip_grad_norm_([p for group in self.groups for p in group.params.values()], self.grad_clip)
        scalar = torch.tensor if self.muon_update is not muon_update else float  # 0-d tensors: a new value must not recompile
        for group in self.groups:
            if group.kind == "adamw":
                for name, p in group.params.items():
                    m, v = self.moments[name]
                    rate, step = scalar(group.lr * lr), scalar(float(self.steps))
                    self.adamw_update(p, p.grad, m, v, step, rate, group.beta1, group.beta2, group.eps, group.weight_decay)
        for group, names, buffer, second in self.stacks:
            params = [group.params[name] for name in names]
            stacked = torch.stack(params)  # (K, m, n)
            grads = torch.stack([p.grad for p in params])
            m, n = stacked.shape[-2:]
            rate = scalar(group.lr * max(1.0, m / n) ** 0.5 * lr)
            self.muon_update(stacked, grads, buffer, second, rate, scalar(momentum), group.beta2, scalar(group.weight_decay * weight_decay),
                             group.ns_steps, group.safety, group.row_norm, group.renorm, self.ns_dtype)  # fmt: skip
            torch._foreach_copy_(params, list(stacked.unbind(0)))

    def zero_grad(self) -> None:
        for group in self.groups:
            for p in group.params.values():
                p.grad = None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every state tensor by `<kind>.<parameter name>`, and the number of steps; views, not copies, where possible."""
        state = {"steps": torch.tensor(self.steps)}
        for name, (m, v) in self.moments.items():
            state |= {f"m.{name}": m, f"v.{name}": v}
        for _, names, buffer, second in self.stacks:
            for i, name in enumerate(names):
                state |= {f"momentum.{name}": buffer[i], f"second.{name}": second[i]}
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError(f"optimizer state does not fit this model: {sorted(own.keys() ^ state.keys())[:4]} ...")
        self.steps = int(state["steps"])
        for name in own.keys() - {"steps"}:
            own[name].copy_(state[name])
