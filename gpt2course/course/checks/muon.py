"""Checks of the exercises of lesson 05: momentum, the orthogonal update, the end of the step, gaps and seeds, the
cost."""

import functools
import math
import statistics

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gpt2course import optim
from gpt2course.course.checks import Exercise, need, need_close
from gpt2course.optim import POLAR_EXPRESS, Group, MuonAdamW
from gpt2course.recipes import build, make_optimizer, resolve


def _number(got, what: str) -> float:
    """The answer as a number, whatever holds it."""
    need(got is not None, f"{what} returned None: is the return missing?")
    try:
        value = torch.as_tensor(got).detach().double()
    except (TypeError, ValueError, RuntimeError):
        need(False, f"{what} returned a {type(got).__name__}, expected a number")
    need(value.numel() == 1, f"{what} returned the shape {tuple(value.shape)}, expected one number")
    return value.item()


def _known(value: float, wanted: float, line: str, errors: list[tuple[float, str]], otherwise: str) -> None:
    """One number: right, or one line that names the error behind it. errors: (what a known error gives, where to
    look)."""
    near = 2e-4 * max(abs(wanted), 1e-3)
    if abs(value - wanted) <= near:
        return
    for wrong, hint in errors:
        need(not abs(value - wrong) <= 2e-4 * max(abs(wrong), 1e-3), f"{line}: {hint}")
    need(False, f"{line}: {otherwise}")


def _matrix(got, shape, what: str) -> torch.Tensor:
    """The answer as a tensor of the shape asked for, in float64."""
    need(got is not None, f"{what} returned None: is the return missing?")
    try:
        got = torch.as_tensor(got).detach().double()
    except (TypeError, ValueError, RuntimeError):
        need(False, f"{what} returned a {type(got).__name__}, expected a tensor")
    need(got.shape == tuple(shape), f"{what} came out with the shape {tuple(got.shape)}, expected {tuple(shape)}")
    return got


