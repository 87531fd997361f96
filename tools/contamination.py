"""Contamination: which evaluation items appear in the training text? Lesson 10.

    python tools/contamination.py --corpus embedded

An item is found where 13 consecutive words of it (lower-case, without punctuation) appear in a training document, as in
GPT-3's analysis (arXiv 2005.14165, section 4 and appendix C). As there, one such gram makes an item "dirty"; an item of
8 to 12 words is one gram; shorter items are not searched for, since they match by chance; and a gram of more than 10
documents is a common phrase and does not count. This search finds no paraphrase and no translation.

A found passage is not yet a found answer: squad, coqa and boolq ask about web texts, which many corpora hold without
the questions. So the report also counts the items of which a found gram joins the question and the right answer.

Memory: the grams of all items are one sorted array of 64-bit hashes. Only one chunk of the training text is in memory.
"""

import itertools
import re
import sys
import unicodedata
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from gpt2course.core import sampled
from gpt2course.core_tasks import Bundle, Task, default_bundle, read_bundle
from gpt2course.data import load_corpus
from gpt2course.files import UserError, command, write_json

N = 13  # words of a gram
SHORTEST = 8  # words; a shorter item is not searched for
COMMON = 10  # documents; a gram of more documents does not count
MOSTLY = 0.8  # share of its grams from which an item is "mostly" found (Llama 2's "dirty", arXiv 2307.09288)
CHUNK = 2_000_000  # characters of training text that are looked up at a time

WORD = re.compile(r"[^\W_]+")  # letters and digits of any script
MULTIPLIERS = np.random.default_rng(13).integers(0, 1 << 64, N, dtype=np.uint64) | np.uint64(1)


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, in lower case, in Unicode's form C (é is one code point)."""
    return WORD.findall(unicodedata.normalize("NFC", text.lower()))


def item_text(task: Task, example: dict) -> tuple[str, str]:
    """(question, right answer) of an item: the text that would reveal the answer to a model."""
    if task.kind == "multiple_choice":
        return example["query"] + task.delimiter, example["choices"][example["gold"]]
    if task.kind == "schema":
        return example["context_options"][example["gold"]] + task.delimiter, example["continuation"]
    return example["context"].strip() + task.delimiter, example["continuation"]


def gram_hashes(values: np.ndarray):
    """Yield (n, hashes (W - n + 1,)) for n = 1 to N: of the n words from each place of a text, values (W,) uint64.

    The hash is the sum of multiplier times word, modulo 2^64. Words have random values, so two different grams have the
    same hash with a probability of about 2^-64 (multilinear hashing; Lemire and Kaser, arXiv 1202.4961).
    """
    h = np.zeros(len(values) + 1, np.uint64)
    for n in range(1, min(N, len(values)) + 1):
        h = h[:-1] + MULTIPLIERS[n - 1] * values[n - 1 :]
        yield n, h


