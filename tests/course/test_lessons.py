"""Every lesson is what it promises: its parts, its length, its pictures with words, its source, and every cell runs."""

import html
import importlib.util
import os
import re
import statistics
import subprocess
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest
import yaml

from gpt2course.course.build import ROOT, execute
from gpt2course.course.checks import LESSONS as TOPICS
from gpt2course.course.checks import exercises

NAMES = [f"{number}_{topic}" for number, topic in sorted(TOPICS.items())]
RUNGS = ("03_gpt", "05_muon", "06_windows", "07_lambdas", "08_value_embeddings")  # lessons that add a rung to the ladder
EXCEPTIONS = {"lab.keep(": ("00_story", "10_core", "14_speedrun")}  # parts that a lesson need not have


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


def words_of(prose: str) -> int:
    """Words that a reader reads: without what is folded away, links' targets and markup."""
    prose = re.sub(r"<details>.*?</details>", "", prose, flags=re.S)
    return len(re.sub(r"!?\[([^]]*)\]\([^)]*\)|<[^>]+>", r"\1", prose).split())


def test_size(lesson):
    """25 to 45 code cells, most of them short and none too wide; 1,200 to 1,800 words; a file that opens at once."""
    name, book, code, prose = lesson
    lines = [len(c.source.splitlines()) for c in code]
    assert 25 <= len(code) <= 45 and statistics.median(lines) <= 5 and max(lines) <= 30, (len(code), statistics.median(lines), max(lines))
    assert max(len(line) for c in code for line in c.source.splitlines()) <= 88
    assert 1200 <= words_of(prose) <= 1800, words_of(prose)
    assert (ROOT / "lessons" / f"{name}.ipynb").stat().st_size < 1_000_000


def test_parts(lesson):
    """What every lesson has: a first screen with something to run, a prediction, holes, the learner's code in a model, a verdict."""
    name, book, code, prose = lesson
    number, topic = name.split("_", 1)
    first = book.cells[0].source
    minutes = sum(e.minutes for e in exercises(number))
    assert re.match(rf"# {number} ", first) and re.search(rf"\d+ minutes, and {minutes} for the exercises", first), f"the exercises take {minutes} minutes"
    assert [c.cell_type for c in book.cells[:3]].count("code") >= 1, "something to run on the first screen"
    assert "import" not in "".join(re.findall(r"(?m)^from gpt2course.course.*$", "".join(c.source for c in book.cells[:2])))
    text = "\n".join(c.source for c in code)
    for part in ("lab.hole(", "lab.predict(", "lab.result(", "lab.verdict(", "lab.keep("):
        assert part in text or name in EXCEPTIONS.get(part, ()), f"no {part}...)"
    holes = [c for c in code if "hole" in c.metadata.get("tags", [])]
    assert 2 <= len(holes) <= 4 and all("raise NotImplementedError" in c.source for c in holes)
    assert prose.count("<summary>A solution</summary>") == len(holes)
    at = -1
    for what, pattern in {"questions": r"^## .*[Qq]uestions", "takeaway": r"^> \*\*Takeaway", "exercises": rf"exercises/{name}\.ipynb", "further reading": r"^## .*[Rr]eading"}.items():
        found = [m.start() for m in re.finditer(pattern, prose, re.M) if m.start() > at]
        assert found, f"{what} is missing or comes too early"
        at = found[0]
    assert 3 <= prose.count("<details>") == prose.count("</details>")
    entries = yaml.safe_load((ROOT / "lessons" / "glossary.yaml").read_text())[number]
    assert len(entries) <= 6, f"{len(entries)} new words"
    shown = outputs(code)
    assert ("The ladder, validation bits per byte" in shown) == (name in RUNGS), "the ladder stands in lessons that add a rung"
    compared = re.findall(r"equal up to rounding: largest difference \S+|equal, number for number", shown)
    assert compared, "what is built by hand equals the package"


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


@pytest.mark.slow
def test_the_command_for_a_hosted_machine_installs_the_course(tmp_path):
    """As a hosted notebook runs it, without the package. The public address leads to this checkout."""
    venv.create(tmp_path / "venv", symlinks=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # all packages but this one, whose own .pth is not read from there
    python = tmp_path / "venv" / "bin" / "python"
    (tmp_path / "pip").write_text(f'#!/bin/sh\nexec {python} -m pip "$@" --no-deps --no-build-isolation --disable-pip-version-check\n')
    (tmp_path / "pip").chmod(0o755)
    ends = [nbformat.read(ROOT / "lessons" / f"{n}.ipynb", as_version=4).cells[-1].source for n in NAMES]
    commands = {re.search(r"(?m)^!(git clone .*)$", end)[1] for end in ends}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
           "GIT_CONFIG_VALUE_0": "https://github.com/gpt2course/gpt2course", "GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "*"}  # fmt: skip
    (tmp_path / "content").mkdir()
    (command,) = commands
    subprocess.run(["sh", "-c", command], cwd=tmp_path / "content", env=env, check=True, capture_output=True)
    code = "import gpt2course, os; print(os.path.dirname(gpt2course.__file__))"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).resolve() == tmp_path.resolve() / "content" / "course" / "gpt2course"


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
def test_every_cell_runs_with_its_holes_filled(tool, tmp_path, name):
    """As a reader leaves it who has written what the lesson asks for, with one thread: no cell fails, every hole passes."""
    book = tool.source(ROOT / "lessons" / f"{name}.py", fill=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"} | {"OMP_NUM_THREADS": "1", "GPT2COURSE_WORK": str(tmp_path / "work")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        execute(book, ROOT / "lessons")
    shown = outputs(c for c in book.cells if c.cell_type == "code")
    assert shown.count(": yours passes\n") == sum("hole" in c.metadata.get("tags", []) for c in book.cells)
    assert "stands in" not in shown
