"""CORE: hand-computed cases, an independent implementation of the scoring, the known guessers, and the noise of a score."""

import json
import math
import random
import statistics

import numpy as np
import pytest
import torch

from gpt2course import core
from gpt2course.core import centred, evaluate, few_shot, is_right, render, sampled
from gpt2course.core_tasks import CORE, GPT2_CENTRED, GPT2_CORE, MINI, TASKS, Bundle, Task, read_bundle
from gpt2course.files import UserError

BASELINES = {label: row[1] for label, row in CORE.items()}  # percent

class Chars:
    """A tokenizer of one token a character; BOS is 0."""

    bos = 0

    def encode(self, text, bos=False):
        return [0] * bos + [ord(c) for c in text]


def bigram(**following):
    """A fake model: after character c the next characters have the probabilities following[c]; all else is uniform."""

    def forward(ids):
        logits = torch.zeros(*ids.shape, 128)
        for c, probabilities in following.items():
            row = torch.full((128,), -30.0)
            for d, p in probabilities.items():
                row[ord(d)] = math.log(p)
            logits[ids == ord(c)] = row
        return logits

    return forward


def indifferent(ids):
    """A fake model that gives every character used the same loss, exactly 1000, so that means over any length tie exactly."""
    logits = torch.zeros(*ids.shape, 128)
    logits[..., 127] = 1000  # the only likely token is one that no text holds
    return logits


def mc(*choices, gold=0, query="q"):
    return Task("t", "multiple_choice", 0, " ", 0.5, [{"query": query, "choices": list(choices), "gold": gold}])


def schema(*contexts, continuation, gold=0):
    example = {"context_options": list(contexts), "continuation": continuation, "gold": gold}
    return Task("t", "schema", 0, " ", 0.5, [example])


def lm(context, continuation):
    return Task("t", "language_modeling", 0, " ", 0.0, [{"context": context, "continuation": continuation}])


def prediction(forward, task, max_len=None):
    """Which option a model takes: the gold index that would make the example right."""
    options = task.examples[0].get("choices") or task.examples[0]["context_options"]
    right = []
    for gold in range(len(options)):
        example = task.examples[0] | {"gold": gold}
        if is_right(forward, Chars(), Task(task.label, task.kind, 0, task.delimiter, 0.5, [example]), 0, max_len):
            right.append(gold)
    assert len(right) == 1
    return right[0]


# ---- one example


def test_multiple_choice_takes_the_lowest_mean_loss_from_the_first_difference():
    # q_ab against q_acd: both share "a", so the spans are "b" and "cd".
    # b: -ln 0.5 = 0.693. cd: (-ln 0.4 - ln 0.9) / 2 = 0.511, although the sum 1.022 is larger.
    forward = bigram(a={"b": 0.5, "c": 0.4, "x": 0.1}, c={"d": 0.9, "x": 0.1})
    rows, spans = core.tokens_and_spans("multiple_choice", ["q ab", "q acd"], Chars())
    assert rows == [[0, 113, 32, 97, 98], [0, 113, 32, 97, 99, 100]] and spans == [(4, 5), (4, 6)]
    losses, hits = core.score(forward, rows, spans, 0)
    assert losses == pytest.approx([-math.log(0.5), -(math.log(0.4) + math.log(0.9)) / 2], abs=1e-5)
    assert hits == [True, False]  # b is the argmax after a, c is not
    assert prediction(forward, mc("ab", "acd")) == 1


def test_ties_go_to_the_first():
    assert prediction(bigram(**{" ": {"b": 0.4, "c": 0.4, "a": 0.2}}), mc("a", "b", "c")) == 1
    assert prediction(indifferent, mc("same", "same")) == 0  # all NaN


def test_a_choice_that_begins_all_others_is_nan():
    # Its span is empty and its loss NaN: Python's min() keeps a NaN that comes first, and never takes a later one.
    forward = bigram(a={"c": 0.9, "b": 0.1})
    assert prediction(forward, mc("a", "ab", "ac")) == 0
    assert prediction(forward, mc("ab", "a", "ac")) == 2
    assert prediction(forward, mc("ac", "ab", "a")) == 0
    losses, _ = core.score(forward, *core.tokens_and_spans("multiple_choice", ["q ab", "q a"], Chars()), 0)
    assert losses[0] > 0 and math.isnan(losses[1])


