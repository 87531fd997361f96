"""The grader: a learner's answers, put into the course's own notebook, run there, and judged by its checks.

`pytest --nbval-lax work/05_muon.ipynb` is no safe grader: it compares with outputs that the learner saved, and what the
learner's notebook says about skipping cells goes. So the learner's answer cells alone are taken, by their tags and else
by the names of their functions, and put into a notebook that is made here. nbval runs that, and only a check cell that
it reports as passed counts.

In that notebook each exercise is: the empty answer (so that nothing else can stand in for a missing one), the learner's
answer, the check, and a guard. The guard compares what the checks stand on (the package's functions, torch's, Python's
own) with what it was before the first answer. That makes tampering evident, not impossible: an answer is a program with
the rights of whoever grades it.

One run judges all exercises. An exercise that did not pass and comes after other answers is run again by itself, so
that an answer that hangs, ends the kernel or changes something costs its own points only.
"""

import csv
import datetime
import hashlib
import importlib.metadata
import inspect
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import tyro

import gpt2course
from gpt2course.course import build as exercises, checks
from gpt2course.course.checks import Exercise
from gpt2course.course.build import (
    CHECKED,
    METADATA,
    Cell,
    bound,
    functions,
    kind_of,
    read_cells,
    relative,
    source_of,
    tags_of,
)
from gpt2course.files import UserError, atomic_file, command, write_json

CODE = Path(gpt2course.__file__).resolve().parent.parent  # what the kernel imports is what the grader imports
DIRECTIVES = (
    "NBVAL_SKIP",
    "NBVAL_RAISES_EXCEPTION",
    "NBVAL_IGNORE_OUTPUT",
    "NBVAL_CHECK_OUTPUT",
    "PYTEST_VALIDATE_IGNORE_OUTPUT",
)
NOTE = (
    "An answer is a program that runs with the rights of whoever grades it: "
    "this report makes tampering evident, it cannot exclude it."
)


# ---- the learner's answers


@dataclass
class Answer:
    """What a notebook holds for one exercise."""

    exercise: Exercise
    source: str | None = None  # None: nothing that can be taken
    problem: str = ""  # why nothing can be taken
    notes: list[str] = field(default_factory=list)


class Code(NamedTuple):
    """A code cell of the learner's notebook."""

    number: int  # among all cells
    source: str
    tags: list[str]


