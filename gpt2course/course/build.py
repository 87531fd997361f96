"""The exercises of a lesson from one source: solutions/05_muon.py (jupytext py:percent) gives both notebooks.

    solutions/05_muon.ipynb    executed, outputs kept
    exercises/05_muon.ipynb    each `### BEGIN SOLUTION` ... `### END SOLUTION` replaced by `raise NotImplementedError`

A cell has a kind, given by its tag: `setup`, `answer`, `check` or `picture`; a markdown cell is text. The cells of an
exercise carry its id as a second tag, `ex-5.2`. A check cell is tagged for nbval and keeps what it must print in both
notebooks, so `pytest --nbval-lax` passes on the solutions and fails on the exercises at exactly the checks.
solutions/README.md is the page for authors.
"""

import ast
import datetime
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

import gpt2course
from gpt2course.course import checks
from gpt2course.course.checks import LESSONS, Exercise
from gpt2course.files import UserError, atomic_file, command, shown

ROOT = Path(gpt2course.__file__).resolve().parent.parent
KINDS = ("setup", "answer", "check", "picture")
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
# nbval's tag for "compare this cell's output"; it knows NBVAL_CHECK_OUTPUT in comments only
CHECKED = "nbval-check-output"
LIMIT = 300  # seconds for a cell when a solution is executed
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
    number = text.strip().zfill(2) if text.strip().isdigit() else text
    if number not in LESSONS:
        known = ", ".join(sorted(LESSONS))
        raise UserError(
            f"lesson {shown(text)} has no exercises; lessons with exercises are {known}: "
            "for example make start EX=05, make grade EX=05"
        )
    return number


def file_of(folder: str, number: str, suffix: str = ".ipynb") -> Path:
    """ROOT/folder/05_muon.ipynb"""
    return ROOT / folder / f"{number}_{LESSONS[number]}{suffix}"


def relative(path) -> str:
    """A path for a message: from the folder of the course where it lies inside."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


# ---- cells


def tags_of(cell: dict) -> list[str]:
    """The tags of a notebook's cell that are text, whatever else its metadata holds."""
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return [t for t in tags if isinstance(t, str)] if isinstance(tags, list) else []


def kind_of(tags: list[str]) -> tuple[str, str]:
    """(kind, exercise) by the tags of a code cell; ("", "") where they do not say."""
    kinds = [t for t in tags if t in KINDS]
    ids = [t[3:] for t in tags if re.fullmatch(r"ex-\d+\.\d+", t)]
    return kinds[0] if len(kinds) == 1 else "", ids[0] if len(ids) == 1 else ""


