"""Checks of lesson 01's exercises: counting pairs, merging, encoding, bits per byte, and what a vocabulary costs."""

import math
import random
from collections import Counter
from itertools import pairwise

import tiktoken
import torch

from gpt2course.course.checks import Exercise, call, ids, known, need, several, steady
from gpt2course.evaluate import bits_per_byte as package_bits_per_byte
from gpt2course.model import GPT
from gpt2course.recipes import build, resolve
from gpt2course.tokenizer import Tokenizer

WORDS = r"\S+|\s"  # a simple split pattern: words, and white space


def _texts(seed: int, letters: str = "abc", n: int = 12) -> list[str]:
    """Random words of few letters, so that equal counts and runs such as "aaa" are common."""
    draw = random.Random(seed)
    return [" ".join("".join(draw.choices(letters, k=draw.randint(1, 7))) for _ in range(8)) for _ in range(n)]


def _words(texts: list[str]) -> list[tuple[list[int], int]]:
    """The words of texts as (bytes, how often)."""
    return [(list(w.encode()), n) for w, n in Counter(w for t in texts for w in t.split()).items()]


def _merged(word: list, pair: tuple, new: int) -> list:
    out, i = [], 0
    while i < len(word):
        found = tuple(word[i : i + 2]) == pair
        out.append(new if found else word[i])
        i += 2 if found else 1
    return out


def most_frequent_pair(f) -> None:
    def asked(words, what):
        given = [(list(word), n) for word, n in words]
        got = call(f, given, keep="the words")
        got = [] if got is None else ids(got, what)  # None where there is no pair
        need(len(got) in (0, 2), f"{what} came out as {got}, expected one pair (left id, right id)")
        return got

    steady(f, ([([1, 2], 3)],), ([([3, 4], 9)],), "the pair of the word 1 2 three times")
    apart = "are in different words; both ids of a pair are within one word"
    for words, what, wanted, errors, otherwise in [
        ([([7, 8, 9], 1), ([8, 9], 1)], "words 7 8 9 and 8 9", [8, 9], [([], "is the return missing?")],
         "8 9 comes twice, 7 8 once"),
        ([([5, 6], 4), ([1, 2], 1), ([1, 2, 3], 1), ([1, 2, 4], 1)],
         "the word 5 6 four times, and three words with 1 2", [5, 6],
         [([1, 2], "a word that occurs four times counts four times; was its number left out?")],
         "add a word's number for each pair in it"),
        ([([9, 3], 2), ([3, 9], 2), ([4, 1], 2)], "a tie of 9 3, 3 9 and 4 1", [3, 9], [
            ([9, 3], "of equal counts the smallest pair wins, not the first seen or the largest"),
            ([3, 3], f"3 and 3 {apart}"),
            ([4, 1], "compare the left ids first, not the right ones, the sums, or which came last"),
        ], "of equal counts the pair with the smallest (left, right) wins"),
        ([([3, 9], 1), ([3, 2], 1)], "a tie of 3 9 and 3 2", [3, 2], [],
         "equal left ids: the smaller right id wins, not the first seen"),
        ([([10, 1], 1), ([9, 1], 1)], "a tie of 10 1 and 9 1", [9, 1],
         [([10, 1], "ids are numbers; as text 10 comes before 9")], "9 < 10"),
        ([([4, 1], 1), ([2, 5], 2), ([6, 1], 2), ([2, 7], 1), ([8, 1], 1), ([2, 5], 1)],
         "words 4 1, 2 5 (twice), 6 1 (twice), 2 7, 8 1 and 2 5", [2, 5], [([1, 2], f"1 and 2 {apart}")],
         "it comes three times in all"),
        ([([1, 1, 1], 2), ([2, 3], 3)], "1 1 1 twice and 2 3 three times", [1, 1],
         [([2, 3], "neighbours are counted even if they overlap: 1 1 1 holds the pair 1 1 twice")],
         "count every pair of neighbours"),
        ([([1], 5), ([], 2)], "words of one token and of none", [], [], "there is no pair, so None is expected"),
        ([], "no words at all", [], [], "there is no pair, so None is expected"),
    ]:  # fmt: skip
        known(asked(words, what), wanted, what, errors, otherwise)
    for seed in range(3):  # a whole training, in which your answer chooses every pair
        texts = _texts(seed)
        words, ours = _words(texts), Tokenizer.train(texts, 265 + 40, pattern=WORDS).ranks
        tokens = list(ours[:256])
        while len(tokens) < len(ours):
            what, pair = f"merge {len(tokens) - 255} of a training", tuple(asked(words, "a pair"))
            need(pair, f"{what} came out as None though pairs are left")
            token, wanted = tokens[pair[0]] + tokens[pair[1]], ours[len(tokens)]
            need(token == wanted, f"{what} came out as {token!r}, expected {wanted!r}: look at counts and ties")
            words = [(_merged(word, pair, len(tokens)), n) for word, n in words]
            tokens.append(token)


