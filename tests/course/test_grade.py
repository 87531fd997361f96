"""The exercises come from one source, and the grader gives points for an answer that passes its check and for nothing else.

The machinery is tried on a lesson 99 made here: exercise 99.n asks for `f<n>(x)`, which adds one to a tensor.
"""

import contextlib
import copy
import csv
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from gpt2course import files
from gpt2course.course import build as exercises, checks, grade
from gpt2course.course.checks import LESSONS
from gpt2course.course.build import BEGIN, END, Cell
from gpt2course.files import UserError

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 5  # for a cell of the made lesson


# ---- a lesson made here

CHECKS = '''
import torch
from gpt2course.course.checks import Exercise, need_close

def adds_one(f):
    x = torch.arange(3.0)
    need_close(f(x), x + 1, "not one more: did you add one?")

def both(f, g):
    adds_one(f)
    adds_one(g)

EXERCISES = tuple(Exercise(f"99.{n}", f"Add one, {n}", adds_one, n, 1, 1, 5) for n in range(1, COUNT + 1))
if PAIR:
    EXERCISES += (Exercise(f"99.{COUNT + 1}", "Two functions", both, 2, 10, 2, 3),)
'''

SETUP = '''
# %% tags=["setup"]
import torch
from gpt2course.course import checks as _checks

_checks.LESSONS["99"] = "toy"
_checks.__path__.append({folder!r})
'''

EXERCISE = '''
# %% [markdown] tags=["ex-99.{n}"]
# ## 99.{n} {title}
#
# Add one.

# %% tags=["answer", "ex-99.{n}"]
{functions}

# %% tags=["check", "ex-99.{n}"]
from gpt2course.course.checks import check

check("99.{n}", {names})
'''

FUNCTION = f'''def {{name}}(x):
    """x plus one."""
    {BEGIN}
    return x + 1
    {END}
'''

PICTURE = '''
# %% tags=["picture", "ex-99.1"]
print(_checks.best("99.1", f1, torch.clone)(torch.zeros(2)))
'''


class Toy:
    """Lesson 99 in a folder: its source, and notebooks to damage."""

    def __init__(self, folder: Path, monkeypatch, count: int, pair: bool):
        self.folder, self.count, self.pair = folder, count, pair
        for name in ("solutions", "exercises", "work"):
            (folder / name).mkdir()
        (folder / "toy.py").write_text(CHECKS.replace("COUNT", str(count)).replace("PAIR", str(pair)))
        text = "# %% [markdown]\n# # Exercises 99\n" + SETUP.format(folder=str(folder))
        for n in range(1, count + 1):
            text += EXERCISE.format(n=n, title=f"Add one, {n}", functions=FUNCTION.format(name=f"f{n}"), names=f"f{n}") + PICTURE * (n == 1)
        if pair:
            text += EXERCISE.format(n=count + 1, title="Two functions", functions=FUNCTION.format(name="one") + "\n\n" + FUNCTION.format(name="two"), names="one, two")
        self.source = folder / "solutions" / "99_toy.py"
        self.source.write_text(text)
        monkeypatch.setattr(exercises, "ROOT", folder)
        monkeypatch.setitem(LESSONS, "99", "toy")
        monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, "gpt2course.course.checks.toy", raising=False)
        monkeypatch.delattr(checks, "toy", raising=False)

    def stubs(self):
        """The exercises' notebook, as a dict."""
        return json.loads(exercises.text_of(exercises.notebook("99", exercises.read_source("99"), solutions=False)))

    def notebook(self, answers: dict[int, str], name: str = "99_toy.ipynb", solve: bool = False):
        """A learner's notebook in work/ with these answers; the other exercises are solved or left as they are."""
        book = self.stubs()
        for n in range(1, self.count + 1):
            if n in answers or solve:
                cell_of(book, n)["source"] = answers.get(n, right(n))
        return self.save(book, name)

    def save(self, book, name: str = "99_toy.ipynb") -> Path:
        path = self.folder / "work" / name
        path.write_text(json.dumps(book))
        return path

    def grade(self, path: Path) -> dict[str, dict]:
        """The rows of the report by exercise, from the real grader."""
        self.report = grade.grade("99", path, SECONDS)
        return {r["id"]: r for r in self.report["exercises"]}


def cell_of(book, n: int, kind: str = "answer"):
    return next(c for c in book["cells"] if {kind, f"ex-99.{n}"} <= set(exercises.tags_of(c)))


def right(n: int, extra: str = "") -> str:
    return f"def f{n}(x):\n    return x + 1\n{extra}"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    made = lambda count=2, pair=False: Toy(tmp_path, monkeypatch, count, pair)
    yield made
    sys.modules.pop("gpt2course.course.checks.toy", None)
    with contextlib.suppress(AttributeError):
        del checks.toy


# ---- the source and what is made from it


