"""Contamination: the hashed, streamed search against sets of tuples; planted items; memory; the real bundle."""

import json
import os
import subprocess
import sys
import tracemalloc
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import contamination
from gpt2course.core_tasks import MINI, Bundle, Task, read_bundle
from gpt2course.contamination import Contamination, build, main, scan, summary, words
from gpt2course.core import sampled
from gpt2course.data import from_list, load_corpus
from gpt2course.files import UserError

DEV_DATA = os.environ.get("GPT2COURSE_DEV_DATA")
REAL = Path(DEV_DATA or ".") / "core" / "eval_bundle.zip"
needs_real = pytest.mark.skipif(not (DEV_DATA and REAL.exists()), reason="GPT2COURSE_DEV_DATA has no core/eval_bundle.zip")
NUMBERS = " ".join("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty "
                   "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split())  # 33 words  # fmt: skip


def lm(label, *texts, answer_words=1):
    """A task of language modelling whose items are these texts, the last words of each its answer."""
    cut = [text.split(" ") for text in texts]
    examples = [dict(context=" ".join(w[:-answer_words]), continuation=" ".join(w[-answer_words:])) for w in cut]
    return Task(label, "language_modeling", 0, " ", 0.0, examples)


def bundle(*tasks, name="made up"):
    return Bundle(name, "its own", tuple(task.label for task in tasks), list(tasks))


def look(task_or_bundle, *documents, **kw):
    made = task_or_bundle if isinstance(task_or_bundle, Bundle) else bundle(task_or_bundle)
    index = build(made)
    return summary(index, scan(index, from_list(list(documents))), **kw)


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


def reference(made: Bundle, documents: list[str], common: int, dirty: float) -> dict:
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
            row["whole"] += 8 <= len(item) < 13
            grams = [(0, tuple(item))] if 8 <= len(item) < 13 else [(i, tuple(item[i : i + 13])) for i in range(len(item) - 12)]
            hits = [(i, g) for i, g in grams if 1 <= len(stands_in[g]) <= common]
            too_common |= {g for _, g in grams if len(stands_in[g]) > common}
            row["found"] += bool(hits)
            row["dirty"] += bool(grams) and len(hits) / len(grams) > dirty
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
@given(cases(), st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.7]), st.sampled_from([1, 60, 10**6]))
def test_the_same_counts_as_sets_of_tuples(case, common, dirty, chunk):
    made, documents = case
    before, contamination.CHUNK = contamination.CHUNK, chunk  # whatever the documents are looked up together with
    try:
        try:
            index = build(made)
        except UserError as e:  # nothing but short items
            assert "no item of 8 words" in str(e) and all(row["short"] == row["items"] for row in reference(made, [], common, dirty).values())
            return
        found = scan(index, from_list(documents))
    finally:
        contamination.CHUNK = before
    report, expected = summary(index, found, common=common, dirty=dirty), reference(made, documents, common, dirty)
    for label, row in expected.items():
        ours = report["tasks"][label]
        assert {key: ours[key] for key in row} == row | dict(share=pytest.approx(row["share"])), label
    assert found.read == len(documents) and found.words == sum(len(reference_words(text)) for text in documents)
    assert found.bytes == sum(len(text.encode()) for text in documents)
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


def test_a_planted_item_is_found_and_one_changed_word_loses_13_grams():
    item = lm("t", NUMBERS, filler(0))
    i = [e["continuation"] for e in sampled(item)[0].examples].index("mu")
    row = look(item, filler(1), f"{filler(2)} {NUMBERS} {filler(3)}")["tasks"]["t"]
    assert (row["items"], row["found"], row["dirty"], row["mostly"], row["answer"]) == (2, 1, 1, 1, 1)
    assert row["share"] == 21 / (21 + 28)
    assert row["examples"] == [dict(item=i, share=1.0, document=1, documents=1, gram=" ".join(NUMBERS.split()[:13]))]
    changed = NUMBERS.replace("sixteen", "sixty")
    row = look(item, changed)["tasks"]["t"]
    assert row["share"] * 49 == pytest.approx(21 - 13) and row["found"] == 1 and row["mostly"] == 0
    assert look(item, changed, dirty=0.3)["tasks"]["t"]["dirty"] == 1 and look(item, changed, dirty=8 / 21)["tasks"]["t"]["dirty"] == 0
    five = lm("t", " ".join(NUMBERS.split()[:17]))  # grams
    assert [look(five, " ".join(NUMBERS.split()[:n]))["tasks"]["t"]["mostly"] for n in (15, 16, 17)] == [0, 1, 1]  # 80 % is mostly
    for place, lost in ((0, 1), (5, 6), (12, 13), (20, 13), (32, 1)):
        w = NUMBERS.split()
        w[place] = "changed"
        assert look(item, " ".join(w))["tasks"]["t"]["share"] * 49 == pytest.approx(21 - lost)


