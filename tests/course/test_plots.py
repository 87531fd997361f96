"""Figures: they draw the data they were given, say it in words, and stay readable; nothing overlaps or is cut off."""

import base64
import html
import io
import math
import re
import sys
import types
import warnings

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_cases import contrast_to_black, layout_problems, texts
from matplotlib.figure import Figure

from gpt2course.core_tasks import GPT2_CENTRED as GPT2
from gpt2course.course import lab, plots
from gpt2course.course.figures import style
from gpt2course.files import UserError

XZ = 2.11


def metrics(n=400, seconds=240.0, **extra):
    """The lines of a run that looks like the laptop profile's."""
    rng, lines = np.random.default_rng(0), []
    for s in range(1, n + 1, 4):
        at = dict(step=s, tokens=8192 * s, flops=1e9 * s, seconds=seconds * s / n)
        loss = 3.3 + 6 * math.exp(-s / 40) + float(rng.normal(0, 0.04))
        speed = 13500 + float(rng.normal(0, 400))
        lines.append(dict(kind="train", **at, loss=loss, lr=min(1.0, (n - s) / (n / 2)), tok_per_sec=speed, mfu=None,
                          muon_momentum=0.85 + 0.1 * min(1, s / 300), weight_decay=1 - s / n) | extra)  # fmt: skip
        if s % 40 == 1:
            lines.append(dict(kind="eval", **at, val_bpb=1.55 + 2 * math.exp(-s / 50), val_bytes=5))
    return lines + [dict(kind="checkpoint", step=n, tokens=8192 * n, flops=1.0, seconds=seconds, path="x")]


M = metrics()
TRAIN, EVAL = [m for m in M if m["kind"] == "train"], [m for m in M if m["kind"] == "eval"]
OURS = {label: 0.9 * score for label, score in GPT2["GPT-2 medium"].items()}
MINI = {"which word": 0.1, "next word": -0.05, "schema": 0.2}
LAPTOP = dict(id="ours-a", who="ours", name="laptop", hours=0.0711, core=None)
RECORD = dict(id="ours-b", who="ours", name="record d24", hours=1.2, core=0.2611)
BOARD = [row for row in lab.published() if row["who"] != "ours"]
STAGES = {"corpus": 4.2, "tokenizer": 12.1, "training": 242.0, "validation": 21.4, "mini-CORE": 9.9, "figures": 0.08}
PIECES = ["Fellow", " citizens", " pay", " $", "5", ".", "\n", "\tna", "ïve", " \u5317", "\u4eac", " e", "\u0301t", "ude"]
PIECES = (PIECES + ["\ufffd", "\n\n", "<b>", " &"]) * 3

FIGURES = {
    "loss_and_bpb": lambda: plots.loss_and_bpb(M, XZ), "loss_without_xz": lambda: plots.loss_and_bpb(M),
    "loss_above_xz": lambda: plots.loss_and_bpb(M, 1.5), "xz_at_the_top": lambda: plots.loss_and_bpb(M, 3.5),
    "learning_rates": lambda: plots.learning_rates(M),
    "throughput": lambda: plots.throughput(metrics(mfu=0.501, seconds=11000.0)),
    "where_time_went": lambda: plots.where_time_went(STAGES),
    "hours": lambda: plots.where_time_went({"data": 100.0, "training": 11000.0}),
    "coloured_tokens": lambda: plots.coloured_tokens(PIECES), "core_bars": lambda: plots.core_bars(OURS, GPT2, "laptop"),
    "core_mini": lambda: plots.core_bars(MINI, GPT2, "laptop"), "core_alone": lambda: plots.core_bars(MINI, {}, "laptop"),
    "leaderboard": lambda: plots.leaderboard_figure(BOARD), "leaderboard_laptop": lambda: plots.leaderboard_figure(BOARD, LAPTOP),
    "leaderboard_record": lambda: plots.leaderboard_figure(BOARD, RECORD),
}  # fmt: skip


