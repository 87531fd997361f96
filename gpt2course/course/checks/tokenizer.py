"""Checks of the exercises of lesson 01: counting pairs, merging, encoding, bits per byte, and what a vocabulary
costs."""

import math
import random
from collections import Counter
from itertools import pairwise

import torch

from gpt2course.course.checks import Exercise, need, need_close
from gpt2course.evaluate import bits_per_byte as package_bits_per_byte
from gpt2course.recipes import resolve
from gpt2course.tokenizer import Tokenizer

WORDS = r"\S+|\s"  # a split pattern without surprises: words, and white space


def _texts(seed: int, letters: str = "abc", n: int = 12) -> list[str]:
    """Random words of few letters, so that equal counts and runs such as "aaa" are common."""
    draw = random.Random(seed)
    return [" ".join("".join(draw.choices(letters, k=draw.randint(1, 7))) for _ in range(8)) for _ in range(n)]


def _merged(ids: list, pair: tuple, new: int) -> list:
    out, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        out.append(new if found else ids[i])
        i += 2 if found else 1
    return out


def _pairs(words) -> Counter:
    counts = Counter()
    for ids, n in words:
        for pair in pairwise(ids):
            counts[pair] += n
    return counts


def _learned(words, n: int) -> list[tuple[int, int]]:
    """The first n pairs to merge, in order: the most frequent one, the smallest among equals."""
    merges = []
    while len(merges) < n:
        counts = _pairs(words)
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        words = [(_merged(ids, merges[-1], 255 + len(merges)), n) for ids, n in words]
    return merges


def _ids(got, what: str) -> list[int]:
    """A sequence of ids, whatever holds it."""
    need(got is not None, "the answer returned None: is the return missing?")
    need(not isinstance(got, (str, bytes)), f"{what} came out as {type(got).__name__}, expected a list of ids")
    try:
        got = got.tolist() if hasattr(got, "tolist") else list(got)
    except TypeError:
        need(False, f"{what} came out as {type(got).__name__}, expected a list of ids")
    whole = all(not isinstance(i, (bytes, str, float, tuple, list)) for i in got)
    need(whole, f"{what} came out as {got!r}, expected whole numbers")
    return [int(i) for i in got]


def _pair(got, what: str):
    if got is None:
        return None
    pair = _ids(got, what)
    need(len(pair) == 2, f"{what} came out as {got!r}, expected one pair (left id, right id)")
    return tuple(pair)