def test_the_learners_notebook(toy):
    toy = toy(2, pair=True)
    book = exercises.notebook("99", exercises.read_source("99"), solutions=False)
    assert [c.id for c in book.cells] == ["ex99-text-1", "ex99-setup-1", "ex99-1-text", "ex99-1-answer", "ex99-1-check", "ex99-1-picture", "ex99-2-text", "ex99-2-answer", "ex99-2-check", "ex99-3-text", "ex99-3-answer", "ex99-3-check"]  # fmt: skip
    assert book.cells[2].source == "## 99.1 Add one, 1\n\n*1 point · 1 minute · difficulty 1 of 5 · importance 5 of 5*\n\nAdd one."
    assert "*2 points · 10 minutes · difficulty 2 of 5 · importance 3 of 5*" in book.cells[9].source
    assert book.cells[3].source == 'def f1(x):\n    """x plus one."""\n    raise NotImplementedError'
    assert book.cells[10].source.count("    raise NotImplementedError") == 2
    code = [c for c in book.cells if c.cell_type == "code"]
    for n, cell in enumerate(code, 1):
        if "check" in cell.metadata.tags:
            assert cell.execution_count == n and "nbval-check-output" in cell.metadata.tags
            assert [o.text for o in cell.outputs] == [exercises.passed_line(checks.find(cell.metadata.tags[1][3:]))]
        else:
            assert cell.execution_count is None and cell.outputs == []
    assert set(book.metadata) == {"kernelspec", "language_info"} and book.metadata.kernelspec.name == "gpt2course"
    solutions = exercises.notebook("99", exercises.read_source("99"), solutions=True)
    assert solutions.cells[3].source == 'def f1(x):\n    """x plus one."""\n    return x + 1'
    assert [(c.id, c.cell_type) for c in solutions.cells] == [(c.id, c.cell_type) for c in book.cells]
    assert exercises.text_of(book) == exercises.text_of(exercises.notebook("99", exercises.read_source("99"), solutions=False))


def test_regions_keep_their_indentation_and_what_stands_around_them():
    source = f"def f():\n    a = 1\n    for x in y:\n        {BEGIN}\n        b\n        c\n        {END}\n    {BEGIN}\n    d\n    {END}\n    return a"
    assert exercises.stub(source) == "def f():\n    a = 1\n    for x in y:\n        raise NotImplementedError\n    raise NotImplementedError\n    return a"
    assert exercises.solved(source) == "def f():\n    a = 1\n    for x in y:\n        b\n        c\n    d\n    return a"


ANSWER, CHECK, HEADING = '# %% tags=["answer", "ex-99.1"]', '# %% tags=["check", "ex-99.1"]', "# ## 99.1 Add one, 1"
WRONG_SOURCES = {
    "no end": (f"    {END}\n", "", "BEGIN SOLUTION without"),
    "no begin": (f"    {BEGIN}\n", "", "END SOLUTION without"),
    "begin twice": (f"    {BEGIN}\n", f"    {BEGIN}\n    {BEGIN}\n", "inside a region"),
    "indentation": (f"    {END}\n", f"        {END}\n", "not indented as"),
    "empty": (f"    {BEGIN}\n    return x + 1\n", f"    {BEGIN}\n", "is empty"),
    "a marker with a slip": (f"    {BEGIN}\n", "    ### BEGIN SOLUTIONS\n", "looks like a marker"),
    "outside a function": (f"    {END}\n", f"    {END}\n{BEGIN}\ny = 1\n{END}\n", "must lie inside a function"),
    "no python": ("def f1(x):", "def f1(x:", "answer cell of exercise 99.1"),
    "tag": (ANSWER, '# %% tags=["answers", "ex-99.1"]', "tags answers are not allowed"),
    "two kinds": (ANSWER, '# %% tags=["answer", "check", "ex-99.1"]', "tags answer, check are not allowed|needs one tag"),
    "no kind": (ANSWER, '# %% tags=["ex-99.1"]', "needs one tag of setup"),
    "no id": (ANSWER, '# %% tags=["answer"]', "needs the id of its exercise"),
    "unknown id": (ANSWER, '# %% tags=["answer", "ex-99.9"]', "99.9 is not in EXERCISES"),
    "other id": (ANSWER, '# %% tags=["answer", "ex-99.2"]', "in this order and each in one piece"),
    "two answers": (CHECK, f"{ANSWER}\n{FUNCTION.format(name='g')}\n{CHECK}", "text, answer, answer, check"),
    "no check": (f'{CHECK}\nfrom gpt2course.course.checks import check\n\ncheck("99.1", f1)\n', "", "has the cells text, answer, picture"),
    "heading": (HEADING, "# ## 99.1 Add two", "must begin with the heading '## 99.1 Add one, 1'"),
    "check of another": ('check("99.1", f1)', 'check("99.2", f1)', "must be exactly"),
    "check with more": ('check("99.1", f1)', 'check("99.1", f1)\nprint(1)', "must be exactly"),
    "check spelt otherwise": ('check("99.1", f1)', 'check("99.1",f1)', "must be exactly"),
    "check of a stranger": ('check("99.1", f1)', 'check("99.1", torch)', "must be exactly"),
    "answer given in the setup": ("import torch\n", "import torch\nfrom torch import relu as f1\n", "so does the setup"),
    "answer of another exercise": ("def f2(x)", "def f1(x)", "defines f1, and so does exercise 99.1"),
    "title": ("# # Exercises 99", "# Exercises 99", "must be the title"),
    "empty cell": (ANSWER, f'# %% tags=["setup"]\n\n{ANSWER}', "is empty; delete it"),
}  # fmt: skip


