"""No exercise can be passed by calling the package or its checks: what an exercise asks for, the learner writes."""

import builtins
import functools
import inspect
import math
import types
from operator import attrgetter

import pytest
import torch
import torch.nn.functional as F
from lesson_cases import answers, cells

from gpt2course import attention, batches, cost, data, evaluate, losses, model, optim, recipes, tokenizer, train
from gpt2course.course import checks, grade, lab
from gpt2course.course.checks import LESSONS, exercises, find, run

IDS = [e.id for lesson in LESSONS for e in exercises(lesson)]
SETUP = "import math, statistics, collections, itertools, torch\nimport gpt2course.course.checks as C\n"


# lesson -> {exercise: the function of its check that does the same, called with the same arguments}
OWN = {
    "story": {"0.2": "_training_flops", "0.3": "_faster", "0.4": "_cheapest"},
    "tokenizer": {"1.1": "_bpb", "1.2": "_merges", "1.3": "_disagreement", "1.4": "_pattern", "1.5": "_cost"},
    "data": {"2.1": "_by_length", "2.2": "_choose", "2.3": "_serve", "2.4": "_data_bill"},
    "gpt": {"3.2": "_reordered", "3.3": "_halves", "3.5": "_budget"},
    "training": {"4.1": "_rate", "4.3": "_noise_scale", "4.4": "_wrong_number"},
    "muon": {"5.1": "_best", "5.2": "_orthogonal", "5.3": "_stepped"},
    "windows": {"6.1": "_tile_kinds", "6.2": "_backward", "6.3": "_joined", "6.4": "_found", "6.5": "_cache_bytes"},
    "lambdas": {"7.1": "_which", "7.2": "_without", "7.3": "_seeds", "7.4": "_mix_cost"},
    "value_embeddings": {"8.1": "_fold", "8.2": "_pair_rows", "8.3": "_table_gradient", "8.4": "_gate_by_token", "8.5": "_tables_cost"},
    "scaling_laws": {"9.1": "_bill", "9.2": "_suspect", "9.3": "_overhead"},
    "core": {"10.1": "_three_scores", "10.2": "_compared", "10.3": "_runs", "10.4": "_dirty", "10.5": "_bill"},
    "distributed": {"11.1": "_data_parallel", "11.2": "_sharded_adamw", "11.3": "_sharded_muon", "11.4": "_fingerprint", "11.5": "_wire"},
    "speed": {"12.1": "_head_gain", "12.4": "_pays", "12.5": "_rows8"},
    "talking": {"13.2": "_corrected", "13.3": "_settings", "13.4": "_judge"},
    "speedrun": {"14.2": "_counts", "14.3": "_proof", "14.4": "_left", "14.5": "_bar"},
}  # fmt: skip
# exercise -> {what else is called: an answer that calls it}; `{}` in an answer is the way to name the function.
CALLS = {
    "0.1": {"cost.mfu": "f = lambda log: {}(3 * log['forward_flops_per_token'], log['batch_tokens'] * log['steps'] / log['hours'] / 3600, log['devices'], log['peak'])",
            "cost.hours": "f = lambda log: {}(3 * log['forward_flops_per_token'] * log['batch_tokens'] * log['steps'], log['devices'], log['peak'], 1.0) / log['hours']"},
    "0.4": {"cost.hours": "f = lambda flops, left, offers: min(offers, key=lambda k: {}(flops, *offers[k][:3]))",
            "cost.dollars": "f = lambda flops, left, offers: min(offers, key=lambda k: {}(math.ceil(flops / math.prod(offers[k][:3]) / 3600), offers[k][0] * offers[k][3]))"},
    "1.1": {"evaluate.bits_per_byte": "f = lambda nats, texts: {}(C.tokenizer._Table(torch.cat(nats)), texts, None, 64)[0]"},
    "1.2": {"tokenizer.Tokenizer.encode": "f = lambda data: {}(KEPT, 'a')"},
    "1.3": {"course.checks.tokenizer._both": "f = lambda r, l, n: l if {}(l, r)[0] else l",
            "tokenizer.Tokenizer.encode": "f = lambda ranks, letters, longest: letters if {}(KEPT, letters) else None"},
    "1.5": {"recipes.resolve": "f = lambda V, C, w, size, n: (2 * V * C, {}('jan29', depth=24, vocab_size=V).flops_per_token / size, 4 * V * n)"},
    "2.1": {"batches.statistics": "f = lambda *a: {}(None)"},
    "2.2": {"course.checks.data._fill": "f = lambda n, s: {}([[0] * x for x in n], s)[1][0]"},
    "2.3": {"batches.Batches.next_rows": "f = lambda *a: {}(None, 1)"},
    "2.4": {"data.shards_needed": "f = lambda n, c, chars, s: ({}('fineweb', n * chars / (1 - c)), 0, 0)"},
    "3.1": {"attention.attention": "f = lambda q, k, v: {}(q, k, v)",
            "attention.sdpa": "f = lambda q, k, v: {}(q, k, v, -1)",
            "torch.scaled_dot_product_attention": "f = lambda q, k, v: {}(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)"},
    "3.4": {"losses.cross_entropy": "f = lambda z, t, cap=15.0: {}(z[:, :-1].flatten(0, 1), torch.eye(z.size(2)), t[:, 1:].flatten(), cap)",
            "losses.cross_entropy_plain": "f = lambda z, t, cap=15.0: {}(z[:, :-1].flatten(0, 1), torch.eye(z.size(2)), t[:, 1:].flatten(), cap)",
            "losses.softcap": "f = lambda z, t, cap=15.0: torch.nn.functional.cross_entropy({}(z, cap)[:, :-1].mT, t[:, 1:], ignore_index=-1)"},
    "3.5": {"recipes.build": "f = lambda config: {}(config).num_params()",
            "model.GPT.num_params": "f = lambda config: {}(None)"},
    "4.1": {"recipes.Plan.lr": "PLAN = C.training._plan(6, 0, 0, 0.0)\nf = lambda step, *a: {}(PLAN, step)"},
    "4.2": {"train.forward_backward": "def f(m, rows, size):\n    m.zero_grad()\n    return {}(m, rows, size, types.SimpleNamespace(world=1, reduce=lambda *x: x))"},
    "4.3": {"course.checks.training._scale": "f = lambda small, big, b, B: {}(*(sum(x * x for x in y) / len(y) for y in (small, big)), b, B)"},
    "4.5": {"course.checks.training._run_cost": "f = lambda *a: {}(*a)[0]\ng = lambda h, s, c: math.sqrt(2 * s * h * 3600 / c) / 60",
            "course.checks.training._best_minutes": "f = lambda n, s, e, v, c, r: (n * s + -(-n * s // (60 * e)) * v + c * 30 * e + c * 60 * r) / 3600\ng = lambda *a: {}(*a)"},
    "5.2": {"optim.polar_express": "f = lambda G, c, s: {}(G, len(c), s)"},
    "5.3": {"optim.muon_update": "f = lambda *a: {}(*[None] * 13)",
            "optim.polar_express": "f = lambda ps, gs, lr, c, s: [p - lr * max(1, p.size(0) / p.size(1)) ** 0.5 * {}(g, len(c), s) for p, g in zip(ps, gs)]",
            "optim.MuonAdamW": "def f(ps, gs, lr, c, s):\n    o = {}([C.muon.optim.Group('m', 'muon', dict(p=torch.nn.Parameter(ps[0])), lr=lr)])\n    o.step()\n    return ps"},
    "5.4": {"course.checks.muon._gap": "f = lambda rows, a, b: {}([2.0, 2.2, 2.4], [1.6, 1.7, 1.8])"},
    "5.5": {"course.checks.muon._counted": "f = lambda shapes, steps=5: sum(steps * {}(s) / 5 for n, s in shapes.items() if 'blocks.' in n)"},
    "6.1": {"course.checks.windows._visible": "f = lambda T, w, r, c: {}(T, w)"},
    "6.2": {"attention.attention": "def f(q, k, v, y, lse, dy, left):\n    x = [t[None, :, None].clone().requires_grad_() for t in (q, k, v)]\n    {}(*x, (left, 0)).backward(dy[None, :, None])\n    return [t.grad[0, :, 0] for t in x]",
            "attention.sdpa": "def f(q, k, v, y, lse, dy, left):\n    x = [t[None, :, None].clone().requires_grad_() for t in (q, k, v)]\n    {}(*x, left).backward(dy[None, :, None])\n    return [t.grad[0, :, 0] for t in x]",
            "torch.scaled_dot_product_attention": "def f(q, k, v, y, lse, dy, left):\n    {}(q, k, v, is_causal=True)"},
    "6.5": {"course.checks.windows._real_bytes": "f = lambda *a: {}(*a)"},
    "7.3": {"course.checks.lambdas._count": "f = lambda b, a, e, t: {}([a[s] - b[s] for s in b.keys() & a.keys()], e, t)"},
    "9.1": {"scaling.power": "f = lambda points, *a: {}([p[0] for p in points], [p[3] for p in points])",
            "scaling.laws": "f = lambda points, *a: {}([dict(zip(('budget', 'n', 'tokens', 'val_bpb'), p)) for p in points])"},
    "9.4": {"course.checks.scaling_laws._played": "f = lambda cluster: {}(lambda c: None)"},
    "10.4": {"course.checks.core._grams": "f = lambda items, docs, n=13, common=10: [{}(t.split(), n) for t in items]"},
    "11.1": {"course.puzzle.expected": "f = lambda me: {}(me.shapes, me.world, None)"},
    "11.3": {"optim.MuonAdamW.step": "f = lambda me: {}(None)"},
    "11.4": {"ranks.Ranks.check_equal": "f = lambda p: {}(None, dict(p=p))"},
    "12.2": {"course.checks.speed.plain_step": "f = lambda *a: {}(*a)"},
    "12.3": {"course.checks.speed._seconds": "f = lambda a, b, now: {}(a, ()) / {}(b, ())"},
    "12.5": {"fast.fp8.scale_for": "f = lambda x, W: (x * {}(x, torch.float8_e4m3fn)) @ W.T",
            "fast.fp8.cast": "f = lambda x, W: {}(x, torch.tensor(1.0), torch.float8_e4m3fn).float() @ W.T"},
    "13.1": {"sample.pick": "f = lambda *a: {}(*a)",
            "sample.probabilities": "f = lambda z, t, k, g: int({}(z, t, k).argmax())",
            "torch.multinomial": "f = lambda z, t, k, g: int({}(z.softmax(0), 1, generator=g))"},
    "14.1": {"course.checks.speedrun._skill": "f = lambda: [(0.5, 1.0)] * 10\ng = lambda *a: {}(*a)\nh = lambda p, kept: 0.5",
            "course.checks.speedrun._luck": "f = lambda: [(0.5, 1.0)] * 10\ng = lambda p, k, b: 1 - sum((x - y) ** 2 for x, y in zip(p, k)) / sum((b - y) ** 2 for y in k)\nh = lambda *a: {}(*a)",
            "course.checks.speedrun._forecast": "f = lambda: {}()\ng = h = lambda *a: 0.5"},
    "14.4": {"course.checks.speedrun._read": "f = lambda lines: {}(lines)[-1][0]"},
}  # fmt: skip
WAYS = {  # how an answer names the function
    "by import inside": "__import__('importlib').import_module({module!r}).{name}",
    "by an alias kept before": "ALIAS",
    "by getattr": "__import__('operator').attrgetter({name!r})(__import__('sys').modules[{module!r}])",
    "by the set-up's namespace": "globals()['there'][0]",
    "by partial": "__import__('functools').partial(ALIAS)",
}


