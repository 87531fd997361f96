"""CORE: hand-computed cases, an independent implementation of the scoring, and the known guessers."""

import csv
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import core
from gpt2course.core_tasks import DCLM_V2
from gpt2course.core import MINI, Task, centred, evaluate, few_shot, is_right, read_bundle, render, sampled
from gpt2course.files import UserError

DEV_DATA = os.environ.get("GPT2COURSE_DEV_DATA")
REAL = Path(DEV_DATA or ".") / "core" / "eval_bundle.zip"
needs_real = pytest.mark.skipif(not (DEV_DATA and REAL.exists()), reason="GPT2COURSE_DEV_DATA has no core/eval_bundle.zip")


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


# ---- multiple choice


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


def test_a_shared_beginning_of_the_choices_is_not_scored():
    # " a" is dear in both. If it were scored, the longer choice would dilute it and win.
    forward = bigram(**{" ": {"z": 1.0}}, a={"b": 0.6, "c": 0.4}, c={"d": 0.55, "x": 0.45})
    assert prediction(forward, mc("ab", "acd")) == 0


def test_the_common_beginning_is_that_of_all_choices():
    # two of three share "ab"; the third shares only "a" with them, so the spans begin after "a" for all
    _, spans = core.tokens_and_spans("multiple_choice", ["q abc", "q abd", "q ae"], Chars())
    assert spans == [(4, 6), (4, 6), (4, 5)]


def test_ties_go_to_the_first():
    assert prediction(indifferent, mc("ab", "cd", "ef")) == 0
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


# ---- schema


def test_schema_scores_the_common_end():
    # The contexts end in x and y; all after it is shared: " wa". After x the blank is likely, after y it is not.
    forward = bigram(x={" ": 0.9, "q": 0.1}, y={" ": 0.2, "q": 0.8})
    rows, spans = core.tokens_and_spans("schema", ["long x wa", "y wa"], Chars())
    assert [row[start:end] for row, (start, end) in zip(rows, spans)] == [[32, 119, 97]] * 2 and spans == [(7, 10), (2, 5)]
    losses, _ = core.score(forward, rows, spans, 0)
    assert losses[0] == pytest.approx((-math.log(0.9) + 2 * math.log(128)) / 3, abs=1e-5)
    assert prediction(forward, schema("long x", "y", continuation="wa")) == 0
    assert prediction(forward, schema("y", "long x", continuation="wa")) == 1


def test_schema_end_reaches_into_the_contexts():
    # "the end" and "an end" share " end wa" although the options differ only in their first word
    _, spans = core.tokens_and_spans("schema", ["the end wa", "an end wa"], Chars())
    assert spans == [(4, 11), (3, 10)]
    assert prediction(indifferent, schema("same", "same", continuation="wa")) == 0  # nothing differs: NaN


# ---- language modelling


def test_language_modelling_needs_every_token_to_be_the_argmax():
    forward = bigram(q={" ": 1.0}, **{" ": {"a": 0.4, "b": 0.3, "c": 0.3}}, a={"b": 0.9, "c": 0.1})
    assert is_right(forward, Chars(), lm("q", "ab"), 0)
    assert not is_right(forward, Chars(), lm("q", "ac"), 0)  # last token wrong
    assert not is_right(forward, Chars(), lm("q", "b"), 0)  # first token wrong


def test_language_modelling_span_begins_after_the_stripped_prompt():
    # The prompt without its continuation is stripped, so with one token a character the blank is scored too.
    rows, spans = core.tokens_and_spans("language_modeling", render(lm("  q \n", "ab"), 0, []), Chars())
    assert rows == [[0, 113, 32, 97, 98]] and spans == [(2, 5)]
    forward = bigram(q={"z": 0.9, " ": 0.1}, **{" ": {"a": 1.0}}, a={"b": 1.0})
    assert not is_right(forward, Chars(), lm("q", "ab"), 0)


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


# ---- prompts


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


