"""Checks of lesson 02's exercises: measuring a packing, best fit, a whole row, rows for ranks, what a run reads."""

import math
import random

import numpy as np

from gpt2course.batches import Batches, _head, _Stream, statistics
from gpt2course.course.checks import Exercise, call, close, ids, known, need, number, several, steady
from gpt2course.data import from_list, shards_needed


class Numbered:
    """A tokenizer whose documents are easy to recognise: the text "i n" becomes n ids, 0 for BOS and then i."""

    sha256 = "numbered"

    def encode_batch(self, texts, bos=True):
        return [[0] + [int(i)] * (int(n) - 1) for i, n in (text.split() for text in texts)]


def _batches(lengths: list[int], T: int, **settings) -> Batches:
    return Batches(from_list([f"{i + 1} {n}" for i, n in enumerate(lengths)]), Numbered(), T, **settings)


def _fill(documents: list[list[int]], places: int) -> tuple[list[int], list[int]]:
    """The package's row of `places` tokens from these waiting documents: (the row, the numbers of its documents)."""
    stream = _Stream(from_list(["a"]), Numbered(), places - 1, 0, 1, 1)
    stream.target = 0  # nothing is read in addition
    for i, tokens in enumerate(documents):
        stream.add(i, *_head(tokens, places))
    row = np.empty(places, dtype=np.int64)
    used = stream.fill(row)
    return row.tolist(), used


def shares(f) -> None:
    steady(f, ([[(0, 4)]], [5], 8), ([[(0, 3)]], [3], 8), "the shares of one row")
    over = "the divisor is the tokens that the documents had, not those that are left, nor the places in the rows"
    twice = "document 2 is in two rows: add up its pieces before you count what is missing"
    table = [
        (([[(0, 5)], [(1, 3)], [(2, 8)]], [5, 3, 9], 8), "the tiny example", (1 / 17, {
            1 / 16: over, 1 / 24: over,
            1 / 3: "one document of three is cropped, but the share is of tokens, not documents",
            16 / 17: "that is the share that is kept; the cropped share is the rest",
        }), (8 / 24, {
            8 / 16: "divide by the places, not by the tokens",
            16 / 24: "that is the share that is filled, or of rows with a gap; padding is the empty places",
        })),
        (([[(0, 4)], [(1, 2)]], [4, 2], 8), "two rows of 8, with 4 and 2 tokens", (0.0, {}), (10 / 16, {
            2 / 8: "a row has row_tokens places, even if no row is full",
        })),
        (([[(0, 4)], []], [4], 8), "a row without a token", (0.0, {}), (12 / 16, {4 / 8: "an empty row has places too"})),
        (([[(0, 5), (1, 3)], [(2, 8)], [(2, 1)]], [5, 3, 9], 8), "a document of 9 that continues in the next row",
         (0.0, {n / d: twice for n in (1, 8, 9) for d in (17, 26)}), (7 / 24, {})),
        (([[(2, 8)], [(0, 5), (1, 3)]], [5, 3, 10, 100], 8), "a document that is in no row", (2 / 18, {
            102 / 118: "document 3 is in no row; it waits and is not lost",
        }), (0.0, {})),
    ]  # fmt: skip
    draw = random.Random(1)
    for T in (15, 40):
        lengths = [draw.randint(2, 60) for _ in range(400)]
        batches = _batches(lengths, T, streams=1, buffer_docs=20)
        batches.next_rows(30)
        rows = []
        for documents in batches.last_documents:  # all whole but the last, which fills the row
            row = [(d, lengths[d]) for d in documents[:-1]]
            rows.append(row + [(documents[-1], T + 1 - sum(n for _, n in row))])
        cropped = batches.statistics()["cropped_share"]
        table.append(((rows, lengths, T + 1), f"30 rows of the package's with T = {T}", (cropped, {}), (0.0, {})))
    for args, case, (cropped, of_cropped), (padding, of_padding) in table:
        got = several(call(f, *args, keep="the rows or lengths"), 2, "two numbers (cropped share, padding share)")
        got = [number(g, name) for g, name in zip(got, ("the cropped share", "the padding share"))]
        swapped = close(got, [padding, cropped]) and not close(cropped, padding)
        need(not swapped, "the two are swapped: return the cropped share first, then the padding share")
        percent = "return a share from 0 to 1, not per cent"
        known(got[0], cropped, f"{case}: the cropped share", {100 * cropped: percent} | of_cropped,
              "divide the tokens cut off by all tokens of the documents", 1e-6)  # fmt: skip
        known(got[1], padding, f"{case}: the padding share", {100 * padding: percent} | of_padding,
              "divide the empty places by all places", 1e-6)  # fmt: skip


