"""Lesson 10: wrong answers to its exercises get their hint, right ones pass; its figures draw; its rules are the package's."""

import math
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from lesson_cases import answers, change, functions, lesson_tests

from gpt2course import core
from gpt2course.core_tasks import GPT2_CORE, MINI, read_bundle
from gpt2course.course import lab
from gpt2course.course.figures import core as figures
from gpt2course.recipes import make_model, resolve

NAMES = {"10.1": ("three_scores",), "10.2": ("compare",), "10.3": ("runs_needed",), "10.4": ("dirty",), "10.5": ("bill",)}
SOLVED = answers("10", math=math, re=re, Counter=Counter)


# ---- 10.1


def three(questions, size=lambda t: len(t.encode()), best=min, last=False, order=(0, 1, 2), share=True, mean_first=False):
    """Three accuracies with one thing wrong."""
    right = [0, 0, 0]
    for losses, texts, gold in questions:
        ways = [sum(x) for x in losses], [sum(x) / len(x) for x in losses], [sum(x) / size(t) / (len(x) if mean_first else 1) for x, t in zip(losses, texts)]
        for k, v in enumerate(ways):
            at = len(v) - 1 - v[::-1].index(best(v)) if last else v.index(best(v))
            right[k] += at == gold
    out = [r / (len(questions) if share else 1) for r in right]
    return [out[k] for k in order]


def three_in_numpy(questions):
    hits = []
    for losses, texts, gold in questions:
        s, n, b = (np.array(x, float) for x in ([sum(x) for x in losses], [len(x) for x in losses], [len(t.encode()) for t in texts]))
        hits.append([int(np.argmin(x)) == gold for x in (s, s / n, s / b)])
    return np.mean(hits, axis=0)


# ---- 10.2


def paired(a, b, group, grouped=True, sign=1, root=True, divide=lambda n: n, centre=True, mean=True):
    d = [sign * (x - y) for x, y in zip(a, b)]
    m, sums = sum(d) / len(d), {}
    for i, x in enumerate(d):
        key = group[i] if grouped else i
        sums[key] = sums.get(key, 0) + x - (m if centre else 0)
    error = sum(s * s for s in sums.values()) / divide(len(d)) ** 2
    return m * (1 if mean else len(d)), error**0.5 if root else error


def unpaired(a, b, group):
    return np.mean(a) - np.mean(b), ((np.var(a) + np.var(b)) / len(a)) ** 0.5


def by_group(a, b, group):
    means = [np.mean([x - y for x, y, g in zip(a, b, group) if g == k]) for k in dict.fromkeys(group)]
    return np.mean(a) - np.mean(b), np.std(means) / len(means) ** 0.5


def groups_alike(a, b, group):
    means = [np.mean([x - y for x, y, g in zip(a, b, group) if g == k]) for k in dict.fromkeys(group)]
    return np.mean(means), SOLVED["compare"](a, b, group)[1]


def paired_in_numpy(a, b, group):
    d = np.subtract(a, b).astype(float)
    names = np.unique(group, return_inverse=True)[1]
    return d.mean(), np.sqrt((np.bincount(names, d - d.mean()) ** 2).sum()) / len(d)


def paired_by_matrix(a, b, group):
    d = torch.tensor(a) - torch.tensor(b, dtype=torch.double)
    e = d - d.mean()
    same = torch.tensor([[g == h for h in group] for g in group]).double()
    return d.mean(), (e @ same @ e).sqrt() / len(d)


# ---- 10.3


def runs(apart, sd, correlation=0.0, two=2, z=2.8, power=2, up=math.ceil, least=2, sign=-1, times=1):
    return times * max(least, up(two * (1 + sign * correlation) * abs(z * sd / apart) ** power))


# ---- 10.4


