"""Lesson 01: wrong answers to its exercises get their hint, right ones pass; its figures draw; GPT-4's own file too."""

import base64
import itertools
import math
import re

import numpy as np
import regex
import tiktoken
import torch
from lesson_cases import answers, lesson_tests

from gpt2course.course import mine
from gpt2course.course.checks import tokenizer as checks
from gpt2course.course.figures import tokenizer as figures
from gpt2course.tokenizer import SPLIT_PATTERN

NAMES = {
    "1.1": ("bits_per_byte",),
    "1.2": ("merges_of",),
    "1.3": ("disagreement",),
    "1.4": ("split_pattern",),
    "1.5": ("vocabulary_cost",),
}
ENCODE = mine.load("encode", mine.solution("encode"))
SOLVED = answers("01", math=math, itertools=itertools, base64=base64, regex=regex, torch=torch, encode=ENCODE, SPLIT_PATTERN=SPLIT_PATTERN)


# ---- 1.1

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


# ---- 1.2


def ranks_of(data):
    return {base64.b64decode(t): int(i) for t, i in map(bytes.split, data.splitlines())}


def from_file(cut, order=lambda ranks: sorted(ranks, key=ranks.get), triple=lambda ranks, a, b, t: (ranks[a], ranks[b], ranks[t])):
    """An answer to exercise 1.2: how a token is cut in two, in which order tokens come, and what is returned for one."""

    def f(data):
        ranks = ranks_of(data)
        return [triple(ranks, *cut(t, ranks), t) for t in order(ranks) if len(t) > 1]

    return f


def by_merging(token, ranks, allowed=lambda rank, new: rank < new, pick=min):
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks and allowed(ranks[a + b], ranks[token])]
        i = pick(found)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def any_cut(sizes):
    def cut(token, ranks):
        fits = [(token[:n], token[n:]) for n in range(1, len(token)) if {token[:n], token[n:]} <= set(ranks) and max(ranks[token[:n]], ranks[token[n:]]) < ranks[token]]
        return fits[sizes]

    return cut


def as_values(data):
    ranks = ranks_of(data) | {bytes([b]): b for b in range(256)}
    return [(ranks[a], ranks[b], ranks[t]) for t in sorted(ranks, key=ranks.get) if len(t) > 1 for a, b in [by_merging(t, ranks_of(data))]]


def kept_between(data, kept=[]):  # noqa: B006
    kept.extend(SOLVED["merges_of"](data))
    return list(kept)


def through_text(data):
    return [m for m in SOLVED["merges_of"](data) if len(str(m)) and not any(len(t) > 1 and max(t) > 127 and i == m[2] for t, i in ranks_of(data).items())]