def choose(f) -> None:
    equals = "among equals the first in the list"
    table = [
        ([3, 5, 8, 2], 6, 1, {
            0: "that is the first that fits, take the longest that fits", 2: "that one does not fit",
            3: "that is the shortest that fits, take the longest",
        }, "the longest that fits"),
        ([4, 6, 9], 6, 1, {0: "6 tokens fit into 6 places; compare with <=, not <", 2: "that one does not fit"},
         "6 tokens fit into 6 places"),
        ([2, 5, 5, 5], 5, 1, {3: f"{equals}, not the last"}, equals),
        ([9, 7, 8, 12], 6, 1, {
            0: "none fits; crop the shortest, not the first in the list",
            3: "none fits; crop the shortest, not the longest or the last: its end is lost",
        }, "none fits, so crop the shortest"),
        ([9, 7, 7, 8], 6, 1, {2: f"{equals}, also where none fits"}, "the first of the shortest"),
        ([4], 9, 0, {}, "there is only one"),
    ]  # fmt: skip
    draw = random.Random(2)
    for n in [3, 8, 20, 50] * 20:
        lengths, space = [draw.randint(2, 15) for _ in range(n)], draw.randint(1, 16)
        table.append((lengths, space, _choose(lengths, space), {}, "the package chooses another document"))
    for lengths, space, wanted, errors, otherwise in table:
        what = f"the place for lengths {lengths} and {space} places"
        got = number(call(f, lengths, space, keep="the lengths"), what)
        need(isinstance(got, int), f"{what} came out as {got!r}: a place in a list is a whole number")
        line = f"{what} came out as {got:g}: return a place in the list, 0 to {len(lengths) - 1}"
        need(got in range(len(lengths)), line + (", not a length" if got in lengths else ""))
        known(got, wanted, what, errors, otherwise)


def _row(f, buffer, T: int, row: list[int], waiting: list, case: str, errors=()) -> None:
    """One call of an answer to 2.3: the row as inputs and targets, then the documents that wait."""
    got = several(call(f, buffer, T, keep="the buffer"), 3, "three things: inputs, targets, waiting")
    inputs, targets = ids(got[0], "the inputs"), ids(got[1], "the targets")
    left = [ids(document, "a waiting document") for document in several(got[2], None, "a list of waiting documents")]
    hint = "a row needs T + 1 tokens: all but the last are inputs, all but the first are targets"
    for name, found in (("inputs", inputs), ("targets", targets)):
        need(len(found) == T, f"{case}: {len(found)} {name} came out, expected T = {T}: {hint}")
    line = f"{case}: the inputs {inputs} came out, expected {row[:-1]}"
    need(inputs[0] == 0, f"{line}: a row begins with BOS, here 0; keep it at the front of each document")
    line = f"{case}: the targets {targets} came out for the inputs {inputs}"
    after = "a target is the token after its input"
    need(targets != inputs, f"{line}: they are the inputs; {after}")
    shifted = targets[:-1] == inputs[1:]
    need(shifted or targets[1:] != inputs[:-1], f"{line}: shifted the wrong way; {after}")
    need(shifted, f"{line}: {after}")
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