def bound(source: str) -> set[str] | None:
    """Names that a cell binds at its top level: functions, classes, assignments, imports; None if it is no valid
    Python."""
    try:
        waiting = list(ast.parse(source).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            waiting += ast.iter_child_nodes(node)
    return names


def functions(source: str) -> list[str]:
    """The functions and classes that an answer cell defines at its top level."""
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def regions(source: str) -> list[tuple[int, int]]:
    """(first, last) line of each solution region, its markers included; ValueError says what is wrong with them."""
    found, begun = [], None
    for n, line in enumerate(source.splitlines()):
        if line.strip().startswith("### ") and line.strip() not in (BEGIN, END):
            raise ValueError(f"line {n + 1} looks like a marker and is none: {shown(line.strip())}")
        if line.strip() == BEGIN:
            if begun is not None:
                raise ValueError(f"line {n + 1}: {BEGIN} inside a region that began at line {begun + 1}")
            begun = n
        elif line.strip() == END:
            if begun is None:
                raise ValueError(f"line {n + 1}: {END} without {BEGIN}")
            lines = source.splitlines()[begun : n + 1]
            if line != lines[0].replace(BEGIN, END):
                raise ValueError(f"line {n + 1}: {END} is not indented as its {BEGIN}")
            if not any(x.strip() for x in lines[1:-1]):
                raise ValueError(f"line {n + 1}: the region is empty")
            found.append((begun, n))
            begun = None
    if begun is not None:
        raise ValueError(f"line {begun + 1}: {BEGIN} without {END}")
    if not found:
        raise ValueError(f"it holds no {BEGIN}")
    return found


def stub(source: str) -> str:
    """An answer cell as the learner gets it."""
    lines = source.splitlines()
    for first, last in reversed(regions(source)):
        indent = lines[first][: -len(lines[first].lstrip())]
        lines[first : last + 1] = [f"{indent}raise NotImplementedError"]
    return "\n".join(lines)


def solved(source: str) -> str:
    """An answer cell with its solution and without the markers."""
    return "\n".join(line for line in source.splitlines() if line.strip() not in (BEGIN, END))


def check_cell(exercise: str, names: list[str]) -> str:
    """The text of an exercise's check cell."""
    return f'from gpt2course.course.checks import check\n\ncheck("{exercise}", {", ".join(names)})'


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
    """The cells of solutions/NN_topic.py, checked against the lesson's EXERCISES; UserError names the file, the cell
    and the mend."""
    import jupytext

    path = file_of("solutions", number, ".py")
    if not path.exists():
        raise UserError(f"{relative(path)} does not exist; it is the source of the exercises of lesson {number}")
    cells = []
    for n, cell in enumerate(jupytext.read(path).cells):
        tags = tags_of(cell)
        first = cell.source.splitlines()[0] if cell.source else ""
        where = f"{relative(path)}, cell {n} ({shown(first)})"
        kind, exercise = kind_of(tags)
        unknown = [t for t in tags if t not in KINDS and t != f"ex-{exercise}"]
        if unknown:
            raise UserError(
                f"{where}: tags {', '.join(unknown)} are not allowed; "
                f"a cell has one of {', '.join(KINDS)}, and one id such as ex-5.2"
            )
        if not cell.source.strip():
            raise UserError(f"{where} is empty; delete it")
        if cell.cell_type == "markdown":
            if kind:
                raise UserError(f"{where}: a markdown cell is text; the tag {kind} is for code")
            kind = "text"
        elif not kind:
            raise UserError(f"{where}: a code cell needs one tag of {', '.join(KINDS)}")
        if kind not in ("text", "setup") and not exercise:
            raise UserError(f"{where}: a cell tagged {kind} needs the id of its exercise, such as ex-5.2")
        if exercise and exercise not in [e.id for e in checks.exercises(number)]:
            raise UserError(
                f"{where}: exercise {exercise} is not in EXERCISES of gpt2course/course/checks/{LESSONS[number]}.py"
            )
        cells.append(Cell(kind, exercise, cell.source))
    verify(number, cells, relative(path))
    return cells


def verify(number: str, cells: list[Cell], name: str) -> None:
    """Raise UserError unless every exercise has its cells, in order, and they are what they must be."""
    found = checks.exercises(number)
    groups = [c.exercise for n, c in enumerate(cells) if c.exercise and (n == 0 or cells[n - 1].exercise != c.exercise)]
    if groups != [e.id for e in found]:
        raise UserError(
            f"{name}: the cells are those of {', '.join(groups) or 'no exercise'}; "
            f"EXERCISES has {', '.join(e.id for e in found)}, in this order and each in one piece"
        )
    if not (cells[0].kind == "text" and cells[0].source.startswith("# ")):
        raise UserError(f"{name}: the first cell must be the title, a markdown cell that begins with '# '")
    given = set().union(*(bound(c.source) or set() for c in cells if c.kind == "setup"))
    taken = dict.fromkeys(given, "the setup")  # who defines a name
    for e in found:
        if not (e.points > 0 and e.minutes > 0 and 1 <= e.difficulty <= 5 and 1 <= e.importance <= 5):
            raise UserError(
                f"exercise {e.id}: points and minutes must be above 0, difficulty and importance from 1 to 5"
            )
        own = [c for c in cells if c.exercise == e.id]
        kinds = [c.kind for c in own]
        if not re.fullmatch(r"text( text)* answer check( picture)?", " ".join(kinds)):
            raise UserError(
                f"{name}: exercise {e.id} has the cells {', '.join(kinds)}; "
                "it must have its text, one answer, one check, and a picture if there is one"
            )
        if own[0].source.splitlines()[0] != f"## {e.id} {e.title}":
            raise UserError(
                f"{name}: exercise {e.id} must begin with the heading '## {e.id} {e.title}', as EXERCISES has it"
            )
        answer, check = own[kinds.index("answer")].source, own[kinds.index("check")].source
        verify_answer(e.id, answer, check, taken, name)
        taken |= dict.fromkeys(bound(answer), f"exercise {e.id}")


def verify_answer(exercise: str, answer: str, check: str, taken: dict[str, str], name: str) -> None:
    """Raise UserError unless an answer cell and its check cell are what they must be. taken: name -> who defines it."""
    where = f"{name}: the answer cell of exercise {exercise}"
    try:
        left = ast.parse(stub(answer))
        names = functions(solved(answer))
    except (ValueError, SyntaxError) as e:
        raise UserError(f"{where}: {e}") from None
    inside = {id(n) for f in ast.walk(left) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    if any(isinstance(n, ast.Raise) and id(n) not in inside for n in ast.walk(left)):
        raise UserError(f"{where}: a solution region must lie inside a function")
    for twice in sorted(bound(answer) & set(taken)):
        raise UserError(f"{where} defines {twice}, and so does {taken[twice]}; a missing answer would go unseen")
    wanted = re.findall(r"\w+", check.split(f'check("{exercise}"', 1)[-1])
    if not wanted or check != check_cell(exercise, wanted) or not set(wanted) <= set(names):
        raise UserError(
            f"{name}: the check cell of exercise {exercise} must be exactly "
            f"{shown(check_cell(exercise, names))}, with functions of its answer cell"
        )


def unsolved(number: str) -> tuple[list[Cell], Path]:
    """The cells as the learner gets them, and the file they come from: the source, or the exercises' notebook where
    that is not there."""
    path, cells = file_of("solutions", number, ".py"), []
    if path.exists():
        for cell in read_source(number):
            cells.append(replace(cell, source=stub(cell.source)) if cell.kind == "answer" else cell)
        return cells, path
    path = file_of("exercises", number)
    for cell in read_cells(path):
        kind, exercise = kind_of([t for t in tags_of(cell) if t != CHECKED])
        cells.append(Cell(kind if cell["cell_type"] == "code" else "text", exercise, source_of(cell)))
    return cells, path


def source_of(cell: dict) -> str:
    """The text of a notebook's cell, which the file holds as one string or as lines; without what UTF-8 cannot hold."""
    source = cell.get("source", "")
    lines = source if isinstance(source, list) else [source]
    return "".join(x for x in lines if isinstance(x, str)).encode("utf-8", "replace").decode()


def read_cells(path) -> list[dict]:
    """The cells of a notebook file of format 4, each a dict with a cell_type; UserError for anything else."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{relative(path)} is a folder; name a notebook, or grade all in it with --folder")
    try:
        book = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{relative(path)} does not exist; make start EX=05 puts the exercises of lesson 05 there"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(
            f"{relative(path)} is not a notebook (not JSON); save it again in JupyterLab, or begin from a fresh copy"
        ) from None
    if not isinstance(book, dict) or "nbformat" not in book:
        raise UserError(f"{relative(path)} is not a notebook (JSON without nbformat)")
    if book["nbformat"] != 4:
        raise UserError(
            f"{relative(path)} has notebook format {shown(book['nbformat'])}; "
            "format 4 is read: open it in JupyterLab and save it"
        )
    if not isinstance(book.get("cells"), list):
        raise UserError(f"{relative(path)} is a notebook without cells")
    return [c for c in book["cells"] if isinstance(c, dict) and isinstance(c.get("cell_type"), str)]


# ---- the notebooks


def notebook(number: str, cells: list[Cell], solutions: bool):
    """The notebook of the cells: without outputs, but a check cell of the exercises has what it must print."""
    import nbformat.v4 as v4

    book, used, count = v4.new_notebook(metadata=METADATA), {}, 0
    book.nbformat_minor = 5
    exercise_of = {e.id: e for e in checks.exercises(number)}
    for cell in cells:
        name = "-".join(["ex" + number, *cell.exercise.split(".")[1:], cell.kind])  # ex05-2-answer, ex05-setup-1
        used[name] = used.get(name, 0) + 1
        common = dict(id=name if cell.exercise and used[name] == 1 else f"{name}-{used[name]}")
        tags = [] if cell.kind == "text" else [cell.kind]
        tags += [f"ex-{cell.exercise}"] * bool(cell.exercise) + [CHECKED] * (cell.kind == "check")
        if tags:
            common["metadata"] = {"tags": tags}
        if cell.kind == "text":
            text = cell.source
            first, _, rest = text.partition("\n")
            if cell.exercise and first.startswith("## "):
                text = f"{first}\n\n{details(exercise_of[cell.exercise])}\n{rest}"
            book.cells.append(v4.new_markdown_cell(text, **common))
            continue
        count += 1
        source = {True: solved, False: stub}[solutions](cell.source) if cell.kind == "answer" else cell.source
        new = v4.new_code_cell(source, **common)
        if cell.kind == "check" and not solutions:
            new.execution_count = count
            new.outputs = [v4.new_output("stream", name="stdout", text=passed_line(exercise_of[cell.exercise]))]
        book.cells.append(new)
    return book


def text_of(book) -> str:
    """The notebook as the file holds it."""
    import nbformat

    nbformat.validate(book)
    return nbformat.writes(book).rstrip("\n") + "\n"


def execute(book, folder: Path) -> None:
    """Run a notebook of solutions in place and keep its outputs, without warnings and progress bars; UserError if a
    cell stops."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(book, timeout=LIMIT, kernel_name="gpt2course", resources=place, record_timing=False)
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        last = re.sub(r"\x1b\[[\d;]*m", "", str(e)).strip().splitlines()[-1]  # without colours
        raise UserError(f"the solution stops: {last}") from None
    book.metadata = METADATA
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
            cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}


def differences(number: str) -> list[str]:
    """What in git is not what solutions/NN_topic.py and EXERCISES say: one line each. Nothing is executed.

    Compared: the whole of exercises/NN_topic.ipynb; of the solutions' notebook the cells, that each was run in order,
    and the text that the checks printed (pictures and times may differ).
    """
    cells, found = read_source(number), []
    again = f"run: python -m gpt2course.course.build build {number}"
    path = file_of("exercises", number)
    if not path.exists() or path.read_text(encoding="utf-8") != text_of(notebook(number, cells, solutions=False)):
        found.append(f"{relative(path)} is not what its source says; {again}")
    path = file_of("solutions", number)
    if not path.exists():
        return [*found, f"{relative(path)} does not exist; {again}"]
    import nbformat

    book, wanted = nbformat.read(path, as_version=4), notebook(number, cells, solutions=True)
    part = lambda book: [(c.cell_type, c.id, c.source, c.metadata) for c in book.cells]
    if part(book) != part(wanted) or book.metadata != wanted.metadata or (book.nbformat, book.nbformat_minor) != (4, 5):
        return [*found, f"{relative(path)} does not hold its source; {again}"]
    code, titles = [c for c in book.cells if c.cell_type == "code"], {e.id: e for e in checks.exercises(number)}
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        found.append(f"{relative(path)} was not run from the first cell to the last; {again}")
    for cell in code:
        kind, exercise = kind_of(tags_of(cell))
        if any(o.output_type == "error" for o in cell.outputs):
            found.append(f"{relative(path)}: the {kind} cell of {exercise or 'no exercise'} stopped")
        if kind == "check" and [o.get("text") for o in cell.outputs] != [passed_line(titles[exercise])]:
            line = passed_line(titles[exercise]).strip()
            found.append(f"{relative(path)}: the check of {exercise} did not print {line!r} and nothing else; {again}")
    return found


def build_lesson(number: str) -> str:
    """Write both notebooks of a lesson; one line that says what was made."""
    cells = read_source(number)
    path, book = file_of("solutions", number), notebook(number, cells, solutions=True)
    execute(book, path.parent)
    text = text_of(book)
    for place in {str(ROOT), str(Path.home())} - {"/"}:
        if place in text:
            raise UserError(f"{relative(path)}: an output names {place}, a folder of this machine")
    unsolved_text = text_of(notebook(number, cells, solutions=False))
    for target, content in ((path, text), (file_of("exercises", number), unsolved_text)):
        with atomic_file(target) as f:
            f.write(content)
    wrong = differences(number)
    if wrong:
        raise UserError(wrong[0])
    found = checks.exercises(number)
    return f"{path.stem}: {len(found)} exercises, {sum(e.points for e in found)} points, {len(text) / 1e3:.0f} kB"


# ---- the command line


@dataclass
class Build:
    """Make solutions/NN_topic.ipynb (executed) and exercises/NN_topic.ipynb from solutions/NN_topic.py."""

    lessons: tyro.conf.Positional[tuple[str, ...]] = ()  # such as 05; none: every lesson that has a source


@dataclass
class Check:
    """Say which notebooks are not what their source says. Executes nothing; `pytest --nbval-lax
    solutions/05_muon.ipynb` does."""

    lessons: tyro.conf.Positional[tuple[str, ...]] = ()  # such as 05; none: every lesson that has a source


@dataclass
class Start:
    """Put a copy of a lesson's exercises in work/, for you to work in. A copy that is there already is left as it
    is."""

    lesson: tyro.conf.Positional[str]  # such as 05


def begin(number: str) -> str:
    """Copy exercises/NN_topic.ipynb to work/ unless it is there; what to tell the learner."""
    source, target = file_of("exercises", number), file_of("work", number)
    if not source.exists():
        raise UserError(f"{relative(source)} does not exist; bring it back with: git checkout {relative(source)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(target, "xb") as f:
            f.write(source.read_bytes())
    except FileExistsError:
        if not target.is_file():
            raise UserError(f"{relative(target)} is there and is not a file; move it away") from None
        saved = datetime.datetime.fromtimestamp(target.stat().st_mtime)
        there = relative(target)
        return (
            f"{there} is there already, last saved {saved:%Y-%m-%d %H:%M}; it stays as it is. Go on with: make lab\n"
            f"To begin again, move it away first: mv {there} {relative(target.with_suffix(''))}-old.ipynb"
        )
    return f"{relative(target)} is yours to work in. Open it with: make lab\nGrade it with: make grade EX={number}"


def main(args: Build | Check | Start) -> None:
    """The exercises: begin one, or build the notebooks from their source.

    python -m gpt2course.course.build start 05
    """
    if isinstance(args, Start):
        print(begin(lesson(args.lesson)))
        return
    with_source = [n for n in sorted(LESSONS) if file_of("solutions", n, ".py").exists()]
    numbers = [lesson(text) for text in args.lessons] or with_source
    if isinstance(args, Build):
        for number in numbers:
            print(build_lesson(number), flush=True)
        return
    wrong = [line for number in numbers for line in differences(number)]
    if wrong:
        raise UserError("; ".join(wrong))
    print(f"{', '.join(numbers)}: the notebooks are what their sources say")


if __name__ == "__main__":
    command(main)
