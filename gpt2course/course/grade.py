"""The grader: run a learner's notebook with the course's own checks in it, and count the checks that pass.

`pytest --nbval-lax work/05_muon.ipynb` is not a safe grader: it compares each cell with the output that the learner
saved, and the learner's tags can skip cells. So the grader makes its own notebook and runs nbval on it:

    the course's setup, and the stub of every answer, so that nothing else can replace a missing answer
    for each exercise: the learner's cells up to the check, the course's check, and a guard
    where it did not pass and a later answer calls it: the course's answer

The guard compares the code that the checks use with its state before the first answer. Tampering becomes evident, but
not impossible: an answer is a program with the rights of the person who grades it.

One kernel judges all exercises. If a cell hangs, ends the kernel or tampers with the checks, the run is repeated
without the cells of that exercise, so that only that exercise loses its points.
"""

import csv
import datetime
import hashlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat
import torch
import tyro

import gpt2course
from gpt2course.course import answers, build, checks, mine
from gpt2course.course.answers import Part, one_line, read, renamed, same, split
from gpt2course.course.build import CHECKED, METADATA, Cell, relative
from gpt2course.files import UserError, atomic_file, command, write_json

CODE = Path(gpt2course.__file__).resolve().parent.parent  # the kernel imports the same package as the grader
NOTE = "An answer runs with the rights of the person who grades it: tampering becomes evident, but not impossible."


# ---- the notebook that is run


def neutral(source: str) -> str:
    """A cell without the comments that nbval obeys, such as `# NBVAL_SKIP`."""
    return re.sub(r"(?m)^(\s*#[#\s]*)(NBVAL_|PYTEST_VALIDATE_)", r"\1no \2", source)


def _guard(lesson, before=None):
    """In the kernel: what the checks rely on, {name: object}. With `before`: RuntimeError if some of it changed."""
    import builtins
    import hashlib
    import math
    import sys

    import torch

    from gpt2course.course import checks

    own, now = sys.modules[checks.exercises(lesson)[0].check.__module__], {}
    ours = lambda x: getattr(x, "__module__", x.__name__).startswith("gpt2course")

    def note(name, space, keys):
        for key in keys:
            value = now[f"{name}.{key}"] = vars(space).get(key)
            if type(value).__name__ == "function":
                now[f"code of {name}.{key}"], now[f"defaults of {name}.{key}"] = value.__code__, value.__defaults__
            elif isinstance(value, type) and ours(value) and not name.endswith(f".{key}"):
                note(f"{name}.{key}", value, list(vars(value)))

    for module in (checks, own, *(m for m in vars(own).values() if isinstance(m, type(sys)) and ours(m))):
        name = module.__name__
        note(name, module, [key for key in vars(module) if not key.startswith("__")])
        now[f"sys.modules {name}"] = sys.modules.get(name)
        with builtins.open(module.__file__, "rb") as f:
            now[f"the file of {name}"] = sys.intern(hashlib.sha256(f.read()).hexdigest())
    for e in checks.exercises(lesson):
        now[f"exercise {e.id}"] = e.check
    compare = "allclose isclose equal eq all any as_tensor tensor"
    note("torch", torch, compare.split())
    note("torch.Tensor", torch.Tensor, [*vars(torch.Tensor), *dir(torch._C.TensorBase)])
    note("math", math, vars(math))
    note("builtins", builtins, set(vars(builtins)) - {"_", "input", "display"})  # the kernel sets these for each cell
    shell = builtins.get_ipython()
    now["how the kernel rewrites a cell"] = len(shell.ast_transformers) + len(shell.input_transformers_post)
    now["how the kernel runs a cell"] = sum(name in vars(shell) for name in ("run_cell", "run_code", "transform_cell"))
    for key, value in (before or {}).items():
        if now.get(key) is not value:
            raise RuntimeError(f"{key} was changed")
    return now


def _limit():
    """In the kernel: stop a cell that prints without end, or that calls exit(), which would end the kernel later."""
    import builtins
    import sys

    def begin(*_):  # IPython gives a stream a new `write` for each cell
        left = [1_000_000]
        for stream in (sys.stdout, sys.stderr):

            def write(text, real=stream.write):
                left[0] -= len(text)
                if left[0] < 0:
                    raise RuntimeError("more than 1,000,000 characters were printed")
                return real(text)

            stream.write = write

    shell = builtins.get_ipython()
    shell.events.register("pre_run_cell", begin)
    shell.ask_exit = sys.exit