def merge(f) -> None:
    def ask(given, pair, new, wanted, errors, otherwise):
        what = f"merging {pair} to {new} in {given}"
        known(ids(call(f, list(given), pair, new, keep="the list"), what), wanted, what, errors, otherwise)

    steady(f, ([1, 2, 3], (1, 2), 9), ([3, 1, 2], (1, 2), 9), "merging (1, 2) to 9 in [1, 2, 3]")
    replaced = "each place of the pair becomes the new id; the rest does not change"
    by_two = "step on by two after a merge"
    for case in [
        ([1, 2, 3, 1, 2], (1, 2), 9, [9, 3, 9], [
            ([9, 3, 1, 2], "only the first pair was merged"), ([1, 2, 3, 1, 2], "nothing was merged"),
            ([9, 2, 3, 9, 2], f"the right half of a pair stayed: {by_two}"),
        ], replaced),
        ([1, 1, 1], (1, 1), 9, [9, 1], [
            ([9, 9], f"the two merges overlap; the middle 1 was used twice: {by_two}"),
            ([1, 9], "your answer goes from right to left"), ([9], "the last token is lost: no pair is left for it"),
        ], "from left to right, and no token is used twice"),
        ([1, 1, 1, 1, 1], (1, 1), 9, [9, 9, 1], [([9, 9, 9, 9], "the merges overlap")], by_two),
        ([1, 2, 3], (1, 2), 9, [9, 3], [([9], "the last token is lost: it must stay")], replaced),
        ([3, 1, 2], (1, 2), 9, [3, 9], [([3, 1, 2], "the pair at the end was missed")], replaced),
        ([2, 1, 2, 2], (1, 2), 9, [2, 9, 2],
         [([9, 2, 2], "2 1 was merged as well: the order within the pair counts")], replaced),
        ([2, 1], (1, 2), 9, [2, 1], [([9], "2 1 is not the pair 1 2: the order counts")], "there is nothing to merge"),
        ([11, 2], (1, 2), 9, [11, 2], [([19], "as text, 11,2 contains 1,2; ids are numbers")],
         "11 is not 1: compare ids, not text"),
        ([1, 12], (11, 2), 9, [1, 12], [([9], "as text, 1 12 looks like 11 2; ids are numbers")],
         "compare ids, not text"),
        ([300, 256, 300, 44], (256, 300), 301, [300, 301, 44], [], "ids go beyond 255: they are not bytes"),
        ([1, 3, 2], (1, 2), 9, [1, 3, 2], [], "only neighbours are merged"),
        ([5], (5, 5), 9, [5], [], "a single token stays"),
        ([], (5, 5), 9, [], [], "an empty list stays empty"),
    ]:  # fmt: skip
        ask(*case)
    draw = random.Random(7)
    for n in range(60):
        given, pair = draw.choices(range(4), k=n), tuple(draw.choices(range(4), k=2))
        ask(given, pair, 256 + n, _merged(given, pair, 256 + n), [], replaced)


BYTES = {bytes([b]): b for b in range(256)}