def test_the_shots_of_an_example_stand_in_its_prompt():
    task = Task("t", "language_modeling", 2, " ", 0.0, [{"context": f"k{j}", "continuation": f"c{j}"} for j in range(5)])
    seen = []

    def forward(ids):
        seen.append("".join(map(chr, ids[0].tolist())))
        return indifferent(ids)

    is_right(forward, Chars(), task, 3)
    a, b = random.Random(1237).sample([0, 1, 2, 4], 2)
    assert seen == [f"\0k{a} c{a}\n\nk{b} c{b}\n\nk3 c3"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_few_shot_picks_are_those_of_the_list_without_the_example(data):
    n = data.draw(st.integers(2, 60))
    k, i = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    task = Task("t", "language_modeling", k, " ", 0.0, [{}] * n)
    assert few_shot(task, i) == random.Random(1234 + i).sample([j for j in range(n) if j != i], k)


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


# ---- batches and cropping


def test_rows_begin_with_bos_and_are_padded_with_it():
    seen = []

    def forward(ids):
        seen.append(ids)
        return indifferent(ids)

    is_right(forward, Chars(), mc("a", "bcd"), 0)
    assert len(seen) == 1 and seen[0].dtype == torch.int64
    assert seen[0].tolist() == [[0, 113, 32, 97, 0, 0], [0, 113, 32, 98, 99, 100]]


def test_crop_keeps_the_last_tokens_of_each_row():
    rows, spans = core.crop([[0, 1, 2, 3, 4], [0, 1, 2]], [(3, 5), (2, 3)], 4)
    assert rows == [[1, 2, 3, 4], [0, 1, 2]] and spans == [(2, 4), (2, 3)]
    assert core.crop([[0, 1]], [(1, 2)], 2) == ([[0, 1]], [(1, 2)])
    with pytest.raises(UserError, match="max_len 2"):
        core.crop([[0, 1, 2, 3, 4]], [(3, 5)], 2)  # the first scored token would have nothing before it
    forward = bigram(a={"b": 0.9, "c": 0.1})
    assert prediction(forward, mc("ac", "ab", query="long " * 9), max_len=4) == 1
    assert prediction(indifferent, schema("same", "same", continuation="wa"), max_len=50) == 0


def test_a_model_of_limited_length_sees_no_more():
    lengths = []

    def forward(ids):
        lengths.append(ids.shape[1])
        return indifferent(ids)

    evaluate(forward, Chars(), MINI, max_len=100, max_examples=4)
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
    if knows and limit:
        assert 0 < result["tasks"]["collocations"]["accuracy"] + result["tasks"]["repetition"]["accuracy"] < 2


def test_result_of_the_first_choice_guesser():
    steps = []
    result = evaluate(indifferent, Chars(), MINI, progress=lambda *step: steps.append(step))  # every loss ties: always the first
    assert {label: r["accuracy"] for label, r in result["tasks"].items()} == dict(
        agreement=0.5, word_order=0.25, next_word=0.25, knowledge=0.25, pronouns=0.5, collocations=0.0, repetition=0.0)  # fmt: skip
    assert (result["name"], result["baselines"]) == ("mini-CORE", "uniform guesser")
    assert result["core"] == 0 and not result["subset"]
    assert steps[0] == (1, 384, "agreement") and steps[-1] == (384, 384, "repetition") and len(steps) == result["n"] == 384
    json.dumps(result, allow_nan=False)
    agreement = result["tasks"]["agreement"]
    assert agreement["n"] == 64 and agreement["se"] == math.sqrt(0.25 / 64) and agreement["centred_se"] == 2 * agreement["se"]
    variance = (4 * 0.25 / 64 + 4 * 0.25 / 56 + (16 / 9) * 0.1875 * (1 / 48 + 1 / 60 + 1 / 48)) / 49
    assert result["core_se"] == pytest.approx(math.sqrt(variance))
    low, high = result["core_interval"]
    assert (low + high) / 2 == pytest.approx(result["core"], abs=1e-12)
    assert high - low == pytest.approx(2 * 1.96 * result["core_se"])


def test_centring():
    assert centred(0.25, 0.25) == 0 and centred(1, 0.25) == 1 and centred(0.4, 0.0) == 0.4
    assert centred(0.5523, 0.62) == pytest.approx(-0.1782, abs=1e-4)  # boolq of GPT-2 small
    assert sum(row[4] for row in core.CORE.values()) / 22 == pytest.approx(0.256525, abs=2e-6)
    for m, whole in enumerate(core.GPT2_MEANS, 1):
        assert sum(row[m] for row in core.CORE.values()) / 22 == pytest.approx(whole, abs=2e-6)
    xl = dict(commonsense_qa=0.227, bigbench_language_identification=0.25, agi_eval_lsat_ar=0.273913)  # the three of v2
    v2 = [centred(xl[t], DCLM_V2[t] / 100) if t in xl else row[4] for t, row in core.CORE.items()]
    assert sum(v2) / 22 == pytest.approx(0.2309, abs=5e-5)


def test_subsets_say_so_and_few_examples_do_not_crash():
    one = evaluate(indifferent, Chars(), MINI, max_examples=1)
    assert one["subset"] and one["n"] == 7 and all(r["n"] == 1 for r in one["tasks"].values())
    some = evaluate(indifferent, Chars(), MINI, tasks=["pronouns"])
    assert some["subset"] and list(some["tasks"]) == ["pronouns"] and some["n_tasks_bundle"] == 7
    assert not evaluate(indifferent, Chars(), MINI, max_examples=1000)["subset"]
    with pytest.raises(UserError, match="'?nonsense'? is not in .*agreement, word_order"):
        evaluate(indifferent, Chars(), MINI, tasks=["nonsense"])
    with pytest.raises(UserError, match="nonsense"):
        evaluate(indifferent, Chars(), read_bundle(MINI), tasks=["nonsense"])
    for wrong in ({"max_examples": 0}, {"max_examples": -1}, {"max_len": 0}):
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


def test_a_model_that_ignores_the_question_scores_its_baseline():
    # Options are balanced: with probabilities of characters that do not depend on what stands before, each is right in its turn.
    torch.manual_seed(0)
    unigram = torch.randn(128)
    result = evaluate(lambda ids: unigram.expand(*ids.shape, 128), Chars(), MINI)
    for label in ("agreement", "next_word", "knowledge", "pronouns"):
        assert result["tasks"][label]["centred"] == pytest.approx(0, abs=1e-12), label


# ---- the command


def test_command_prints_a_table_and_writes_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    fake = types.SimpleNamespace(load_model=lambda run, device="auto": (RandomModel(0, True).eval(), Chars(), None))
    monkeypatch.setitem(sys.modules, "gpt2course.checkpoint", fake)
    out = tmp_path / "out" / "core.json"
    core.main(core.Core("some-run", max_examples=5, tasks=("pronouns", "next_word"), out=str(out), plain=True))
    text, result = capsys.readouterr().out, json.loads(out.read_text())
    assert result["name"] == "mini-CORE" and result["n"] == 10 and result["run"] == "some-run"
    assert f"mini-CORE, 2 of 7 tasks {result['core']:.4f}" in text and "At most 5 examples a task: biased" in text
    assert "mini-CORE, 2 of 7 tasks is not CORE" in text or "mini-CORE is not CORE" in text  # never under the other's name
    shutil.copytree(MINI, tmp_path / "eval" / "eval_bundle")  # a bundle in the home folder comes before the packaged one
    assert core.default_bundle() == tmp_path / "eval" / "eval_bundle"


def test_help_and_errors_of_the_command(tmp_path):
    def run(*args):
        command = [sys.executable, "-m", "gpt2course.core", *args]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])

    shown = run("--help")
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("--bundle", "--max-examples", "--tasks", "--max-len", "--out", "mini-CORE"))
    wrong = run("some-run", "--bundle", str(tmp_path / "nowhere"))
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: evaluation bundle") and wrong.stderr.count("\n") == 1


