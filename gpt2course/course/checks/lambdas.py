"""Checks of lesson 07's exercises: two curves told apart, residual lambdas removed, seeds counted, the cost of a mix."""

import math
import statistics

import torch
import torch.nn.functional as F

from gpt2course.course.checks import MISSING, Exercise, Wrong, call, known, need, number, several, tried
from gpt2course.course.lab import T95
from gpt2course.model import GPT, GPTConfig, norm

# ---- 7.1


def _model(L: int, seed: int, resid: tuple, skip: tuple):
    """(loss, residual lambdas, x0 lambdas) of a small random model; its targets are what it says with these scalars."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    x0, blocks, head = norm(draw(40, 12)), [draw(12, 12) for _ in range(L)], draw(12, 15)
    one = lambda middle, width: [round(v, 3) for v in (middle + width * (2 * torch.rand(L, generator=g) - 1)).tolist()]

    def logits(r, s):
        x = x0
        for a, b, W in zip(r, s, blocks):
            x = a * x + b * x0
            x = x + (norm(x) @ W).tanh()
        return norm(x) @ head

    resid, skip = one(*resid), one(*skip)
    targets = logits(resid, skip).argmax(-1)
    return lambda r, s: F.cross_entropy(logits(r, s), targets).item(), resid, skip


def _which(loss, a, b) -> str:
    return "b" if loss(a[:-1] + [0.0], b) == loss(a[:-1] + [0.0], [x + 1 for x in b[:-1]] + b[-1:]) else "a"


MODELS = (  # layers, (middle, half width) of the residual lambdas, and of the x0 lambdas
    (3, (1.0, 0.1), (0.1, 0.05)), (5, (0.1, 0.05), (1.0, 0.1)), (4, (1.0, 0.2), (1.0, 0.2)), (6, (1.0, 0.2), (0.5, 0.3)),
    (3, (0.5, 0.2), (2.0, 0.5)), (7, (1.1, 0.05), (0.2, 0.15)), (4, (0.3, 0.1), (0.3, 0.1)),
)  # fmt: skip


def _watched(run, L: int, swapped: bool, asked: list):
    """The loss of a model for lists in the learner's order; `asked` collects them."""

    def loss(a, b):
        a, b = list(a), list(b)
        need(len(a) == len(b) == L, f"loss got {len(a)} and {len(b)} numbers for {L} layers; give it two whole lists")
        asked.append((a, b))
        return run(b, a) if swapped else run(a, b)

    return loss


def which_is_x0(f) -> None:
    for n, (L, *sizes) in enumerate(MODELS):
        for swapped in (n % 2, 1 - n % 2):
            run, resid, skip = _model(L, n, *sizes)
            a, b, asked = *((skip, resid) if swapped else (resid, skip)), []
            what, right = f"a model with {L} layers", "ba"[swapped]
            loss = _watched(run, L, swapped, asked)
            got = tried(f, (loss, a, b), what, "loss takes two lists, in the places of a and b")
            need(got is not None, MISSING)
            need(got in ("a", "b"), f'{what}: {got!r:.40} came out, expected "a" or "b"')
            if got == right:
                continue
            line = f'{what}: "{got}" came out, but the x0 lambdas are in "{right}"'
            need(asked, f"{line}: loss was never called, and the values alone prove nothing")
            changed = {i for pair in asked for x, y in zip(pair, (a, b)) for i in range(L) if x[i] != y[i]}
            need(changed - {0}, f"{line}: only layer 0 was changed, where the two scalars only add up; take another")
            hint = "which loss is larger depends on the model; find two runs that must give exactly equal losses"
            raise Wrong(f"{line}: {hint}")


# ---- 7.2


def _without(resid, skip):
    P = [math.prod(resid[: i + 1]) for i in range(len(resid))]
    return [1 / p for p in P], [s / p for s, p in zip(skip, P)]


def _logits(resid, skip, factors=None) -> torch.Tensor:
    """Of a small random GPT with these scalars; factors: on the last matrices of each layer."""
    sizes = dict(n_layer=len(resid), n_embd=16, n_head=2, n_kv_head=2, vocab_size=19, sequence_len=8)
    switches = dict(resid_lambda=(1.0, 1.0), x0_lambda=(0.1, 0.1), softcap=0, lm_head_std=1.0)
    model = GPT(GPTConfig(**sizes, **switches)).init_weights(3)
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        model.resid_lambdas.copy_(torch.as_tensor(resid))
        model.x0_lambdas.copy_(torch.as_tensor(skip))
        for i, block in enumerate(model.blocks):
            for linear in (block.attn.c_proj, block.mlp.c_proj):
                linear.weight.copy_(torch.randn(linear.weight.shape, generator=g) * (factors[i] if factors else 1))
        return model(torch.randint(19, (2, 8), generator=g))


