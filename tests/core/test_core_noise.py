"""The report on CORE: shortcuts against explicit resampling, coverage, GPT-2's own scores, damaged files, the figure."""

import copy
import csv
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import test_plots
import torch
from matplotlib.colors import to_hex

from gpt2course import core, core_noise as core_report
from gpt2course.course import plots
from gpt2course.core_tasks import CORE, DCLM_V2, GPT2, GPT2_CENTRED, GPT2_MEANS
from gpt2course.core_noise import SIZES, compare, gpt2_results, read_result, report
from gpt2course.files import UserError

DEV_DATA = os.environ.get("GPT2COURSE_DEV_DATA")
REAL = Path(DEV_DATA or ".") / "core" / "eval_bundle.zip"
needs_real = pytest.mark.skipif(not (DEV_DATA and REAL.exists()), reason="GPT2COURSE_DEV_DATA has no core/eval_bundle.zip")


def row(right, guess=0.25, shots=10, keep=True):
    right = np.asarray(right).astype(int)
    made = dict(accuracy=float(right.mean()), n=len(right), random_baseline=guess, num_fewshot=shots, kind="multiple_choice")
    return made | (dict(right="".join(map(str, right))) if keep else {})


def like_gpt2(model="GPT-2 XL", name="CORE", most=None, seed=0, better=0.0, keep=True):
    """A made-up model with about the accuracies of a GPT-2."""
    rng, tasks = np.random.default_rng(seed), {}
    for label, (percent, *_) in CORE.items():
        guess = percent / 100
        p = GPT2_CENTRED[model][label] * (1 - guess) + guess + better
        tasks[label] = row(rng.random(min(SIZES[label], most or 10**9)) < p, guess, keep=keep)
    return dict(name=name, baselines="DCLM v1", max_examples=most, tasks=tasks)


def mini(**tasks):
    return dict(name="mini-CORE", baselines="uniform guesser", tasks=tasks)


QUANTILES = (2.5, 16, 50, 84, 97.5)


# ---- the bootstrap


def test_binomial_is_resampling_of_the_decisions():
    rng = np.random.default_rng(0)
    result = mini(a=row(rng.random(40) < 0.3), b=row(rng.random(90) < 0.8, 0.5), c=row(rng.random(60) < 0.05, 0))
    explicit = np.zeros(20_000)
    for r in result["tasks"].values():
        right = np.array([int(c) for c in r["right"]])
        drawn = right[rng.integers(0, r["n"], (20_000, r["n"]))].mean(axis=1)
        explicit += core.centred(drawn, r["random_baseline"]) / 3
    fast = core_report.resampled(result, np.random.default_rng(1), 20_000)
    assert np.percentile(fast, QUANTILES) == pytest.approx(np.percentile(explicit, QUANTILES), abs=0.06 * explicit.std())
    assert fast.std() == pytest.approx(explicit.std(), rel=0.03)
    whole = report(result, seed=1, draws=20_000)
    assert whole["interval"] == pytest.approx(np.percentile(explicit, (2.5, 97.5)), abs=0.06 * explicit.std())
    assert whole["se"] == pytest.approx(explicit.std(), rel=0.03)
    assert whole["core"] == pytest.approx(explicit.mean(), abs=0.05 * explicit.std())


def test_multinomial_is_resampling_of_the_pairs():
    rng = np.random.default_rng(0)
    x = rng.random(80) < 0.6
    y = np.where(rng.random(80) < 0.7, x, rng.random(80) < 0.4)
    a, b = row(x, 0.4), row(y, 0.4)
    index = rng.integers(0, 80, (20_000, 80))  # the same examples for both
    explicit = (x[index].mean(axis=1) - y[index].mean(axis=1)) / 0.6
    fast = core_report.resampled_differences(a, b, np.random.default_rng(1), 20_000)
    assert np.percentile(fast, QUANTILES) == pytest.approx(np.percentile(explicit, QUANTILES), abs=1 / 80 / 0.6 + 1e-9)  # one step
    assert fast.std() == pytest.approx(explicit.std(), rel=0.03) and fast.mean() == pytest.approx(explicit.mean(), abs=0.005)