def next_row(f) -> None:
    a, b, c = [0, 1, 1], [0, 2, 2, 2, 2], [0, 3]
    arrival = "in order of arrival; the longest that fits goes first"
    shortest = "the shortest first; the longest that fits goes first"
    _row(f, [a, b, c], 7, b + a, [c], "the tiny example", [
        (a + b, arrival), (c + a, shortest), (a + c + b, arrival), (c + a + b, shortest),
        (b + c, "3 places are left after 5 tokens, and 0 1 1 fits: a row has T + 1 = 8 places, not T"),
    ])  # fmt: skip
    a, b, c, d = [0, 1, 1, 1, 1, 1], [0] + [2] * 9, [0] + [3] * 8, [0] + [5] * 7
    early, full = "a document fits, so nothing is cropped yet", "8 tokens fit exactly into a row of T + 1 = 8 places"
    _row(f, [a, b, c], 7, a + [0, 3], [b], "documents of 6, 10 and 9 tokens, rows of 8", [
        (a + [0, 2], "2 places are left and none fits; crop the shortest, not the first or the longest"),
        (a + [3, 3], "crop the end of a document, its beginning with BOS stays"),
        (c[:8], early), (b[:8], early),
    ])  # fmt: skip
    e = [0] + [4] * 8
    _row(f, [b, c, e], 7, c[:8], [b, e], "three documents longer than a row",
         [(b[:8], "crop the shortest, which loses least"), (e[:8], "among equals the first")])  # fmt: skip
    _row(f, [a, c, d], 7, d, [a, c], "a document with exactly T + 1 tokens", [(a + [0, 3], full), (a + [0, 5], full)])
    twin = [0, 4, 4]
    _row(f, [twin, list(twin), b], 2, twin, [twin, b], "two equal documents")
    first, second = [0, 6, 6, 6], [0, 7, 7, 7]
    _row(f, [first, second, b], 3, first, [second, b], "two of 4 tokens", [(second, "among equals the first")])
    draw = random.Random(3)
    for T in [5, 12, 30] * 5:
        documents = [[0] + [i + 1] * draw.randint(1, 14) for i in range(40)]
        inputs, targets, waiting = _next_row(documents, T)
        _row(f, documents, T, inputs[:1] + targets, waiting, f"40 random documents, T = {T}")