def items_found(items, documents, n=13, common=10, clean=True, short=True, least=8, places=False, joined=False, rest=False):
    """Dirty items with one thing wrong."""
    words = (lambda t: re.findall(r"[^\W_]+", t.lower())) if clean else str.split
    size = lambda w: n if len(w) >= n else len(w) if short and len(w) >= least else 0
    texts = [words(d) for d in ([" ".join(documents)] if joined else documents)]
    out = []
    for i, item in enumerate(map(words, items)):
        k, hit = size(item), False
        for j in range(len(item) - k + 1 if k else 0):
            gram = item[j : j + k]
            found = [sum(t[p : p + k] == gram for p in range(len(t) - k + 1)) for t in texts]
            hit |= 0 < sum(found if places else [x > 0 for x in found]) <= common
        if hit != rest:
            out.append(i)
    return out


def items_as_text(items, documents, n=13, common=10):
    """Grams as text between spaces, looked for in each document."""
    clean = lambda t: re.findall(r"[^\W_]+", t.lower())
    texts, out = [f" {' '.join(clean(d))} " for d in documents], set()
    for i, w in enumerate(map(clean, items)):
        size = n if len(w) >= n else len(w)
        for j in range(len(w) - size + 1 if size >= min(n, 8) else 0):
            if 0 < sum(f" {' '.join(w[j : j + size])} " in t for t in texts) <= common:
                out.add(i)
    return sorted(out)


# ---- 10.5


def cost(questions, flops, speed, dollars, last=1, prompts=True, tails=True, hours=3600, saved=lambda a, b: a - b, whole=1, both=1):
    alone = sum(p * (len(c) if prompts else 1) + sum(c) - (1 - whole) * len(c) for p, c in questions)
    shared = sum(p + (sum(c) - last * len(c) if tails else 0) for p, c in questions)
    return (alone, shared, both * saved(alone, shared) * flops / speed / hours * dollars)


