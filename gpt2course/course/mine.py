"""Your own pieces: what you wrote in exercises and lessons, kept, checked again, and put into the real training loop.

    python -m gpt2course.course.mine                    your pieces, each compared with the package
    python -m gpt2course.course.mine train jan29 ...    python -m gpt2course.train jan29 ..., with your pieces

work/mine/<piece>.py has the source of a piece, with the imports and helpers that it needs. The grader keeps an answer
that passes (`keep_passed`); a lesson keeps a function (`lab.keep`). A kept piece must pass its check again each time;
if it does not, the package's stands in, and a line tells so. pieces.py lists all pieces.
"""

import ast
import contextlib
import functools
import importlib
import os
import symtable
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gpt2course.course import build, checks
from gpt2course.course.pieces import PIECES, Piece
from gpt2course.course.probes import small
from gpt2course.files import UserError, atomic_file, closest, command

COMMANDS = ("tokenizer", "train", "evaluate", "sample")  # that run with your pieces


def find(name: str) -> Piece:
    if name not in PIECES:
        raise UserError(f"there is no piece {name!r}; {closest(name, PIECES)}")
    return PIECES[name]


def file_of(name: str) -> Path:
    return build.work() / "mine" / f"{name}.py"


# ---- source


def source_of(cells: list[str], name: str) -> str:
    """The source of a function in the cells of a notebook: its last definition, and the imports and names it needs."""
    known, stars = {}, []  # name -> (number of the statement that defines it last, its source); `from x import *`
    for number, (node, text) in enumerate(pair for cell in cells for pair in statements(cell)):
        if "= lab.hole(" in text:  # the function stays what its cell made it
            continue
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
            if names == ["*"]:
                stars.append(text)
        else:
            names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        known |= {n: (number, text) for n in names}
    wanted, taken = [name], {}
    while wanted:
        number, text = known.get(wanted.pop(), (-1, ""))
        if text and number not in taken:
            taken[number] = text
            wanted += globals_of(symtable.symtable(text, "piece", "exec"))
    texts = [taken[number] for number in sorted(taken)]
    imports = [*stars, *(text for text in texts if text.startswith(("import ", "from ")))]
    return "\n\n\n".join(["\n".join(imports)] * bool(imports) + [text for text in texts if text not in imports]) + "\n"


def statements(cell: str) -> list[tuple[ast.stmt, str]]:
    """(node, source) of the imports, definitions and assignments of a cell; none if it is not Python."""
    lines = ["" if line.lstrip().startswith(("%", "!", "?")) else line for line in cell.splitlines()]
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    with contextlib.suppress(SyntaxError, ValueError):
        body = [node for node in ast.parse("\n".join(lines)).body if isinstance(node, kinds)]
        first = lambda node: min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        return [(node, "\n".join(lines[first(node) : node.end_lineno])) for node in body]
    return []


def globals_of(table: symtable.SymbolTable) -> set[str]:
    """The global names that a piece of source reads."""
    top = table.get_type() == "module"
    own = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return own.union(*map(globals_of, table.get_children()))


def load(name: str, text: str) -> Callable:
    """The function in the source of a piece, in a namespace of its own; UserError if there is none."""
    space, path = {"__name__": f"mine_{name}"}, file_of(name)
    try:
        exec(compile(text, str(path), "exec"), space)
        function = space[find(name).function]
        function.source = text
    except Exception as e:
        what = f"it has no function {e}" if isinstance(e, KeyError) else f"it stopped with {type(e).__name__}: {e}"
        raise UserError(f"{build.relative(path)} does not load: {what}") from None
    return function


def solution(name: str) -> str:
    """The source of the course's answer to the exercise of a piece, or of the lesson's own cell."""
    number, _, exercise = find(name).exercise.partition(".")
    if not exercise:
        return source_of(build.lesson_cells(number), find(name).function)
    cells = build.read_source(number.zfill(2))
    return source_of([build.solved(c.source) for c in cells if c.kind in ("setup", "answer")], find(name).function)


@functools.cache
def stand_in(name: str) -> Callable:
    """The course's version of a piece, with the learner's signature."""
    return find(name).package or load(name, solution(name))


# ---- install, check, keep


@contextlib.contextmanager
def installed(pieces: dict[str, Callable]):
    """Inside this context the package runs with these pieces: attributes of its modules and classes are replaced."""
    pieces = {n: stand_in(n) for name in pieces for n in find(name).needs} | pieces
    patches = [patch for name in pieces for patch in PIECES[name].install(pieces)]
    with contextlib.ExitStack() as undo:
        for owner, attribute, value in patches:
            undo.callback(setattr, owner, attribute, vars(owner)[attribute])
            setattr(owner, attribute, value)
        yield