def _random(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- 5.1


def nesterov(f) -> None:
    def both(grad, buffer, momentum):
        kept, out = grad.clone(), f(grad, buffer, momentum)
        need(out is not None, "the answer returned None: is the return missing?")
        need(isinstance(out, (tuple, list)) and len(out) == 2, "expected two results, G and the new buffer")
        G, new = _matrix(out[0], kept.shape, "G"), _matrix(out[1], kept.shape, "the new buffer")
        need(torch.equal(grad, kept), "the gradient was changed in place")
        return G, new

    G, new = (x.item() for x in both(torch.tensor([1.0]), torch.tensor([2.0]), 0.9))
    need(not (abs(G - 1.9) < 1e-4 and abs(new - 1.81) < 1e-4), "buffer and G came out in the wrong order; return G first")
    _known(
        new,
        1.9,
        f"the new buffer came out as {new:.4g} for buffer 2, grad 1 and momentum 0.9, expected 1.9",
        [
            (1.1, "momentum belongs to the old buffer, 1 - momentum to the gradient"),
            (2.8, "the gradient was added in full; it is a mean, so its share is 1 - momentum"),
            (2.0, "the old buffer came back"),
            (1.81, "G came back as the buffer; keep the plain running mean"),
        ],
        "momentum · buffer + (1 - momentum) · grad",
    )
    _known(
        G,
        1.81,
        f"G came out as {G:.4g} for buffer 2, grad 1 and momentum 0.9, expected 1.81",
        [
            (1.9, "this is the new buffer itself; mix the gradient in once more, with the new buffer"),
            (1.09, "momentum belongs to the buffer, 1 - momentum to the gradient"),
            (2.71, "the gradient was added in full; its share is 1 - momentum"),
            (1.0, "this is the gradient itself"),
        ],
        "momentum · new buffer + (1 - momentum) · grad",
    )
    shape, ours = (3, 4), torch.zeros(3, 4)
    theirs = torch.zeros(3, 4)
    for step in range(4):
        grad, momentum = _random(*shape, seed=step), 0.85 + 0.03 * step
        G, new = both(grad.clone(), theirs.clone(), momentum)
        ours.lerp_(grad, 1 - momentum)  # the first two lines of optim.muon_update
        need_close(new, ours, f"step {step + 1} with momentum {momentum:.2f}: the buffer is off; is the momentum a fixed number?")
        need_close(G, grad.lerp(ours, momentum), f"step {step + 1} with momentum {momentum:.2f}: G is off, the buffer is right")
        theirs = new.float()


# ------------------------------------------------------------------------------------------------- 5.2


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


def orthogonal(f) -> None:
    def at(G, coefficients, safety, what):
        kept, out = G.clone(), f(G, list(coefficients), safety)
        out = _matrix(out, kept.shape, what)
        need(torch.equal(G, kept), "G was changed in place; work on a copy")
        return out

    for m, n in ((4, 4), (2, 5), (5, 2)):
        at(_random(m, n, seed=1), POLAR_EXPRESS, 1.02, f"the update of a {m} x {n} matrix")
    toy, cubic = torch.diag(torch.tensor([3.0, 4.0])), (1.5, -0.5, 0.0)

    def diagonal(coefficients, safety):
        out = at(toy, coefficients, safety, "the toy")
        need(torch.isfinite(out).all(), "the 2 x 2 toy gave numbers that are not finite: is G divided by its norm first?")
        need(
            (out - torch.diag(out.diagonal())).abs().max() < 1e-4,
            "a diagonal G did not stay diagonal: are the powers matrix products?",
        )
        return out.diagonal().tolist()

    def through(values, coefficients):
        for a, b, c in coefficients:
            values = [a * x + b * x**3 + c * x**5 for x in values]
        return values

    def tell(got, wanted, line, errors, otherwise):
        def same(a, b):
            return all(abs(x - y) <= 2e-4 * max(1.0, abs(y)) for x, y in zip(a, b))

        if same(got, wanted):
            return
        for wrong, hint in errors:
            need(not same(got, wrong), f"{line}: {hint}")
        need(False, f"{line}: {otherwise}")

    got = diagonal([cubic], 1.0)
    line = f"G diagonal with 3 and 4, one cubic iteration, gave {got[0]:.4g} and {got[1]:.4g}, expected 0.792 and 0.944"
    wrong_norms = [
        ([3.0, 4.0], "G was not normalised first; divide it by its Frobenius norm"),
        ([0.75, 1.0], "the division is by the largest singular value (the spectral norm), not by the Frobenius norm"),
        ([3 / 25, 4 / 25], "G was divided by the sum of squares; take the root"),
        ([3 / 7, 4 / 7], "G was divided by the sum of its numbers; take the root of the sum of squares"),
        ([0.6 / 1.02, 0.8 / 1.02], "a safety of 1.02 was used, but it is an argument, here 1"),
    ]
    tell(
        got,
        [0.792, 0.944],
        line,
        [(through(start, [cubic]), hint) for start, hint in wrong_norms]
        + [
            ([0.6, 0.8], "no iteration was made"),
            (
                [x / math.hypot(*through([3, 4], [cubic])) for x in through([3, 4], [cubic])],
                "normalise before iterating, not after",
            ),
            ([1.0, 1.0], "both are 1; use the polynomial that is given, and divide the whole matrix by one number, not each row"),
            ([1.5 * x - 0.5 * x**5 for x in (0.6, 0.8)], "b and c are exchanged; b belongs to X Xᵀ, c to (X Xᵀ)²"),
        ],
        "X = G / 5, then 1.5 X - 0.5 (X Xᵀ) X",
    )
    got, wanted = diagonal([cubic], 1.25), through([0.48, 0.64], [cubic])
    line = f"the same with safety 1.25 gave {got[0]:.4g} and {got[1]:.4g}, expected {wanted[0]:.4g} and {wanted[1]:.4g}"
    tell(
        got,
        wanted,
        line,
        [
            ([0.792, 0.944], "safety is ignored; divide by safety times the norm"),
            (through([0.75, 1.0], [cubic]), "divide by safety times the norm; it was multiplied"),
        ],
        "divide by safety times the norm",
    )
    got, wanted = diagonal([(1.0, 10.0, 100.0)], 1.0), through([0.6, 0.8], [(1, 10, 100)])
    line = f"one iteration with 1, 10, 100 gave {got[0]:.4g} and {got[1]:.4g}, expected {wanted[0]:.4g} and {wanted[1]:.4g}"
    tell(
        got,
        wanted,
        line,
        [
            (through([0.6, 0.8], [(1, 100, 10)]), "b and c are exchanged; c belongs to (X Xᵀ)²"),
            ([x + 10 * x**3 + 100 * x**3 for x in (0.6, 0.8)], "c belongs to the square of the Gram matrix"),
            ([x + 10 * x**3 for x in (0.6, 0.8)], "the third term, c (X Xᵀ)² X, is missing"),
            ([x + 10 * x**3 + 100 * x**7 for x in (0.6, 0.8)], "c belongs to (X Xᵀ)², not to a higher power"),
            ([x + 10 * x**2 + 100 * x**3 for x in (0.6, 0.8)], "the powers are too low: b (X Xᵀ) X is a third power"),
            ([x + 10 * x**2 + 100 * x**4 for x in (0.6, 0.8)], "multiply b (X Xᵀ) + c (X Xᵀ)² by X"),
        ],
        "a x + b x³ + c x⁵ for each singular value",
    )
    two = [(2.0, -1.0, 0.5), (1.0, 0.25, 0.0)]
    got, wanted = diagonal(two, 1.0), through([0.6, 0.8], two)
    line = f"two different iterations gave {got[0]:.4g} and {got[1]:.4g}, expected {wanted[0]:.4g} and {wanted[1]:.4g}"
    tell(
        got,
        wanted,
        line,
        [
            (through([0.6, 0.8], two[::-1]), "the coefficients were used in reverse order"),
            (through([0.6, 0.8], [two[0], two[0]]), "each iteration has its own coefficients; the first were used twice"),
            (through([0.6, 0.8], two[:1]), "only the first iteration was made"),
            (through([0.6, 0.8], POLAR_EXPRESS), "use the coefficients that are given, not a list of your own"),
        ],
        "use the coefficients one after the other",
    )
    G = _random(6, 6, seed=2)
    kept = optim.polar_express(G, 1, 1.02)
    got = at(G, POLAR_EXPRESS[:1], 1.02, "a square matrix")
    need(
        not torch.allclose(got, kept.T.double(), atol=1e-4),
        "a square matrix came out transposed; transpose back only what you transposed",
    )
    X = G / (G.norm() * 1.02)
    a, b, c = POLAR_EXPRESS[0]
    A = X.T @ X
    wrong_side = a * X + (b * A + c * A @ A) @ X
    need(
        not torch.allclose(got, wrong_side.double(), atol=1e-4),
        "a square matrix is off: (X Xᵀ) goes with a product from the left, (Xᵀ X) with one from the right",
    )
    need_close(
        got, kept, "a square matrix is off after one iteration, though diagonal ones are right: are the powers matrix products?"
    )
    for m, n in ((7, 7), (3, 9), (9, 3), (1, 5), (5, 1)):
        G = _random(m, n, seed=m) * 3.0**m
        got = at(G, POLAR_EXPRESS, 1.02, f"the update of a {m} x {n} matrix")
        wanted = optim.polar_express(G).double()
        norms, seen = (x.norm(dim=1).mean().item() for x in (wanted, got))
        kind = "tall" if m > n else "wide" if m < n else "square"
        need(
            torch.allclose(got, wanted, atol=1e-3),
            f"the rows of a {kind} matrix ({m}, {n}) came out at norm {seen:.2g}, expected {norms:.2g}: are {kind} ones right?",
        )
    got = at(torch.zeros(3, 3), POLAR_EXPRESS, 1.02, "zeros")
    need(torch.isfinite(got).all() and got.abs().max() == 0, "a gradient of zeros gave nan: add 1e-6 to what you divide by")
    for m, n in ((96, 6), (6, 96)):
        with _Largest() as watch:
            f(_random(m, n, seed=3), list(POLAR_EXPRESS), 1.02)
        kind, line = ("tall", "X Xᵀ") if m > n else ("wide", "Xᵀ X")
        need(
            watch.size < 96 * 96,
            f"a {kind} matrix ({m}, {n}) made a product of 96 x 96 on the way, {line}: transpose, or use the smaller Gram matrix",
        )


# ------------------------------------------------------------------------------------------------- 5.3


def finish(f) -> None:
    def at(p, U, lr, decay, what):
        kept = U.clone()
        out = _matrix(f(p.clone(), U, lr, decay), kept.shape, what)
        need(torch.equal(U, kept), "U was changed in place")
        return out

    def tell(got, wanted, line, errors, otherwise):
        def same(a, b):
            return all(abs(x - y) <= 1e-4 for x, y in zip(a, b))

        if same(got, wanted):
            return
        for wrong, hint in errors:
            need(not same(got, wrong), f"{line}: {hint}")
        need(False, f"{line}: {otherwise}")

    p, U = torch.tensor([[5.0, 5.0], [-5.0, -5.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    got = at(p, U, 0.1, 0.5, "the new p").flatten().tolist()
    away = "the mask has the wrong sign; decay where the update pulls towards zero too, U · p ≥ 0"
    tell(
        got,
        [4.65, 5.1, -4.65, -5.1],
        f"p = 5, 5, -5, -5 and U = 1, -1, -1, 1 gave {', '.join(f'{x:.4g}' for x in got)}, expected 4.65, 5.1, -4.65, -5.1",
        [
            ([4.65, 4.85, -4.65, -4.85], "the decay acts everywhere; let it act only where U · p ≥ 0"),
            ([4.9, 4.85, -4.9, -4.85], away),
            ([4.9, 5.1, -4.9, -5.1], "there is no decay"),
            ([4.65, 5.0, -4.65, -5.0], "the update is masked as well; only the decay is"),
            ([4.65, 4.75, -4.65, -4.75], "the update is masked; only the decay is"),
            ([4.65, 4.85, -4.9, -5.1], "the mask looks at p alone; it needs the sign of U · p"),
            ([4.65, 5.1, -4.9, -4.85], "the mask looks at U alone; it needs the sign of U · p"),
            ([2.4, 5.1, -2.4, -5.1], "the decay is multiplied by the rate too"),
            ([4.85, 4.9, -4.85, -4.9], "the step goes the wrong way; subtract U"),
            ([5.35, 4.9, -5.35, -4.9], "the step goes the wrong way; subtract U and the decay"),
            ([5.15, 5.1, -5.15, -5.1], "the decay pushes away from zero; subtract it"),
            ([4.85, 5.1, -4.95, -5.1], "the decay is weight_decay · p, not weight_decay alone"),
        ],
        "p - rate · U - rate · weight_decay · p where U · p ≥ 0",
    )
    got = (
        at(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]]), 0.1, 0.5, "the new p")
        .flatten()
        .tolist()
    )
    tell(
        got,
        [1.9, -0.1, -1.9, 0.1],
        f"p = 2, 0, -2, 0 and U = 0, 1, 0, -1 gave {', '.join(f'{x:.4g}' for x in got)}, expected 1.9, -0.1, -1.9, 0.1",
        [([2.0, -0.1, -2.0, 0.1], "where U is 0 the decay acts too: U · p ≥ 0")],
        "where U is 0, only the decay acts",
    )
    for m, n, wanted in ((4, 1, 2.0), (1, 4, 1.0), (3, 3, 1.0)):
        kind = "tall" if m > n else "wide" if m < n else "square"
        got = (-at(torch.zeros(m, n), torch.ones(m, n), 1.0, 0.0, f"the new p of a {kind} matrix")).flatten()[0].item()
        _known(
            got,
            wanted,
            f"a {kind} matrix ({m}, {n}) got the rate {got:.4g} times lr, expected {wanted:g}",
            [
                (0.5, "the factor is never below 1: max(1, m/n)"),
                (0.25, "the factor is never below 1: max(1, m/n)"),
            ]
            if m < n
            else [
                (1.0, "the factor √max(1, m/n) is missing"),
                (4.0, "the square root is missing"),
                (0.5, "the factor is √(m/n), rows over columns"),
                (0.25, "the factor is √(m/n), rows over columns"),
            ],
            "√max(1, m/n)",
        )
    got = at(torch.ones(4, 1), torch.zeros(4, 1), 0.1, 0.5, "the new p of a tall matrix").flatten()[0].item()
    _known(
        got,
        0.9,
        f"a tall matrix (4, 1) with U = 0 went from 1 to {got:.4g}, expected 0.9",
        [(0.95, "the decay is multiplied by the rate with its factor, not by lr alone")],
        "rate · weight_decay · p",
    )
    for m, n in ((6, 6), (12, 5), (5, 12)):
        start, grad = _random(m, n, seed=m), _random(m, n, seed=n + 50)
        scale = max(1.0, m / n) ** 0.5

        def stepped(p, lr, decay, grad=grad):
            p = torch.nn.Parameter(p.clone())
            p.grad = grad.clone()
            MuonAdamW([Group("m", "muon", {"p": p}, lr=lr, weight_decay=decay)]).step()
            return p.detach()

        U = -stepped(torch.zeros(m, n), 1.0, 0.0) / scale  # what the package subtracts, before its rate
        got = at(start, U, 0.02, 3.0, f"the new p of a {m} x {n} matrix")
        need_close(
            got, stepped(start, 0.02, 3.0), f"a random matrix ({m}, {n}) is off, though small examples are right", atol=1e-4
        )


# ------------------------------------------------------------------------------------------------- 5.4


def _runs(table: dict) -> list[dict]:
    """{(recipe, rate): {seed: bits per byte}} -> rows, in an order that does not help."""
    rows = [
        {"recipe": recipe, "rate": rate, "seed": seed, "val_bpb": bpb, "role": "sweep" if seed == 1 else "ladder"}
        for (recipe, rate), runs in table.items()
        for seed, bpb in runs.items()
    ]
    return sorted(rows, key=lambda r: (-r["seed"], r["val_bpb"] * 7919 % 1))


def gap_in_spreads(f) -> None:
    def at(table, a="adamw", b="muon"):
        rows = _runs(table)
        kept = [dict(r) for r in rows]
        value = _number(f(rows, a, b), "gap_in_spreads")
        need(rows == kept, "rows was changed; leave it as it is")
        return value

    three = {("adamw", 0.1): {1: 2.0, 2: 2.2, 3: 2.4}, ("muon", 0.1): {1: 1.6, 2: 1.7, 3: 1.8}}
    value, wanted = at(three), 0.5 / math.sqrt(0.025)
    together = [x for runs in three.values() for x in runs.values()]
    _known(
        value,
        wanted,
        f"2.0, 2.2, 2.4 against 1.6, 1.7, 1.8 came out at {value:.4g} spreads, expected {wanted:.4g}",
        [
            (-wanted, "the sign: mean of a minus mean of b, positive if b is better"),
            (0.5, "divide by the common spread"),
            (wanted * math.sqrt(3 / 2), "divide by n - 1 in the standard deviation, not by n"),
            (wanted * math.sqrt(3), "this is the spread of a mean (the standard error); take that of single runs"),
            (wanted / math.sqrt(2), "divide the sum of the two variances by 2 before the root"),
            (0.5 / 0.3, "the spreads are added up, or are ranges; take √((spread_a² + spread_b²) / 2)"),
            (0.5 / 0.4, "the spread is the standard deviation, not the range from least to most"),
            (0.5 / 0.15, "average the variances, not the spreads"),
            (0.5 / 0.2, "the spread is that of one recipe; take both"),
            (0.5 / 0.1, "the spread is that of one recipe; take both"),
            (0.5 / 0.025, "the spread is the root of the variance"),
            (0.5 / statistics.stdev(together), "one spread over all runs holds the gap itself; take each recipe's by itself"),
            (0.5 / statistics.pstdev(together), "one spread over all runs holds the gap itself; take each recipe's by itself"),
        ],
        "(mean of a - mean of b) / √((spread_a² + spread_b²) / 2)",
    )
    table = {
        ("adamw", 0.001): {1: 2.30},
        ("adamw", 0.002): {1: 2.10, 2: 2.13, 3: 2.16},
        ("adamw", 0.02): {1: 2.60, 2: 2.64, 3: 2.59},
        ("muon", 0.002): {1: 2.40, 2: 2.41, 3: 2.44},
        ("muon", 0.02): {1: 2.00, 2: 2.01, 3: 2.02},
        ("muon", 0.04): {1: 2.05},
        ("gpt2", 0.002): {1: 1.50, 2: 1.60},
    }

    def values(recipe, rate=None):
        return [x for (name, r), runs in table.items() if name == recipe and rate in (None, r) for x in runs.values()]

    def gap(x, y, spread):
        return (statistics.mean(x) - statistics.mean(y)) / spread(x, y)

    def common(x, y):
        return math.sqrt((statistics.variance(x) + statistics.variance(y)) / 2)

    A, B = values("adamw", 0.002), values("muon", 0.02)
    wanted = gap(A, B, common)
    value = at(table)
    line = f"two recipes with several rates came out at {value:.4g} spreads, expected {wanted:.4g}"
    _known(
        value,
        wanted,
        line,
        [
            (gap(A, values("muon", 0.002), common), "both recipes were taken at one rate; each has its own best"),
            (gap(values("adamw", 0.02), B, common), "both recipes were taken at one rate; each has its own best"),
            (gap(values("adamw"), values("muon"), common), "this is over all rates; take the best rate of each recipe"),
            (
                gap(values("adamw", 0.02), values("muon", 0.002), common),
                "these are the worst rates; lower bits per byte are better",
            ),
            ((min(A) - min(B)) / common(A, B), "the best run of each was compared; take the means over seeds"),
            ((A[0] - B[0]) / common(A, B), "only seed 1 was compared; take the means over seeds"),
            (gap(A[1:], B[1:], common), "seed 1 is missing; take all runs at that rate"),
        ],
        "is each recipe at the rate where its seed 1 did best, with all seeds there?",
    )
    value = at(table, "muon", "adamw")
    _known(
        value,
        -wanted,
        f"with a and b exchanged: {value:.4g}, expected {-wanted:.4g}",
        [(wanted, "the sign is lost")],
        "only the sign changes",
    )
    tiny = {("adamw", 0.1): {1: 2.0, 2: 2.2}, ("muon", 0.1): {1: 1.7, 2: 1.9}}
    lucky = tiny | {("adamw", 0.2): {1: 2.1, 2: 1.7}}
    value, wanted = at(lucky), 0.3 / math.sqrt(0.02)
    _known(
        value,
        wanted,
        f"where another seed is lucky at a second rate: {value:.4g}, expected {wanted:.4g}",
        [(0.1 / math.sqrt((0.08 + 0.02) / 2), "the rate was chosen with all seeds; seed 1 alone chooses it")],
        "the rate is chosen by seed 1 alone",
    )
    uneven = {("adamw", 0.1): {1: 2.0, 2: 2.2, 3: 2.1, 4: 2.3}, ("muon", 0.1): {1: 1.7, 5: 1.9}}
    x, y = (list(v.values()) for v in uneven.values())
    value, wanted = at(uneven), gap(x, y, common)
    pooled = gap(x, y, lambda x, y: math.sqrt((3 * statistics.variance(x) + statistics.variance(y)) / 4))
    _known(
        value,
        wanted,
        f"four runs against two came out at {value:.4g}, expected {wanted:.4g}",
        [(pooled, "the two variances count alike here, whatever the number of runs")],
        "use all the seeds that are there, whatever their number",
    )


# ------------------------------------------------------------------------------------------------- 5.5


@functools.cache
def _counted(shape, steps: int) -> int:
    """The FLOPs of the package's iteration on one matrix, counted by torch as they are made."""
    with FlopCounterMode(display=False) as counter:
        optim.polar_express(torch.empty(shape, device="meta"), steps)
    return counter.get_total_flops()


def iteration_flops(f) -> None:
    def at(shapes, *steps):
        return _number(f(dict(shapes), *steps), "iteration_flops")

    value = at({"blocks.0.mlp.c_fc.weight": (4, 2)}, 1)
    _known(
        value,
        80,
        f"one matrix of 4 x 2 and one iteration came out at {value:g} FLOPs, expected 80",
        [
            (40, "a product of (p, q) with (q, r) costs 2 p q r: a multiplication and an addition"),
            (256, "this is with the larger Gram matrix, 4 x 4; its side is the shorter one"),
            (128, "this is with the larger Gram matrix, 4 x 4, and something is missing"),
            (64, "the square of the Gram matrix, (k, k) · (k, k), is missing"),
            (48, "one of the two products with the long side is missing"),
            (32, "this is one product of three"),
            (16, "this is one product of three"),
            (160, "a factor 2 too many"),
            (400, "there are `steps` iterations, here 1; 5 is only the default"),
        ],
        "2 k l k + 2 k k k + 2 k k l with k = 2, l = 4",
    )
    value = at({"blocks.0.mlp.c_proj.weight": (2, 4)}, 1)
    _known(
        value,
        80,
        f"a wide matrix of 2 x 4 came out at {value:g} FLOPs, expected 80",
        [(256, "the Gram matrix has the shorter side")],
        "as for 4 x 2",
    )
    value = at({"blocks.0.mlp.c_proj.weight": (2, 4)})
    _known(
        value,
        400,
        f"without steps, 2 x 4 came out at {value:g} FLOPs, expected 400",
        [(80, "steps is 5 unless it is given")],
        "five times 80",
    )
    value = at({"blocks.1.attn.ve_gate.weight": (2, 4), "x0_lambdas": (2,)}, 1)
    _known(
        value,
        80,
        f"a gate of 2 x 4 and two lambdas came out at {value:g} FLOPs, expected 80",
        [(0, "all matrices whose names begin with blocks. count")],
        "",
    )
    for changes in (dict(depth=6, width=64, head_dim=32, vocab_size=1024, sequence_len=128, batch_tokens=1024), dict(depth=24)):
        plan = resolve("jan29", **changes)
        model = build(plan.model)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        muon = {name for g in make_optimizer(model, plan).groups if g.kind == "muon" for name in g.params}
        sizes = {name: _counted(shape, 5) for name, shape in shapes.items() if len(shape) == 2}
        wanted = sum(sizes[name] for name in muon)

        def total(names, sizes=sizes):
            return sum(sizes[name] for name in names)

        k3 = sum(5 * 2 * min(shapes[name]) ** 3 for name in muon)
        big = sum(5 * (4 * max(s) ** 2 * min(s) + 2 * max(s) ** 3) for s in map(shapes.get, muon))
        rows = sum(5 * (4 * s[0] ** 2 * s[1] + 2 * s[0] ** 3) for s in map(shapes.get, muon))
        columns = sum(5 * (4 * s[1] ** 2 * s[0] + 2 * s[1] ** 3) for s in map(shapes.get, muon))
        value = at(shapes)
        _known(
            value,
            wanted,
            f"jan29 at depth {plan.recipe.depth} came out at {value:.4g} FLOPs, expected {wanted:.4g}",
            [
                (total(sizes), "embeddings and head are in it; AdamW takes them"),
                (
                    total(n for n in sizes if n in muon or n == "lm_head.weight"),
                    "the embedding or the head is in it; AdamW takes both",
                ),
                (
                    total(n for n in sizes if n not in ("lm_head.weight", "wte.weight")),
                    "the value embeddings are in it; they are tables, and AdamW takes them",
                ),
                (
                    total({shapes[n]: n for n in muon}.values()),
                    "each shape was counted once; there are many matrices of one shape",
                ),
                (wanted - k3, "the square of the Gram matrix is missing"),
                (big, "this is with the larger Gram matrix; its side is the shorter one"),
                (rows, "for tall matrices this is the larger Gram matrix"),
                (columns, "for wide matrices this is the larger Gram matrix"),
            ],
            "the matrices whose names begin with blocks., each by itself",
        )


EXERCISES = (
    Exercise("5.1", "Nesterov momentum", nesterov, points=1, minutes=5, difficulty=1, importance=3),
    Exercise("5.2", "Orthogonalise", orthogonal, points=4, minutes=20, difficulty=4, importance=5),
    Exercise("5.3", "The end of the step: rate and cautious decay", finish, points=2, minutes=10, difficulty=2, importance=4),
    Exercise("5.4", "Is the gap real?", gap_in_spreads, points=3, minutes=15, difficulty=3, importance=5),
    Exercise("5.5", "What the iteration costs", iteration_flops, points=2, minutes=10, difficulty=2, importance=3),
)
