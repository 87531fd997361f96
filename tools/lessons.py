"""Build the lessons: run lessons/NN_topic.py (jupytext py:percent, the source) as a notebook and keep its outputs in NN_topic.ipynb.

    python tools/lessons.py            # every lesson whose source has changed since its notebook was built
    python tools/lessons.py 03 05      # these, whether they have changed or not
    python tools/lessons.py --check    # build nothing, only say which notebooks do not hold their source

Cells get stable names, warnings and progress bars on stderr are dropped, and nothing of the machine stays in the file, so that a
rebuilt notebook differs from the one before only where an output does.
"""

import sys
import time
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from gpt2course.checks import LESSONS as TOPICS  # noqa: E402

LESSONS = ROOT / "lessons"
LIMIT = 300  # seconds for a cell; a lesson takes about one minute


def source(path: Path) -> nbformat.NotebookNode:
    """The notebook of a source, without outputs."""
    book = jupytext.read(path)
    book.metadata = {
        "kernelspec": {"display_name": "gpt2course", "language": "python", "name": "gpt2course"},
        "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
    }
    for n, cell in enumerate(book.cells):
        cell.id = f"lesson-{path.name[:2]}-{n:03}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def parts(book) -> list[tuple]:
    """What of a notebook is source."""
    return [(c.cell_type, c.id, c.source, tuple(c.metadata.get("tags", ()))) for c in book.cells]


def current(path: Path) -> bool:
    """Whether the notebook of a source holds it, with every code cell executed."""
    notebook = path.with_suffix(".ipynb")
    if not notebook.exists():
        return False
    book = nbformat.read(notebook, as_version=4)
    return parts(book) == parts(source(path)) and all(c.execution_count for c in book.cells if c.cell_type == "code" and c.source)


def build(path: Path) -> None:
    book, began = source(path), time.perf_counter()
    NotebookClient(book, timeout=LIMIT, kernel_name="gpt2course", resources={"metadata": {"path": str(path.parent)}}, record_timing=False).execute()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
    nbformat.validate(book)
    text = nbformat.writes(book)
    if str(ROOT) in text or str(Path.home()) in text:
        raise SystemExit(f"{path.name}: an output names a folder of this machine")
    path.with_suffix(".ipynb").write_text(text + "\n")
    print(f"{path.stem}: {len(book.cells)} cells, {len(text) / 1e3:.0f} kB, {time.perf_counter() - began:.0f} s", flush=True)


def glossary() -> str:
    """GLOSSARY.md: the words of glossary.yaml in alphabetical order, each with a link to its lesson."""
    lessons = yaml.safe_load((LESSONS / "glossary.yaml").read_text())
    words = sorted(((word, text, lesson) for lesson, words in lessons.items() for word, text in words.items()), key=lambda entry: entry[0].lower())
    lines = [f"- **{word}** ([{lesson}]({lesson}_{TOPICS[lesson]}.ipynb)): {text}" for word, text, lesson in words]
    return "\n".join(["# Glossary", "", "The words of the course, with the lesson that brings them in. Made from glossary.yaml by `python tools/lessons.py`.", "", *lines, ""])


def main(names: list[str]) -> None:
    sources = sorted(LESSONS.glob("[0-9][0-9]_*.py"))
    wanted = [p for p in sources if (p.name[:2] in names if names and names != ["--check"] else not current(p))]
    page = LESSONS / "GLOSSARY.md"
    if names == ["--check"]:
        if not page.exists() or page.read_text() != glossary():
            raise SystemExit("GLOSSARY.md is not what glossary.yaml says; run: python tools/lessons.py")
        raise SystemExit("\n".join(f"{p.stem}.ipynb does not hold its source; run: python tools/lessons.py {p.name[:2]}" for p in wanted) or 0)
    page.write_text(glossary())
    for path in wanted:
        build(path)


if __name__ == "__main__":
    main(sys.argv[1:])
