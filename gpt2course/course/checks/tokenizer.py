"""Checks of lesson 01's exercises: bits per byte, merges from a rank file, a counterexample, a pattern, a cost."""

import base64
import hashlib
import importlib.util
import itertools
import math
import random
import unicodedata
from pathlib import Path

import regex
import tiktoken
import torch

from gpt2course.course.checks import Exercise, Wrong, call, known, need, several, steady
from gpt2course.data import load_corpus
from gpt2course.evaluate import bits_per_byte as package_bits_per_byte
from gpt2course.model import GPT
from gpt2course.recipes import build, resolve
from gpt2course.tokenizer import SPLIT_PATTERN, Tokenizer

WORDS = r"\S+|\s"  # a simple split pattern: words, and white space
BYTES = {bytes([b]): b for b in range(256)}
# GPT-4's file in packages that have it (named by the hash of its address), its hash, and its pattern (tiktoken 0.14)
CL100K = ("litellm", "llama_index"), "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
CL100K_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
CL100K_PATTERN = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""


def _texts(seed: int, letters: str = "abc", n: int = 12) -> list[str]:
    """Random words of few letters, so that equal counts and runs such as "aaa" are common."""
    draw = random.Random(seed)
    return [" ".join("".join(draw.choices(letters, k=draw.randint(1, 7))) for _ in range(8)) for _ in range(n)]


def _numbers(tokens: list[bytes]) -> dict[bytes, int]:
    """Ids for tokens in order of learning, the single bytes ordered as in GPT-4's file: those that print come first."""
    hidden = lambda b: not (33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255)
    single = sorted(range(256), key=lambda b: (hidden(b), b))
    return {bytes([b]): i for i, b in enumerate(single)} | {t: i for i, t in enumerate(tokens) if i > 255}