def rank_rows(f) -> None:
    def ask(streams, rank, world, n, wanted, case, errors=()):
        got = several(call(f, streams, rank, world, n, keep="the streams"), None, "a list of rows")
        rows = [ids(row, "a row") for row in got]
        need(len(rows) == n, f"{case}: {len(rows)} rows came out, expected n = {n}")
        for wrong, hint in errors:
            need(rows != wrong, f"{case}: {hint}")
        need(rows == wanted, f"{case}: stream and row {rows[:4]} came out, expected {wanted[:4]}")

    streams = [[[s, m] for m in range(12)] for s in range(4)]  # a row says its stream and its number there
    one = [[s, m] for m in range(3) for s in range(4)]  # the global order
    ask(streams, 0, 1, 8, one[:8], "4 streams, one rank",
        [(streams[0][:8], "only stream 0 came out; one rank serves all streams in turn")])  # fmt: skip
    for rank in (0, 1):
        block = f"a block of neighbours, global rows {rank * 4} to {rank * 4 + 3}, came out"
        ask(streams, rank, 2, 4, one[rank::2][:4], f"4 streams, rank {rank} of 2", [
            (one[rank * 4 : rank * 4 + 4], f"{block}; deal them in turn, j = k * world + rank"),
            (one[rank * 2 : rank * 2 + 2] + one[4 + rank * 2 : 6 + rank * 2],
             "a block of neighbouring streams came out; rank r serves streams r, r + world, ..."),
            (streams[rank][:4], f"only stream {rank} came out; with 2 ranks and 4 streams a rank serves two of them"),
            (one[:4], "all ranks got the same rows; where is the rank?"),
            ([streams[(k * 2 + rank) % 4][k] for k in range(4)],
             "rows were left out; a stream gives its rows one after the other, j // S of them before row j"),
            ([streams[(k + rank) % 4][(k + rank) // 4] for k in range(4)],
             "ranks share rows; row k of a rank is global row k * world + rank"),
        ])  # fmt: skip
    wide = [[[s, m] for m in range(6)] for s in range(8)]
    for world in (1, 2, 4, 8):
        for rank in range(world):
            wanted = [wide[j % 8][j // 8] for j in range(rank, 32, world)]
            ask(wide, rank, world, 32 // world, wanted, f"8 streams, rank {rank} of {world}")
    draw = random.Random(4)
    lengths = [draw.randint(2, 9) for _ in range(120)]

    def package(rank, world):
        return _batches(lengths, 7, streams=4, rank=rank, world=world, buffer_docs=5).next_rows(6).tolist()

    whole = [package(s, 4) for s in range(4)]
    for world, rank in ((1, 0), (2, 1), (4, 2)):
        ask(whole, rank, world, 6, package(rank, world), f"real rows, rank {rank} of {world}")


def data_bill(f) -> None:
    less = "half is lost, so read twice as much, not 1.5 times as much"
    unread = "cropped tokens are read too: divide by 1 - cropped"
    table = [
        ((1e9, 0.5, 4.0, 1e6), "the tiny example", (33, {
            32: "one more shard is needed for validation", 25: less, 24: less, 17: unread, 16: unread,
            9: "the cropped share is lost, not what is left: divide by 1 - cropped",
            34: "32 shards are just enough; round up only a part of one",
        }), (3.3, {
            3.2: "the validation shard is on the disk too",
            8.0: "that is the text unpacked; a shard takes 0.1 GB",
            3300.0: "the answer must be in gigabytes: a shard takes 0.1",
        }), (8.0, {
            4.0: unread, 6.0: less, 8e6: "the answer must be in megabytes",
            2.0: "the model reads tokens, the disk characters: times chars_per_token",
        })),
        ((1.1e9, 0.0, 1.0, 1e6), "4.4 shards of text, nothing cropped", (6, {
            5: "4.4 shards are 5 whole ones, and one more for validation: round up",
            5.4: "shards are fetched whole: round up",
        }), (0.6, {0.54: "whole shards are on the disk"}), (1.0, {})),
    ]  # fmt: skip
    draw = random.Random(5)
    for _ in range(20):
        args = draw.uniform(1e8, 1e11), draw.uniform(0, 0.6), draw.uniform(2, 6), draw.uniform(1e5, 2e6)
        table.append((args, "a random run", *((wanted, {}) for wanted in _data_bill(*args))))
    for args, case, *columns in table:
        got = several(f(*args), 3, "three numbers (shards, gigabytes, megabytes a second)")
        for value, name, (wanted, errors) in zip(got, ("shards", "gigabytes", "megabytes a second"), columns):
            hint = "what must be read is tokens / (1 - cropped) * chars_per_token characters"
            known(value, wanted, f"{case}: {name}", errors, hint, 1e-6)


# ---- right answers, for the pictures


def _shares(rows, lengths, row_tokens):
    placed = {}
    for row in rows:
        for document, n in row:
            placed[document] = placed.get(document, 0) + n
    kept, had = sum(placed.values()), sum(lengths[document] for document in placed)
    return 1 - kept / had, 1 - kept / (len(rows) * row_tokens)


def _choose(lengths, space):
    return _fill([[0] * n for n in lengths], space)[1][0]


def _next_row(buffer, T):
    row, used = _fill(buffer, T + 1)
    return row[:-1], row[1:], [document for i, document in enumerate(buffer) if i not in used]


def _rank_rows(streams, rank, world, n):
    order = [k * world + rank for k in range(n)]
    return [streams[j % len(streams)][j // len(streams)] for j in order]


def _data_bill(tokens, cropped, chars_per_token, tokens_per_second):
    chars = chars_per_token / (1 - cropped)  # to read for each token that is trained on
    shards = math.ceil(tokens * chars / 250e6) + 1
    return shards, shards * 0.1, tokens_per_second * chars / 1e6


EXERCISES = (
    Exercise("2.1", "Measure a packing", shares, points=2, minutes=15, difficulty=2, importance=4,
             forbids=(Batches.statistics, statistics), reference=_shares),
    Exercise("2.2", "The best fit", choose, points=2, minutes=10, difficulty=2, importance=4,
             forbids=(_Stream, Batches), reference=_choose),
    Exercise("2.3", "A whole row, as inputs and targets", next_row, points=3, minutes=20, difficulty=3, importance=5,
             forbids=(_Stream, Batches), reference=_next_row),
    Exercise("2.4", "Deal the rows to ranks", rank_rows, points=2, minutes=15, difficulty=3, importance=4,
             forbids=(_Stream, Batches), reference=_rank_rows),
    Exercise("2.5", "What a run needs to read", data_bill, points=1, minutes=10, difficulty=2, importance=4,
             forbids=(shards_needed,), reference=_data_bill),
)  # fmt: skip