def most_frequent_pair(f) -> None:
    def ask(words, what, wanted, errors, otherwise):
        given = [(list(ids), n) for ids, n in words]
        got = _pair(f(given), what)
        need(given == words, "your answer changed the words that it was given; only count them")
        for wrong, hint in errors.items():
            need(got != wrong, f"{what}: {wrong} came out, expected {wanted}: {hint}")
        need(got == wanted, f"{what}: {got} came out, expected {wanted}: {otherwise}")

    twice = [([7, 8, 9], 1), ([8, 9], 1)]
    ask(twice, "words 7 8 9 and 8 9", (8, 9), {None: "is the return missing?"}, "8 9 comes twice, 7 8 once")
    ask(
        [([5, 6], 4), ([1, 2], 1), ([1, 2, 3], 1), ([1, 2, 4], 1)],
        "the word 5 6 four times, and three words with 1 2",
        (5, 6),
        {(1, 2): "a word that occurs four times counts four times; was its number left out?"},
        "add a word's number for each pair in it",
    )
    ask(
        [([9, 3], 2), ([3, 9], 2), ([4, 1], 2)],
        "a tie of 9 3, 3 9 and 4 1",
        (3, 9),
        {
            (9, 3): "of equal counts the smallest pair wins, not the first seen or the largest",
            (3, 3): "3 and 3 stand in different words; pairs lie within one word",
            (4, 1): "compare the left ids first, not the right ones, the sums, or which came last",
        },
        "of equal counts the pair with the smallest (left, right) wins",
    )
    left = "equal left ids: the smaller right id wins, not the first seen"
    ask([([3, 9], 1), ([3, 2], 1)], "a tie of 3 9 and 3 2", (3, 2), {}, left)
    as_text = "ids are numbers; as text 10 comes before 9"
    ask([([10, 1], 1), ([9, 1], 1)], "a tie of 10 1 and 9 1", (9, 1), {(10, 1): as_text}, "9 < 10")
    ask(
        [([4, 1], 1), ([2, 5], 2), ([6, 1], 2), ([2, 7], 1), ([8, 1], 1), ([2, 5], 1)],
        "words 4 1, 2 5 (twice), 6 1 (twice), 2 7, 8 1 and 2 5",
        (2, 5),
        {(1, 2): "1 and 2 stand in different words; pairs lie within one word"},
        "it comes three times in all",
    )
    ask(
        [([1, 1, 1], 2), ([2, 3], 3)],
        "1 1 1 twice and 2 3 three times",
        (1, 1),
        {(2, 3): "neighbours are counted even if they overlap: 1 1 1 holds the pair 1 1 twice"},
        "count every pair of neighbours",
    )
    ask([([1], 5), ([], 2)], "words of one token and of none", None, {}, "there is no pair, so None is expected")
    ask([], "no words at all", None, {}, "there is no pair, so None is expected")
    for seed in range(3):  # a whole training, in which your answer chooses every pair
        texts = _texts(seed)
        words = [(list(word.encode()), n) for word, n in Counter(w for t in texts for w in t.split()).items()]
        ours = Tokenizer.train(texts, 265 + 40, pattern=WORDS).ranks
        tokens = list(ours[:256])
        while len(tokens) < len(ours):
            pair = _pair(f([(list(ids), n) for ids, n in words]), "a pair")
            need(pair is not None, f"a training stopped after {len(tokens) - 256} merges: None came out though pairs were left")
            token = tokens[pair[0]] + tokens[pair[1]]
            need(
                token == ours[len(tokens)],
                f"merge {len(tokens) - 255} of a training came out as {token!r}, the package learns {ours[len(tokens)]!r}: "
                "look at counts and ties",
            )
            words = [(_merged(ids, pair, len(tokens)), n) for ids, n in words]
            tokens.append(token)


def merge(f) -> None:
    def ask(ids, pair, new, wanted, errors, otherwise):
        given, what = list(ids), f"merging {pair} to {new} in {ids}"
        got = _ids(f(given, pair, new), what)
        for wrong, hint in errors:
            need(got != wrong, f"{what}: {wrong} came out, expected {wanted}: {hint}")
        need(got == wanted, f"{what}: {got} came out, expected {wanted}: {otherwise}")
        need(given == ids, "your answer changed the list that it was given; build a new one")

    replaced = "each place where the pair stands becomes the new id, all else stays"
    ask([1, 2, 3, 1, 2], (1, 2), 9, [9, 3, 9], [
        ([9, 3, 1, 2], "only the first pair was merged"), ([1, 2, 3, 1, 2], "nothing was merged"),
        ([9, 3, 1], "the end is wrong: look at what happens in the last two places"),
        ([9, 2, 3, 9, 2], "the right half of a pair stayed: step on by two after a merge"),
        ([9, 3], "the end is lost: look at what happens in the last two places"),
    ], replaced)  # fmt: skip
    ask([1, 1, 1], (1, 1), 9, [9, 1], [
        ([9, 9], "the two merges overlap; the middle 1 was used twice: step on by two after a merge"),
        ([1, 9], "this went from right to left"), ([9], "the last token is lost when no pair is left for it"),
    ], "from left to right, and no token is used twice")  # fmt: skip
    ask([1, 1, 1, 1, 1], (1, 1), 9, [9, 9, 1], [([9, 9, 9, 9], "the merges overlap")], "step on by two after a merge")
    ask([1, 2, 3], (1, 2), 9, [9, 3], [([9], "the last token is lost: it has no neighbour, but stays")], replaced)
    ask([3, 1, 2], (1, 2), 9, [3, 9], [([3, 1, 2], "the pair at the very end was not seen")], replaced)
    ask([2, 1, 2, 2], (1, 2), 9, [2, 9, 2], [([9, 2, 2], "2 1 was merged as well: the order within the pair counts")], replaced)
    ask([2, 1], (1, 2), 9, [2, 1], [([9], "2 1 is not the pair 1 2: the order counts")], "there is nothing to merge")
    ask([11, 2], (1, 2), 9, [11, 2], [([19], "as text, 11,2 contains 1,2; ids are numbers")], "11 is no 1: compare ids, not text")
    ask([1, 12], (11, 2), 9, [1, 12], [([9], "as text, 1 12 looks like 11 2; ids are numbers")], "compare ids, not text")
    ask([1, 3, 2], (1, 2), 9, [1, 3, 2], [], "only neighbours are merged")
    ask([5], (5, 5), 9, [5], [([], "a single token stays")], "a single token stays")
    ask([], (5, 5), 9, [], [], "an empty list stays empty")
    texts = _texts(7)
    words = Counter(w for t in texts for w in t.split())
    tokenizer = Tokenizer.train(texts, 265 + 30, pattern=WORDS)
    merges = _learned([(list(w.encode()), n) for w, n in words.items()], 30)
    for word in [*words, *" ".join(_texts(8)).split()]:
        ids = list(word.encode())
        for new, pair in enumerate(merges, 256):
            ids = _ids(f(list(ids), pair, new), f"a merge in {word!r}")
        ours = tokenizer.encode(word)
        need(ids == ours, f"the package's merges, done in order by your answer, make {ids} of {word!r}; the package makes {ours}")