@pytest.mark.parametrize("why", WRONG_SOURCES)
def test_a_wrong_source_is_refused(toy, why):
    toy = toy()
    old, new, message = WRONG_SOURCES[why]
    text = toy.source.read_text()
    assert old in text
    toy.source.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as e:
        exercises.read_source("99")
    assert "\n" not in str(e.value) and "99" in str(e.value)


def test_exercises_without_cells_and_cells_without_exercises_are_refused(toy):
    toy = toy(2)
    whole = toy.source.read_text()
    toy.source.write_text(whole[: whole.index('# %% [markdown] tags=["ex-99.2"]')])
    with pytest.raises(UserError, match="the cells are those of 99.1; EXERCISES has 99.1, 99.2"):
        exercises.read_source("99")
    toy.source.unlink()
    with pytest.raises(UserError, match=r"solutions/99_toy.py does not exist"):
        exercises.read_source("99")


def test_names_that_a_cell_binds():
    source = "import a.b, c as d\nfrom e import f\nx, (y, *z) = 1, (2, 3)\nif x:\n    w = 1\nfor i in y: pass\nwith o() as p: pass\ndef g(q):\n    r = 1\nclass K:\n    s = 1\nh = [t for t in y]\n"
    assert exercises.bound(source) == {"a", "d", "f", "x", "y", "z", "w", "i", "p", "g", "K", "h"}
    assert exercises.bound("def (") is None and exercises.bound("") == set()


def test_what_differs_from_the_source_is_said(toy):
    toy = toy()
    assert len(exercises.differences("99")) == 2
    solutions = exercises.notebook("99", exercises.read_source("99"), solutions=True)
    for n, cell in enumerate((c for c in solutions.cells if c.cell_type == "code"), 1):
        cell.execution_count = n
        if "check" in cell.metadata.tags:
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=exercises.passed_line(checks.find(cell.metadata.tags[1][3:])))]
    given = exercises.file_of("exercises", "99")

    def found(damage=lambda book: None, stub=None):
        book = copy.deepcopy(solutions)
        damage(book)
        exercises.file_of("solutions", "99").write_text(nbformat.writes(book))
        given.write_text(stub or exercises.text_of(exercises.notebook("99", exercises.read_source("99"), solutions=False)))
        return exercises.differences("99")

    at = lambda book, kind: next(c for c in book.cells if kind in c.metadata.get("tags", []))
    assert found() == []
    assert "exercises/99_toy.ipynb is not what its source says" in found(stub=given.read_text().replace("Add one", "Add two", 1))[0]
    assert "does not hold its source" in found(lambda book: at(book, "answer").update(source="x"))[0]
    assert "does not hold its source" in found(lambda book: at(book, "check").metadata.update(tags=["check", "ex-99.1"]))[0]
    assert "was not run from the first cell to the last" in found(lambda book: at(book, "picture").update(execution_count=None))[0]
    assert "the check of 99.1 did not print" in found(lambda book: at(book, "check").outputs[0].update(text="[99.1] Add one, 1: passed"))[0]
    assert "the check of 99.1 did not print" in found(lambda book: at(book, "check").update(outputs=[]))[0]
    assert "the answer cell of 99.1 stopped" in found(lambda book: at(book, "answer").outputs.append(nbformat.v4.new_output("error", ename="a", evalue="b", traceback=[])))[0]
    toy.source.write_text(toy.source.read_text().replace("# Add one.", "# Add 1."))
    assert len(exercises.differences("99")) == 2


def test_start_never_overwrites(toy, capsys):
    toy = toy()
    (toy.folder / "exercises" / "99_toy.ipynb").write_text(json.dumps(toy.stubs()))
    (toy.folder / "work").rmdir()
    exercises.main(exercises.Start("99"))
    mine = toy.folder / "work" / "99_toy.ipynb"
    assert json.loads(mine.read_text()) == toy.stubs() and "make grade EX=99" in capsys.readouterr().out
    mine.write_text("my work")
    exercises.main(exercises.Start("99"))
    said = capsys.readouterr().out
    assert mine.read_text() == "my work" and "is there already, last saved" in said and "mv work/99_toy.ipynb work/99_toy-old.ipynb" in said
    mine.unlink()
    mine.mkdir()
    with pytest.raises(UserError, match="is there and is not a file"):
        exercises.main(exercises.Start("99"))
    (toy.folder / "exercises" / "99_toy.ipynb").unlink()
    with pytest.raises(UserError, match="git checkout exercises/99_toy.ipynb"):
        exercises.main(exercises.Start("99"))


@pytest.mark.parametrize("text", ["", "7", "5.2", "muon", "../05", "005", "-5", "٥٥"])
def test_a_lesson_that_does_not_exist_is_said(text):
    for begin in (lambda: exercises.main(exercises.Start(text)), lambda: grade.main(grade.Grade(text))):
        with pytest.raises(UserError, match=r"has no exercises; lessons with exercises are 00.*make start EX=05"):
            begin()
    assert exercises.lesson("5") == exercises.lesson("05") == "05"