def without_residual_lambdas(f) -> None:
    for resid, skip in (
        ([0.5, 2.0, 3.0], [0.1, 0.2, -0.3]), ([2.0, 4.0], [3.0, 5.0]), ([1.1, 0.9, 1.3, 0.7], [0.4, 0.0, 2.0, 1.0]),
        ([2.0], [3.0]),  # last, since with one layer many mistakes give the same
    ):  # fmt: skip
        L, (factors, new) = len(resid), _without(resid, skip)
        what = f"resid {resid}, skip {skip}"
        got = several(call(f, resid, skip, keep="its inputs"), 2, "two lists, factors and new_skip")
        got = [several(x, L, f"{L} numbers, one for each layer") for x in got]
        before = [1, *factors][:-1]
        after = [math.prod(resid[i + 1 :]) for i in range(L)]
        for name, mine, right, errors in (
            ("factors", got[0], factors, [
                ([1 / x for x in factors], "this is the product itself; what is added to X must be divided by it"),
                (before, "the layer's own resid is missing: it acts before the layer adds its output"),
                ([1 / x for x in resid], "only the layer's own resid; all lambdas met so far multiply the state"),
                (list(resid), "this is resid itself"),
                (after, "this is the weight in the old last state; divide by the lambdas met so far"),
                ([1 / x for x in after], "these are the lambdas after the layer; take those met so far"),
                ([1 / math.prod(resid)] * L, "all lambdas at once; a layer has met only those up to its own"),
            ]),
            ("new_skip", got[1], new, [
                (list(skip), "the token is added to X, not to x: divide it too"),
                ([s * x for s, x in zip(skip, before)], "the layer's own resid is missing: the state is P · X after it"),
                ([s / r for s, r in zip(skip, resid)], "only the layer's own resid; all lambdas met so far multiply the state"),
                ([s / x for s, x in zip(skip, factors)], "multiplied by the product; divide by it"),
                ([s * x for s, x in zip(skip, after)], "this is the weight in the old last state"),
            ]),
        ):  # fmt: skip
            known(mine, right, f"{name} for {what}", [(e, hint) for e, hint in errors if e != right],
                  "x = P · X with P the product of the lambdas met so far")  # fmt: skip
        same = torch.allclose(_logits([1.0] * L, got[1], got[0]), _logits(resid, skip), rtol=1e-3, atol=1e-3)
        need(same, f"{what}: a real model gives other logits with these factors and lambdas")


# ---- 7.3


def _count(d, effect, t95, half=lambda t, s, n: t * s / math.sqrt(n), spread=statistics.stdev):
    s = spread(d)
    return next((n for n, t in enumerate(t95, 2) if half(t, s, n) < effect), None)


def _pairs(before, after):
    return [after[s] - before[s] for s in sorted(before.keys() & after.keys())]


def _seeds(before, after, effect, t95):
    return _count(_pairs(before, after), effect, t95)


def _with(**wrong):
    return lambda before, after, effect, t95: _count(_pairs(before, after), effect, t95, **wrong)


def _less(by):
    return lambda *case: None if _seeds(*case) is None else _seeds(*case) - by


def _from_1(before, after, effect, t95):
    n = _count(_pairs(before, after), effect, t95, half=lambda t, s, n: t * s / math.sqrt(n - 1))
    return n and n - 1


def _unpaired(before, after, effect, t95):
    s = math.sqrt(statistics.variance(before.values()) + statistics.variance(after.values()))
    return _count([], effect, t95, spread=lambda d: s)


def _t_of_now(before, after, effect, t95):
    n = len(_pairs(before, after))
    return _count(_pairs(before, after), effect, t95[n - 2 : n - 1] * len(t95))


SEED_MISTAKES = (
    (_with(spread=statistics.pstdev), "divide by one less than the number of differences: `stdev`, not `pstdev`"),
    (_with(spread=statistics.variance), "this is the variance; take its root"),
    (_with(spread=lambda d: abs(statistics.mean(d))), "the mean of the differences is not their spread"),
    (_unpaired, "these are the arms' own spreads; take the standard deviation of the differences"),
    (lambda b, a, *x: _count(list(b.values()), *x), "the spread of `before`; take that of the differences"),
    (lambda b, a, *x: _count([q - p for p, q in zip(b.values(), a.values())], *x),
     "pairs in the order of the dicts; a pair is one seed"),
    (_with(half=lambda t, s, n: t * s), "the √n is missing: more seeds narrow the interval"),
    (_with(half=lambda t, s, n: t * s / n), "divide by √n, not by n"),
    (_with(half=lambda t, s, n: 2 * t * s / n**0.5), "half the width, not the whole"),
    (_with(half=lambda t, s, n: s / n**0.5), "t is missing"),
    (_less(1), "t95[0] belongs to n = 2"), (_from_1, "t95[0] belongs to n = 2"), (_less(2), "this is a place in the list; t95[0] belongs to n = 2"),
    (_t_of_now, "t belongs to n, not to the number of seeds you have"),
    (lambda *case: _seeds(*case) or 99, "None is expected where no n in the list is enough"),
)  # fmt: skip


