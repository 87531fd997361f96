"""Contamination: which evaluation items stand in the training text? Lesson 10 uses it.

    python -m gpt2course.contamination --corpus embedded

An item is found where 13 consecutive words of it (lower-cased, without punctuation) stand in a training document. The
size is that of GPT-3 (arXiv 2005.14165, section 4 and appendix C). As there, an item is "dirty" if one of its grams is
found, an item of fewer than 13 words is one gram, fewer than 8 words are not looked for, since they meet by chance, and
grams of more than 10 documents are phrases or boilerplate rather than leaks: reported, not counted. (Appendix C takes
the 5th percentile of a task's lengths, from 8 to 13, as the size for all of the task; we take 13 wherever an item has
13. Its words are cut at white space, ours at all that is no letter or digit.) Others: 8 tokens in Bloom filters
(GPT-2), 70 % of an item's 8-grams (PaLM, arXiv 2204.02311), more than 10 tokens in a row with a few that may differ,
and at least 80 % of the tokens (Llama 2, 2307.09288), 50 characters (GPT-4, 2303.08774). None of them finds a
paraphrase or a translation.

A found passage is not yet a found answer: squad, coqa and boolq ask about texts of the web, of which Wikipedia's stand
in many corpora without the questions. So the report counts apart the items of which a found gram holds the end of the
question and the beginning of the right answer.

Memory: the items' grams lie in one sorted array of 64-bit hashes, and of the training text there is never more than one
block.
"""

import itertools
import math
import re
import sys
import time
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2course.core_tasks import Bundle, Task, default_bundle, read_bundle
from gpt2course.core import centred, sampled
from gpt2course.data import load_corpus
from gpt2course.files import UserError, command, read_json, write_json

N = 13  # words of a gram
SHORTEST = 8  # words; a shorter item is not looked for
COMMON = 10  # documents; a gram of more is not counted
MOSTLY = 0.8  # share of its grams from which an item is "mostly" found (Llama 2's "dirty")
CHUNK = 2_000_000  # characters of training text that are looked up at a time

WORD = re.compile(r"[^\W_]+")  # letters and digits of any script
MULTIPLIERS = np.random.default_rng(13).integers(0, 1 << 64, N, dtype=np.uint64) | np.uint64(1)


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, lower-cased, in Unicode's form C, where é is one code point."""
    return WORD.findall(unicodedata.normalize("NFC", text.lower()))


def item_text(task: Task, example: dict) -> tuple[str, str]:
    """(question, right answer) of an item: what would have to be in the training text to give it away.

    Other options are left out, and so are the solved examples before it, which are items themselves.
    """
    if task.kind == "multiple_choice":
        return example["query"] + task.delimiter, example["choices"][example["gold"]]
    if task.kind == "schema":
        return example["context_options"][example["gold"]] + task.delimiter, example["continuation"]
    return example["context"].strip() + task.delimiter, example["continuation"]


def gram_hashes(values: np.ndarray):
    """Yield (n, hashes (W - n + 1,)) for n = 1 to N: of the n words from each place of a text, values (W,) uint64.

    The hash is the sum of multiplier times word, modulo 2^64. Words have random values, so that grams which differ
    have the same hash with a chance of about 2^-64 (multilinear hashing; Lemire and Kaser, arXiv 1202.4961).
    """
    h = np.zeros(len(values) + 1, np.uint64)
    for n in range(1, min(N, len(values)) + 1):
        h = h[:-1] + MULTIPLIERS[n - 1] * values[n - 1 :]
        yield n, h


