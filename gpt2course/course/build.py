"""The exercises of a lesson: one source, solutions/05_muon.py (jupytext py:percent), makes both notebooks.

    solutions/05_muon.ipynb    executed, with outputs
    exercises/05_muon.ipynb    each `### BEGIN SOLUTION` ... `### END SOLUTION` replaced by `raise NotImplementedError`

A tag gives the kind of a cell: `setup`, `answer`, `check` or `picture`; a markdown cell is text. A second tag, such as
`ex-5.2`, names the exercise. A check cell has nbval's tag and its expected output in both notebooks, so
`pytest --nbval-lax` passes on the solutions and fails on the exercises exactly at the checks. solutions/README.md is
the page for authors.
"""

import ast
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import nbformat
import tyro

import gpt2course
from gpt2course.course import checks
from gpt2course.course.checks import LESSONS, Exercise
from gpt2course.files import UserError, atomic_file, command, in_clone, shown

ROOT = Path(gpt2course.__file__).resolve().parent.parent
KINDS = ("setup", "answer", "check", "picture")
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
CHECKED = "nbval-check-output"  # nbval's tag for "compare the output of this cell"
LIMIT = 300  # seconds for a cell of a lesson or a solution
METADATA = {
    "kernelspec": {"display_name": "gpt2course", "language": "python", "name": "gpt2course"},
    "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
}


@dataclass(frozen=True)
class Cell:
    kind: str  # "text", or one of KINDS
    exercise: str  # "5.2", or "" for a cell of no exercise
    source: str


# ---- lessons and their files


def lesson(text: str) -> str:
    """The number of a lesson, "05" for "05" or "5"; UserError if it has no exercises."""
    number = text.strip().zfill(2)
    if text.strip() and number in LESSONS:
        return number
    known = ", ".join(sorted(LESSONS))
    raise UserError(f"lesson {shown(text)} has no exercises; lessons with exercises are {known}: make start EX=05")


def file_of(folder: str, number: str, suffix: str = ".ipynb") -> Path:
    """ROOT/folder/05_muon.ipynb"""
    return in_clone(ROOT / folder / f"{number}_{LESSONS[number]}{suffix}")


def work() -> Path:
    """The folder of the learner's own files; $GPT2COURSE_WORK when lessons are built and tested."""
    return Path(os.environ.get("GPT2COURSE_WORK") or ROOT / "work")


def relative(path) -> str:
    """A path for a message, relative to the folder of the course."""
    path = Path(path)
    inside = [folder for folder in (work().parent, ROOT) if path.is_relative_to(folder)]
    return str(path.relative_to(inside[0])) if inside else str(path)


# ---- cells


def kind_of(tags: list[str]) -> tuple[str, str]:
    """(kind, exercise) of a cell by its tags; "" if there is no such tag, or more than one."""
    kinds = [t for t in tags if t in KINDS]
    ids = [t[3:] for t in tags if re.fullmatch(r"ex-\d+\.\d+", t)]
    return kinds[0] if len(kinds) == 1 else "", ids[0] if len(ids) == 1 else ""


def functions(source: str) -> list[str]:
    """The functions and classes that an answer cell defines at its top level."""
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def stub(source: str) -> str:
    """An answer cell as the learner gets it."""
    lines, inside = [], False
    for line in source.splitlines():
        begin, end = line.strip() == BEGIN, line.strip() == END
        if begin == inside and (begin or end):
            raise UserError(f"{BEGIN} and {END} do not alternate in {shown(source)}")
        if begin:
            lines.append(line.replace(BEGIN, "raise NotImplementedError"))
        elif not inside and not end:
            lines.append(line)
        inside = begin or inside and not end
    if inside:
        raise UserError(f"{END} is missing in {shown(source)}")
    return "\n".join(lines)


def solved(source: str) -> str:
    """An answer cell with its solution and without the markers."""
    return "\n".join(line for line in source.splitlines() if line.strip() not in (BEGIN, END))


def passed_line(exercise: Exercise) -> str:
    """What a check cell prints when the answer is right."""
    return f"[{exercise.id}] {exercise.title}: passed\n"