@pytest.mark.parametrize("document, found", [
    (NUMBERS.upper(), True), (NUMBERS.replace(" ", ", "), True), (NUMBERS.replace(" ", "\n\n-- "), True), (f"“{NUMBERS}”!", True),
    (NUMBERS.replace(" ", ""), False), (NUMBERS.replace(" ", " and "), False), (" ".join(reversed(NUMBERS.split())), False),
    (" ".join(NUMBERS.split()[:12]), False), (" ".join(NUMBERS.split()[:13]), True),
    (" ".join(NUMBERS.split()[:12]) + " twelvetwelve", False), ("", False), ("—", False),
])  # fmt: skip
def test_case_and_punctuation(document, found):
    assert look(lm("t", NUMBERS), document)["tasks"]["t"]["found"] == found


def test_unicode():
    text = "Ärger über Öl naïve café Москва 北京 ÅNGSTRÖM ﬁne Straße Ιθάκη عربي हिन्दी"
    assert look(lm("t", text), unicodedata.normalize("NFD", text))["tasks"]["t"]["mostly"] == 1
    assert look(lm("t", text), text.lower())["tasks"]["t"]["mostly"] == 1
    assert look(lm("t", text), text.replace("Ö", "O"))["tasks"]["t"]["found"] == 0


def test_a_gram_does_not_reach_over_the_end_of_a_document():
    w = NUMBERS.split()
    row = look(lm("t", NUMBERS), " ".join(w[:12]), " ".join(w[12:24]))["tasks"]["t"]
    assert row["found"] == 0
    with_items_apart = look(lm("t", " ".join(w[:16]), " ".join(w[16:])), NUMBERS)["tasks"]["t"]  # nor over that of an item
    assert with_items_apart["share"] == 1.0 and with_items_apart["found"] == 2


def test_short_items():
    w = NUMBERS.split()
    report = look(lm("t", " ".join(w[:7]), " ".join(w[:8]), " ".join(w[:12]), " ".join(w[:13])), NUMBERS, " ".join(w[:12]))
    row = report["tasks"]["t"]
    assert (row["short"], row["whole"], row["found"], row["items"]) == (1, 2, 3, 4) and report["grams"] == 3
    assert {e["gram"]: e["documents"] for e in row["examples"]} == {" ".join(w[:n]): 2 if n < 13 else 1 for n in (8, 12, 13)}
    with pytest.raises(UserError, match="no item of 8 words or more"):
        build(bundle(lm("t", " ".join(w[:7]))))


def test_what_of_an_item_counts():
    """The right answer and no other; grams that end in the question are not in the answer."""
    w = NUMBERS.split()
    question, right, wrong = " ".join(w[:20]), " ".join(w[20:23]), "something else entirely"
    mc = Task("mc", "multiple_choice", 3, " ", 0.5, [dict(query=question, choices=[wrong, right], gold=1)])
    assert look(mc, f"{question} {right}")["tasks"]["mc"] | dict(examples=0) == dict(
        items=1, short=0, whole=0, found=1, dirty=1, mostly=1, answer=1, share=1.0, common=0, examples=0)  # fmt: skip
    assert look(mc, f"{question} {wrong}")["tasks"]["mc"]["share"] == 8 / 11
    assert look(mc, f"{question} {wrong}")["tasks"]["mc"]["answer"] == 0 and look(mc, question)["tasks"]["mc"]["answer"] == 0
    assert look(mc, " ".join(w[8:21]))["tasks"]["mc"]["answer"] == 1 and look(mc, " ".join(w[7:20]))["tasks"]["mc"]["answer"] == 0
    long = Task("long", "multiple_choice", 3, " ", 0.5, [dict(query=" ".join(w[:15]), choices=[" ".join(w[15:]), wrong], gold=0)])
    row = look(long, " ".join(w[15:]))["tasks"]["long"]  # the answer alone, as a text on which squad asks may hold it
    assert (row["found"], row["answer"]) == (1, 0) and look(long, " ".join(w[14:]))["tasks"]["long"]["answer"] == 1
    for n in (10, 20):  # brackets are no words, so that the answer cannot be seen
        signs = Task("signs", "multiple_choice", 3, " ", 0.5, [dict(query=" ".join(w[:n]), choices=[") ]", "("], gold=0)])
        assert look(signs, " ".join(w[:n]) + " ) ]")["tasks"]["signs"]["found"] == 1
        assert look(signs, " ".join(w[:n]) + " ) ]")["tasks"]["signs"]["answer"] == 0
    schema = Task("s", "schema", 0, " ", 0.5, [dict(context_options=[wrong, question], continuation=right, gold=1)])
    assert look(schema, f"{question} {right}")["tasks"]["s"]["share"] == 1.0 and look(schema, f"{wrong} {right}")["tasks"]["s"]["share"] == 0