# ---- the real bundle


@pytest.fixture(scope="module")
def real():
    return read_bundle(REAL)


@needs_real
def test_the_guessers_score_what_is_known(real):
    first, best, even = [], [], []
    for task in real.tasks:
        if task.kind == "language_modeling":
            accuracies = (0.0, 0.0, 0.0)
        else:
            gold = [e["gold"] for e in task.examples]
            k = len(task.examples[0].get("choices") or task.examples[0]["context_options"])
            shares = [gold.count(i) / len(gold) for i in range(k)]
            accuracies = (shares[0], max(shares), 1 / k)
        for scores, accuracy in zip((first, best, even), accuracies):
            scores.append(centred(accuracy, task.random_baseline))
    assert [round(sum(scores) / 22, 4) for scores in (first, best, even)] == [-0.0166, 0.0355, -0.0007]


@needs_real
def test_the_first_choice_guesser_through_the_evaluator(real):
    result = evaluate(indifferent, Ascii(), real, tasks=["copa", "winograd"])
    for label in ("copa", "winograd"):
        gold = [e["gold"] for t in real.tasks if t.label == label for e in t.examples]
        assert result["tasks"][label]["accuracy"] == gold.count(0) / len(gold)


class Ascii(Chars):
    def encode(self, text, bos=False):
        return [0] * bos + [b & 127 for b in text.encode()]


@needs_real
def test_gpt2_scores_and_standard_errors(real):
    sizes = {t.label: len(t.examples) for t in real.tasks}
    models = ("openai-community-gpt2", "openai-community-gpt2-medium", "openai-community-gpt2-large", "openai-community-gpt2-xl")
    with zipfile.ZipFile(REAL) as z:
        for m, (model, expected) in enumerate(zip(models, (0.0063, 0.0070, 0.0070, 0.0071)), 1):
            rows = list(csv.reader(io.StringIO(z.read(f"eval_bundle/{model}.csv").decode())))[1:]
            scores = {row[0].strip(): float(row[2]) for row in rows}
            assert scores.pop("CORE") == core.GPT2_MEANS[m - 1]
            assert scores == core.GPT2_CENTRED[core.GPT2[m - 1]]
            variance = 0.0  # the known standard error of CORE by the formula of `evaluate`
            for task in real.tasks:
                accuracy = scores[task.label] * (1 - task.random_baseline) + task.random_baseline
                n = sizes[task.label] if m == 1 else min(1000, sizes[task.label])
                variance += accuracy * (1 - accuracy) / n / (1 - task.random_baseline) ** 2
            assert math.sqrt(variance) / 22 == pytest.approx(expected, abs=6e-5)


def test_the_leaderboard_means_the_same_core():
    from gpt2course import # which must not import core: core needs torch, and the runbook's kernel does without
    from gpt2course.ops import leaderboard

    assert list(leaderboard.CORE_TASKS) == list(core.CORE) and leaderboard.GPT2_CORE == core.GPT2_MEANS[-1]
