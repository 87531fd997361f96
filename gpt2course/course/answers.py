"""The answers in a learner's notebook: which of its cells belong to which exercise. The grader (grade.py) runs them."""

import ast
import contextlib
import itertools
import re
import symtable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from gpt2course.course import checks
from gpt2course.course.build import Cell, functions, relative
from gpt2course.course.checks import Exercise
from gpt2course.files import UserError


@dataclass
class Code:
    """A code cell of the learner's notebook."""

    number: int  # among all cells, from 0
    source: str
    tags: list[str]
    owner: str = ""  # the exercise that pays if this cell hangs; "" for the setup


@dataclass
class Part:
    """The part of a learner's notebook that belongs to one exercise."""

    exercise: Exercise
    answers: list[Code]  # the cells that define the answer
    end: int = -1  # the number of the cell after which the check runs
    cells: list[Code] = field(default_factory=list)  # the cells that run between the check before it and its own
    state: str = ""  # "missing" or "doubled" if the answer cannot be judged
    message: str = ""
    names: list[str] = field(default_factory=list)  # of the functions that the exercise asks for
    called: str = ""  # another name that the learner gave to the one function of the exercise

    def calls(self, other: "Part") -> list[str]:
        """The functions of another exercise, checked before this one, that the answer calls."""
        text = "\n".join(c.source for c in [*self.answers, *self.cells])
        before = other.end < self.end and other is not self
        return [name for name in other.names if before and re.search(rf"(?<![.\w]){name}\(", text)]


def same(a: str, b: str) -> bool:
    """Whether two cells differ at most in white space at the end of lines."""
    return [line.rstrip() for line in a.strip().splitlines()] == [line.rstrip() for line in b.strip().splitlines()]


def defines(source: str, names: list[str]) -> set[str]:
    """Which of the names a cell defines at its top level, by def, class or an assignment."""
    return {name for name in names if re.search(rf"^(?:async +def|def|class) +{name}\b|^{name} *=", source, re.M)}


def assigned(source: str) -> set[str]:
    """The names that a cell assigns or defines outside functions and classes; imports do not count."""
    with contextlib.suppress(SyntaxError, ValueError):
        table = symtable.symtable(source, "cell", "exec")
        return {s.get_name() for s in table.get_symbols() if s.is_assigned() and not s.is_imported()}
    return set()


def read(path: Path) -> list[Code]:
    """The code cells of a notebook file, whatever their metadata."""
    try:
        found = []
        for n, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code":
                tags = [t for t in cell.metadata.get("tags") or [] if isinstance(t, str)]
                found.append(Code(n, cell.source.encode("utf-8", "replace").decode(), tags))
        return found
    except OSError as e:
        raise UserError(f"{relative(path)} cannot be read ({e.strerror}); begin with: make start EX=05") from None
    except Exception as e:  # nbformat raises many kinds
        problem = one_line(f"{type(e).__name__}: {e}")
        raise UserError(f"{relative(path)} is not a notebook ({problem}); save it again in JupyterLab") from None


def split(number: str, code: list[Code], canonical: list[Cell], name: str) -> list[Part]:
    """The part of each exercise, in the notebook's order; UserError for a notebook of another lesson."""
    stubs = {c.exercise: c.source for c in canonical if c.kind == "answer"}
    parts = [find(e, code, stubs[e.id]) for e in checks.exercises(number)]
    if all(part.state == "missing" for part in parts):
        raise UserError(f"{name} has no exercise of lesson {number}")
    parts.sort(key=lambda part: part.end)
    setup = [c.source for c in canonical if c.kind == "setup"]
    given, theirs, begin = ["", *(c.source for c in canonical if c.kind not in ("text", "setup"))], [], -1
    for cell in code:
        ours = any(same(cell.source, x) for x in setup)  # it has run; again only where it sets back what they changed
        again = ours and any(assigned(c.source) & assigned(cell.source) for c in theirs)
        if "picture" not in cell.tags and not any(same(cell.source, x) for x in given) and (again or not ours):
            theirs.append(cell)
    for part in parts:
        part.cells = [c for c in theirs if begin < c.number <= part.end]
        begin = part.end
        for cell in part.cells:
            owners = [p for p in parts if cell in p.answers] or [part]
            cell.owner = "" if "setup" in cell.tags else owners[0].exercise.id
        if part.called:
            renamed = Code(part.end, f"{part.names[0]} = {part.called}", [], part.exercise.id)
            part.cells.append(renamed)
    return parts


def find(exercise: Exercise, code: list[Code], stub: str) -> Part:
    """Find the answer to an exercise, by tag and by the names of its functions, and the check below it."""
    names, id = functions(stub), exercise.id
    tagged = [c for c in code if {"answer", f"ex-{id}"} <= set(c.tags)]
    part = Part(exercise, [c for c in code if defines(c.source, names)] or tagged, names=names)
    if not part.answers:
        part.state, part.message = "missing", "the notebook has no answer cell: copy it from exercises/"
        return part
    call = re.compile(rf"\bcheck\(\s*[\"']{re.escape(id)}[\"']")
    tests = [c.number for c in code if call.search(c.source) or {"check", f"ex-{id}"} <= set(c.tags)]
    below = [n for n in tests if n >= part.answers[0].number]
    part.end = below[-1] if below else part.answers[-1].number
    if not any(c.number <= part.end and not same(c.source, stub) for c in part.answers):
        part.end = part.answers[-1].number  # nothing but the stub stands above the check: the answer stands below it
    others = renamed(part.answers, stub)
    if len(names) == len(others) == 1 and not any(defines(c.source, names) for c in part.answers):
        part.called = others[0]
    begun = [c for c in tagged if not same(c.source, stub)]
    for one, other in itertools.combinations(begun, 2):
        if defines(one.source, names) & defines(other.source, names) and not same(one.source, other.source):
            part.state = "doubled"
            part.message = f"cells {one.number} and {other.number} both hold an answer: delete one of them"
    return part


def renamed(cells: list[Code], stub: str) -> list[str]:
    """Functions in the answer cells with the arguments of the stub's function and another name."""
    wanted, found = ast.parse(stub).body[0], []
    for cell in cells:
        with contextlib.suppress(SyntaxError, ValueError):
            found += [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
    count = lambda node: len(node.args.posonlyargs + node.args.args)
    alike = [node.name for node in found if node.name != wanted.name and count(node) == count(wanted)]
    return list(dict.fromkeys(alike)) if isinstance(wanted, ast.FunctionDef) else []


def one_line(text: str) -> str:
    """A learner's text on one line of at most 300 printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
