"""A learner's pieces are kept, checked again, and used by the real loop; a wrong or damaged one is replaced and named."""

import contextlib
import functools
import inspect
import json
import math
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import write_corpus

from gpt2course import sample, train
from gpt2course.course import build, lab, mine
from gpt2course.course.pieces import PIECES
from gpt2course.data import load_corpus
from gpt2course.files import UserError
from gpt2course.load import load_model
from gpt2course.ops import parameters, runbook
from gpt2course.recipes import resolve_run
from gpt2course.runlog import read_metrics

SIZE = "depth=4 width=32 head_dim=16 sequence_len=64 vocab_size=300 batch_tokens=256 tiny_batch_lr=0.3 eval_bytes=2000 warmup_steps=2".split()
REAL = build.ROOT
WITH_EXERCISE = [name for name, piece in PIECES.items() if piece.exercise]

MUON = """
import math
import torch
from gpt2course.optim import POLAR_EXPRESS

def even_out(U, second, beta2):
    dim = 1 if U.size(0) >= U.size(1) else 0
    second.copy_(beta2 * second + (1 - beta2) * U.square().mean(dim, keepdim=True))
    V = U / second.clamp_min(1e-10).sqrt()
    return V * (U.norm() / V.norm().clamp_min(1e-10))

def my_muon(p, grad, buffer, second, rate, momentum, beta2, decay):
    buffer.copy_(momentum * buffer + (1 - momentum) * grad)
    G = momentum * buffer + (1 - momentum) * grad
    X = G / (1.02 * G.norm() + 1e-6)
    tall = X.size(0) > X.size(1)
    X = X.T if tall else X
    for a, b, c in POLAR_EXPRESS:
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    U = even_out(X.T if tall else X, second, beta2)
    p.copy_(p - rate * U - rate * decay * p * (U * p >= 0))
"""
WINDOWED = """
import math
import torch

def causal_attention(q, k, v, window=(-1, 0)):
    T, D = q.size(1), q.size(3)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    t = torch.arange(T)
    hidden = t[None, :] > t[:, None]
    if window[0] >= 0:
        hidden = hidden | (t[None, :] < t[:, None] - window[0])
    scores = (q @ k.mT / math.sqrt(D)).masked_fill(hidden, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).to(q.dtype)
"""


@pytest.fixture(autouse=True)
def clone(tmp_path, monkeypatch, course_home):
    """A clone of the course without a work/ of its own. A probe of a piece runs once: no test looks at its time."""
    (tmp_path / "solutions").symlink_to(REAL / "solutions")
    shutil.copytree(REAL / "lessons", tmp_path / "lessons", ignore=shutil.ignore_patterns("*.ipynb"))
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    monkeypatch.setattr(mine, "timed", lambda probe: (torch.as_tensor(probe(), dtype=torch.float64), 1.0))
    return tmp_path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    split = load_corpus("embedded").train
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.jsonl", [split[i][:900] for i in range(120)])


def write(name: str, text: str) -> None:
    mine.file_of(name).parent.mkdir(parents=True, exist_ok=True)
    mine.file_of(name).write_text(text)


def course() -> dict:
    """The solution of every piece, as if a learner had written it."""
    return {name: mine.stand_in(name) for name in PIECES}


def run(corpus, name: str, pieces: dict, steps: int = 3, recipe: str = "jan29", **flags):
    """(losses, bpb, text of the metrics' folder) of a tiny run of the real loop."""
    flags = dict(eval_every=10, final_eval_bytes=2000, log_seconds=1e6, device="cpu") | flags
    with mine.installed(pieces):
        folder = train.train(train.Train(recipe, set=(*SIZE, f"steps={steps}"), name=name, corpus=corpus, **flags))
    lines = read_metrics(folder)
    losses = [m["loss"] for m in lines if m["kind"] == "train"]
    return torch.tensor(losses), torch.tensor([m["val_bpb"] for m in lines if m["kind"] == "eval"]), folder


