"""Checks of lesson 10's exercises: three scores of one task, a paired difference, runs for a claim, dirty items, a bill."""

import math
import random
import re
from collections import Counter

from gpt2course.course.checks import Exercise, call, known, need, several, tried

# ---- 10.1


def _best(values: list[float], gold: int, last=False) -> bool:
    order = range(len(values) - 1, -1, -1) if last else range(len(values))
    return min(order, key=lambda c: values[c]) == gold


def _three_scores(questions, by=None, last=False) -> list[float]:
    """Accuracies by the sum, by the mean over tokens, by the sum over bytes; by: other sizes of a choice."""
    kinds = (lambda x, c: sum(x), lambda x, c: sum(x) / len(x), by or (lambda x, c: sum(x) / len(c.encode())))
    right = lambda f, q: _best([f(x, c) for x, c in zip(*q[:2])], q[2], last)
    return [sum(right(f, q) for q in questions) / len(questions) for f in kinds]


def three_scores(f) -> None:
    def questions(n, seed, choices=4):
        rng = random.Random(seed)
        letters = "abcdé ü漢字"
        texts = lambda: ["".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(choices)]
        some = lambda: rng.choices((0.5, 1.0, 2.0, 4.0, 5.5), k=rng.randint(1, 5))
        losses = lambda: [some() for _ in range(choices)]
        return [(losses(), texts(), rng.randrange(choices)) for _ in range(n)]

    toy = [([[3.0], [2.0, 2.0]], ["no", "maybe"], 1)]
    tie = [([[1.0], [1.0], [1.0]], ["a", "b", "c"], g) for g in (0, 0, 2)]
    for what, asked in (("one question, losses [3] and [2, 2]", toy), ("three ties", tie),
                        ("40 questions", questions(40, 1)), ("33 questions of two choices", questions(33, 2, 2))):  # fmt: skip
        right = _three_scores(asked)
        errors = [
            (_three_scores(asked, lambda x, c: sum(x) / len(c)), "a byte is not a character: é has two, 漢 three"),
            (_three_scores(asked, lambda x, c: sum(x)), "the third divides by the bytes of the choice's text"),
            (_three_scores(asked, lambda x, c: sum(x) / len(x) / len(c.encode())), "the third divides the sum, not the mean"),
            (_three_scores(asked, last=True), "a tie goes to the first choice"),
            ([right[1], right[0], right[2]], "sum first, then the mean over tokens"),
            ([1 - x for x in right], "the lowest loss wins; is right counted as wrong?"),
            ([x * len(asked) for x in right], "these are counts; divide by the number of questions"),
            ([_three_scores(asked, lambda x, c: -sum(x))[2]] * 3, "the lowest loss wins, not the highest"),
        ]  # fmt: skip
        got = several(call(f, asked, keep="the questions"), 3, "three accuracies")
        known([float(x) for x in got], right, f"the accuracies of {what}", [(e, h) for e, h in errors if e != right],
              "sum, mean over tokens, sum over bytes of the text; the lowest wins, the first of equals")  # fmt: skip


# ---- 10.2


def _compared(a, b, group=None, ddof=0):
    """(mean difference, its standard error by groups)."""
    d = [x - y for x, y in zip(a, b)]
    mean, sums = sum(d) / len(d), {}
    for i, x in enumerate(d):
        key = i if group is None else group[i]
        sums[key] = sums.get(key, 0.0) + x - mean
    return mean, math.sqrt(sum(s * s for s in sums.values())) / len(d)


def compare(f) -> None:
    rng = random.Random(3)
    many = [rng.randrange(9) for _ in range(80)]
    hard = [rng.random() for _ in range(9)]
    draw = lambda more: [int(rng.random() < min(1, hard[g] + more)) for g in many]
    tables = [([1, 1, 0, 0], [0, 1, 0, 1], [0, 1, 2, 3]), ([1, 1, 0, 0], [0, 0, 0, 1], ["x", "x", "y", "y"]),
              (draw(0.2), draw(0.0), many), (draw(0.0), draw(0.4), [f"story {g % 4}" for g in many])]  # fmt: skip
    for a, b, group in tables:
        n, (mean, error) = len(a), _compared(a, b, group)
        what = f"{n} questions in {len(set(group))} groups"
        var = lambda x: sum(y * y for y in x) / len(x) - (sum(x) / len(x)) ** 2
        sizes = Counter(group)
        means = [sum(x - y for x, y, g in zip(a, b, group) if g == k) / sizes[k] for k in sizes]
        got = several(call(f, a, b, group, keep="its inputs"), 2, "difference and standard error")
        known(float(got[0]), mean, f"the difference of {what}", [
            (abs(mean), "keep the sign: b can be better"), (-mean, "a minus b, not b minus a"),
            (mean * n, "this is a sum; divide by the questions"), (sum(means) / len(means), "each question counts the same, not each group"),
        ], "the mean over questions of a - b")  # fmt: skip
        known(float(got[1]), error, f"the standard error of {what}", [(e, h) for e, h in [
            (_compared(a, b)[1], "questions of one group are taken as independent: add up within a group before you square"),
            (math.sqrt((var(a) + var(b)) / n), "unpaired: take the difference of each question first"),
            (error**2, "this is the variance; take the root"), (error * n, "divide by the number of questions"),
            (error * math.sqrt(n), "divide by n, not by its root: the sum already grows with n"),
            (math.sqrt(var(means) / len(means)), "groups differ in size: add up deviations, do not average means"),
            (math.sqrt(sum((s * sizes[k]) ** 2 for k, s in zip(sizes, means))) / n, "subtract the mean difference first"),
        ] if abs(e - error) > 1e-6], "√(sum over groups of (sum of d - mean)²) / n")  # fmt: skip


