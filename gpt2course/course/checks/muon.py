"""Checks of lesson 05's exercises: momentum, the orthogonal update, the end of the step, gaps and seeds, the cost."""

import math
import statistics

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gpt2course import optim
from gpt2course.course.checks import Exercise, call, known, need, need_close, several, tensor, tried
from gpt2course.optim import POLAR_EXPRESS, Group, MuonAdamW
from gpt2course.recipes import build, make_optimizer, resolve


def _random(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _kind(m: int, n: int) -> str:
    return "tall" if m > n else "wide" if m < n else "square"


def nesterov(f) -> None:
    def both(grad, buffer, momentum):
        kept = grad.clone()
        out = several(f(grad, buffer, momentum), 2, "two results, G and the new buffer")
        need(torch.equal(grad, kept), "the gradient was changed in place; work on a copy")
        return tensor(out[0], kept.shape, "G"), tensor(out[1], kept.shape, "the new buffer")

    G, new = (x.item() for x in both(torch.tensor([1.0]), torch.tensor([2.0]), 0.9))
    need(abs(G - 1.9) + abs(new - 1.81) > 1e-4, "buffer and G came out in the wrong order; return G first")
    case = "for buffer 2, grad 1 and momentum 0.9"
    known(new, 1.9, f"the new buffer {case}", {
        1.1: "momentum belongs to the old buffer, 1 - momentum to the gradient",
        2.8: "the gradient was added in full; it is a mean, so its share is 1 - momentum",
        2.0: "the old buffer came back", 1.81: "G came back as the buffer; keep the plain running mean",
    }, "momentum · buffer + (1 - momentum) · grad")  # fmt: skip
    known(G, 1.81, f"G {case}", {
        1.9: "this is the new buffer itself; mix the gradient in once more, with the new buffer",
        1.09: "momentum belongs to the buffer, 1 - momentum to the gradient",
        2.71: "the gradient was added in full; its share is 1 - momentum",
    }, "momentum · new buffer + (1 - momentum) · grad")  # fmt: skip
    ours = theirs = torch.zeros(3, 4)
    for step in range(4):
        grad, momentum = _random(3, 4, seed=step), 0.85 + 0.03 * step
        G, new = both(grad.clone(), theirs.clone(), momentum)
        ours = ours.lerp(grad, 1 - momentum)  # the first two lines of optim.muon_update
        line = f"step {step + 1} with momentum {momentum:.2f}"
        need_close(new, ours, f"{line}: the buffer is off; is the momentum a fixed number?")
        need_close(G, grad.lerp(ours, momentum), f"{line}: G is off, the buffer is right")
        theirs = new.float()
    G, new = both(torch.ones(3, 4), torch.zeros(3, 4), 0.5)
    need_close(new, torch.full((3, 4), 0.5), "a new matrix, with a buffer of zeros: use the buffer that is given")


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
            (through([0.6, 0.8], POLAR_EXPRESS), "use the coefficients that are given, not a list of your own"),
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


def finish(f) -> None:
    def at(p, U, lr, decay):
        out = f(p.clone(), U, lr, decay)
        return tensor(out, p.shape, f"the new p of a {_kind(*p.shape)} matrix")

    def unchanged(p, U, *settings):
        kept, out = U.clone(), at(p, U, *settings)
        need(torch.equal(U, kept), "U was changed in place; work on a copy")
        return out.flatten()

    p, U = torch.tensor([[5.0, 5.0], [-5.0, -5.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    away = "the mask has the wrong sign; decay where the update pulls towards zero too, U · p ≥ 0"
    known(unchanged(p, U, 0.1, 0.5), [4.65, 5.1, -4.65, -5.1], "p = 5, 5, -5, -5 with U = 1, -1, -1, 1", [
        ([4.65, 4.85, -4.65, -4.85], "the decay acts everywhere; let it act only where U · p ≥ 0"),
        ([4.9, 4.85, -4.9, -4.85], away), ([4.9, 5.1, -4.9, -5.1], "there is no decay"),
        ([4.65, 5.0, -4.65, -5.0], "the update is masked as well; only the decay is"),
        ([4.65, 4.85, -4.9, -5.1], "the mask looks at p alone; it needs the sign of U · p"),
        ([4.65, 5.1, -4.9, -4.85], "the mask looks at U alone; it needs the sign of U · p"),
        ([2.4, 5.1, -2.4, -5.1], "the decay is multiplied by the rate too"),
        ([4.85, 4.9, -4.85, -4.9], "the step goes the wrong way; subtract U"),
        ([5.15, 5.1, -5.15, -5.1], "the decay pushes away from zero; subtract it"),
        ([4.85, 5.1, -4.95, -5.1], "the decay is weight_decay · p, not weight_decay alone"),
    ], "p - rate · U - rate · weight_decay · p where U · p ≥ 0")  # fmt: skip
    p, U = torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    hint = "where U is 0 the decay acts too: U · p ≥ 0"
    known(unchanged(p, U, 0.1, 0.5), [1.9, -0.1, -1.9, 0.1], "p = 2, 0, -2, 0 with U = 0, 1, 0, -1",
          [([2.0, -0.1, -2.0, 0.1], hint)], "where U is 0, only the decay acts")  # fmt: skip
    below, turned = "the factor is never below 1: max(1, m/n)", "the factor is √(m/n), rows over columns"
    tall = {1.0: "the factor √max(1, m/n) is missing", 4.0: "the square root is missing", 0.5: turned, 0.25: turned}
    for m, n, wanted, errors in ((4, 1, 2.0, tall), (1, 4, 1.0, {0.5: below, 0.25: below}), (3, 3, 1.0, tall)):
        got = -at(torch.zeros(m, n), torch.ones(m, n), 1.0, 0.0)[0, 0]
        known(got, wanted, f"the rate / lr of a {_kind(m, n)} matrix ({m}, {n})", errors, "√max(1, m/n)")
    hint = "the decay is multiplied by the rate with its factor, not by lr alone"
    got = at(torch.ones(4, 1), torch.zeros(4, 1), 0.1, 0.5)[0, 0]
    known(got, 0.9, "1 in a tall matrix (4, 1) with U = 0", {0.95: hint}, "rate · weight_decay · p")
    for m, n in ((6, 6), (12, 5), (5, 12)):
        start, grad = _random(m, n, seed=m), _random(m, n, seed=n + 50)

        def stepped(p, lr, decay, grad=grad):
            p = torch.nn.Parameter(p.clone())
            p.grad = grad.clone()
            MuonAdamW([Group("m", "muon", {"p": p}, lr=lr, weight_decay=decay)]).step()
            return p.detach()

        U = -stepped(torch.zeros(m, n), 1.0, 0.0) / max(1.0, m / n) ** 0.5  # the package's, before its rate
        line = f"a random matrix ({m}, {n}) is off, though small examples are right"
        turned = start.T.contiguous().T  # not contiguous in memory
        need_close(at(turned, U, 0.02, 3.0), stepped(start, 0.02, 3.0), line, atol=1e-4)


def _gap(x, y, spread=lambda x, y: math.sqrt((statistics.variance(x) + statistics.variance(y)) / 2)) -> float:
    return (statistics.mean(x) - statistics.mean(y)) / spread(x, y)


def _compared(f, table: dict, wanted, what: str, errors, otherwise: str, a: str = "adamw", b: str = "muon") -> None:
    """One call of an answer to 5.4. table: {(recipe, rate): {seed: bits per byte}}."""
    rows = [
        {"recipe": recipe, "rate": rate, "seed": seed, "val_bpb": bpb, "role": "sweep" if seed == 1 else "ladder"}
        for (recipe, rate), runs in table.items()
        for seed, bpb in runs.items()
    ]
    rows.sort(key=lambda r: (-r["seed"], r["val_bpb"] * 7919 % 1))  # an order that does not help
    known(call(f, rows, a, b, keep="rows"), wanted, f"the gap in spreads of {what}", errors, otherwise)


def _one_rate(f) -> None:
    """5.4 with one rate for each recipe: the spread."""
    table = {("adamw", 0.1): {1: 2.0, 2: 2.2, 3: 2.4}, ("muon", 0.1): {1: 1.6, 2: 1.7, 3: 1.8}}
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
    ], "(mean of a - mean of b) / √((spread_a² + spread_b²) / 2)")  # fmt: skip


def gap_in_spreads(f) -> None:
    _one_rate(f)
    table = {
        ("adamw", 0.001): {1: 2.30},
        ("adamw", 0.002): {1: 2.10, 2: 2.13, 3: 2.19},
        ("adamw", 0.02): {1: 2.60, 2: 2.64, 3: 2.59},
        ("muon", 0.002): {1: 2.40, 2: 2.41, 3: 2.44},
        ("muon", 0.02): {1: 2.00, 2: 2.01, 3: 2.02},
        ("muon", 0.04): {1: 2.05},
        ("gpt2", 0.002): {1: 1.50, 2: 1.60},
    }
    at = {key: list(runs.values()) for key, runs in table.items()}
    A, B = at["adamw", 0.002], at["muon", 0.02]
    everything = [[x for (name, _), runs in at.items() if name == recipe for x in runs] for recipe in ("adamw", "muon")]
    wanted, own_best = _gap(A, B), "both recipes were taken at one rate; each has its own best"
    _compared(f, table, wanted, "two recipes with several rates", [
        (_gap(A, at["muon", 0.002]), own_best), (_gap(at["adamw", 0.02], B), own_best),
        (_gap(*everything), "this is over all rates; take the best rate of each recipe"),
        (_gap(at["adamw", 0.02], at["muon", 0.002]), "these are the worst rates; lower bits per byte are better"),
        ((A[0] - B[0]) * wanted / _gap(A, B, lambda x, y: 1), "only seed 1 was compared; take the means over seeds"),
        ((sorted(A)[1] - sorted(B)[1]) * wanted / _gap(A, B, lambda x, y: 1), "these are medians; take the means"),
        (_gap(A[1:], B[1:]), "seed 1 is missing; take all runs at that rate"),
    ], "is each recipe at the rate where its seed 1 did best, with all seeds there?")  # fmt: skip
    _compared(f, table, -wanted, "the same with a and b exchanged", [(wanted, "the sign is lost")],
              "only the sign changes", "muon", "adamw")  # fmt: skip
    lucky = {("adamw", 0.1): {1: 2.0, 2: 2.2}, ("adamw", 0.2): {1: 2.1, 2: 1.7}, ("muon", 0.1): {1: 1.7, 2: 1.9}}
    _compared(f, lucky, 0.3 / math.sqrt(0.02), "recipes of which one has a lucky seed at a second rate",
              [(0.1 / math.sqrt((0.08 + 0.02) / 2), "the rate was chosen with all seeds; seed 1 alone chooses it")],
              "the rate is chosen by seed 1 alone")  # fmt: skip
    uneven = {("adamw", 0.1): {1: 2.0, 2: 2.2, 3: 2.1, 4: 2.3}, ("muon", 0.1): {1: 1.7, 5: 1.9}}
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
        known(f(dict(shapes), *steps), wanted, f"the FLOPs of {what}", errors, otherwise)
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
    Exercise("5.1", "Nesterov momentum", nesterov, points=1, minutes=5, difficulty=1, importance=3,
             forbids=(optim.muon_update, MuonAdamW)),
    Exercise("5.2", "Orthogonalise", orthogonal, points=4, minutes=20, difficulty=4, importance=5,
             forbids=(optim.polar_express, optim.muon_update, MuonAdamW, torch.optim.Muon),
             reference=_orthogonal, nan="add 1e-6 to what you divide by, for a gradient of zeros"),
    Exercise("5.3", "The end of the step: rate and cautious decay", finish, points=2, minutes=10, difficulty=2,
             importance=4, forbids=(optim.muon_update, MuonAdamW)),
    Exercise("5.4", "Is the gap real?", gap_in_spreads, points=3, minutes=15, difficulty=3, importance=5),
    Exercise("5.5", "What the iteration costs", iteration_flops, points=2, minutes=10, difficulty=2, importance=3),
)  # fmt: skip
