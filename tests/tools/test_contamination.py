"""Contamination: the hashed search against sets of tuples; planted items; memory; the real bundle."""

import json
import tracemalloc
import unicodedata
from collections import defaultdict

import contamination
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course.core import sampled
from gpt2course.core_tasks import MINI, Bundle, Task, read_bundle
from gpt2course.data import from_list, load_corpus
from gpt2course.files import UserError

build, scan, summary, words = contamination.build, contamination.scan, contamination.summary, contamination.words
NUMBERS = " ".join("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty "
                   "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split())  # 33 words  # fmt: skip


def lm(label, *texts, answer_words=1):
    """A task of language modelling whose items are these texts, the last words of each its answer."""
    cut = [text.split(" ") for text in texts]
    examples = [dict(context=" ".join(w[:-answer_words]), continuation=" ".join(w[-answer_words:])) for w in cut]
    return Task(label, "language_modeling", 0, " ", 0.0, examples)


def bundle(*tasks, name="made up"):
    return Bundle(name, "its own", list(tasks))


def look(task, *documents):
    index = build(bundle(task))
    return summary(index, scan(index, from_list(list(documents))))


def filler(seed, n=40):
    rng = np.random.default_rng(seed)
    return " ".join(f"w{k}" for k in rng.integers(0, 10**9, n))


# ---- against sets of tuples


def reference_words(text):
    out, word = [], ""
    for c in unicodedata.normalize("NFC", text.lower()) + " ":
        if c.isalnum():
            word += c
        elif word:
            out, word = out + [word], ""
    return out


def reference(made: Bundle, documents: list[str], common: int) -> dict:
    """The same report, the slow and plain way: every gram a tuple of words, every document a set of them."""
    stands_in = defaultdict(set)
    for d, text in enumerate(documents):
        found = reference_words(text)
        for n in range(8, 14):
            for i in range(len(found) - n + 1):
                stands_in[tuple(found[i : i + n])].add(d)
    report = {}
    for task in made.tasks:
        row, grams_all, hits_all, too_common = defaultdict(int), 0, 0, set()
        for e in sampled(task)[0].examples:
            if task.kind == "multiple_choice":
                question, right = e["query"] + task.delimiter, e["choices"][e["gold"]]
            elif task.kind == "schema":
                question, right = e["context_options"][e["gold"]] + task.delimiter, e["continuation"]
            else:
                question, right = e["context"].strip() + task.delimiter, e["continuation"]
            item = reference_words(question + right)
            meet = len(reference_words(question))
            row["items"] += 1
            row["short"] += len(item) < 8
            grams = [(0, tuple(item))] if 8 <= len(item) < 13 else [(i, tuple(item[i : i + 13])) for i in range(len(item) - 12)]
            hits = [(i, g) for i, g in grams if 1 <= len(stands_in[g]) <= common]
            too_common |= {g for _, g in grams if len(stands_in[g]) > common}
            row["dirty"] += bool(hits)
            row["mostly"] += bool(grams) and len(hits) / len(grams) >= 0.8
            row["answer"] += any(i < meet < i + len(g) for i, g in hits)
            grams_all, hits_all = grams_all + len(grams), hits_all + len(hits)
        report[task.label] = dict(row) | dict(share=hits_all / max(1, grams_all), common=len(too_common))
    return report


@st.composite
def cases(draw):
    some_words = st.lists(st.sampled_from("a b C é don't x2 _ 北京 ; ß".split()), min_size=1, max_size=22).map(" ".join)
    items = draw(st.lists(some_words, min_size=2, max_size=6))
    tasks = [lm("first", *[f"{text} {draw(some_words)}" for text in items])]
    tasks.append(Task("second", "multiple_choice", 0, draw(st.sampled_from([" ", "", "\nAnswer: "])), 0.5,
                      [dict(query=text, choices=[draw(some_words), draw(some_words)], gold=draw(st.integers(0, 1))) for text in items]))  # fmt: skip
    tasks.append(Task("third", "schema", 0, " ", 0.5, [dict(context_options=[text, draw(some_words)], continuation=draw(some_words), gold=0) for text in items]))
    made, documents = bundle(*tasks), []
    whole = ["".join(contamination.item_text(task, e)) for task in made.tasks for e in task.examples]
    for _ in range(draw(st.integers(0, 8))):  # pieces of items between other words
        parts = []
        for _ in range(draw(st.integers(0, 3))):
            item = draw(st.sampled_from(whole)).split(" ")
            start = draw(st.integers(0, len(item) - 1))
            parts += item[start : start + draw(st.integers(5, 40))] + draw(st.sampled_from([[], ["a"], ["unheard"]]))
        documents.append(" ".join(parts).upper() if draw(st.booleans()) else ", ".join(parts))
    return made, documents


@settings(max_examples=120, deadline=None)
@given(cases(), st.integers(1, 4), st.sampled_from([1, 60, 10**6]))
def test_the_same_counts_as_sets_of_tuples(case, common, chunk):
    made, documents = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contamination, "CHUNK", chunk)  # the grouping of documents into chunks changes nothing
        patch.setattr(contamination, "COMMON", common)
        try:
            index = build(made)
        except UserError as e:  # nothing but short items
            assert "has 8 words" in str(e) and all(row["short"] == row["items"] for row in reference(made, [], common).values())
            return
        found = scan(index, from_list(documents))
        report, expected = summary(index, found), reference(made, documents, common)
    for label, row in expected.items():
        ours = report["tasks"][label]
        assert {key: ours[key] for key in row} == row | dict(share=pytest.approx(row["share"])), label
    assert found.read == len(documents) and found.words == sum(len(reference_words(text)) for text in documents)
    stands_in = [{tuple(w[i : i + n]) for n in range(8, 14) for i in range(len(w) - n + 1)} for w in map(reference_words, documents)]
    grams = [tuple(w) if 8 <= len(w) < 13 else tuple(w[i : i + 13])
             for task in made.tasks for e in sampled(task)[0].examples if len(w := reference_words("".join(contamination.item_text(task, e)))) >= 8
             for i in range(max(1, len(w) - 12))]  # fmt: skip
    counts = [sum(g in d for d in stands_in) for g in grams]
    assert found.documents[index.gram].tolist() == counts and len(index.hashes) == len(set(grams))
    firsts = [next((i for i, d in enumerate(stands_in) if g in d), -1) for g in grams]
    assert found.example[index.gram].tolist() == firsts
    assert found.touched == sum(any(g in d for g in grams) for d in stands_in)