def test_a_tokenizer_that_joins_prompt_and_continuation_is_an_error():
    class Joins(Chars):  # the last two characters are one token
        def encode(self, text, bos=False):
            return [0] * bos + [ord(c) for c in text[:-2]] + [1000 + ord(text[-1])]

    class Same(Chars):  # nothing is left of the continuation
        def encode(self, text, bos=False):
            return [0] * bos + [ord(text[0])]

    for tokenizer in (Joins(), Same()):
        with pytest.raises(UserError, match="task t, example 0 .*continuation"):
            is_right(indifferent, tokenizer, lm("q", "ab"), 0)


FEW = [
    dict(query=" Q0 ", choices=["w0", "r0"], context_options=["w0", "r0"], gold=1, context=" k0\n", continuation="c0"),
    dict(query="Q1", choices=["r1", "w1"], context_options=["r1", "w1"], gold=0, context="k1", continuation="c1 "),
    dict(query="Q2", choices=["A", "B"], context_options=["A", "B"], gold=0, context="k2 ", continuation="c2"),
]


@pytest.mark.parametrize(("kind", "expected"), [
    ("multiple_choice", ["Q1: r1\n\n Q0 : r0\n\nQ2: A", "Q1: r1\n\n Q0 : r0\n\nQ2: B"]),
    ("schema", ["r1: c1 \n\nr0: c0\n\nA: c2", "r1: c1 \n\nr0: c0\n\nB: c2"]),
    ("language_modeling", ["k1: c1 \n\nk0: c0\n\nk2:", "k1: c1 \n\nk0: c0\n\nk2: c2"]),
])  # fmt: skip
def test_rendered_prompts(kind, expected):
    assert render(Task("t", kind, 2, ": ", 0.5, FEW), 2, [1, 0]) == expected


def test_examples_are_shuffled_then_cut_and_shots_come_from_what_is_left():
    task = Task("t", "language_modeling", 3, " ", 0.0, [{"context": str(j), "continuation": "c"} for j in range(20)])
    expected = list(range(20))
    random.Random(1337).shuffle(expected)
    order = lambda cut: [int(e["context"]) for e in cut.examples]  # noqa: E731
    assert [int(e["context"]) for e in task.examples] == list(range(20))  # the task itself stays as it is
    for limit, pool, scored in [(None, 20, 20), (50, 20, 20), (4, 4, 4), (3, 20, 3), (1, 20, 1)]:  # <= shots: the full pool
        cut, n = sampled(task, limit)
        assert order(cut) == expected[:pool] and n == scored
        assert all(i not in few_shot(cut, i) for i in range(n))


def test_crop_keeps_the_last_tokens_of_each_row_and_a_model_of_limited_length_sees_no_more():
    rows, spans = core.crop([[0, 1, 2, 3, 4], [0, 1, 2]], [(3, 5), (2, 3)], 4)
    assert rows == [[1, 2, 3, 4], [0, 1, 2]] and spans == [(2, 4), (2, 3)]
    assert core.crop([[0, 1]], [(1, 2)], 2) == ([[0, 1]], [(1, 2)])
    with pytest.raises(UserError, match="max_len = 2"):
        core.crop([[0, 1, 2, 3, 4]], [(3, 5)], 2)  # the first scored token would have nothing before it
    forward = bigram(a={"b": 0.9, "c": 0.1})
    assert prediction(forward, mc("ac", "ab", query="long " * 9), max_len=4) == 1
    assert prediction(indifferent, schema("same", "same", continuation="wa"), max_len=50) == 0
    lengths = []
    evaluate(lambda ids: lengths.append(ids.shape[1]) or indifferent(ids), Chars(), MINI, max_len=100, max_examples=4)
    assert max(lengths) == 100


# ---- the whole evaluation, against an independent implementation


