"""What a CORE result says and what it does not: intervals, the chance of being above GPT-2, and comparisons. Lesson 10
uses it.

    python -m gpt2course.core_noise core.json [other.json]

All noise here is that of the questions: had others of the same kind been asked, what would CORE have been? It is found
by the bootstrap (Efron 1979): draw as many examples again, with replacement, many times. A task's examples are 0 or 1,
so the number right among n drawn from them is Binomial(n, accuracy), and no example need be drawn one by one; for two
models on the same questions the four pairs of decisions are Multinomial(n, their shares).

It leaves out the noise of training: the same recipe with other seeds gives CORE with a standard deviation of about
0.006 (20 seeds: mean 0.2389, sd 0.0062; karpathy/nanochat, pull request 807). It also leaves out that of the few-shot
draws, and takes questions as independent, though both hellaswag tasks ask the same ones and coqa and squad several on
one text: this widens the interval of CORE by less than 1 % (with a correlation of 0.1 within a text).
"""

import csv
import math
from pathlib import Path

import numpy as np
import tyro

from gpt2course.core_tasks import CORE, DCLM_V1, GPT2, GPT2_CENTRED, GPT2_MEANS
from gpt2course.core import centred
from gpt2course.files import UserError, atomic_file, command, read_json, shown, write_json

DRAWS = 10_000
TRAINING_SD = 0.006
GPT2_AT_MOST = 1000  # examples a task on which medium, large and XL were scored: their accuracies are all multiples of 1/min(1000, n)
SIZES = (
    10042,
    2117,
    20321,
    2376,
    1172,
    100,
    1221,
    1838,
    500,
    5153,
    10042,
    273,
    1267,
    1000,
    230,
    1320,
    210,
    32,
    10570,
    7983,
    3270,
    10000,
)
SIZES = dict(zip(CORE, SIZES))  # examples of each task of CORE


# ---- results, read and checked


def checked(result, what: str = "the result") -> dict:
    """The result, if it is one that `core.evaluate` or `core_fast.evaluate` gave; else UserError."""

    def wrong(problem):
        raise UserError(
            f"{what} is not a result of CORE: {problem}; make it again with: python -m gpt2course.core RUN --out FILE.json"
        )

    def number(value, low, high):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high  # NaN is not

    if not isinstance(result, dict) or not isinstance(result.get("tasks"), dict) or not result["tasks"]:
        wrong("it has no tasks")
    for key in ("name", "baselines"):
        if not isinstance(result.get(key), str):
            wrong(f"{key} is {shown(result.get(key))}, must be a text")
    for label, row in result["tasks"].items():
        if not isinstance(row, dict):
            wrong(f"task {label} is {shown(row)}")
        if result["name"] in ("CORE", "CORE v2") and label not in CORE:
            wrong(f"task {label} is none of CORE's")
        for key, fine, allowed in (
            ("accuracy", number(row.get("accuracy"), 0, 1), "a number from 0 to 1"),
            ("random_baseline", number(row.get("random_baseline"), 0, 0.999), "a number from 0 to below 1"),
            ("n", number(row.get("n"), 1, math.inf) and isinstance(row["n"], int), "a whole number of at least 1"),
            (
                "num_fewshot",
                number(row.get("num_fewshot"), 0, math.inf) and isinstance(row["num_fewshot"], int),
                "a whole number",
            ),
        ):
            if not fine:
                wrong(f"task {label}: {key} is {shown(row.get(key))}, must be {allowed}")
        right = row.get("right")
        if right is not None and not (isinstance(right, str) and len(right) == row["n"] and set(right) <= {"0", "1"}):
            wrong(f"task {label}: right is {shown(right)}, must be {row['n']} times 0 or 1")
        if abs((hits(row) / row["n"]) - row["accuracy"]) > 1e-9:
            wrong(f"task {label}: accuracy is {row['accuracy']}, but {hits(row)} of {row['n']} are right")
    return result


def read_result(path) -> dict:
    """A result that was written as JSON; UserError names what is wrong with it."""
    if Path(path).is_dir():
        raise UserError(
            f"CORE result {path} is a folder, must be a JSON file, as python -m gpt2course.core RUN --out FILE.json writes it"
        )
    return checked(read_json(path, "CORE result"), str(path))