def place(called: str) -> tuple[str, str]:
    """("gpt2course.optim", "polar_express") of "optim.polar_express"."""
    if called.startswith("torch."):
        name = called.removeprefix("torch.")
        return ("torch.nn.functional" if hasattr(F, name) else "torch"), name
    words = called.split(".")
    n = next(i for i, word in enumerate(words) if word[0].isupper() or i == len(words) - 1)
    return "gpt2course." + ".".join(words[:n]), ".".join(words[n:])


def attempts(id: str):
    own = [f"course.checks.{lesson}.{names[id]}" for lesson, names in OWN.items() if id in names]
    for called, source in (dict.fromkeys(own, "f = lambda *a: {}(*a)") | CALLS.get(id, {})).items():
        for way, name in WAYS.items():
            yield pytest.param(id, called, source, name, id=f"{id} {called} {way}")


@pytest.mark.parametrize("id, called, source, way", [x for id in IDS for x in attempts(id)])
def test_the_package_cannot_be_the_answer(id, called, source, way):
    module, name = place(called)
    there = attrgetter(name)(__import__("importlib").import_module(module))
    space = dict(ALIAS=there, there=[there], types=types, KEPT=tokenizer.Tokenizer([bytes([b]) for b in range(256)]))
    exec(SETUP + source.replace("{{}}", "dict()").replace("{}", f"({way.format(module=module, name=name)})"), space)
    line = run(id, *[space[x] for x in "fgh" if x in space])
    assert line and line.startswith(f"[{id}] ") and line.endswith(f"which does what {id} asks for: write it yourself"), line
    assert line.startswith(f"[{id}] {find(id).title} - your answer calls "), line
    assert name in line, line