@pytest.fixture(scope="module")
def figures():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph or a layout that does not fit is a warning
        made = {name: make() for name, make in FIGURES.items()}
        for fig in made.values():
            fig.png = plots.png(fig)
    return made


@pytest.mark.parametrize("name", FIGURES)
def test_style(figures, name):
    fig = figures[name]
    assert isinstance(fig, Figure)
    assert fig.get_size_inches()[0] == 7.0 and fig.get_size_inches()[1] <= 9
    assert len(fig.png) < 90_000  # a notebook holds about ten
    assert len(fig.alt) > 50 and fig.alt[0].isupper() and any(c.isdigit() for c in fig.alt) and "nan" not in fig.alt
    sizes = {round(t.get_fontsize(), 2) for t, _ in texts(fig)}
    assert min(sizes) >= (10.9 if name != "coloured_tokens" else 10.5), sizes


@pytest.mark.parametrize("name", [n for n in FIGURES if n != "coloured_tokens"])
def test_axes_name_their_units(figures, name):
    last = figures[name].axes[-1]
    assert any(u in last.get_xlabel() for u in ("tokens", "step", "hours", "minutes", "seconds", "accuracy")), last.get_xlabel()
    for ax in figures[name].axes:
        labels = [t.get_text() for t in ax.get_yticklabels()]
        categories = labels and not any(c.isdigit() for label in labels for c in label if not label.startswith("mean"))
        units = ("nats", "bits", "peak", "no unit", "tokens per second", "centred")
        assert categories or any(u in ax.get_ylabel() for u in units), name


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_overlaps(figures, name):
    assert name == "coloured_tokens" or len(texts(figures[name])) > 5
    assert layout_problems(figures[name], touching=name == "coloured_tokens") == []


def line(ax, i=0):
    return [list(map(float, v)) for v in ax.lines[i].get_data()]


def test_loss_and_bpb_draws_its_data(figures):
    top, bottom = figures["loss_and_bpb"].axes
    assert line(top) == [[m["tokens"] for m in TRAIN], [m["loss"] for m in TRAIN]]
    assert line(bottom) == [[m["tokens"] for m in EVAL], [m["val_bpb"] for m in EVAL]]
    assert line(bottom, 1)[1] == [XZ, XZ]
    words = [t.get_text() for t in bottom.texts]
    last = EVAL[-1]["val_bpb"]
    assert "xz -9e: 2.110" in words and f"final {last:.3f}, {1 - last / XZ:.0%} below xz" in words
    assert f"{last:.3f}" in figures["loss_and_bpb"].alt and "2.110" in figures["loss_and_bpb"].alt
    assert len(figures["loss_without_xz"].axes[1].lines) == 1 and "xz" not in figures["loss_without_xz"].alt
    assert any("above xz" in t.get_text() for t in figures["loss_above_xz"].axes[1].texts)


def test_learning_rates_draw_their_data(figures):
    axes = figures["learning_rates"].axes
    for ax, name in zip(axes, ("lr", "muon_momentum", "weight_decay"), strict=True):
        assert line(ax) == [[m["step"] for m in TRAIN], [m[name] for m in TRAIN]]
    bare = [{k: v for k, v in m.items() if k not in ("muon_momentum", "weight_decay")} for m in M]
    assert len(plots.learning_rates(bare).axes) == 1  # a recipe without Muon