# ---- 10.3


def _runs(apart, sd, correlation=0.0, z=2.8, two=2.0) -> int:
    return max(2, math.ceil(two * (1 - correlation) * (z * sd / apart) ** 2 - 1e-9))


def runs_needed(f) -> None:
    for args in ((0.003, 0.0062), (0.01, 0.0062), (0.003, 0.0054), (0.003, 0.0062, 0.5), (0.0005, 0.00023, 0.0),
                 (0.006, 0.0054, 0.9), (0.1, 0.001), (-0.004, 0.005)):  # fmt: skip
        apart, sd, *more = args
        rho = more[0] if more else 0.0
        exact = 2 * (1 - rho) * (2.8 * sd / apart) ** 2
        errors = [
            (max(1, math.ceil(exact)), "one run has no spread: never fewer than 2"),
            (_runs(*args, two=1), "both recipes vary: the variance of a difference is twice that of one"),
            (_runs(*args, z=2.0), "at two standard errors the chance is one half; for 80 % the difference must be 2.8"),
            (_runs(*args, z=1.96), "with 1.96 the chance is one half, and 80 % needs 2.8; or you used 2.8 and let one recipe vary "
             "(2 · 1.96² is nearly 2.8²)"),
            (_runs(apart, sd), "runs paired by seed: the correlation takes away (1 - correlation) of the variance"),
            (_runs(apart, sd, -rho), "pairing helps: 1 - correlation, not 1 + correlation"),
            (math.ceil(2 * (1 - rho) * 2.8 * sd / abs(apart)), "the runs grow with the square of sd / apart"),
            (2 * _runs(*args), "runs of each recipe, not of both together"),
            (math.floor(exact), "a part of a run is a whole run: round up"),
            (exact, "whole runs: round up"),
        ]  # fmt: skip
        known(call(f, *args), _runs(*args), f"the runs of each recipe for {args}",
              [(e, h) for e, h in errors if e != _runs(*args)], "2 (1 - correlation) (2.8 sd / apart)², rounded up, at least 2")  # fmt: skip


# ---- 10.4


def _words(text: str, clean=True) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower()) if clean else text.split()


def _grams(w, n, least=8):
    size = n if len(w) >= n else len(w) if len(w) >= least else 0
    return {tuple(w[i : i + size]) for i in range(len(w) - size + 1)} if size else set()


def _dirty(items, documents, n=13, common=10, clean=True, least=8, once=True, joined=False) -> list[int]:
    """The indices of the items with a gram in 1 to `common` documents."""
    mine, counts = [_grams(_words(t, clean), n, least) for t in items], Counter()
    every = set().union(*mine)
    texts = [" ".join(documents)] if joined else documents
    for words in (_words(t, clean) for t in texts):
        for size in {len(g) for g in every}:
            found = [g for g in (tuple(words[i : i + size]) for i in range(len(words) - size + 1)) if g in every]
            counts.update(set(found) if once else found)
    return [i for i, g in enumerate(mine) if any(0 < counts[x] <= common for x in g)]