@pytest.fixture(scope="module")
def package(corpus, tmp_path_factory):
    """(losses, bpb) of the package's own run, with which the runs of single pieces are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2COURSE_HOME", str(tmp_path_factory.mktemp("package")))
        return run(corpus, "package", {}, 4)[:2]


def targets() -> list:
    """All that any piece replaces."""
    with mine.installed({}):
        found = [(o, a) for name in PIECES for o, a, _ in PIECES[name].install(course())]
    return [(owner, attribute, vars(owner)[attribute]) for owner, attribute in found]


# ---- the loop


def test_with_all_pieces_from_the_solutions_the_curve_is_the_packages(corpus, monkeypatch):
    """The lambdas stay as they begin: while the blocks are zero, the last norm takes out every factor, so the first
    gradient of a lambda is rounding alone, and Adam makes a whole step of its sign."""
    monkeypatch.setattr(sys.modules[__name__], "SIZE", [*SIZE, "scalar_lr=0"])
    ours, ours_bpb, _ = run(corpus, "package", {}, steps=12)
    for left_out in ((), ("muon",)):  # without the whole step of lesson 05, its three parts are used
        pieces = {name: f for name, f in course().items() if name not in left_out}
        theirs, bpb, _ = run(corpus, f"mine-{len(left_out)}", pieces, steps=12)
        assert len(theirs) == 12 and torch.allclose(theirs, ours, rtol=0, atol=5e-6)
        assert torch.allclose(bpb, ours_bpb, rtol=0, atol=5e-6)


CHANGED = {
    "pair": lambda f: lambda words: sorted({(a, b) for ids, _ in words for a, b in zip(ids, ids[1:])})[0],
    "merge": lambda f: lambda ids, pair, new: f(ids, pair, new) if len(ids) < 4 else ids,
    "encode": lambda f: lambda piece, ranks: list(piece.encode()),
    "bpb": lambda f: lambda nats, texts: 2 * f(nats, texts),
    "packing": lambda f: lambda lengths, space: 0,
    "attention": lambda f: lambda q, k, v: f(q, k, v) * 0.5 + 0.1,
    "rope": lambda f: lambda q, k, v, start=0, base=1e4: (q, k, v),
    "norm": lambda f: lambda x, eps: x,
    "mix": lambda f: lambda x, x0, resid, skip: f(x, x0.flip(-1), resid, skip),
    "values": lambda f: lambda v, ve, x, weight, scale: f(v, ve, x, weight, 0.5 * scale),
    "schedule": lambda f: lambda *a: 0.5 * f(*a),
    "nesterov": lambda f: lambda grad, buffer, momentum: (grad, buffer),
    "orthogonal": lambda f: lambda G, coefficients, safety: G,
    "finish": lambda f: lambda p, U, lr, weight_decay: p - 2 * lr * U,
    "muon": lambda f: lambda p, *rest: p.mul_(0.9),
    "loss": lambda f: lambda *a: [2 * x for x in f(*a)],
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_loop_uses_every_piece(corpus, package, name):
    """Another function in its place gives another run and another result of its probe; its calls are counted."""
    calls, other = [], CHANGED[name](mine.stand_in(name))

    def counting(*args, **kw):
        calls.append(1)
        return other(*args, **kw)

    counting.__signature__ = inspect.signature(mine.stand_in(name))
    (a, b), (c, d, _) = package, run(corpus, "changed", {name: counting}, 4)
    assert calls and not (torch.equal(a, c) and torch.equal(b, d))
    assert name != "bpb" or torch.equal(a, c) and torch.allclose(2 * b, d)
    theirs = mine.timed(PIECES[name].probe)[0]
    with mine.installed({name: counting}):
        ours = mine.timed(PIECES[name].probe)[0]
    assert ours.shape != theirs.shape or (ours - theirs).abs().max() > PIECES[name].atol


def test_samples_with_a_cache_and_rows_of_different_lengths(corpus):
    """Rope, attention, encoder and norm in sampling: the same text as the package's; and sampling calls its piece."""
    folder = run(corpus, "package", {}, steps=8)[2]
    gpt, tok, _ = load_model(str(folder), "cpu")
    prompts = ["The history of", "A", "In 1969, the first people who"]
    ours = sample.generate(gpt, tok, prompts, max_tokens=12, temperature=0)
    with mine.installed(course()):
        assert sample.generate(gpt, tok, prompts, max_tokens=12, temperature=0) == ours
    with mine.installed({"sampling": lambda logits, *_: tok.ranks.index(b"x")}):
        assert sample.generate(gpt, tok, prompts, max_tokens=12, temperature=0) == ["x" * 12] * 3
    kept, remember = [], mine.stand_in("cache")
    with mine.installed({"cache": lambda *a: (kept.append(a[3]), remember(*a))[1]}):
        assert sample.generate(gpt, tok, prompts, max_tokens=12, temperature=0) == ours
    assert set(kept) == {64, 32}


