"""The exercises come from one source, and the grader gives points only for an answer that passes its check.

The machinery is tried on a lesson 99 made here: exercise 99.n asks for `f<n>(x)`, which adds one to a tensor.
"""

import ast
import builtins
import contextlib
import copy
import csv
import itertools
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nbval.plugin import comment_markers, find_comment_markers

from gpt2course import files
from gpt2course.course import build, checks, grade
from gpt2course.course.build import BEGIN, END
from gpt2course.course.checks import LESSONS
from gpt2course.files import UserError

ROOT = build.ROOT
SECONDS = 8  # for a cell of the made lesson
COUNT = itertools.count()

# ---- a lesson made here

CHECKS = '''
import torch
from gpt2course.course.checks import Exercise, need_close

def adds_one(f):
    x = torch.arange(3.0)
    need_close(f(x), x + 1, "not one more: did you add one?")

EXERCISES = tuple(Exercise(f"99.{n}", f"Add one, {n}", adds_one, n, 1, 1, 5) for n in range(1, COUNT + 1))
'''

SETUP = '''# %% [markdown]
# # Exercises 99

# %% tags=["setup"]
import torch
from gpt2course.course import checks as _checks

_checks.LESSONS["99"] = "toy"
_checks.__path__.append({folder!r})
size = 1
'''

EXERCISE = f'''
# %% [markdown] tags=["ex-99.{{n}}"]
# ## 99.{{n}} Add one, {{n}}
#
# Add one.

# %% tags=["answer", "ex-99.{{n}}"]
def f{{n}}(x):
    """x plus one."""
    {BEGIN}
    return x + 1
    {END}

# %% tags=["check", "ex-99.{{n}}"]
from gpt2course.course.checks import check

check("99.{{n}}", f{{n}})
'''

PICTURE = '''
# %% tags=["picture", "ex-99.1"]
_checks.pictures("99.1", lambda f: f(torch.zeros(2)), f1)
'''


class Toy:
    """Lesson 99 in a folder: its source, and notebooks to damage."""

    def __init__(self, folder: Path, monkeypatch, count: int):
        self.folder, self.count = folder, count
        for name in ("solutions", "exercises", "work"):
            (folder / name).mkdir()
        (folder / "toy.py").write_text(CHECKS.replace("COUNT", str(count)))
        numbers = range(1, count + 1)
        text = SETUP.format(folder=str(folder)) + "".join(EXERCISE.format(n=n) + PICTURE * (n == 1) for n in numbers)
        self.source = folder / "solutions" / "99_toy.py"
        self.source.write_text(text)
        monkeypatch.setattr(build, "ROOT", folder)
        monkeypatch.setitem(LESSONS, "99", "toy")
        monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, "gpt2course.course.checks.toy", raising=False)
        monkeypatch.delattr(checks, "toy", raising=False)

    def stubs(self) -> dict:
        """The exercises' notebook."""
        return json.loads(build.text_of(build.notebook("99", build.read_source("99"), solutions=False)))

    def solved(self, answers: dict[int, str]) -> dict:
        """A learner's notebook: right answers, but for these."""
        book = self.stubs()
        for n in range(1, self.count + 1):
            cell_of(book, n)["source"] = answers.get(n, right(n))
        return book

    def save(self, book, name: str = "99_toy.ipynb") -> Path:
        path = self.folder / "work" / name
        path.write_text(book if isinstance(book, str) else json.dumps(book))
        return path

    def split(self, book):
        """{exercise: part} of a learner's notebook."""
        parts = grade.split("99", grade.read(self.save(book)), build.unsolved("99"), "x.ipynb")
        return {p.exercise.id: p for p in parts}

    def grade(self, book) -> dict[str, dict]:
        """The rows of the report by exercise, from the real grader."""
        self.report = grade.grade("99", self.save(book), SECONDS)
        return {r["id"]: r for r in self.report["exercises"]}


def tags(cell) -> set:
    return set(cell["metadata"].get("tags") or [])


def cell_of(book, n: int, kind: str = "answer"):
    return next(c for c in book["cells"] if {kind, f"ex-99.{n}"} <= tags(c))