def seeds_needed(f) -> None:
    two = {1: 2.0, 2: 2.0}, {1: 2.01, 2: 2.03}
    hard = {1: 2.0, 2: 2.2, 3: 2.5, 9: 1.0}, {3: 2.49, 1: 1.995, 2: 2.197, 5: 3.0}
    four = {1: 2.0, 2: 2.1, 3: 2.05, 4: 1.9}, {4: 1.93, 1: 2.01, 2: 2.08, 3: 2.09}
    cases = [(two, 0.03, T95[:3]), (two, 0.1, T95[:3]), (hard, 0.004, T95), (four, 0.025, T95), (four, 0.02, T95),
             (hard, 0.003, T95), (four, 0.15, T95), (four, 0.001, T95), (two, 0.03, T95[:2])]  # fmt: skip
    cases = [(*arms, effect, list(t95)) for arms, effect, t95 in cases]
    found = []
    for case in cases:
        what = f"seeds {', '.join(map(str, case[0]))} before and {', '.join(map(str, case[1]))} after"
        got = tried(f, case, what, "use the seeds that are in both, and return None if the list of t is too short")
        found.append(None if got is None else number(got, what))
    wanted = [_seeds(*case) for case in cases]
    need(any(n is not None for n in found), MISSING)
    for case, got, right in zip(cases, found, wanted):
        if got != right:
            d = [round(x, 4) for x in _pairs(*case[:2])]
            line = f"differences {d}, effect {case[2]}, t for n = 2 to {len(case[3]) + 1}: {got} came out, expected {right}"
            for mistake, hint in SEED_MISTAKES:
                need(found != [mistake(*case) for case in cases], f"{line}: {hint}")
            raise Wrong(f"{line}: the smallest n with t s / √n < effect, s over the seeds of both")


# ---- 7.4


def _mix_cost(layers, width, tokens, number_bytes, bandwidth):
    n = layers * width * tokens
    return [2 * layers, 9 * n, 9 * n * number_bytes / bandwidth]


def mix_cost(f) -> None:
    for args in ((1, 2, 5, 4, 1000), (24, 1536, 65536, 2, 3.35e12), (3, 7, 11, 4, 5e3)):
        right = _mix_cost(*args)
        got = several(call(f, *args, keep="its inputs"), 3, "three numbers: parameters, FLOPs, seconds")
        layers, size = args[0], args[3]
        tables = [
            ("the parameters", {layers: "two scalars a layer", 2: "in every layer", 2 * layers * args[1]: "scalars, not vectors"}),
            ("the FLOPs", {
                right[1] / 3: "forward alone; backward adds twice as much", right[1] * 2 / 3: "backward alone: add forward",
                right[1] / 9: "two multiplications and one addition for each number, and backward",
                right[1] / layers: "in every layer",
                right[1] / args[2]: "for every token", right[1] / args[1]: "for each of the `width` numbers",
            }),
            ("the seconds", {
                right[2] / 3: "forward alone; backward moves twice as much", right[2] * 2 / 3: "backward alone: add forward",
                right[2] / 9: "x and x0 are read, the result is written: 3 numbers, and backward",
                right[2] / size: "bytes, not numbers", right[2] / layers: "in every layer",
                right[2] * args[4]: "these are bytes; divide by bytes a second",
                right[2] * args[4] / 1e9: "these are gigabytes; divide by bytes a second",
            }),
        ]  # fmt: skip
        for (name, errors), mine, wanted in zip(tables, got, right):
            errors = [(e, hint) for e, hint in errors.items() if e != wanted]
            known(mine, wanted, f"{name} for {args}", errors, "see the tiny example")


EXERCISES = (
    Exercise("7.1", "Which curve is x0?", which_is_x0, points=3, minutes=20, difficulty=4, importance=4),
    Exercise("7.2", "Remove the residual lambdas", without_residual_lambdas, points=4, minutes=20, difficulty=4, importance=4),
    Exercise("7.3", "How many seeds?", seeds_needed, points=3, minutes=15, difficulty=3, importance=5, reference=_seeds),
    Exercise("7.4", "What two scalars cost", mix_cost, points=2, minutes=10, difficulty=2, importance=3),
)  # fmt: skip