def test_an_attention_that_takes_a_window_is_used_in_every_layer(corpus, package):
    seen, f = [], mine.load("attention", WINDOWED)

    @functools.wraps(f)
    def watched(q, k, v, window):
        seen.append(window)
        return f(q, k, v, window)

    a, b = package[0], run(corpus, "windowed", {"attention": watched}, 4)[0]
    assert torch.allclose(a, b, atol=1e-4) and set(seen) == {(64, 0), (32, 0)}  # T is 64: a long window shows all of it
    assert "times the package's time" in mine.examine("attention", f)


def test_recipes_that_a_piece_cannot_serve_stay_as_they_are(corpus):
    """gpt2: a cosine schedule, no rope; record: a refined Muon."""
    for recipe in ("gpt2", "record"):
        flags = dict(recipe=recipe, steps=3)
        size = [*SIZE, "scalar_lr=0"] if recipe == "record" else SIZE
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules[__name__], "SIZE", size)
            a, b = (run(corpus, f"{recipe}-{n}", p, **flags)[0] for n, p in (("a", {}), ("b", course())))
        assert torch.allclose(a, b, atol=1e-3)


def test_everything_is_put_back():
    before = targets()
    assert {(getattr(o, "__name__", o), a) for o, a, _ in before} >= {("gpt2course.model", "norm"), ("Plan", "lr")}
    for error in (None, ValueError):
        with contextlib.suppress(ValueError), mine.installed(course()):
            assert all(vars(owner)[attribute] is not value for owner, attribute, value in before)
            if error:
                raise error
        assert all(vars(owner)[attribute] is value for owner, attribute, value in before)


# ---- keep


def test_the_table_asks_for_what_the_exercises_ask_for():
    for name in WITH_EXERCISE:
        piece = PIECES[name]
        f = mine.stand_in(name) if not piece.package else mine.load(name, mine.solution(name))
        written = inspect.signature(mine.load(name, mine.solution(name).split("def ")[0] + f"def {piece.signature}: ..."))
        assert written == inspect.signature(f), name


@pytest.mark.parametrize("name", WITH_EXERCISE)
def test_a_solution_is_kept_and_is_the_packages(name):
    line = mine.keep(name, mine.solution(name), "for a test")
    assert line.startswith(f"{name} is kept in work/mine/{name}.py: largest difference ") and "times the package's time" in line
    text = mine.file_of(name).read_text()
    assert text.startswith(f'"""{name}: {PIECES[name].signature}, for a test."""\n') and "BEGIN SOLUTION" not in text
    f, told = mine.yours(name)
    assert told.startswith("yours; largest difference") and f.source == text and inspect.getsource(f) in text
    assert mine.keep(name, mine.solution(name), "for a test") == f"{name} is kept already in work/mine/{name}.py"


CELLS = [
    "import math, os\nimport torch.nn.functional as F\nfrom itertools import pairwise as neighbours\n%matplotlib inline",
    "def f(x):\n    return broken",
    "this is no Python",
    "A, B = 2, 3\nunused = open('nowhere')\ndef unused_too(): return A",
    "import functools\n@functools.cache\ndef helper(x):\n    B = x\n    return A * B + math.pi",
    "!ls\nclass Box:\n    size = A\n\ndef f(x, box=Box):\n    unused = [helper(y) for y in x]\n    return sum(unused) + F.relu(x).sum()",
    "f(3)",
]


def test_the_source_has_the_last_definition_with_what_it_needs():
    text = mine.source_of(CELLS, "f")
    assert text.startswith("import math, os\nimport torch.nn.functional as F\nimport functools\n\n\nA, B = 2, 3")
    assert [name in text for name in ("pairwise", "unused_too", "nowhere", "broken")] == [False] * 4
    assert "@functools.cache\ndef helper" in text and "class Box" in text and text.count("def f(") == 1
    assert mine.source_of(CELLS, "g") == "\n"