def test_the_interval_covers_the_truth():
    """200 made-up models whose true accuracies are known: the 95 % interval holds the true mean in 90 to 99 % of them."""
    rng, inside, low_side = np.random.default_rng(0), 0, 0
    for i in range(200):
        tasks, truth = {}, 0.0
        for label, (percent, *_) in CORE.items():
            guess, p = percent / 100, rng.uniform(0.05, 0.9)
            tasks[label] = row(rng.random(min(SIZES[label], 150)) < p, guess, keep=False)
            truth += core.centred(p, guess) / len(CORE)
        low, high = report(dict(name="CORE", baselines="DCLM v1", tasks=tasks), seed=i, draws=400)["interval"]
        inside, low_side = inside + (low <= truth <= high), low_side + (truth < low)
    assert 180 <= inside <= 198 and 0 < low_side < 200 - inside, (inside, low_side)  # and it misses on both sides


def test_binomial_standard_errors_agree_with_the_bootstrap():
    made = report(like_gpt2())
    exact = np.sqrt(sum(t["centred_se"] ** 2 for t in made["tasks"].values())) / len(CORE)
    assert made["se"] == pytest.approx(exact, rel=0.03) and 0.006 < exact < 0.007  # 0.0065 on all examples
    first = made["tasks"]["hellaswag_zeroshot"]
    assert first["se"] == pytest.approx((first["accuracy"] * (1 - first["accuracy"]) / 10042) ** 0.5)
    assert report(like_gpt2()) == made != report(like_gpt2(), seed=1)  # the same seed, the same report


# ---- GPT-2


def test_sizes_are_those_of_core():
    assert sum(SIZES.values()) == 91_037 and SIZES["copa"] == 100 and SIZES["bigbench_qa_wikidata"] == 20_321 and list(SIZES) == list(CORE)


@needs_real
def test_sizes_are_those_of_the_bundle():
    from gpt2course.core_tasks import read_bundle

    assert {task.label: len(task.examples) for task in read_bundle(REAL).tasks} == SIZES


def gpt2(model, name="CORE", guesses=None):
    result = like_gpt2(name=name, keep=False)
    for label in result["tasks"]:
        result["tasks"][label]["random_baseline"] = (guesses[label] if guesses else CORE[label][0]) / 100
    rows = gpt2_results(result)[model]["tasks"]
    for label, r in result["tasks"].items():
        r |= rows[label]
    return result


@pytest.mark.parametrize("model", GPT2)
def test_the_published_rows_give_back_their_core(model):
    for label, r in gpt2(model)["tasks"].items():  # their accuracies are whole numbers of right answers, as far as six digits say
        assert core.centred(r["accuracy"], r["random_baseline"]) == pytest.approx(GPT2_CENTRED[model][label], abs=6e-7)
        assert r["n"] == (SIZES[label] if model == "GPT-2 small" else min(1000, SIZES[label]))
    made = report(gpt2(model))
    assert made["core"] == pytest.approx(GPT2_MEANS[GPT2.index(model)], abs=1e-6)
    assert made["bar"] == 0.256525 and made["gpt2"][model]["difference"] == 0
    if model == "GPT-2 XL":
        assert 0.45 < made["above_bar"] < 0.55 and made["se"] == pytest.approx(0.0071, abs=0.0002)
    else:
        assert made["above_bar"] < 1e-3
    assert 0.45 < made["gpt2"][model]["above"] < 0.55
    assert not any(t["gpt2"][model]["beyond_noise"] or t["gpt2"][model]["difference"] for t in made["tasks"].values())


def test_v2_moves_the_bar():
    made = report(gpt2("GPT-2 XL", "CORE v2", DCLM_V2))
    assert made["core"] == pytest.approx(0.2309, abs=1e-4) and made["bar"] == made["core"] and 0.45 < made["above_bar"] < 0.55
    assert any("v2" in line for line in made["notes"])


def test_comparison_with_gpt2_counts_the_noise_of_both():
    result = gpt2("GPT-2 XL")
    r = result["tasks"]["arc_easy"]
    r |= dict(accuracy=0.5, n=100)  # XL: 0.595 of 1,000
    g = report(result)["tasks"]["arc_easy"]["gpt2"]["GPT-2 XL"]
    # one right and one wrong added to each: 51 of 102, 596 of 1002; centred by 0.25
    by_hand = (0.5 * 0.5 / 102 + (596 / 1002) * (406 / 1002) / 1002) ** 0.5 / 0.75
    assert g == dict(centred=pytest.approx(0.46), n=1000, difference=pytest.approx(-0.095 / 0.75), se=pytest.approx(by_hand), beyond_noise=False)
    r |= dict(accuracy=0.45)
    assert report(result)["tasks"]["arc_easy"]["gpt2"]["GPT-2 XL"]["beyond_noise"]
    better = report(like_gpt2(better=0.2))
    assert all(t["gpt2"]["GPT-2 small"]["beyond_noise"] and t["gpt2"]["GPT-2 small"]["difference"] > 0 for t in better["tasks"].values())
    assert better["gpt2"]["GPT-2 XL"]["difference_interval"][0] > 0 and better["gpt2"]["GPT-2 XL"]["above"] == 1.0


