"""Every lesson is what it promises: its parts, its length, its pictures with words, its source, and every cell runs."""

import html
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import yaml

from gpt2course.course.build import ROOT
from gpt2course.course.checks import LESSONS as TOPICS

NAMES = [f"{number}_{topic}" for number, topic in sorted(TOPICS.items())]


@pytest.fixture(scope="module")
def tool():
    """tools/lessons.py as a module."""
    spec = importlib.util.spec_from_file_location("lessons_tool", ROOT / "tools" / "lessons.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=NAMES)
def lesson(request):
    """(name, notebook, its code cells, its prose)."""
    book = nbformat.read(ROOT / "lessons" / f"{request.param}.ipynb", as_version=4)
    code = [c for c in book.cells if c.cell_type == "code"]
    prose = "\n\n".join(c.source for c in book.cells if c.cell_type == "markdown")
    return request.param, book, code, prose


def outputs(cells) -> str:
    """All text that a reader sees in the outputs."""
    texts = []
    for cell in cells:
        for o in cell.outputs:
            texts += [o.text] if o.output_type == "stream" else [str(v) for v in o.get("data", {}).values()]
    return "\n".join(texts)


def test_what_is_generated_agrees_with_its_sources(tool):
    """Notebooks, glossary, and the table of the course with its pictures."""
    sources = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
    assert [p.stem for p in sources] == NAMES
    assert tool.stale(sources) == [], "run: python tools/lessons.py"


def test_size(lesson):
    """25 to 45 code cells, most of them short; a text that is read in half an hour; a file that opens at once."""
    name, book, code, prose = lesson
    lines = [len(c.source.splitlines()) for c in code]
    words = len(re.sub(r"!?\[([^]]*)\]\([^)]*\)|<[^>]+>", r"\1", prose).split())
    assert 25 <= len(code) <= 45 and statistics.median(lines) <= 7 and max(lines) <= 40, (len(code), statistics.median(lines), max(lines))
    assert 1200 <= words <= 2500, words
    assert (ROOT / "lessons" / f"{name}.ipynb").stat().st_size < 1_000_000


def test_parts(lesson):
    """The elements that every lesson has, in their order."""
    name, book, code, prose = lesson
    number, topic = name.split("_")
    at = -1
    for what, pattern in {
        "title": rf"^# .*{number}", "where we are": r"^## .*[Ww]here (we|you) are", "a question first": r"^## .*([Bb]efore|[Ff]irst)", "at full size": r"^## .*full size",
        "arithmetic": r"^## .*([Nn]apkin|[Aa]rithmetic)", "questions": r"^## .*([Cc]heck|[Qq]uestions)", "takeaway": r"^> \*\*Takeaway", "exercises": rf"exercises/{name}\.ipynb",
        "further reading": r"^## .*[Rr]eading",
    }.items():  # fmt: skip
        found = [m.start() for m in re.finditer(pattern, prose, re.M) if m.start() > at]
        assert found, f"{what} is missing or comes too early"
        at = found[0]
    assert 3 <= prose.count("<details>") == prose.count("</details>")
    assert f"blob/main/lessons/{name}.ipynb" in prose and f"../gpt2course/{'cost' if topic == 'story' else ''}" in prose
    neighbours = [n for n in NAMES if abs(NAMES.index(n) - NAMES.index(name)) == 1]
    assert all(prose.count(f"]({n}.ipynb)") >= 2 for n in neighbours), "links to the lessons before and after, at the top and at the bottom"
    shown = outputs(code)
    assert f"Where we are: lesson {number}" in shown and "The ladder, validation bits per byte" in shown
    assert "lab.experiment(" in "\n".join(c.source for c in code) or "seed" in prose
    compared = re.findall(r"exact: (?:True|False) \| approximate: (True|False) \| maxdiff: \S+", shown)
    assert compared and set(compared) == {"True"}, "what is built by hand equals the package"


def test_no_line_turns_into_a_heading(lesson):
    """Jupyter begins a heading, and ends the link around it, at a line like "#8439"."""
    assert not re.search(r"(?m)^\s*#+\d", lesson[3])


def test_two_prices_are_not_taken_for_a_formula(lesson):
    r"""Jupyter sets what stands between two dollar signs as mathematics; a price in prose is written \$3."""
    for cell in lesson[1].cells:
        if cell.cell_type == "markdown":
            formulas = re.findall(r"(?<!\\)\$([^$]*)(?<!\\)\$", re.sub(r"`[^`]*`", "", cell.source))
            assert not [f for f in formulas if re.match(r"\d[\d,.]* [a-z]", f)], formulas


def test_outputs_are_kept_and_clean(lesson):
    name, book, code, prose = lesson
    counts = [c.execution_count for c in code if c.source]
    assert counts == list(range(1, len(counts) + 1)), "run in one go, from the first cell to the last"
    for cell in code:
        assert all(o.output_type != "error" and o.get("name") != "stderr" for o in cell.outputs)
    pictures = re.findall(r"<img [^>]*>", outputs(code))
    assert len(pictures) >= 3
    for picture in pictures:
        alt = re.search(r'alt="([^"]*)"', picture)
        assert alt and len(html.unescape(alt[1])) > 40, picture[:80]
    assert not re.search(r"/home/|/root/|/tmp/|Traceback|Warning", outputs(code).replace("base64", ""))


def test_links_lead_somewhere(lesson):
    name, book, code, prose = lesson
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose):
        if not target.startswith("http"):
            later = re.fullmatch(r"(\d\d)_\w+\.ipynb", target)
            assert (ROOT / "lessons" / target).exists() or later and later[1] not in TOPICS, target


