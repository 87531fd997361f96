"""The four rooms: imports run one way, no circle, small files, and one reading list in three places."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gpt2course"
FILES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
# A room may import itself, the core, and what stands here.
ALLOWED = {"core": set(), "fast": set(), "ops": {"fast"}, "course": {"fast"}}
# Exceptions, each with its reason.
EXCEPTIONS = {
    "train": {"fast"},  # chooses kernels, fp8
    "load": {"fast"},  # chooses kernels
    "ops.runbook": {"course"},  # course.plots draws the stages' figures
}
# Imports of the package inside a function: (file, what), each with its reason.
INSIDE = {("course.grade", "gpt2course.course")}  # the source of this function runs in the learner's kernel
# optional libraries, or heavy ones that most commands do without; of a platform; of IPython
LAZY = {"tyro", "readline", "fcntl", "triton", "transformers", "tokenizers", "flash_attn", "flash_attn_interface", "kernels", "IPython", "matplotlib", "nbclient", "nbformat", "jupytext", "lzma"}
# No room may grow beyond this. The aims were 4,400, 750, 1,500 and 1,300 lines with six lessons and without a learner's own pieces;
# LOG.md of 2026-11-29 says what stands above them. In the course room are a simulator of messages, the real ranks and the budget
# game of lessons 09 and 11 (350 lines), and a learner's pieces (700).
LINES = {"core": 5300, "fast": 840, "ops": 1845, "course": 2815}
WHOLE = 17_700  # with fifteen lessons: their checks and figures are about 7,000


def room(name: str) -> str:
    return name.split(".")[0] if name.split(".")[0] in ALLOWED else "core"


def imports(name: str) -> list[tuple[str, bool]]:
    """(module of the package or top-level library that a file imports, whether inside a function)."""
    tree, found = ast.parse(FILES[name].read_text()), []
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) for n in ast.walk(f) if n is not f}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            names = [f"{node.module}.{a.name}" if f"{node.module}.{a.name}".removeprefix("gpt2course.") in FILES else node.module for a in node.names]
        else:
            continue
        found += [(n, id(node) in inside) for n in names]
    return found


GRAPH = {name: {n.removeprefix("gpt2course.") for n, _ in imports(name) if n.startswith("gpt2course.")} for name in FILES}


def lines(name: str) -> int:
    return FILES[name].read_text().count("\n")


def test_imports_run_one_way():
    wrong = []
    for name, targets in GRAPH.items():
        allowed = {"core", room(name)} | ALLOWED[room(name)] | EXCEPTIONS.get(name, set())
        wrong += [f"{name} imports {t}" for t in targets if room(t) not in allowed]
    assert wrong == []


def test_there_is_no_circle():
    graphlib.TopologicalSorter(GRAPH).prepare()  # CycleError names the modules of a circle


def test_no_import_of_the_package_hides_in_a_function():
    hidden = {(name, n) for name in FILES for n, inside in imports(name) if inside and n.startswith("gpt2course")}
    assert hidden == INSIDE
    lazy = {(name, n.split(".")[0]) for name in FILES for n, inside in imports(name) if inside and not n.startswith("gpt2course") and name != "course.grade"}
    assert {(name, n) for name, n in lazy if n not in LAZY} == {("fast.kernels", "torch")}  # parts of torch that not every version has


def test_only_runbooks_launch_and_tools_import_ops():
    for path in [*ROOT.glob("lessons/*.py"), *ROOT.glob("solutions/*.py")]:
        code = [line for line in path.read_text().splitlines() if not line.startswith("#")]  # a text may name a command
        assert not [line for line in code if "gpt2course.ops" in line], path.name


def test_files_are_small():
    assert {name: lines(name) for name in FILES if room(name) == "core" and lines(name) > 450} == {}
    core = [name for name in FILES if room(name) == "core"]
    assert len(core) <= 22, core
    sizes = {r: sum(lines(n) for n in FILES if room(n) == r and not n.startswith(("course.checks", "course.figures"))) for r in ALLOWED}
    assert {r: n for r, n in sizes.items() if n > LINES[r]} == {}
    assert sum(map(lines, FILES)) <= WHOLE


@pytest.mark.parametrize("name", [n for n in FILES if not n.endswith("__init__")])
def test_functions_are_short(name):
    tree = ast.parse(FILES[name].read_text())
    long = {f.name: f.end_lineno - f.lineno + 1 for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert {f: n for f, n in long.items() if n > 62} == {}  # 60, and a decorator's worth


PAGE = ast.get_docstring(ast.parse(FILES["__init__"].read_text()), clean=False)
READING_LIST = re.findall(r"^ {4}(\w+)\.py ", PAGE, re.M)  # the files that the docstring of the package lists, in its order


def test_the_reading_list_is_every_core_file_in_the_docstring_and_the_readme():
    core = {name for name in FILES if room(name) == "core"} - {"__init__"}
    assert set(READING_LIST) == core and len(READING_LIST) == len(core)
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- map -->(.*?)<!-- end of map -->", readme, re.S)[1]
    assert re.findall(r"gpt2course/(\w+)\.py", block) == READING_LIST


def test_the_first_line_of_a_core_file_names_its_lesson_as_the_reading_list_does():
    for name in READING_LIST:
        first = ast.get_docstring(ast.parse(FILES[name].read_text())).split("\n\n")[0].replace("\n", " ")
        listed = re.search(rf"^ {{4}}{name}\.py +((?:\d\d ?)*)", PAGE, re.M)[1].split()
        assert set(re.findall(r"\b(\d\d)\b", first)) == set(listed), f"{name}: {first!r} and the reading list's {listed}"


def test_lessons_explain_files_of_the_list():
    """Every file that a lesson links in the package exists, and each lesson's core files have the lesson in the list."""
    for path in sorted(ROOT.glob("lessons/*.ipynb")):
        linked = re.findall(r"\.\./gpt2course/([\w/]+)\.py", path.read_text())
        assert linked and all((PACKAGE / f"{n}.py").exists() for n in linked), path.name
        number = path.name[:2]
        listed = [n for n in READING_LIST if re.search(rf"^ {{4}}{n}\.py +(\d\d )*{number}\b", PAGE, re.M)]
        assert set(listed) <= set(linked), f"{path.name} does not link {set(listed) - set(linked)}"