def own(source: str, *tags) -> dict:
    """A code cell of the learner's."""
    metadata = {"tags": list(tags)} if tags else {}
    return dict(cell_type="code", id=f"own-{next(COUNT)}", metadata=metadata, source=source, outputs=[], execution_count=None)


def right(n: int, extra: str = "") -> str:
    return f"def f{n}(x):\n    return x + 1\n{extra}"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    yield lambda count=2: Toy(tmp_path, monkeypatch, count)
    sys.modules.pop("gpt2course.course.checks.toy", None)
    with contextlib.suppress(AttributeError):
        del checks.toy


# ---- the source and what is made from it


line = st.sampled_from(["a = 1", "for x in y:", "", "# note"])


@given(st.lists(st.tuples(st.lists(line, min_size=1), st.lists(line), st.sampled_from(["", "    ", "        "])), min_size=1))
def test_regions(parts):
    """A stub keeps what is around the regions, and a solution also what is inside; markers that do not alternate are refused."""
    source, stub, solved = [], [], []
    for around, inside, indent in parts:
        source += [*around, indent + BEGIN, *inside, indent + END]
        stub += [*around, indent + "raise NotImplementedError"]
        solved += [*around, *inside]
    assert build.stub("\n".join(source)) == "\n".join(stub) and build.solved("\n".join(source)) == "\n".join(solved)
    for n, text in enumerate(source):
        if text.strip() in (BEGIN, END):
            for wrong in (source[:n] + source[n + 1 :], source[:n] + [text] + source[n:]):
                with pytest.raises(UserError, match="SOLUTION"):
                    build.stub("\n".join(wrong))


@pytest.mark.parametrize("old, new", [('["answer", "ex-99.1"]', '["answers", "ex-99.1"]'), ('["answer", "ex-99.1"]', '["answer", "check", "ex-99.1"]'), ('["check", "ex-99.1"]', '["ex-99.1"]')])
def test_wrong_tags_are_refused(toy, old, new):
    toy = toy()
    toy.source.write_text(toy.source.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match="solutions/99_toy.py, cell .: the tags .* are not allowed"):
        build.read_source("99")


def test_differences_from_the_source(toy):
    toy = toy()
    assert len(build.differences("99")) == 3  # nothing is built
    solutions = build.notebook("99", build.read_source("99"), solutions=True)
    for n, cell in enumerate((c for c in solutions.cells if c.cell_type == "code"), 1):
        cell.execution_count = n
        if "check" in cell.metadata.tags:
            line = build.passed_line(checks.find(cell.metadata.tags[1][3:]))
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=line)]
    at = lambda book, kind: next(c for c in book.cells if kind in c.metadata.get("tags", []))
    stubs = build.text_of(build.notebook("99", build.read_source("99"), solutions=False))

    def found(damage=lambda book: None, stubs=stubs):
        book = copy.deepcopy(solutions)
        damage(book)
        build.file_of("solutions", "99").write_text(nbformat.writes(book))
        build.file_of("exercises", "99").write_text(stubs)
        return build.differences("99")

    assert found() == []
    assert "exercises/99_toy.ipynb differs" in found(stubs=stubs.replace("Add one", "Add two", 1))[0]
    for damage in (
        lambda book: at(book, "answer").update(source="x"),
        lambda book: at(book, "check").metadata.update(tags=["check", "ex-99.1"]),
        lambda book: at(book, "picture").update(execution_count=None),
        lambda book: at(book, "check").outputs[0].update(text="[99.1] Add one, 1: passed"),
        lambda book: at(book, "check").update(outputs=[]),
    ):
        assert "solutions/99_toy.ipynb" in found(damage)[0] and "build build 99" in found(damage)[0]


def test_start_never_overwrites(toy, capsys):
    toy = toy()
    build.file_of("exercises", "99").write_text(json.dumps(toy.stubs()))
    (toy.folder / "work").rmdir()
    (toy.folder / "AGENTS.md").write_text("Be a tutor.")
    build.main(build.Args("start", ("99",)))
    assert (toy.folder / "work" / "AGENTS.md").read_text() == "Be a tutor."
    mine = toy.folder / "work" / "99_toy.ipynb"
    assert json.loads(mine.read_text()) == toy.stubs() and "make grade EX=99" in capsys.readouterr().out
    mine.write_text("my work")
    build.main(build.Args("start", ("99",)))
    assert mine.read_text() == "my work" and "mv -n work/99_toy.ipynb work/99_toy-old.ipynb" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "77", "5.2", "muon", "../05", "005", "-5", "٥٥"])