def details(exercise: Exercise) -> str:
    """The line under an exercise's heading."""
    counted = lambda n, word: f"{n} {word}{'s' * (n != 1)}"
    points, minutes = counted(exercise.points, "point"), counted(exercise.minutes, "minute")
    return f"*{points} · {minutes} · difficulty {exercise.difficulty} of 5 · importance {exercise.importance} of 5*"


# ---- the source


def read_source(number: str) -> list[Cell]:
    """The cells of solutions/NN_topic.py. tests/course/test_grade.py proves that every exercise has its cells."""
    import jupytext

    path = file_of("solutions", number, ".py")
    if not path.exists():
        raise UserError(f"{relative(path)} does not exist; it is the source of the exercises of lesson {number}")
    cells = []
    for n, cell in enumerate(jupytext.read(path).cells):
        tags = cell.metadata.get("tags", [])
        kind, exercise = kind_of(tags)
        if set(tags) != {kind, f"ex-{exercise}"} - {"", "ex-"} or (cell.cell_type == "markdown") == bool(kind):
            raise UserError(f"{relative(path)}, cell {n}: the tags {', '.join(tags) or '(none)'} are not allowed")
        cells.append(Cell(kind or "text", exercise, cell.source))
    return cells


def lesson_cells(number: str) -> list[str]:
    """The source of the code cells of lessons/NN_topic.py, the holes with their solutions."""
    import jupytext

    cells = jupytext.read(file_of("lessons", number, ".py")).cells
    return [solved(cell.source) for cell in cells if cell.cell_type == "code"]


def unsolved(number: str) -> list[Cell]:
    """The cells as the learner gets them."""
    return [replace(c, source=stub(c.source)) if c.kind == "answer" else c for c in read_source(number)]


# ---- the notebooks


def notebook(number: str, cells: list[Cell], solutions: bool):
    """The notebook of the cells. It has no outputs, except for what the check cells of the exercises must print."""
    v4 = nbformat.v4
    book, used, count = v4.new_notebook(metadata=METADATA), {}, 0
    book.nbformat_minor = 5
    exercise_of = {e.id: e for e in checks.exercises(number)}
    for cell in cells:
        name = "-".join(["ex" + number, *cell.exercise.split(".")[1:], cell.kind])  # ex05-2-answer, ex05-setup-1
        used[name] = used.get(name, 0) + 1
        tags = [] if cell.kind == "text" else [cell.kind]
        tags += [f"ex-{cell.exercise}"] * bool(cell.exercise) + [CHECKED] * (cell.kind == "check")
        common = dict(id=name if cell.exercise and used[name] == 1 else f"{name}-{used[name]}")
        common |= {"metadata": {"tags": tags}} if tags else {}
        if cell.kind == "text":
            first, _, rest = cell.source.partition("\n")
            heading = cell.exercise and first.startswith("## ")
            text = f"{first}\n\n{details(exercise_of[cell.exercise])}\n{rest}" if heading else cell.source
            book.cells.append(v4.new_markdown_cell(text, **common))
            continue
        count += 1
        source = (solved if solutions else stub)(cell.source) if cell.kind == "answer" else cell.source
        new = v4.new_code_cell(source, **common)
        if cell.kind == "check" and not solutions:
            new.execution_count = count
            new.outputs = [v4.new_output("stream", name="stdout", text=passed_line(exercise_of[cell.exercise]))]
        book.cells.append(new)
    return book


def text_of(book) -> str:
    """The notebook as the file holds it."""
    nbformat.validate(book)
    return nbformat.writes(book).rstrip("\n") + "\n"


def execute(book, folder: Path) -> str:
    """Run a notebook in place and return its text, without warnings, progress bars and folders of this machine."""
    from nbclient import NotebookClient

    place = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=LIMIT, kernel_name="gpt2course", resources=place, record_timing=False).execute()
    book.metadata = METADATA
    bar = re.compile(r"\d+/\d+ \[\d\d:\d\d<|^\s*$")  # a progress bar, and the empty line that it leaves
    for cell in (c for c in book.cells if c.cell_type == "code"):
        streams = [o for o in cell.outputs if o.output_type == "stream"]
        noise = [o for o in streams if o.name == "stderr" or bar.search(o.text)]
        cell.outputs = [o for o in cell.outputs if o not in noise]
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
    text = text_of(book)
    for place in {str(ROOT), str(Path.home())} - {"/"}:
        if place in text:
            raise UserError(f"an output in {relative(folder)} contains {place}, a folder of this machine")
    return text


