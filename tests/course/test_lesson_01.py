"""Lesson 01: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from lesson_cases import answers, lesson_tests

from gpt2course.course.figures import tokenizer as figures

NAMES = {
    "1.1": ("most_frequent_pair",),
    "1.2": ("merge",),
    "1.3": ("encode",),
    "1.4": ("bits_per_byte",),
    "1.5": ("vocabulary_cost",),
}


SOLVED = answers("01", math=math, Counter=Counter, pairwise=pairwise, torch=torch)


# ---- 1.1


def pair_by(key, count=lambda ids, n: [(p, n) for p in pairwise(ids)], none=None, pick=min):
    """A function for exercise 1.1: how to count the pairs of a word, and what to pick by."""

    def f(words):
        counts = Counter()
        for ids, n in words:
            for pair, m in count(ids, n):
                counts[pair] += m
        return pick(counts, key=lambda p: key(p, counts[p])) if counts else none

    return f


def by_rank(p, n):
    return -n, p


def no_overlap(ids, n):
    found, i = [], 0
    while i + 1 < len(ids):
        found.append(((ids[i], ids[i + 1]), n))
        i += 2 if i + 2 < len(ids) and ids[i] == ids[i + 1] == ids[i + 2] else 1
    return found


def across(words):
    stream = [(i, n) for ids, n in words for i in ids]
    counts = Counter()
    for (a, n), (b, _) in pairwise(stream):
        counts[a, b] += n
    return min(counts, key=lambda p: (-counts[p], p)) if counts else None


def by_merging_words(words):
    answer = SOLVED["most_frequent_pair"](words)
    for ids, _ in words:
        ids.clear()
    return answer


def with_dict(words):
    counts = {}
    for ids, n in words:
        for k in range(len(ids) - 1):
            counts[ids[k], ids[k + 1]] = counts.get((ids[k], ids[k + 1]), 0) + n
    order = sorted(counts.items(), key=lambda item: item[0])
    order.sort(key=lambda item: item[1], reverse=True)  # a stable sort
    return list(order[0][0]) if order else None


def with_numpy(words):
    counts = np.zeros((300, 300), dtype=int)
    for ids, n in words:
        for a, b in zip(ids, ids[1:]):
            counts[a, b] += n
    return np.unravel_index(counts.argmax(), counts.shape) if counts.any() else None


# ---- 1.2


def overlapping(ids, pair, new):
    hits = [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) == pair]
    return [new if i in hits else ids[i] for i in range(len(ids)) if i in hits or i - 1 not in hits]


def from_the_right(ids, pair, new):
    return merge_with_pops(ids[::-1], pair[::-1], new)[::-1]


def merge_with_pops(ids, pair, new):
    left, out = list(ids), []
    while left:
        a = left.pop(0)
        if left and (a, left[0]) == tuple(pair):
            left.pop(0)
            a = new
        out.append(a)
    return out


def no_end(ids, pair, new):
    out, i = [], 0
    while i < len(ids) - 1:
        hit = (ids[i], ids[i + 1]) == pair
        out.append(new if hit else ids[i])
        i += 2 if hit else 1
    return out


def in_place(ids, pair, new):
    i = 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == tuple(pair):
            ids[i : i + 2] = [new]
        i += 1
    return ids


def first_alone(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return ids[:i] + [new] + ids[i + 2 :]
    return list(ids)


def as_text(ids, pair, new):
    text = ",".join(map(str, ids)).replace(f"{pair[0]},{pair[1]}", str(new))
    return [int(i) for i in text.split(",")] if text else []


def any_order(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        hit = sorted(ids[i : i + 2]) == sorted(pair)
        out.append(new if hit else ids[i])
        i += 2 if hit else 1
    return out


def right_half_stays(ids, pair, new):
    return [new if (a, b) == pair else a for a, b in zip(ids, [*ids[1:], None])]


def as_characters(ids, pair, new):
    text = "".join(map(chr, ids)).replace(chr(pair[0]) + chr(pair[1]), chr(new))
    return tuple(map(ord, text))


def with_a_stack(ids, pair, new):
    out = []
    for i in ids:
        if out and (out[-1], i) == tuple(pair):
            out[-1] = new
        else:
            out.append(i)
    return torch.tensor(out, dtype=torch.int64)


# ---- 1.3


def longest_match(text, ranks):
    data, out = text.encode(), []
    while data:
        n = max(n for n in range(1, len(data) + 1) if data[:n] in ranks)
        out.append(ranks[data[:n]])
        data = data[n:]
    return out


def single_bytes(text):
    return [bytes([b]) for b in text.encode()]


def merged(pick, start=single_bytes, times=1000, finish=lambda parts, ranks: [ranks[p] for p in parts]):
    """A function for exercise 1.3 that merges the pair that `pick` takes from (rank, place)s, at most `times` times."""

    def f(text, ranks):
        parts = start(text)
        for _ in range(times):
            found = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
            if not found:
                break
            i = pick(found)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return finish(parts, ranks)

    return f


def first_place_of_each_rank(text, ranks):
    parts = [bytes([b]) for b in text.encode()]
    for token in ranks:
        for i in range(len(parts) - 1):
            if parts[i] + parts[i + 1] == token:
                parts[i : i + 2] = [token]
                break
    return [ranks[p] for p in parts]


def rank_by_rank(text, ranks):
    parts = [bytes([b]) for b in text.encode()]
    for token in sorted(ranks, key=ranks.get):
        out, i = [], 0
        while i < len(parts):
            hit = len(token) > 1 and b"".join(parts[i : i + 2]) == token and i + 1 < len(parts)
            out.append(token if hit else parts[i])
            i += 2 if hit else 1
        parts = out
    return tuple(ranks[p] for p in parts)


def recursive(text, ranks):
    def go(parts):
        best = min(
            ((ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks), default=None
        )
        return (
            parts
            if best is None
            else go(parts[: best[1]] + (parts[best[1]] + parts[best[1] + 1],) + parts[best[1] + 2 :])
        )

    data = text.encode("utf-8")
    return np.array([ranks[p] for p in go(tuple(data[i : i + 1] for i in range(len(data))))], dtype=np.int64)


def adds_to_the_table(text, ranks):
    answer = SOLVED["encode"](text, ranks)
    ranks[text.encode()] = -1
    return answer


by_lowest = min
LATIN = [lambda text: [bytes([ord(c)]) for c in text]]


# ---- 1.4

LN2 = math.log(2)


def bpb(sum_of=lambda n: n.sum().item(), scale=1 / LN2, size=lambda t: len(t.encode())):
    return lambda nats, texts: scale * sum(map(sum_of, nats)) / sum(map(size, texts))


def by_perplexity(nats, texts):
    losses = torch.cat(nats).numpy().astype(np.float64)
    return len(losses) * np.log2(np.exp(losses.mean())) / len(b"".join(t.encode() for t in texts))


def per_document(nats, texts):
    return np.mean([n.sum().item() / math.log(2) / len(t.encode()) for n, t in zip(nats, texts)])


def changes_the_losses(nats, texts):
    for n in nats:
        n.div_(math.log(2))
    return sum(n.sum() for n in nats) / len("".join(texts).encode())


# ---- 1.5


def cost(tables=lambda d: 2 + (d + 1) // 2, embed=2, head=4, flops=lambda table, d: 6 * table):
    def f(V, depth, C):
        table, n = V * C, tables(depth)
        return n * table, table * (embed * (n - 1) + head), flops(table, depth)

    return f


WRONG = {
    ("1.1", "first seen among equals"): (pair_by(lambda p, n: -n), "first seen"),
    ("1.1", "largest among equals"): (pair_by(lambda p, n: (n, p), pick=max), "first seen or the largest"),
    ("1.1", "right id first"): (pair_by(lambda p, n: (-n, p[1], p[0])), "left ids first"),
    ("1.1", "left id alone"): (pair_by(lambda p, n: (-n, p[0])), "smaller right id"),
    ("1.1", "ids as text"): (pair_by(lambda p, n: (-n, str(p))), "as text"),
    ("1.1", "each word once"): (pair_by(by_rank, lambda ids, n: [(p, 1) for p in pairwise(ids)]), "four times"),
    ("1.1", "across words"): (across, "within one word"),
    ("1.1", "no overlapping pairs counted"): (pair_by(by_rank, no_overlap), "overlap"),
    ("1.1", "a pair once in a word"): (pair_by(by_rank, lambda ids, n: [(p, n) for p in set(pairwise(ids))]), "overlap"),
    ("1.1", "least frequent"): (pair_by(lambda p, n: (n, p)), "8 9 comes twice"),
    ("1.1", "pair and count"): (lambda words: ((1, 2), 3), "whole numbers"),
    ("1.1", "joined ids as text"): (lambda words: "7 8", "str"),
    ("1.1", "stops without pairs"): (lambda words: SOLVED["most_frequent_pair"](words) or {}["x"], "KeyError"),
    ("1.1", "zeros without pairs"): (pair_by(by_rank, none=(0, 0)), "None is expected"),
    ("1.1", "words used up"): (by_merging_words, "changed the words"),
    ("1.1", "no return"): (lambda words: None, "return missing"),
    ("1.1", "counts of at most 9"): (pair_by(lambda p, n: (-min(n, 9), p)), "look at counts and ties"),
    ("1.2", "overlapping"): (overlapping, "overlap"),
    ("1.2", "from the right"): (from_the_right, "right to left"),
    ("1.2", "the end lost"): (no_end, "last token"),
    ("1.2", "in place"): (in_place, "changed the list"),
    ("1.2", "first place alone"): (first_alone, "only the first pair"),
    ("1.2", "ids as text"): (as_text, "ids are numbers"),
    ("1.2", "either order"): (any_order, "order"),
    ("1.2", "right half stays"): (right_half_stays, "right half"),
    ("1.2", "nothing"): (lambda ids, pair, new: list(ids), "nothing was merged"),
    ("1.2", "the first twenty alone"): (lambda ids, pair, new: merge_with_pops(ids[:20], pair, new) + ids[20:], "the rest does not change"),
    ("1.2", "no return"): (lambda ids, pair, new: None, "return missing"),
    ("1.2", "a string"): (lambda ids, pair, new: "9 3 9", "str"),
    ("1.3", "longest match"): (longest_match, "longest match"),
    ("1.3", "leftmost merge first"): (merged(lambda found: found[0]), "bc was learned before ab"),
    ("1.3", "highest rank first"): (merged(max), "bc"),
    ("1.3", "one merge"): (merged(min, times=1), "go on until"),
    ("1.3", "no merges"): (merged(min, times=0), "nothing was merged"),
    ("1.3", "three merges at most"): (merged(min, times=3), "the lowest rank first"),
    ("1.3", "rightmost of equals"): (merged(lambda found: min(found, key=lambda x: (x[0], -x[1]))), "leftmost"),
    ("1.3", "each rank at one place"): (first_place_of_each_rank, "first place"),
    ("1.3", "characters for bytes"): (merged(min, LATIN[0]), "two bytes of é"),
    ("1.3", "characters looked up"): (merged(min, lambda text: [c.encode() for c in text]), "begin with text.encode"),
    ("1.3", "tokens, not ids"): (merged(min, finish=lambda parts, ranks: parts), "return their ids"),
    ("1.3", "tokens as text"): (merged(min, finish=lambda parts, ranks: list(map(repr, parts))), "whole numbers"),
    ("1.3", "the table changed"): (adds_to_the_table, "changed the table"),
    ("1.3", "no return"): (lambda text, ranks: None, "return missing"),
    ("1.4", "nats"): (bpb(scale=1), "divide"),
    ("1.4", "times ln 2"): (bpb(scale=math.log(2)), "multiplied by ln 2"),
    ("1.4", "base 10"): (bpb(scale=1 / math.log(10)), "base 10"),
    ("1.4", "characters"): (bpb(size=len), "characters"),
    ("1.4", "UTF-16"): (bpb(size=lambda t: len(t.encode("utf-16-le"))), "UTF-16"),
    ("1.4", "mean over tokens"): (bpb(sum_of=lambda n: n.mean().item()), "take the sum"),
    ("1.4", "bits per token"): (lambda nats, texts: torch.cat(nats).mean() / math.log(2), "each token"),
    ("1.4", "loss"): (lambda nats, texts: torch.cat(nats).mean(), "nats for each token"),
    ("1.4", "mean over documents"): (per_document, "short one"),
    ("1.4", "first document"): (lambda nats, texts: bpb()(nats[:1], texts[:1]), "first document alone"),
    ("1.4", "bits in all"): (lambda nats, texts: torch.cat(nats).sum() / math.log(2), "divide by the bytes"),
    ("1.4", "one for each document"): (lambda nats, texts: [1.0] * 2, "expected one number"),
    ("1.4", "a text"): (lambda nats, texts: "2 bits", "expected a number"),
    ("1.4", "losses changed"): (changes_the_losses, "changed the losses"),
    ("1.5", "no value embeddings"): (cost(tables=lambda d: 2), "value embeddings are missing"),
    ("1.5", "value embeddings everywhere"): (cost(tables=lambda d: 2 + d), "not on each"),
    ("1.5", "half, rounded down"): (cost(tables=lambda d: 2 + d // 2), "last layer and on the first"),
    ("1.5", "head tied"): (cost(tables=lambda d: 1 + (d + 1) // 2), "taken for the embedding"),
    ("1.5", "4 bytes everywhere"): (cost(embed=4), "4 bytes were taken"),
    ("1.5", "2 bytes everywhere"): (cost(head=2), "2 bytes were taken"),
    ("1.5", "bytes mixed up"): (cost(embed=4, head=2), "bytes"),
    ("1.5", "look-ups multiply"): (cost(flops=lambda t, d: 6 * t * (2 + (d + 1) // 2)), "look-ups"),
    ("1.5", "wte multiplies"): (cost(flops=lambda t, d: 12 * t), "wte is counted"),
    ("1.5", "forward alone"): (cost(flops=lambda t, d: 2 * t), "forward pass alone"),
    ("1.5", "backward alone"): (cost(flops=lambda t, d: 4 * t), "backward pass alone"),
    ("1.5", "one number"): (lambda V, d, C: 6 * V * C, "three numbers"),
}  # fmt: skip
WRONG |= {  # with the eye of a reviewer: state, sizes, text, types, rounding
    ("1.1", "default Counter"): ((lambda d: lambda words, counts=Counter(): (([counts.update({p: n}) for w, n in words for p in pairwise(w)]), min(counts, key=lambda p: (-counts[p], p)) if counts else None)[1])(0), "does something stay from one call to the next,"),
    ("1.1", "word order dict"): (lambda words: (lambda c: min(c, key=lambda p: (-c[p], p)) if c else None)((lambda c: [c.update({p: n}) for w, n in {tuple(w): n for w, n in words}.items() for p in pairwise(w)] and c)(Counter()) or {}), "it comes three times in all"),
    ("1.1", "bytes of words"): (lambda words: (lambda c: min(c, key=lambda p: (-c[p], p)) if c else None)(Counter([p for w, n in words for p in pairwise(bytes(w)) for _ in range(n)])), "your code stopped"),
    ("1.1", "set of pairs of a word"): (lambda words: (lambda c: min(c, key=lambda p: (-c[p], p)) if c else None)(Counter([p for w, n in words for p in set(pairwise(w)) for _ in range(n)])), "1 1 1 holds the pair 1 1 twice"),
    ("1.1", "only words that occur twice"): (lambda words: SOLVED["most_frequent_pair"]([(w, n) for w, n in words if n > 1] or words), "look at counts and ties"),
    ("1.2", "as bytes"): (lambda ids, pair, new: SOLVED["merge"](list(bytes(i % 256 for i in ids)), pair, new), "they are not bytes"),
    ("1.2", "until done"): (lambda ids, pair, new: SOLVED["merge"](SOLVED["merge"](ids, pair, new), (new, new), new), "step on by two after a merge"),
    ("1.2", "sorted pair"): (lambda ids, pair, new: SOLVED["merge"](ids, tuple(sorted(pair)), new), "each place of the pair becomes the new id; the"),
    ("1.2", "default list"): (lambda ids, pair, new, out=[]: (out.extend(SOLVED["merge"](ids, pair, new)), list(out))[1], "does something stay from one call to the next,"),
    ("1.3", "kept from before"): ((lambda kept: lambda t, r: kept.setdefault(t, SOLVED["encode"](t, r)))({}), "nothing was merged; look for neighbours whose"),
    ("1.3", "latin-1"): (lambda t, r: SOLVED["encode"](t.encode("latin-1", "replace").decode("latin-1"), r), "merge the lowest rank first, the leftmost among equals"),
    ("1.3", "strip"): (lambda t, r: SOLVED["encode"](t.strip(), r), "white space is text too, and a text may have any length"),
    ("1.3", "lower"): (lambda t, r: SOLVED["encode"](t.lower(), r), "merge the lowest rank first, the leftmost among equals"),
    ("1.3", "normalised"): (lambda t, r: SOLVED["encode"](__import__("unicodedata").normalize("NFC", t), r), "an e and its accent are two characters here; change no text"),
    ("1.3", "40 characters at most"): (lambda t, r: SOLVED["encode"](t[:40], r), "white space is text too, and a text may have any length"),
    ("1.4", "strip"): (lambda nats, texts: SOLVED["bits_per_byte"](nats, [t.strip() for t in texts]), "count every byte of every document, white space too"),
    ("1.4", "two documents at most"): (lambda nats, texts: SOLVED["bits_per_byte"](nats[:2], texts[:2]), "count every byte of every document, white space too"),
    ("1.4", "unique texts"): (lambda nats, texts: SOLVED["bits_per_byte"](nats, set(texts)), "count every byte of every document, white space too"),
    ("1.4", "0.69"): (lambda nats, texts: SOLVED["bits_per_byte"](nats, texts) * math.log(2) / 0.693, "the sum of the nats, divided by ln 2, divided by the bytes"),
    ("1.4", "ln 2 as 0.7"): (lambda nats, texts: SOLVED["bits_per_byte"](nats, texts) * math.log(2) / 0.7, "the sum of the nats, divided by ln 2, divided by the bytes"),
    ("1.4", "ignores nan to num, clamp"): (lambda nats, texts: SOLVED["bits_per_byte"]([n.clamp(max=5) for n in nats], texts), "all bits of all documents, divided by all bytes of UTF-8"),
    ("1.4", "BOS counted as a byte"): (lambda nats, texts: sum(n.sum().item() for n in nats) / math.log(2) / (sum(len(t.encode()) for t in texts) + len(texts)), "the sum of the nats, divided by ln 2, divided by the bytes"),
    ("1.4", "half precision"): (lambda nats, texts: SOLVED["bits_per_byte"]([n.bfloat16() for n in nats], texts), "the sum of the nats, divided by ln 2, divided by the bytes"),
    ("1.5", "depth // 2"): (lambda V, d, C: (lambda t, l: (t * (l + 1), t * (2 * l + 4), 6 * t))(V * C, 1 + d // 2), "3 layers have 2 value embeddings, on the last"),
    ("1.5", "depth // 2 float"): (lambda V, d, C: (lambda t, l: (t * (l + 1), t * (2 * l + 4), 6 * t))(V * C, 1 + d / 2), "3 layers have 2 value embeddings, on the last"),
    ("1.5", "padded"): (lambda V, d, C: SOLVED["vocabulary_cost"](-(-V // 64) * 64, d, C), "wte, lm_head and two value embeddings"),
    ("1.5", "flops by steps"): (lambda V, d, C: (lambda a: (a[0], a[1], a[2] * d))(SOLVED["vocabulary_cost"](V, d, C)), "look-ups are counted; only the head multiplies"),
    ("1.5", "int32"): (lambda V, d, C: tuple(np.array(SOLVED["vocabulary_cost"](V, d, C)).astype(np.int32)), "2 for an embedding's number, 4 for the head's"),
}  # fmt: skip

RIGHT = {
    ("1.1", "sorted twice"): with_dict,
    ("1.1", "a numpy table"): with_numpy,
    ("1.1", "a maximum"): pair_by(lambda p, n: (n, -p[0], -p[1]), pick=max),
    ("1.2", "pops"): merge_with_pops,
    ("1.2", "a stack, a tensor"): with_a_stack,
    ("1.2", "characters, which replace treats alike"): as_characters,
    ("1.2", "in place, on a copy"): lambda ids, pair, new: in_place(list(ids), pair, new),
    ("1.3", "rank by rank"): rank_by_rank,
    ("1.3", "recursion, numpy"): recursive,
    ("1.3", "with the merges as one loop"): merged(by_lowest),
    ("1.4", "one tensor"): lambda nats, texts: torch.cat(nats).double().sum() / math.log(2) / len("".join(texts).encode()),
    ("1.4", "log2 of the perplexity"): by_perplexity,
    ("1.4", "sums"): bpb(),
    ("1.5", "a loop over layers"): lambda V, d, C: (V * C * (2 + len(range(d - 1, -1, -2))), V * C * (6 + 2 * len(range(d - 1, -1, -2))), (2 + 4) * V * C),
    ("1.5", "a list"): lambda V, d, C: list(cost()(V, d, C)),
    ("1.5", "a tensor"): lambda V, d, C: torch.tensor(cost()(V, d, C)),
}  # fmt: skip


TREE = [("a", "n"), ("b", "an"), ("an", "a")]
FIGURES = {
    "tree": (lambda: figures.merge_tree("banana", TREE), ["3 merges: an, ban, ana", "2 tokens: ban, ana"]),
    "tree of one character": (lambda: figures.merge_tree(" ", []), ["0 merges", "1 token: ␣"]),
    "savings": (lambda: figures.savings([90, 40, 3], [20, 15, 10.0]), ["90 by the first, 3 by the last", "20 to 10"]),
    "savings alone": (lambda: figures.savings([7]), ["7 by the first"]),
    "compression": (lambda: figures.compression({"held out": [(512, 2.0), (1024, 2.5)]}, 512), ["2.00 at 512, 2.50 at 1,024"]),
    "rows": (lambda: figures.token_rows({"{1}": ["1", "2"], "{1,2}": ["12"]}), ["{1} gives 2 tokens (1|2)", "1 token (12)"]),
    "measures": (lambda: figures.two_measures({"a": [(4, 3.0), (4.2, 3.2)], "b": [(5, 2.5)]}), ["a 4.10", "and 3.10", "b 5.00"]),
    "one measure": (lambda: figures.two_measures({"a": [(4.0, 3.0)]}), ["a 4.00"]),
    "budget": (lambda: figures.vocabulary_budget({"10": {"layers": 3e6, "wte": 1e6}}), ["10 has 4M (layers 3M, wte 1M)"]),
}  # fmt: skip
REFUSED = {
    "no word": lambda: figures.merge_tree("", []),
    "no neighbours": lambda: figures.merge_tree("ab", [("b", "a")]),
    "no merge": lambda: figures.savings([]),
    "a merge that saves nothing": lambda: figures.savings([3, 0]),
    "a break-even too few": lambda: figures.savings([3, 2], [1.0]),
    "no curve": lambda: figures.compression({}),
    "an empty curve": lambda: figures.compression({"a": []}),
    "no row": lambda: figures.token_rows({}),
    "an empty row": lambda: figures.token_rows({"a": []}),
    "no variant": lambda: figures.two_measures({}),
    "a variant without runs": lambda: figures.two_measures({"a": []}),
    "no budget": lambda: figures.vocabulary_budget({}),
    "an empty budget": lambda: figures.vocabulary_budget({"a": {"x": 0.0}}),
}  # fmt: skip

globals().update(lesson_tests("01", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