def test_the_noise_of_both_is_wider_than_ours():
    made = report(like_gpt2(better=0.005))
    width = lambda span: span[1] - span[0]
    assert width(made["gpt2"]["GPT-2 XL"]["difference_interval"]) == pytest.approx(
        np.hypot(width(made["interval"]), width(made["gpt2"]["GPT-2 XL"]["interval"])), rel=0.05)  # fmt: skip
    assert abs(made["above_bar"] - 0.5) > abs(made["gpt2"]["GPT-2 XL"]["above"] - 0.5) > 0  # so it says less


def test_nothing_is_said_of_gpt2_where_it_has_no_score():
    made = report(mini(a=row([1, 0, 1, 1])))
    assert "bar" not in made and "above_bar" not in made and made["gpt2"] == {} and made["tasks"]["a"]["gpt2"] == {}
    some = like_gpt2()
    some["tasks"] = {label: some["tasks"][label] for label in ("copa", "squad")}
    made = report(some)
    assert "above_bar" not in made and made["gpt2"] == {} and list(made["tasks"]["copa"]["gpt2"]) == list(GPT2)
    assert made["name"] == "CORE, 2 of 22 tasks" and "not CORE" in core_report.text(made)


# ---- two results


def test_pairs_are_narrower_where_decisions_go_together():
    rng = np.random.default_rng(0)
    x = rng.random(400) < 0.5
    y = np.where(rng.random(400) < 0.9, x, ~x)
    made = compare(mini(a=row(x)), mini(a=row(y)))
    assert made["paired"] == 1 and made["se"] < 0.6 * made["unpaired_se"]
    exact = np.sqrt(np.var(x.astype(int) - y.astype(int)) / 400) / 0.75
    assert made["se"] == made["tasks"]["a"]["se"] == pytest.approx(exact, rel=0.03)
    independent = np.sqrt((x.var() + y.var()) / 400) / 0.75
    assert made["unpaired_se"] == pytest.approx(independent, rel=0.03)
    assert made["difference"] == pytest.approx((x.mean() - y.mean()) / 0.75) and made["core"][0] == pytest.approx((x.mean() - 0.25) / 0.75)


def test_one_model_with_itself_differs_by_nothing():
    made = compare(like_gpt2(most=200), like_gpt2(most=200))
    assert made["difference"] == made["se"] == 0 and made["interval"] == [0, 0] and made["above"] == 0.5 and made["paired"] == 22
    assert not any(t["beyond_noise"] for t in made["tasks"].values())


def test_direction_and_probability():
    a, b = like_gpt2(better=0.05), like_gpt2()
    made = compare(a, b)
    assert made["difference"] > 0.04 and made["above"] == 1.0 and made["interval"][0] > 0 and made["core"][0] > made["core"][1]
    back = compare(b, a)
    assert back["difference"] == pytest.approx(-made["difference"]) and back["above"] == 0.0
    assert made["tasks"]["squad"]["beyond_noise"] and back["tasks"]["squad"]["beyond_noise"]
    assert "first" in core_report.comparison_text(made) and " *" in core_report.comparison_text(made)


def test_tasks_without_both_decisions_are_resampled_apart():
    a, b = like_gpt2(most=300), like_gpt2(most=300, seed=1)
    del a["tasks"]["squad"]["right"]
    b["tasks"]["copa"] = row([1] * 50 + [0] * 49, 0.5)  # not the same questions
    made = compare(a, b)
    assert made["paired"] == 20 and not made["tasks"]["squad"]["paired"] and not made["tasks"]["copa"]["paired"]
    for label in ("squad", "copa"):
        r, s = a["tasks"][label], b["tasks"][label]
        exact = sum(t["accuracy"] * (1 - t["accuracy"]) / t["n"] for t in (r, s)) ** 0.5 / (1 - r["random_baseline"])
        t = made["tasks"][label]
        assert t["se"] == pytest.approx(exact, rel=0.04) and t["interval"][0] < t["difference"] < t["interval"][1]
        assert sum(t["interval"]) / 2 == pytest.approx(t["difference"], abs=0.3 * exact)


