"""Checks of lesson 05's exercises: other limits, orthogonal updates, a step for every shape, gaps and seeds, the cost."""

import math
import statistics

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gpt2course import optim
from gpt2course.course.checks import Exercise, call, known, need, need_close, several, tensor, tried
from gpt2course.optim import POLAR_EXPRESS, MuonAdamW
from gpt2course.recipes import build, make_optimizer, resolve


def _random(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _kind(m: int, n: int) -> str:
    return "tall" if m > n else "wide" if m < n else "square"


def _best(G, limit: str) -> torch.Tensor:
    """The X with the largest sum of G · X under a limit."""
    if limit == "stretch":
        U, _, Vt = torch.linalg.svd(G, full_matrices=False)
        return U @ Vt
    if limit == "number":
        return G.sign()
    return G / G.norm(dim=1, keepdim=True).clamp_min(1e-12) if limit == "rows" else G / G.norm()


def best_step(f) -> None:
    G, H = torch.tensor([[0.3, -0.4], [0.6, 0.8]]), torch.tensor([[2.0, 1.0], [-3.0, 4.0]])
    U, S, Vt = torch.linalg.svd(H)
    flat = lambda x: x.flatten().tolist()
    whole, one = G / G.norm(), "1 is the limit for the largest; X should use it in every number"
    cases = [
        (G, "norm", flat(whole), [
            (flat(G / 1.25), "take the root of the sum of squares"),
            (flat(G / 2.1), "the norm is the root of a sum of squares"),
            (flat(G / 0.8), "the largest number is the limit of another case"),
            (flat(G.sign()), "signs are the answer for `number`"), (flat(G.sign() / 2), "signs are the answer for `number`"),
            (flat(_best(G, "rows")), "one norm for all of G, not one a row"),
        ], "G divided by its norm: X is parallel to G"),
        (G, "number", [1.0, -1.0, 1.0, 1.0],
         [(flat(G / 0.8), one), (flat(G), one), (flat(whole), "this is the answer for `norm`")],
         "every number as far as it may go, with the sign of G"),
        (G, "rows", [0.6, -0.8, 0.6, 0.8], [
            (flat(G / G.norm(dim=0)), "these are the columns; each row has its own length"),
            (flat(whole), "this limits all of G together; each row has its own limit"),
            (flat(G / G.norm(dim=1).max()), "each row has its own limit: the shorter one can grow"),
            (flat(G / G.abs().sum(1, keepdim=True)), "the length of a row is the root of its sum of squares"),
            (flat(G / G.square().sum(1, keepdim=True)), "the length is the root of the sum of squares"),
        ], "each row divided by its length"),
        (H, "stretch", flat(U @ Vt), [
            (flat(H / S[0]), "only the largest singular value is 1 now; the others may grow to 1 as well"),
            (flat(H / H.norm()), "this is the answer for `norm`"),
            (flat(U @ torch.diag(S) @ Vt), "set the singular values to 1"),
            (flat(optim.polar_express(H)), "exactly 1, not about 1: use the SVD"),
        ], "U Vᵀ"),
    ]  # fmt: skip
    for G, limit, wanted, errors, otherwise in cases:
        sign = ([-x for x in wanted], "the sign: the loss falls by the sum of G · X, so X goes with G")
        got = tensor(call(f, G, limit, keep="G"), G.shape, f"X for the limit {limit!r}")
        known(got.flatten(), wanted, f"X for G = {G.tolist()} and the limit {limit!r}", [*errors, sign], otherwise)
    for m, n in ((5, 3), (2, 7), (1, 4), (6, 1)):
        for limit in ("norm", "number", "rows", "stretch"):
            G, what = 30 * _random(m, n, seed=m + n), f"X of a {_kind(m, n)} matrix ({m}, {n}), limit {limit!r}"
            hint = ": full_matrices=False? Vᵀ, not V?" if limit == "stretch" else ""
            got, wanted = tensor(call(f, G, limit, keep="G"), G.shape, what), _best(G, limit).double()
            need(torch.allclose(got, wanted, atol=1e-4), f"{what} is off, though 2 x 2 is right{hint}")
    G = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    got = tensor(f(G.clone(), "rows"), G.shape, "X of a G with a row of zeros")
    need_close(got, torch.tensor([[0.0, 0.0], [0.6, 0.8]]), "a row of zeros stays zeros")


class _Largest(TorchDispatchMode):
    """Keeps the size of the largest result of any operation."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.size = max(self.size, out.numel())
        return out


def _diagonals(f) -> None:
    """5.2 on the diagonal matrix of 3 and 4: each number goes through the polynomials by itself."""

    def through(values, coefficients):
        for a, b, c in coefficients:
            values = [a * x + b * x**3 + c * x**5 for x in values]
        return values

    def powers(a, b, c, second=3, third=5):  # from 0.6 and 0.8, by the given powers
        return [a * x + b * x**second + c * x**third for x in (0.6, 0.8)]

    cubic, two = [(1.5, -0.5, 0.0)], [(2.0, -1.0, 0.5), (1.0, 0.25, 0.0)]
    late = through([3, 4], cubic)
    cases = [
        (cubic, 1.0, "one cubic iteration", [0.792, 0.944], [
            (through([3.0, 4.0], cubic), "G was not normalised first; divide it by its Frobenius norm"),
            (through([0.75, 1.0], cubic),
             "the division is by the largest singular value (the spectral norm), not by the Frobenius norm"),
            (through([3 / 25, 4 / 25], cubic), "G was divided by the sum of squares; take the root"),
            (through([3 / 7, 4 / 7], cubic),
             "G was divided by the sum of its numbers; take the root of the sum of squares"),
            (through([0.6 / 1.02, 0.8 / 1.02], cubic), "a safety of 1.02 was used, but it is an argument, here 1"),
            ([x / math.hypot(*late) for x in late], "normalise before iterating, not after"),
            (through([0.6, 0.8], POLAR_EXPRESS), "use the coefficients that are given, not a list of your own"),
            ([1.0, 1.0], "use the polynomial that is given, and divide the whole matrix by one number, not each row"),
            (powers(1.5, 0, -0.5), "b and c are exchanged; b belongs to X Xᵀ, c to (X Xᵀ)²"),
        ], "X = G / 5, then 1.5 X - 0.5 (X Xᵀ) X"),
        (cubic, 1.25, "the same with safety 1.25", through([0.48, 0.64], cubic), [
            ([0.792, 0.944], "safety is ignored; divide by safety times the norm"),
            (through([0.75, 1.0], cubic), "divide by safety times the norm; it was multiplied"),
        ], "divide by safety times the norm"),
        ([(1.0, 10.0, 100.0)], 1.0, "one iteration with 1, 10, 100", powers(1, 10, 100), [
            (powers(1, 10, 100, third=3), "c belongs to the square of the Gram matrix"),
            (powers(1, 10, 0), "the third term, c (X Xᵀ)² X, is missing"),
        ], "a x + b x³ + c x⁵ for each singular value"),
        (two, 1.0, "two different iterations", through([0.6, 0.8], two), [
            (through([0.6, 0.8], two[::-1]), "the coefficients were used in reverse order"),
            (through([0.6, 0.8], [two[0]] * 2), "each iteration has its own coefficients; the first were used twice"),
        ], "use the coefficients one after the other"),
    ]  # fmt: skip
    for coefficients, safety, what, wanted, errors, otherwise in cases:
        out = _update(f, torch.diag(torch.tensor([3.0, 4.0])), coefficients, safety)
        need(out.isfinite().all(), "the 2 x 2 toy gave numbers that are not finite: is G divided by its norm first?")
        apart = (out - torch.diag(out.diagonal())).abs().max()
        need(apart < 1e-4, "a diagonal G did not stay diagonal: are the powers matrix products?")
        known(out.diagonal(), wanted, f"G diagonal with 3 and 4: {what}", errors, otherwise)


def _orthogonal(G, coefficients, safety):
    return optim.polar_express(G, len(coefficients), safety)


def _iterated(X):
    for a, b, c in POLAR_EXPRESS:
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X


def _update(f, G, coefficients=POLAR_EXPRESS, safety: float = 1.02) -> torch.Tensor:
    what = f"the update of a {G.size(0)} x {G.size(1)} matrix"
    return tensor(call(f, G, list(coefficients), safety, keep="G"), G.shape, what)


def orthogonal(f) -> None:
    _diagonals(f)
    for m, n in ((4, 4), (2, 5), (5, 2)):
        _update(f, _random(m, n, seed=1), POLAR_EXPRESS[:1])
    G = _random(6, 6, seed=2)
    got, wanted = _update(f, G, POLAR_EXPRESS[:1]), optim.polar_express(G, 1, 1.02).double()
    back = "a square matrix came out transposed; transpose back only what you transposed"
    need(not torch.allclose(got, wanted.T, atol=1e-4), back)
    X = G / (G.norm() * 1.02)
    (a, b, c), A = POLAR_EXPRESS[0], X.T @ X
    mixed = "a square matrix is off: (X Xᵀ) goes with a product from the left, (Xᵀ X) with one from the right"
    need(not torch.allclose(got, (a * X + (b * A + c * A @ A) @ X).double(), atol=1e-4), mixed)
    hint = "though diagonal ones are right: are the powers matrix products?"
    need_close(got, wanted, f"a square matrix is off after one iteration, {hint}")
    for m, n in ((7, 7), (3, 9), (9, 3), (1, 5), (5, 1)):
        G = _random(m, n, seed=m) * 3.0**m
        got, wanted, kind = _update(f, G), optim.polar_express(G).double(), _kind(m, n)
        norms = f"at norm {got.norm(dim=1).mean():.2g}, expected {wanted.norm(dim=1).mean():.2g}"
        line = f"the rows of a {kind} matrix ({m}, {n}) came out {norms}: are {kind} ones right?"
        need(torch.allclose(got, wanted, atol=1e-3), line)
    hint = "view needs contiguous tensors; use the methods of matrices"
    got = tried(f, (_random(9, 3, seed=4).T, list(POLAR_EXPRESS), 1.02), "a G that is not contiguous in memory", hint)
    need_close(got, optim.polar_express(_random(9, 3, seed=4).T), "a G that is not contiguous in memory", atol=1e-3)
    got = _update(f, torch.zeros(3, 3))
    need(torch.equal(got, torch.zeros_like(got)), "a gradient of zeros gave nan: add 1e-6 to what you divide by")
    for m, n, product in ((96, 6, "X Xᵀ"), (6, 96, "Xᵀ X")):
        with _Largest() as watch:
            f(_random(m, n, seed=3), list(POLAR_EXPRESS), 1.02)
        line = f"a {_kind(m, n)} matrix ({m}, {n}) made a product of 96 x 96 on the way, {product}"
        need(watch.size < 96 * 96, f"{line}: transpose, or use the smaller Gram matrix")
    for m, n in ((5, 3), (3, 5)):
        G = _random(3, m, n, seed=9) * torch.tensor([1.0, 100.0, 0.01])[:, None, None]
        got = tensor(call(f, G, list(POLAR_EXPRESS), 1.02, keep="G"), G.shape, f"the update of a stack (3, {m}, {n})")
        whole = _iterated(G / (1.02 * G.norm() + 1e-6))
        hint = "a norm for each matrix, over its last two dimensions, not one for the stack"
        need(not torch.allclose(got, whole.double(), atol=1e-3), f"a stack of matrices (3, {m}, {n}) is off: {hint}")
        line = f"a stack of matrices (3, {m}, {n}) is off, though each alone is right: .mT transposes each, .T does not"
        need_close(got, optim.polar_express(G), line, atol=1e-3)


class _Products(TorchDispatchMode):
    """Counts the matrix products."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += function.__name__.partition(".")[0] in ("mm", "bmm", "addmm", "baddbmm")
        return function(*args, **(kwargs or {}))


def _stepped(params, grads, lr, coefficients, safety):
    U = [_orthogonal(g, coefficients, safety) for g in grads]
    return [p - lr * max(1, p.size(0) / p.size(1)) ** 0.5 * u for p, u in zip(params, U)]


def one_step(f) -> None:
    def at(shapes, coefficients=POLAR_EXPRESS, seed=0, lr=0.5):
        grads = [_random(m, n, seed=seed + i) * 10.0 ** (i % 3 - 1) for i, (m, n) in enumerate(shapes)]
        params = [_random(m, n, seed=seed + 50 + i) for i, (m, n) in enumerate(shapes)]
        kept = [x.clone() for x in (*params, *grads)]
        with _Products() as count:
            out = f(params, grads, lr, list(coefficients), 1.02)
        got = several(out, len(shapes), f"{len(shapes)} new matrices in a list")
        same = all(map(torch.equal, kept, (*params, *grads)))
        need(same, "parameters or gradients were changed in place; return new ones")
        got = [tensor(x, p.shape, f"the new matrix for a p of {tuple(p.shape)}") for x, p in zip(got, params)]
        return got, params, grads, _stepped(params, grads, lr, coefficients, 1.02), count.n

    for shape in ((3, 5), (5, 3), (4, 4), (1, 6), (6, 1)):
        (got,), (p,), (g,), (wanted,), _ = at([shape])
        kind, factor = _kind(*shape), max(1, shape[0] / shape[1]) ** 0.5
        what, step = f"one {kind} matrix {shape}", p - wanted
        for other, hint in (
            (p + step, "the step goes the wrong way; subtract it"),
            (p - step / factor, "the factor √max(1, m/n) is missing"),
            (p - step * factor, "the square root of the factor is missing"), (step, "return the new p, not its step"),
            (p - step / factor * (shape[0] / shape[1]) ** 0.5, "the factor is never below 1"),
            (p - step / factor * (shape[1] / shape[0]) ** 0.5, "the factor is √max(1, rows / columns)"),
            (-step, "return the new p, not its step"),
            (p - 0.5 * factor * g, "the gradient was not made orthogonal"), (p - step * 2, "lr is ignored"),
        ):  # fmt: skip
            alike = torch.allclose(other, wanted, atol=1e-3)
            need(alike or not torch.allclose(got, other.double(), atol=1e-3), f"{what}: {hint}")
        need_close(got, wanted, f"{what} is off", atol=2e-3)
    shapes = [(4, 8), (8, 4), (1, 5), (4, 8), (5, 1), (8, 2), (8, 4), (4, 4)]
    got, *_, wanted, _ = at(shapes, seed=3)
    right = [torch.allclose(x, y.double(), atol=2e-3) for x, y in zip(got, wanted)]
    off = ", ".join(f"number {i} {shapes[i]}" for i, ok in enumerate(right) if not ok)
    hint = "is each in its own place, with its own norm, its own factor, and turned back?"
    need(all(right), f"of matrices {shapes} these are off: {off}; {hint}")
    groups, rounds = 4, 2
    *_, n = at(shapes, POLAR_EXPRESS[:rounds])
    line = f"{n} matrix products for {len(shapes)} matrices with {groups} pairs of sides and {rounds} rounds"
    most = 4 * groups * rounds
    need(n <= most, f"{line}; at most {most}: (4, 8) and (8, 4) go as one stack, transposed")


def _gap(x, y, spread=lambda x, y: math.sqrt((statistics.variance(x) + statistics.variance(y)) / 2)) -> float:
    return (statistics.mean(x) - statistics.mean(y)) / spread(x, y)


def _compared(f, table: dict, wanted, what: str, errors, otherwise: str, a: str = "adamw", b: str = "muon") -> None:
    """One call of an answer to 5.4. table: {(arm, rate, decay): {seed: bits per byte}}."""
    rows = [
        {"arm": arm, "rate": rate, "decay": decay, "seed": seed, "val_bpb": bpb}
        for (arm, rate, decay), runs in table.items()
        for seed, bpb in runs.items()
    ]
    rows.sort(key=lambda r: (-r["seed"], r["val_bpb"] * 7919 % 1))  # an order that does not help
    known(call(f, rows, a, b, keep="rows"), wanted, f"the gap in spreads of {what}", errors, otherwise)


def _one_cell(f) -> None:
    """5.4 with one cell for each arm: the spread."""
    table = {("adamw", 0.1, 0): {1: 2.0, 2: 2.2, 3: 2.4}, ("muon", 0.1, 0): {1: 1.6, 2: 1.7, 3: 1.8}}
    wanted, together = 0.5 / math.sqrt(0.025), [x for runs in table.values() for x in runs.values()]
    of_one = "the spread is that of one recipe; take both"
    of_all = "one spread over all runs includes the gap itself; take each recipe's own spread"
    _compared(f, table, wanted, "2.0, 2.2, 2.4 against 1.6, 1.7, 1.8", [
        (-wanted, "the sign: mean of a minus mean of b, positive if b is better"), (0.5, "divide by the common spread"),
        (wanted * math.sqrt(3 / 2), "divide by n - 1 in the standard deviation, not by n"),
        (wanted * math.sqrt(3), "this is the spread of a mean (the standard error); take that of single runs"),
        (wanted / math.sqrt(2), "divide the sum of the two variances by 2 before the root"),
        (0.5 / 0.3, "the spreads are added up, or are ranges; take √((spread_a² + spread_b²) / 2)"),
        (0.5 / 0.4, "the spread is the standard deviation, not the range from least to most"),
        (0.5 / 0.15, "average the variances, not the spreads"), (0.5 / 0.2, of_one), (0.5 / 0.1, of_one),
        (0.5 / 0.025, "the spread is the root of the variance"),
        (0.5 / statistics.stdev(together), of_all), (0.5 / statistics.pstdev(together), of_all),
        (0.4 / math.sqrt(0.025), "only seed 1 was compared; take the means over seeds"),
        (_gap([2.2, 2.4], [1.7, 1.8]), "seed 1 is missing; take all runs of that cell"),
    ], "(mean of a - mean of b) / √((spread_a² + spread_b²) / 2)")  # fmt: skip


def gap_in_spreads(f) -> None:
    _one_cell(f)
    table = {
        ("adamw", 0.001, 0.1): {1: 2.30},
        ("adamw", 0.002, 0): {1: 2.10, 2: 2.13, 3: 2.19},
        ("adamw", 0.002, 0.1): {1: 2.15, 2: 2.29},
        ("adamw", 0.02, 0): {1: 2.60, 2: 2.64, 3: 2.59},
        ("adamw", 0.02, 0.1): {1: 2.58, 2: 2.66},
        ("muon", 0.002, 0): {1: 2.40, 2: 2.41, 3: 2.44},
        ("muon", 0.02, 0.1): {1: 2.00, 2: 2.01, 3: 2.02},
        ("muon", 0.02, 0): {1: 2.03},
        ("muon", 0.04, 0.1): {1: 2.05},
        ("gpt2", 0.002, 0): {1: 1.50, 2: 1.60},
    }
    at = {key: list(runs.values()) for key, runs in table.items()}
    A, B = at["adamw", 0.002, 0], at["muon", 0.02, 0.1]
    everything = [[x for (name, *_), runs in at.items() if name == arm for x in runs] for arm in ("adamw", "muon")]
    wanted, own_best = _gap(A, B), "both were taken at one cell; each arm has its own best rate and decay"
    mixed = "runs of one rate and several decays were mixed; a cell is a rate and a decay"
    spread = wanted / _gap(A, B, lambda x, y: 1)
    _compared(f, table, wanted, "two optimizers with several rates and decays", [
        (_gap(A + at["adamw", 0.002, 0.1], B + at["muon", 0.02, 0]), mixed),
        (_gap(A, at["muon", 0.002, 0]), own_best), (_gap(at["adamw", 0.02, 0.1], B), own_best),
        (_gap(*everything), "this is over all cells; take the best cell of each arm"),
        (_gap(at["adamw", 0.02, 0], at["muon", 0.002, 0]), "these are the worst cells; lower bits per byte are better"),
        ((sorted(A)[1] - sorted(B)[1]) * spread, "these are medians; take the means"),
    ], "is each arm at the cell where its seed 1 did best, with all seeds there?")  # fmt: skip
    _compared(f, table, -wanted, "the same with a and b exchanged", [(wanted, "the sign is lost")],
              "only the sign changes", "muon", "adamw")  # fmt: skip
    lucky = {("adamw", 0.1, 0): {1: 2.0, 2: 2.2}, ("adamw", 0.1, 0.2): {1: 2.1, 2: 1.7}, ("muon", 0.1, 0): {1: 1.7, 2: 1.9}}
    _compared(f, lucky, 0.3 / math.sqrt(0.02), "optimizers of which one has a lucky seed in a second cell",
              [(0.1 / math.sqrt((0.08 + 0.02) / 2), "the cell was chosen with all seeds; seed 1 alone chooses it")],
              "the cell is chosen by seed 1 alone")  # fmt: skip
    uneven = {("adamw", 0.1, 0): {1: 2.0, 2: 2.2, 3: 2.1, 4: 2.3}, ("muon", 0.1, 0.3): {1: 1.7, 5: 1.9}}
    x, y = (list(runs.values()) for runs in uneven.values())
    pooled = _gap(x, y, lambda x, y: math.sqrt((3 * statistics.variance(x) + statistics.variance(y)) / 4))
    _compared(f, uneven, _gap(x, y), "four runs against two",
              [(pooled, "both variances count alike, whatever the number of runs")],
              "use all the seeds that are there, whatever their number")  # fmt: skip


def _counted(shape) -> int:
    """The FLOPs of the package's five iterations on one matrix, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        optim.polar_express(torch.empty(shape, device="meta"), 5)
    return counter.get_total_flops()


def iteration_flops(f) -> None:
    larger = "this is with the larger Gram matrix, 4 x 4"
    for shapes, steps, wanted, what, errors, otherwise in [
        ({"blocks.0.mlp.c_fc.weight": (4, 2)}, [1], 80, "one matrix of 4 x 2 and one iteration", {
            40: "a product of (p, q) with (q, r) costs 2 p q r: a multiplication and an addition",
            256: f"{larger}; its side is the shorter one", 128: f"{larger}, and something is missing",
            64: "the square of the Gram matrix, (k, k) · (k, k), is missing",
            48: "one of the two products with the long side is missing",
            400: "there are `steps` iterations, here 1; 5 is only the default",
        }, "2 k l k + 2 k k k + 2 k k l with k = 2, l = 4"),
        ({"blocks.0.mlp.c_proj.weight": (2, 4)}, [1], 80, "a wide matrix of 2 x 4",
         {256: "the Gram matrix has the shorter side"}, "as for 4 x 2"),
        ({"blocks.0.mlp.c_proj.weight": (2, 4)}, [], 400, "a matrix of 2 x 4 without steps",
         {80: "steps is 5 unless it is given"}, "five times 80"),
        ({"blocks.1.attn.ve_gate.weight": (2, 4), "x0_lambdas": (2,)}, [1], 80, "a gate of 2 x 4 and two lambdas",
         {0: "all matrices whose names begin with blocks. count"}, ""),
    ]:  # fmt: skip
        known(call(f, dict(shapes), *steps, keep="shapes"), wanted, f"the FLOPs of {what}", errors, otherwise)
    small = dict(depth=6, width=64, head_dim=32, vocab_size=1024, sequence_len=128, batch_tokens=1024)
    for plan in (resolve("jan29", **small), resolve("jan29", depth=24)):
        model = build(plan.model)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        muon = {name for g in make_optimizer(model, plan).groups if g.kind == "muon" for name in g.params}
        cost = {shape: _counted(shape) for shape in set(shapes.values()) if len(shape) == 2}
        sizes = {name: cost[shape] for name, shape in shapes.items() if shape in cost}

        def of(more, muon=muon, sizes=sizes):  # Muon's matrices and more
            return sum(size for name, size in sizes.items() if name in muon or name in more)

        tables = sizes.keys() - {"lm_head.weight", "wte.weight"}
        known(f(shapes), of([]), f"the FLOPs of jan29 at depth {plan.recipe.depth}", [
            (of(sizes), "embeddings and head are in it; AdamW takes them"),
            (of(["lm_head.weight"]), "the embedding or the head is in it; AdamW takes both"),
            (of(tables), "the value embeddings are in it; they are tables, and AdamW takes them"),
            (sum(_counted(shape) for shape in {shapes[name] for name in muon}),
             "each shape was counted once; there are many matrices of one shape"),
        ], "the matrices whose names begin with blocks., each by itself")  # fmt: skip


EXERCISES = (
    Exercise("5.1", "The best step under another limit", best_step, points=2, minutes=15, difficulty=3, importance=4),
    Exercise("5.2", "Orthogonalise any matrix, or a stack", orthogonal, points=4, minutes=15, difficulty=4, importance=5,
             forbids=(optim.polar_express, optim.muon_update, MuonAdamW, torch.optim.Muon),
             reference=_orthogonal, nan="add 1e-6 to what you divide by, for a gradient of zeros"),
    Exercise("5.3", "One step for every shape", one_step, points=3, minutes=20, difficulty=4, importance=4,
             forbids=(optim.polar_express, optim.muon_update, MuonAdamW, torch.optim.Muon)),
    Exercise("5.4", "Is the gap real?", gap_in_spreads, points=3, minutes=15, difficulty=3, importance=5),
    Exercise("5.5", "What the iteration costs", iteration_flops, points=2, minutes=10, difficulty=2, importance=3),
)  # fmt: skip