WRONG = {
    ("10.1", "characters"): (change(three, size=len), "not a character"),
    ("10.1", "no bytes"): (change(three, size=lambda t: 1), "divides by the bytes"),
    ("10.1", "the mean by bytes"): (change(three, mean_first=True), "the sum, not the mean"),
    ("10.1", "the last of equals"): (change(three, last=True), "first choice"),
    ("10.1", "the highest"): (change(three, best=max), "lowest|wins"),
    ("10.1", "mean first"): (change(three, order=(1, 0, 2)), "sum first"),
    ("10.1", "counts"): (change(three, share=False), "counts"),
    ("10.1", "shares of the wrong ones"): (lambda q: [1 - x for x in three(q)], "counted as wrong"),
    ("10.1", "two"): (lambda q: three(q)[:2], "three accuracies"),
    ("10.1", "nothing"): (lambda q: None, "return missing"),
    ("10.2", "every question alone"): (change(paired, grouped=False), "as independent"),
    ("10.2", "b minus a"): (change(paired, sign=-1), "a minus b"),
    ("10.2", "a sum"): (change(paired, mean=False), "this is a sum"),
    ("10.2", "no sign"): (lambda a, b, g: tuple(map(abs, paired(a, b, g))), "keep the sign"),
    ("10.2", "no root"): (change(paired, root=False), "the variance"),
    ("10.2", "not divided"): (change(paired, divide=lambda n: 1), "divide by the number"),
    ("10.2", "divided by the root"): (change(paired, divide=math.sqrt), "not by its root"),
    ("10.2", "unpaired"): (unpaired, "unpaired"),
    ("10.2", "means of groups"): (by_group, "groups differ|add up within"),
    ("10.2", "each group the same"): (groups_alike, "not each group"),
    ("10.2", "not centred"): (change(paired, centre=False), "subtract the mean|groups"),
    ("10.2", "one result"): (lambda *a: paired(*a)[0], "difference and standard error"),
    ("10.3", "one recipe varies"): (change(runs, two=1), "both recipes vary"),
    ("10.3", "two standard errors"): (change(runs, z=1.96), "one half"),
    ("10.3", "exactly two"): (change(runs, z=2.0), "one half"),
    ("10.3", "no correlation"): (lambda apart, sd, correlation=0.0: runs(apart, sd), "paired by seed"),
    ("10.3", "correlation added"): (change(runs, sign=1), "not 1 \\+ correlation|not 1 + correlation"),
    ("10.3", "no square"): (change(runs, power=1), "the square"),
    ("10.3", "both together"): (change(runs, times=2), "of each recipe"),
    ("10.3", "rounded down"): (change(runs, up=math.floor), "a part of a run"),
    ("10.3", "rounded"): (change(runs, up=round), "a part of a run"),
    ("10.3", "a fraction"): (change(runs, up=float), "whole runs"),
    ("10.3", "one run"): (change(runs, least=1), "never fewer than 2"),
    ("10.4", "punctuation"): (change(items_found, clean=False), "without punctuation"),
    ("10.4", "all documents as one"): (change(items_found, joined=True), "crosses"),
    ("10.4", "places"): (change(items_found, places=True), "not places"),
    ("10.4", "usual phrases"): (lambda i, d, n=13, common=10: items_found(i, d, n, 10**6), "usual phrase"),
    ("10.4", "the shortest too"): (change(items_found, least=1), "fewer than 8"),
    ("10.4", "no short items"): (change(items_found, short=False), "one gram"),
    ("10.4", "the clean ones"): (change(items_found, rest=True), "the clean ones"),
    ("10.4", "all"): (lambda items, *a, **k: range(len(items)), "nothing is clean"),
    ("10.4", "none"): (lambda *a, **k: [], "no item is found"),
    ("10.4", "a number"): (lambda *a, **k: 1, "a list of indices"),
    ("10.5", "one prompt"): (change(cost, prompts=False), "once for each choice"),
    ("10.5", "whole rows less one"): (change(cost, whole=0), "whole rows"),
    ("10.5", "the last token read"): (change(cost, last=0), "never read"),
    ("10.5", "prompts alone"): (change(cost, tails=False), "several tokens are missing"),
    ("10.5", "seconds for hours"): (change(cost, hours=1), "3,600"),
    ("10.5", "the other way round"): (change(cost, saved=lambda a, b: b - a), "naive minus shared"),
    ("10.5", "the whole bill"): (change(cost, saved=lambda a, b: a), "whole bill"),
    ("10.5", "the bill that is left"): (change(cost, saved=lambda a, b: b), "bill with sharing"),
    ("10.5", "a backward pass"): (change(cost, both=3), "no backward"),
    ("10.5", "two results"): (lambda *a: cost(*a)[:2], "tokens, tokens, dollars"),
}  # fmt: skip
RIGHT = {
    ("10.1", "loops"): three,
    ("10.1", "in numpy"): three_in_numpy,
    ("10.2", "in numpy"): paired_in_numpy,
    ("10.2", "by a matrix"): paired_by_matrix,
    ("10.3", "in one line"): runs,
    ("10.3", "counting up"): lambda apart, sd, r=0.0: next(n for n in range(2, 10**6) if 2 * sd**2 * (1 - r) / n <= (abs(apart) / 2.8) ** 2 + 1e-15),
    ("10.4", "lists"): items_found,
    ("10.4", "texts in texts"): items_as_text,
    ("10.5", "sums"): cost,
    ("10.5", "choice by choice"): lambda q, f, s, d: (a := sum(p + c for p, cs in q for c in cs), b := sum(p for p, _ in q) + sum(c - 1 for _, cs in q for c in cs), (a - b) * f / s * d / 3600),
}  # fmt: skip