def timed(probe: Callable) -> tuple[torch.Tensor, float]:
    """What a probe returns, and its shortest time of up to three, in seconds."""
    times = []
    while len(times) < 3 and sum(times) < 1:
        began = time.perf_counter()
        found = probe()
        times.append(time.perf_counter() - began)
    return torch.as_tensor(found, dtype=torch.float64), min(times)


def examine(name: str, f: Callable) -> str:
    """Check a piece and compare it with the package: a line with difference and time; UserError if it is wrong."""
    piece = find(name)
    if "." in piece.exercise and (wrong := checks.run(piece.exercise, f)):
        raise UserError(wrong)
    small(), piece.probe()  # outside the clock, and made by the package alone
    theirs, package = timed(piece.probe)
    try:
        with installed({name: f}):
            ours, seconds = timed(piece.probe)
    except Exception as e:
        raise UserError(f"the package's loop stopped in it with {type(e).__name__}: {e}") from None
    apart = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else float("inf")
    if not apart <= piece.atol:
        raise UserError(f"the package's loop gives other results with it, by up to {apart:.2g}")
    return f"largest difference {apart:.1g}, {seconds:.4f} s, {seconds / package:.1f} times the package's time"


def keep(name: str, text: str, origin: str) -> str:
    """Write work/mine/<name>.py, and return a line about it. UserError for a wrong piece: nothing is written."""
    text = f'"""{name}: {find(name).signature}, {origin}."""\n\n{text}'
    if file_of(name).exists() and file_of(name).read_text(encoding="utf-8", errors="replace") == text:
        return f"{name} is kept already in {build.relative(file_of(name))}"
    try:
        found = examine(name, load(name, text))
    except UserError as e:
        raise UserError(f"{name} is not kept: {e}") from None
    path, before = file_of(name), file_of(name).with_suffix(".before")
    old = f"; the one before it is now {before.name}" if path.exists() else ""
    if old:
        path.replace(before)
    with atomic_file(path) as f:
        f.write(text)
    return f"{name} is kept in {build.relative(path)}: {found}{old}"


def keep_passed(ids: set[str], cells: list[str]) -> list[str]:
    """Keep the answers to these exercises, from the cells of a notebook; a line for each that is a piece."""
    lines = []
    for name, piece in PIECES.items():
        if piece.exercise in ids:
            try:
                lines.append(keep(name, source_of(cells, piece.function), f"your answer to exercise {piece.exercise}"))
            except UserError as e:
                lines.append(str(e))
    return lines


def yours(name: str) -> tuple[Callable | None, str]:
    """(the kept piece, a line about it); None if none is kept, or if it does not pass any more."""
    exercise, path = find(name).exercise, file_of(name)
    if not path.exists():
        lesson = f"lesson {exercise} asks" if exercise else "a lesson asks"
        asks = f"exercise {exercise} asks" if "." in exercise else lesson
        return None, f"the package's; {asks} for {find(name).signature}"
    try:
        f = load(name, path.read_text(encoding="utf-8", errors="replace"))
        return f, f"yours; {examine(name, f)}"
    except UserError as e:
        return None, f"the package's, because yours does not pass: {e}"


def all_of_yours() -> dict[str, Callable]:
    """Every kept piece that passes; prints whose each piece is."""
    found = {name: yours(name) for name in PIECES}
    own = {name: f for name, (f, _) in found.items() if f}
    if os.environ.get("RANK", "0") == "0":  # of several ranks, one prints
        for name, (_, line) in found.items():
            print(f"{name:11} {line}")
        none = "no piece is yours yet; the grader keeps an answer that passes: make grade EX=01"
        print(f"{len(own)} of {len(PIECES)} pieces are yours" if own else none, flush=True)
    return own


def show() -> None:
    """Your own pieces, each checked again and compared with the package.

    With the name of a command after it (tokenizer, train, evaluate or sample), that command runs with your pieces:
    python -m gpt2course.course.mine train jan29 --profile laptop
    """
    all_of_yours()


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        return command(show)
    name = sys.argv.pop(1)
    if name == "train" and "--compile" not in sys.argv:
        sys.argv += ["--compile", "False"]  # your pieces are plain Python
    with installed(all_of_yours()):
        command(importlib.import_module(f"gpt2course.{name}").main)


if __name__ == "__main__":
    main()