def test_the_grader_keeps_what_passed(clone):
    cells = [build.solved(c.source) for c in build.read_source("03")]
    cells = [c.replace("math.sqrt(D)", "my_root(D)") for c in cells] + ["def my_root(x):\n    return x**0.5"]
    lines = mine.keep_passed({"3.1", "3.5"}, cells)  # 3.5 is no piece
    assert [line.split(":")[0] for line in lines] == ["attention is kept in work/mine/attention.py"]
    assert "def my_root" in mine.file_of("attention").read_text() and mine.yours("attention")[0]
    assert "not kept: work/mine/attention.py does not load: it has no function 'causal_attention'" in mine.keep_passed({"3.1"}, ["x = 1"])[0]
    assert mine.yours("attention")[0]  # the one before stays
    kept = mine.file_of("attention").read_text()
    assert mine.keep("attention", mine.solution("attention"), "for a test").endswith("; the one before it is now attention.before")
    assert mine.file_of("attention").with_suffix(".before").read_text() == kept


def test_a_wrong_piece_is_not_kept_and_one_that_became_wrong_is_told(capsys):
    wrong = "def causal_attention(q, k, v):\n    return v\n"
    with pytest.raises(UserError, match=r"attention is not kept: \[3.1\] Causal attention - "):
        mine.keep("attention", wrong, "for a test")
    assert not mine.file_of("attention").exists()
    write("attention", wrong)
    mine.keep("schedule", mine.solution("schedule"), "for a test")
    own = mine.all_of_yours()
    printed = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert own.keys() == {"schedule"} and printed["1"] == f"of {len(PIECES)} pieces are yours"
    assert printed["attention"].startswith("the package's, because yours does not pass: [3.1] Causal attention - ")
    assert printed["packing"] == "the package's; exercise 2.2 asks for choose(lengths, space)"
    assert printed["rope"] == "the package's; lesson 03 asks for turn(q, k, v, start=0, base=10_000.0)"


@pytest.mark.parametrize("name, text, problem", [
    ("norm", "def rms_norm(x, eps)\n    return x", "does not load: it stopped with SyntaxError"),
    ("norm", "import nowhere_at_all", "does not load: it stopped with ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ("norm", "", "does not load: it has no function 'rms_norm'"),
    ("norm", "rms_norm = 3", "does not load: it stopped with AttributeError"),
    ("norm", "def rms_norm(x):\n    return x", "the package's loop stopped in it with TypeError"),
    ("attention", "def causal_attention(q):\n    return q", "[3.1] Causal attention - your code stopped with TypeError"),
    ("sampling", "def pick(logits, temperature, top_k, generator):\n    return 0", "[13.1] Draw by a maximum - temperature 1, top_k None: of 1500 draws token 1 came in 0%"),
    ("cache", "def remember(past, k, v, left):\n    return k, v, (k, v)", "the package's loop gives other results with it, by up to"),
    ("muon", "def muon(*a):\n    raise ValueError('no')", "the package's loop stopped in it with ValueError: no"),
    ("muon", "def muon(p, *a):\n    p.mul_(float('nan'))", "the package's loop gives other results with it"),
    ("attention", WINDOWED.replace("if window[0] >= 0", "if False"), "the package's loop gives other results with it"),
])  # fmt: skip
def test_a_damaged_or_wrong_file_is_replaced_by_the_packages(name, text, problem):
    write(name, text)
    f, line = mine.yours(name)
    assert f is None and line.startswith("the package's, because yours does not pass: ") and problem in line and "\n" not in line


def test_none_is_kept(capsys):
    assert mine.all_of_yours() == {}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PIECES) + 1 and all("the package's; " in line for line in lines[:-1])
    assert lines[-1] == "no piece is yours yet; the grader keeps an answer that passes: make grade EX=01"


def test_unknown_names_get_a_hint():
    for call in (mine.find, mine.yours, lab.mine, lambda name: lab.keep(name, test_none_is_kept)):
        with pytest.raises(UserError, match="there is no piece 'norms'; did you mean norm"):
            call("norms")