@pytest.mark.parametrize("seconds, unit, scale", [(90.0, "seconds", 1), (1200.0, "minutes", 60), (11000.0, "hours", 3600)])
def test_throughput_draws_its_data(seconds, unit, scale):
    m = [x for x in metrics(seconds=seconds, mfu=0.501) if x["kind"] == "train"]
    fig = plots.throughput(m)
    (ax,) = fig.axes
    assert line(ax)[0] == pytest.approx([x["seconds"] / scale for x in m]) and line(ax)[1] == [x["tok_per_sec"] for x in m]
    assert f"({unit})" in ax.get_xlabel() and ax.get_ylim()[0] == 0
    assert line(ax, 1)[1][0] == sorted(x["tok_per_sec"] for x in m)[len(m) // 2]
    assert "MFU 50.1%" in fig.alt and "MFU" not in plots.throughput(M).alt


def test_where_time_went_draws_its_data(figures):
    (ax,) = figures["where_time_went"].axes
    assert [b.get_width() for b in ax.patches] == list(STAGES.values())
    assert [t.get_text() for t in ax.get_yticklabels()] == list(STAGES) and ax.yaxis_inverted()  # the first stage on top
    total = sum(STAGES.values())
    assert {f"242 s, {242 / total:.0%}", "80 ms, < 1%"} <= {t.get_text() for t in ax.texts}
    (ax,) = figures["hours"].axes
    assert [b.get_width() for b in ax.patches] == [100 / 3600, 11000 / 3600] and "hours" in ax.get_xlabel()


def test_core_bars_draw_their_data(figures):
    (ax,) = figures["core_bars"].axes
    mean = lambda d: sum(d.values()) / len(d)  # noqa: E731
    assert [b.get_width() for b in ax.patches] == pytest.approx([mean(OURS), *OURS.values()])
    for marks, (name, scores) in zip(ax.lines, GPT2.items()):
        x, y = marks.get_data()
        assert marks.get_label() == name and list(x) == pytest.approx([mean(scores), *scores.values()])
        assert list(np.round(y)) == list(range(23))  # beside the bar it belongs to
    assert mean(GPT2["GPT-2 XL"]) == pytest.approx(0.256525, abs=2e-6) and "GPT-2 XL 0.257" in figures["core_bars"].alt
    assert [t.get_text() for t in ax.get_yticklabels()][:2] == ["mean of 22", "hellaswag zeroshot"]


def test_no_mean_over_different_tasks(figures):
    (ax,) = figures["core_mini"].axes
    widths = [b.get_width() for b in ax.patches]
    assert widths[:3] == list(MINI.values()) and all(math.isnan(w) for w in widths[3:]) and len(widths) == 25
    alone = [t.get_text() for t in figures["core_alone"].axes[0].get_yticklabels()]
    assert "Means" not in figures["core_mini"].alt and alone[0] == "mean of 3"


def test_leaderboard_draws_its_data(figures):
    (ax,) = figures["leaderboard_record"].axes
    drawn = {x.get_label(): line(ax, i) for i, x in enumerate(ax.lines)}
    for who, label in (("published", "official record, by number"), ("unmerged", "unmerged claim")):
        some = [e for e in BOARD if e["who"] == who and e["core"] is not None and e["id"] != "gpt2-2019"]
        assert drawn[label] == [[e["hours"] for e in some], [e["core"] for e in some]]
    assert drawn["record d24: 1.2 h, CORE 0.2611"] == [[1.2], [0.2611]]
    assert line(ax)[1] == [0.256525, 0.256525] and ax.get_xscale() == "log"
    assert [168.0] in [d[0] for d in drawn.values()] and ax.get_xlim()[1] > 168
    assert {t.get_text() for t in ax.texts} >= set("123456")
    (ax,) = figures["leaderboard_laptop"].axes
    (mine,) = [x for x in ax.lines if "CORE not measured" in x.get_label()]
    assert list(mine.get_xdata()) == [0.0711, 0.0711] and ax.get_xlim()[0] < 0.0711  # a line, since it has no height
    assert "3.04 to 1.65 hours" in figures["leaderboard"].alt and "1 without a measured CORE" in figures["leaderboard"].alt


def test_each_number_stands_nearest_to_its_record(figures):
    for name in ("leaderboard", "leaderboard_laptop", "leaderboard_record"):
        (ax,) = figures[name].axes
        records = {e["id"][-1]: ax.transData.transform((e["hours"], e["core"])) for e in BOARD if e["id"].startswith("nanochat-")}
        for t in ax.texts:
            if t.get_text() in records:
                box = t.get_window_extent()
                at = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
                near = sorted(records, key=lambda k: math.dist(at, records[k]))
                assert math.dist(at, records[t.get_text()]) < 26 and t.get_text() in near[:2], (name, t.get_text())


def test_tints_are_light():
    """Every tint is light enough for black text (WCAG contrast above 7)."""
    assert all(contrast_to_black(tint) > 7 for tint in style.TINTS)


# ---- coloured tokens


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=8))
def test_the_figure_draws_any_text_without_warnings(pieces):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = plots.coloured_tokens(pieces)
        plots.png(fig, 50)
    assert len({p.get_facecolor() for p in fig.axes[0].patches}) == min(len(pieces), len(style.TINTS))