@given(st.text())
def test_words(text):
    assert words(text) == reference_words(text)
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text)) or text.lower() != unicodedata.normalize("NFC", text).lower()


# ---- planted items


def test_a_planted_item_is_found():
    item = lm("t", NUMBERS, filler(0))
    i = [e["continuation"] for e in sampled(item)[0].examples].index("mu")
    row = look(item, filler(1), f"{filler(2)} {NUMBERS} {filler(3)}")["tasks"]["t"]
    assert (row["items"], row["dirty"], row["mostly"], row["answer"]) == (2, 1, 1, 1)
    assert row["share"] == 21 / (21 + 28)
    assert row["example"] == dict(item=i, document=1, gram=" ".join(NUMBERS.split()[:13]))
    five = lm("t", " ".join(NUMBERS.split()[:17]))  # grams
    assert [look(five, " ".join(NUMBERS.split()[:n]))["tasks"]["t"]["mostly"] for n in (15, 16, 17)] == [0, 1, 1]  # 80 % is mostly


# ---- streams, the command, the real bundle


class Made:
    """A split that makes its documents as they are read."""

    def __init__(self, n):
        self.n, self.read = n, 0

    def __len__(self):
        return self.n

    def __iter__(self):
        for i in range(self.n):
            self.read += 1
            yield "é " + filler(i, 299)


def test_memory_does_not_grow_with_the_training_text(monkeypatch):
    monkeypatch.setattr(contamination, "CHUNK", 200_000)
    index, peaks = build(read_bundle(MINI)), []
    for documents in (200, 1000):
        tracemalloc.start()
        found = scan(index, Made(documents))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.read == documents and found.words == documents * 300
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 24e6, peaks  # 0.8 and 4 MB of text


def test_a_limit_and_progress(monkeypatch):
    monkeypatch.setattr(contamination, "CHUNK", 10_000)
    split, seen = Made(50), []
    found = scan(build(bundle(lm("t", NUMBERS))), split, documents=16, progress=seen.append)
    assert found.read == split.read == seen[-1] == 16 and len(seen) > 1


def test_the_command(tmp_path, capsys):
    texts = ["".join(contamination.item_text(task, e)) for task in read_bundle(MINI).tasks for e in task.examples]
    long = next(text for text in texts if len(words(text)) >= 8)
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(dict(text=text)) + "\n" for text in [filler(0), long, filler(1), filler(2)]))
    contamination.main(contamination.Contamination(str(tmp_path / "corpus.jsonl"), str(MINI), out=str(tmp_path / "out.json")))
    report, printed = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out
    assert sum(row["mostly"] for row in report["tasks"].values()) >= 1 and report["documents"] == 3  # the last is validation
    assert f"against mini-CORE ({MINI})" in printed and "items are dirty" in printed


@pytest.mark.slow
def test_core_against_the_embedded_corpus(dev_data):
    index = build(read_bundle(dev_data / "core" / "eval_bundle.zip"))
    corpus = load_corpus("embedded")
    report = summary(index, scan(index, corpus.train))
    assert (report["items"], report["grams"], report["documents"], report["words"]) == (91_037, 6_639_323, 25_409, 2_765_284)
    dirty = {label: row["dirty"] for label, row in report["tasks"].items() if row["dirty"]}
    assert dirty == dict(squad=46, coqa=145, boolq=63) and sum(row["answer"] for row in report["tasks"].values()) == 0
    for row in report["tasks"].values():
        if e := row["example"]:
            assert f" {e['gram']} " in f" {' '.join(words(corpus.train[e['document']]))} "
