"""Build the lessons: run lessons/NN_topic.py (jupytext py:percent, the source) and keep the outputs in NN_topic.ipynb.

A cell with the tag `hole` has a solution between the markers of an exercise. The reader gets the stub, and after the
next code cell, which checks it (`lab.hole`), the folded solution. Every notebook ends with a footer: its new words, the
files of the package that it explains, the lessons before and after, and how to run it on a hosted machine.

    python tools/lessons.py            # every lesson whose source has changed since its notebook was built
    python tools/lessons.py 03 05      # these lessons, changed or not
    python tools/lessons.py --check    # build nothing, only list the notebooks that differ from their source

Cells get stable ids, so that a new notebook differs from the old one only where an output differs. The same command
makes GLOSSARY.md (from glossary.yaml), PATH.md (what each lesson gives to the next) and the table of the course in
README.md (from course.yaml and the notebooks).
"""

import base64
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import gpt2course  # noqa: E402
from gpt2course.course.build import METADATA, execute, solved, stub, text_of  # noqa: E402
from gpt2course.course.checks import LESSONS as TOPICS  # noqa: E402
from gpt2course.course.checks import exercises  # noqa: E402
from gpt2course.course.pieces import PIECES  # noqa: E402
from gpt2course.files import atomic_file  # noqa: E402

LESSONS, FIGURES = ROOT / "lessons", ROOT / "results" / "figures"


def source(path: Path, fill: bool = False) -> nbformat.NotebookNode:
    """The notebook of a source, without outputs; fill: with the solutions of its holes, as a reader may leave it."""
    book, cells, open_hole = jupytext.read(path), [], None
    for cell in book.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        if "hole" in cell.metadata.get("tags", ()):
            open_hole = solved(cell.source)
            cell.source = open_hole if fill else stub(cell.source)
            cells.append(cell)
            continue
        cells.append(cell)
        if open_hole and cell.cell_type == "code":
            fold = f"<details><summary>A solution</summary>\n\n```python\n{open_hole}\n```\n</details>"
            cells.append(nbformat.v4.new_markdown_cell(fold))
            open_hole = None
    book.cells = [*cells, nbformat.v4.new_markdown_cell(footer(path))]
    book.metadata = METADATA
    for n, cell in enumerate(book.cells):
        cell.id = f"lesson-{path.name[:2]}-{n:03}"
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def footer(path: Path) -> str:
    """The end of every lesson."""
    number, names = path.name[:2], sorted(f"{n}_{topic}" for n, topic in TOPICS.items())
    names = [n for n in names if n == path.stem or (LESSONS / f"{n}.ipynb").exists()]
    course = yaml.safe_load((LESSONS / "course.yaml").read_text(encoding="utf-8"))
    words = yaml.safe_load((LESSONS / "glossary.yaml").read_text(encoding="utf-8")).get(number, {})
    new = "\n".join(f"- **{word}**: {text}" for word, text in words.items())
    folds = [f"<details><summary>New words of this lesson</summary>\n\n{new}\n</details>"] if words else []
    at, links = names.index(path.stem), []
    for what, n in (("Before", at - 1), ("Next", at + 1)):
        if 0 <= n < len(names):
            links.append(f"{what}: [{names[n][:2]} {course[names[n][:2]]['title']}]({names[n]}.ipynb)")
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    site = f"https://colab.research.google.com/github/gpt2course/gpt2course/blob/main/lessons/{path.stem}.ipynb"
    install = '!git clone -q https://github.com/gpt2course/gpt2course course && pip install -q -e "course[course]"'
    folds.append(
        f"<details><summary>On a hosted machine</summary>\n\n[![Open in Colab]({badge})]({site})\n\n"
        "Run this in a new cell first, then restart the kernel:\n\n```python\n"
        f"{install}\n```\n</details>"
    )
    listed = re.findall(rf"(?m)^ {{4}}(\w+)\.py +(?:\d\d )*{number}\b", gpt2course.__doc__)
    files = "In the package: " + ", ".join(f"[{name}.py](../gpt2course/{name}.py)" for name in listed)
    last = ". ".join([*[files] * bool(listed), *links, "All words: [GLOSSARY.md](GLOSSARY.md)"])
    return "\n\n".join([*folds, last])


def current(path: Path) -> bool:
    """Whether the notebook of a source agrees with it, and every code cell was executed."""
    notebook = path.with_suffix(".ipynb")
    if not notebook.exists():
        return False
    book = nbformat.read(notebook, as_version=4)
    ran = all(c.execution_count for c in book.cells if c.cell_type == "code" and c.source)
    parts = lambda book: [(c.cell_type, c.id, c.source, tuple(c.metadata.get("tags", ()))) for c in book.cells]
    return ran and parts(book) == parts(source(path))


def build(path: Path) -> None:
    book, began = source(path), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # a reader's first visit: nothing is kept or predicted yet
        os.environ["GPT2COURSE_WORK"] = f"{folder}/work"
        text = execute(book, path.parent)
    with atomic_file(path.with_suffix(".ipynb")) as f:
        f.write(text)
    took = time.perf_counter() - began
    print(f"{path.stem}: {len(book.cells)} cells, {len(text) / 1e3:.0f} kB, {took:.0f} s", flush=True)


def refoot(path: Path) -> None:
    """The footer of a built notebook as it should be now: another lesson's arrival needs no new run."""
    notebook = path.with_suffix(".ipynb")
    if notebook.exists() and path.name[:2] in TOPICS:
        book = nbformat.read(notebook, as_version=4)
        if book.cells[-1].source != (foot := source(path).cells[-1]).source and book.cells[-1].id == foot.id:
            book.cells[-1].source = foot.source
            notebook.write_text(text_of(book), encoding="utf-8")