def differences(number: str) -> list[str]:
    """What in git differs from solutions/NN_topic.py and EXERCISES, one line each. Nothing is executed.

    Compared: the whole of exercises/NN_topic.ipynb; of the solutions' notebook the cells, their order of execution, and
    the text that the checks printed (pictures and times may differ).
    """
    cells, found = read_source(number), []
    path = file_of("exercises", number)
    if not path.exists() or path.read_text(encoding="utf-8") != text_of(notebook(number, cells, solutions=False)):
        found.append(f"{relative(path)} differs from its source")
    path, wanted = file_of("solutions", number), notebook(number, cells, solutions=True)
    book = nbformat.read(path, as_version=4) if path.exists() else wanted
    part = lambda book: [book.metadata, *((c.cell_type, c.id, c.source, c.metadata) for c in book.cells)]
    code = [c for c in book.cells if c.cell_type == "code"]
    in_order = [c.execution_count for c in code] == list(range(1, len(code) + 1))
    if part(book) != part(wanted) or not in_order:
        found.append(f"{relative(path)} differs from its source, or was not run in order")
    printed = [[o.get("text") for o in c.outputs] for c in code if "check" in c.metadata.get("tags", [])]
    if printed != [[passed_line(e)] for e in checks.exercises(number)]:
        found.append(f"{relative(path)}: a check did not print its line alone")
    return [f"{line}; run: python -m gpt2course.course.build build {number}" for line in found]


def build_lesson(number: str) -> str:
    """Write both notebooks of a lesson; one line that describes them."""
    cells = read_source(number)
    path, book = file_of("solutions", number), notebook(number, cells, solutions=True)
    text, stubs = execute(book, path.parent), text_of(notebook(number, cells, solutions=False))
    for target, content in ((path, text), (file_of("exercises", number), stubs)):
        with atomic_file(target) as f:
            f.write(content)
    found = checks.exercises(number)
    return f"{path.stem}: {len(found)} exercises, {sum(e.points for e in found)} points, {len(text) / 1e3:.0f} kB"


def begin(number: str) -> str:
    """Copy exercises/NN_topic.ipynb to work/ unless it is there; a line that tells the learner how to go on."""
    source, target = file_of("exercises", number), file_of("work", number)
    target.parent.mkdir(parents=True, exist_ok=True)
    guide = ROOT / "AGENTS.md"  # for an AI assistant that is opened in work/
    if guide.exists():
        (target.parent / guide.name).write_bytes(guide.read_bytes())
    try:
        with open(target, "xb") as f:
            f.write(source.read_bytes())
    except FileExistsError:
        there = relative(target)
        return (
            f"{there} exists already and stays as it is. Open it with: make lab\n"
            f"To begin again, move it away first: mv -n {there} {relative(target.with_suffix(''))}-old.ipynb"
        )
    return f"{relative(target)} is your copy. Open it with: make lab\nGrade it with: make grade EX={number}"


# ---- the command line


@dataclass
class Args:
    """The exercises: begin one, or build the notebooks from their source.

    python -m gpt2course.course.build start 05

    start: copy the exercises of a lesson to work/; a copy that exists already stays as it is.
    build: make solutions/NN_topic.ipynb (executed) and exercises/NN_topic.ipynb from solutions/NN_topic.py.
    check: list the notebooks that differ from their source; nothing is executed.
    """

    what: tyro.conf.Positional[Literal["start", "build", "check"]]
    lessons: tyro.conf.Positional[tuple[str, ...]] = ()  # such as 05; default of build and check: all lessons


def main(args: Args) -> None:
    numbers = [lesson(text) for text in args.lessons]
    if args.what == "start":
        for number in numbers or [lesson("")]:
            print(begin(number))
        return
    wrong = []
    for number in numbers or sorted(LESSONS):
        if args.what == "build":
            print(build_lesson(number), flush=True)
        wrong += differences(number)
    if wrong:
        raise UserError("; ".join(wrong))
    print("the notebooks agree with their sources")


if __name__ == "__main__":
    command(main)