def python(source: str) -> str:
    """A cell as Python: what IPython makes of its magics and shell lines."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        return TransformerManager().transform_cell(source)
    except Exception:  # no valid cell, as the kernel will say
        return source


def defines(source: str, names: list[str]) -> set[str]:
    """Which of the names a cell defines at its top level; a cell that is no valid Python is searched for `def name`."""
    found = bound(source if bound(source) is not None else python(source))
    if found is None or source.lstrip().startswith("%%"):
        found = set(re.findall(r"^(?:async +def|def|class) +(\w+)|^(\w+) *=", source, re.M))
        found = {a or b for a, b in found}
    return found & set(names)


def same(a: str, b: str) -> bool:
    """Whether two cells differ in white space at the end of lines at most."""
    lines = lambda text: [line.rstrip() for line in text.strip().splitlines()]
    return lines(a) == lines(b)


def neutral(source: str) -> str:
    """A cell without comments that nbval obeys."""
    lines = source.splitlines(keepends=True)  # as nbval splits
    for n, line in enumerate(lines):
        if line.strip().startswith("#") and line.strip().lstrip("#").strip() in DIRECTIVES:
            lines[n] = line.replace("NBVAL", "nbval").replace("PYTEST", "pytest")
    return "".join(lines)


def numbers(cells: list[Code], between: str = ", ") -> str:
    return between.join(str(cell.number) for cell in cells)


def answers(number: str, cells: list[dict], canonical: list[Cell], name: str) -> tuple[list[Answer], list[str]]:
    """(the learner's answer for each exercise, what of the notebook was ignored); UserError for a notebook of another
    lesson."""
    stubs = {c.exercise: c.source for c in canonical if c.kind == "answer"}
    names = {id: functions(source) for id, source in stubs.items()}
    everything = [n for found in names.values() for n in found]
    code = [Code(n, source_of(c), tags_of(c)) for n, c in enumerate(cells) if c["cell_type"] == "code"]
    ids = {t[3:].split(".")[0].zfill(2) for c in cells for t in tags_of(c) if re.fullmatch(r"ex-\d+\.\d+", t)}
    if number not in ids:
        if ids:
            raise UserError(f"{name} is a notebook of lesson {', '.join(sorted(ids))}, not of lesson {number}")
        if not any(defines(cell.source, everything) for cell in code):
            raise UserError(
                f"{name} holds no exercise of lesson {number}: neither its cells' tags nor its functions are there"
            )
    found, used = [], set()
    for exercise in checks.exercises(number):
        answer = Answer(exercise)
        found.append(answer)
        held, by_name = holding(exercise.id, code, names)
        if by_name:
            answer.notes.append(f"cell {numbers(held)} was found by the name of its function, not by its tags")
        if held:
            used |= {cell.number for cell in held}
            take(answer, held, stubs[exercise.id], names[exercise.id])
        else:
            copy = relative(exercises.file_of("exercises", number))
            answer.problem = f"the notebook has no answer cell: copy it from {copy}"
    return found, unread([cell for cell in code if cell.number not in used], canonical)


def holding(id: str, code: list[Code], names: dict[str, list[str]]) -> tuple[list[Code], bool]:
    """(the cells that hold the answer to an exercise, whether they were found by the name of their function alone)"""
    tagged = [cell for cell in code if "answer" in cell.tags and f"ex-{id}" in cell.tags]
    found = [cell for cell in tagged if defines(cell.source, names[id])]
    if found:
        return found, False

    def of_another(cell: Code) -> bool:  # the answer to another exercise by its tags as well as its names
        other = kind_of(cell.tags)[1]
        return "answer" in cell.tags and other not in ("", id) and bool(defines(cell.source, names.get(other, [])))

    found = [cell for cell in code if defines(cell.source, names[id]) and not of_another(cell)]  # wherever it stands
    if found:
        return found, True
    everything = [n for each in names.values() for n in each]
    return [cell for cell in tagged if not defines(cell.source, everything)], False


def take(answer: Answer, held: list[Code], stub: str, names: list[str]) -> None:
    """Put together the source of an answer from the cells that hold it, or say why that cannot be done."""
    begun = [cell for cell in held if not same(cell.source, stub)] or held[:1]
    different = [x for k, x in enumerate(begun) if not any(same(x.source, y.source) for y in begun[:k])]
    defined = [name for cell in different for name in defines(cell.source, names)]
    if len(different) > 1 and len(defined) > len(set(defined)):
        answer.problem = f"cells {numbers(different, ' and ')} both hold an answer: delete one of them"
        return
    if len(held) > 1:
        answer.notes.append(f"cells {numbers(held)} hold this answer; taken: {numbers(different)}")
    source = "\n\n".join(cell.source for cell in different)
    answer.source = neutral(source)
    if answer.source != source:
        answer.notes.append("comments that steer nbval were made ineffective")
    strange = {t for cell in different for t in cell.tags} - {"answer", f"ex-{answer.exercise.id}"}
    if strange:
        answer.notes.append(f"tags ignored: {', '.join(sorted(strange))[:100]}")
    if "gpt2course" in answer.source and "gpt2course" not in stub:
        answer.notes.append("the answer names gpt2course: look at it")


def unread(code: list[Code], canonical: list[Cell]) -> list[str]:
    """What is said of cells that hold no answer: a line for each that is not as the course has it."""
    ours = [c.source for c in canonical if c.kind in ("setup", "check", "picture")]
    said = []
    for cell in code:
        if not cell.source.strip() or any(same(cell.source, x) for x in ours):
            continue
        kind, id = kind_of([t for t in cell.tags if t != CHECKED])
        of = f" of {id}" if id else ""
        what = f"the {kind} cell{of} was changed" if kind else "a cell of your own"
        said.append(f"cell {cell.number}: {what}")
    return said


# ---- the notebook that is run


def _guard(lesson, before=None):
    """In the kernel. What the checks stand on, as {name: object}; with `before`, RuntimeError if something has changed
    since."""
    import builtins
    import sys

    from gpt2course.course import checks

    now = {f"exercise {e.id}": e.check for e in checks.exercises(lesson)}
    theirs = (
        "torch torch._C torch.nn.functional torch.random numpy math random statistics re io contextlib importlib "
        "dataclasses inspect itertools functools"
    )
    for name, module in sorted(sys.modules.items()):
        ours = name.partition(".")[0] == "gpt2course"
        if module is None or not (ours or name in theirs.split()):
            continue
        now[f"sys.modules {name}"] = module
        for key, value in list(vars(module).items()):
            if callable(value) or ours and isinstance(value, type(sys)):
                now[f"{name}.{key}"] = value
            if ours and type(value).__name__ == "function":
                now[f"code of {name}.{key}"] = value.__code__
                now[f"defaults of {name}.{key}"] = value.__defaults__
            if isinstance(value, type) and (ours or value.__name__ == "Tensor"):
                for word, member in list(vars(value).items()):
                    if callable(member) or isinstance(member, (property, classmethod, staticmethod)):
                        now[f"{name}.{key}.{word}"] = member
                    if type(member).__name__ == "function":
                        now[f"code of {name}.{key}.{word}"] = member.__code__
    for key, value in vars(builtins).items():
        if key not in ("_", "input", "display"):  # the kernel sets them for each cell
            now[f"builtins.{key}"] = value
    shell = builtins.get_ipython()
    now["the kernel's ways to rewrite a cell"] = len(shell.ast_transformers) + len(shell.input_transformers_post)
    ways = ("run_cell", "run_cell_async", "run_code", "transform_cell")
    now["the kernel's ways to run a cell"] = sum(name in vars(shell) for name in ways)

    def torchs_own(key):  # torch replaces some of its functions as its parts are loaded; not those that compare numbers
        compare = ("torch.allclose", "torch.isclose", "torch.equal", "torch.as_tensor", "torch.tensor", "torch.all")
        if not key.startswith("torch") or key in compare:
            return False
        return str(getattr(now.get(key), "__module__", "")).startswith("torch")

    for key, value in (before or {}).items():
        if now.get(key) is not value and not torchs_own(key):
            raise RuntimeError(f"{key} was changed")
    return now


def _limit(characters):
    """In the kernel. A cell that prints without end is stopped."""
    import builtins
    import sys

    def begin(*_):  # IPython gives a stream another `write` for each cell
        printed = [0]
        for stream in (sys.stdout, sys.stderr):

            def write(text, real=stream.write):
                printed[0] += len(text)
                if printed[0] > characters:
                    raise RuntimeError(f"more than {characters:,} characters were printed")
                return real(text)

            stream.write = write

    builtins.get_ipython().events.register("pre_run_cell", begin)


def assemble(number: str, canonical: list[Cell], given: dict[str, str]) -> tuple[dict, dict[tuple[str, str], int]]:
    """(notebook, {(id, "answer" | "check" | "guard"): number of the code cell}). given: source of the answers to judge,
    by exercise."""
    import nbformat.v4 as v4

    cells, place = [], {}
    setup = [c.source for c in canonical if c.kind == "setup"]
    apart = lambda source: f"import builtins\nbuiltins.exec({source!r}, {{}})"  # whatever names an answer has taken
    shell, guard = "builtins.get_ipython()", inspect.getsource(_guard) + "import builtins\n"
    limit = f"{inspect.getsource(_limit)}\n_limit(1_000_000)\n"
    setup.append(apart(f"{limit}{guard}{shell}._gpt2course_before = _guard({number!r})"))
    guard = apart(f"{guard}_guard({number!r}, {shell}._gpt2course_before)\nprint('intact')")
    stubs = {c.exercise: c.source for c in canonical if c.kind == "answer"}
    tests = {c.exercise: c.source for c in canonical if c.kind == "check"}

    def add(source, expected=None, at=None):
        cell = v4.new_code_cell(source, id=f"c{len(cells)}", metadata={"tags": [CHECKED]} if expected else {})
        if expected:
            cell.execution_count, cell.outputs = len(cells) + 1, [v4.new_output("stream", name="stdout", text=expected)]
        if at:
            place[at] = len(cells)
        cells.append(cell)

    for source in setup + list(stubs.values()):  # every answer begins as a stub
        add(source)
    place["", "setup"] = len(setup)
    for exercise in checks.exercises(number):
        if exercise.id in given:
            add(given[exercise.id], at=(exercise.id, "answer"))
            add(tests[exercise.id], exercises.passed_line(exercise), at=(exercise.id, "check"))
            add(guard, "intact\n", at=(exercise.id, "guard"))
    book = v4.new_notebook(cells=cells, metadata=METADATA)
    book.nbformat_minor = 5
    return book, place


def run(book, timeout: float) -> dict[int, dict]:
    """Run a notebook with nbval: {cell: {"outcome", "xfail", "problem", "ename", "evalue"}} of the cells that it
    judged."""
    with tempfile.TemporaryDirectory(prefix="gpt2course-grade-") as folder:
        path, lines, log = (Path(folder) / name for name in ("graded.ipynb", "cells.jsonl", "log"))
        path.write_text(exercises.text_of(book), encoding="utf-8")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
        environment |= {"PYTHONPATH": str(CODE), "PYTHONSAFEPATH": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment |= {"IPYTHONDIR": str(Path(folder) / "ipython")}
        plugins = ["-p", "nbval.plugin", "-p", "gpt2course.course.nbval_report", "-p", "no:cacheprovider"]
        alone = ["--rootdir", folder, "-c", os.devnull, "--noconftest"]
        quiet = ["-q", "--tb", "no", "--color", "no"]
        nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", str(timeout)]
        options = [*plugins, *alone, *quiet, *nbval, "--cells-report", str(lines)]
        limit = 120 + (timeout + 20) * len(book.cells)
        call([sys.executable, "-m", "pytest", *options, str(path)], folder, environment, log, limit)
        judged = read_judged(lines)
        if not judged:
            raise UserError(f"nbval did not run: {' '.join(log.read_text(errors='replace').split())[-400:]}")
        return judged


def call(arguments: list[str], folder: str, environment: dict[str, str], log: Path, limit: float) -> None:
    """Run a program; after `limit` seconds it is killed, and what it started with it."""
    with open(log, "wb") as out:
        streams = dict(stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        process = subprocess.Popen(arguments, cwd=folder, env=environment, start_new_session=True, **streams)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def read_judged(lines: Path) -> dict[int, dict]:
    """What nbval_report wrote of each cell; a line that it cannot have written is left out."""
    judged, seen = {}, set()
    for line in lines.read_text(encoding="utf-8", errors="replace").splitlines() if lines.exists() else []:
        try:
            found = json.loads(line)
            cell = found.pop("cell")
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
        if "outcome" in found and cell in seen:  # a cell is judged once
            found["outcome"] = "judged twice"
        seen |= {cell} if "outcome" in found else set()
        judged.setdefault(cell, {}).update(found)
    return judged


# ---- what it means


def explicit_pass(found: dict | None) -> bool:
    """Whether nbval reported a cell as passed: not failed, skipped, expected to fail, judged twice, or not judged at
    all."""
    if found is None or "problem" in found:
        return False
    return found.get("outcome") == "passed" and found.get("xfail") is False


def one_line(text: str) -> str:
    """A learner's words on one line of at most 300 characters that can be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def heading(exercise: Exercise) -> str:
    """How a message about an exercise begins."""
    return f"[{exercise.id}] {exercise.title} - "


def says_more(check: dict | None) -> bool:
    """Whether a check tells what is wrong with an answer, other than that there is none."""
    if not check or check.get("ename") != "Wrong":
        return False
    return not check["evalue"].endswith("not attempted yet")


def verdict(exercise: Exercise, judged: dict[int, dict], place: dict, timeout: float) -> tuple[str, str]:
    """(state, message) of an exercise from what nbval found of its answer, check and guard."""
    answer, check, guard = (judged.get(place[exercise.id, part]) for part in ("answer", "check", "guard"))
    head = heading(exercise)
    if explicit_pass(check) and explicit_pass(guard):
        return "passed", ""
    if guard and not explicit_pass(guard) and guard.get("problem") == "error":
        changed = guard["evalue"]
        if guard["ename"] != "RuntimeError":
            changed = f"the guard stopped with {guard['ename']}: {changed}"
        message = f"{head}{changed} by this answer; a check must find everything as the course has it"
        return "tampered", one_line(message)
    for found, what in ((answer, "the answer cell"), (check, "the check"), (guard, "the guard after the check")):
        problem = (found or {}).get("problem")
        if problem == "timeout":
            return "hangs", f"{head}{what} took longer than {timeout:g} s and was stopped: does every loop end?"
        if problem == "dead" or found is None:
            return "kernel died", f"{head}{what} ended the kernel: look for exit, os._exit, or far too much memory"
        if found is answer:
            if not problem or says_more(check):
                continue
            message = f"{head}the answer cell stopped with {found['ename'] or 'an error'}: {found['evalue']}"
            return "stopped", one_line(message)
        if problem == "differs":
            return "printed", f"{head}the check came out, but something else was printed along with its line"
        if problem:
            message = found["evalue"]
            if found["ename"] != "Wrong":
                message = f"{head}the check stopped with {found['ename']}: {message}"
            if "NameError" in message:
                message = one_line(message)[:220] + " (the answer cell alone is taken: put what it needs inside)"
            if message.endswith("not attempted yet"):
                message += " (the cell was changed, but its function is still the empty one)"
            return "wrong", one_line(message)
        if not explicit_pass(found):
            return "not judged", f"{head}{what} was {found.get('outcome')}, not passed"
    return "not judged", f"{head}nbval did not report a pass"


def judge(
    number: str, canonical: list[Cell], found: list[Answer], timeout: float, say=lambda text: None
) -> dict[str, tuple[str, str]]:
    """{exercise: (state, message)}; one run for all, then one for each exercise that may have suffered from an answer
    before it."""
    stubs = {c.exercise: c.source for c in canonical if c.kind == "answer"}
    given = {a.exercise.id: stubs[a.exercise.id] if a.source is None else a.source for a in found}
    states = {}
    for a in found:
        if a.problem:
            state = "missing" if "no answer cell" in a.problem else "doubled"
            states[a.exercise.id] = (state, heading(a.exercise) + a.problem)
    begun = [id for id, source in given.items() if not same(source, stubs[id])]

    def one(exercises_given):
        book, place = assemble(number, canonical, exercises_given)
        judged = run(book, timeout)
        for n in range(place["", "setup"]):
            if not explicit_pass(judged.get(n)):
                cell = judged.get(n, {})
                problem = one_line(f"{cell.get('ename', '')}: {cell.get('evalue', '')}")
                raise UserError(
                    f"the setup cell of lesson {number} stopped before any answer was run ({problem}); "
                    "bring the course up to date: make setup"
                )
        asked = [a.exercise for a in found if a.exercise.id in exercises_given]
        return {exercise.id: verdict(exercise, judged, place, timeout) for exercise in asked}

    ran = one(given)
    for a in found:
        if a.exercise.id not in begun and ran[a.exercise.id][0] != "passed":
            ran[a.exercise.id] = ("not attempted", f"{heading(a.exercise)}not attempted yet")
    again = [id for id in begun[1:] if ran[id][0] != "passed"]  # nothing came before the first
    if again:
        say(f"again, each by itself: {', '.join(again)}")
    with ThreadPoolExecutor(2) as pool:
        for states_of_one in pool.map(lambda id: one({id: given[id]}), again):
            ran |= states_of_one
    return ran | states


# ---- one notebook


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def grade(number: str, notebook: Path, timeout: float, say=lambda text: None) -> dict:
    """Grade a notebook: the report, a dict for JSON. UserError for a file that is no notebook of this lesson."""
    cells = read_cells(notebook)
    canonical, source = exercises.unsolved(number)
    found, ignored = answers(number, cells, canonical, relative(notebook))
    states = judge(number, canonical, found, timeout, say)
    rows = []
    for answer in found:
        e, (state, message) = answer.exercise, states[answer.exercise.id]
        points = e.points if state == "passed" else 0
        row = dict(id=e.id, title=e.title, points=points, of=e.points, state=state, message=message, notes=answer.notes)
        rows.append(row | {"answer_sha256": digest(answer.source or "")})
    lesson = sys.modules[checks.exercises(number)[0].check.__module__]
    modules = [Path(file) for file in (checks.__file__, lesson.__file__, __file__)]
    packages = ("torch", "numpy", "nbval", "pytest", "ipykernel")
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
    return {
        "lesson": number,
        "notebook": notebook.name,
        "notebook_sha256": hashlib.sha256(notebook.read_bytes()).hexdigest(),
        "exercises": rows,
        "points": sum(r["points"] for r in rows),
        "of": sum(r["of"] for r in rows),
        "ignored": ignored,
        "source": relative(source),
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "checks_sha256": digest("".join(p.read_text(encoding="utf-8") for p in modules)),
        "versions": versions,
        "graded": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "note": NOTE,
    }


def table(report: dict) -> str:
    """The report for people."""
    rows = report["exercises"]
    title, state = (max(len(r[key]) for r in rows) for key in ("title", "state"))
    lines = [f"lesson {report['lesson']}, {report['notebook']}"]
    for r in rows:
        text = r["message"].removeprefix(f"[{r['id']}] {r['title']} - ")
        line = f"{r['id']:5} {r['title']:{title}}  {r['points']:2} of {r['of']:2}  {r['state']:{state}}  {text}"
        lines.append(line.rstrip())
        lines += [f"      {note}" for note in r["notes"]]
    lines += [f"ignored: {text}" for text in report["ignored"][:10]]
    lines += [f"ignored: {len(report['ignored']) - 10} more cells"] * (len(report["ignored"]) > 10)
    return "\n".join([*lines, f"total {report['points']} of {report['of']} points"])


# ---- a folder of notebooks


def no_formula(value):
    """A value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def grade_folder(number: str, folder: Path, target: Path, timeout: float) -> None:
    """Grade every notebook in a folder and below: one row each in a CSV, which is written anew after each, and a report
    each beside it."""
    if not folder.is_dir():
        raise UserError(f"--folder {folder} is not a folder")
    files = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not files:
        raise UserError(f"--folder {folder} holds no notebook (*.ipynb)")
    found, rows = checks.exercises(number), []
    for n, path in enumerate(files, 1):
        name = str(path.relative_to(folder))
        try:
            report = grade(number, path, timeout)
            write_json(target.with_suffix("") / (re.sub(r"[^\w.-]", "_", name) + ".json"), report)
            total, points = report["points"], [r["points"] for r in report["exercises"]]
            message = "; ".join(r["message"] for r in report["exercises"] if r["message"])
        except UserError as e:
            total, points, message = 0, [0] * len(found), f"not graded: {e}"
        except OSError as e:
            total, points, message = 0, [0] * len(found), f"not graded: the file cannot be read ({e.strerror})"
        rows.append([name, *points, total, message])
        why = f"  {message}" if message.startswith("not graded") else ""
        print(f"{n} of {len(files)}  {name}  {total} of {sum(e.points for e in found)}{why}", flush=True)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["file", *(e.id for e in found), "total", "message"])
        writer.writerows([[no_formula(x) for x in row] for row in rows])
        with atomic_file(target) as f:
            f.write(out.getvalue())
    print(f"marks: {target}; reports: {target.with_suffix('')}{os.sep}")


# ---- the command line


@dataclass
class Grade:
    """Grade the exercises of a lesson: your copy in work/, another notebook, or a folder of them.

    python -m gpt2course.course.grade 05
    """

    lesson: tyro.conf.Positional[str]  # such as 05
    notebook: tyro.conf.Positional[str] = ""  # default: your copy, work/05_muon.ipynb
    report: str = ""  # where the report goes, as JSON; default: work/05_muon.grade.json
    timeout: float = 60.0  # seconds for a cell
    folder: str = ""  # grade every notebook in this folder and below it
    csv: str = ""  # with --folder: where the marks go; default: marks.csv


def main(args: Grade) -> None:
    number = exercises.lesson(args.lesson)
    if not 1 <= args.timeout <= 3600:
        raise UserError(f"--timeout {args.timeout:g} is not allowed; seconds for a cell, from 1 to 3600")
    if args.folder:
        if args.notebook or args.report:
            raise UserError("--folder grades all notebooks of a folder; leave out the notebook and --report")
        grade_folder(number, Path(args.folder), Path(args.csv or "marks.csv"), args.timeout)
        return
    if args.csv:
        raise UserError("--csv goes with --folder")
    notebook = Path(args.notebook) if args.notebook else exercises.file_of("work", number)
    if not args.notebook and not notebook.exists():
        raise UserError(f"{relative(notebook)} does not exist; begin with: make start EX={number}")
    report = grade(number, notebook, args.timeout, say=lambda text: print(f"... {text}", file=sys.stderr, flush=True))
    beside = exercises.file_of("work", number).parent / f"{notebook.stem}.grade.json"
    target = Path(args.report) if args.report else beside
    write_json(target, report)
    print(table(report))
    print(f"report: {relative(target)}")
    if report["points"] < report["of"]:
        sys.exit(1)


if __name__ == "__main__":
    command(main)