@pytest.mark.parametrize("change", [dict(name="CORE v2"), dict(baselines="DCLM v2"), "task", "guess"])
def test_only_the_same_questions_are_compared(change):
    a, b = like_gpt2(most=20), like_gpt2(most=20)
    if change == "task":
        del b["tasks"]["copa"]
    elif change == "guess":
        b["tasks"]["copa"]["random_baseline"] = 0.4
    else:
        b |= change
    with pytest.raises(UserError, match="cannot be compared.*same bundle"):
        compare(a, b)


# ---- extremes and damage


@pytest.mark.parametrize("keep", [True, False])
def test_accuracies_of_zero_and_one(keep, tmp_path):
    result = like_gpt2(keep=keep)
    for label, r in result["tasks"].items():
        value = int(label != "squad")
        result["tasks"][label] |= row([value] * r["n"], r["random_baseline"], keep=keep)
    made = report(result)
    assert made["core"] == pytest.approx(21 / 22) and made["se"] == pytest.approx(0, abs=1e-12) and made["above_bar"] == 1.0
    assert made["tasks"]["squad"]["se"] == 0 and made["tasks"]["squad"]["gpt2"]["GPT-2 XL"]["beyond_noise"]
    assert made["tasks"]["bigbench_repeat_copy_logic"]["gpt2"]["GPT-2 XL"]["se"] > 0
    core_report.write(made, tmp_path)
    assert compare(result, result)["se"] == 0