BYTES = {bytes([b]): b for b in range(256)}


def encode(f) -> None:
    def ask(text, ranks, wanted, errors, otherwise):
        given, what = dict(ranks), f"encoding {text!r}"
        got = f(text, given)
        if isinstance(got, (list, tuple)) and got and isinstance(got[0], bytes):
            need(False, f"{what}: the tokens came out as bytes; return their ids, ranks[token]")
        got = _ids(got, what)
        for wrong, hint in errors:
            need(got != wrong, f"{what}: {wrong} came out, expected {wanted}: {hint}")
        need(got == wanted, f"{what}: {got} came out, expected {wanted}: {otherwise}")
        need(given == ranks, "your answer changed the table of ranks that it was given")

    ask("hi", BYTES, [104, 105], [], "without merges every byte is a token")
    learned = BYTES | {b"bc": 256, b"ab": 257}  # bc was learned before ab
    nothing = "nothing was merged; look for neighbours whose bytes, joined, are in ranks"
    ask("ab", learned, [257], [([97, 98], nothing)], "a and b merge")
    ask("abc", learned, [97, 256], [
        ([257, 99], "this took the first or longest match; bc was learned before ab, so bc merges first"),
        ([97, 98, 99], "nothing was merged"),
    ], "bc has the lower rank, so it merges first")  # fmt: skip
    learned = BYTES | {b"cd": 256, b"ab": 257, b"abc": 258}
    ask("abcd", learned, [257, 256], [
        ([258, 100], "this took the longest match, abc; cd was learned first and takes the c"),
        ([97, 98, 256], "merging stopped after one merge; go on until no neighbours can be merged"),
    ], "cd first, then ab")  # fmt: skip
    learned = BYTES | {b"ab": 256, b"cd": 257, b"abcd": 258}
    early = "merging stopped too early: ab and cd are neighbours, and abcd is a token"
    ask("abcd", learned, [258], [([256, 257], early)], "ab, cd, abcd")
    ask("abxab", learned, [256, 120, 256], [([256, 120, 97, 98], "only the first place was merged")], "ab merges in both places")
    ask("aaa", BYTES | {b"aa": 256}, [256, 97], [([97, 256], "among equals the leftmost merges first")], "the leftmost first")
    ask("", learned, [], [], "no text, no tokens")
    try:
        got = f("é", dict(BYTES))
    except (KeyError, ValueError, TypeError, IndexError) as e:
        need(False, f"encoding 'é' stopped with {type(e).__name__}: it is one character and two bytes; begin with text.encode()")
    wanted = "the two bytes of é in UTF-8 are expected; begin with text.encode(), not with characters"
    need(_ids(got, "encoding 'é'") == [195, 169], f"encoding 'é': {got} came out, expected [195, 169]: {wanted}")
    within = "a token may end within a character: n and the first byte of é"
    ask("né", BYTES | {b"n\xc3": 256}, [256, 169], [([110, 195, 169], within)], within)
    texts = ["the cat sat on the mat, then the hat sat on the cat", "über Größe über Grüße, Straße", "狐と犬と狐", *_texts(3)]
    tokenizer = Tokenizer.train(texts, 265 + 70, pattern=WORDS)
    ranks = {token: i for i, token in enumerate(tokenizer.ranks)}
    words = [w for t in [*texts, *_texts(4), *_texts(5, "theca"), "überall 犬狐"] for w in t.split()]
    for word in dict.fromkeys(words):
        ask(word, ranks, tokenizer.encode(word), [], "the package merges the lowest rank first, the leftmost among equals")