def hits(row: dict) -> int:
    """How many examples of a task are right."""
    return row["right"].count("1") if row.get("right") is not None else round(row["accuracy"] * row["n"])


def whole(result: dict) -> bool:
    """Whether these are the tasks of CORE, all of them, so that the mean is CORE (of whichever baselines)."""
    return result["name"] in ("CORE", "CORE v2") and set(result["tasks"]) == set(CORE)


def titled(result: dict) -> str:
    """The name of the mean, "CORE" only where it is."""
    some, all_ = len(result["tasks"]), len(CORE) if result["name"].startswith("CORE") else result.get("n_tasks_bundle")
    return f"{result['name']}, {some} of {all_} tasks" if all_ and some < all_ else result["name"]


def gpt2_results(result: dict) -> dict[str, dict]:
    """The published results of the four GPT-2 models on the CORE tasks of `result`, with its baselines; {} for another
    bundle."""
    if result["name"] not in ("CORE", "CORE v2"):
        return {}
    models = {}
    for model in GPT2:
        rows = {}
        for label, row in result["tasks"].items():
            guess = DCLM_V1[label] / 100
            n = SIZES[label] if model == GPT2[0] else min(SIZES[label], GPT2_AT_MOST)
            right = round((GPT2_CENTRED[model][label] * (1 - guess) + guess) * n)  # published centred, by v1
            rows[label] = dict(accuracy=right / n, n=n, random_baseline=row["random_baseline"])
        models[model] = dict(tasks=rows)
    return models


# ---- the bootstrap


def mean(result: dict) -> float:
    """The mean of the centred accuracies."""
    return float(np.mean([centred(row["accuracy"], row["random_baseline"]) for row in result["tasks"].values()]))


def resampled(result: dict, rng: np.random.Generator, draws: int) -> np.ndarray:
    """The mean of the centred accuracies on so many resamplings of the examples: (draws,)."""
    total = np.zeros(draws)
    for row in result["tasks"].values():
        total += centred(rng.binomial(row["n"], hits(row) / row["n"], draws) / row["n"], row["random_baseline"])
    return total / len(result["tasks"])