# ---- the learner's cells


def graft(toy, book):
    """(answers by exercise, what was ignored) of a learner's notebook."""
    canonical, _ = exercises.unsolved("99")
    found, ignored = grade.answers("99", exercises.read_cells(toy.save(book)), canonical, "x.ipynb")
    return {a.exercise.id: a for a in found}, ignored


def test_answers_are_found_by_tags_then_by_name(toy):
    toy = toy(3, pair=True)
    book = toy.stubs()
    for n in (1, 2, 3):
        cell_of(book, n)["source"] = right(n)
    found, ignored = graft(toy, book)
    assert [a.source for a in found.values()][:3] == [right(n) for n in (1, 2, 3)] and not any(a.notes or a.problem for a in found.values()) and not ignored
    cell_of(book, 1)["metadata"] = {}  # tags lost
    cell_of(book, 2)["metadata"]["tags"] = ["answer", "ex-99.3", "mine"]  # tags of another exercise
    book["cells"].reverse()
    found, _ = graft(toy, book)
    assert [a.source for a in found.values()][:3] == [right(n) for n in (1, 2, 3)]
    assert "by the name of its function" in found["99.1"].notes[0] and "tags ignored: ex-99.3, mine" in found["99.2"].notes[1] and not found["99.3"].notes
    for cell in book["cells"]:
        cell["metadata"] = {"tags": None}
    found, _ = graft(toy, book)
    assert [a.source for a in found.values()][:3] == [right(n) for n in (1, 2, 3)]
    for damage in ("lambda", "syntax error", "magic", "shell"):
        source = {"lambda": "f1 = lambda x: x + 1", "syntax error": "def f1(x):\n    return (x", "magic": "%time 1\ndef f1(x): ...", "shell": "%%time\ndef f1(x): ..."}[damage]
        next(c for c in book["cells"] if grade.defines(exercises.source_of(c), ["f1"]))["source"] = source
        assert graft(toy, book)[0]["99.1"].source == source, damage


def test_deleted_and_doubled_answers(toy):
    toy = toy(3, pair=True)
    book = toy.stubs()
    stub = copy.deepcopy(cell_of(book, 1))
    cell_of(book, 1)["source"] = right(1)
    book["cells"].append(stub)  # an untouched copy does no harm
    assert graft(toy, book)[0]["99.1"].source == right(1)
    assert "taken: " in graft(toy, book)[0]["99.1"].notes[0]
    book["cells"].append(dict(stub, source=right(1, "\n\n")))  # nor one that says the same
    assert graft(toy, book)[0]["99.1"].source == right(1)
    book["cells"].append(dict(stub, source="def f1(x):\n    return x - 1"))
    assert graft(toy, book)[0]["99.1"].source is None and "both hold an answer: delete one" in graft(toy, book)[0]["99.1"].problem
    book["cells"] = [c for c in book["cells"] if "ex-99.1" not in exercises.tags_of(c)]
    assert "no answer cell: copy it from exercises/99_toy.ipynb" in graft(toy, book)[0]["99.1"].problem
    # JupyterLab gives both halves of a cell that was split its tags
    pair = cell_of(book, 4)
    halves = [dict(pair, source=f"def {name}(x):\n    return x + 1") for name in ("one", "two")]
    at = book["cells"].index(pair)
    book["cells"][at : at + 1] = halves
    found = graft(toy, book)[0]["99.4"]
    assert found.source == "\n\n".join(h["source"] for h in halves) and "hold this answer" in found.notes[0]


def test_what_is_ignored_is_said(toy):
    toy = toy(2)
    book = toy.stubs()
    cell_of(book, 1)["source"] = "    # NBVAL_SKIP\n## NBVAL_RAISES_EXCEPTION \nx = '# NBVAL_SKIP'\n" + right(1)
    cell_of(book, 2)["source"] = right(2, "import gpt2course")
    cell_of(book, 1, "check")["source"] = "print('[99.1] Add one, 1: passed')"
    book["cells"].append({"cell_type": "code", "metadata": {}, "source": ["def check(*a):\n", "    pass"], "outputs": [], "execution_count": None})
    found, ignored = graft(toy, book)
    from nbval.plugin import find_comment_markers

    assert not list(find_comment_markers(found["99.1"].source)) and "x = '# NBVAL_SKIP'" in found["99.1"].source
    assert "comments that steer nbval" in found["99.1"].notes[0] and "names gpt2course" in found["99.2"].notes[0]
    assert [re.sub(r"\d+: ", "", line) for line in ignored] == ["cell the check cell of 99.1 was changed", "cell a cell of your own"]
    from nbval import plugin

    assert set(grade.DIRECTIVES) == set(plugin.comment_markers)