def dirty(f) -> None:
    rng = random.Random(4)
    letters = lambda k: " ".join(rng.choices([a + b for a in "bdfgk" for b in "aeiou"], k=k))
    long, nine, seven, usual = letters(20), letters(9), letters(7), letters(14)
    shout = long.upper().replace(" ", ", ", 3) + "!"
    near = " ".join(w for i, w in enumerate(long.split()) if i != 10)  # one word lost: 10 words before, 9 after
    cut = long.split()
    parts = [letters(30) + " " + " ".join(cut[:10]), " ".join(cut[10:]) + " " + letters(30)]
    twice = letters(5) + " " + (usual + " ") * 12
    fill = [letters(40) for _ in range(5)]
    for what, items, docs, more in (
        ("an item in a document", [long, letters(20)], [letters(9) + " " + long + " " + letters(9)], {}),
        ("capitals and punctuation", [shout, letters(20)], [letters(9) + " " + long], {}),
        ("a document with one word lost", [long], [near], {}),
        ("an item cut between two documents", [long], parts, {}),
        ("items of 9 and of 7 words", [nine, seven], [nine + " " + letters(3), seven + " " + letters(9)], {}),
        ("a gram of 11 documents", [usual, long], [usual + " " + d for d in [*fill, *fill, long]], {}),
        ("a gram 12 times in one document", [usual], [twice], {}),
        ("n 5, common 1", [letters(6), long, nine], [long, nine, nine + " a"], dict(n=5, common=1)),
    ):  # fmt: skip
        right = _dirty(items, docs, **more)
        errors = [
            (_dirty(items, docs, **more, clean=False), "lower-case words without punctuation on both sides"),
            (_dirty(items, docs, **(more | dict(common=10**9))), "a gram of more than `common` documents is a usual phrase"),
            (_dirty(items, docs, **more, joined=True), "no gram crosses from one document into the next"),
            (_dirty(items, docs, **more, once=False), "count documents, not places: a gram twice in a document counts once"),
            (_dirty(items, docs, **more, least=1), "an item of fewer than 8 words is not searched for"),
            (_dirty(items, docs, **more, least=10**9), "an item of 8 words or more, but shorter than n, is one gram"),
            ([i for i in range(len(items)) if i not in right], "these are the clean ones"),
            (list(range(len(items))), "nothing is clean here: is one word in common enough?"),
            ([], "no item is found"),
        ]  # fmt: skip
        args = (items, docs, *more.values())
        got = several(tried(f, args, what, "items and documents are lists of texts"), None, "a list of indices")
        known(sorted(int(i) for i in got), right, f"{what}: the dirty items", [(e, h) for e, h in errors if e != right],
              "13 words in a row that stand in 1 to `common` documents")  # fmt: skip


# ---- 10.5


def _bill(questions, flops, speed, dollars, last=1, shared=True):
    naive = sum(p + c for p, choices in questions for c in choices)
    sharing = sum(p + sum(c - last for c in choices) if shared else p for p, choices in questions)
    return naive, sharing, (naive - sharing) * flops / speed / 3600 * dollars


def bill(f) -> None:
    one = [(100, [1, 1, 1, 1])]
    many = [(37 * i % 91 + 5, [1 + (i * j) % 7 for j in range(1, 2 + i % 4)]) for i in range(50)]
    for what, questions, *rest in (("one question, four choices of one token", one, 1e9, 1e12, 36.0),
                                   ("50 questions", many, 3e8, 2e9, 3.0), ("hellaswag-like", [(880, [13, 12, 15, 13])] * 7, 4.9e9, 4e14, 24.0)):  # fmt: skip
        right = _bill(questions, *rest)
        got = several(call(f, questions, *rest, keep="the questions"), 3, "tokens, tokens, dollars")
        names = ("tokens without sharing", "tokens with sharing", "dollars saved")
        asked = len(questions)
        mistakes = (
            [(right[1], "each choice reads the prompt again"), (sum(p for p, _ in questions), "the choices are missing"),
             (sum(p + sum(c) for p, c in questions), "without sharing the prompt is read once for each choice"),
             (right[0] - sum(len(c) for _, c in questions), "without sharing whole rows are read, the last token too")],
            [(_bill(questions, *rest, last=0)[1], "the last token of a choice is never read: nothing after it is scored"),
             (_bill(questions, *rest, shared=False)[1], "choices of several tokens are missing"), (right[0], "read the prompt once for all choices"),
             (right[1] - asked, "only the last token of each choice is left out")],
            [(right[2] * 3600, "speed is FLOPs a second, the price is an hour's: divide by 3,600"), (-right[2], "naive minus shared"),
             (_bill(questions, *rest)[0] * rest[0] / rest[1] / 3600 * rest[2], "this is the whole bill; how much is saved?"),
             (right[1] * rest[0] / rest[1] / 3600 * rest[2], "this is the bill with sharing; how much is saved?"),
             (right[2] * 3, "evaluation has no backward pass: flops is already that of a forward pass")],
        )  # fmt: skip
        for value, wanted, name, errors in zip(got, right, names, mistakes):
            need(value is not None, f"{name} is None")
            known(float(value), wanted, f"{name} of {what}", [(e, h) for e, h in errors if abs(e - wanted) > 1e-9 * abs(wanted)],
                  "prompt once, then each choice without its last token")  # fmt: skip


EXERCISES = (
    Exercise("10.1", "Three scores of one task", three_scores, points=3, minutes=15, difficulty=2, importance=4),
    Exercise("10.2", "A difference and its error", compare, points=3, minutes=15, difficulty=3, importance=5),
    Exercise("10.3", "Runs for a claim", runs_needed, points=2, minutes=10, difficulty=2, importance=5),
    Exercise("10.4", "Dirty items", dirty, points=4, minutes=20, difficulty=3, importance=4, reference=_dirty),
    Exercise("10.5", "The bill of an evaluation", bill, points=2, minutes=10, difficulty=2, importance=3),
)  # fmt: skip
