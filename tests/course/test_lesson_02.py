"""Lesson 02: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import bisect
import math
from collections import Counter

import numpy as np
import torch
from lesson_cases import answers, lesson_tests

from gpt2course.course.figures import data as figures

NAMES = {"2.1": ("shares",), "2.2": ("choose",), "2.3": ("next_row",), "2.4": ("rank_rows",), "2.5": ("data_bill",)}


SOLVED = answers("02", math=math)


# ---- 2.1


def measured(cropped, padding):
    """A function for exercise 2.1: the two shares from (rows, lengths, places of a row)."""
    return lambda rows, lengths, row_tokens: (cropped(rows, lengths, row_tokens), padding(rows, lengths, row_tokens))


def pieces(rows):
    return [pair for row in rows for pair in row]


def kept(rows):
    return sum(n for _, n in pieces(rows))


def had(rows, lengths):
    return sum(lengths[d] for d in {d for d, _ in pieces(rows)})


def lost(rows, lengths, _=0):
    return (had(rows, lengths) - kept(rows)) / had(rows, lengths)


def empty(rows, lengths, row_tokens):
    return 1 - kept(rows) / len(rows) / row_tokens


def lost_by_piece(rows, lengths, row_tokens):
    return sum(lengths[d] - n for d, n in pieces(rows)) / sum(lengths[d] for d, _ in pieces(rows))


def widest(rows, lengths, row_tokens):
    return empty(rows, lengths, max(sum(n for _, n in row) for row in rows))


def sorts_the_rows(rows, lengths, row_tokens):
    rows.sort()
    return SOLVED["shares"](rows, lengths, row_tokens)


def with_counter(rows, lengths, row_tokens):
    places = Counter()
    for row in rows:
        for document, n in row:
            places[document] += n
    missing = {document: lengths[document] - n for document, n in places.items()}
    return torch.tensor(
        [
            sum(missing.values()) / (sum(missing.values()) + places.total()),
            sum(row_tokens - sum(n for _, n in row) for row in rows) / (len(rows) * row_tokens),
        ],
        dtype=torch.float64,
    )


def with_numpy(rows, lengths, row_tokens):
    table = np.zeros((len(rows), len(lengths)))
    for r, row in enumerate(rows):
        for document, n in row:
            table[r, document] += n
    used = table.sum(0) > 0
    return [1 - table.sum() / np.array(lengths)[used].sum(), np.mean(1 - table.sum(1) / row_tokens)]


# ---- 2.2


def by(fits, pick=max, none=min, last=False):
    """A function for exercise 2.2: which fit, which of them, and which if none does."""

    def f(lengths, space):
        some = [n for n in lengths if fits(n, space)]
        n = pick(some) if some else none(lengths)
        return len(lengths) - 1 - lengths[::-1].index(n) if last else lengths.index(n)

    return f


def small(n, space):
    return n <= space


def first_fit(lengths, space):
    return next((i for i, n in enumerate(lengths) if n <= space), lengths.index(min(lengths)))


def last_of_the_shortest(lengths, space):
    if any(n <= space for n in lengths):
        return SOLVED["choose"](lengths, space)
    return len(lengths) - 1 - lengths[::-1].index(min(lengths))


def sorts_in_place(lengths, space):
    lengths.sort()
    return max(bisect.bisect_right(lengths, space) - 1, 0)


def closest(lengths, space):
    return min(range(len(lengths)), key=lambda i: abs(lengths[i] - space))


def in_a_loop(lengths, space):
    best = shortest = 0
    for i, n in enumerate(lengths):
        if n < lengths[shortest]:
            shortest = i
        if n <= space and (lengths[best] > space or n > lengths[best]):
            best = i
    return best if lengths[best] <= space else shortest


def by_key(lengths, space):
    return min(
        range(len(lengths)), key=lambda i: (lengths[i] > space, lengths[i] if lengths[i] > space else -lengths[i], i)
    )


def with_a_tensor(lengths, space):
    n = torch.tensor(lengths)
    fitting = torch.where(n <= space, n, -1)
    return fitting.argmax() if (n <= space).any() else n.argmin()


# ---- 2.3


def rows_by(
    choice=None,
    places=lambda T: T + 1,
    cut=lambda row, T: (row[:-1], row[1:]),
    crop=lambda d, space: d[:space],
    rest=None,
    leave=lambda w: w,
):
    """A function for exercise 2.3 with its parts to be replaced."""

    def f(buffer, T):
        choice_ = choice or SOLVED["choose"]
        row, waiting = [], list(buffer)
        while len(row) < places(T):
            space = places(T) - len(row)
            document = waiting.pop(choice_([len(d) for d in waiting], space))
            row += crop(document, space)
            if rest and len(document) > space:
                waiting += rest(document, space)
        return *cut(row, T), leave(waiting)

    return f


def crop_the_longest(lengths, space):
    return SOLVED["choose"](lengths, space) if any(n <= space for n in lengths) else lengths.index(max(lengths))


def in_order(lengths, space):
    return 0


def pops_the_buffer(buffer, T):
    answer = SOLVED["next_row"](buffer, T)
    buffer[:] = answer[2]
    return answer


def keeps_all_waiting(buffer, T):
    return *SOLVED["next_row"](buffer, T)[:2], list(buffer)


def without_bos(buffer, T):
    return rows_by(crop=lambda d, space: (d[1:] + d[-1:])[:space])(buffer, T)


def as_tensors(buffer, T):
    left, row, space = [(len(d), i) for i, d in enumerate(buffer)], torch.empty(0, dtype=torch.int64), T + 1
    while space:
        fitting = [x for x in left if x[0] <= space]
        n, i = max(fitting, key=lambda x: (x[0], -x[1])) if fitting else min(left)
        left.remove((n, i))
        row = torch.cat([row, torch.tensor(buffer[i][:space])])
        space = T + 1 - len(row)
    return row[:T], row[1 : T + 1], [torch.tensor(buffer[i]) for _, i in left]


def recursive(buffer, T):
    def go(row, waiting):
        space = T + 1 - len(row)
        if not space:
            return row, waiting
        i = by_key([len(d) for d in waiting], space)
        return go(row + tuple(waiting[i][:space]), waiting[:i] + waiting[i + 1 :])

    row, waiting = go((), tuple(map(tuple, buffer)))
    return np.array(row)[:-1], np.array(row)[1:], waiting


# ---- 2.4


def dealt(number, of=lambda j, S: (j % S, j // S)):
    """A function for exercise 2.4: the global number of row k of a rank, and where a global row is."""

    def f(streams, rank, world, n):
        places = [of(number(k, rank, world, n), len(streams)) for k in range(n)]
        return [streams[s % len(streams)][m] for s, m in places]

    return f


def turn(k, rank, world, n):
    return k * world + rank


def pops_the_streams(streams, rank, world, n):
    return [streams[(k * world + rank) % len(streams)].pop(0) for k in range(n)]


def neighbouring_streams(streams, rank, world, n):
    own = streams[rank * len(streams) // world : (rank + 1) * len(streams) // world]
    return [own[k % len(own)][k // len(own)] for k in range(n)]


def with_iterators(streams, rank, world, n):
    own = [iter(stream) for stream in streams[rank::world]]
    return [next(own[k % len(own)]) for k in range(n)]


def by_slices(streams, rank, world, n):
    everything = [row for together in zip(*streams) for row in together]
    return everything[rank::world][:n]


# ---- 2.5


def bill(
    read=lambda c: 1 / (1 - c),
    whole=math.ceil,
    val=1,
    disk=lambda shards, gb: 0.1 * shards,
    speed=lambda tok, read, chars: tok * read * chars / 1e6,
):
    """A function for exercise 2.5 with its parts to be replaced."""

    def f(tokens, cropped, chars, tokens_per_second):
        text = tokens * read(cropped) * chars
        shards = whole(text / 250e6) + val
        return shards, disk(shards, text / 1e9), speed(tokens_per_second, read(cropped), chars)

    return f


WRONG = {
    ("2.1", "over the tokens left"): (measured(lambda r, le, t: had(r, le) / kept(r) - 1, empty), "divisor"),
    ("2.1", "over the places"): (measured(lambda r, le, t: (had(r, le) - kept(r)) / len(r) / t, empty), "divisor"),
    ("2.1", "documents, not tokens"): (measured(lambda r, le, t: np.mean([n < le[d] for d, n in pieces(r)]), empty), "not documents"),
    ("2.1", "piece by piece"): (measured(lost_by_piece, empty), "two rows"),
    ("2.1", "lengths of pieces added, all of them kept"): (measured(lambda r, le, t: 1 - kept(r) / sum(le[d] for d, _ in pieces(r)), empty), "two rows"),
    ("2.1", "waiting documents"): (measured(lambda r, le, t: 1 - kept(r) / sum(le), empty), "in no row"),
    ("2.1", "kept"): (measured(lambda r, le, t: 1 - lost(r, le), empty), "share that is kept"),
    ("2.1", "filled"): (measured(lost, lambda r, le, t: 1 - empty(r, le, t)), "share that is filled"),
    ("2.1", "padding over tokens"): (measured(lost, lambda r, le, t: (len(r) * t - kept(r)) / kept(r)), "divide by the places"),
    ("2.1", "rows with padding"): (measured(lost, lambda r, le, t: np.mean([sum(n for _, n in row) < t for row in r])), "rows with a gap"),
    ("2.1", "rows as wide as the fullest"): (measured(lost, widest), "even if no row is full"),
    ("2.1", "rows of T"): (measured(lost, lambda r, le, t: empty(r, le, t - 1)), "0.238095, expected 0.333333"),
    ("2.1", "per cent"): (measured(lambda *a: 100 * lost(*a), lambda *a: 100 * empty(*a)), "per cent"),
    ("2.1", "swapped"): (measured(empty, lost), "swapped"),
    ("2.1", "one number"): (lost, "expected two numbers"),
    ("2.1", "three numbers"): (lambda *a: (1, 2, 3), "3 values"),
    ("2.1", "texts"): (lambda *a: ("6 %", "33 %"), "expected a number"),
    ("2.1", "rows sorted"): (sorts_the_rows, "changed"),
    ("2.1", "no return"): (lambda *a: None, "return missing"),
    ("2.2", "first fit"): (first_fit, "first that fits"),
    ("2.2", "the shortest that fits"): (by(small, min), "shortest that fits"),
    ("2.2", "not quite"): (by(lambda n, space: n < space), "<="),
    ("2.2", "last of equals"): (by(small, last=True), "not the last"),
    ("2.2", "last of the shortest"): (last_of_the_shortest, "also where none fits"),
    ("2.2", "crops the longest"): (by(small, none=max), "not the longest"),
    ("2.2", "crops the first"): (by(small, none=lambda lengths: lengths[0]), "not the first"),
    ("2.2", "the longest of all"): (by(lambda n, space: True), "does not fit"),
    ("2.2", "the closest"): (closest, "the package chooses another document"),
    ("2.2", "the length"): (lambda lengths, space: lengths[SOLVED["choose"](lengths, space)], "not a length"),
    ("2.2", "-1 if none fits"): (lambda le, space: SOLVED["choose"](le, space) if min(le) <= space else -1, "return a place"),
    ("2.2", "nothing if none fits"): (lambda le, space: SOLVED["choose"](le, space) if min(le) <= space else None, "return missing"),
    ("2.2", "sorted in place"): (sorts_in_place, "changed the lengths"),
    ("2.2", "place and length"): (lambda lengths, space: (1, 5), "expected one number"),
    ("2.3", "rows of T, uncut"): (rows_by(places=lambda T: T), "T + 1 tokens"),
    ("2.3", "rows of T, targets one round"): (rows_by(places=lambda T: T, cut=lambda r, T: (r, r[1:] + r[:1])), "T + 1 = 8 places"),
    ("2.3", "the last target one round"): (rows_by(cut=lambda r, T: (r[:-1], r[1:-1] + r[:1])), "the last target"),
    ("2.3", "not shifted"): (rows_by(cut=lambda r, T: (r[:T], r[:T])), "they are the inputs"),
    ("2.3", "shifted the wrong way"): (rows_by(cut=lambda r, T: (r[:T], [0] + r[: T - 1])), "wrong way"),
    ("2.3", "inputs and targets swapped"): (rows_by(cut=lambda r, T: (r[1:], r[:-1])), "begins with BOS"),
    ("2.3", "crops the longest"): (rows_by(crop_the_longest), "crop the shortest"),
    ("2.3", "first fit"): (rows_by(first_fit), "in order of arrival"),
    ("2.3", "in order"): (rows_by(in_order), "in order of arrival"),
    ("2.3", "the shortest first"): (rows_by(by(small, min)), "the shortest first"),
    ("2.3", "last of equals"): (rows_by(by(small, last=True)), "among equals the first"),
    ("2.3", "not quite"): (rows_by(by(lambda n, space: n < space)), "T + 1 = 8 places"),
    ("2.3", "crops the beginning"): (rows_by(crop=lambda d, space: d[-space:]), "begin"),
    ("2.3", "without BOS"): (without_bos, "begins with BOS"),
    ("2.3", "the rest waits"): (rows_by(rest=lambda d, space: [d[space:]]), "its rest is dropped"),
    ("2.3", "the cropped one waits"): (rows_by(rest=lambda d, space: [d]), "of a cropped document"),
    ("2.3", "all wait"): (keeps_all_waiting, "take out"),
    ("2.3", "sorted"): (rows_by(leave=lambda w: sorted(w, key=len)), "another order"),
    ("2.3", "the buffer used up"): (pops_the_buffer, "changed the buffer"),
    ("2.3", "two things"): (lambda b, T: SOLVED["next_row"](b, T)[:2], "three things"),
    ("2.3", "no return"): (lambda b, T: None, "return missing"),
    ("2.4", "blocks of rows"): (dealt(lambda k, rank, world, n: rank * n + k), "a block of neighbours"),
    ("2.4", "blocks of streams"): (neighbouring_streams, "neighbouring streams"),
    ("2.4", "one stream"): (lambda streams, rank, world, n: streams[rank][:n], "only stream 0"),
    ("2.4", "no rank"): (dealt(lambda k, rank, world, n: k), "came out"),
    ("2.4", "the rank left out"): (dealt(lambda k, rank, world, n: k * world), "stream and row"),
    ("2.4", "row k of its stream"): (lambda streams, rank, world, n: [streams[(k * world + rank) % len(streams)][k % len(streams[0])] for k in range(n)], "came out"),
    ("2.4", "rows shared"): (dealt(lambda k, rank, world, n: k + rank), "a block"),
    ("2.4", "world and rank mixed up"): (dealt(lambda k, rank, world, n: k + rank * world), "a block"),
    ("2.4", "too many"): (lambda streams, rank, world, n: SOLVED["rank_rows"](streams, rank, world, n + 1), "expected n"),
    ("2.4", "four streams always"): (dealt(turn, of=lambda j, S: (j % S, j // 4 % 6)), "stream and row"),
    ("2.4", "used up"): (pops_the_streams, "changed the streams"),
    ("2.4", "no return"): (lambda *a: None, "return missing"),
    ("2.5", "1 + share"): (bill(read=lambda c: 1 + c), "half is lost"),
    ("2.5", "cropping forgotten"): (bill(read=lambda c: 1), "cropped tokens are read too"),
    ("2.5", "divided by the share"): (bill(read=lambda c: 1 / max(c, 1e-9)), "came out"),
    ("2.5", "times what is left"): (bill(read=lambda c: 1 - c), "divide by 1 - cropped"),
    ("2.5", "no validation"): (bill(val=0), "validation"),
    ("2.5", "rounded down"): (bill(whole=math.floor), "round up"),
    ("2.5", "always one more"): (bill(whole=lambda x: int(x) + 1), "just enough"),
    ("2.5", "not whole"): (bill(whole=lambda x: x), "fetched whole"),
    ("2.5", "validation not on disk"): (bill(disk=lambda shards, gb: 0.1 * (shards - 1)), "is on the disk too"),
    ("2.5", "unpacked"): (bill(disk=lambda shards, gb: gb), "unpacked"),
    ("2.5", "megabytes"): (bill(disk=lambda shards, gb: 100 * shards), "in gigabytes"),
    ("2.5", "speed without cropping"): (bill(speed=lambda tok, read, chars: tok * chars / 1e6), "cropped tokens are read too"),
    ("2.5", "speed in tokens"): (bill(speed=lambda tok, read, chars: tok * read / 1e6), "chars_per_token"),
    ("2.5", "speed in bytes"): (bill(speed=lambda tok, read, chars: tok * read * chars), "in megabytes"),
    ("2.5", "one number"): (lambda *a: 33, "expected three numbers"),
    ("2.5", "no return"): (lambda *a: None, "return missing"),
}  # fmt: skip
WRONG |= {  # with the eye of a reviewer: state, sizes, text, types, rounding
    ("2.1", "rows sorted out"): (lambda r, l, t: SOLVED["shares"]([row for row in r if row], l, t), "an empty row has places too"),
    ("2.1", "last row ignored"): (lambda r, l, t: SOLVED["shares"](r[:-1] if len(r) > 3 else r, l, t), "divide the tokens cut off by all tokens of the documents"),
    ("2.1", "rounded"): (lambda r, l, t: tuple(round(x, 4) for x in SOLVED["shares"](r, l, t)), "divide the tokens cut off by all tokens of the documents"),
    ("2.1", "global dict"): (
        (
            lambda placed: (
                lambda r, l, t: (lambda _: (lambda had, kept, now: ((had - kept) / had, 1 - now / len(r) / t))(sum(l[d] for d in placed if d < len(l)), sum(n for d, n in placed.items() if d < len(l)), sum(n for row in r for _, n in row)))([placed.update({d: placed.get(d, 0) + n}) for row in r for d, n in row])
            )
        )({}),
        "does something stay from one call to the next,",
    ),
    ("2.2", "bisect on sorted copy place"): (lambda l, s: sorted(l).index(max([x for x in l if x <= s], default=min(l))), "that one does not fit"),
    ("2.2", "first among 8 waiting"): (lambda l, s: SOLVED["choose"](l[:20], s), "the package chooses another document"),
    ("2.2", "exact first"): (lambda l, s: l.index(s) if s in l else first_fit(l, s), "that is the first that fits, take the longest that fits"),
    ("2.2", "as float"): (lambda l, s: float(SOLVED["choose"](l, s)), "a place in a list is a whole number"),
    ("2.2", "negative index"): (lambda l, s: SOLVED["choose"](l, s) - len(l), "return a place in the list, 0 to 3"),
    ("2.3", "buffer of 20"): (lambda b, T: (lambda r: (r[0], r[1], r[2] + b[20:]))(SOLVED["next_row"](b[:20], T)), "the longest that fits, else the shortest, cropped"),
    ("2.3", "targets minus 1 at BOS"): (lambda b, T: (lambda i, t, w: (i, [-1 if x == 0 else x for x in t], w))(*SOLVED["next_row"](b, T)), "a target is the token after its input"),
    ("2.3", "documents without bos in the middle"): (lambda b, T: (lambda i, t, w: (i, t, [d[1:] for d in w]))(*SOLVED["next_row"](b, T)), "take out what is in the row; of a cropped"),
    ("2.3", "waiting set"): (lambda b, T: (lambda i, t, w: (i, t, [d for d in b if d not in w]))(*SOLVED["next_row"](b, T)), "take out what is in the row; of a cropped"),
    ("2.3", "removes by value"): (lambda b, T: (lambda i, t, w: (i, t, [d for d in b if d in w]))(*SOLVED["next_row"](b, T)), "take out what is in the row; of a cropped"),
    ("2.3", "changes the cropped doc"): (lambda b, T: (SOLVED["next_row"](b, T), [d.__delitem__(slice(T + 1, None)) for d in b])[0], "work on a copy"),
    ("2.4", "copies rows reversed"): (lambda s, r, w, n: SOLVED["rank_rows"](s[::-1], r, w, n), "stream and row [[3, 0], [2, 0], [1, 0], [0, 0]]"),
    ("2.5", "math.floor(x+0.99)"): (lambda t, c, ch, s: (lambda a: (math.floor(t * ch / (1 - c) / 250e6 + 0.9) + 1,) + a[1:])(SOLVED["data_bill"](t, c, ch, s)), "what must be read is tokens / (1 - cropped) *"),
    ("2.5", "round"): (lambda t, c, ch, s: (round(t * ch / (1 - c) / 250e6) + 1, (round(t * ch / (1 - c) / 250e6) + 1) * 0.1, s * ch / (1 - c) / 1e6), "round up"),
    ("2.5", "MiB"): (lambda t, c, ch, s: (lambda a: (a[0], a[1], a[2] * 1e6 / 2**20))(SOLVED["data_bill"](t, c, ch, s)), "what must be read is tokens / (1 - cropped) *"),
    ("2.5", "8 bits"): (lambda t, c, ch, s: (lambda a: (a[0], a[1], a[2] * 8))(SOLVED["data_bill"](t, c, ch, s)), "what must be read is tokens / (1 - cropped) *"),
}  # fmt: skip

RIGHT = {
    ("2.1", "sums"): measured(lost, empty),
    ("2.1", "a Counter, a tensor"): with_counter,
    ("2.1", "a numpy table"): with_numpy,
    ("2.2", "index of the largest"): by(small),
    ("2.2", "a loop"): in_a_loop,
    ("2.2", "one key"): by_key,
    ("2.2", "a tensor"): with_a_tensor,
    ("2.3", "tensors"): as_tensors,
    ("2.3", "recursion, numpy, tuples"): recursive,
    ("2.3", "parts"): rows_by(),
    ("2.4", "iterators"): with_iterators,
    ("2.4", "slices"): by_slices,
    ("2.4", "a formula"): dealt(turn),
    ("2.4", "a tensor"): lambda *a: torch.tensor(by_slices(*a)),
    ("2.5", "parts"): bill(),
    ("2.5", "minus, floor, minus"): bill(whole=lambda x: -int(-x // 1)),
    ("2.5", "a tensor"): lambda *a: torch.tensor(bill()(*a), dtype=torch.float64),
}  # fmt: skip


ROWS = [[(0, 5, 0, 0), (1, 3, 0, 4)], [(1, 4, 3, 0)]]
FIGURES = {
    "lengths": (lambda: figures.lengths_histogram([3, 30, 40, 90], (40,)), ["4 documents", "median 40", "25% are longer than 40"]),
    "lengths, no marks": (lambda: figures.lengths_histogram([5]), ["longest 5"]),
    "rows": (lambda: figures.rows_raster({"a": ROWS, "b": [[(0, 8, 0, 1)]]}, 8), ["a: 2 rows, 1 begin inside", "4 places empty, 4 tokens lost", "b: 1 rows"]),
    "rows with letters": (lambda: figures.rows_raster({"a": ROWS}, 8, "AB"), ["2 rows"]),
    "cropping": (lambda: figures.cropping({"x": [0.1, 0.25], "y": [0.3, 0.3]}, 100, 0.05, [0.2, 0.9]), ["x 10.0% at first and 25.0%", "20% to 90%", "5.0%"]),
    "dealing": (lambda: figures.dealing({1: [0, 0], 2: [0, 1]}), ["1 ranks: 0 0; 2 ranks: 0 1"]),
    "speeds": (lambda: figures.speeds({"packing": {"scan": [1e6, 2e6, 3e6], "sorted": [7e6]}}), ["packing, scan 2M", "sorted 7M"]),
    "shards": (lambda: figures.shards_by_depth({12: 41.0, 24: 260.0}), ["41 at depth 12", "260 at depth 24"]),
}  # fmt: skip
REFUSED = {
    "no lengths": lambda: figures.lengths_histogram([]),
    "no panel": lambda: figures.rows_raster({}, 8),
    "no rows": lambda: figures.rows_raster({"a": []}, 8),
    "an empty row": lambda: figures.rows_raster({"a": [[]]}, 8),
    "nothing cropped": lambda: figures.cropping({}, 1, 0.0, []),
    "nothing dealt": lambda: figures.dealing({}),
    "no speeds": lambda: figures.speeds({}),
    "no repeats": lambda: figures.speeds({"a": {"scan": []}}),
    "no depth": lambda: figures.shards_by_depth({}),
    "a row too full": lambda: figures.rows_raster({"a": ROWS}, 7),
}

globals().update(lesson_tests("02", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