def test_first_cells_are_the_same():
    first = {nbformat.read(ROOT / "lessons" / f"{n}.ipynb", as_version=4).cells[1].source for n in NAMES}
    assert len(first) == 1 and "git clone" in first.pop()


@pytest.mark.slow
def test_the_first_cell_installs_the_course_where_it_is_missing(tmp_path):
    """As a hosted notebook runs it: without the package, twice in one process, then in a new one. The public address leads to this checkout."""
    venv.create(tmp_path / "venv", symlinks=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # all packages but this one, whose own .pth is not read from there
    python = tmp_path / "venv" / "bin" / "python"
    (tmp_path / "pip").write_text(f'#!/bin/sh\nexec {python} -m pip "$@" --no-deps --no-build-isolation --disable-pip-version-check\n')
    (tmp_path / "pip").chmod(0o755)
    cell = nbformat.read(ROOT / "lessons" / f"{NAMES[0]}.ipynb", as_version=4).cells[1].source
    code, shell_lines = re.subn(r"(?m)^( *)!(.*)$", r"\1import os; assert os.system(r'''\2''') == 0", cell)
    assert shell_lines == 1
    code += "\nimport gpt2course, os\nprint(os.path.dirname(gpt2course.__file__))\n"
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
           "GIT_CONFIG_VALUE_0": "https://github.com/gpt2course/gpt2course", "GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "*"}  # fmt: skip
    (tmp_path / "content").mkdir()
    for script in (code + code, code):  # the second process is the kernel, restarted
        done = subprocess.run([python, "-c", script], cwd=tmp_path / "content", env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert {Path(line).resolve() for line in done.stdout.split()} == {tmp_path.resolve() / "content" / "course" / "gpt2course"}


def test_glossary():
    """Every word is used in the lesson that introduces it, and stands once in the glossary."""
    entries = yaml.safe_load((ROOT / "lessons" / "glossary.yaml").read_text())
    words = [w for found in entries.values() for w in found]
    assert len(words) == len(set(words)) and set(entries) >= set(TOPICS)
    for number, found in ((n, entries[n]) for n in TOPICS):
        book = nbformat.read(ROOT / "lessons" / f"{number}_{TOPICS[number]}.ipynb", as_version=4)
        text = "\n".join(c.source for c in book.cells).lower()
        for word in found:
            for part in word.split(", "):
                assert part.lower() in text, f"lesson {number} never says {part!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(tmp_path, name):
    """pytest --nbval-lax on a lesson, with one thread."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-cell-timeout", "300"]
    command += ["--nbval-kernel-name", "gpt2course", "--junitxml", str(tmp_path / "x.xml"), f"lessons/{name}.ipynb"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    cases = list(ElementTree.parse(tmp_path / "x.xml").iter("testcase"))
    book = nbformat.read(ROOT / "lessons" / f"{name}.ipynb", as_version=4)
    assert len(cases) == sum(c.cell_type == "code" for c in book.cells) and not any(list(case) for case in cases)