def reference(forward, tokenizer, task, data, i):
    """One example, as plainly as can be: every row alone, probabilities in float64, few-shot list built in full."""
    example = data[i]
    shots = random.Random(1234 + i).sample([e for j, e in enumerate(data) if j != i], task.num_fewshot)
    text = ""
    for e in shots:
        if task.kind == "multiple_choice":
            text += e["query"] + task.delimiter + e["choices"][e["gold"]]
        elif task.kind == "schema":
            text += e["context_options"][e["gold"]] + task.delimiter + e["continuation"]
        else:
            text += e["context"].strip() + task.delimiter + e["continuation"]
        text += "\n\n"

    def next_probabilities(row):
        return torch.softmax(forward(torch.tensor([row]))[0].double(), dim=-1)  # (T, V)

    if task.kind == "language_modeling":
        before = tokenizer.encode((text + example["context"].strip() + task.delimiter).strip(), bos=True)
        row = tokenizer.encode(text + example["context"].strip() + task.delimiter + example["continuation"], bos=True)
        p = next_probabilities(row)
        return all(p[t - 1].argmax().item() == row[t] for t in range(len(before), len(row)))
    if task.kind == "multiple_choice":
        rows = [tokenizer.encode(text + example["query"] + task.delimiter + choice, bos=True) for choice in example["choices"]]
        first = min(t for t in range(max(map(len, rows))) if len({tuple(row[: t + 1]) for row in rows}) > 1)
        scored = [range(first, len(row)) for row in rows]
    else:
        end = task.delimiter + example["continuation"]
        rows = [tokenizer.encode(text + context + end, bos=True) for context in example["context_options"]]
        same = max(n for n in range(min(map(len, rows))) if len({tuple(row[len(row) - n :]) for row in rows}) == 1)
        scored = [range(len(row) - same, len(row)) for row in rows]
    means = []
    for row, positions in zip(rows, scored):
        p = next_probabilities(row)
        means.append(sum(-math.log(p[t - 1, row[t]]) for t in positions) / len(positions))
    return min(range(len(means)), key=means.__getitem__) == example["gold"]


class RandomModel(torch.nn.Module):
    """A causal model with random weights; one that `knows` gets most tokens right, so that some continuations come out right."""

    max_len = None

    def __init__(self, seed, knows):
        super().__init__()
        torch.manual_seed(seed)
        self.wte, self.mix, self.head = torch.nn.Embedding(128, 32), torch.nn.Linear(64, 16), torch.nn.Linear(16, 128)
        self.knows = knows

    def forward(self, ids):
        x = self.wte(ids)  # (B, T, 32)
        past = x.cumsum(dim=1) / torch.arange(1, ids.shape[1] + 1)[:, None] ** 0.5
        logits = 9 * self.head(self.mix(torch.cat([x, past], dim=-1)).tanh())
        if self.knows:
            hint = (ids.cumsum(dim=1) % 7 != 0).float()[..., None]  # the choice depends on the past alone
            logits = logits + 9 * hint * torch.nn.functional.one_hot(ids.roll(-1, dims=1), 128)
        return logits


@pytest.mark.parametrize(("seed", "knows", "limit"), [(0, False, 25), (1, True, 25), (2, True, None)])
def test_scores_equal_an_independent_implementation(seed, knows, limit):
    model = RandomModel(seed, knows).eval()
    bundle = read_bundle(MINI)
    tasks = None if limit else ["agreement", "pronouns"]
    result = evaluate(model, Chars(), bundle, max_examples=limit, tasks=tasks)
    with torch.no_grad():
        for task in bundle.tasks:
            if task.label in result["tasks"]:
                data = list(task.examples)
                random.Random(1337).shuffle(data)
                data = data[:limit]
                cut, n = sampled(task, limit)
                ours = [is_right(model, Chars(), cut, i) for i in range(n)]
                assert ours == [reference(model, Chars(), task, data, i) for i in range(len(data))], task.label
                assert result["tasks"][task.label]["accuracy"] == sum(ours) / len(data)
    assert result["core"] == pytest.approx(statistics.mean(row["centred"] for row in result["tasks"].values()), abs=1e-12)
    if knows and limit:
        assert 0 < result["tasks"]["collocations"]["accuracy"] + result["tasks"]["repetition"]["accuracy"] < 2