def test_the_command_trains_with_what_is_kept(corpus, monkeypatch, capsys):
    for name in ("packing", "attention"):
        mine.keep(name, mine.solution(name), "for a test")
    write("schedule", "def rate(*a): return 1.0")
    argv = f"mine train jan29 --name cli --corpus {corpus} --set {' '.join(SIZE)} steps=3 --final-eval-bytes 2000 --device cpu"
    monkeypatch.setattr(sys, "argv", argv.split())
    before = targets()
    mine.main()
    out = capsys.readouterr().out
    assert f"2 of {len(PIECES)} pieces are yours" in out and "schedule    the package's, because yours does not pass: [4.1]" in out
    assert "step 3/3" in out and all(vars(o)[a] is value for o, a, value in before)
    monkeypatch.setattr(sys, "argv", ["mine"])
    mine.main()
    assert f"2 of {len(PIECES)} pieces are yours" in capsys.readouterr().out


def test_the_runbook_trains_with_them(clone, monkeypatch, capsys):
    """Each stage of the core goes through the command; other pieces are another run; the recorded curve is drawn beside."""
    monkeypatch.setattr(parameters, "CLONE", clone)
    names = []
    for text in (None, "x = 1", "x = 2"):
        if text:
            write("norm", text)
        run = parameters.open_run(parameters.Params.check(mine="true"))
        names.append(run.name)
        assert runbook.train_command(run)[0][:4] == ["gpt2course.course.mine", "train", "jan29", "--profile"]
    assert len({*names}) == 3 and all(re.fullmatch(r"jan29-d4-mine-[0-9a-f]{6}", name) for name in names)
    assert capsys.readouterr().out.count("so this is a new run") == 2  # told each time that the pieces changed
    plain = parameters.open_run(parameters.Params.check())
    assert plain.name == "jan29-d4" and plain.program("sample") == ["gpt2course.sample"]
    asked = []
    monkeypatch.setattr(runbook, "stage", lambda run, name, argv, *rest: asked.append(argv[:2]) or {"pieces": ["a"], "xz_bpb": 2.0})
    monkeypatch.setattr(runbook, "weights", lambda run: [])
    metrics = [json.loads(line) for line in runbook.RECORDED.read_text().splitlines()]
    monkeypatch.setattr(runbook, "read_metrics", lambda folder: metrics)
    monkeypatch.setattr(runbook.plots, "show", lambda fig: asked.append(fig.alt))
    for stage in (runbook.tokenizer, runbook.evaluate, runbook.samples):
        stage(run)
    assert [a[1] for a in asked if isinstance(a, list)] == ["tokenizer", "evaluate", "sample"]
    assert "Wide grey curves show another run." in asked[-2] and "2026-11-29_laptop-curve" in capsys.readouterr().out
    runbook.evaluate(plain)
    assert "grey" not in asked[-1]


def test_the_recorded_curve_is_whole():
    """The package's run of the laptop profile: its provenance, and the same seed and corpus as the runbook's default."""
    folder = runbook.RECORDED.parent
    config = json.loads((folder / "config.json").read_text())
    lines = [json.loads(line) for line in runbook.RECORDED.read_text().splitlines()]
    plan = config["plan"]
    assert (plan["recipe"]["name"], config["seed"], config["corpus"], plan["steps"]) == ("jan29", 42, "embedded", 2000)
    assert json.loads(json.dumps(resolve_run("jan29", "laptop", {}).plan.to_json())) == plan
    assert lines[-1]["kind"] == "done" and lines[-1]["step"] == 2000 and config["commit"] and config["val_sha256"]
    final = [m for m in lines if m["kind"] == "eval" and m["final"]]
    assert len(final) == 1 and final[0]["val_bytes"] > 500_000


# ---- the lab's verbs