def test_every_exercise_is_tried():
    tried = {*CALLS}.union(*OWN.values())
    assert tried == {*IDS}


def setup_of(lesson: str) -> dict:
    space = {}
    for cell in cells(lesson, "setup"):
        exec(cell.source, space)
    return space


@pytest.mark.parametrize("lesson", LESSONS)
def test_nothing_in_an_exercise_notebook_computes_an_answer(lesson, course_home, monkeypatch):
    """Every callable of the set-up, and every function of the package's modules there, is tried as every answer."""
    monkeypatch.setattr(lab, "VAL_BYTES", 5000)
    space = setup_of(lesson)
    modules = [m for m in space.values() if inspect.ismodule(m) and m.__name__.startswith("gpt2course")]
    found = {f"{m.__name__}.{k}": f for m in modules for k, f in vars(m).items() if inspect.isfunction(f)}
    found |= {k: f for k, f in space.items() if callable(f) and not hasattr(builtins, k)}
    found = {k: f for k, f in found.items() if k not in ("show", "train", "experiment") and ".lab." not in k}
    assert not any(k.startswith("package") for k in space)
    for e in exercises(lesson):
        for name, f in found.items():
            count = {"4.5": 2, "14.1": 3}.get(e.id, 1)
            assert run(e.id, *[f] * count), f"{name} passes as the answer to {e.id}"