def _file(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def rank_file() -> tuple[bytes, str]:
    """(content, split pattern) of GPT-4's rank file if an installed package has it, else of a small one of the same form."""
    for package in CL100K[0]:
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations if spec else ():
            for path in Path(folder).rglob(CL100K[1]):
                if hashlib.sha256(data := path.read_bytes()).hexdigest() == CL100K_SHA256:
                    return data, CL100K_PATTERN
    corpus = load_corpus("embedded")
    docs = [corpus.train[i] for i in range(200)]
    return _file(_numbers(Tokenizer.train(docs, 1033).ranks)), CL100K_PATTERN


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


def merges_of(f) -> None:
    small = {b"a": 0, b"b": 1, b"c": 2, b"d": 3}
    bc, two = {b"bc": 4, b"abc": 5}, {b"ab": 4, b"cd": 5, b"abcd": 6}
    asked = lambda ranks: _file({token: ranks[token] for token in sorted(ranks)})  # by bytes, not by id
    steady(f, (_file(small | bc),), (_file(small | two),), "the merges of bc and abc")
    number = "the third number is the id of the new token, its number in the file"
    for ranks, what, wanted, errors, otherwise in [
        (small, "a file of single bytes", [], [], "no merge makes a single byte"),
        (small | bc, "a b c d, bc 4, abc 5", [[1, 2, 4], [0, 4, 5]], [
            ([[98, 99, 4], [97, 4, 5]], "the single bytes have ids of their own in the file, not their values"),
            ([[1, 2], [0, 4]], number), ([[0, 4, 5], [1, 2, 4]], "sort by the new ids; lines may come in any order"),
            ([[4, 1, 2], [5, 0, 4]], "the order is left, right, new"),
        ], "bc is b and c; abc is a and bc"),
        (small | bc | {b"ab": 6, b"abcd": 7}, "a b c d, bc 4, abc 5, ab 6, abcd 7",
         [[1, 2, 4], [0, 4, 5], [0, 1, 6], [5, 3, 7]], [
            ([[1, 2, 4], [6, 2, 5], [0, 1, 6], [5, 3, 7]], "abc is older than ab; use only tokens with lower ids than the new one"),
        ], "only tokens with lower ids existed when a token was made"),
        (small | two, "a b c d, ab 4, cd 5, abcd 6", [[0, 1, 4], [2, 3, 5], [4, 5, 6]], [], "abcd is ab and cd"),
        (small | {b"bc": 4, b"ab": 5, b"cd": 6, b"bcd": 7, b"abcd": 8}, "a b c d, bc 4, ab 5, cd 6, bcd 7, abcd 8",
         [[1, 2, 4], [0, 1, 5], [2, 3, 6], [4, 3, 7], [0, 7, 8]], [
            ([[1, 2, 4], [0, 1, 5], [2, 3, 6], [1, 6, 7], [5, 6, 8]], "a first cut that fits is not the one of the training; the lowest id merges first"),
            ([[1, 2, 4], [0, 1, 5], [2, 3, 6], [4, 3, 7], [5, 6, 8]], "ab and cd fit, but bc merges before both"),
        ], "encode the bytes with the tokens of lower ids: the lowest id merges first, until two parts are left"),
        ({b"a": 0} | {b"a" * n: n - 1 for n in (2, 3)}, "a 0, aa 1, aaa 2", [[0, 0, 1], [1, 0, 2]],
         [([[0, 0, 1], [0, 1, 2]], "among equals the leftmost merges first: aaa is aa and a")], "aaa is aa and a"),
    ]:  # fmt: skip
        got = [
            list(x) for x in several(call(f, asked(ranks)), None, "a list of (left, right, new)") if len(x) in (2, 3)
        ]
        known(got, wanted, what, errors, otherwise)
    for seed in range(2):  # a real file: decode what comes out
        texts = ["über Größe, 狐と犬と狐", *_texts(seed), *_texts(seed + 9, "theca")]
        ranks = _numbers(Tokenizer.train(texts, 265 + 60, pattern=WORDS).ranks)
        wanted = [[*(ranks[part] for part in _parts(t, ranks)), i] for t, i in ranks.items() if len(t) > 1]
        got = [list(x) for x in several(call(f, _file(ranks)), None, "a list of (left, right, new)")]
        known(
            got,
            wanted,
            "a file of 316 tokens, made from text",
            [],
            "begin with the single bytes of each token, also of 狐",
        )


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that made one: merge order with the tokens of lower ids."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [a + b for a, b in itertools.pairwise(parts)]
        _, i = min((ranks[t], i) for i, t in enumerate(joined) if ranks.get(t, ranks[token]) < ranks[token])
        parts[i : i + 2] = [joined[i]]
    return parts


def _merges(data: bytes) -> list[tuple[int, int, int]]:
    ranks = {base64.b64decode(t): int(i) for t, i in map(bytes.split, data.splitlines())}
    long = sorted((i, t) for t, i in ranks.items() if len(t) > 1)
    return [(*(ranks[part] for part in _parts(t, ranks)), i) for i, t in long]


def _both(text: str, ranks: dict[bytes, int]) -> tuple[list[int], list[int]]:
    """(longest match, merge order)"""
    data, greedy, parts = text.encode(), [], [bytes([b]) for b in text.encode()]
    while data:
        size = max(n for n in range(1, len(data) + 1) if data[:n] in ranks)
        greedy, data = [*greedy, ranks[data[:size]]], data[size:]
    while found := [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]:
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return greedy, [ranks[part] for part in parts]


def _disagreement(ranks, letters, longest):
    texts = ("".join(x) for n in range(1, longest + 1) for x in itertools.product(letters, repeat=n))
    return next((t for t in texts if len({*map(tuple, _both(t, ranks))}) > 1), None)


def disagreement(f) -> None:
    steady(
        f, (BYTES | {b"bc": 256, b"ab": 257}, "abc", 4), (BYTES | {b"cd": 256, b"bc": 257}, "bcd", 4), "bc before ab"
    )
    words = BYTES | {t: i for i, t in enumerate(Tokenizer.train(_texts(3), 265 + 30, pattern=WORDS).ranks) if i > 255}
    for more, letters, longest, what in [
        ({b"bc": 256, b"ab": 257}, "abc", 4, "bc 256, ab 257"), ({b"bc": 256, b"ab": 257}, "cab", 2, "at most 2 letters"),
        ({b"ab": 256}, "ab", 5, "ab alone"), ({}, "ab", 4, "no merges"), ({b"aa": 256, b"aaa": 257}, "a", 9, "aa, aaa"),
        ({b"cd": 256, b"ab": 257, b"bcd": 258, b"abcd": 259, b"dab": 260}, "abcd", 5, "cd, ab, bcd, abcd, dab"),
        ({b"n\xc3": 256, b"\xc3\xa9": 257, b"\xa9\xc3": 258}, "né", 4, "tokens within é"),
        ({b"yz": 256, b"xy": 257}, "ab", 3, "letters without tokens"), (words, "abc", 5, "30 merges"),
    ]:  # fmt: skip
        ranks, name = BYTES | more, f"{what}; letters {letters!r}, longest {longest}"
        wanted, got = _disagreement(ranks, letters, longest), call(f, dict(ranks), letters, longest, keep="the ranks")
        if wanted is None:
            need(got is None, f"{name}: {got!r:.40} came out, but no such text exists: None is expected")
            continue
        need(
            isinstance(got, str),
            f"{name}: {got!r:.40} came out, expected a text: there is one of {len(wanted)} letters",
        )
        need(got and not set(got) - set(letters), f"{name}: {got!r:.40} has letters that were not given, or none")
        greedy, merged = _both(got, ranks)
        need(greedy != merged, f"{name}: longest match and merge order agree on {got!r:.40}: both give {merged}")
        short = f"there is one of {len(wanted)} letters; try all texts of n letters before those of n + 1"
        need(len(got) == len(wanted), f"{name}: {got!r:.40} is not a shortest text: {short}")


MARKED = "हिन्दी", "किताबें", "ẹ̀kọ́", "kọ̀ọ̀kan", "ქართული", "কবিতা", "naïve", unicodedata.normalize("NFD", "Größe")


def _pattern() -> str:
    return SPLIT_PATTERN.replace(r"\p{L}+", r"\p{L}[\p{L}\p{M}]*")


def split_pattern(f) -> None:
    got = f()
    need(isinstance(got, str), f"the answer came out as {type(got).__name__}, expected a string, the pattern")
    try:
        cut = lambda text: [m.group() for m in compiled.finditer(text)]
        compiled = regex.compile(got)
    except regex.error as e:
        raise Wrong(f"it is no regular expression: {e}") from None
    plain = [
        "The fox's 12345 dens, I'LL see.\n\n  Yes: (in) 2026!  ",
        "snake_case x=3;\tend\r\n",
        "a  b   c",
        "¿Qué? été, 狐と犬",
        "x² ½ 一二三",
    ]
    lost = "it loses characters: keep the parts for signs, white space and lone marks"
    for text in [*plain, "\u0301a \u0301 ्", "".join(random.Random(5).choices("aé\u0301ि1 \n.'s_狐", k=400))]:
        need("".join(cut(text)) == text, f"the pieces of {text!r:.40} do not join to it: {lost}")
    for word in MARKED:
        for text in (word, f" {word}"):
            pieces = cut(text)
            hint = "letters and marks, in any order after the first letter, are one piece"
            need(pieces == [text], f"{text!r} came out as {len(pieces)} pieces, {pieces!r:.60}, expected one: {hint}")
    corpus = load_corpus("embedded")
    for text in [*plain, *(corpus.val[i] for i in range(30))]:
        pairs = zip(cut(text), regex.findall(SPLIT_PATTERN, text))
        wrong = next((f"{a!r} for {b!r}" for a, b in pairs if a != b and not regex.search(r"\p{M}", text)), "")
        need(not wrong, f"text without marks is cut otherwise than before: {wrong:.60}; change only the part for words")
    for text, wanted in [
        ("नदी, नाव।", ["नदी", ",", " नाव", "।"]),
        ("है १२३", ["है", " ", "१२", "३"]),
        ("ọ́'s", ["ọ́", "'s"]),
    ]:
        known(
            len(cut(text)),
            len(wanted),
            f"the pieces of {text!r}",
            [],
            f"expected {wanted}: signs and numbers stay apart",
        )
    try:
        Tokenizer.train(["नदी नदी नाव नाव नदी"] * 3, 266, pattern=got)
    except Exception as e:
        need(False, f"rustbpe and tiktoken, which the package calls, cannot use it: {e}"[:160])


def vocabulary_cost(f) -> None:
    rows = []
    for args, what in [((10, 8, 100, 2.0, 6), "V 10, width 8, 100 weights, 2 bytes per token, 6 tokens"),
                       ((32768, 1536, 679_477_248, 4.46, 32_768), "V 32,768 at depth 24"), ((300, 48, 7777, 1.7, 33), "V 300")]:  # fmt: skip
        V, C, w, size, n = args
        h = V * C
        rows.append((args, what, (2 * h, {h: "there are two tables, one to look up and the head", h + w: "the tables alone"}, "2 V width"),
            (6 * (w + h) / size, {
                6 * (w + h): "this is for a token; divide by the bytes of a token", 6 * (w + h) * size: "divide by the bytes of a token, do not multiply",
                6 * (w + 2 * h) / size: "the first table is looked up and multiplies nothing; only the head counts", 6 * w / size: "the head multiplies too",
                6 * h / size: "the weights of the model are missing", 2 * (w + h) / size: "this is the forward pass alone; training costs three times that",
                4 * (w + h) / size: "this is the backward pass alone", 3 * (w + h) / size: "a multiplication and an addition are two FLOPs",
            }, "6 for each weight and each number of the head, divided by the bytes of a token"),
            (4 * V * n, {2 * V * n: "4 bytes each, not 2", V * n: "4 bytes for each score", 4 * n: "a score for each token of the vocabulary",
                         4 * V: "there is a row of V scores for each of the batch's tokens", 4 * C * n: "V scores, not width"}, "V scores of 4 bytes for each token")))  # fmt: skip
    for args, what, *columns in rows:
        got = several(f(*args), 3, "three numbers: parameters, FLOPs of a byte, bytes of the scores")
        for value, name, (wanted, errors, otherwise) in zip(
            got, ("parameters", "FLOPs of a byte", "bytes of the scores"), columns
        ):
            known(value, wanted, f"{what}: {name}", errors, otherwise)


def _bpb(nats, texts):
    return float(torch.cat(nats).double().sum()) / math.log(2) / len("".join(texts).encode())


def _cost(V, width, weights, bytes_per_token, batch_tokens):
    return 2 * V * width, 6 * (weights + V * width) / bytes_per_token, 4 * V * batch_tokens


ENCODERS = Tokenizer.train, Tokenizer.encode, Tokenizer.encode_batch, tiktoken.Encoding
EXERCISES = (
    Exercise("1.1", "Bits per byte", bits_per_byte, points=2, minutes=8, difficulty=2, importance=5,
             forbids=(package_bits_per_byte,), reference=_bpb),
    Exercise("1.2", "GPT-4's ranks", merges_of, points=3, minutes=20, difficulty=4, importance=4,
             forbids=ENCODERS, reference=_merges),
    Exercise("1.3", "A shortest disagreement", disagreement, points=3, minutes=12, difficulty=3, importance=3,
             forbids=ENCODERS, reference=_disagreement),
    Exercise("1.4", "A split pattern for another language", split_pattern, points=2, minutes=12, difficulty=3, importance=4,
             reference=_pattern),
    Exercise("1.5", "What a vocabulary costs", vocabulary_cost, points=2, minutes=8, difficulty=2, importance=3,
             forbids=(resolve, build, GPT.num_params, GPT.flops_per_token), reference=_cost),
)  # fmt: skip
