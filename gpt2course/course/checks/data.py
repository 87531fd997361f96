"""Checks of the exercises of lesson 02: measuring a packing, best fit, a whole row, dealing rows to ranks, what a run
reads."""

import copy
import math
import random

import numpy as np

from gpt2course.batches import Batches, _head, _Stream
from gpt2course.course.checks import Exercise, need
from gpt2course.data import from_list


class Numbered:
    """A tokenizer whose documents are easy to recognise: the text "i n" becomes n ids, 0 for BOS and then i."""

    sha256 = "numbered"

    def encode_batch(self, texts, bos=True):
        return [[0] + [int(i)] * (int(n) - 1) for i, n in (text.split() for text in texts)]


def _split(lengths: list[int]):
    return from_list([f"{i + 1} {n}" for i, n in enumerate(lengths)])


def _fill(documents: list[list[int]], places: int) -> tuple[list[int], list[int]]:
    """The package's row of `places` tokens from just these waiting documents: (the row, the documents in it by
    number)."""
    stream = _Stream(from_list(["a"]), Numbered(), places - 1, 0, 1, 1)
    stream.target = 0  # nothing is read in addition
    for i, tokens in enumerate(documents):
        stream.add(i, *_head(tokens, places))
    row = np.empty(places, dtype=np.int64)
    used = stream.fill(row)
    return row.tolist(), used


def _returned(got) -> None:
    need(got is not None, "the answer returned None: is the return missing?")


def _number(got, what: str) -> float:
    _returned(got)
    need(not isinstance(got, (str, bytes, bool)), f"{what} came out as {got!r}, expected a number")
    try:
        value = float(got)
    except (TypeError, ValueError, RuntimeError):
        need(False, f"{what} came out as {type(got).__name__}, expected a number")
    need(math.isfinite(value), f"{what} came out as {value}, expected a finite number")
    return value


def _sequence(got, n: int | None, what: str) -> list:
    _returned(got)
    need(not isinstance(got, (str, bytes, dict, set)), f"the answer came out as {type(got).__name__}, expected {what}")
    try:
        got = list(got)
    except TypeError:
        need(False, f"the answer came out as {type(got).__name__}, expected {what}")
    need(n is None or len(got) == n, f"{len(got)} values came out, expected {what}")
    return got


def _ids(got, what: str) -> list[int]:
    _returned(got)
    ids = got.tolist() if hasattr(got, "tolist") else _sequence(got, None, f"a list of ids as {what}")
    need(isinstance(ids, list), f"{what} came out as {ids!r}, expected a list of ids")
    try:
        return [int(i) for i in ids]
    except (TypeError, ValueError, RuntimeError):
        need(False, f"{what} came out as {ids!r:.60}, expected ids, one after the other")


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1.0, abs(b))


# -- 2.1