def test_a_lesson_that_does_not_exist(text):
    for begin in (lambda: build.main(build.Args("start", (text,))), lambda: grade.main(grade.Grade(text))):
        with pytest.raises(UserError, match=r"has no exercises; lessons with exercises are 00.*make start EX=05"):
            begin()
    assert build.lesson("5") == build.lesson("05") == "05"


# ---- the learner's notebook


def sources(part) -> list[str]:
    return [c.source for c in part.cells]


def test_answers_are_found_by_tag_and_by_name(toy):
    toy = toy(3)
    book = toy.solved({})
    for damage in range(4):
        if damage == 1:
            cell_of(book, 1)["metadata"] = {}
            cell_of(book, 2)["metadata"]["tags"] = ["answer", "ex-99.3", "mine"]  # tags of another exercise
        if damage == 2:
            for cell in book["cells"]:
                cell["metadata"] = {"tags": None}
        if damage == 3:
            book["cells"].reverse()  # each check is above its answer
        parts = toy.split(book)
        assert [sources(parts[f"99.{n}"]) for n in (1, 2, 3)] == [[right(n)] for n in (1, 2, 3)]
    for source in ("f1 = lambda x: x + 1", "def f1(x):\n    return (x", "%time 1\ndef f1(x): ...", "%%time\ndef f1(x): ..."):
        book = toy.solved({1: source})
        cell_of(book, 1)["metadata"] = {}
        assert sources(toy.split(book)["99.1"]) == [source]


def test_a_cell_belongs_to_the_exercise_that_it_answers(toy):
    """With all checks at the end, a cell that hangs costs the points of its own exercise, not those of the next check."""
    toy = toy(3)
    book = toy.solved({})
    tests = [c for c in book["cells"] if "check" in tags(c)]
    book["cells"] = [own("import math", "setup"), *(c for c in book["cells"] if c not in tests), own("1 + 1"), *tests]
    cells = toy.split(book)["99.1"].cells
    assert [(c.owner, c.source) for c in cells] == [("", "import math"), *((f"99.{n}", right(n)) for n in (1, 2, 3)), ("99.1", "1 + 1")]
    canonical, parts = build.unsolved("99"), list(toy.split(book).values())
    _, places = grade.assemble("99", canonical, parts, {"", "99.2"}, parts[2:])
    kept = [(id, kind) for id, kind, _ in places if kind != "ours"]
    assert kept == [("99.1", "yours"), ("99.3", "yours"), ("99.1", "yours"), ("99.3", "check"), ("99.3", "guard")]


@pytest.mark.parametrize("scratch, again", [("size, rows = 3, []", True), ("other = 3", False), ("import math as size", False)])
def test_a_setup_cell_runs_again_where_a_cell_has_changed_its_names(toy, scratch, again):
    toy = toy(2)
    book = toy.solved({})
    setup = next("".join(c["source"]) for c in book["cells"] if "setup" in tags(c))
    after = book["cells"].index(cell_of(book, 1, "check")) + 1
    book["cells"][after:after] = [own(scratch), own(setup, "setup")]
    assert any(grade.same(c.source, setup) for c in toy.split(book)["99.2"].cells) == again


def test_a_copy_of_an_answer_is_no_harm(toy):
    toy = toy(2)
    book = toy.solved({})
    cell = cell_of(book, 1)
    at = book["cells"].index(cell) + 1
    for source in (cell_of(toy.stubs(), 1)["source"], right(1, "\n\n")):  # an untouched copy or the same again is no harm
        book["cells"].insert(at, own(source, "answer", "ex-99.1"))
        assert not toy.split(book)["99.1"].state


@given(st.lists(st.one_of(st.sampled_from([f"{x}{m}" for m in comment_markers for x in ("# ", "  ##", "#\t# ")]), st.text(max_size=20)), min_size=1))
def test_comments_that_steer_nbval_have_no_effect(lines):
    assert not list(find_comment_markers(grade.neutral("\n".join(lines))))