def glossary() -> str:
    """GLOSSARY.md: the words of glossary.yaml in alphabetical order, each with a link to its lesson."""
    lessons = yaml.safe_load((LESSONS / "glossary.yaml").read_text(encoding="utf-8"))
    words = [(word, text, name) for name, known in lessons.items() if name in TOPICS for word, text in known.items()]
    words.sort(key=lambda entry: entry[0].lower())
    lines = [f"- **{word}** ([{lesson}]({lesson}_{TOPICS[lesson]}.ipynb)): {text}" for word, text, lesson in words]
    what = "The words of the course, with the lesson that brings them in."
    made = "Made from glossary.yaml by `python tools/lessons.py`."
    return "\n".join(["# Glossary", "", f"{what} {made}", "", *lines, ""])


def path_page() -> str:
    """PATH.md: what each lesson asks, takes from earlier ones, and gives to later ones, read from the sources."""
    course = yaml.safe_load((LESSONS / "course.yaml").read_text(encoding="utf-8"))
    lines = ["| | the question | pieces it uses | pieces it gives | recorded runs it reads |", "|---|---|---|---|---|"]
    for number in sorted(TOPICS):
        name = f"{number}_{TOPICS[number]}"
        text = (LESSONS / f"{name}.py").read_text(encoding="utf-8")
        own = re.findall(r'lab\.keep\("(\w+)"', text)
        asked = {p: piece.exercise for p, piece in PIECES.items() if piece.exercise.startswith(f"{int(number)}.")}
        gives = [*own, *(f"{p} (exercise {exercise})" for p, exercise in asked.items() if p not in own)]
        trained = re.findall(r'"(\w+)"', " ".join(re.findall(r"lab\.train_with\(([^)]*)", text)))
        used = [*re.findall(r'lab\.mine\("(\w+)"', text), *(p for p in trained if p in PIECES)]
        reads = re.findall(r'lab\.recorded\("([\w-]+)"', text) + re.findall(r'RESULTS.*_(\w+)["/]', text)
        reads += ["the ladder"] * ("lab.ladder(" in text)
        cells = [", ".join(dict.fromkeys(x)) for x in ([p for p in used if p not in own], gives, reads)]
        lines.append(f"| [{number}]({name}.ipynb) | {course[number]['question']} | {' | '.join(cells)} |")
    what = "A piece is a function of yours for later lessons; `make speedrun MINE=1` trains with those of a run."
    made = "Made from the lessons by `python tools/lessons.py`."
    return "\n".join(["# What each lesson gives to the next", "", f"{what} {made}", "", *lines, ""])


def pictures(book) -> list[tuple[str, bytes]]:
    """(alt text, PNG) of every figure in a notebook, in order."""
    found = []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            for alt, data in re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]+)"', html):
                found.append((alt, base64.b64decode(data)))
    return found


def table() -> tuple[str, dict[Path, bytes]]:
    """The table of the course for README.md, and the picture files that it shows."""
    lines, files = ["| | lesson | what you build | minutes | |", "|---|---|---|---|---|"], {}
    for number, entry in yaml.safe_load((LESSONS / "course.yaml").read_text(encoding="utf-8")).items():
        name = f"{number}_{TOPICS.get(number)}"
        if not (LESSONS / f"{name}.ipynb").exists():
            lines.append(f"| {number} | {entry['title']} | {entry['builds']} | to come | |")
            continue
        book = nbformat.read(LESSONS / f"{name}.ipynb", as_version=4)
        reading = re.search(r"(\d+) minutes", book.cells[0].source)[1]
        minutes = f"{reading} + {sum(e.minutes for e in exercises(number))}"
        alt, data = pictures(book)[entry["picture"] - 1]
        files[FIGURES / f"lesson_{number}.png"] = data
        short = alt.split(". ")[0].split(": ")[0]
        picture = f'<img src="results/figures/lesson_{number}.png" width="220" alt="{short}">'
        title = f"[{entry['title']}](lessons/{name}.ipynb)"
        lines.append(f"| {number} | {title} | {entry['builds']} | {minutes} | {picture} |")
    return "\n".join(lines), files


def with_table(text: str) -> str:
    """README.md with the table of the course as it should be."""
    before, _, rest = text.partition("<!-- course -->")
    _, _, after = rest.partition("<!-- end of course -->")
    return f"{before}<!-- course -->\n{table()[0]}\n<!-- end of course -->{after}"


def stale(sources: list[Path]) -> list[str]:
    """The generated files that differ from their sources."""
    found = [p.with_suffix(".ipynb").name for p in sources if not current(p)]
    for page, text in ((LESSONS / "GLOSSARY.md", glossary()), (LESSONS / "PATH.md", path_page())):
        found += [page.name] * (not page.exists() or page.read_text(encoding="utf-8") != text)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found += ["README.md (the table of the course)"] * (readme != with_table(readme))
    return found + [p.name for p, data in table()[1].items() if not p.exists() or p.read_bytes() != data]


def main(names: list[str]) -> None:
    sources = sorted(LESSONS.glob("[0-9][0-9]_*.py"))
    if names == ["--check"]:
        if old := stale(sources):
            raise SystemExit(f"not as their sources: {', '.join(old)}; run: python tools/lessons.py")
        return
    for path in sources:
        if path.name[:2] in names if names else not current(path):
            build(path)
    for path in sources:
        refoot(path)
    (LESSONS / "GLOSSARY.md").write_text(glossary(), encoding="utf-8")
    (LESSONS / "PATH.md").write_text(path_page(), encoding="utf-8")
    (ROOT / "README.md").write_text(with_table((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
    for path, data in table()[1].items():
        path.write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1:])