def shares(f) -> None:
    def ask(rows, lengths, row_tokens, wanted, case, errors=({}, {})):
        given = copy.deepcopy((rows, lengths))
        got = _sequence(f(*given, row_tokens), 2, "two numbers (cropped share, padding share)")
        got = [_number(g, name) for g, name in zip(got, ("the cropped share", "the padding share"))]
        need(given == (rows, lengths), "your answer changed the rows or lengths that it was given; only read them")
        if not _close(wanted[0], wanted[1]):
            swapped = _close(got[0], wanted[1]) and _close(got[1], wanted[0])
            need(not swapped, "the two came out swapped: the cropped share stands first, the padding second")
        for k, name in enumerate(("cropped share", "padding share")):
            line = f"{case}: {name} {got[k]:.4f} came out, expected {wanted[k]:.4f}"
            need(not (wanted[k] and _close(got[k], 100 * wanted[k])), f"{line}: return a share from 0 to 1, not per cent")
            for wrong, hint in errors[k].items():
                need(not _close(got[k], wrong), f"{line}: {hint}")
            need(_close(got[k], wanted[k]), f"{line}: {('cut off, of all tokens of the documents', 'empty, of all places')[k]}")

    over = "the divisor is the tokens that the documents had, not those that are left, nor the places in the rows"
    ask(
        [[(0, 5)], [(1, 3)], [(2, 8)]],
        [5, 3, 9],
        8,
        (1 / 17, 8 / 24),
        "the tiny example",
        (
            {
                1 / 16: over,
                1 / 24: over,
                1 / 3: "one document of three is cropped, but the share is of tokens, not documents",
                16 / 17: "that is the share that is kept; cropped is the rest",
            },
            {
                8 / 16: "divide by the places, not by the tokens",
                8 / 17: "divide by the places in the rows, not by the documents' tokens",
                16 / 24: "that is the share that is filled, or of rows with a gap; padding is the empty places",
                1 / 3 - 1 / 24: "cropped tokens are not in the rows: count the empty places alone",
            },
        ),
    )
    ask(
        [[(0, 4)], [(1, 2)]],
        [4, 2],
        8,
        (0.0, 10 / 16),
        "two rows of 8, with 4 and 2 tokens",
        (
            {},
            {
                2 / 8: "a row has row_tokens places, even if no row is full",
                8 / 14: "a row has row_tokens places, not one fewer",
                0.5: "count all rows, not only the first",
            },
        ),
    )
    twice = "document 2 lies in two rows: add up its pieces before you look for what is missing"
    ask(
        [[(0, 5), (1, 3)], [(2, 8)], [(2, 1)]],
        [5, 3, 9],
        8,
        (0.0, 7 / 24),
        "a document of 9 that goes on in the next row",
        ({9 / 17: twice, 9 / 26: twice, 1 / 17: twice, 8 / 17: twice, 8 / 26: twice, 1 / 26: twice, 1 - 17 / 26: twice}, {}),
    )
    ask(
        [[(2, 8)], [(0, 5), (1, 3)]],
        [5, 3, 10, 100],
        8,
        (2 / 18, 0.0),
        "a document that is in no row",
        (
            {
                102 / 118: "document 3 is in no row; it waits and is not lost",
                2 / 118: "document 3 is in no row; it does not count",
            },
            {},
        ),
    )
    draw = random.Random(1)
    for T in (15, 40):
        lengths = [draw.randint(2, 60) for _ in range(400)]
        batches = Batches(_split(lengths), Numbered(), T, streams=1, buffer_docs=20)
        batches.next_rows(30)
        rows = []
        for documents in batches.last_documents:  # all whole but the last, which fills the row
            row = [(d, lengths[d]) for d in documents[:-1]]
            rows.append(row + [(documents[-1], T + 1 - sum(n for _, n in row))])
        ask(rows, lengths, T + 1, (batches.statistics()["cropped_share"], 0.0), f"30 rows of the package's with T = {T}")


# -- 2.2


def choose(f) -> None:
    def ask(lengths, space, wanted, errors, otherwise):
        given, case = list(lengths), f"lengths {lengths} and {space} places"
        got = _number(f(given, space), "the place")
        need(
            given == lengths, "your answer changed the lengths that it was given (sorted or popped?); the places would be others"
        )
        line = f"{case}: {got:g} came out, expected {wanted}"
        need(
            got in range(len(lengths)),
            f"{line}: return a place in the list, 0 to {len(lengths) - 1}{', not a length' if got in lengths else ''}",
        )
        for wrong, hint in errors.items():
            need(got != wrong, f"{line}: {hint}")
        need(got == wanted, f"{line}: {otherwise}")

    ask(
        [3, 5, 8, 2],
        6,
        1,
        {
            0: "that is the first that fits, take the longest that fits",
            2: "that one does not fit",
            3: "that is the shortest that fits, take the longest",
        },
        "the longest that fits",
    )
    ask(
        [4, 6, 9],
        6,
        1,
        {0: "6 tokens fit into 6 places; compare with <=, not <", 2: "that one does not fit"},
        "6 tokens fit into 6 places",
    )
    ask([2, 5, 5, 5], 5, 1, {3: "among equals the first in the list, not the last"}, "among equals the first in the list")
    ask(
        [9, 7, 8, 12],
        6,
        1,
        {
            0: "none fits; crop the shortest, not the first in the list",
            2: "none fits; crop the shortest, not the last but one",
            3: "none fits; crop the shortest, not the longest or the last: its end is lost",
        },
        "none fits, so crop the shortest",
    )
    ask([9, 7, 7, 8], 6, 1, {2: "among equals the first in the list, also where none fits"}, "the first of the shortest")
    ask([4], 9, 0, {}, "there is only one")
    draw = random.Random(2)
    for n in (3, 8, 20, 50):
        for _ in range(20):
            lengths, space = [draw.randint(2, 15) for _ in range(n)], draw.randint(1, 16)
            wanted = _fill([[0] * k for k in lengths], space)[1][0]
            ask(lengths, space, wanted, {}, "the package takes another one")