@dataclass
class Index:
    """The grams of all items of a bundle: G grams, U of them distinct.

    Items are numbered through all tasks, within a task in the order in which they are scored.
    """

    bundle: Bundle
    vocabulary: dict[str, int]  # word -> number from 1; 0 is a word that no item has, or the end of a document
    values: np.ndarray  # (vocabulary + 1,) uint64, random
    hashes: np.ndarray  # (U,) uint64, sorted
    sizes: set[int]  # words of a gram: 13, and from 8 to 12 where an item is that short
    gram: np.ndarray  # (G,) int32, which of the U; the grams of an item are adjacent
    first: np.ndarray  # (items + 1,) int64, where the grams of an item begin
    length: np.ndarray  # (items,) int32, words
    answer: np.ndarray  # (items,) int32, words of the answer, the item's last
    items: dict[str, range]  # task -> its items

    def lookup(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places in h that are a gram of some item, which gram)."""
        at = np.minimum(np.searchsorted(self.hashes, h), len(self.hashes) - 1)
        places = np.flatnonzero(self.hashes[at] == h)
        return places, at[places]


def build(bundle: Bundle) -> Index:
    """Hash the grams of all items: some seconds for CORE, and about 0.5 GB during the call."""
    vocabulary, items, ids = {}, {}, []  # word -> number; task -> its items; the words of all items
    length, answer, size = [], [], []  # of each item: words, words of the answer; of each word: length of its gram or 0
    for task in bundle.tasks:
        began = len(length)
        for example in sampled(task)[0].examples:
            question, right = item_text(task, example)
            found = words(question + right)
            ids += [vocabulary.setdefault(word, len(vocabulary) + 1) for word in found]
            length.append(len(found))
            answer.append(len(found) - len(words(question)))
            grams = len(found) - N + 1 if len(found) >= N else int(len(found) >= SHORTEST)
            size += [min(len(found), N)] * grams + [0] * (len(found) - grams)
        items[task.label] = range(began, len(length))
    values = np.random.default_rng(0).integers(0, 1 << 64, len(vocabulary) + 1, dtype=np.uint64)
    size, h = np.array(size, np.int8), np.zeros(len(ids), np.uint64)
    for n, some in gram_hashes(values[np.array(ids, np.int64)]):
        here = np.flatnonzero(size == n)
        h[here] = some[here]
    if not size.any():
        raise UserError(f"no item of the bundle {bundle.name} has {SHORTEST} words, so there is nothing to search for")
    distinct, gram = np.unique(h[size > 0], return_inverse=True)
    ends = np.cumsum([0, *length])
    first = np.concatenate([[0], np.cumsum(size > 0)])[ends]
    return Index(
        bundle, vocabulary, values, distinct, set(size[size > 0].tolist()), gram.astype(np.int32), first,
        np.array(length, np.int32), np.array(answer, np.int32), items,
    )  # fmt: skip


@dataclass
class Found:
    """Which grams of an Index appear in a training text."""

    documents: np.ndarray  # (U,) int32, in how many documents a gram appears
    example: np.ndarray  # (U,) int64, the first of them; -1 where there is none
    read: int = 0  # documents
    touched: int = 0  # documents with any gram of any item
    words: int = 0


def chunks(split, documents: int | None):
    """Yield the documents of a split in lists of about CHUNK characters, until enough are read."""
    chunk, size = [], 0
    for text in itertools.islice(split, documents):
        chunk.append(text)
        size += len(text)
        if size > CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def scan(index: Index, split, documents: int | None = None, progress=None) -> Found:
    """Look up every gram of a training text, of at most so many documents. progress(documents read)."""
    found = Found(np.zeros(len(index.hashes), np.int32), np.full(len(index.hashes), -1, np.int64))
    number = index.vocabulary.get
    for texts in chunks(split, documents):
        ids, ends = [], []
        for text in texts:
            ids += [number(word, 0) for word in words(text)]
            ids.append(0)  # no gram crosses the end of a document
            ends.append(len(ids))
        pairs = [np.zeros(0, np.int64)]  # gram and document in one number
        for n, h in gram_hashes(index.values[np.array(ids, np.int64)]):
            if n in index.sizes:
                place, gram = index.lookup(h)
                pairs.append(gram * len(texts) + np.searchsorted(ends, place, side="right"))
        gram, document = np.divmod(np.unique(np.concatenate(pairs)), len(texts))
        grams, at, times = np.unique(gram, return_index=True, return_counts=True)
        new = found.documents[grams] == 0
        found.example[grams[new]] = found.read + document[at[new]]
        found.documents[grams] += times.astype(np.int32)
        found.touched += len(np.unique(document))
        found.words += len(ids) - len(texts)
        found.read += len(texts)
        if progress:
            progress(found.read)
    return found


# ---- the report


def summary(index: Index, found: Found) -> dict:
    """What was found, as a dict that JSON can hold.

    For each task: items, short (not searched for), dirty (a gram is found), mostly (80 % of the grams or more), answer
    (a found gram joins question and answer), share (of the grams of all items), common (distinct grams that do not
    count), and example: the item most of which is found (None without one), its first found gram and the document.
    """
    hit = ((found.documents > 0) & (found.documents <= COMMON))[index.gram]  # (G,)
    before = np.concatenate([[0], np.cumsum(hit)])
    grams, hits = np.diff(index.first), np.diff(before[index.first])  # (items,)
    share = np.divide(hits, grams, out=np.zeros(len(grams)), where=grams > 0)
    # The grams across the border of question and answer begin before it, by at most their length less one.
    border, size = index.length - index.answer, np.minimum(index.length, N)
    begin = np.minimum(index.first[:-1] + np.maximum(0, border - size + 1), index.first[1:])
    end = np.minimum(index.first[:-1] + border, index.first[1:])
    with_answer = before[end] > before[begin]
    tasks = {}
    for task in index.bundle.tasks:
        its = index.items[task.label]
        here = slice(its.start, its.stop)
        used = np.unique(index.gram[index.first[its.start] : index.first[its.stop]])
        tasks[task.label] = dict(
            items=len(its), short=int((grams[here] == 0).sum()), dirty=int((hits[here] > 0).sum()),
            mostly=int((share[here] >= MOSTLY).sum()), answer=int(with_answer[here].sum()),
            share=float(hits[here].sum() / max(1, grams[here].sum())),
            common=int((found.documents[used] > COMMON).sum()), example=None,
        )  # fmt: skip
        if hits[here].any():
            item = its.start + int(np.argmax(share[here]))
            k = int(np.argmax(hit[index.first[item] : index.first[item + 1]]))  # its first found gram
            text = words("".join(item_text(task, sampled(task)[0].examples[item - its.start])))[k : k + N]
            document = int(found.example[index.gram[index.first[item] + k]])
            tasks[task.label]["example"] = dict(item=item - its.start, document=document, gram=" ".join(text))
    return dict(
        bundle=index.bundle.name, items=len(grams), grams=len(index.gram), distinct_grams=len(index.hashes),
        documents=found.read, documents_touched=found.touched, words=found.words, tasks=tasks,
    )  # fmt: skip


def text(report: dict) -> str:
    """A report as a table, with one example for each task."""
    tasks = report["tasks"]
    width = max(map(len, tasks))
    lines = [
        f"{'task':{width}}  {'items':>6} {'short':>6} {'dirty':>6} {'mostly':>6} {'with answer':>11} {'of grams':>8} "
        f"{'common':>6}"
    ]
    for label, row in tasks.items():
        counts = f"{row['items']:6,} {row['short']:6,} {row['dirty']:6,} {row['mostly']:6,} {row['answer']:11,}"
        lines.append(f"{label:{width}}  {counts} {row['share']:8.2%} {row['common']:6,}")
    dirty, answer, short = (sum(row[key] for row in tasks.values()) for key in ("dirty", "answer", "short"))
    lines += [
        f"{dirty:,} of {report['items']:,} items are dirty; in {answer:,} a found gram joins question and answer",
        f"{short:,} items have fewer than {SHORTEST} words",
        f"read {report['documents']:,} documents, {report['words']:,} words; {report['documents_touched']:,} documents "
        "contain a gram of some item",
    ]
    examples = {label: row["example"] for label, row in tasks.items() if row["example"]}
    lines += [f"{label}, item {e['item']}, document {e['document']}: {e['gram']}" for label, e in examples.items()]
    return "\n".join(lines)


@dataclass
class Contamination:
    """Which evaluation items appear in the training text? An overlap of 13 words, as GPT-3 measured it, task by task.

    Example: python tools/contamination.py --corpus embedded --out contamination.json
    """

    corpus: str = "embedded"  # embedded, climbmix, or the path of parquet, jsonl or txt; its training split is read
    bundle: str | None = None  # folder or zip; default: as python -m gpt2course.fast.core_fast
    documents: int | None = None  # read at most so many documents
    out: str | None = None  # write the report to this file as JSON


def main(args: Contamination) -> None:
    path = args.bundle or default_bundle()
    index = build(read_bundle(path))
    split = load_corpus(args.corpus).train
    total = min(len(split), args.documents or len(split))
    with tqdm(total=total, unit="document", mininterval=0.2 if sys.stderr.isatty() else 15, leave=False) as bar:
        found = scan(index, split, args.documents, lambda documents: bar.update(documents - bar.n))
    report = summary(index, found)
    print(f"{args.corpus} against {report['bundle']} ({path})\n{text(report)}")
    if args.out:
        write_json(args.out, report | dict(corpus=args.corpus, path=str(path)))


if __name__ == "__main__":
    command(main)