def _number(got, what: str) -> float:
    need(got is not None, "the answer returned None: is the return missing?")
    try:
        value = torch.as_tensor(got, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        need(False, f"{what} came out as {type(got).__name__}, expected a number")
    need(value.numel() == 1, f"{what} came out with the shape {tuple(value.shape)}, expected one number")
    return value.item()


def _known(got, wanted: float, what: str, errors: list, otherwise: str) -> None:
    """One number: right, or one line that names the error behind it. errors: (what a known error gives, where to
    look)."""
    value = _number(got, what)
    line = f"{what} came out as {value:.6g}, expected {wanted:.6g}"
    if abs(value - wanted) > 1e-4 * abs(wanted):
        for wrong, hint in errors:
            need(abs(value - wrong) > 1e-3 * abs(wrong), f"{line}: {hint}")
    need_close(value, wanted, f"{line}: {otherwise}", atol=1e-4 * abs(wanted))


class _Table(torch.nn.Module):
    """A model whose loss is known: each token costs what a table says."""

    def __init__(self, nats):
        super().__init__()
        self.nats = torch.nn.Parameter(nats)

    def forward(self, idx, targets, reduction="none"):
        return torch.where(targets >= 0, self.nats[targets.clamp_min(0)], 0.0)


def bits_per_byte(f) -> None:
    ln2 = math.log(2)
    _known(f([torch.tensor([3.0, 4.0, 1.0]) * ln2], ["abcd"]), 2.0, "3, 4 and 1 bits for 4 bytes", [
        (2 * ln2, "these are nats for each byte; one bit is ln 2 = 0.693 nats: divide"),
        (2 * ln2 * ln2, "nats were multiplied by ln 2; divide"), (8 / 3, "these are bits for each token"),
        (8 / 3 * ln2, "this is the loss, nats for each token"),
        (2 / 3, "the mean over tokens was divided by bytes; take the sum"),
        (8.0, "these are bits in all; divide by the bytes"), (2 * ln2 / math.log(10), "this is the logarithm to base 10"),
        (0.25, "the 8 bits of a byte do not enter: divide the bits that the model needs by the bytes"),
        (0.5, "this is bytes for each bit"),
        (1.0, "8 bytes is UTF-16; use UTF-8, the default of encode()"),
    ], "the sum of the nats, divided by ln 2, divided by the bytes")  # fmt: skip
    nats, texts = [torch.tensor([4.0, 2.0]) * ln2, torch.tensor([8.0, 1.0, 1.0]) * ln2], ["naïve", "狐"]
    _known(f(nats, texts), 16 / 9, "16 bits for the texts 'naïve' and '狐'", [
        (16 / 6, "this counts characters; ï has two bytes in UTF-8 and 狐 three"),
        ((6 / 6 + 10 / 3) / 2, "this is the mean of the two documents; a short one must not weigh as much as a long one"),
        ((6 / 5 + 10 / 1) / 2, "this counts characters, and takes the mean of the documents"),
        (6 / 6, "this is the first document alone"), (10 / 3, "this is the last document alone"),
        (16 / 9 / 5, "the mean over tokens was divided by bytes; take the sum"),
        (16 / 5, "these are bits for each token"), (16 / 18, "a byte was counted twice: is it UTF-16?"),
        (16 / 12, "12 bytes is UTF-16; use UTF-8"), (16 / 16, "16 bytes is UTF-16 with its mark; use UTF-8"),
        (13 / 9, "the last document has one token more than the first, and all count"),
    ], "all bits of all documents, divided by all bytes of UTF-8")  # fmt: skip
    documents = ["The fox jumps over the dog.", "Über Größe und Straße, 狐!", "x"]
    tokenizer = Tokenizer.train(["the fox jumps over the dog, the dog jumps over the fox"], 280)
    table = torch.rand(tokenizer.vocab_size, generator=torch.Generator().manual_seed(3)) * 6
    wanted, _ = package_bits_per_byte(_Table(table), documents, tokenizer, T=64)
    nats = [table[torch.tensor(tokenizer.encode(d))] for d in documents]
    kept = [n.clone() for n in nats]
    _known(f(nats, list(documents)), wanted, "three documents", [], "the package's evaluate.py finds that for the same losses")
    need(all(torch.equal(a, b) for a, b in zip(nats, kept)), "your answer changed the losses that it was given")


def vocabulary_cost(f) -> None:
    def three(vocab, depth, width):
        got = f(vocab, depth, width)
        need(got is not None, "the answer returned None: is the return missing?")
        got = got.tolist() if hasattr(got, "tolist") else got
        need(isinstance(got, (tuple, list)) and len(got) == 3, "expected three numbers: parameters, bytes and FLOPs")
        return got

    what, (p, b, c) = "a vocabulary of 10 at depth 4 and width 8", three(10, 4, 8)  # one table has 80 numbers
    _known(p, 320, f"{what}: parameters", [
        (160, "the value embeddings are missing: a table on every second layer"),
        (80, "that is one table; there are wte, the head and the value embeddings"),
        (240, "there are 4 tables, wte, head and 2 value embeddings; is the head taken for the embedding, or one left out?"),
        (480, "value embeddings stand on every second layer, not on each"), (400, "that is a table too many"),
    ], "4 tables of 10 x 8: wte, lm_head and two value embeddings")  # fmt: skip
    _known(b, 2 * 80 + 4 * 80 + 2 * 2 * 80, f"{what}: bytes", [
        (1280, "4 bytes were taken for all; wte and value embeddings have 2"),
        (640, "2 bytes were taken for all; the head has 4"),
        (320, "these are parameters; a number has 2 or 4 bytes"),
        (1120, "the head has 4 bytes, the embeddings 2, not the other way round"),
        (6400, "these are bits"),
    ], "2 bytes for each number of wte and value embeddings, 4 for the head")  # fmt: skip
    _known(c, 480, f"{what}: FLOPs of a token", [
        (1920, "look-ups are counted; only the head multiplies"),
        (960, "wte is counted; a look-up multiplies nothing"),
        (160, "this is the forward pass alone; training costs three times that"),
        (240, "a multiplication and an addition are two FLOPs"),
        (80, "6 FLOPs for each weight of the head"),
        (320, "this is the backward pass alone, 4 FLOPs a weight; with the forward pass it is 6"),
    ], "6 for each of the 80 weights of the head")  # fmt: skip
    p, b, _ = three(10, 3, 8)
    odd = "3 layers have 2 value embeddings, on the last layer and on the first"
    _known(p, 320, "the same at depth 3: parameters", [(240, odd)], odd)
    _known(three(10, 1, 8)[0], 240, "the same at depth 1: parameters", [], "the last layer always has a value embedding")
    for vocab, depth in ((32768, 24), (49152, 24), (65536, 12)):
        plan = resolve("jan29", depth=depth, vocab_size=vocab)
        half = resolve("jan29", depth=depth, vocab_size=vocab // 2)
        count, where = plan.params, f"a vocabulary of {vocab:,} at depth {depth}"
        p, b, c = three(vocab, depth, plan.model.n_embd)
        look_up = count["wte"] + count["value_embeds"]
        _known(p, look_up + count["lm_head"], f"{where}: parameters", [], "that is what the package's model has")
        _known(b, 2 * look_up + 4 * count["lm_head"], f"{where}: bytes", [], "2 for an embedding's number, 4 for the head's")
        flops = 2 * (plan.flops_per_token - half.flops_per_token)
        _known(c, flops, f"{where}: FLOPs of a token", [], "6 for each weight of the head")


EXERCISES = (
    Exercise("1.1", "The most frequent pair", most_frequent_pair, points=2, minutes=10, difficulty=2, importance=4),
    Exercise("1.2", "Merge without overlap", merge, points=2, minutes=8, difficulty=2, importance=4),
    Exercise("1.3", "Encode by rank", encode, points=3, minutes=15, difficulty=3, importance=5),
    Exercise("1.4", "Bits per byte", bits_per_byte, points=2, minutes=8, difficulty=2, importance=5),
    Exercise("1.5", "What a vocabulary costs", vocabulary_cost, points=2, minutes=8, difficulty=2, importance=3),
)
