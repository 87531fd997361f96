"""Lesson 02: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import bisect
import math
from collections import Counter

import numpy as np
import torch
from lesson_cases import answers, lesson_tests

from gpt2course.course.figures import data as figures

NAMES = {"2.1": ("by_length",), "2.2": ("choose",), "2.3": ("serve",), "2.4": ("data_bill",)}


SOLVED = answers("02", math=math)


# ---- 2.1


def classes(
    of=lambda n, edges: sum(n > e for e in edges), share=lambda had, lost: lost / had,
    empty=0.0, waiting=False, twice=False,
):
    """A function for exercise 2.1 with its parts to be replaced."""

    def f(rows, lengths, edges):
        placed = []
        for row in rows:
            for document, n in row:
                known = next((p for p in placed if p[0] == document), None)
                if known and not twice:
                    known[1] += n
                else:
                    placed.append([document, n])
        if waiting:
            placed += [[d, 0] for d in range(len(lengths)) if d not in [p[0] for p in placed]]
        had, lost = [0] * (len(edges) + 1), [0] * (len(edges) + 1)
        for document, n in placed:
            had[of(lengths[document], edges)] += lengths[document]
            lost[of(lengths[document], edges)] += lengths[document] - n
        return [share(h, x) if h else empty for h, x in zip(had, lost)]

    return f


def in_documents(rows, lengths, edges):
    placed = Counter()
    for row in rows:
        for d, n in row:
            placed[d] += n
    kinds = [[d for d in placed if sum(lengths[d] > e for e in edges) == k] for k in range(len(edges) + 1)]
    return [np.mean([placed[d] < lengths[d] for d in kind]) if kind else 0.0 for kind in kinds]


def of_all_lost(rows, lengths, edges):
    shares = classes(share=lambda had, lost: lost)(rows, lengths, edges)
    return [s / (sum(shares) or 1) for s in shares]


def sorts_the_rows(rows, lengths, edges):
    rows.sort()
    return SOLVED["by_length"](rows, lengths, edges)


KEPT = {}


def remembers(rows, lengths, edges):
    for row in rows:
        for d, n in row:
            KEPT[d] = KEPT.get(d, 0) + n
    return SOLVED["by_length"]([list(KEPT.items())], lengths, edges)


def with_numpy(rows, lengths, edges):
    placed = np.zeros(len(lengths))
    for row in rows:
        for document, n in row:
            placed[document] += n
    n, used = np.array(lengths), placed > 0
    kind = np.digitize(n, [e + 0.5 for e in edges])
    had = np.array([n[used & (kind == k)].sum() for k in range(len(edges) + 1)])
    kept = np.array([placed[used & (kind == k)].sum() for k in range(len(edges) + 1)])
    return np.where(had > 0, 1 - kept / np.maximum(had, 1), 0.0)


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


def with_a_tensor(lengths, space):
    n = torch.tensor(lengths)
    fitting = torch.where(n <= space, n, -1)
    return fitting.argmax() if (n <= space).any() else n.argmin()


# ---- 2.3


def loader(restore=True, finish=True, skip=False, pick=None, to_state=list, rest=False, overfill=0, lifo=False, count=False):
    """A function for exercise 2.3 with something put in or left out."""

    def serve(lengths, row_tokens, buffer_docs, n, state):
        pick_ = pick or SOLVED["choose"]
        position = state["position"] if state else 0
        waiting = list(state["waiting"]) if state and restore else []
        rows = []
        while (count or len(rows) < n) and ((finish and waiting) or position < len(lengths)):
            row, space = [], row_tokens
            while space:
                want = buffer_docs + overfill
                while len(waiting) < want and position < len(lengths):
                    if not skip or lengths[position] <= row_tokens:
                        waiting.append(position)
                    position += 1
                if not waiting:
                    break
                d = waiting.pop(pick_([lengths[d] for d in waiting], space))
                here = min(lengths[d], space)
                row.append((d, here))
                space -= here
                if rest and here < lengths[d]:
                    waiting.append(d)
            if row:
                rows.append(row)
        waiting = waiting[::-1] if lifo else waiting
        return rows, {"position": position, "waiting": to_state(waiting)} if restore else {"position": position}

    return serve


def changes_the_state(lengths, row_tokens, buffer_docs, n, state):
    got = SOLVED["serve"](lengths, row_tokens, buffer_docs, n, state)
    if state:
        state.update(got[1])
    return got


def drops_the_last(lengths, row_tokens, buffer_docs, n, state):
    rows, state = SOLVED["serve"](lengths, row_tokens, buffer_docs, n, state)
    return [row for row in rows if sum(k for _, k in row) == row_tokens], state


def everything(lengths, row_tokens, buffer_docs, n, state):
    """Right: the state is how many rows were served, and the pass is made again."""
    done = state or 0
    rows, _ = SOLVED["serve"](lengths, row_tokens, buffer_docs, len(lengths), None)
    return rows[done : done + n], done + n


def in_one_list(lengths, row_tokens, buffer_docs, n, state):
    """Right: the state is one list, the position first."""
    kept = {"position": state[0], "waiting": state[1:]} if state else None
    rows, kept = SOLVED["serve"](lengths, row_tokens, buffer_docs, n, kept)
    return [[list(piece) for piece in row] for row in rows], [kept["position"], *kept["waiting"]]


# ---- 2.4


def bill(read=lambda c: 1 / (1 - c), whole=math.ceil, val=1, disk=lambda shards, gb: 0.1 * shards,
         speed=lambda tok, read, chars: tok * read * chars / 1e6):  # fmt: skip
    """A function for exercise 2.4 with its parts to be replaced."""

    def f(tokens, cropped, chars, tokens_per_second):
        text = tokens * read(cropped) * chars
        shards = whole(text / 250e6) + val
        return shards, disk(shards, text / 1e9), speed(tokens_per_second, read(cropped), chars)

    return f


WRONG = {
    ("2.1", "pieces apart"): (classes(twice=True), "two rows"),
    ("2.1", "waiting documents"): (classes(waiting=True), "in no row"),
    ("2.1", "over the tokens left"): (classes(share=lambda had, lost: lost / (had - lost)), "divisor"),
    ("2.1", "kept"): (classes(share=lambda had, lost: 1 - lost / had), "share that is kept"),
    ("2.1", "documents, not tokens"): (in_documents, "not of documents"),
    ("2.1", "of all lost tokens"): (of_all_lost, "share of all lost tokens"),
    ("2.1", "the edge in the upper class"): (classes(of=lambda n, edges: sum(n >= e for e in edges)), "compare with <="),
    ("2.1", "per cent"): (classes(share=lambda had, lost: 100 * lost / had), "per cent"),
    ("2.1", "no class for the long"): (lambda r, le, e: SOLVED["by_length"](r, le, e)[:-1], "2 shares came out, expected 3"),
    ("2.1", "empty classes left out"): (lambda r, le, e: [x for x in classes(empty=None)(r, le, e) if x is not None], "1 shares came out, expected 3"),
    ("2.1", "None for an empty class"): (classes(empty=None), "return missing|expected a number"),
    ("2.1", "tokens"): (classes(share=lambda had, lost: lost), "came out as 1, expected"),
    ("2.1", "rows sorted"): (sorts_the_rows, "changed"),
    ("2.1", "remembers rows"): (remembers, "does something stay"),
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
    ("2.2", "bisect on sorted copy place"): (lambda l, s: sorted(l).index(max([x for x in l if x <= s], default=min(l))), "that one does not fit"),
    ("2.2", "as float"): (lambda l, s: float(SOLVED["choose"](l, s)), "a place in a list is a whole number"),
    ("2.3", "as it stands"): (loader(restore=False, finish=False, skip=True), "longer than a row|serve rows until none waits|are lost"),
    ("2.3", "position alone"): (loader(restore=False), "the state must hold who waits"),
    ("2.3", "stops with some waiting"): (loader(finish=False), "serve rows until none waits"),
    ("2.3", "long ones skipped"): (loader(skip=True), "do not skip it"),
    ("2.3", "first fit"): (loader(pick=lambda le, s: first_fit(le, s)), "best fit of those waiting"),
    ("2.3", "a set as state"): (loader(to_state=set), "cannot be saved as JSON"),
    ("2.3", "sorted by length in the state"): (loader(lifo=True), "the order of those waiting"),
    ("2.3", "the rest waits"): (loader(rest=True), "the rest is dropped"),
    ("2.3", "one more waits"): (loader(overfill=1), "fill the buffer to buffer_docs"),
    ("2.3", "all rows at once"): (loader(count=True), "rows came out, and n is"),
    ("2.3", "the state ignored"): (lambda le, r, b, n, state: SOLVED["serve"](le, r, b, n, None), "without end|more than once"),
    ("2.3", "the state changed"): (changes_the_state, "work on a copy"),
    ("2.3", "the last row dropped"): (drops_the_last, "are lost"),
    ("2.3", "rows alone"): (lambda *a: SOLVED["serve"](*a)[0], "two things|values came out"),
    ("2.3", "documents without tokens"): (lambda *a: (lambda rows, s: ([[d for d, _ in row] for row in rows], s))(*SOLVED["serve"](*a)), "a piece is (document, tokens)"),
    ("2.3", "no return"): (lambda *a: None, "return missing"),
    ("2.4", "1 + share"): (bill(read=lambda c: 1 + c), "half is lost"),
    ("2.4", "cropping forgotten"): (bill(read=lambda c: 1), "cropped tokens are read too"),
    ("2.4", "divided by the share"): (bill(read=lambda c: 1 / max(c, 1e-9)), "what must be read is tokens / (1 - cropped)"),
    ("2.4", "times what is left"): (bill(read=lambda c: 1 - c), "divide by 1 - cropped"),
    ("2.4", "no validation"): (bill(val=0), "validation"),
    ("2.4", "rounded down"): (bill(whole=math.floor), "round up"),
    ("2.4", "always one more"): (bill(whole=lambda x: int(x) + 1), "just enough"),
    ("2.4", "not whole"): (bill(whole=lambda x: x), "fetched whole"),
    ("2.4", "validation not on disk"): (bill(disk=lambda shards, gb: 0.1 * (shards - 1)), "is on the disk too"),
    ("2.4", "unpacked"): (bill(disk=lambda shards, gb: gb), "unpacked"),
    ("2.4", "megabytes"): (bill(disk=lambda shards, gb: 100 * shards), "in gigabytes"),
    ("2.4", "speed without cropping"): (bill(speed=lambda tok, read, chars: tok * chars / 1e6), "cropped tokens are read too"),
    ("2.4", "speed in tokens"): (bill(speed=lambda tok, read, chars: tok * read / 1e6), "chars_per_token"),
    ("2.4", "speed in bytes"): (bill(speed=lambda tok, read, chars: tok * read * chars), "in megabytes"),
    ("2.4", "one number"): (lambda *a: 33, "expected three numbers"),
    ("2.4", "no return"): (lambda *a: None, "return missing"),
    ("2.4", "math.floor(x+0.99)"): (lambda t, c, ch, s: (lambda a: (math.floor(t * ch / (1 - c) / 250e6 + 0.9) + 1,) + a[1:])(SOLVED["data_bill"](t, c, ch, s)), "what must be read is tokens / (1 - cropped) *"),
    ("2.4", "MiB"): (lambda t, c, ch, s: (lambda a: (a[0], a[1], a[2] * 1e6 / 2**20))(SOLVED["data_bill"](t, c, ch, s)), "what must be read is tokens / (1 - cropped) *"),
}  # fmt: skip

RIGHT = {
    ("2.1", "parts"): classes(),
    ("2.1", "a numpy array"): with_numpy,
    ("2.2", "index of the largest"): by(small),
    ("2.2", "a loop"): in_a_loop,
    ("2.2", "a tensor"): with_a_tensor,
    ("2.3", "parts"): loader(),
    ("2.3", "from the beginning each time"): everything,
    ("2.3", "a list as state"): in_one_list,
    ("2.4", "parts"): bill(),
    ("2.4", "a tensor"): lambda *a: torch.tensor(bill()(*a), dtype=torch.float64),
}  # fmt: skip


ROWS = [[(0, 5, 0, 0), (1, 3, 0, 4)], [(1, 4, 3, 0)]]
FIGURES = {
    "lengths": (lambda: figures.lengths_histogram([3, 30, 40, 90], (40,)), ["4 documents", "median 40", "25% are longer than 40"]),
    "lengths, no marks": (lambda: figures.lengths_histogram([5]), ["longest 5"]),
    "rows": (lambda: figures.rows_raster({"a": ROWS, "b": [[(0, 8, 0, 1)]]}, 8), ["a: 2 rows, 1 begin inside", "4 places empty, 4 tokens lost", "b: 1 rows"]),
    "rows with letters": (lambda: figures.rows_raster({"a": ROWS}, 8, "AB"), ["2 rows"]),
    "cropping": (lambda: figures.cropping({"x": [0.1, 0.25], "y": [0.3, 0.3]}, 100, 0.05, [0.2, 0.9]), ["x 10.0% at first and 25.0%", "20% to 90%", "5.0%"]),
    "dealing": (lambda: figures.dealing({1: [0, 0], 2: [0, 1]}), ["1 ranks: 0 0; 2 ranks: 0 1"]),
    "losses": (lambda: figures.losses({"up to 10": 0.0, "more": 0.25}), ["up to 10 0.0%, more 25.0%"]),
    "curves": (lambda: figures.curves({"a": [7.0, 6.5], "b": [7.0, 6.25]}), ["a 7.00 at step 1 and 6.50 at step 2", "b 7.00"]),
    "shards": (lambda: figures.shards_by_depth({12: 41.0, 24: 260.0}), ["41 at depth 12", "260 at depth 24"]),
}  # fmt: skip
REFUSED = {
    "no lengths": lambda: figures.lengths_histogram([]),
    "no panel": lambda: figures.rows_raster({}, 8),
    "no rows": lambda: figures.rows_raster({"a": []}, 8),
    "an empty row": lambda: figures.rows_raster({"a": [[]]}, 8),
    "nothing cropped": lambda: figures.cropping({}, 1, 0.0, []),
    "nothing dealt": lambda: figures.dealing({}),
    "no class": lambda: figures.losses({}),
    "no run": lambda: figures.curves({}),
    "no depth": lambda: figures.shards_by_depth({}),
    "a row too full": lambda: figures.rows_raster({"a": ROWS}, 7),
}

globals().update(lesson_tests("02", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