def test_result_of_the_first_choice_guesser():
    steps = []
    result = evaluate(indifferent, Chars(), MINI, progress=lambda *step: steps.append(step))  # every loss ties: always the first
    assert {label: r["accuracy"] for label, r in result["tasks"].items()} == dict(
        agreement=0.5, word_order=0.25, next_word=0.25, knowledge=0.25, pronouns=0.5, collocations=0.0, repetition=0.0)  # fmt: skip
    assert (result["name"], result["baselines"]) == ("mini-CORE", "uniform guesser")
    assert result["core"] == 0 and not result["subset"] and "above_bar" not in result
    assert steps[0] == (1, 384, "agreement") and steps[-1] == (384, 384, "repetition") and len(steps) == result["n"] == 384
    json.dumps(result, allow_nan=False)
    assert result["tasks"]["agreement"]["centred_se"] == 2 * math.sqrt(0.25 / 64)
    variance = (4 * 0.25 / 64 + 4 * 0.25 / 56 + (16 / 9) * 0.1875 * (1 / 48 + 1 / 60 + 1 / 48)) / 49  # binomial
    assert result["core_se"] == pytest.approx(math.sqrt(variance), rel=0.03)
    low, high = result["core_interval"]
    assert low < result["core"] < high and high - low == pytest.approx(2 * 1.96 * result["core_se"], rel=0.05)


def test_centring():
    assert centred(0.25, 0.25) == 0 and centred(1, 0.25) == 1 and centred(0.4, 0.0) == 0.4
    assert centred(0.5523, 0.62) == pytest.approx(-0.1782, abs=1e-4)  # boolq of GPT-2 small
    xl, v2 = GPT2_CENTRED["GPT-2 XL"], dict(commonsense_qa=40.3, bigbench_language_identification=25, agi_eval_lsat_ar=25)
    accuracy = {label: xl[label] * (1 - b / 100) + b / 100 for label, b in BASELINES.items()}
    assert statistics.mean(centred(accuracy[t], v2.get(t, b) / 100) for t, b in BASELINES.items()) == pytest.approx(0.2309, abs=5e-5)


def test_subsets_are_called_parts_and_few_examples_do_not_crash():
    one = evaluate(indifferent, Chars(), MINI, max_examples=1)
    assert one["subset"] and one["n"] == 7 and all(r["n"] == 1 for r in one["tasks"].values())
    some = evaluate(indifferent, Chars(), MINI, tasks=["pronouns"])
    assert some["subset"] and list(some["tasks"]) == ["pronouns"] and some["n_tasks_bundle"] == 7
    assert not evaluate(indifferent, Chars(), MINI, max_examples=1000)["subset"]
    with pytest.raises(UserError, match="task nonsense is not in the bundle"):
        evaluate(indifferent, Chars(), MINI, tasks=["nonsense"])
    for wrong in ({"max_examples": 0}, {"max_len": 0}):
        with pytest.raises(UserError, match="must be at least 1"):
            evaluate(indifferent, Chars(), MINI, **wrong)


def test_a_diverged_model_is_an_error_and_not_a_score():
    with pytest.raises(UserError, match="task agreement, example 0 .*NaN"):
        evaluate(lambda ids: indifferent(ids) * math.nan, Chars(), MINI)


def test_bfloat16_logits_are_scored_in_float32():
    # in bfloat16 the two log-probabilities would tie; the logits themselves differ by one bit
    logits = torch.zeros(1, 128, dtype=torch.bfloat16)
    logits[0, ord("b")], logits[0, ord("c")] = 0.5, 0.5 + 2**-8
    assert prediction(lambda ids: logits.expand(*ids.shape, 128), mc("b", "c")) == 1


# ---- the noise of a score


def test_binomial_draws_are_a_resampling_of_the_decisions():
    rng, rows, explicit = np.random.default_rng(0), {}, np.zeros(20_000)
    for label, n, p, b in (("a", 40, 0.3, 0.25), ("b", 90, 0.8, 0.5), ("c", 60, 0.05, 0.0)):
        right = rng.random(n) < p
        rows[label] = dict(accuracy=right.mean(), n=n, random_baseline=b)
        explicit += centred(right[rng.integers(0, n, (20_000, n))].mean(axis=1), b) / 3
    draws, quantiles = core.bootstrap(rows, 20_000), (2.5, 16, 50, 84, 97.5)
    assert np.percentile(draws, quantiles) == pytest.approx(np.percentile(explicit, quantiles), abs=0.06 * explicit.std())
    assert draws.std() == pytest.approx(explicit.std(), rel=0.03)
    assert (core.bootstrap(rows) == core.bootstrap(rows)).all() and (core.bootstrap(rows) != core.bootstrap(rows, seed=1)).any()