@dataclass
class Index:
    """The grams of all items of a bundle.

    Items are numbered through all tasks, in each task in the shuffled order in which they are scored. G grams in all, U
    distinct.
    """

    bundle: Bundle
    vocabulary: dict[str, int]  # word -> number from 1; 0 is a word that no item has, or the end of a document
    values: np.ndarray  # (vocabulary + 1,) uint64, random
    hashes: np.ndarray  # (U,) uint64, sorted
    sizes: list[int]  # words of a gram that occur: 13, and where there are short items some from 8 to 12
    table: np.ndarray  # bool: whether a hash begins with these bits; spares most of the searching
    gram: np.ndarray  # (G,) int32, which of the U; the grams of an item follow each other
    first: np.ndarray  # (items + 1,) int64, where the grams of an item begin
    length: np.ndarray  # (items,) int32, words
    answer: np.ndarray  # (items,) int32, words of the answer, the item's last; 0 where it is only signs
    items: dict[str, range]  # task -> its items

    def lookup(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places in h that are a gram of some item, which gram)."""
        maybe = np.flatnonzero(self.table[h >> np.uint64(65 - len(self.table).bit_length())])
        at = np.minimum(np.searchsorted(self.hashes, h[maybe]), len(self.hashes) - 1)
        true = self.hashes[at] == h[maybe]
        return maybe[true], at[true]


def build(bundle: Bundle) -> Index:
    """Hash the grams of all items: some seconds for CORE, and about 0.5 GB while it runs."""
    vocabulary, items = {}, {}  # word -> number; task -> its items
    length, answer, counts = [], [], []  # of each item: its words, those of its answer, its grams
    hashes, sizes = [], set()  # of the grams
    random = np.random.default_rng(0)
    values = random.integers(0, 1 << 64, 1, dtype=np.uint64)
    for task in bundle.tasks:
        ids, began = [], len(length)
        for example in sampled(task)[0].examples:
            question, right = item_text(task, example)
            found = words(question + right)
            ids += [vocabulary.setdefault(word, len(vocabulary) + 1) for word in found]
            length.append(len(found))
            answer.append(len(found) - len(words(question)))
        items[task.label] = range(began, len(length))
        new = len(vocabulary) + 1 - len(values)
        values = np.append(values, random.integers(0, 1 << 64, new, dtype=np.uint64))
        size = np.zeros(len(ids), np.int8)  # words of the gram that begins at a word; 0 where none does
        start = 0
        for L in length[began:]:
            grams = L - N + 1 if L >= N else int(L >= SHORTEST)
            size[start : start + grams] = min(L, N)
            counts.append(grams)
            start += L
        h = np.zeros(len(ids), np.uint64)
        for n, some in gram_hashes(values[np.array(ids, np.int64)]):
            here = np.flatnonzero(size == n)
            h[here] = some[here]
        hashes.append(h[size > 0])
        sizes.update(size[size > 0].tolist())
    hashes = np.concatenate([np.zeros(0, np.uint64), *hashes])
    distinct, gram = np.unique(hashes, return_inverse=True)
    if not len(distinct):
        raise UserError(
            f"the bundle {bundle.name} has no item of {SHORTEST} words or more, so there is nothing to look for"
        )
    bits = min(26, 4 + len(distinct).bit_length())  # 16 to 32 places for each gram, at most 64 MB
    table = np.zeros(1 << bits, bool)
    table[distinct >> np.uint64(64 - bits)] = True
    return Index(
        bundle=bundle,
        vocabulary=vocabulary,
        values=values,
        hashes=distinct,
        sizes=sorted(sizes),
        table=table,
        gram=gram.astype(np.int32),
        first=np.concatenate([[0], np.cumsum(counts)]),
        length=np.array(length, np.int32),
        answer=np.array(answer, np.int32),
        items=items,
    )


@dataclass
class Found:
    """What of an Index stands in a training text."""

    documents: np.ndarray  # (U,) int32, in how many documents a gram stands
    example: np.ndarray  # (U,) int64, the first of them; -1 where there is none
    read: int = 0  # documents
    touched: int = 0  # documents with any gram of any item
    bytes: int = 0
    words: int = 0
    lookups: int = 0
    seconds: float = 0.0


def chunks(split, documents: int | None, most: int | None):
    """Yield the documents of a split in lists of at most CHUNK characters or one document, until enough are read."""
    left = len(split) if documents is None else documents
    bytes_left = math.inf if most is None else most
    chunk, size = [], 0
    for b in range(len(split.blocks)):
        if left <= 0 or bytes_left <= 0:
            break
        for text in itertools.islice(split.read_block(b), left):
            if bytes_left <= 0:
                break
            if chunk and size + len(text) > CHUNK:
                yield chunk
                chunk, size = [], 0
            chunk.append(text)
            size += len(text)
            left -= 1
            bytes_left -= len(text.encode())
    if chunk:
        yield chunk


def scan(index: Index, split, *, documents: int | None = None, most: int | None = None, progress=None) -> Found:
    """Look every gram of a training text up.

    Args: split is a `data.Split`, or anything with len, `blocks` and `read_block(b)`; at most so many documents, and no
    further after `most` bytes of text; progress(documents read, bytes read) is called after each chunk.
    """
    for what, value in (("documents", documents), ("bytes", most)):
        if value is not None and value < 1:
            raise UserError(f"{what} is {value}, must be at least 1, or None for all")
    began = time.perf_counter()
    U, number = len(index.hashes), index.vocabulary.get
    found = Found(np.zeros(U, np.int32), np.full(U, -1, np.int64))
    for texts in chunks(split, documents, most):
        ids, ends = [], []
        for text in texts:
            ids += [number(word, 0) for word in words(text)]
            ids.append(0)  # no gram reaches over the end of a document
            ends.append(len(ids))
            found.bytes += len(text.encode())
        pairs = []  # gram and document in one number
        for n, h in gram_hashes(index.values[np.array(ids, np.int64)]):
            if n in index.sizes:
                place, gram = index.lookup(h)
                pairs.append(gram * len(texts) + np.searchsorted(ends, place, side="right"))
                found.lookups += len(h)
        pairs = np.unique(np.concatenate([np.zeros(0, np.int64), *pairs]))
        gram, document = np.divmod(pairs, len(texts))
        grams, at, times = np.unique(gram, return_index=True, return_counts=True)
        new = found.documents[grams] == 0
        found.example[grams[new]] = found.read + document[at[new]]
        found.documents[grams] += times.astype(np.int32)
        found.touched += len(np.unique(document))
        found.words += len(ids) - len(texts)
        found.read += len(texts)
        if progress:
            progress(found.read, found.bytes)
    found.seconds = time.perf_counter() - began
    return found


# ---- the report


def wilson(right: int, n: int) -> list[float] | None:
    """95 % interval of a share, right of n (Wilson 1927): within 0 to 1, with a width even at 0 and 1. None for 0."""
    if n == 0:
        return None
    z, p = 1.96, right / n
    scale = 1 + z * z / n
    middle = (p + z * z / (2 * n)) / scale
    half = z / scale * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return [max(0.0, middle - half), min(1.0, middle + half)]


def accuracy(right: np.ndarray) -> dict:
    """Of some decisions (n,) bool: n, accuracy and its 95 % interval, both None without any."""
    n, hits = len(right), int(right.sum())
    return dict(n=n, accuracy=hits / n if n else None, interval=wilson(hits, n))


def summary(
    index: Index,
    found: Found,
    *,
    common: int = COMMON,
    dirty: float = 0.0,
    result: dict | None = None,
    examples: int = 3,
) -> dict:
    """What was found, task by task, as a dict that JSON can hold.

    Args: grams of more than `common` documents are not counted; an item is dirty if more than the share `dirty` of its
    grams is found (0: one gram is enough, as for GPT-3); result is what `core_fast.evaluate` gave on the same bundle:
    with it, accuracy on clean and dirty items apart. An item of fewer than 8 words is neither.
    For each task: items, short (not looked for), whole (8 to 12 words, one gram), found (items with a gram that is
    found), dirty, mostly (80 % of the grams or more), answer (a found gram holds the end of the question and the
    beginning of the answer), share (of the grams of all items), common (distinct grams left out) and examples: (item in
    scored order, gram, its first document, its documents).
    """
    if common < 1 or not 0 <= dirty < 1:
        raise UserError(
            f"common is {common} and dirty {dirty}; common must be at least 1, and dirty a share from 0 to below 1"
        )
    counted = (found.documents > 0) & (found.documents <= common)
    hit = counted[index.gram]  # (G,)
    before = np.concatenate([[0], np.cumsum(hit)])
    grams, hits = np.diff(index.first), np.diff(before[index.first])  # (items,)
    share = np.divide(hits, grams, out=np.zeros(len(grams)), where=grams > 0)
    # The grams over the place where question and answer meet begin before it, by at most their length less one.
    meet, size = index.length - index.answer, np.minimum(index.length, N)
    begin = np.minimum(index.first[:-1] + np.maximum(0, meet - size + 1), index.first[1:])
    end = np.minimum(index.first[:-1] + meet, index.first[1:])
    with_answer = before[end] - before[begin] > 0
    report = dict(
        n=N,
        bundle=index.bundle.name,
        items=len(grams),
        grams=len(index.gram),
        distinct_grams=len(index.hashes),
        documents=found.read,
        documents_touched=found.touched,
        bytes=found.bytes,
        words=found.words,
        seconds=found.seconds,
        common_above=common,
        common_grams=int((found.documents > common).sum()),
        dirty_above=dirty,
        # how many lookups are expected to hit a gram that is not there: each does with a chance of U / 2^64
        false_hits_expected=found.lookups * len(index.hashes) / 2**64,
        tasks={},
    )
    shuffled = {task.label: sampled(task)[0] for task in index.bundle.tasks}

    def gram_text(item: int, k: int) -> str:
        """The words of the gram index.gram[k], one of the item's."""
        label = next(label for label, its in index.items.items() if item in its)
        i, task = item - index.items[label].start, shuffled[label]
        start = k - int(index.first[item])
        return " ".join(words("".join(item_text(task, task.examples[i])))[start : start + N])

    for label, its in index.items.items():
        here = slice(its.start, its.stop)
        used = np.unique(index.gram[index.first[its.start] : index.first[its.stop]])
        row = dict(
            items=len(its),
            short=int((grams[here] == 0).sum()),
            whole=int(((grams[here] == 1) & (index.length[here] < N)).sum()),
            found=int((hits[here] > 0).sum()),
            dirty=int((share[here] > dirty).sum()),
            mostly=int((share[here] >= MOSTLY).sum()),
            answer=int(with_answer[here].sum()),
            share=float(hits[here].sum() / max(1, grams[here].sum())),
            common=int((found.documents[used] > common).sum()),
            examples=[],
        )
        for item in its.start + np.argsort(-share[here], kind="stable")[:examples]:
            if hits[item]:
                k = index.first[item] + int(np.argmax(hit[index.first[item] : index.first[item + 1]]))
                g = index.gram[k]
                example = dict(
                    item=int(item - its.start),
                    share=float(share[item]),
                    document=int(found.example[g]),
                    documents=int(found.documents[g]),
                    gram=gram_text(int(item), int(k)),
                )
                row["examples"].append(example)
        report["tasks"][label] = row
    order = np.argsort(-found.documents, kind="stable")[: min(10, report["common_grams"])]
    report["common"] = []
    for g in order:
        k = int(np.flatnonzero(index.gram == g)[0])
        item = int(np.searchsorted(index.first, k, side="right")) - 1
        report["common"].append(dict(documents=int(found.documents[g]), gram=gram_text(item, k)))
    if result:
        score(report, result, index, grams, share, dirty)
    return report