def test_keep_and_mine_from_a_notebook(capsys, monkeypatch):
    module = type(sys)("a_notebook")
    monkeypatch.setitem(sys.modules, "a_notebook", module)
    module.In = ["", MUON, "def rms(x, eps=1e-6):\n    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()"]
    for cell in module.In:
        exec(cell, vars(module))
    lab.keep("muon", module.my_muon)
    lab.keep("norm", module.rms)
    assert "muon is kept in work/mine/muon.py" in (out := capsys.readouterr().out) and "norm is kept in" in out
    assert "def even_out" in mine.file_of("muon").read_text() and "rms_norm = rms\n" in mine.file_of("norm").read_text()
    x = torch.randn(3, 8)
    assert torch.equal(lab.mine("norm")(x, 1e-6), module.rms(x, 1e-6))
    assert lab.mine("sampling") is sample.pick
    assert lab.mine("schedule")(0, 10, 2, 4, 0) == 0.5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("norm: yours; largest") and lines[1].startswith("sampling: the course's; exercise 13.1 asks for pick(")
    small = dict(steps=4, width=32, head_dim=16, sequence_len=32, batch_tokens=64, vocab_size=300)
    ours, theirs = lab.train("muon", **small), lab.train_with("muon", "norm", recipe="muon", **small)
    assert ours["loss"] != theirs["loss"] and torch.allclose(*(torch.tensor(r["loss"]) for r in (ours, theirs)), atol=1e-3)
    with pytest.raises(UserError, match="schedule is not kept"):
        lab.keep("schedule", module.rms)
    kept = mine.file_of("muon").read_text()
    monkeypatch.setitem(lab._lent, "even_out", "def even_out(U, second, beta2):\n    return U\n")  # a hole left empty
    lab.keep("muon", module.my_muon)
    assert "muon is not kept: in it, even_out is the course's" in capsys.readouterr().out
    assert mine.file_of("muon").read_text() == kept  # the learner's own stays


HOLE = """
# %% tags=["hole"]
def scaled(x, factor, seen):
    \"\"\"x times factor; notes factor in seen.\"\"\"
    ### BEGIN SOLUTION
    seen.append(factor)
    return x * helper(factor)
    ### END SOLUTION

# %%
import math
def helper(y):
    return math.sqrt(y * y)
scaled = lab.hole("05", scaled, (torch.ones(2), 3.0, []), (torch.full((2,), 2.0), 2.0, [1]))
"""


def right(x, factor, seen):
    seen.append(factor)
    return factor * x


@pytest.mark.parametrize("answer, line", [
    (right, "yours passes"),
    (lambda x, factor, seen: (seen.append(factor), [3.0 * x])[1][0], "with (tensor([2., 2.]), 2.0, [1]) it gives tensor([6., 6.]), expected tensor([4., 4.])"),
    (lambda x, factor, seen: (seen.append(factor), x + factor)[1], "it gives tensor([4., 4.]), expected tensor([3., 3.])"),
    (lambda x, factor, seen: x * factor, "with (tensor([1., 1.]), 3.0, []) it changes its arguments otherwise"),
    (lambda x, factor, seen: (seen.append(factor), None)[1], "it gives None, expected tensor([3., 3.])"),
    (lambda x, factor: x, "your code stopped with TypeError"),
    (None, "not written yet. The course's version stands in."),
])  # fmt: skip
def test_a_hole_is_the_readers_if_it_passes_else_the_courses(clone, monkeypatch, capsys, answer, line):
    def scaled(x, factor, seen):
        raise NotImplementedError

    if answer:
        answer.__name__ = "scaled"
    else:
        answer = scaled
    (clone / "lessons").mkdir(exist_ok=True)
    build.file_of("lessons", "05", ".py").write_text(HOLE)
    inputs = [(torch.ones(2), 3.0, []), (torch.full((2,), 2.0), 2.0, [1])]
    got = lab.hole("05", answer, *inputs)
    assert line in capsys.readouterr().out and inputs[1][2] == [1]
    assert (got is answer) == (line == "yours passes") and torch.equal(got(torch.ones(1), 5.0, []), torch.tensor([5.0]))


def test_what_a_hole_says_of_large_results():
    a, b = torch.zeros(3, 4), torch.zeros(3, 4)
    b[1, 2] = 0.5
    assert lab._differ(a, b) == "gives 0.5 at [1, 2], expected 0"
    assert lab._differ((1.0, a), (1.0, b)) == "gives as result 2: 0.5 at [1, 2], expected 0"
    assert lab._differ(a, b.view(4, 3)) == "gives a tensor of shape (4, 3), expected a tensor of shape (3, 4)"
    assert lab._differ([1], None) == "gives None, expected [1]" and lab._short((a, 2)) == "(a tensor of shape (3, 4), 2)"