def assemble(number: str, canonical: list[Cell], parts: list[Part], without: set[str], judge: list[Part], passed=()):
    """(notebook, [(exercise or "", kind, the learner's cell or None) of each cell]).

    without: owners whose cells do not run. judge: the parts whose checks run. passed: exercises that passed before.
    """
    solved = {c.exercise: build.solved(c.source) for c in build.read_source(number) if c.kind == "answer"}
    v4, cells, places = nbformat.v4, [], []
    apart = lambda source: f"import builtins\nbuiltins.exec({source!r}, {{}})"  # independent of names in the notebook
    guard, kept = f"{inspect.getsource(_guard)}import builtins\n", "builtins.get_ipython()._gpt2course_before"
    begin = apart(f"{guard}{kept} = _guard({number!r})\n{inspect.getsource(_limit)}_limit()")
    end = apart(f"{guard}_guard({number!r}, {kept})\nprint('intact')")
    tests = {c.exercise: c.source for c in canonical if c.kind == "check"}

    def add(source, id="", kind="ours", code=None, expected=None):
        cell = v4.new_code_cell(source, id=f"c{len(cells)}", metadata={"tags": [CHECKED]} if expected else {})
        if expected:
            cell.execution_count, cell.outputs = len(cells) + 1, [v4.new_output("stream", name="stdout", text=expected)]
        cells.append(cell)
        places.append((id, kind, code))

    for kind in ("setup", "answer"):
        for cell in canonical:
            if cell.kind == kind:
                add(cell.source)
        if kind == "setup":
            add(begin)
    for part in parts:
        id = part.exercise.id
        for code in part.cells:
            if code.owner not in without:
                add(neutral(code.source), code.owner, "yours", code)
        if part in judge:
            add(tests[id], id, "check", expected=build.passed_line(part.exercise))
            add(end, id, "guard", expected="intact\n")
        if id not in passed and any(other.calls(part) for other in judge):
            passing = "builtins.__import__('sys').modules['gpt2course.course.checks']._passed"
            failed = f"{id!r} not in {passing}" if part in judge else "True"
            add(f"import builtins\nif {failed}:\n    builtins.exec({solved[id]!r}, builtins.globals())")
    book = v4.new_notebook(cells=cells, metadata=METADATA)
    book.nbformat_minor = 5
    return book, places