# ---- what a score is called


def core_result(n=None, labels=tuple(CORE), accuracy=lambda label: 0.5):
    """The result of a model with these accuracies."""
    example = dict(query="q", choices=["a", "b"], gold=0)
    tasks = [Task(t, "multiple_choice", 0, " ", BASELINES[t] / 100, [example] * TASKS[t]) for t in CORE]
    chosen = [task for task in tasks if task.label in labels]
    counts = {t: min(n or TASKS[t], TASKS[t]) for t in labels}
    right = {t: [i < round(accuracy(t) * count) for i in range(count)] for t, count in counts.items()}
    return core.result(Bundle("CORE", "DCLM v1", tasks), chosen, right, n)


def test_the_probability_of_being_above_the_bar():
    """About a half with GPT-2 XL's own accuracies."""

    def xl(label):
        b = BASELINES[label] / 100
        return GPT2_CENTRED["GPT-2 XL"][label] * (1 - b) + b

    worse, same, better = (core_result(accuracy=lambda label, more=more: xl(label) + more) for more in (-0.05, 0.0, 0.05))
    assert worse["above_bar"] == 0 and 0.4 < same["above_bar"] < 0.6 and better["above_bar"] == 1
    assert same["core"] == pytest.approx(GPT2_CORE, abs=1e-4) and same["core_se"] == pytest.approx(0.0065, abs=2e-4)


def test_only_core_in_full_is_called_core():
    whole, part, some = core_result(), core_result(100), core_result(labels=("copa", "squad"))
    assert whole["above_bar"] == 1 and not any("above_bar" in r for r in (part, some))
    text = core.table(whole)
    assert f"\nCORE {whole['core']:.4f}, 95 % interval" in text and "probability of being above 0.256525 (GPT-2 XL): 1.000" in text
    assert "GPT-2 XL" in text and "0.2565" in text and "is not CORE" not in text and "part of" not in text
    for result, what in ((part, "22 of 22 tasks with at most 100 examples each"), (some, "2 of 22 tasks")):
        text = core.table(result)
        assert "\nCORE (part) " in text and "\nCORE 0" not in text and f"This is a part of CORE: {what}" in text and "probability" not in text
    assert "biases the score" in core.table(part) and "biases" not in core.table(some)
    mini = core.table(evaluate(indifferent, Chars(), MINI, max_examples=1))
    assert "mini-CORE is not CORE. Do not compare it" in mini and "GPT-2" not in mini


# ---- the real bundle


class Ascii(Chars):
    def encode(self, text, bos=False):
        return [0] * bos + [b & 127 for b in text.encode()]


def test_the_guessers_score_what_is_known(dev_data):
    real = read_bundle(dev_data / "core" / "eval_bundle.zip")
    first, best, even = [], [], []
    for task in real.tasks:
        accuracies = (0.0, 0.0, 0.0)
        if task.kind != "language_modeling":
            gold = [e["gold"] for e in task.examples]
            k = len(task.examples[0].get("choices") or task.examples[0]["context_options"])
            shares = [gold.count(i) / len(gold) for i in range(k)]
            accuracies = (shares[0], max(shares), 1 / k)
        for scores, accuracy in zip((first, best, even), accuracies):
            scores.append(centred(accuracy, task.random_baseline))
    assert [round(sum(scores) / 22, 4) for scores in (first, best, even)] == [-0.0166, 0.0355, -0.0007]
    result = evaluate(indifferent, Ascii(), real, tasks=["copa", "winograd"])
    for label in ("copa", "winograd"):
        gold = [e["gold"] for t in real.tasks if t.label == label for e in t.examples]
        assert result["tasks"][label]["accuracy"] == gold.count(0) / len(gold)