@pytest.mark.parametrize("wanted, got, fine", [
    (1, np.int64(1), True), (1, torch.tensor(1), True), (True, torch.tensor(True), True), (False, torch.tensor(True), False), (True, 1, True), (2, 3, False),
    (torch.tensor(1.5), 1.5, True), ([1.0, 2.0], np.array([1.0, 2.0]), True), ([0, 1, 2], range(3), True), ((1, [2.0]), [1, (2.00001,)], True),
    ([1, 2], torch.tensor([1, 3]), False), (float("nan"), float("nan"), True), ("a", "a", True), ("1", 1, False), (None, 0, False), ([1], None, False),
])  # fmt: skip
def test_what_may_stand_for_a_result(wanted, got, fine):
    assert lab.alike(wanted, got) == fine


def test_predictions(clone, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda x: shown.append(x.data))
    lab.predictions()
    lab.predict("06.loss", 2.91)
    lab.predict("06.loss", 3.0)
    lab.result("06.loss", 4.0)
    lab.predict("06.loss", 4.0)  # too late
    lab.predict("07.sign", "larger")
    lab.result("07.sign", "smaller")
    lab.result("08.none", 1.0)
    lab.predict("09.open", np.int64(1))
    for value in (None, (1, 2), math.nan, [3]):
        with pytest.raises(UserError, match="a prediction is one number or one word"):
            lab.predict("09.open", value)
    lines = ["06.loss: you predict 2.91", "06.loss: you predict 3.0", "06.loss: 3, result 4, -25.0%", "06.loss: the result is known: 3, result 4, -25.0%; to predict again, delete its entry in work/predictions.json",
             "07.sign: you predict larger", "07.sign: larger, result smaller, not right", "08.none: no prediction, result 1.0", "09.open: you predict 1"]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == lines
    lab.predictions()
    assert "numbers: 0" in shown[0] and "| 06.loss | 3, result 4, -25.0% |" in shown[1] and "| 07.sign |" in shown[1]
    assert "08.none" not in shown[1] and "numbers: 1, half of them within 25.0%; words: 1, right 0" in shown[1]
    assert [lab._told({"prediction": p, "result": 4}) for p in (76, 0.5, 2, 0)] == [
        "76, result 4, 19.0 times the result", "0.5, result 4, 1/8.0 of the result", "2, result 4, -50.0%", "0, result 4, -100.0%"]  # fmt: skip
    assert json.loads((clone / "work" / "predictions.json").read_text())["06.loss"] == {"prediction": 3.0, "result": 4.0}


@pytest.mark.parametrize("a, b, end", [
    ([2.0, 2.01], [1.9, 1.92], "difference -0.0950 bpb; spreads over seeds 0.0100 and 0.0200; larger than the spreads"),
    ([2.0, 2.1], [1.9, 2.05], "overlap: no difference is shown"),
    ([2.0, 2.1], [1.9, 1.99], "larger than the spreads"),
    ([2.0, 2.2], [1.9, 1.99], "overlap: no difference is shown"),
    ([2.0, 2.0], [2.0, 2.0], "overlap: no difference is shown"),
    ([2.0], [1.0, 1.0], "one seed has no spread: nothing is shown"),
])  # fmt: skip
def test_verdict(a, b, end, capsys):
    lab.verdict(a, b)
    assert capsys.readouterr().out.rstrip("\n").endswith(end)


def test_paired_differences_have_the_interval_of_students_t():
    before, after = {1: 2.0, 2: 2.1, 3: 2.2, 5: 1.0}, {3: 2.1, 2: 2.1, 1: 1.9, 4: 9.0}
    apart, half = lab.paired(before, after)
    assert apart == pytest.approx([-0.1, 0.0, -0.1]) and half == pytest.approx(4.303 * (0.01 / 3) ** 0.5 / 3**0.5)
    assert lab.paired({1: 2.0}, after) == ([pytest.approx(-0.1)], float("inf")) and lab.paired({}, after)[0] == []