ROW = (["<BOS>", "The", " town", " is", "\n", " part"], 4, 6)
FIGURES = {
    "scored": (lambda: figures.scored({"a row": ROW, "another": (["x"] * 200, 3, 9)}), ["a row: 2 of 6", " part'", "another: 6 of 200"]),
    "dots": (lambda: figures.dots({"seeds": [0.25, 0.26], "other shots": [0.251]}, 0.2565, "CORE"), ["seeds: 2 from 0.2500 to 0.2600", "dashed line at 0.2565"]),
    "dots without a bar": (lambda: figures.dots({"seeds": [0.25, 0.26]}), ["mean 0.2550."]),
    "shares": (lambda: figures.shares({f"task_{i}": i for i in range(12)}, "share"), ["task_11 17%", "4 others 9%"]),
    "found": (lambda: figures.found({"text": [(2, 0.9), (13, 0.1)]}), ["text: 2 words 90%, 13 words 10%"]),
}  # fmt: skip
REFUSED = {
    "no row": lambda: figures.scored({}),
    "nothing before what is scored": lambda: figures.scored({"a": (["x"], 0, 1)}),
    "nothing scored": lambda: figures.scored({"a": (["x", "y"], 1, 1)}),
    "no score": lambda: figures.dots({"seeds": []}),
    "no share": lambda: figures.shares({"a": 0.0}, "share"),
    "one length": lambda: figures.found({"a": [(13, 0.5)]}),
}

globals().update(lesson_tests("10", NAMES, WRONG, RIGHT, FIGURES, REFUSED))


# ---- what the lesson builds


@pytest.fixture(scope="module")
def built():
    return functions("10", "scored", "spans", "draw_others", "core_score", "is_right", core=core)


def small(seed=1):
    """A model whose choices are far from ties, its tokenizer, and read(row) of the lesson."""
    tok = lab.tokenizer()
    model = make_model(resolve("modern", **lab.TOY)).init_weights(seed).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))

    @torch.no_grad()
    def read(row):
        return model(torch.tensor([row]))[0].float()

    return model, tok, read


def test_the_lessons_rules_decide_as_the_package_on_mini_core(built):
    model, tok, read = small()
    for task in read_bundle(MINI).tasks:
        task, n = core.sampled(task)
        for i in random.Random(1).sample(range(n), 30):
            assert built["draw_others"](n, i, task.num_fewshot) == core.few_shot(task, i)
            assert built["is_right"](read, tok, task, i) == core.is_right(model, tok, task, i), (task.label, i)


@pytest.mark.slow
def test_the_lessons_rules_decide_as_the_package_on_core(built, dev_data):
    """20 examples of each of the 22 tasks."""
    model, tok, read = small()
    for task in read_bundle(dev_data / "core" / "eval_bundle.zip").tasks:
        task, n = core.sampled(task)
        for i in random.Random(2).sample(range(n), 20):
            assert built["is_right"](read, tok, task, i) == core.is_right(model, tok, task, i), (task.label, i)


def test_what_the_lesson_says_of_recorded_scores(built):
    """The bar from GPT-2 XL's accuracies; the recorded models' scores as the text has them: seeds of two recipes overlap, shots move least."""
    from gpt2course.core_tasks import CORE, GPT2_CENTRED

    guess = {k: row[1] / 100 for k, row in CORE.items()}
    xl = {k: c * (1 - guess[k]) + guess[k] for k, c in GPT2_CENTRED["GPT-2 XL"].items()}
    assert built["core_score"](xl, guess) == pytest.approx(GPT2_CORE, abs=1e-6)
    base = {t.label: t.random_baseline for t in read_bundle(MINI).tasks}
    rows = [r for r in lab.recorded("core-noise") if r["bundle"] == "mini-CORE"]
    assert len({(r["arm"], r["seed"], r["draw"]) for r in rows}) == len(rows) and all(r["commit"] and r["torch"] and r["device"] for r in rows)
    score = {(r["arm"], r["seed"], r["draw"]): built["core_score"]({k: t.count("1") / len(t) for k, t in r["right"].items()}, base) for r in rows}
    seeds = {arm: [score[arm, s, 0] for s in (1, 2, 3)] for arm in ("0.02", "0.2")}
    shots = [score["0.02", 1, d] for d in range(5)]
    assert min(seeds["0.02"]) < max(seeds["0.2"])  # overlap
    assert max(shots) - min(shots) < max(seeds["0.02"]) - min(seeds["0.02"]) < 0.02