def run(book, timeout: float) -> dict[int, dict]:
    """Run a notebook with nbval: {cell: {"outcome", "xfail", "problem", "ename", "evalue"}} of the cells that ran."""
    with tempfile.TemporaryDirectory(prefix="gpt2course-grade-") as folder:
        path, lines, log = (Path(folder) / name for name in ("graded.ipynb", "cells.jsonl", "log"))
        path.write_text(build.text_of(book), encoding="utf-8")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
        environment |= {"PYTHONPATH": str(CODE), "PYTHONSAFEPATH": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment |= {"IPYTHONDIR": str(Path(folder) / "ipython")}
        plugins = ["-p", "nbval.plugin", "-p", "gpt2course.course.nbval_report", "-p", "no:cacheprovider"]
        alone = ["--rootdir", folder, "-c", os.devnull, "--noconftest", "-q", "--tb", "no", "--color", "no"]
        nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", str(timeout)]
        arguments = [sys.executable, "-m", "pytest", *plugins, *alone, *nbval, "--cells-report", str(lines), str(path)]
        with open(log, "wb") as out:
            streams = dict(stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            process = subprocess.Popen(arguments, cwd=folder, env=environment, start_new_session=True, **streams)
            try:
                process.wait(120 + (timeout + 20) * len(book.cells))
            except subprocess.TimeoutExpired:
                pass
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        judged = read_judged(lines)
        if not judged:
            end = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-400:]
            raise UserError(f"nbval did not run: {end}")
        return judged


def read_judged(lines: Path) -> dict[int, dict]:
    """What nbval_report wrote about each cell. An answer can write to the file too: a cell is judged only once."""
    judged = {}
    for line in lines.read_text(encoding="utf-8", errors="replace").splitlines() if lines.exists() else []:
        try:
            found = json.loads(line)
            row = judged.setdefault(found.pop("cell"), {})
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
        if "outcome" in found and "outcome" in row:
            found["outcome"] = "judged twice"
        row.update(found)
    return judged


# ---- verdicts


def explicit_pass(found: dict | None) -> bool:
    """Whether nbval reported a cell as passed: not as failed, skipped, expected to fail, judged twice or not at all."""
    return bool(found) and "problem" not in found and found.get("outcome") == "passed" and found.get("xfail") is False


def spoilt(found: dict | None, kind: str, what: str, timeout: float) -> tuple[str, str] | None:
    """(state, message) if nothing after this cell means anything; None if the run can go on."""
    problem = found.get("problem") if found else "dead"
    if problem == "timeout":
        more = "does every loop end? (--timeout 300 gives a cell more time)"
        return "hangs", f"{what} took longer than {timeout:g} s and was stopped: {more}"
    if problem == "dead":
        return "kernel died", f"{what} ended the kernel: look for exit, os._exit, or far too much memory"
    if kind == "guard" and not explicit_pass(found):
        return "tampered", f"{found.get('evalue') or 'the guard failed'} by this answer; checks need the course's code"
    return None


def verdict(check: dict, error: str, changed: bool, other: str = "") -> tuple[str, str]:
    """(state, message) of an exercise from its check cell, after which the guard passed.

    error: what stopped a cell of the answer. changed: whether the answer is more than the stub. other: another name of
    its function.
    """
    if explicit_pass(check):
        return "passed", ""
    message = check.get("evalue", "")
    if "problem" not in check:
        return "not judged", f"the check was {check.get('outcome')}, not passed"
    if check["problem"] == "differs":
        what = "the check passed, but your function showed something beside its line"
        return "printed", f"{what}: remove display(), logging or plt.show() from it"
    empty, wrong = message.endswith("not attempted yet"), check["ename"] == "Wrong"
    if error and (empty or "NameError" in message or not wrong):
        return "stopped", error
    if empty and not changed:
        return "not attempted", message
    if empty:
        what = f"your function is called {other}" if other else "its function is still the empty one"
        return "wrong", f"{message} (the cell was changed, but {what})"
    return "wrong", message if wrong else f"the check stopped with {check['ename']}: {message}"


def judge(number: str, canonical, parts: list[Part], timeout: float, say=lambda text: None) -> dict[str, tuple]:
    """{exercise: (state, message)}. Each run ends with the first cell that spoils it; the next run goes without it."""
    states = {p.exercise.id: (p.state, p.message) for p in parts if p.state}
    without = set(states)
    stubs = {c.exercise: c.source for c in canonical if c.kind == "answer"}
    while pending := [p for p in parts if p.exercise.id not in states]:
        passed = {id for id, (state, _) in states.items() if state == "passed"}
        book, places = assemble(number, canonical, parts, without, pending, passed)
        judged, errors = run(book, timeout), {}
        for n, (id, kind, code) in enumerate(places):
            found, what = judged.get(n), f"cell {code.number}" if code else f"the {kind}"
            if kind == "ours" and not explicit_pass(found):
                problem = one_line(" ".join(map(str, (found or {"problem": "the kernel died"}).values())))
                raise UserError(f"the setup of lesson {number} stopped ({problem}); update the course with: make setup")
            if bad := spoilt(found, kind, what, timeout):
                if kind == "yours" and id and not any(code in p.answers for p in parts):  # an experiment, no answer
                    say(f"again, without {what}: {bad[0]}")
                    for part in parts:
                        part.cells = [c for c in part.cells if c is not code]
                    break
                say(f"again, without the cells of {id or 'your setup'}: {bad[0]}")
                states.setdefault(id, bad)
                without.add(id)
                break
            if kind == "yours" and found.get("problem"):
                errors[id] = f"{what} stopped with {found['ename'] or 'an error'}: {found['evalue']}"
            if kind == "check":
                part = next(p for p in parts if p.exercise.id == id)
                changed = any(not same(c.source, stubs[id]) for c in part.answers)
                other = f"{', '.join(renamed(part.answers, stubs[id]))}, the exercise asks for {', '.join(part.names)}"
                ready = verdict(found, errors.get(id, ""), changed, other if renamed(part.answers, stubs[id]) else "")
            if kind == "guard":
                states[id] = ready
    for part in parts:
        state, message = states[part.exercise.id]
        lent = [p for p in parts if part.calls(p) and states[p.exercise.id][0] != "passed"]
        if lent and state in ("passed", "wrong"):
            what = " and ".join(f"{', '.join(part.calls(p))} of {p.exercise.id}" for p in lent)
            states[part.exercise.id] = state, f"{message} (run with the course's {what}, which did not pass)"
    return states


# ---- one notebook


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def grade(number: str, notebook: Path, timeout: float, say=lambda text: None) -> dict:
    """Grade a notebook: the report, a dict for JSON. UserError for a file that is not a notebook of this lesson."""
    canonical = build.unsolved(number)
    parts = split(number, read(notebook), canonical, relative(notebook))
    states, rows = judge(number, canonical, parts, timeout, say), []
    for part in sorted(parts, key=lambda part: int(part.exercise.id.split(".")[1])):
        e, (state, message) = part.exercise, states[part.exercise.id]
        points, head = e.points if state == "passed" else 0, f"[{e.id}] {e.title} - "
        message = one_line(head + message.removeprefix(head).lstrip()) if message else ""
        row = dict(id=e.id, title=e.title, points=points, of=e.points, state=state, message=message)
        rows.append(row | {"answer_sha256": digest(*(c.source.encode() for c in part.answers))})
    lesson = sys.modules[checks.exercises(number)[0].check.__module__]
    source = build.file_of("solutions", number, ".py")
    return {
        "lesson": number,
        "notebook": notebook.name,
        "notebook_sha256": digest(notebook.read_bytes()),
        "exercises": rows,
        "points": sum(r["points"] for r in rows),
        "of": sum(r["of"] for r in rows),
        "source_sha256": digest(source.read_bytes()),
        "checks_sha256": digest(
            *(Path(m.__file__).read_bytes() for m in (checks, lesson, answers, sys.modules[__name__]))
        ),
        "torch": torch.__version__,
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
    return "\n".join([*lines, f"total {report['points']} of {report['of']} points"])


# ---- a folder of notebooks


def grade_folder(number: str, folder: Path, target: Path, timeout: float) -> None:
    """Grade every notebook in a folder and below: a row for each in a CSV, and a report for each beside the CSV."""
    files = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not files:
        raise UserError(f"--folder {folder} has no notebook (*.ipynb)")
    found, rows = checks.exercises(number), []
    no_formula = lambda x: f"'{x}" if isinstance(x, str) and x.startswith(("=", "+", "-", "@")) else x  # spreadsheets
    for n, path in enumerate(files, 1):
        name = str(path.relative_to(folder))
        try:
            report = grade(number, path, timeout)
            file = re.sub(r"[^\w.-]", lambda m: f"%{ord(m[0]):02x}", name) + ".json"  # a file for each name
            write_json(target.with_suffix("") / file, report)
            total, points = report["points"], [r["points"] for r in report["exercises"]]
            message = "; ".join(r["message"] for r in report["exercises"] if r["message"])
        except (UserError, OSError) as e:
            total, points, message = 0, [0] * len(found), f"not graded: {e}"
        rows.append([name, *points, total, message])
        why = f"  {message}" if message.startswith("not graded") else ""
        print(f"{n} of {len(files)}  {name}  {total} of {sum(e.points for e in found)}{why}", flush=True)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["file", *(e.id for e in found), "total", "message"])
        writer.writerows([[no_formula(x) for x in row] for row in rows])
        with atomic_file(target) as f:  # after each notebook, so that nothing is lost if grading is stopped
            f.write(out.getvalue())
    print(f"marks: {target}; reports: {target.with_suffix('')}{os.sep}")


# ---- the command line


@dataclass
class Grade:
    """Grade the exercises of a lesson: your copy in work/, another notebook, or a folder of notebooks.

    python -m gpt2course.course.grade 05
    """

    lesson: tyro.conf.Positional[str]  # such as 05
    notebook: tyro.conf.Positional[str] = ""  # default: your copy, work/05_muon.ipynb
    report: str = ""  # path of the report (JSON); default: beside the notebook, work/05_muon.grade.json
    timeout: float = 60.0  # seconds for a cell
    folder: str = ""  # grade every notebook in this folder and below it
    csv: str = "marks.csv"  # with --folder: path of the table of marks


def main(args: Grade) -> None:
    number = build.lesson(args.lesson)
    if not 1 <= args.timeout <= 3600:
        raise UserError(f"--timeout {args.timeout:g} is not allowed; it must be 1 to 3600 seconds for a cell")
    if args.folder:
        if Path(args.csv).suffix != ".csv":
            raise UserError(f"--csv {args.csv} is not allowed; its name must end in .csv")
        grade_folder(number, Path(args.folder), Path(args.csv), args.timeout)
        return
    notebook = Path(args.notebook) if args.notebook else build.file_of("work", number)
    if not args.notebook and not notebook.exists():
        raise UserError(f"{relative(notebook)} does not exist; begin with: make start EX={number}")
    report = grade(number, notebook, args.timeout, say=lambda text: print(f"... {text}", file=sys.stderr, flush=True))
    target = Path(args.report or notebook.with_suffix(".grade.json"))
    write_json(target, report)
    print(table(report))
    print(f"report: {relative(target)}")
    if not args.notebook:  # your own copy: what passed is kept, and can train a model
        passed = {r["id"] for r in report["exercises"] if r["state"] == "passed"}
        given = [c.source for c in build.unsolved(number) if c.kind == "setup"]
        code = read(notebook)
        parts = split(number, code, build.unsolved(number), notebook.name)
        renamings = [f"{part.names[0]} = {part.called}" for part in parts if part.called]
        for line in mine.keep_passed(passed, [*given, *(c.source for c in code), *renamings]):
            print(line)
    if report["points"] < report["of"]:
        sys.exit(1)


if __name__ == "__main__":
    command(main)