def encode(f) -> None:
    def ask(text, ranks, wanted, errors, otherwise):
        what = f"encoding {text!r}"
        got = call(f, text, dict(ranks), keep="the table of ranks")
        if isinstance(got, (list, tuple)) and got and isinstance(got[0], bytes):
            need(False, f"{what}: the tokens came out as bytes; return their ids, ranks[token]")
        known(ids(got, what), wanted, what, errors, otherwise)

    steady(f, ("ab", BYTES), ("ab", BYTES | {b"ab": 256}), "encoding 'ab' without merges")
    bc_first, cd_first = {b"bc": 256, b"ab": 257}, {b"cd": 256, b"ab": 257, b"abc": 258}
    in_two_steps = {b"ab": 256, b"cd": 257, b"abcd": 258}
    for case, more, wanted, errors, otherwise in [
        ("hi", {}, [104, 105], [], "without merges every byte is a token"),
        ("ab", bc_first, [257],
         [([97, 98], "nothing was merged; look for neighbours whose bytes, joined, are in ranks")], "a and b merge"),
        ("abc", bc_first, [97, 256], [
            ([257, 99], "this took the first or longest match; bc was learned before ab, so bc merges first"),
            ([97, 98, 99], "nothing was merged"),
        ], "bc has the lower rank, so it merges first"),
        ("abcd", cd_first, [257, 256], [
            ([97, 98, 256], "merging stopped after one merge; go on until no neighbours can be merged"),
        ], "cd first, then ab"),
        ("abcd", in_two_steps, [258],
         [([256, 257], "merging stopped too early: ab and cd are neighbours, and abcd is a token")], "ab, cd, abcd"),
        ("abxab", in_two_steps, [256, 120, 256], [([256, 120, 97, 98], "only the first place was merged")],
         "ab merges in both places"),
        ("aaa", {b"aa": 256}, [256, 97], [([97, 256], "among equals the leftmost merges first")], "the leftmost first"),
        ("", in_two_steps, [], [], "no text, no tokens"),
    ]:  # fmt: skip
        ask(case, BYTES | more, wanted, errors, otherwise)
    try:
        f("é", dict(BYTES))
    except (KeyError, ValueError, TypeError, IndexError) as e:
        name = type(e).__name__
        need(False, f"encoding 'é' stopped with {name}: it is one character and two bytes; begin with text.encode()")
    ask("é", BYTES, [195, 169], [], "the two bytes of é in UTF-8; begin with text.encode(), not with characters")
    ask("né", BYTES | {b"n\xc3": 256}, [256, 169], [], "a token may end within a character: n and the first byte of é")
    texts = ["the cat sat on the mat, then the hat sat on the cat", "über Größe über Grüße", "狐と犬と狐", *_texts(3)]
    tokenizer = Tokenizer.train(texts, 265 + 70, pattern=WORDS)
    ranks = {token: i for i, token in enumerate(tokenizer.ranks)}
    words = [w for t in [*texts, *_texts(4), *_texts(5, "theca"), "überall 犬狐"] for w in t.split()]
    for word in dict.fromkeys(words):
        ask(word, ranks, tokenizer.encode(word), [], "merge the lowest rank first, the leftmost among equals")
    long, pairs = " " + "ab" * 40 + "\n", [32] + [256] * 40 + [10]
    ask(long, BYTES | in_two_steps, pairs, [], "white space is text too, and a text may have any length")
    ask("e\u0301", BYTES, [101, 204, 129], [], "an e and its accent are two characters here; change no text")


class _Table(torch.nn.Module):
    """A model whose loss is known: each token costs what a table says."""

    def __init__(self, nats):
        super().__init__()
        self.nats = torch.nn.Parameter(nats)

    def forward(self, idx, targets, reduction="none"):
        return torch.where(targets >= 0, self.nats[targets.clamp_min(0)], 0.0)


def bits_per_byte(f) -> None:
    ln2 = math.log(2)
    documents = ["The fox jumps over the dog.", "Über Größe und Straße, 狐!", " x\n", " x\n"]
    tokenizer = Tokenizer.train(["the fox jumps over the dog, the dog jumps over the fox"], 280)
    table = torch.rand(tokenizer.vocab_size, generator=torch.Generator().manual_seed(3)) * 6
    package, _ = package_bits_per_byte(_Table(table), documents, tokenizer, T=64)
    for nats, texts, wanted, what, errors, otherwise in [
        ([torch.tensor([3.0, 4.0, 1.0]) * ln2], ["abcd"], 2.0, "3, 4 and 1 bits for 4 bytes", {
            2 * ln2: "these are nats for each byte; one bit is ln 2 = 0.693 nats: divide",
            2 * ln2 * ln2: "nats were multiplied by ln 2; divide", 8 / 3: "these are bits for each token",
            8 / 3 * ln2: "this is the loss, nats for each token",
            2 / 3: "the mean over tokens was divided by bytes; take the sum",
            8.0: "these are bits in all; divide by the bytes",
            2 * ln2 / math.log(10): "this is the logarithm to base 10",
            1.0: "8 bytes is UTF-16; use UTF-8, the default of encode()",
        }, "the sum of the nats, divided by ln 2, divided by the bytes"),
        ([torch.tensor([4.0, 2.0]) * ln2, torch.tensor([8.0, 1.0, 1.0]) * ln2], ["naïve", "狐"], 16 / 9,
         "16 bits for the texts 'naïve' and '狐'", {
            16 / 6: "this counts characters; ï has two bytes in UTF-8 and 狐 three",
            (6 / 6 + 10 / 3) / 2: "the mean of two documents; a short one must not weigh as much as a long one",
            6 / 6: "this is the first document alone",
            16 / 9 / 5: "the mean over tokens was divided by bytes; take the sum",
            16 / 5: "these are bits for each token",
        }, "all bits of all documents, divided by all bytes of UTF-8"),
        ([table[torch.tensor(tokenizer.encode(d))] for d in documents], documents, package, "four documents, two of them equal", {},
         "count every byte of every document, white space too"),
    ]:  # fmt: skip
        known(call(f, nats, list(texts), keep="the losses"), wanted, what, errors, otherwise)