@pytest.mark.parametrize("id", [id for id in IDS if find(id).reference])
def test_the_reference_is_right_and_refuses(id):
    """The picture's reference is right where it may run, as part of an answer it refuses, and afterwards it is as before."""
    e = find(id)
    references = e.reference if isinstance(e.reference, tuple) else (e.reference,)
    names = [(f, f.__code__) for f in references]
    assert run(id, *references).endswith("write it yourself")
    assert all(f.__code__ is code for f, code in names)
    copies = [types.FunctionType(f.__code__, dict(f.__globals__), argdefs=f.__defaults__) for f in references]
    line = run(id, *copies)  # what a copy needs of the package or of the checks still refuses
    assert line is None or line.endswith("write it yourself")


def test_a_refusal_that_is_caught_counts():
    def f(G, coefficients, safety):
        try:
            return optim.polar_express(G, len(coefficients), safety)
        except Exception:
            return solved(G, coefficients, safety)

    solved = answers("05", torch=torch)["orthogonal"]
    assert run("5.2", solved) is None and "your answer calls optim.polar_express" in run("5.2", f)


def test_a_generator_cannot_run_later():
    def f(c_q, c_k, c_v, c_proj, order):
        yield from checks.gpt._reordered(c_q, c_k, c_v, c_proj, order)

    assert run("3.2", f).endswith("write it yourself")


def test_the_package_cannot_be_changed(monkeypatch):
    kept = optim.POLAR_EXPRESS

    def swaps(G, coefficients, safety):
        with monkeypatch.context() as m:
            m.setattr(optim, "POLAR_EXPRESS", tuple(coefficients))
            return optim.polar_express(G, len(coefficients), safety)

    def leaves(G, coefficients, safety):
        optim.POLAR_EXPRESS = tuple(coefficients)
        return G

    assert "your answer calls optim.polar_express" in run("5.2", swaps)
    assert "your answer changed gpt2course.optim.POLAR_EXPRESS" in run("5.2", leaves) and optim.POLAR_EXPRESS is kept


def test_nan_prints_and_lines(capsys):
    assert "NaN came out: add 1e-6" in run("5.2", lambda G, c, s: G * float("nan"))
    assert "NaN came out: look for 0 / 0" in run("5.1", lambda G, limit: G / 0 * 0)
    assert "NaN came out" in run("0.1", lambda *a: float("nan"))

    def talks(G, limit):
        for i in range(1000):
            print("line", i)
        return G / size  # noqa: F821

    capsys.readouterr()
    line = run("5.1", talks)
    assert "NameError" in line and line.endswith(f"(line {talks.__code__.co_firstlineno + 3}: return G / size # noqa: F821)")
    printed = capsys.readouterr().out.splitlines()
    assert printed[1:] == [f"line {i}" for i in range(980, 1000)]
    assert run("5.1", functools.partial(answers("05", torch=torch, math=__import__("math"))["best_step"])) is None
    assert not capsys.readouterr().out


def test_the_graders_guard_sees_defaults_mathematics_and_another_way_to_run_a_cell(monkeypatch):
    shell = types.SimpleNamespace(ast_transformers=[], input_transformers_post=[])
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    before = grade._guard("00")
    for owner, name, value, told in (
        (checks.close, "__defaults__", (1e9,), "defaults of gpt2course.course.checks.close"),
        (math, "sqrt", abs, "math.sqrt"),
        (shell, "run_cell", print, "how the kernel runs a cell"),
    ):
        with monkeypatch.context() as changed, pytest.raises(RuntimeError, match=f"^{told} was changed"):
            changed.setattr(owner, name, value, raising=False)
            grade._guard("00", before)
    grade._guard("00", before)


PACKAGE = (attention, batches, cost, data, evaluate, losses, model, optim, recipes, tokenizer, train)


def test_functions_run_again_afterwards():
    """No function of the package still refuses after all these attempts."""
    for m in PACKAGE:
        for f in vars(m).values():
            for function in checks.functions_of(f) if callable(f) else ():
                assert "refuse" not in function.__code__.co_names, function