BAD_FILES = {
    "not JSON": (b"work in progress", "is not a notebook \\(not JSON\\)"),
    "empty": (b"", "not JSON"),
    "cut off": (b'{"cells": [{"cell', "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "bytes": (b"\xff\xfe\x00\x80" * 9, "not JSON"),
    "JSON": (b'{"a": 1}', "JSON without nbformat"),
    "a list": (b"[1]", "JSON without nbformat"),
    "format 3": (b'{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": []}]}', "has notebook format 3"),
    "no cells": (b'{"nbformat": 4, "metadata": {}, "cells": 7}', "without cells"),
    "nothing of us": (b'{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "code", "source": "1"}, 3, {"cell_type": 4}]}', "holds no exercise of lesson 99"),
    "another lesson": (b'{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "code", "source": "1", "metadata": {"tags": ["answer", "ex-4.1"]}}]}', "is a notebook of lesson 04, not of lesson 99"),
}  # fmt: skip


@pytest.mark.parametrize("why", BAD_FILES)
def test_a_file_that_cannot_be_graded_gets_one_line(toy, why):
    toy = toy()
    data, message = BAD_FILES[why]
    (toy.folder / "work" / "bad.ipynb").write_bytes(data)
    with pytest.raises(UserError, match=message) as e:
        grade.grade("99", toy.folder / "work" / "bad.ipynb", SECONDS)
    assert "\n" not in str(e.value) and "work/bad.ipynb" in str(e.value)


def test_what_the_command_refuses(toy, tmp_path):
    toy = toy()
    for settings, message in [
        (dict(), "work/99_toy.ipynb does not exist; begin with: make start EX=99"),
        (dict(notebook=str(tmp_path / "no.ipynb")), "no.ipynb does not exist"),
        (dict(notebook=str(tmp_path)), "is a folder; name a notebook, or grade all in it with --folder"),
        (dict(timeout=0), "--timeout 0 is not allowed"),
        (dict(timeout=float("nan")), "--timeout nan is not allowed"),
        (dict(folder=str(tmp_path / "no")), "is not a folder"),
        (dict(folder=str(tmp_path / "work")), "holds no notebook"),
        (dict(folder=str(tmp_path), notebook="x"), "leave out the notebook"),
        (dict(csv="x.csv"), "--csv goes with --folder"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            grade.main(grade.Grade("99", **settings))


# ---- what counts as a pass

PASS = {"outcome": "passed", "xfail": False}


def test_only_an_explicit_pass_counts(toy):
    toy(1)
    e, place = checks.find("99.1"), {("99.1", "answer"): 0, ("99.1", "check"): 1, ("99.1", "guard"): 2}
    state = lambda **rows: grade.verdict(e, {n: row for n, row in ((0, rows.get("answer", PASS)), (1, rows.get("check", PASS)), (2, rows.get("guard", PASS))) if row is not None}, place, 9)  # fmt: skip
    assert state() == ("passed", "")
    fail = {"outcome": "failed", "xfail": False, "problem": "error", "ename": "Wrong", "evalue": "[99.1] Add one, 1 - no"}
    not_passed = [None, {}, {"outcome": "skipped", "xfail": False}, {"outcome": "skipped", "xfail": True}, {"outcome": "passed", "xfail": True}, {"outcome": "passed"}, {"xfail": False},
                  {"outcome": "judged twice", "xfail": False}, {"outcome": "failed", "xfail": False}, PASS | {"problem": "error", "ename": "", "evalue": ""}, fail]  # fmt: skip
    for row in not_passed:
        assert not grade.explicit_pass(row)
        for part in ("check", "guard"):
            found, message = state(**{part: row})
            assert found != "passed" and message.startswith("[99.1] Add one, 1 - ") and "\n" not in message, (part, row)
    assert state(check=fail) == ("wrong", "[99.1] Add one, 1 - no")
    assert state(answer=fail)[0] == "passed"  # it stopped after the function was there, and the check passed
    assert state(answer=fail | {"ename": "SyntaxError", "evalue": "x"}, check=fail)[1] == "[99.1] Add one, 1 - no"
    assert state(answer=fail | {"ename": "SyntaxError", "evalue": "\x1b[31mx\ny"}, check=fail | {"evalue": "not attempted yet"})[1].endswith("stopped with SyntaxError: [31mx y")


def test_lines_that_nbval_did_not_write_are_no_pass(toy, monkeypatch):
    """A report with the same cell twice, with rubbish, or none."""
    toy(1)

    class Process:
        def __init__(self, arguments, **_):
            Path(arguments[arguments.index("--cells-report") + 1]).write_text(self.text)

        def wait(self, *_):
            return 0

        poll = wait

    monkeypatch.setattr(grade.subprocess, "Popen", Process)
    line = json.dumps({"cell": 0} | PASS)
    book = nbformat.v4.new_notebook(cells=[])
    for text, passed in ((line, True), (f"{line}\n{line}", False), (f"rubbish\n[1]\n{line}", True), (line.replace('"cell"', '"well"') + "\n" + json.dumps({"cell": 1} | PASS), False)):
        Process.text = text
        assert grade.explicit_pass(grade.run(book, 1).get(0)) is passed
    Process.text = ""
    with pytest.raises(UserError, match="nbval did not run"):
        grade.run(book, 1)


def test_the_notebook_that_is_run(toy):
    """Every answer begins as its stub; the checks are the course's, compared with what they must print; no tag of the learner's is there."""
    toy = toy(2)
    book = json.loads(toy.notebook({1: right(1), 2: right(2)}).read_text())
    for kind in ("answer", "check", "setup"):
        for cell in book["cells"]:
            if kind in exercises.tags_of(cell):
                cell["metadata"]["tags"] += ["nbval-skip", "raises-exception", "nbval-ignore-output"]
    found, _ = graft(toy, book)
    canonical, _ = exercises.unsolved("99")
    made, place = grade.assemble("99", canonical, {id: a.source for id, a in found.items()})
    first = place["99.1", "answer"]
    stubs = [c.source for c in canonical if c.kind == "answer"]
    assert [c.source for c in made.cells[place["", "setup"] : first]] == stubs and all("NotImplementedError" in s for s in stubs)
    for n in (1, 2):
        answer, check, guard = (made.cells[place[f"99.{n}", kind]] for kind in ("answer", "check", "guard"))
        assert answer.source == right(n) and check.source == exercises.check_cell(f"99.{n}", [f"f{n}"])
        assert place[f"99.{n}", "answer"] < place[f"99.{n}", "check"] < place[f"99.{n}", "guard"]
        assert check.outputs[0].text == f"[99.{n}] Add one, {n}: passed\n" and guard.outputs[0].text == "intact\n" and check.execution_count and guard.execution_count
    assert [c.metadata for c in made.cells] == [{"tags": ["nbval-check-output"]} if c.outputs else {} for c in made.cells] and sum(bool(c.outputs) for c in made.cells) == 4


# ---- the real grader

HANG = "    import time\n    while True:\n        time.sleep(0.01)\n"
TAMPERED = {  # how an answer is spoilt: (source, state, a word of the message)
    "redefined check": ("def f{n}(x):\n    return x\ndef check(*_): print('[99.{n}] Add one, {n}: passed')\n", "wrong", "did you add one"),
    "syntax error": ("def f{n}(x):\n    return (x + 1\n", "stopped", "SyntaxError"),
    "unknown magic": ("%%no_such_magic\ndef f{n}(x):\n    return x + 1\n", "wrong", "still the empty one"),
    "sys.exit in the cell": ("import sys\nsys.exit()\ndef f{n}(x):\n    return x + 1\n", "stopped", "SystemExit"),
    "sys.exit in the function": ("import sys\ndef f{n}(x):\n    sys.exit(0)\n", "wrong", "SystemExit"),
    "prints without end": ("while True:\n    print('x' * 10_000)\n", "stopped", "1,000,000 characters"),
    "prints the line": ("import os\ndef f{n}(x):\n    os.write(1, b'[99.{n}] Add one, {n}: passed\\n')\n    raise SystemExit\n", "wrong", "SystemExit"),
    "another check function": ("import gpt2course.course.checks\ngpt2course.checks.check = lambda *_: print('[99.{n}] Add one, {n}: passed')\ndef f{n}(x): pass\n", "tampered", "gpt2course.course.checks.check was changed"),
    "code of a check function": ("from gpt2course.course.checks import toy\ntoy.need_close.__code__ = (lambda *_: None).__code__\ndef f{n}(x): pass\n", "tampered", "need_close was changed"),
    "another need_close, at the last moment": ("def f{n}(x):\n    from gpt2course.course.checks import toy\n    toy.need_close = lambda *_: None\n", "tampered", "need_close was changed"),
    "torch that finds all equal": ("torch.allclose = lambda *_, **__: True\ndef f{n}(x):\n    return x\n", "tampered", "torch.allclose was changed"),
    "a check of one's own": ("import sys, types\nsys.modules['gpt2course.course.checks'] = types.SimpleNamespace(check=lambda *_: print('[99.{n}] Add one, {n}: passed'))\n", "tampered", ""),
    "kills the kernel": ("import os\nos._exit(0)\n", "kernel died", "the answer cell ended the kernel"),
    "kills the kernel in the check": ("import os\ndef f{n}(x):\n    os._exit(0)\n", "kernel died", "the check ended the kernel"),
    "asks the kernel to end": ("exit()\ndef f{n}(x):\n    return x\n", "", ""),
    "kills the grader's nbval": ("import os\nos.kill(os.getppid(), 9)\nimport time; time.sleep(60)\n", "kernel died", ""),
    "hangs": ("def f{n}(x):\n" + HANG, "hangs", "the check took longer than 5 s"),
    "hangs in the cell, deaf": ("while True:\n    try:\n    " + HANG.replace("\n", "\n    ") + "\n    except BaseException: pass\n", "hangs", "the answer cell took longer than 5 s"),
    "skipped by comments": ("# NBVAL_SKIP\n# NBVAL_RAISES_EXCEPTION\ndef f{n}(x):\n    return x\n", "wrong", "did you add one"),
    "needs another cell": ("def f{n}(x):\n    return helper(x)\n", "wrong", "put what it needs inside"),
}  # fmt: skip
HARMLESS = {  # full points
    "an assertion that fails after the function": right("{n}", "assert False\n"),
    "takes other names": right("{n}", "torch = print = check = isinstance = vars = None\n"),
    "prints": "print('hello')\ndef f{n}(x):\n    print('hello')\n    return x + 1\n",
    "forgets all names": "%reset -f\n" + right("{n}"),
}


@pytest.mark.slow
def test_what_is_spoilt_costs_its_own_points_only(toy):
    """One notebook with everything in it, a right answer after each: the spoilt ones get nothing, all others everything."""
    plan, n = {}, 0
    for what, (source, state, word) in (TAMPERED | {what: (source, "passed", "") for what, source in HARMLESS.items()}).items():
        n += 1
        plan[n] = (what, source.replace("{n}", str(n)), state, word)
    toy = toy(n + 4)
    deleted, doubled, skipped, last = range(n + 1, n + 5)
    book = json.loads(toy.notebook({k: source for k, (_, source, *_) in plan.items()}, solve=True).read_text())
    book["cells"].remove(cell_of(book, deleted))
    book["cells"].append(dict(cell_of(book, doubled), source=right(doubled).replace("+", "*")))
    cell_of(book, skipped)["source"] = f"def f{skipped}(x): return x"
    for kind in ("answer", "check"):
        cell_of(book, skipped, kind)["metadata"]["tags"] += ["nbval-skip", "nbval-raises-exception", "raises-exception"]
    plan |= {deleted: ("deleted", "", "missing", "copy it from"), doubled: ("doubled", "", "doubled", "delete one of them"), skipped: ("tags", "", "wrong", "did you add one"), last: ("right", "", "passed", "")}
    rows = toy.grade(toy.save(book))
    found = []
    for k, (what, _, state, word) in plan.items():
        row, head = rows[f"99.{k}"], "" if state == "passed" else f"[99.{k}] Add one, {k} - "
        good = row["points"] == (k if state == "passed" else 0) and (row["state"] == state or not state)
        found += [] if good and word in row["message"] and row["message"].startswith(head) and len(row["message"]) <= 320 else [(what, row["points"], row["state"], row["message"])]
    assert not found, "\n".join(map(str, found))
    assert toy.report["points"] == sum(k for k, p in plan.items() if p[2] == "passed") and "cannot exclude" in toy.report["note"]
    assert json.loads(json.dumps(toy.report)) == toy.report


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kills the kernel", "torch that finds all equal"])
def test_a_right_answer_after_a_spoilt_one_gets_its_points(toy, what):
    toy = toy(2)
    source, state, _ = TAMPERED[what]
    rows = toy.grade(toy.notebook({1: source.replace("{n}", "1"), 2: right(2)}))
    assert [(r["state"], r["points"]) for r in rows.values()] == [(state, 0), ("passed", 2)]


def test_the_command_grades_and_writes_a_report(toy, capsys, monkeypatch):
    """Once through the real nbval: one right, one wrong, one not attempted; saved outputs and execution counts do not matter."""
    toy = toy(3)
    path = toy.notebook({1: right(1), 2: "def f2(x):\n    return x"})
    book = json.loads(path.read_text())
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    cell_of(book, 2, "check")["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "[99.2] Add one, 2: passed\n"}]
    path.write_text(json.dumps(book))
    with pytest.raises(SystemExit) as e:
        grade.main(grade.Grade("99", timeout=SECONDS))
    assert e.value.code == 1
    said = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in said[1:5]] == [
        "99.1 Add one, 1 1 of 1 passed",
        "99.2 Add one, 2 0 of 2 wrong not one more: did you add one?",
        "99.3 Add one, 3 0 of 3 not attempted not attempted yet",
        "total 1 of 6 points",
    ]
    report = json.loads((toy.folder / "work" / "99_toy.grade.json").read_text())
    assert said[5] == "report: work/99_toy.grade.json" and report["points"] == 1 and report["of"] == 6
    assert report["notebook_sha256"] == files.sha256(path) and report["source_sha256"] == files.sha256(toy.source) and set(report["versions"]) >= {"python", "torch", "nbval"}


@pytest.mark.slow
def test_a_folder_of_submissions(toy, tmp_path, capsys):
    toy = toy(2)
    folder = tmp_path / "submissions"
    (folder / "ann").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    toy.notebook({}, solve=True).rename(folder / "ann" / "work.ipynb")
    toy.notebook({2: "def f2(x): return 2"}).rename(folder / "=bob.ipynb")
    (folder / "bad.ipynb").write_text("no")
    (folder / ".ipynb_checkpoints" / "x.ipynb").write_text("no")
    grade.main(grade.Grade("99", folder=str(folder), csv=str(tmp_path / "out" / "marks.csv"), timeout=SECONDS))
    with open(tmp_path / "out" / "marks.csv", newline="") as f:
        rows = list(csv.reader(f))
    assert rows[0] == ["file", "99.1", "99.2", "total", "message"]
    assert [row[:4] for row in rows[1:]] == [["'=bob.ipynb", "0", "0", "0"], ["ann/work.ipynb", "1", "2", "3"], ["bad.ipynb", "0", "0", "0"]]
    assert rows[1][4].startswith("[99.1] Add one, 1 - not attempted yet; [99.2] Add one, 2 - ") and rows[2][4] == "" and "not graded: " in rows[3][4]
    assert sorted(p.name for p in (tmp_path / "out" / "marks").iterdir()) == ["_bob.ipynb.json", "ann_work.ipynb.json"]
    assert "3 of 3  bad.ipynb" in capsys.readouterr().out


def test_without_the_solutions_the_exercises_are_enough(toy):
    toy = toy(2)
    with_source, path = exercises.unsolved("99")
    assert path == toy.source
    exercises.file_of("exercises", "99").write_text(json.dumps(toy.stubs()))
    toy.source.unlink()
    without, path = exercises.unsolved("99")
    assert path == exercises.file_of("exercises", "99")
    code = lambda cells: [c for c in cells if c.kind != "text"]
    assert code(without) == code(with_source) and all(isinstance(c, Cell) for c in without)


def test_a_setup_that_stops_is_not_the_learners_fault(toy):
    toy = toy(1)
    toy.source.write_text(toy.source.read_text().replace("import torch\n", "import torch\nimport no_such_module\n", 1))
    with pytest.raises(UserError, match="the setup cell of lesson 99 stopped before any answer was run .*no_such_module"):
        toy.grade(toy.notebook({1: right(1)}))


def test_what_an_answer_prints_is_not_kept():
    """A loop that prints in a check must not fill the memory."""
    where = checks.Nowhere()
    with contextlib.redirect_stdout(where):
        print("x" * 100, flush=True)
    assert where.write("abc") == 3 and not hasattr(where, "getvalue")


# ---- the real lessons

SOURCES = sorted(n for n in LESSONS if exercises.file_of("solutions", n, ".py").exists())


def test_every_lesson_has_exercises():
    assert SOURCES == sorted(LESSONS)
    for n in SOURCES:
        found = checks.exercises(n)
        assert 3 <= len(found) <= 5 and [e.id for e in found] == [f"{int(n)}.{k}" for k in range(1, len(found) + 1)], n


@pytest.mark.parametrize("number", SOURCES)
def test_rebuilt_they_are_what_is_in_git(number):
    assert exercises.differences(number) == []


@pytest.mark.parametrize("number", SOURCES)
def test_every_exercise_has_wrong_answers_and_alternatives(number):
    lesson = importlib.import_module(f"test_lesson_{number}")
    for e in checks.exercises(number):
        wrong, alternatives = ([k for k in table if k[0] == e.id] for table in (lesson.WRONG, lesson.RIGHT))
        assert len(wrong) >= 3 and len(alternatives) >= 2, (e.id, len(wrong), len(alternatives))
        assert all(lesson.WRONG[k][1] for k in wrong), "each with a word of its hint"


@pytest.mark.parametrize("number", SOURCES)
def test_texts_are_for_learners(number):
    """Each exercise has a folded help note; details are closed; links lead somewhere; commands name this lesson."""
    cells = exercises.read_source(number)
    text = "\n".join(c.source for c in cells if c.kind == "text")
    for e in checks.exercises(number):
        own = "\n".join(c.source for c in cells if c.kind == "text" and c.exercise == e.id)
        assert own.count("<details><summary>") == own.count("</details>") >= 1, e.id
    assert f"make start EX={number}" in text and f"make grade EX={number}" in " ".join(text.split())
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert target.startswith("http") or target.startswith("../lessons/") or (ROOT / "exercises" / target).exists(), target


@pytest.mark.slow
def test_solutions_pass_nbval_and_exercises_fail_at_exactly_the_checks(tmp_path):
    """Plain `pytest --nbval-lax`, two processes as there are two cores."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"} | {"OMP_NUM_THREADS": "1"}
    running = {}
    for folder in ("solutions", "exercises"):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-cell-timeout", "120", "-q", "--junitxml", str(tmp_path / f"{folder}.xml")]
        command += [str(exercises.file_of(folder, n)) for n in SOURCES]
        running[folder] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out = {folder: process.communicate(timeout=900)[0] for folder, process in running.items()}
    assert running["solutions"].returncode == 0, out["solutions"][-3000:]
    assert running["exercises"].returncode == 1
    for folder in running:
        cases = list(ElementTree.parse(tmp_path / f"{folder}.xml").iter("testcase"))
        for n in SOURCES:
            code = [c for c in nbformat.read(exercises.file_of(folder, n), as_version=4).cells if c.cell_type == "code"]
            own = [case for case in cases if exercises.file_of(folder, n).stem in case.attrib["classname"]]
            assert [c.attrib["name"] for c in own] == [f"Cell {k}" for k in range(len(code))]
            failed = {k: case for k, case in enumerate(own) if list(case)}
            assert sorted(failed) == ([] if folder == "solutions" else [k for k, c in enumerate(code) if "check" in c.metadata.tags]), n
            assert all("not attempted yet" in "".join(case.itertext()) for case in failed.values())


@pytest.mark.slow
@pytest.mark.parametrize("number", SOURCES)
def test_the_grader_gives_full_points_for_the_solutions(number):
    report = grade.grade(number, exercises.file_of("solutions", number), 60)
    assert report["points"] == report["of"] == sum(e.points for e in checks.exercises(number)), grade.table(report)
    assert not report["ignored"] and not [r for r in report["exercises"] if [n for n in r["notes"] if "gpt2course" not in n]]