def vocabulary_cost(f) -> None:
    odd = "3 layers have 2 value embeddings, on the last layer and on the first"
    for args, what, *columns in [
        ((10, 4, 8), "a vocabulary of 10 at depth 4 and width 8", (320, {  # one table has 80 numbers
            160: "the value embeddings are missing: a table on every second layer",
            240: "is the head taken for the embedding? there are 4 tables: wte, head and 2 value embeddings",
            480: "value embeddings are on every second layer, not on each",
        }, "4 tables of 10 x 8: wte, lm_head and two value embeddings"), (2 * 80 + 4 * 80 + 2 * 2 * 80, {
            1280: "4 bytes were taken for all; wte and value embeddings have 2",
            640: "2 bytes were taken for all; the head has 4",
            1120: "the head has 4 bytes, the embeddings 2, not the other way round",
        }, "2 bytes for each number of wte and value embeddings, 4 for the head"), (480, {
            1920: "look-ups are counted; only the head multiplies",
            960: "wte is counted; a look-up multiplies nothing",
            160: "this is the forward pass alone; training costs three times that",
            240: "a multiplication and an addition are two FLOPs",
            320: "this is the backward pass alone, 4 FLOPs a weight; with the forward pass it is 6",
        }, "6 for each of the 80 weights of the head")),
        ((10, 3, 8), "the same at depth 3", (320, {240: odd}, odd)),
        ((10, 1, 8), "the same at depth 1", (240, {}, "the last layer always has a value embedding")),
        *map(_package_cost, (32768, 49152, 65536), (24, 24, 12)),
    ]:  # fmt: skip
        got = several(f(*args), 3, "three numbers: parameters, bytes and FLOPs of a token")
        for value, name, (wanted, errors, otherwise) in zip(got, ("parameters", "bytes", "FLOPs of a token"), columns):
            known(value, wanted, f"{what}: {name}", errors, otherwise)


def _package_cost(vocab: int, depth: int) -> tuple:
    """A row of the table above, from the package's model."""
    plan, half = (resolve("jan29", depth=depth, vocab_size=v) for v in (vocab, vocab // 2))
    look_up, head = plan.params["wte"] + plan.params["value_embeds"], plan.params["lm_head"]
    return ((vocab, depth, plan.model.n_embd), f"a vocabulary of {vocab:,} at depth {depth}",
            (look_up + head, {}, "that is what the package's model has"),
            (2 * look_up + 4 * head, {}, "2 for an embedding's number, 4 for the head's"),
            (2 * (plan.flops_per_token - half.flops_per_token), {}, "6 for each weight of the head"))  # fmt: skip


# ---- right answers, for the pictures


def _pair(words):
    counts = Counter()
    for word, n in words:
        for pair in pairwise(word):
            counts[pair] += n
    return min(counts, key=lambda pair: (-counts[pair], pair), default=None)


def _encode(piece, ranks):
    return Tokenizer(sorted(ranks, key=ranks.get), pattern=r"(?s:.+)").encode(piece)


def _bpb(nats, texts):
    return float(torch.cat(nats).double().sum()) / math.log(2) / len("".join(texts).encode())


def _cost(vocab_size, depth, width):
    table, looked_up = vocab_size * width, 1 + (depth + 1) // 2
    return table * (looked_up + 1), table * (2 * looked_up + 4), 6 * table


ENCODERS = Tokenizer.train, Tokenizer.encode, Tokenizer.encode_batch, tiktoken.Encoding
EXERCISES = (
    Exercise("1.1", "The most frequent pair", most_frequent_pair, points=2, minutes=10, difficulty=2, importance=4,
             forbids=ENCODERS, reference=_pair),
    Exercise("1.2", "Merge without overlap", merge, points=2, minutes=8, difficulty=2, importance=4,
             forbids=ENCODERS, reference=_merged),
    Exercise("1.3", "Encode by rank", encode, points=3, minutes=15, difficulty=3, importance=5,
             forbids=ENCODERS, reference=_encode),
    Exercise("1.4", "Bits per byte", bits_per_byte, points=2, minutes=8, difficulty=2, importance=5,
             forbids=(package_bits_per_byte,), reference=_bpb),
    Exercise("1.5", "What a vocabulary costs", vocabulary_cost, points=2, minutes=8, difficulty=2, importance=3,
             forbids=(resolve, build, GPT.num_params, GPT.flops_per_token), reference=_cost),
)  # fmt: skip