@pytest.mark.parametrize("documents, counted", [(1, True), (10, True), (11, False), (30, False)])
def test_a_common_phrase_is_reported_and_not_counted(documents, counted):
    phrase = "all rights reserved no part of this text may be copied by anyone"  # 13 words
    twice = f"{phrase} {filler(0)} {phrase}"  # twice in a document counts once
    item = f"{phrase} {filler(1, 20)}"
    report = look(lm("t", item), *([twice] + [phrase] * (documents - 1)))
    row = report["tasks"]["t"]
    assert row["found"] == row["dirty"] == counted and row["common"] == report["common_grams"] == (not counted)
    assert report["common"] == ([] if counted else [dict(documents=documents, gram=phrase)])
    assert report["documents_touched"] == documents and look(lm("t", item), *[phrase] * documents, common=50)["tasks"]["t"]["found"] == 1
    assert phrase in contamination.text(report)


# ---- accuracy on clean and dirty items


def test_accuracy_on_clean_and_dirty_items():
    w = [filler(seed, 15) for seed in range(40)]
    task = lm("t", *w, "too short")
    order = ["".join(contamination.item_text(task, e)) for e in sampled(task)[0].examples]
    planted = set(w[:15])
    right = "".join(str(int(text in planted and text != w[0] or text in w[15:20])) for text in order)  # 14 of 15, and 5 of 25
    result = dict(name="made up", tasks=dict(t=dict(right=right, random_baseline=0.0)))
    made = bundle(task)
    report = look(made, *w[:15], result=result)
    row = report["tasks"]["t"]
    assert (row["on_dirty"]["n"], row["on_dirty"]["accuracy"]) == (15, 14 / 15)
    assert (row["on_clean"]["n"], row["on_clean"]["accuracy"]) == (25, 5 / 25)  # the short item is neither
    assert row["on_clean"]["interval"] == pytest.approx([0.0886, 0.3913], abs=1e-4)  # Wilson, from the formula by hand
    assert report["score"] == pytest.approx(19 / 41) and report["score_without_dirty"] == pytest.approx(5 / 26)
    assert "made up 0.4634 on all items, 0.1923 without the dirty ones" in contamination.text(report)
    some = look(made, *w[:15], result=dict(name="made up", tasks=dict(t=dict(right=right[:10], random_baseline=0.0))))["tasks"]["t"]
    assert some["on_dirty"]["n"] == sum(text in planted for text in order[:10])  # the first of the shuffled list
    everything = look(made, *w, result=result)["tasks"]["t"]
    assert everything["on_clean"] == dict(n=0, accuracy=None, interval=None)
    for wrong, message in ((dict(name="made up", tasks=dict(t=dict(right="01" * 30))), "60 decisions"),
                           (dict(name="other", tasks=dict(t=dict(right="01"))), "give the bundle that was scored"),
                           (dict(name="made up", tasks=dict(t=dict(accuracy=0.5))), "no decisions")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            look(made, *w[:15], result=wrong)


def test_wilson():
    assert contamination.wilson(0, 10) == pytest.approx([0, 0.2775], abs=1e-4) and contamination.wilson(10, 10) == pytest.approx([0.7225, 1], abs=1e-4)
    assert contamination.wilson(8, 10) == pytest.approx([0.4901, 0.9433], abs=1e-4) and contamination.wilson(0, 0) is None


# ---- streams


class Made:
    """A split that makes its documents as they are read."""

    def __init__(self, blocks, each=50, n=300):
        self.blocks, self.each, self.n, self.read = [(b * each, each) for b in range(blocks)], each, n, 0

    def __len__(self):
        return len(self.blocks) * self.each

    def read_block(self, b):
        self.read += 1
        return ["é " + filler(b * self.each + i, self.n - 1) for i in range(self.each)]


def test_memory_does_not_grow_with_the_training_text(monkeypatch):
    monkeypatch.setattr(contamination, "CHUNK", 200_000)
    index, peaks = build(read_bundle(MINI)), []
    for blocks in (4, 24):
        split = Made(blocks)
        tracemalloc.start()
        found = scan(index, split)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.read == len(split) and found.words == len(split) * 300
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 16e6, peaks  # 0.8 and 4.9 MB of text


def test_bounds_and_progress():
    index, split, said = build(bundle(lm("t", NUMBERS))), Made(10, each=7, n=20), []
    found = scan(index, split, documents=16, progress=lambda *a: said.append(a))
    assert found.read == 16 and split.read == 3 and said[-1] == (16, found.bytes)  # the other blocks are not read
    size = [len(text.encode()) for b in range(10) for text in split.read_block(b)]
    for most in (1, sum(size[:3]), sum(size[:3]) + 1, 10**9):
        expected = next((i for i in range(1, len(size) + 1) if sum(size[:i]) >= most), len(size))
        found = scan(index, split, most=most)
        assert (found.read, found.bytes) == (expected, sum(size[:expected]))
    assert scan(index, split, documents=10**6).read == 70 and scan(index, from_list([])).read == 0
    for wrong in (dict(documents=0), dict(most=0)):
        with pytest.raises(UserError, match="is 0, must be at least 1"):
            scan(index, split, **wrong)


def test_the_order_of_progress_does_not_matter(monkeypatch):
    """Large documents, one to a chunk, and many small ones in a chunk find the same."""
    documents = [NUMBERS, filler(1), f"{NUMBERS} {NUMBERS}", filler(2, 3000), NUMBERS] * 3
    index, results = build(bundle(lm("t", NUMBERS, filler(1)))), []
    for chunk in (1, 300, 10**9):
        monkeypatch.setattr(contamination, "CHUNK", chunk)
        found = scan(index, from_list(documents))
        results.append((found.documents.tolist(), found.example.tolist(), found.read, found.touched, found.bytes, found.words))
    assert results[0] == results[1] == results[2] and max(results[0][0]) == 9


def test_false_hits_are_as_rare_as_said():
    report = look(lm("t", NUMBERS), filler(0, 1000))
    assert report["false_hits_expected"] == pytest.approx((1001 - 12) * 21 / 2**64) and report["documents_touched"] == 0


# ---- mini-CORE, the embedded corpus, the command


def test_mini_core_against_the_embedded_corpus_takes_seconds():
    index = build(read_bundle(MINI))
    found = scan(index, load_corpus("embedded").train, documents=3000)
    report = summary(index, found)
    assert found.seconds < 20 and found.read == 3000 and report["bundle"] == "mini-CORE"
    train = load_corpus("embedded").train
    for row in report["tasks"].values():
        for e in row["examples"]:
            assert f" {e['gram']} " in f" {' '.join(words(train[e['document']]))} "


def test_the_command(tmp_path, capsys):
    texts = ["".join(contamination.item_text(task, e)) for task in read_bundle(MINI).tasks for e in task.examples]
    long = next(text for text in texts if len(words(text)) >= 8)
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(dict(text=text)) + "\n" for text in [filler(0), long, filler(1), filler(2)]))
    args = ["--corpus", tmp_path / "corpus.jsonl", "--bundle", MINI, "--out", tmp_path / "out.json"]
    done = subprocess.run([sys.executable, "-m", "gpt2course.contamination", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert sum(row["mostly"] for row in report["tasks"].values()) >= 1 and report["documents"] == 3  # the last is validation
    assert f"against mini-CORE ({MINI})" in done.stdout and "words/s" in done.stdout and "item" in done.stdout
    corpus = str(tmp_path / "corpus.jsonl")
    for wrong, message in ((dict(documents=0), "documents is 0"), (dict(megabytes=0.0), "bytes is 0"), (dict(megabytes=-1.0), "bytes is 0"),
                           (dict(common=0), "common is 0"), (dict(dirty=1.0), "dirty 1.0"), (dict(out=str(tmp_path)), "is a folder"),
                           (dict(result=str(tmp_path / "none.json")), "does not exist"), (dict(tasks=("nothing",)), "nothing is not in")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            main(Contamination(**dict(corpus=corpus, bundle=str(MINI)) | wrong))
    main(Contamination(corpus=corpus, bundle=str(MINI), megabytes=0.0001))
    assert "read: 1 documents" in capsys.readouterr().out


@needs_real
def test_core_against_the_embedded_corpus():
    """91,037 items against 2.8 million words: about 300,000 to 600,000 words a second, and below a gigabyte."""
    index = build(read_bundle(REAL))
    corpus = load_corpus("embedded")
    found = scan(index, corpus.train)
    report = summary(index, found)
    assert (report["items"], report["grams"], found.read, found.words) == (91_037, 6_639_323, 25_409, 2_765_284)
    assert found.seconds < 60, f"{found.words / found.seconds:,.0f} words/s"
    dirty = {label: row["dirty"] for label, row in report["tasks"].items() if row["dirty"]}
    assert dirty == dict(squad=46, coqa=145, boolq=63) and sum(row["answer"] for row in report["tasks"].values()) == 0
    for row in report["tasks"].values():
        for e in row["examples"]:
            assert f" {e['gram']} " in f" {' '.join(words(corpus.train[e['document']]))} "