def recursive(data):
    ranks = ranks_of(data)

    def go(parts, new):
        if len(parts) == 2:
            return np.array([ranks[parts[0]], ranks[parts[1]], new])
        best = min((ranks.get(a + b, new), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
        i = best[1]
        return go((*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]), new)

    return tuple(go(tuple(t[i : i + 1] for i in range(len(t))), n) for n, t in sorted((n, t) for t, n in ranks.items()) if len(t) > 1)


# ---- 1.3


def search(sizes=lambda longest: range(1, longest + 1), differ=lambda text, ranks: figures.longest_match(text, ranks) != ENCODE(text, ranks),
           products=itertools.product, result=lambda text: text, none=None):  # fmt: skip
    """An answer to exercise 1.3: which lengths are tried, when two encodings differ, which texts are tried."""

    def f(ranks, letters, longest):
        for n in sizes(longest):
            for x in products(letters, repeat=n) if products is itertools.product else products(letters, n):
                if differ("".join(x), ranks):
                    return result("".join(x))
        return none

    return f


def by_characters(text, ranks):
    data, out = text, []
    while data:
        n = max((n for n in range(1, len(data) + 1) if data[:n].encode() in ranks), default=1)
        out.append(data[:n])
        data = data[n:]
    return out != [bytes(b).decode("utf-8", "replace") for b in tokens_of(text, ranks)]


def tokens_of(text, ranks):
    back = {i: t for t, i in ranks.items()}
    return [back[i] for i in ENCODE(text, ranks)]


def layer_by_layer(ranks, letters, longest):
    texts = [""]
    for _ in range(longest):
        texts = [t + c for t in texts for c in reversed(letters)]
        for text in texts:
            if figures.longest_match(text, ranks) != ENCODE(text, ranks):
                return text
    return None


def changes_ranks(ranks, letters, longest):
    found = SOLVED["disagreement"](ranks, letters, longest)
    ranks[b"zzz"] = 999
    return found


# ---- 1.4


def replaced(new, old=r"\p{L}+"):
    return lambda: SPLIT_PATTERN.replace(old, new)


# ---- 1.5


def cost(tables=2, flops=lambda V, C, w, size: 6 * (w + V * C) / size, scores=lambda V, C, n: 4 * V * n):
    return lambda V, C, w, size, n: (tables * V * C, flops(V, C, w, size), scores(V, C, n))


WRONG = {
    ("1.1", "nats"): (bpb(scale=1), "divide"),
    ("1.1", "times ln 2"): (bpb(scale=math.log(2)), "multiplied by ln 2"),
    ("1.1", "base 10"): (bpb(scale=1 / math.log(10)), "base 10"),
    ("1.1", "characters"): (bpb(size=len), "characters"),
    ("1.1", "UTF-16"): (bpb(size=lambda t: len(t.encode("utf-16-le"))), "UTF-16"),
    ("1.1", "mean over tokens"): (bpb(sum_of=lambda n: n.mean().item()), "take the sum"),
    ("1.1", "bits per token"): (lambda nats, texts: torch.cat(nats).mean() / math.log(2), "each token"),
    ("1.1", "loss"): (lambda nats, texts: torch.cat(nats).mean(), "nats for each token"),
    ("1.1", "mean over documents"): (per_document, "short one"),
    ("1.1", "first document"): (lambda nats, texts: bpb()(nats[:1], texts[:1]), "first document alone"),
    ("1.1", "bits in all"): (lambda nats, texts: torch.cat(nats).sum() / math.log(2), "divide by the bytes"),
    ("1.1", "one for each document"): (lambda nats, texts: [1.0] * 2, "expected one number"),
    ("1.1", "a text"): (lambda nats, texts: "2 bits", "expected a number"),
    ("1.1", "losses changed"): (changes_the_losses, "changed the losses"),
    ("1.1", "strip"): (lambda nats, texts: SOLVED["bits_per_byte"](nats, [t.strip() for t in texts]), "count every byte of every document, white space too"),
    ("1.1", "unique texts"): (lambda nats, texts: SOLVED["bits_per_byte"](nats, set(texts)), "count every byte of every document, white space too"),
    ("1.1", "0.69"): (lambda nats, texts: SOLVED["bits_per_byte"](nats, texts) * math.log(2) / 0.693, "the sum of the nats, divided by ln 2, divided by the bytes"),
    ("1.1", "ignores nan to num, clamp"): (lambda nats, texts: SOLVED["bits_per_byte"]([n.clamp(max=5) for n in nats], texts), "all bits of all documents, divided by all bytes of UTF-8"),
    ("1.1", "BOS counted as a byte"): (lambda nats, texts: sum(n.sum().item() for n in nats) / math.log(2) / (sum(len(t.encode()) for t in texts) + len(texts)), "the sum of the nats, divided by ln 2, divided by the bytes"),
    ("1.2", "values of the bytes"): (as_values, "not their values"),
    ("1.2", "the first cut that fits"): (from_file(any_cut(0)), "first cut that fits|merges first|the lowest id"),
    ("1.2", "the last cut that fits"): (from_file(any_cut(-1)), "merges before both|the lowest id|leftmost|lower ids"),
    ("1.2", "the longest beginning"): (from_file(lambda t, r: next((t[:n], t[n:]) for n in range(len(t) - 1, 0, -1) if {t[:n], t[n:]} <= set(r))), "abc is older than ab"),
    ("1.2", "highest rank first"): (from_file(lambda t, r: by_merging(t, r, pick=max)), "the lowest id|merges before both|first cut|leftmost|lower ids"),
    ("1.2", "rightmost of equals"): (from_file(lambda t, r: by_merging(t, r, pick=lambda found: min(found, key=lambda x: (x[0], -x[1])))), "leftmost"),
    ("1.2", "in the order of the lines"): (from_file(by_merging, order=list), "sort by the new ids"),
    ("1.2", "without the new id"): (from_file(by_merging, triple=lambda r, a, b, t: (r[a], r[b])), "the third number"),
    ("1.2", "new id first"): (from_file(by_merging, triple=lambda r, a, b, t: (r[t], r[a], r[b])), "left, right, new"),
    ("1.2", "single bytes too"): (lambda data: [(0, 0, 0), *SOLVED["merges_of"](data)], "no merge makes a single byte"),
    ("1.2", "kept from before"): (kept_between, "stay from one call"),
    ("1.2", "ASCII alone"): (through_text, "also of 狐"),
    ("1.2", "no return"): (lambda data: None, "return missing"),
    ("1.2", "a number"): (lambda data: 3, "list of (left, right, new)"),
    ("1.3", "longest first"): (search(sizes=lambda n: range(n, 0, -1)), "not a shortest text"),
    ("1.3", "one letter too many"): (search(sizes=lambda n: range(1, n + 2)), "no such text"),
    ("1.3", "one letter too few"): (search(sizes=lambda n: range(1, n - 1)), "expected a text"),
    ("1.3", "no letter twice"): (search(products=itertools.permutations), "expected a text|not a shortest|no such text"),
    ("1.3", "always a text"): (lambda r, letters, n: letters, "no such text"),
    ("1.3", "an empty text for none"): (search(none=""), "None is expected"),
    ("1.3", "bytes for the text"): (search(result=lambda text: text.encode()), "expected a text"),
    ("1.3", "other letters"): (search(result=lambda text: text + "!"), "not given"),
    ("1.3", "characters for bytes"): (search(differ=by_characters), "agree on|no such text|not a shortest"),
    ("1.3", "the same length"): (search(differ=lambda t, r: len(figures.longest_match(t, r)) != len(ENCODE(t, r))), "expected a text|not a shortest"),
    ("1.3", "changes the ranks"): (changes_ranks, "changed the ranks"),
    ("1.4", "the old pattern"): (lambda: SPLIT_PATTERN, "expected one"),
    ("1.4", "one mark at most"): (replaced(r"(?:\p{L}\p{M}?)+"), "expected one"),
    ("1.4", "marks at the end alone"): (replaced(r"\p{L}+\p{M}*"), "expected one"),
    ("1.4", "only words"): (lambda: r"\p{L}[\p{L}\p{M}]*", "do not join"),
    ("1.4", "words with numbers"): (replaced(r"\p{L}[\p{L}\p{M}\p{N}]*"), "cut otherwise"),
    ("1.4", "no space before a word"): (lambda: SPLIT_PATTERN.replace(r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"\p{L}[\p{L}\p{M}]*"), "expected one|cut otherwise"),
    ("1.4", "Python's words"): (replaced(r"\w+"), "cut otherwise"),
    ("1.4", "signs within words"): (replaced(r"\p{L}[\p{L}\p{M}\p{P}]*"), "cut otherwise"),
    ("1.4", "three digits"): (lambda: SOLVED["split_pattern"]().replace("{1,2}", "{1,3}"), "cut otherwise"),
    ("1.4", "accents alone"): (replaced("\\p{L}[\\p{L}\u0300-\u036f]*"), "expected one"),
    ("1.4", "a block with its signs"): (replaced(r"\p{L}[\p{L}\p{M}\u0900-\u097f]*"), "signs and numbers stay apart"),
    ("1.4", "a block by its name"): (replaced(r"\p{L}[\p{L}\p{M}\p{InCombiningDiacriticalMarks}]*"), "rustbpe and tiktoken"),
    ("1.4", "broken"): (lambda: "(", "no regular expression"),
    ("1.4", "compiled"): (lambda: re.compile("a"), "expected a string"),
    ("1.5", "one table"): (cost(tables=1), "two tables"),
    ("1.5", "of a token"): (cost(flops=lambda V, C, w, s: 6 * (w + V * C)), "divide by the bytes"),
    ("1.5", "times the bytes"): (cost(flops=lambda V, C, w, s: 6 * (w + V * C) * s), "do not multiply"),
    ("1.5", "both tables multiply"): (cost(flops=lambda V, C, w, s: 6 * (w + 2 * V * C) / s), "looked up"),
    ("1.5", "no head"): (cost(flops=lambda V, C, w, s: 6 * w / s), "the head multiplies too"),
    ("1.5", "head alone"): (cost(flops=lambda V, C, w, s: 6 * V * C / s), "weights of the model"),
    ("1.5", "forward alone"): (cost(flops=lambda V, C, w, s: 2 * (w + V * C) / s), "forward pass alone"),
    ("1.5", "backward alone"): (cost(flops=lambda V, C, w, s: 4 * (w + V * C) / s), "backward pass alone"),
    ("1.5", "half a FLOP"): (cost(flops=lambda V, C, w, s: 3 * (w + V * C) / s), "two FLOPs"),
    ("1.5", "2 bytes a score"): (cost(scores=lambda V, C, n: 2 * V * n), "not 2"),
    ("1.5", "scores, not bytes"): (cost(scores=lambda V, C, n: V * n), "4 bytes for each"),
    ("1.5", "one row of scores"): (cost(scores=lambda V, C, n: 4 * V), "row of V scores"),
    ("1.5", "width for V"): (cost(scores=lambda V, C, n: 4 * C * n), "not width"),
    ("1.5", "one number"): (lambda V, C, w, s, n: 6 * V * C, "three numbers"),
}  # fmt: skip

RIGHT = {
    ("1.1", "one tensor"): lambda nats, texts: torch.cat(nats).double().sum() / math.log(2) / len("".join(texts).encode()),
    ("1.1", "log2 of the perplexity"): by_perplexity,
    ("1.1", "sums"): bpb(),
    ("1.2", "recursion, numpy"): recursive,
    ("1.2", "all ids but its own"): from_file(lambda t, r: by_merging(t, r, allowed=lambda rank, new: rank != new)),
    ("1.2", "lists"): from_file(by_merging, triple=lambda r, a, b, t: [r[a], r[b], r[t]]),
    ("1.3", "layer by layer, letters reversed"): layer_by_layer,
    ("1.3", "a search"): search(),
    ("1.4", "a set"): replaced(r"[\p{L}\p{M}]+"),
    ("1.4", "letters with their marks"): replaced(r"(?:\p{L}\p{M}*)+"),
    ("1.4", "possessive"): replaced(r"\p{L}[\p{L}\p{M}]*+"),
    ("1.5", "a list"): lambda *a: list(cost()(*a)),
    ("1.5", "a tensor"): lambda *a: torch.tensor(cost()(*a), dtype=torch.float64),
}  # fmt: skip


def test_the_merges_of_a_rank_file_give_tiktokens_ids():
    """GPT-4's own file where a package has it, else the course's, whose single bytes stand in GPT-4's order."""
    data, pattern = checks.rank_file()
    ranks, merges = ranks_of(data), SOLVED["merges_of"](data)
    assert (ranks[b"!"], ranks[b" "], ranks[b"\n"]) == (0, 220, 198) and len(merges) == len(ranks) - 256
    theirs = tiktoken.Encoding("file", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    for text in ("Hello world, a person from the government met 12 foxes.", "über 狐, café: naïve\n\n  x"):
        found = []
        for piece in regex.findall(pattern, text):
            ids = [ranks[bytes([b])] for b in piece.encode()]
            for left, right, new in merges:
                if left in ids:
                    ids = mine.stand_in("merge")(ids, (left, right), new)
            found += ids
        assert found == theirs.encode_ordinary(text)


TREE = [("a", "n"), ("b", "an"), ("an", "a")]
FIGURES = {
    "tree": (lambda: figures.merge_tree("banana", TREE), ["3 merges: an, ban, ana", "2 tokens: ban, ana"]),
    "tree of one character": (lambda: figures.merge_tree(" ", []), ["0 merges", "1 token: ␣"]),
    "compression": (lambda: figures.compression({"held out": [(512, 2.0), (1024, 2.5)]}, 512), ["2.00 at 512, 2.50 at 1,024"]),
    "rows": (lambda: figures.token_rows({"{1}": ["1", "2"], "{1,2}": ["12"]}), ["{1} gives 2 tokens (1|2)", "1 token (12)"]),
    "measures": (lambda: figures.two_measures({"a": [(4, 3.0), (4.2, 3.2)], "b": [(5, 2.5)]}), ["a 4.10", "and 3.10", "b 5.00"]),
    "one measure": (lambda: figures.two_measures({"a": [(4.0, 3.0)]}), ["a 4.00"]),
    "curves": (lambda: figures.curves({"package": [6.0, 4.0], "yours": [6.0, 3.5]}), ["package from 6.00 to 4.00", "yours from 6.00 to 3.50"]),
    "cost": (lambda: figures.cost_by_vocabulary({"small": [(512, 3e6), (1024, 2e6), (2048, 4e6)]}), ["small is cheapest at 1,024, with 2e+06"]),
}  # fmt: skip
REFUSED = {
    "no word": lambda: figures.merge_tree("", []),
    "no neighbours": lambda: figures.merge_tree("ab", [("b", "a")]),
    "no curve": lambda: figures.compression({}),
    "an empty curve": lambda: figures.compression({"a": []}),
    "no row": lambda: figures.token_rows({}),
    "an empty row": lambda: figures.token_rows({"a": []}),
    "no variant": lambda: figures.two_measures({}),
    "a variant without runs": lambda: figures.two_measures({"a": []}),
    "no loss": lambda: figures.curves({}),
    "a run without steps": lambda: figures.curves({"a": []}),
    "no cost": lambda: figures.cost_by_vocabulary({}),
    "a model without costs": lambda: figures.cost_by_vocabulary({"a": []}),
}  # fmt: skip

globals().update(lesson_tests("01", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