cell = st.fixed_dictionaries({"cell_type": st.sampled_from(["code", "markdown", "x", 3])}, optional={"source": st.sampled_from(["def f1(x): pass", ["a\n", "b"], 3, "\ud800"]), "metadata": st.sampled_from([{}, None, {"tags": 3}, {"tags": [3, "answer", "ex-99.1"]}])})
damaged = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"", b'{"cells": [{"cell', b"[" * 100_000, b'{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": []}]}']),
    st.builds(lambda cells, form: json.dumps({"nbformat": form, "nbformat_minor": 5, "metadata": {}, "cells": cells}).encode(), st.one_of(st.lists(st.one_of(cell, st.integers())), st.none()), st.sampled_from([3, 4, 5, "4"])),
)


@settings(max_examples=300)
@given(damaged)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bad.ipynb"
    path.write_bytes(data)
    try:
        assert all(isinstance(c.source.encode(), bytes) and isinstance(c.tags, list) for c in grade.read(path))
    except UserError as e:
        assert "\n" not in str(e) and "bad.ipynb" in str(e)


def test_what_the_command_refuses(toy, tmp_path):
    toy = toy()
    toy.save((ROOT / "exercises" / "05_muon.ipynb").read_text(), "other.ipynb")
    for arguments, message in [
        (dict(), "work/99_toy.ipynb does not exist; begin with: make start EX=99"),
        (dict(notebook=str(tmp_path / "no.ipynb")), "no.ipynb cannot be read (No such file or directory)"),
        (dict(notebook=str(tmp_path)), "cannot be read (Is a directory)"),
        (dict(notebook=str(tmp_path / "work" / "other.ipynb")), "work/other.ipynb has no exercise of lesson 99"),
        (dict(timeout=0), "--timeout 0 is not allowed"),
        (dict(timeout=float("nan")), "--timeout nan is not allowed"),
        (dict(folder=str(tmp_path / "exercises")), "has no notebook"),
        (dict(folder=str(tmp_path), csv="marks"), "--csv marks is not allowed; its name must end in .csv"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            grade.main(grade.Grade("99", **arguments))


# ---- what counts as a pass

PASS = {"outcome": "passed", "xfail": False}
FAIL = {"outcome": "failed", "xfail": False, "problem": "error", "ename": "Wrong", "evalue": "no"}
NO_PASS = [None, {}, {"outcome": "skipped", "xfail": False}, {"outcome": "passed", "xfail": True}, {"outcome": "passed"}, {"xfail": False}, {"outcome": "judged twice", "xfail": False}, PASS | {"problem": "error"}, FAIL]


def test_only_an_explicit_pass_counts():
    assert grade.verdict(PASS, "cell 1 stopped", True) == ("passed", "") and grade.spoilt(PASS, "guard", "", 9) is None
    for row in NO_PASS:
        assert not grade.explicit_pass(row) and grade.spoilt(row, "guard", "the guard", 9)
        if row is not None:
            assert grade.verdict(FAIL | row, "", True)[0] != "passed"
    empty = FAIL | {"evalue": "[99.1] Add one, 1 - not attempted yet"}
    assert grade.verdict(FAIL, "", True) == ("wrong", "no")
    assert grade.verdict(empty, "", False)[0] == "not attempted" and "still the empty one" in grade.verdict(empty, "", True)[1]
    assert grade.verdict(empty, "cell 3 stopped with SyntaxError: x", True) == ("stopped", "cell 3 stopped with SyntaxError: x")
    assert grade.verdict(FAIL, "cell 3 stopped", True) == ("wrong", "no")
    assert grade.verdict(FAIL | {"problem": "differs", "ename": ""}, "", True)[0] == "printed"


def test_lines_that_nbval_did_not_write_are_no_pass(tmp_path):
    line = json.dumps({"cell": 0} | PASS)
    for text, passed in ((line, True), (f"{line}\n{line}", False), (f"rubbish\n[1]\n{line}", True), (line.replace('"cell"', '"well"'), False), ("", False)):
        (tmp_path / "x").write_text(text)
        assert grade.explicit_pass(grade.read_judged(tmp_path / "x").get(0)) is passed


TAMPERING = {
    "the check": ("checks", "check", "gpt2course.course.checks.check"),
    "its comparison": ("checks", "need_close", "gpt2course.course.checks.need_close"),
    "the same, as the lesson sees it": ("toy", "need_close", "toy.need_close"),
    "the exercises": ("toy", "EXERCISES", "toy.EXERCISES"),
    "torch": ("torch", "allclose", "torch.allclose"),
    "a tensor's method": ("Tensor", "all", "torch.Tensor.all"),
    "Python": ("builtins", "isinstance", "builtins.isinstance"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_the_guard_sees_what_an_answer_replaces(toy, monkeypatch, what):
    toy(1)
    shell = types.SimpleNamespace(ast_transformers=[], input_transformers_post=[])
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    where, name, told = TAMPERING[what]
    before = grade._guard("99")
    grade._guard("99", before)
    place = {"checks": checks, "toy": checks.toy, "torch": torch, "Tensor": torch.Tensor, "builtins": builtins}[where]
    old = getattr(place, name)
    with monkeypatch.context() as changed, pytest.raises(RuntimeError, match=re.escape(told) + " was changed"):
        changed.setattr(place, name, tuple(list(old)) + old if name == "EXERCISES" else lambda *a, **k: old(*a, **k))
        grade._guard("99", before)


def test_the_guard_sees_code_files_modules_and_the_kernel(toy, monkeypatch):
    toy = toy(1)
    shell = types.SimpleNamespace(ast_transformers=[], input_transformers_post=[])
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    before = grade._guard("99")
    with monkeypatch.context() as changed, pytest.raises(RuntimeError, match="code of .*adds_one was changed"):
        changed.setattr(checks.toy.adds_one, "__code__", (lambda f: None).__code__)
        grade._guard("99", before)
    with monkeypatch.context() as changed, pytest.raises(RuntimeError, match="sys.modules gpt2course.course.checks was changed"):
        changed.setitem(sys.modules, "gpt2course.course.checks", copy.copy(checks.__dict__))
        grade._guard("99", before)
    for there in (shell.ast_transformers, shell.input_transformers_post):
        there.append(1)
        with pytest.raises(RuntimeError, match="how the kernel rewrites a cell was changed"):
            grade._guard("99", before)
        there.clear()
    (toy.folder / "toy.py").write_text("EXERCISES = ()")
    with pytest.raises(RuntimeError, match="the file of gpt2course.course.checks.toy was changed"):
        grade._guard("99", before)


# ---- the real grader


def test_honest_notebooks_get_their_points(toy):
    """One kernel, no second run: what plain nbval passes passes here."""
    toy = toy(10)
    plus_two = "def f{n}(x):\n    return plus(x, 1)\n"
    book = toy.solved({
        1: plus_two.replace("{n}", "1"),  # needs the setup and a helper in another cell
        2: "def plus_one(x):\n    return plus(x, 1)",  # split: the second half follows in a cell of its own
        3: cell_of(toy.stubs(), 3)["source"],  # the answer is in a new cell below the stub
        4: right(4, "\ncheck('99.4', f4)"),  # merged with its check, without tags
        5: right(5, "assert False\n"),  # stops after the function
        6: right(6, "check = isinstance = vars = torch = None\n"),
        7: "print('hello')\ndef f7(x):\n    print('hello')\n    return x + 1\n",
        8: "# NBVAL_RAISES_EXCEPTION\n%reset -f\n" + right(8),
        9: "def f9(x):\n    return x",  # a first try; the learner's own cell below is better
        10: cell_of(toy.stubs(), 10)["source"],  # the answer is below its check, which was run again
    })  # fmt: skip
    cells = book["cells"]

    def insert(n: int, kind: str, source: str):
        cells.insert(cells.index(cell_of(book, n, kind)), own(source))

    setup = next(c for c in cells if "setup" in tags(c))
    setup["source"] += "\nfrom operator import add as plus_op"
    insert(1, "answer", "def plus(x, y):\n    return plus_op(x, y)")
    insert(2, "check", "def f2(x):\n    return plus_one(x)")
    insert(3, "check", right(3))
    insert(9, "check", right(9))
    cells.insert(cells.index(cell_of(book, 10, "check")) + 1, own(right(10)))
    cells.remove(cell_of(book, 4, "check"))
    cell_of(book, 4)["metadata"] = {}
    again = []
    report = grade.grade("99", toy.save(book), SECONDS, say=again.append)
    assert report["points"] == report["of"] == 55 and not again, grade.table(report)
    assert report["note"] and json.loads(json.dumps(report)) == report


def test_answers_that_call_others_and_renamed_functions(toy):
    """An answer gets what it calls: the learner's, else the course's, and the report says so. A renamed function counts."""
    toy = toy(7)
    stub = "".join(cell_of(toy.stubs(), 5)["source"])
    book = toy.solved({
        1: "def f1(x):\n    return x + 2",
        2: "def f2(x):\n    return f1(x)",  # of 99.1, which is wrong
        3: "def f3(x):\n    return f2(x)",  # of 99.2, which passed
        4: "def plus_one(x):\n    return x + 1",
        5: stub + "\ndef my_f5(x):\n    return x + 1",
        6: "def f6(x):\n    return f7(x)",  # of 99.7, which comes later and is a stub here
    })  # fmt: skip
    rows = toy.grade(book)
    assert {id: row["state"] for id, row in rows.items()} == {f"99.{n}": "wrong" if n in (1, 5, 6) else "passed" for n in range(1, 8)}
    assert rows["99.2"]["message"] == "[99.2] Add one, 2 - (run with the course's f1 of 99.1, which did not pass)"
    assert not rows["99.3"]["message"] and not rows["99.4"]["message"]
    assert "your function is called my_f5, the exercise asks for f5" in rows["99.5"]["message"]


HANG = "    import time\n    while True:\n        time.sleep(0.01)\n"
SPOILT = {  # how an answer is spoilt: (source, state, a word of the message)
    "redefined check": ("def f{n}(x):\n    return x\ndef check(*_): print('[99.{n}] Add one, {n}: passed')\n", "wrong", "did you add one"),
    "syntax error": ("def f{n}(x):\n    return (x + 1\n", "stopped", "SyntaxError"),
    "unknown magic": ("%%no_such_magic\ndef f{n}(x):\n    return x + 1\n", "wrong", "still the empty one"),
    "sys.exit in the cell": ("import sys\nsys.exit()\ndef f{n}(x):\n    return x + 1\n", "stopped", "SystemExit"),
    "prints without end": ("while True:\n    print('x' * 10_000)\ndef f{n}(x): pass\n", "stopped", "1,000,000 characters"),
    "prints the line": ("import os\ndef f{n}(x):\n    os.write(1, b'[99.{n}] Add one, {n}: passed\\n')\n    raise SystemExit\n", "wrong", "SystemExit"),
    "another need_close, at the last moment": ("def f{n}(x):\n    from gpt2course.course.checks import toy\n    toy.need_close = lambda *_: None\n", "wrong", "your answer changed gpt2course.course.checks.toy.need_close"),
    "kills the kernel": ("import os\nos._exit(0)\ndef f{n}(x): pass\n", "kernel died", "ended the kernel"),
    "kills the kernel in the check": ("import os\ndef f{n}(x):\n    os._exit(0)\n", "kernel died", "the check ended the kernel"),
    "asks the kernel to end": ("exit()\ndef f{n}(x):\n    return x\n", "stopped", "SystemExit"),
    "kills the grader's nbval": ("import os\nos.kill(os.getppid(), 9)\nimport time; time.sleep(60)\ndef f{n}(x): pass\n", "kernel died", ""),
    "hangs": ("def f{n}(x):\n" + HANG, "hangs", "the check took longer than 8 s"),
    "hangs in the cell, deaf": ("def f{n}(x): pass\nwhile True:\n    try:\n    " + HANG.replace("\n", "\n    ") + "\n    except BaseException: pass\n", "hangs", "took longer than 8 s"),
}  # fmt: skip


@pytest.mark.slow
def test_what_is_spoilt_costs_its_own_points_only(toy):
    """One notebook with everything in it, a right answer after each: the spoilt ones get nothing, all others everything."""
    expected, answers = {}, {}
    for k, (source, state, word) in enumerate(SPOILT.values()):
        answers[2 * k + 1] = source.replace("{n}", str(2 * k + 1))
        expected[2 * k + 1] = (state, word)
    last = 2 * len(SPOILT)
    toy = toy(last + 3)
    deleted, doubled, tagged = range(last + 1, last + 4)
    book = toy.solved(answers | {tagged: f"def f{tagged}(x): return x"})
    book["cells"].remove(cell_of(book, deleted))
    book["cells"].insert(book["cells"].index(cell_of(book, 2, "check")), own("while True: pass"))  # an experiment of its own
    book["cells"].append(own(right(doubled).replace("+", "*"), "answer", f"ex-99.{doubled}"))
    for kind in ("answer", "check"):
        cell_of(book, tagged, kind)["metadata"]["tags"] += ["nbval-skip", "nbval-raises-exception", "raises-exception"]
    expected |= {deleted: ("missing", "copy it from"), doubled: ("doubled", "delete one of them"), tagged: ("wrong", "did you add one")}
    rows, wrong = toy.grade(book), []
    for n in range(1, toy.count + 1):
        row, (state, word) = rows[f"99.{n}"], expected.get(n, ("passed", ""))
        good = row["points"] == (n if state == "passed" else 0) and (row["state"] == state or not state) and word in row["message"]
        head = "" if state == "passed" else f"[99.{n}] Add one, {n} - "
        if not good or not row["message"].startswith(head) or len(row["message"]) > 320:
            wrong.append((n, state, row["points"], row["state"], row["message"]))
    assert not wrong, "\n".join(map(str, wrong))


def test_the_command_grades_and_writes_a_report(toy, capsys):
    """One right, one wrong, one not attempted; saved outputs, counts and tags do not matter, and the checks and pictures are the course's."""
    toy = toy(3)
    book = toy.solved({2: "def f2(x):\n    return x", 3: cell_of(toy.stubs(), 3)["source"]})
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            cell["metadata"]["tags"] += ["nbval-skip", "raises-exception", "nbval-ignore-output"]
    cell_of(book, 2, "check")["source"] = "print('[99.2] Add one, 2: passed')"
    cell_of(book, 1, "picture")["source"] = "import time; time.sleep(1000)"
    cell_of(book, 2, "check")["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "[99.2] Add one, 2: passed\n"}]
    path = toy.save(book)
    with pytest.raises(SystemExit) as e:
        grade.main(grade.Grade("99", timeout=SECONDS))
    assert e.value.code == 1
    printed = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in printed[1:5]] == [
        "99.1 Add one, 1 1 of 1 passed",
        "99.2 Add one, 2 0 of 2 wrong not one more: did you add one?",
        "99.3 Add one, 3 0 of 3 not attempted not attempted yet",
        "total 1 of 6 points",
    ]
    report = json.loads((toy.folder / "work" / "99_toy.grade.json").read_text())
    assert printed[5] == "report: work/99_toy.grade.json" and report["points"] == 1 and report["of"] == 6
    assert report["notebook_sha256"] == files.sha256(path) and report["source_sha256"] == files.sha256(toy.source)


@pytest.mark.slow
def test_a_folder_of_submissions(toy, tmp_path, capsys):
    toy = toy(2)
    folder = tmp_path / "submissions"
    (folder / "ann").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    toy.save(toy.solved({})).rename(folder / "ann" / "work.ipynb")
    toy.save(toy.stubs()).rename(folder / "=bob.ipynb")
    (folder / "bad.ipynb").write_text("no")
    (folder / ".ipynb_checkpoints" / "x.ipynb").write_text("no")
    grade.main(grade.Grade("99", folder=str(folder), csv=str(tmp_path / "out" / "marks.csv"), timeout=SECONDS))
    with open(tmp_path / "out" / "marks.csv", newline="") as f:
        rows = list(csv.reader(f))
    assert rows[0] == ["file", "99.1", "99.2", "total", "message"]
    assert [row[:4] for row in rows[1:]] == [["'=bob.ipynb", "0", "0", "0"], ["ann/work.ipynb", "1", "2", "3"], ["bad.ipynb", "0", "0", "0"]]
    assert rows[1][4].startswith("[99.1] Add one, 1 - not attempted yet; [99.2] Add one, 2 - ") and rows[2][4] == "" and "not graded: " in rows[3][4]
    assert sorted(p.name for p in (tmp_path / "out" / "marks").iterdir()) == ["%3dbob.ipynb.json", "ann%2fwork.ipynb.json"]


def test_a_setup_that_stops_is_not_the_learners_fault(toy, monkeypatch):
    toy = toy(1)
    for judged in ({0: FAIL | {"evalue": "no_such_module"}}, {0: PASS}):  # its cell stopped; the kernel ended after it
        monkeypatch.setattr(grade, "run", lambda book, timeout, judged=judged: judged)
        with pytest.raises(UserError, match="the setup of lesson 99 stopped .*(no_such_module|the kernel died)"):
            toy.grade(toy.solved({}))


# ---- the real lessons


@pytest.mark.parametrize("number", sorted(LESSONS))
def test_the_sources_of_the_exercises(number):
    """Each exercise has its text with folded help, its answer, its check, in order; no name is defined twice; the notebooks agree."""
    cells, found = build.read_source(number), checks.exercises(number)
    assert 3 <= len(found) <= 5 and [e.id for e in found] == [f"{int(number)}.{k}" for k in range(1, len(found) + 1)]
    assert cells[0].kind == "text" and cells[0].source.startswith("# ")
    assert list(dict.fromkeys(c.exercise for c in cells if c.exercise)) == [e.id for e in found]
    seen = []  # a name that is defined elsewhere would hide a missing answer
    for node in ast.walk(ast.parse("\n".join(c.source for c in cells if c.kind == "setup"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias):
            seen.append(getattr(node, "asname", None) or node.name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            seen.append(node.id)
    for e in found:
        own = [c for c in cells if c.exercise == e.id]
        assert re.fullmatch(r"text( text)* answer check( picture)?", " ".join(c.kind for c in own)), e.id
        assert own[0].source.splitlines()[0] == f"## {e.id} {e.title}"
        assert e.points > 0 and e.minutes > 0 and 1 <= e.difficulty <= 5 and 1 <= e.importance <= 5
        text = "\n".join(c.source for c in own if c.kind == "text")
        assert text.count("<details><summary>") == text.count("</details>") >= 1, e.id
        answer, check = (next(c.source for c in own if c.kind == kind) for kind in ("answer", "check"))
        names = build.functions(build.solved(answer))
        assert "raise NotImplementedError" in build.stub(answer) and not set(names) & set(seen), e.id
        called = re.findall(r"\w+", check.split(f'check("{e.id}"', 1)[1])
        wanted = f'from gpt2course.course.checks import check\n\ncheck("{e.id}", {", ".join(called)})'
        assert check == wanted and set(called) <= set(names)
        seen += names
    text = "\n".join(c.source for c in cells if c.kind == "text")
    assert f"make start EX={number}" in text and f"make grade EX={number}" in " ".join(text.split())
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert target.startswith("http") or target.startswith("../lessons/") or (ROOT / "exercises" / target).exists(), target
    assert build.differences(number) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(LESSONS))
def test_the_grader_gives_full_points_for_the_solutions(number):
    again = []
    report = grade.grade(number, build.file_of("solutions", number), 60, say=again.append)
    assert report["points"] == report["of"] == sum(e.points for e in checks.exercises(number)) and not again, grade.table(report)


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(LESSONS))
def test_exercises_fail_at_exactly_the_checks(tmp_path, number):
    """Plain `pytest --nbval-lax` on what the learner gets: all cells but the checks run, pictures too."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"} | {"OMP_NUM_THREADS": "1"}
    path = build.file_of("exercises", number)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-cell-timeout", "120", "-q"]
    command += ["--junitxml", str(tmp_path / "x.xml"), str(path)]
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=600).returncode == 1
    cases = list(ElementTree.parse(tmp_path / "x.xml").iter("testcase"))
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    failed = {k: case for k, case in enumerate(cases) if list(case)}
    assert len(cases) == len(code) and sorted(failed) == [k for k, c in enumerate(code) if "check" in c.metadata.tags]
    assert all("not attempted yet" in "".join(case.itertext()) for case in failed.values())