def test_the_figure_keeps_the_text_in_order(figures):
    plain = ["one", " two", " three", "\n", "$x$4"]  # no mathematics between dollars
    ax = plots.coloured_tokens(plain, columns=8).axes[0]
    drawn = sorted((round(t.get_position()[1] - 0.5), t.get_position()[0], t.get_text()) for t in ax.texts)
    rows = ["".join(text for r, _, text in drawn if r == row) for row in range(3)]
    assert rows == ["one two ", "three⏎", "$x$4"] and not any(t.get_parse_math() for t in ax.texts)
    for p, t in zip(ax.patches, ax.texts, strict=True):
        assert (p.get_x(), p.get_width()) == (t.get_position()[0], len(t.get_text()))


# ---- nothing to draw, amounts, output


def test_nothing_to_draw_is_said():
    for make in (
        lambda: plots.loss_and_bpb([]), lambda: plots.loss_and_bpb(TRAIN), lambda: plots.learning_rates(EVAL),
        lambda: plots.throughput([]), lambda: plots.where_time_went({}), lambda: plots.coloured_tokens([]),
        lambda: plots.core_bars({}, {}), lambda: plots.leaderboard_figure([LAPTOP]),
    ):  # fmt: skip
        with pytest.raises(UserError, match="there is nothing to draw"):
            make()


def test_one_line_of_metrics_is_enough():
    one = [TRAIN[0], EVAL[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in (lambda: plots.loss_and_bpb(one, XZ), lambda: plots.learning_rates(one), lambda: plots.throughput(one)):
            plots.png(make())
        plots.png(plots.where_time_went({"all": 0.0}))


def test_amounts_and_times():
    amounts = {0: "0", 999: "999", 1000: "1k", 999_600: "1M", 524_288: "524k", 1_500_000: "1.5M", 8_757_706_752: "8.76B"}
    assert {v: plots.amount(v) for v in amounts} == amounts
    times = {0.08: "80 ms", 4.2: "4.2 s", 242: "242 s", 600: "600 s", 660: "11 min", 10949.47: "3.04 h"}
    assert {s: plots.time_text(s) for s in times} == times


def test_show_puts_picture_and_words_into_the_notebook(monkeypatch):
    """With a stand-in for IPython, which the tests do not need otherwise."""
    calls = []
    display = types.ModuleType("IPython.display")
    display.display = lambda data, raw: calls.append((data, raw))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(version_info=(9,)))  # matplotlib looks at the version
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    fig = plots.where_time_went({'a "quoted" <stage> & more': 3.0, "training": 40.0})
    plots.show(fig, dpi=300)
    ((data, raw),) = calls
    assert raw and data["text/plain"] == f"[figure: {fig.alt}]"
    alt, picture = re.fullmatch(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', data["text/html"]).groups()
    assert html.unescape(alt) == fig.alt and "<" not in alt
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        assert image.width == 700 and image.text["Description"] == fig.alt  # dpi is at most 100


def test_figures_leave_no_state_in_pyplot():
    before = dict(matplotlib.rcParams)
    for make in FIGURES.values():
        make()
    pyplot = sys.modules.get("matplotlib.pyplot")  # other tests may import it
    assert dict(matplotlib.rcParams) == before and (pyplot is None or not pyplot.get_fignums())
