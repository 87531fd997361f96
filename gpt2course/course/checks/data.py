"""Checks of lesson 02's exercises: who loses, best fit, a loader that loses documents, what a run reads."""

import json
import math
import random

import numpy as np

from gpt2course.batches import Batches, _head, _Stream, statistics
from gpt2course.course.checks import Exercise, call, known, need, number, plain, several, steady
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


def by_length(f) -> None:
    steady(f, ([[(0, 4)]], [5], [7]), ([[(0, 3)]], [3], [7]), "the shares of one row")
    twice = "document 3 is in two rows: add up its pieces first"
    own = "divide what a class has lost by all tokens of its own documents in the rows"
    lost, classes = [[(0, 5), (1, 3)], [(2, 8)], [(3, 8)], [(3, 4)]], ("up to 4", "5 to 10", "more than 10")
    table = [
        ((lost, [5, 3, 9, 20, 100], [4, 10]), "the tiny example", classes, [0.0, 1 / 14, 8 / 20], ({
            1.0: "that is the share that is kept",
        }, {
            1 / 2: "one document of two is cropped, but the share is of tokens, not of documents",
            1 / 13: "the divisor is the tokens that the documents had, not those that are left",
            1 / 9: f"that is the share of all lost tokens; {own}", 1 / 2 - 1 / 14: own,
            1 / 37: f"that is a share of the tokens of all documents; {own}",
        }, {
            28 / 40: twice, 16 / 20: twice, 12 / 20: twice,
            108 / 120: "document 4 is in no row; it waits and is not lost",
            1.0: "the share is of tokens, not of documents", 8 / 12: "the divisor is the tokens that the documents had",
        })),
        (([[(0, 4)], [(1, 3)]], [4, 5], [4]), "lengths of 4 and 5, one edge at 4", ("up to 4", "more than 4"),
         [0.0, 2 / 5], ({}, {2 / 9: "a document of 4 tokens belongs to the class up to 4: compare with <=, not <"})),
        (([[(0, 8)]], [9], [3, 6]), "two classes without a document", ("up to 3", "4 to 6", "more than 6"),
         [0.0, 0.0, 1 / 9], ({}, {}, {})),
        (([[(0, 8)]], [9], []), "no edge, one class", ("all",), [1 / 9], ({},)),
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
        edges = [10, 25, 50]
        names = ("up to 10", "11 to 25", "26 to 50", "more than 50")
        args = rows, lengths, edges
        table.append((args, f"30 rows of the package's with T = {T}", names, _by_length(*args), ({},) * 4))
    for args, case, names, wanted, errors in table:
        got = several(call(f, *args, keep="the rows, lengths or edges"), None, "a list of shares, one for each class")
        line = f"{case}: {len(got)} shares came out, expected {len(names)}"
        need(len(got) == len(names), f"{line}: edges cut the lengths into len(edges) + 1 classes")
        for value, name, share, known_errors in zip(got, names, wanted, errors):
            percent = {100 * share: "return shares from 0 to 1, not per cent"} if share else {}
            what = f"{case}: the share lost by documents of {name} tokens"
            known(value, share, what, percent | known_errors, own, 1e-6)


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


def _served(f, lengths, row_tokens: int, buffer_docs: int, n: int, case: str) -> list:
    """All rows of an answer to 2.3, n at a time, with the state through JSON each time."""
    rows, state = [], None
    for _ in range(len(lengths) + 2):
        got = call(f, lengths, row_tokens, buffer_docs, n, json.loads(json.dumps(state)), keep="the lengths")
        got = several(got, 2, "two things, the rows and the state")
        some = [plain(row, "a row") for row in several(got[0], None, "a list of rows")]
        need(len(some) <= n, f"{case}: {len(some)} rows came out, and n is {n}")
        pairs = all(isinstance(piece, list) and len(piece) == 2 for row in some for piece in row)
        need(pairs, f"{case}: a piece is (document, tokens)")
        some = [[tuple(piece) for piece in row] for row in some]
        need(all(some), f"{case}: a row without a document came out; at the end return fewer rows")
        try:
            state = json.loads(json.dumps(got[1]))
        except TypeError as e:
            hint = "use numbers, lists, and dicts with texts as keys"
            need(False, f"{case}: the state cannot be saved as JSON ({e}): {hint}")
        if not some:
            return rows
        rows += some
    need(False, f"{case}: rows come out without end; make one pass, and of a cropped document the rest is dropped")


def serve(f) -> None:
    toy = [5, 2, 7, 4, 10, 3]
    table = [(toy, 8, 3, "documents of 5, 2, 7, 4, 10 and 3 tokens, rows of 8, 3 waiting"),
             ([3] * 7, 8, 5, "seven documents of 3 tokens, rows of 8, 5 waiting")]  # fmt: skip
    draw = random.Random(7)
    for row_tokens, buffer_docs in ((9, 4), (12, 7), (30, 1)):
        lengths = [draw.randint(2, 25) for _ in range(41)]
        case = f"41 random documents, rows of {row_tokens}, {buffer_docs} waiting"
        table.append((lengths, row_tokens, buffer_docs, case))
    for lengths, row_tokens, buffer_docs, case in table:
        wanted, _ = _serve(lengths, row_tokens, buffer_docs, len(lengths), None)
        for n in (len(lengths), 1, 3):
            stops = "without a stop" if n == len(lengths) else f"stopped after every {n} row{'s' * (n > 1)}"
            rows = _served(f, lengths, row_tokens, buffer_docs, n, f"{case}, {stops}")
            counts = [sum(d == document for row in rows for d, _ in row) for document in range(len(lengths))]
            gone, twice = [[i for i, c in enumerate(counts) if test(c)] for test in (lambda c: c < 1, lambda c: c > 1)]
            line = f"{case}, {stops}: {len(gone)} documents are lost, with lengths {[lengths[i] for i in gone][:8]}"
            long = gone and all(lengths[i] > row_tokens for i in gone)
            need(not long, f"{line}: they are longer than a row; crop such a document, do not skip it")
            end = "when all are read, some still wait: serve rows until none waits"
            at_a_stop = "the state must hold who waits, too, or the order of what was read is lost"
            need(not gone, f"{line}: {end if n == len(lengths) else at_a_stop}")
            dropped = "of a cropped document the rest is dropped"
            again = dropped if n == len(lengths) else "does the answer use the state?"
            need(not twice, f"{case}, {stops}: document {(twice or [0])[0]} came more than once: {again}")
            if rows != wanted:
                at = next((i for i, (a, b) in enumerate(zip(rows, wanted)) if a != b), min(len(rows), len(wanted)))
                line = f"{case}, {stops}: row {at} is {rows[at : at + 1]}, expected {wanted[at : at + 1]}"
                hint = "fill the buffer to buffer_docs before each choice, then take the best fit of those waiting"
                after = "the order of those waiting belongs to the state"
                need(False, f"{line}: {hint if n == len(lengths) else after}")


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


def _by_length(rows, lengths, edges):
    had, kept, placed = [0] * (len(edges) + 1), [0] * (len(edges) + 1), {}
    for row in rows:
        for document, n in row:
            placed[document] = placed.get(document, 0) + n
    for document, n in placed.items():
        at = sum(lengths[document] > edge for edge in edges)
        had[at], kept[at] = had[at] + lengths[document], kept[at] + n
    return [1 - k / h if h else 0.0 for h, k in zip(had, kept)]


def _choose(lengths, space):
    return _fill([[0] * n for n in lengths], space)[1][0]


def _serve(lengths, row_tokens, buffer_docs, n, state):
    position, waiting, rows = state["position"] if state else 0, list(state["waiting"]) if state else [], []
    while len(rows) < n and (waiting or position < len(lengths)):
        row, space = [], row_tokens
        while space and (waiting or position < len(lengths)):
            while len(waiting) < buffer_docs and position < len(lengths):
                waiting, position = [*waiting, position], position + 1
            sizes = [(lengths[d] > space, abs(lengths[d] - space)) for d in waiting]
            document = waiting.pop(sizes.index(min(sizes)))
            row.append((document, min(lengths[document], space)))
            space -= row[-1][1]
        rows.append(row)
    return rows, {"position": position, "waiting": waiting}


def _data_bill(tokens, cropped, chars_per_token, tokens_per_second):
    chars = chars_per_token / (1 - cropped)  # to read for each token that is trained on
    shards = math.ceil(tokens * chars / 250e6) + 1
    return shards, shards * 0.1, tokens_per_second * chars / 1e6


EXERCISES = (
    Exercise("2.1", "Who loses?", by_length, points=2, minutes=15, difficulty=2, importance=4,
             forbids=(statistics,), reference=_by_length),
    Exercise("2.2", "The best fit", choose, points=2, minutes=10, difficulty=2, importance=4,
             forbids=(_Stream, Batches), reference=_choose),
    Exercise("2.3", "Repair the loader", serve, points=3, minutes=25, difficulty=4, importance=5,
             forbids=(_Stream, Batches), reference=_serve),
    Exercise("2.4", "What a run needs to read", data_bill, points=1, minutes=10, difficulty=2, importance=4,
             forbids=(shards_needed,), reference=_data_bill),
)  # fmt: skip