DAMAGE = {
    "not a result": lambda r: [r],
    "no tasks": lambda r: r | dict(tasks={}),
    "tasks a list": lambda r: r | dict(tasks=[1]),
    "no name": lambda r: {k: v for k, v in r.items() if k != "name"},
    "baselines": lambda r: r | dict(baselines=None),
    "right with other signs": lambda r: r["tasks"]["copa"].update(right=r["tasks"]["copa"]["right"].replace("0", "x")),
    "right with one more": lambda r: r["tasks"]["copa"].update(right=r["tasks"]["copa"]["right"] + "0"),
    "accuracy yes": lambda r: r["tasks"]["copa"].update(accuracy=True, right=None),
    "a foreign task": lambda r: r | dict(tasks=r["tasks"] | dict(arithmetic=r["tasks"]["copa"])),
} | {
    f"{key} {value}": lambda r, key=key, value=value: r["tasks"]["copa"].update({key: value})
    for key, value in (("accuracy", float("nan")), ("accuracy", 1.5), ("accuracy", -0.1), ("accuracy", "0.5"), ("accuracy", True), ("accuracy", None),
                       ("accuracy", 0.513), ("n", 0), ("n", 2.5), ("n", None), ("random_baseline", 1), ("random_baseline", float("nan")),
                       ("num_fewshot", None), ("right", "01"), ("right", "2" * 100), ("right", 5), ("right", "1" * 100))
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_result_is_one_clear_error(damage, tmp_path):
    result = copy.deepcopy(like_gpt2(most=100))
    result = DAMAGE[damage](result) or result
    path = tmp_path / "core.json"
    path.write_text(json.dumps(result))
    with pytest.raises(UserError) as e:
        read_result(path)
    message = str(e.value)
    assert message.startswith(f"{path} is not a result of CORE: ") and "\n" not in message and "python -m gpt2course.core RUN" in message
    assert len(message) < 100 + 300 + len(str(path)) and (" " not in damage or damage.split()[0] not in CORE)
    if damage.split()[0] in ("accuracy", "n", "random_baseline", "num_fewshot", "right"):
        assert f"task copa: {damage.split()[0]} is" in message or "task copa: accuracy is" in message
    with pytest.raises(UserError, match="the result is not a result of CORE"):
        report(result)


def test_files_that_are_none(tmp_path):
    (tmp_path / "torn.json").write_text('{"name": "CORE", "tas')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for path, problem in ((tmp_path / "none.json", "does not exist"), (tmp_path / "torn.json", "not valid JSON"),
                          (tmp_path / "binary.json", "not valid JSON"), (tmp_path, "is a folder")):  # fmt: skip
        with pytest.raises(UserError, match=problem):
            read_result(path)
    with pytest.raises(UserError, match="draws is 10, must be at least 100"):
        report(like_gpt2(most=20), draws=10)


# ---- notes, text, files, command


def test_what_the_numbers_do_not_say():
    whole, some = report(like_gpt2()), report(like_gpt2(most=500))
    assert "0.006" in whole["notes"][0] and "1,000" in whole["notes"][1] and "0.0071" in whole["notes"][1] and len(whole["notes"]) == 2
    assert "At most 500" in some["notes"][2] and "with 500, published" in some["notes"][2] and "0.01" in some["notes"][2] and "few-shot" in some["notes"][2]
    assert not any("bar is itself" in line for line in report(mini(a=row([1, 0])))["notes"])


def test_text_holds_the_numbers():
    made = report(like_gpt2(better=0.01))
    said = core_report.text(made)
    assert f"CORE {made['core']:.4f}, 95 % interval {made['interval'][0]:.4f} to {made['interval'][1]:.4f}; baselines: DCLM v1" in said
    assert f"above 0.256525 (GPT-2 XL): {made['above_bar']:.3f}" in said and all(line in said for line in made["notes"])
    (line,) = [line for line in said.splitlines() if line.startswith("arc_easy ")]
    t = made["tasks"]["arc_easy"]
    cells = line.split()
    assert cells[1:6] == ["2376", f"{t['accuracy']:.4f}", f"{t['se']:.4f}", f"{t['centred']:.4f}", f"{t['centred_se']:.4f}"]
    assert cells[6:] == [f"{g['difference']:+.4f}" + "*" * g["beyond_noise"] for g in t["gpt2"].values()]


def test_a_real_result_goes_through():
    """What the plain evaluator gives on mini-CORE, and the decisions as core_fast adds them."""

    class Chars:
        bos = 0

        def encode(self, text, bos=False):
            return [0] * bos + [ord(c) % 128 for c in text]

    result = core.evaluate(lambda ids: torch.zeros(*ids.shape, 128), Chars(), core.MINI, max_examples=3)
    made = report(json.loads(json.dumps(result)))
    assert made["core"] == pytest.approx(result["core"]) and made["max_examples"] == 3
    assert {k: t["centred"] for k, t in made["tasks"].items()} == {k: pytest.approx(t["centred"]) for k, t in result["tasks"].items()}
    assert {k: t["se"] for k, t in made["tasks"].items()} == {k: pytest.approx(t["se"]) for k, t in result["tasks"].items()}


def test_files(tmp_path):
    result = like_gpt2(most=300) | dict(run="r1", bundle="b")
    made = report(result)
    assert core_report.write(made, tmp_path / "new") == tmp_path / "new"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["core.csv", "core.json", "core.png"]
    assert json.loads((tmp_path / "new" / "core.json").read_text()) == made and made["run"] == "r1"
    with open(tmp_path / "new" / "core.csv", newline="") as f:
        rows = {r["task"]: r for r in csv.DictReader(f)}
    assert list(rows) == [*CORE, "CORE"]
    for label, t in made["tasks"].items():
        assert (int(rows[label]["n"]), float(rows[label]["centred"]), float(rows[label]["se"])) == (t["n"], t["centred"], t["se"])
        assert float(rows[label]["minus GPT-2 XL"]) == t["gpt2"]["GPT-2 XL"]["difference"]
        assert float(rows[label]["GPT-2 small"]) == pytest.approx(GPT2_CENTRED["GPT-2 small"][label], abs=1e-6)
    assert float(rows["CORE"]["centred"]) == made["core"] and float(rows["CORE"]["GPT-2 XL"]) == pytest.approx(0.256525, abs=1e-6)
    from PIL import Image

    with Image.open(tmp_path / "new" / "core.png") as image:
        assert image.text["Description"] == plots.core_report_figure(made).alt


def test_the_command(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / f"{name}.json").write_text(json.dumps(like_gpt2(most=200, seed=seed)))
    run = lambda *args: subprocess.run([sys.executable, "-m", "gpt2course.core_noise", *map(str, args)], capture_output=True, text=True)
    done = run(tmp_path / "a.json", tmp_path / "b.json", "--draws", 500)
    assert done.returncode == 0, done.stderr
    assert "probability of being above 0.256525" in done.stdout and "22 of 22 tasks in pairs" in done.stdout
    assert sorted(p.name for p in (tmp_path / "a-report").iterdir()) == ["compare.json", "core.csv", "core.json", "core.png"]
    assert json.loads((tmp_path / "a-report" / "compare.json").read_text())["draws"] == 500
    (tmp_path / "a.json").write_text("{}")
    done = run(tmp_path / "a.json", "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "has no tasks" in done.stderr and not (tmp_path / "out").exists()


# ---- the figure

SUBSET = like_gpt2(better=0.03)
SUBSET = SUBSET | dict(tasks={label: SUBSET["tasks"][label] for label in list(CORE)[:6]})
RESULTS = {
    "core": like_gpt2(better=0.05), "small": like_gpt2("GPT-2 small"), "equal": like_gpt2(most=500), "subset": SUBSET,
    "mini": mini(**{"which word": row([1, 0, 1, 1]), "next word": row([0] * 30), "all right": row([1] * 30)}),
}  # fmt: skip
REPORTS = {name: report(result) for name, result in RESULTS.items()}


@pytest.fixture(scope="module")
def figures():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = {name: plots.core_report_figure(r) for name, r in REPORTS.items()}
        for fig in made.values():
            fig.png = plots.png(fig)
    return made


@pytest.mark.parametrize("name", RESULTS)
def test_the_figure_has_the_style_of_all_figures(figures, name):
    test_plots.test_style(figures, name)
    test_plots.test_no_text_is_cut_off_or_overlaps(figures, name)
    top, bottom = figures[name].axes
    assert "centred accuracy" in top.get_xlabel() and "centred accuracy" in bottom.get_xlabel()


@pytest.mark.parametrize("name", RESULTS)
def test_the_figure_draws_its_data(figures, name):
    made, (top, bottom) = REPORTS[name], figures[name].axes
    models = [*made["gpt2"], "this model"]
    assert [t.get_text() for t in top.get_yticklabels()] == models and top.yaxis_inverted()
    spans = [g["interval"] for g in made["gpt2"].values()] + [made["interval"]]
    values = [g["core"] for g in made["gpt2"].values()] + [made["core"]]
    for drawn, value, span in zip(top.containers, values, spans, strict=True):
        point, _, (bar,) = drawn.lines
        assert point.get_xdata()[0] == pytest.approx(value) and list(bar.get_segments()[0][:, 0]) == pytest.approx(span, abs=1e-9)
    dashed = [float(x.get_xdata()[0]) for x in top.lines if x.get_linestyle() == "--"]
    assert dashed == ([0.256525] if "bar" in made else [])
    best = ["GPT-2 XL"] if name != "mini" else []
    assert len(bottom.containers) == len(made["tasks"]) * (1 + len(best))
    for drawn, t, at in zip(bottom.containers[len(best) * len(made["tasks"]) :], made["tasks"].values(), range(99)):
        point, _, (bar,) = drawn.lines
        ends = bar.get_segments()[0][:, 0]
        assert point.get_xdata()[0] == pytest.approx(t["centred"]) and round(point.get_ydata()[0]) == at
        assert (ends[1] - ends[0]) / 2 == pytest.approx(1.96 * t["centred_se"], abs=1e-9)
        hollow = any(not t["gpt2"][m]["beyond_noise"] for m in best)
        assert (to_hex(point.get_markerfacecolor()) == "#ffffff") == hollow
    for drawn, t in zip(bottom.containers, made["tasks"].values() if best else ()):
        assert drawn.lines[0].get_xdata()[0] == pytest.approx(t["gpt2"]["GPT-2 XL"]["centred"])


def test_the_figure_says_it_in_words(figures):
    made, alt = REPORTS["core"], figures["core"].alt
    up = sum(t["gpt2"]["GPT-2 XL"]["beyond_noise"] for t in made["tasks"].values())
    assert f"CORE {made['core']:.4f}" in alt and f"{up} tasks are above GPT-2 XL and 0 below, {22 - up} are neither" in alt and up > 8
    assert "GPT-2" not in figures["mini"].alt
    with pytest.raises(UserError, match="nothing to draw"):
        plots.core_report_figure(REPORTS["mini"] | dict(tasks={}))