def score(report: dict, result: dict, index: Index, grams: np.ndarray, share: np.ndarray, dirty: float) -> None:
    """Add the accuracy on clean and on dirty items to a report, and the score without the dirty items."""
    without, whole = [], []  # centred accuracies, all items and those that are not dirty
    for label, its in index.items.items():
        row = result["tasks"].get(label, {})
        right, guess = row.get("right"), row.get("random_baseline")
        if right is None:
            continue
        if len(right) > len(its) or result["name"].removesuffix(" v2") != index.bundle.name:
            raise UserError(
                f"the result has {len(right)} decisions on {label} of {result['name']}, "
                f"but the bundle {index.bundle.name} has {len(its)} items there; give the bundle that was scored"
            )
        right = np.frombuffer(right.encode(), np.uint8) == ord("1")
        here = slice(its.start, its.start + len(right))
        is_dirty, checked = share[here] > dirty, grams[here] > 0
        report["tasks"][label]["on_clean"] = accuracy(right[checked & ~is_dirty])
        report["tasks"][label]["on_dirty"] = accuracy(right[is_dirty])
        whole.append(centred(right.mean(), guess))
        if not is_dirty.all():
            without.append(centred(right[~is_dirty].mean(), guess))
    if not whole:
        raise UserError(
            "the result holds no decisions on the tasks of this bundle; make it again with: python -m gpt2course.core"
        )
    both = len(without) == len(whole) == len(index.items)
    report["score"] = float(np.mean(whole)) if both else None
    report["score_without_dirty"] = float(np.mean(without)) if both else None