# -- 2.3


def next_row(f) -> None:
    def ask(buffer, T, row, waiting, case, errors=()):
        given = copy.deepcopy(buffer)
        got = _sequence(f(given, T), 3, "three things: inputs, targets, waiting")
        inputs, targets = _ids(got[0], "the inputs"), _ids(got[1], "the targets")
        left = [_ids(document, "a waiting document") for document in _sequence(got[2], None, "a list of documents as the third")]
        need(given == buffer, "your answer changed the buffer that it was given; work on a copy, as in list(buffer)")
        for name, ids in (("inputs", inputs), ("targets", targets)):
            hint = "a row needs T + 1 tokens: all but the last are inputs, all but the first are targets"
            need(len(ids) == T, f"{case}: {len(ids)} {name} came out, expected T = {T}: {hint}")
        need(
            inputs[0] == 0,
            f"{case}: the inputs {inputs} came out, expected {row[:-1]}: "
            "a row begins with BOS, here 0; keep it at the front of each document",
        )
        line = f"{case}: the targets {targets} came out for the inputs {inputs}"
        need(targets != inputs, f"{line}: they are the inputs; a target is the token after its input")
        shifted = targets[:-1] == inputs[1:]
        need(shifted or targets[1:] != inputs[:-1], f"{line}: shifted the wrong way; a target is the token after its input")
        need(shifted, f"{line}: a target is the token after its input")
        got = inputs + targets[-1:]
        line = f"{case}: the row {got} came out, expected {row}"
        for wrong, hint in errors:
            need(got[: len(wrong)] != wrong, f"{line}: {hint}")
        need(inputs != row[:-1] or got == row, f"{line}: the last target is token T + 1 of the row")
        need(got == row, f"{line}: the longest that fits, else the shortest, cropped")
        line = f"{case}: {len(left)} documents wait, expected {len(waiting)}"
        need(len(left) >= len(waiting), f"{line}: only those in the row are taken out")
        rest = "take out what is in the row; of a cropped document nothing is left, its rest is dropped"
        need(len(left) == len(waiting), f"{line}: {rest}")
        need(sorted(left) == sorted(waiting), f"{case}: other documents wait than should: {rest}")
        need(left == waiting, f"{case}: the documents that wait are in another order than before; don't sort them")

    a, b, c = [0, 1, 1], [0, 2, 2, 2, 2], [0, 3]
    ask(
        [a, b, c],
        7,
        b + a,
        [c],
        "the tiny example",
        [
            (a + b, "in order of arrival; the longest that fits goes first"),
            (c + a, "the shortest first; the longest that fits goes first"),
            (a + c + b, "in order of arrival; the longest that fits goes first"),
            (c + a + b, "the shortest first; the longest that fits goes first"),
            (b + c, "3 places are left after 5 tokens, and 0 1 1 fits: a row has T + 1 = 8 places, not T"),
        ],
    )
    a, b, c = [0, 1, 1, 1, 1, 1], [0] + [2] * 9, [0] + [3] * 8
    ask(
        [a, b, c],
        7,
        a + [0, 3],
        [b],
        "documents of 6, 10 and 9 tokens, rows of 8",
        [
            (a + [0, 2], "2 places are left and none fits; crop the shortest, not the first or the longest"),
            (a + [3, 3], "crop the end of a document, its beginning with BOS stays"),
            (a + [1, 1], "each document is placed once"),
            (c[:8], "a document fits, so nothing is cropped yet"),
            (b[:8], "a document fits, so nothing is cropped yet"),
        ],
    )
    ask(
        [b, c, [0] + [4] * 8],
        7,
        c[:8],
        [b, [0] + [4] * 8],
        "three documents longer than a row",
        [(b[:8], "crop the shortest, which loses least"), ([0] + [4] * 7, "among equals the first")],
    )
    d = [0] + [5] * 7
    full = "8 tokens fit exactly into a row of T + 1 = 8 places"
    ask([a, c, d], 7, d, [a, c], "a document with exactly T + 1 tokens", [(a + [0, 3], full), (a + [0, 5], full)])
    first, second = [0, 6, 6, 6], [0, 7, 7, 7]
    ask([first, second, b], 3, first, [second, b], "two documents of 4 tokens", [(second, "among equals the first")])
    draw = random.Random(3)
    for T in (5, 12, 30):
        for _ in range(5):
            documents = [[0] + [i + 1] * draw.randint(1, 14) for i in range(40)]
            row, used = _fill(documents, T + 1)
            ask(
                documents,
                T,
                row,
                [document for i, document in enumerate(documents) if i not in used],
                f"40 random documents, T = {T}",
            )


