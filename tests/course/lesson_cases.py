"""What the tests of all lessons' exercises and figures share: a lesson gives its tables, and gets its tests.

    globals().update(lesson_tests("05", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
"""

from pathlib import Path

import jupytext
import matplotlib.colors
import matplotlib.text
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from gpt2course.course import lab, mine, plots
from gpt2course.course.build import lesson_cells
from gpt2course.course.checks import LESSONS, exercises, run
from gpt2course.files import UserError

SIDES = "Yours: ", "The reference: "  # how the alt text of the two pictures of an exercise begins
ROOT = Path(__file__).resolve().parent.parent.parent


def change(f, **settings):
    """f with some of its settings given: an answer with one thing wrong."""
    return lambda *args, **kw: f(*args, **(settings | kw))


def cells(lesson: str, *tags: str) -> list:
    """The code cells of a lesson's solutions, or those with one of the tags."""
    book = jupytext.read(ROOT / "solutions" / f"{lesson}_{LESSONS[lesson]}.py")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    return [cell for cell in code if not tags or set(tags) & set(cell.metadata.get("tags", []))]


def answers(lesson: str, **names) -> dict:
    """What the answer cells of the solutions define; names: what they use from the set-up cell."""
    space = dict(names)
    for cell in cells(lesson, "answer"):
        exec(cell.source, space)
    return space


def functions(lesson: str, *names: str, **space) -> dict:
    """The functions of a lesson's cells, its holes filled; space: what their set-up has."""
    space["__name__"] = "lesson"
    for name in names:
        exec(mine.source_of(lesson_cells(lesson), name), space)
    return space


def contrast_to_black(colour: str) -> float:
    """WCAG's contrast of black text on a colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    return (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear)) + 0.05) / 0.05


def attempt(id: str, answer) -> str | None:
    return run(id, *answer) if isinstance(answer, tuple) else run(id, answer)


def texts(fig):
    """Every piece of text that is drawn, with its box in pixels. Ticks outside an axis are kept by matplotlib but not drawn."""
    renderer, found, outside = FigureCanvasAgg(fig).get_renderer(), [], set()
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    outside |= {tick.label1, tick.label2}
    for t in fig.findobj(matplotlib.text.Text):
        hidden = t.axes is not None and not t.axes.axison and t not in t.axes.texts
        if t.get_text().strip() and t.get_visible() and t not in outside and not hidden:
            found.append((t, t.get_window_extent(renderer)))
    return found


def layout_problems(fig, touching: bool = False) -> list[tuple]:
    """Texts of a figure that are cut off, and pairs that overlap (not looked for where they touch by design)."""
    width, height = fig.get_size_inches() * fig.dpi
    boxes = [(t.get_text(), box) for t, box in texts(fig)]
    found = [(text,) for text, box in boxes if min(box.x0, box.y0) < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    for i, (a, p) in enumerate(() if touching else boxes):
        for b, q in boxes[:i]:
            across, up = min(p.x1, q.x1) - max(p.x0, q.x0), min(p.y1, q.y1) - max(p.y0, q.y0)
            found += [(a, b)] if across > 1 and up > 3 else []
    return found


def lesson_tests(lesson: str, names: dict, wrong: dict, right: dict, figures: dict, refused: dict, slow=()) -> dict:
    """The tests of one lesson, by name.

    names: exercise -> the functions that its answer defines. wrong: (exercise, what is wrong) -> (answer, words of the
    hint, "|" between equally good ones). right: (exercise, how it is written) -> answer; an answer of two functions is
    a tuple. slow: keys of right answers that take seconds. figures: name -> (draw, words of the alt text). refused:
    name -> draw, which says that there is nothing to draw.
    """

    @pytest.mark.parametrize("key", wrong, ids=" ".join)
    def test_wrong_answers_get_their_hint(key):
        answer, words = wrong[key]
        line = attempt(key[0], answer)
        assert line and line.startswith(f"[{key[0]}] ") and "\n" not in line
        assert any(word in line for word in words.split("|")), line
        assert "your code stopped" not in line or "stopped" in words or "Error" in words, line

    marked = [pytest.param(key, id=" ".join(key), marks=[pytest.mark.slow] * (key in slow)) for key in right]

    @pytest.mark.parametrize("key", marked)
    def test_right_answers_pass(key):
        assert attempt(key[0], right[key]) is None

    def test_every_exercise_is_tried():
        assert [e.id for e in exercises(lesson)] == list(names)
        for id in names:
            assert sum(key[0] == id for key in wrong) >= 3 and sum(key[0] == id for key in right) >= 2

    def test_the_solutions_pass_and_draw(course_home, monkeypatch, capsys):
        shown, checked, space = [], [], {}
        monkeypatch.setattr(plots, "show", shown.append)
        monkeypatch.setattr(lab, "VAL_BYTES", 5000)  # no check reads the bits per byte of a toy run
        for cell in cells(lesson):
            exec(compile(cell.source, f"cell of {lesson}", "exec"), space)
            tags = cell.metadata.get("tags", [])
            if "check" in tags:
                id = next(tag[3:] for tag in tags if tag.startswith("ex-"))
                checked.append(id)
                assert f'check("{id}", {", ".join(names[id])})' in cell.source
        assert checked == list(names)
        printed = capsys.readouterr().out
        assert printed.count(": passed\n") == len(names)
        assert "no picture" not in printed and all(fig.alt for fig in shown)
        mine, theirs = ([fig.alt.removeprefix(name) for fig in shown if fig.alt.startswith(name)] for name in SIDES)
        drawn = [cell for cell in cells(lesson, "picture") if "pictures(" in cell.source]
        assert len(mine) == len(theirs) == len(drawn) > 0
        assert all(a == b for a, b in zip(mine, theirs) if "median" not in a)  # of 0.4, which measures this machine

    @pytest.mark.parametrize("id", names)
    def test_an_answer_not_begun(id):
        def stub(*args, **kw):
            raise NotImplementedError

        title = next(e.title for e in exercises(lesson) if e.id == id)
        assert run(id, *[stub] * len(names[id])) == f"[{id}] {title} - not attempted yet"

        def cannot(*args, **kw):
            raise NotImplementedError('"lshift_cpu" not implemented for UInt32')  # as torch does

        assert "not attempted" not in run(id, *[cannot] * len(names[id]))

    @pytest.mark.parametrize("name", figures)
    def test_figures_draw_and_say_their_numbers(name):
        draw, words = figures[name]
        fig = draw()
        assert len(plots.png(fig)) > 500
        assert [word for word in words if word not in fig.alt] == [], fig.alt
        assert layout_problems(fig, touching="row" in name) == []

    @pytest.mark.parametrize("name", refused)
    def test_figures_refuse_what_cannot_be_drawn(name):
        with pytest.raises(UserError, match="nothing to draw"):
            refused[name]()

    return {name: test for name, test in locals().items() if name.startswith("test_")}