def share_text(part: int, of: int) -> str:
    return f"{part:,} ({part / of:.1%})" if part else "0"


def accuracy_text(a: dict) -> str:
    if not a["n"]:
        return "-"
    low, high = a["interval"]
    return f"{a['accuracy']:.3f} [{low:.3f}, {high:.3f}] of {a['n']:,}"


def lines(report: dict) -> Iterable[str]:
    tasks = report["tasks"]
    width = max(map(len, tasks))
    head = f"{'task':{width}}  {'items':>6} {'short':>6} {'dirty':>15} {'mostly':>7} "
    head += f"{'with answer':>15} {'of grams':>8} {'common':>7}"
    if any("on_clean" in row for row in tasks.values()):
        head += f"  {'accuracy on clean':>28}  {'on dirty':>28}"
    yield head
    for label, row in tasks.items():
        dirty, answer = share_text(row["dirty"], row["items"]), share_text(row["answer"], row["items"])
        line = f"{label:{width}}  {row['items']:6,} {row['short']:6,} {dirty:>15} {row['mostly']:7,} "
        line += f"{answer:>15} {row['share']:8.2%} {row['common']:7,}"
        if "on_clean" in row:
            line += f"  {accuracy_text(row['on_clean']):>28}  {accuracy_text(row['on_dirty']):>28}"
        yield line
    yield ""
    items, documents, seconds = report["items"], report["documents"], report["seconds"]
    dirty, answer, short = (sum(row[key] for row in tasks.values()) for key in ("dirty", "answer", "short"))
    yield (
        f"{share_text(dirty, items)} of {items:,} items are dirty, "
        f"{share_text(answer, items)} with a gram that holds question and answer; "
        f"{short:,} have fewer than {SHORTEST} words and were not looked for"
    )
    rate, touched = report["words"] / max(1e-9, seconds), share_text(report["documents_touched"], max(1, documents))
    yield (
        f"read: {documents:,} documents, {report['bytes']:,} bytes, {report['words']:,} words in {seconds:.1f} s "
        f"({rate:,.0f} words/s); {touched} documents hold a gram of some item"
    )
    yield (
        f"{report['grams']:,} grams of {report['n']} words, {report['distinct_grams']:,} distinct, as 64-bit hashes; "
        f"expected false hits: {report['false_hits_expected']:.1g}"
    )
    if report["common_grams"]:
        yield (
            f"{report['common_grams']:,} grams stand in more than {report['common_above']} documents "
            "and are not counted, for example:"
        )
        yield from (f"  {c['documents']:,} documents: {c['gram']}" for c in report["common"][:5])
    if report.get("score") is not None:
        without = report["score_without_dirty"]
        yield f"{report['bundle']} {report['score']:.4f} on all items, {without:.4f} without the dirty ones"
    for label, row in tasks.items():
        for e in row["examples"][:1]:
            yield f"{label}, item {e['item']}, {e['share']:.0%} of its grams, document {e['document']}: {e['gram']}"