# -- 2.4


def rank_rows(f) -> None:
    def ask(streams, rank, world, n, wanted, case, errors=()):
        given = copy.deepcopy(streams)
        rows = [_ids(row, "a row") for row in _sequence(f(given, rank, world, n), None, "a list of rows")]
        need(given == streams, "your answer changed the streams that it was given (pop?); only read them")
        need(len(rows) == n, f"{case}: {len(rows)} rows came out, expected n = {n}")
        for wrong, hint in errors:
            need(rows != wrong, f"{case}: {hint}")
        need(rows == wanted, f"{case}: stream and row {rows[:4]} came out, expected {wanted[:4]}")

    streams = [[[s, m] for m in range(12)] for s in range(4)]  # a row says its stream and its number there
    one = [[s, m] for m in range(3) for s in range(4)]  # the global order

    ask(
        streams,
        0,
        1,
        8,
        one[:8],
        "4 streams, one rank",
        [(streams[0][:8], "only stream 0 came out; one rank serves all streams in turn")],
    )
    for rank in (0, 1):
        ask(
            streams,
            rank,
            2,
            4,
            one[rank::2][:4],
            f"4 streams, rank {rank} of 2",
            [
                (
                    one[rank * 4 : rank * 4 + 4],
                    f"a block of neighbours, global rows {rank * 4} to {rank * 4 + 3}, came out; "
                    "deal them in turn, j = k * world + rank",
                ),
                (
                    one[rank * 2 : rank * 2 + 2] + one[4 + rank * 2 : 6 + rank * 2],
                    "a block of neighbouring streams came out; rank r serves streams r, r + world, ...",
                ),
                (streams[rank][:4], f"only stream {rank} came out; with 2 ranks and 4 streams a rank serves two of them"),
                (one[:4], "all ranks got the same rows; where is the rank?"),
                (
                    [streams[(k * 2 + rank) % 4][k] for k in range(4)],
                    "rows were left out; a stream gives its rows one after the other, j // S of them before row j",
                ),
                (
                    [streams[(k + rank) % 4][(k + rank) // 4] for k in range(4)],
                    "ranks share rows; row k of a rank is global row k * world + rank",
                ),
            ],
        )
    for world in (1, 2, 4, 8):
        wide = [[[s, m] for m in range(6)] for s in range(8)]
        for rank in range(world):
            wanted = [wide[j % 8][j // 8] for j in range(rank, 32, world)]
            ask(wide, rank, world, 32 // world, wanted, f"8 streams, rank {rank} of {world}")
    draw = random.Random(4)
    split, T = _split([draw.randint(2, 9) for _ in range(120)]), 7
    whole = [Batches(split, Numbered(), T, streams=4, rank=s, world=4, buffer_docs=5).next_rows(6).tolist() for s in range(4)]
    for world, rank in ((1, 0), (2, 1), (4, 2)):
        ours = Batches(split, Numbered(), T, streams=4, rank=rank, world=world, buffer_docs=5).next_rows(6).tolist()
        ask(whole, rank, world, 6, ours, f"real rows, rank {rank} of {world}")


# -- 2.5


def data_bill(f) -> None:
    def ask(args, wanted, case, errors=({}, {}, {})):
        got = _sequence(f(*args), 3, "three numbers (shards, gigabytes, megabytes a second)")
        got = [_number(g, name) for g, name in zip(got, ("the number of shards", "gigabytes", "megabytes a second"))]
        names = ("shards", "gigabytes", "megabytes a second")
        for k in range(3):
            line = f"{case}: {got[k]:,.6g} {names[k]} came out, expected {wanted[k]:,.6g}"
            for wrong, hint in errors[k].items():
                need(not _close(got[k], wrong), f"{line}: {hint}")
            need(_close(got[k], wanted[k]), f"{line}: what must be read is tokens / (1 - cropped) * chars_per_token characters")

    val, less = "one more shard is needed for validation", "half is lost, so twice as much must be read, not half as much again"
    unread = "cropped tokens are read too: divide by 1 - cropped"
    ask(
        (1e9, 0.5, 4.0, 1e6),
        (33, 3.3, 8.0),
        "the tiny example",
        (
            {
                32: val,
                25: less,
                24: less,
                17: unread,
                16: unread,
                9: "the cropped share is lost, not what is left: divide by 1 - cropped",
                8: "the cropped share is lost: divide by 1 - cropped",
                34: "32 shards are just enough; round up only a part of one",
            },
            {
                3.2: "the validation shard lies on the disk too",
                8.0: "that is the text unpacked; a shard takes 0.1 GB",
                3300.0: "in gigabytes, please: a shard takes 0.1",
            },
            {
                4.0: unread,
                6.0: less,
                8e6: "in megabytes, please",
                2.0: "the model reads tokens, the disk characters: times chars_per_token",
                1.0: "the model reads tokens, the disk characters, and half are lost",
            },
        ),
    )
    ask(
        (1.1e9, 0.0, 1.0, 1e6),
        (6, 0.6, 1.0),
        "4.4 shards of text, nothing cropped",
        (
            {5: "4.4 shards are 5 whole ones, and one more for validation: round up", 5.4: "shards are fetched whole: round up"},
            {0.54: "whole shards lie on the disk"},
            {},
        ),
    )
    draw = random.Random(5)
    for _ in range(20):
        tokens, cropped, chars, speed = draw.uniform(1e8, 1e11), draw.uniform(0, 0.6), draw.uniform(2, 6), draw.uniform(1e5, 2e6)
        read = chars / (1 - cropped)
        n = math.ceil(tokens * read / 250e6) + 1
        ask((tokens, cropped, chars, speed), (n, 0.1 * n, speed * read / 1e6), "a random run")


EXERCISES = (
    Exercise("2.1", "Measure a packing", shares, points=2, minutes=15, difficulty=2, importance=4),
    Exercise("2.2", "The best fit", choose, points=2, minutes=10, difficulty=2, importance=4),
    Exercise("2.3", "A whole row, as inputs and targets", next_row, points=3, minutes=20, difficulty=3, importance=5),
    Exercise("2.4", "Deal the rows to ranks", rank_rows, points=2, minutes=15, difficulty=3, importance=4),
    Exercise("2.5", "What a run needs to read", data_bill, points=1, minutes=10, difficulty=2, importance=4),
)