def resampled_differences(a: dict, b: dict, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Centred accuracy of a less that of b on one task, on resamplings of the same examples for both: (draws,).

    Of n pairs of decisions, those in which only a is right count for it and those in which only b is against it.
    """
    pairs = [a["right"][i] + b["right"][i] for i in range(a["n"])]
    only_a, only_b = pairs.count("10"), pairs.count("01")
    drawn = rng.multinomial(
        a["n"], np.array([only_a, only_b, a["n"] - only_a - only_b]) / a["n"], draws
    )  # both right or both wrong: 0
    return (drawn[:, 0] - drawn[:, 1]) / a["n"] / (1 - a["random_baseline"])


def interval(values: np.ndarray) -> list[float]:
    """The middle 95 % of some draws."""
    return [float(v) for v in np.percentile(values, (2.5, 97.5))]


def above(values: np.ndarray, bar: float = 0.0) -> float:
    """The share of draws above a bar; a draw on it counts half."""
    return float((values > bar).mean() + (values == bar).mean() / 2)


def difference_se(a: dict, b: dict) -> float:
    """Standard error of the difference of two accuracies on different examples, with one right and one wrong added to
    each, so that 0 of 32 is not without noise (Agresti and Caffo 2000)."""
    smoothed = [((hits(row) + 1) / (row["n"] + 2), row["n"] + 2) for row in (a, b)]
    return math.sqrt(sum(p * (1 - p) / n for p, n in smoothed))


# ---- the report


def notes(result: dict) -> list[str]:
    """What the numbers of a report do not say."""
    lines = [f"Interval and probability: had other questions of this kind been asked. Training adds noise (sd of CORE about {TRAINING_SD} "
             "over seeds of one recipe), and so do other few-shot draws."]  # fmt: skip
    if whole(result):
        bar = math.sqrt(sum(row["accuracy"] * (1 - row["accuracy"]) / row["n"] / (1 - row["random_baseline"]) ** 2
                            for row in gpt2_results(result)[GPT2[-1]]["tasks"].values())) / len(CORE)  # fmt: skip
        lines.append(
            f"The bar is itself a measurement, on at most {GPT2_AT_MOST:,} examples a task: its standard error is {bar:.4f}."
        )
    most = result.get("max_examples")
    if most:
        lines.append(f"At most {most:,} examples a task: biased. The few-shot examples are drawn from those kept, so the prompts differ too; "
                     "with 500, published scores read about 0.01 higher than with all.")  # fmt: skip
    if result.get("draw"):
        lines.append(
            f"Few-shot draw {result['draw']}, not the published one: for the noise of the evaluation, not for comparison with other models."
        )
    if result["name"] == "CORE v2":
        lines.append("Baselines DCLM v2: not to be compared with published CORE, which uses v1.")
    elif result["name"] != "CORE":
        lines.append(f"{result['name']} is not CORE, and no score of GPT-2 on it is published.")
    elif not whole(result):
        lines.append("A mean over some of the tasks is not CORE.")
    return lines


def report(result: dict, seed: int = 0, draws: int = DRAWS) -> dict:
    """What can be said of a result of `core.evaluate` or `core_fast.evaluate`, as a dict that JSON can hold.

    "core" with "se", "interval" (95 %, bootstrap over examples) and, where it is CORE, "bar" (GPT-2 XL) and
    "above_bar", the probability that CORE on further questions of this kind is above it; "tasks": {label: accuracy,
    centred, n, se and centred_se (binomial), random_baseline, num_fewshot, gpt2: {model: centred, n, difference, se,
    beyond_noise}}; "gpt2": {model: core, interval, difference, difference_interval, above}, with the noise of both;
    "notes". Errors: UserError for what is no result.

    beyond_noise: the difference is more than 1.96 of its standard errors, both models' noise in it. Of 22 tasks without
    any difference about one is. GPT-2's decisions are not published, so the noise that the same questions share cannot
    be left out.
    """
    checked(result)
    if draws < 100:
        raise UserError(f"draws is {draws}, must be at least 100 to give an interval")
    rng, models = np.random.default_rng(seed), gpt2_results(result)
    ours, core = resampled(result, rng, draws), mean(result)
    made = {key: result[key] for key in ("run", "bundle") if key in result}  # what the command adds
    made |= dict(
        name=titled(result), baselines=result["baselines"], core=core, se=float(ours.std()), interval=interval(ours)
    )
    if whole(result):
        made["bar"] = GPT2_MEANS[-1] if result["name"] == "CORE" else mean(models[GPT2[-1]])
        made["above_bar"] = above(ours, made["bar"])
    made |= dict(draws=draws, seed=seed, n=sum(row["n"] for row in result["tasks"].values()), max_examples=result.get("max_examples"),
                 max_len=result.get("max_len"), notes=notes(result), tasks={}, gpt2={})  # fmt: skip
    for label, row in result["tasks"].items():
        a, b = row["accuracy"], row["random_baseline"]
        se, beside = math.sqrt(a * (1 - a) / row["n"]), {}
        for model, theirs in models.items():
            other = theirs["tasks"][label]
            difference, noise = (a - other["accuracy"]) / (1 - b), difference_se(row, other) / (1 - b)
            beside[model] = dict(centred=centred(other["accuracy"], b), n=other["n"], difference=difference, se=noise,
                                 beyond_noise=abs(difference) > 1.96 * noise)  # fmt: skip
        made["tasks"][label] = dict(accuracy=a, centred=centred(a, b), n=row["n"], se=se, centred_se=se / (1 - b), random_baseline=b,
                                    num_fewshot=row["num_fewshot"], gpt2=beside)  # fmt: skip
    for model, theirs in models.items() if whole(result) else ():
        drawn = resampled(theirs, rng, draws)
        made["gpt2"][model] = dict(core=mean(theirs), interval=interval(drawn), difference=core - mean(theirs),
                                   difference_interval=interval(ours - drawn), above=above(ours - drawn))  # fmt: skip
    return made


def compare(a: dict, b: dict, seed: int = 0, draws: int = DRAWS) -> dict:
    """The difference a - b of two results on the same questions: two models, two checkpoints, or two few-shot draws of
    one.

    Tasks on which both have their decisions, on equally many examples, are resampled in pairs: what makes a question
    hard for both then cancels. The others are resampled apart. Returns "core" (a, b), "difference", "se", "interval"
    (95 %), "above" (the probability that a is better on further questions), "unpaired_se" (had all been resampled
    apart), "paired" (how many tasks), and "tasks": {label: difference (centred), se, interval, paired, beyond_noise (0
    lies outside the interval)}.
    Errors: UserError where the two are not on the same tasks with the same baselines.
    """
    checked(a, "the first result"), checked(b, "the second result")
    names = [f"{r['name']} ({r['baselines']}; {len(r['tasks'])} tasks)" for r in (a, b)]
    guess = [{label: row["random_baseline"] for label, row in r["tasks"].items()} for r in (a, b)]
    if names[0] != names[1] or guess[0] != guess[1]:
        raise UserError(
            f"{names[0]} and {names[1]} cannot be compared: tasks or baselines differ; score both on the same bundle and tasks"
        )
    if draws < 100:
        raise UserError(f"draws is {draws}, must be at least 100 to give an interval")
    rng, total, apart, tasks = np.random.default_rng(seed), 0, 0, {}
    for label, x in a["tasks"].items():
        y, b_ = b["tasks"][label], x["random_baseline"]
        unpaired = sum(
            sign * rng.binomial(row["n"], hits(row) / row["n"], draws) / row["n"] for sign, row in ((1, x), (-1, y))
        ) / (1 - b_)
        paired = x["n"] == y["n"] and x.get("right") is not None and y.get("right") is not None
        drawn = resampled_differences(x, y, rng, draws) if paired else unpaired
        total, apart, (low, high) = total + drawn, apart + unpaired, interval(drawn)
        tasks[label] = dict(difference=(x["accuracy"] - y["accuracy"]) / (1 - b_), se=float(drawn.std()), interval=[low, high],
                            paired=paired, beyond_noise=low > 0 or high < 0)  # fmt: skip
    total, apart = total / len(tasks), apart / len(tasks)
    return dict(name=titled(a), core=[mean(a), mean(b)], difference=mean(a) - mean(b), se=float(total.std()), interval=interval(total),
                above=above(total), unpaired_se=float(apart.std()), paired=sum(t["paired"] for t in tasks.values()), draws=draws,
                seed=seed, tasks=tasks)  # fmt: skip


# ---- to read and to keep


def text(report: dict) -> str:
    """A report as a table: a task's differences to the GPT-2 models have a star where they exceed the noise of both."""
    models = list(next(iter(report["tasks"].values()))["gpt2"])
    width = max(map(len, [*report["tasks"], report["name"]]))
    lines = [
        f"{'task':{width}}  {'n':>6} {'accuracy':>8} {'+-':>6}  {'centred':>8} {'+-':>6}"
        + "".join(f" {'- ' + m:>15}" for m in models)
    ]
    for label, row in report["tasks"].items():
        line = f"{label:{width}}  {row['n']:6} {row['accuracy']:8.4f} {row['se']:6.4f}  {row['centred']:8.4f} {row['centred_se']:6.4f}"
        lines.append(
            line
            + "".join(f" {g['difference']:+14.4f}{'*' if g['beyond_noise'] else ' '}" for g in row["gpt2"].values())
        )
    line = f"{report['name']:{width}}  {report['n']:6} {'':8} {'':6}  {report['core']:8.4f} {report['se']:6.4f}"
    for g in report["gpt2"].values():
        low, high = g["difference_interval"]
        line += f" {g['difference']:+14.4f}{'*' if low > 0 or high < 0 else ' '}"
    low, high = report["interval"]
    lines += [
        line,
        f"{report['name']} {report['core']:.4f}, 95 % interval {low:.4f} to {high:.4f}; baselines: {report['baselines']}",
    ]
    if "above_bar" in report:
        best = report["gpt2"][GPT2[-1]]
        lines.append(f"probability of being above {report['bar']:.6g} ({GPT2[-1]}): {report['above_bar']:.3f}; with the noise of "
                     f"{GPT2[-1]}'s own score: {best['above']:.3f}")  # fmt: skip
    if models:
        lines.append(
            "* differs from that model by more than the noise of both (5 % level: of 22 tasks about one does by chance)"
        )
    return "\n".join(lines + report["notes"])


def comparison_text(compared: dict, names=("first", "second")) -> str:
    """A comparison as a table."""
    width = max(map(len, [*compared["tasks"], compared["name"]]))
    lines = [f"{'task':{width}}  {'difference':>10} {'+-':>6}  95 % interval"]
    for label, row in [*compared["tasks"].items(), (compared["name"], compared)]:
        low, high = row["interval"]
        lines.append(
            f"{label:{width}}  {row['difference']:+10.4f} {row['se']:6.4f}  {low:+.4f} to {high:+.4f}{' *' if low > 0 or high < 0 else ''}"
        )
    a, b = compared["core"]
    lines.append(
        f"{names[0]} {a:.4f}, {names[1]} {b:.4f}; probability that the first is better: {compared['above']:.3f}"
    )
    lines.append(
        f"{compared['paired']} of {len(compared['tasks'])} tasks in pairs of decisions; all apart, the standard error would be {compared['unpaired_se']:.4f}"
    )
    lines.append(
        f"Questions only: two training runs of one recipe differ by about {TRAINING_SD * 2**0.5:.3f} (sd) from their seeds alone."
    )
    return "\n".join(lines)


def write(report: dict, folder) -> Path:
    """Write core.json, core.csv and core.png of a report into a folder, each atomically; returns the folder."""
    from gpt2course.course import plots

    folder = Path(folder)
    write_json(folder / "core.json", report)
    with atomic_file(folder / "core.csv") as f:
        rows = csv.writer(f, lineterminator="\n")
        rows.writerow(
            [
                "task",
                "n",
                "accuracy",
                "se",
                "centred",
                "centred_se",
                "random_baseline",
                "num_fewshot",
                *GPT2,
                *(f"minus {m}" for m in GPT2),
            ]
        )
        for label, r in report["tasks"].items():
            beside = [r["gpt2"].get(model, {}) for model in GPT2]
            rows.writerow([label, r["n"], r["accuracy"], r["se"], r["centred"], r["centred_se"], r["random_baseline"], r["num_fewshot"],
                           *(g.get("centred", "") for g in beside), *(g.get("difference", "") for g in beside)])  # fmt: skip
        beside = [report["gpt2"].get(model, {}) for model in GPT2]
        rows.writerow([report["name"], report["n"], "", "", report["core"], report["se"], "", "",
                       *(g.get("core", "") for g in beside), *(g.get("difference", "") for g in beside)])  # fmt: skip
    with atomic_file(folder / "core.png", "wb") as f:
        f.write(plots.png(plots.core_report_figure(report)))
    return folder


def main(
    file: tyro.conf.Positional[str],
    other: tyro.conf.Positional[str] = "",
    out: str = "",
    seed: int = 0,
    draws: int = DRAWS,
) -> None:
    """What a CORE result says: interval, probability of being above GPT-2, comparison with GPT-2 task by task or with
    another result.

    Example: python -m gpt2course.core_noise core.json

    Args:
        file: A result, as python -m gpt2course.core RUN --out FILE.json writes it.
        other: Another result on the same questions, to compare with.
        out: Folder for core.json, core.csv, core.png and compare.json; default: the file's name without .json, with
        -report. seed: Of the bootstrap.
        draws: Of the bootstrap.
    """
    result = read_result(file)
    compared = compare(result, read_result(other), seed, draws) if other else None
    made = report(result, seed, draws)
    print(text(made))
    folder = Path(out) if out else Path(file).with_name(Path(file).stem + "-report")
    write(made, folder)
    if compared:
        print(f"\n{file} less {other}")
        print(comparison_text(compared, (file, other)))
        write_json(folder / "compare.json", dict(files=[file, other]) | compared)
    print(f"written to {folder}")


if __name__ == "__main__":
    command(main)