def text(report: dict) -> str:
    """A report as a table, what it rests on, and for each task one example of a gram that was found."""
    return "\n".join(lines(report))


@dataclass
class Contamination:
    """Which evaluation items stand in the training text? Overlap of 13 words, as GPT-3 measured it, task by task.

    Example: python -m gpt2course.contamination --corpus embedded --result core.json --out contamination.json
    """

    # embedded, climbmix, fineweb-edu, or the path of a file or folder of parquet, jsonl or txt; its training split
    corpus: str = "embedded"
    bundle: str | None = None  # folder or zip; default: as python -m gpt2course.core
    tasks: tuple[str, ...] = ()  # labels of the tasks to look for; default: all
    documents: int | None = None  # read at most so many documents
    megabytes: float | None = None  # read no further after so many million bytes of text
    common: int = COMMON  # a gram of more documents than this is a common phrase, and is not counted
    dirty: float = 0.0  # an item is dirty if more than this share of its grams is found; 0: one gram is enough
    result: str | None = None  # a result of python -m gpt2course.core: accuracy on clean and dirty items apart
    out: str | None = None  # write the report to this file as JSON


def main(args: Contamination) -> None:
    from tqdm import tqdm

    if args.out and Path(args.out).is_dir():
        raise UserError(f"--out {args.out} is a folder, must be a file; for example {args.out}/contamination.json")
    result = read_json(args.result, 'CORE result') if args.result else None  # before the long work
    path = args.bundle or default_bundle()
    index = build(read_bundle(path, args.tasks))
    split = load_corpus(args.corpus).train
    total = min(len(split), args.documents or len(split))
    most = None  # bytes
    if args.megabytes is not None:
        most = max(1, round(args.megabytes * 1e6)) if args.megabytes > 0 else 0  # 0 is refused by scan
    with tqdm(total=total, unit="document", mininterval=0.2 if sys.stderr.isatty() else 15, leave=False) as bar:

        def progress(documents, size):
            bar.set_postfix_str(f"{size / 1e6:,.0f} MB", refresh=False)
            bar.update(documents - bar.n)

        found = scan(index, split, documents=args.documents, most=most, progress=progress)
    report = dict(corpus=args.corpus, path=str(path))
    report |= summary(index, found, common=args.common, dirty=args.dirty, result=result)
    print(f"{args.corpus} against {report['bundle']} ({path})")
    print(text(report))
    if args.out:
        write_json(args.out, report)
        print(f"written to {args.out}")


if __name__ == "__main__":
    command(main)
