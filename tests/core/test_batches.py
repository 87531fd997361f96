"""The packing against a plain writing of its rules that scans the whole buffer; its order against ranks, resumes and epochs."""

import functools
import json
import math
import os
import signal
import statistics as stats
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import batches as module
from gpt2course import data
from gpt2course.batches import Batches, merge_states, statistics
from gpt2course.files import UserError

BOS = 7


class Split(data.Split):
    """Documents in memory, in blocks of `block`; counts how often each block is read."""

    def __init__(self, documents: list[str], block: int = 10):
        counts = [min(block, len(documents) - i) for i in range(0, len(documents), block)]
        super().__init__(counts, None)
        self.documents, self.reads = documents, Counter()
        self.read_block = self.read

    def read(self, b):
        self.reads[b] += 1
        first, n = self.blocks[b]
        return self.documents[first : first + n]


class Coder:
    """Document "i n" becomes n tokens that name the document and the place, so that every token of a row can be traced."""

    sha256 = "coder"

    def __init__(self):
        self.batches = []  # sizes

    def encode_batch(self, texts, bos=False):
        self.batches.append(len(texts))
        return [[BOS] * bos + tokens(text) for text in texts]


def tokens(text: str) -> list[int]:
    i, n = map(int, text.split())
    return [1000 * (i + 1) + place for place in range(n)]


def documents(lengths: list[int | None]) -> list[str]:
    """Documents of these lengths in tokens, BOS not counted; None is an empty document."""
    return ["" if n is None else f"{i} {n}" for i, n in enumerate(lengths)]


def plain(texts: list[str], T: int, index: int, streams: int, buffer_docs: int, rows: int):
    """One stream's rows by the rules as they are stated, scanning the whole buffer for every pick.

    Returns (rows, the document indices in the buffer before each pick, picks as (row, index, length, tokens used), the state).
    """
    mine = list(range(index, len(texts), streams))
    buffer, place, out, seen, picks, epoch, skipped = [], 0, [], [], [], 0, 0
    for number in range(rows):
        row = []
        while len(row) < T + 1:
            while len(buffer) < min(buffer_docs, len(mine)):
                batch = mine[place : place + 128]  # the slice ends at the end of the epoch
                epoch, place = divmod(epoch * len(mine) + place + len(batch), len(mine))
                skipped += sum(not texts[i] for i in batch)
                buffer += [(i, [BOS] + tokens(texts[i])) for i in batch if texts[i]]
            seen.append([i for i, _ in buffer])
            space = T + 1 - len(row)
            best = None
            for k, (_, doc) in enumerate(buffer):
                if len(doc) <= space and (best is None or len(doc) > len(buffer[best][1])):
                    best = k
            if best is None:
                best = 0
                for k, (_, doc) in enumerate(buffer):
                    if len(doc) < len(buffer[best][1]):
                        best = k
            i, doc = buffer.pop(best)
            picks.append((number, i, len(doc), min(space, len(doc))))
            row += doc[:space]
        out.append(row)
    cropped = [length - used for *_, length, used in picks if length > used]
    state = dict(stream=index, epoch=epoch, next=place, skipped=skipped, placed=len(picks), cropped=len(cropped), cropped_tokens=sum(cropped))
    return out, seen, picks, state | dict(buffer_tokens=sum(len(doc) for _, doc in buffer), buffer=[i for i, _ in buffer])


def record_picks(batches: Batches) -> dict[int, list]:
    """Note, for each stream, the buffered documents before every pick and the lengths picked."""
    notes = {s: [] for s in batches._own}
    for s, stream in batches._own.items():

        def take(at, stream=stream, notes=notes[s], real=stream.take):
            notes.append([i for i, _ in stream.buffer.values()])
            return real(at)

        stream.take = take
    return notes


def many(n: int, longest: int, seed: int) -> list[int | None]:
    """Hypothesis' own lists are short; these cross the 128 documents of a top-up. One document in ten is empty."""
    rng = np.random.default_rng(seed)
    return [None if rng.random() < 0.1 else int(k) for k in rng.integers(1, longest + 1, n)]


LENGTHS = st.one_of(
    st.lists(st.one_of(st.integers(1, 6), st.integers(1, 40), st.none()), min_size=8, max_size=60),
    st.builds(many, st.integers(8, 500), st.sampled_from([1, 5, 20, 60]), st.integers(0, 1000)),
)
BUFFERS = st.sampled_from([1, 2, 5, 40, 127, 128, 129, 1000])
SETTINGS = st.fixed_dictionaries({"T": st.integers(1, 30), "streams": st.sampled_from([1, 2, 3, 4, 8]), "buffer_docs": BUFFERS})
def usable(lengths, streams):
    return len(lengths) >= streams and all(any(lengths[s::streams]) for s in range(streams))


@settings(max_examples=150, deadline=None)
@given(LENGTHS, SETTINGS, st.integers(1, 40))
def test_rows_buffers_and_state_equal_the_plain_scan(lengths, options, n):
    streams, T, buffer_docs = options["streams"], options["T"], options["buffer_docs"]
    if not usable(lengths, streams):
        return
    texts = documents(lengths)
    batches = Batches(Split(texts), Coder(), T, streams=streams, buffer_docs=buffer_docs)
    notes = record_picks(batches)
    rows = batches.next_rows(n)
    assert rows.dtype == np.int64 and rows.shape == (n, T + 1)
    placed = cropped = dropped = 0
    for s in range(streams):
        want, seen, picks, state = plain(texts, T, s, streams, buffer_docs, len(range(s, n, streams)))
        assert rows[s::streams].tolist() == want  # global row j comes from stream j % streams
        assert notes[s] == seen  # the same top-ups: the buffer is the same before every pick
        assert [(row, i) for row, found in enumerate(batches.last_documents[s::streams]) for i in found] == [(row, i) for row, i, *_ in picks]
        assert batches.state_dict()["stream_states"][s] == state
        placed += len(picks)
        cropped += sum(length > used for *_, length, used in picks)
        dropped += sum(length - used for *_, length, used in picks)
    found = statistics(batches.state_dict())
    assert (found["documents"], found["cropped"], found["cropped_tokens"]) == (placed, cropped, dropped)
    assert found["epoch"] == pytest.approx((placed + found["skipped"]) / len(texts))
    assert found["cropped_share"] == pytest.approx(dropped / (n * (T + 1) + dropped))
    batches.next_rows(1)
    assert len(batches.last_documents) == 1  # of the rows served last


def json_copy(value):
    return json.loads(json.dumps(value))


@settings(max_examples=100, deadline=None)
@given(LENGTHS, SETTINGS, st.integers(0, 20), st.integers(1, 20), st.randoms())
def test_ranks_see_the_same_global_rows_and_a_resume_may_change_their_number(lengths, options, before, after, random):
    streams, T = options["streams"], options["T"]
    if not usable(lengths, streams):
        return
    split = Split(documents(lengths))

    def ranks(world):
        return [Batches(split, Coder(), rank=r, world=world, **options) for r in range(world)]

    def rows(ranks, n):  # the next n global rows
        return np.stack([rank.next_rows(n // len(ranks)) for rank in ranks], axis=1).reshape(-1, T + 1).tolist()

    w, v = (random.choice([w for w in (1, 2, 3, 4, 8) if streams % w == 0]) for _ in range(2))
    before, after = before * math.lcm(w, v), after * math.lcm(w, v)
    one, first, second = ranks(1), ranks(w), ranks(v)
    assert rows(first, before) == rows(one, before)
    states = [json_copy(rank.state_dict()) for rank in first]
    random.shuffle(states)
    state = merge_states(states)
    frozen = json.dumps(state)
    assert state == one[0].state_dict() and statistics(state) == statistics(one[0].state_dict())  # nothing in it depends on the ranks
    for counter in ("documents", "cropped", "cropped_tokens", "skipped"):
        assert sum(statistics(rank.state_dict())[counter] for rank in first) == statistics(state)[counter]
    rows(second, 3 * v)  # they need not be fresh
    for rank in second:
        rank.load_state_dict(state)
    assert rows(second, after) == rows(one, after) and json.dumps(state) == frozen
    assert merge_states([rank.state_dict() for rank in second]) == one[0].state_dict()


def test_an_epoch_reads_each_block_once_for_each_stream_and_a_resume_each_block_once():
    split = Split(documents([4] * 960), block=96)
    batches = Batches(split, Coder(), 4, streams=1, buffer_docs=300)
    while batches.state_dict()["stream_states"][0]["epoch"] == 0:
        batches.next_rows(1)
    assert split.reads == Counter(range(10))
    split.reads.clear()
    batches = Batches(split, Coder(), 4, streams=4, buffer_docs=100)
    batches.next_rows(400)
    assert max(split.reads.values()) <= 4
    assert all(i % 4 == s for s, stream in batches._own.items() for i in stream.ahead)  # no other stream's text is kept
    state = batches.state_dict()
    split.reads.clear()
    Batches(split, Coder(), 4, streams=4, buffer_docs=100).load_state_dict(state)
    needed = {i // 96 for s in state["stream_states"] for i in s["buffer"]}
    assert split.reads == Counter(needed) and len(needed) > 1


def test_the_state_is_small_json():
    batches = Batches(Split(documents([5] * 120_000), block=1000), Coder(), 9, streams=8)
    batches.next_rows(80)
    assert len(json.dumps(batches.state_dict())) < 8 * 10_000


def test_a_state_of_something_else_is_refused_and_changes_nothing():
    texts = documents([4, 9, 2, 7] * 10)
    split = Split(texts)
    options = dict(T=8, streams=4, buffer_docs=10)
    first = Batches(split, Coder(), **options)
    first.next_rows(8)
    state = json_copy(first.state_dict())
    other = Coder()
    other.sha256 = "another"
    refused = [
        (Batches(Split(texts + texts[:1]), Coder(), **options), "documents is 40 in it and 41 here"),
        (Batches(split, Coder(), **options | {"T": 9}), "T is 8 in it and 9 here"),
        (Batches(split, Coder(), **options | {"streams": 2}), "streams is 4 in it and 2 here"),
        (Batches(split, Coder(), **options | {"buffer_docs": 9}), "buffer_docs is 10 in it and 9 here"),
        (Batches(split, other, **options), "tokenizer is 'coder' in it and 'another' here"),
        (Batches(Split(documents([4, 9, 2, 6] * 10)), Coder(), **options), "the text of the corpus has changed"),
    ]
    for batches, message in refused:
        before = batches.state_dict()
        with pytest.raises(UserError, match=message):
            batches.load_state_dict(state)
        assert batches.state_dict() == before
    with pytest.raises(UserError, match="version is 0 in it and 1 here"):
        first.load_state_dict(state | {"version": 0})
    with pytest.raises(UserError, match="version is None in it"):
        first.load_state_dict({})
    with pytest.raises(UserError, match="4 ranks cannot continue from 2 rows"):
        Batches(split, Coder(), world=4, **options).load_state_dict(state | {"rows": 2})
    half = Batches(split, Coder(), rank=1, world=2, **options)
    half.next_rows(4)
    with pytest.raises(UserError, match=r"1 ranks cannot continue from 8 rows of streams \[1, 3\]; .*merge_states"):
        Batches(split, Coder(), **options).load_state_dict(half.state_dict())
    half.load_state_dict(state)  # a global state serves one rank
    half.load_state_dict(half.state_dict())  # and so does its own


def test_states_that_do_not_belong_together_are_not_merged():
    split = Split(documents([4, 9, 2, 7] * 10))
    a, b = (Batches(split, Coder(), 8, streams=4, rank=r, world=2) for r in range(2))
    assert merge_states([a.state_dict(), b.state_dict()])["rows"] == 0
    for states in ([a.state_dict()], [a.state_dict()] * 2, [a.state_dict(), b.state_dict() | {"rows": 2}], [a.state_dict(), b.state_dict() | {"T": 9}]):
        with pytest.raises(UserError, match="do not fit together; merge those of all ranks at one moment"):
            merge_states(states)


def test_bad_arguments_say_what_is_allowed():
    split = Split(documents([4] * 6))
    for options in (dict(streams=8), dict(streams=8, world=8), dict(streams=6, world=4)):
        with pytest.raises(UserError, match="streams . does not suit . ranks and 6 documents; it must be a multiple of the ranks"):
            Batches(split, Coder(), **{"T": 8} | options)
    assert Batches(split, Coder(), 8, streams=6).next_rows(6).shape == (6, 9)


@pytest.mark.parametrize("lengths", [[None] * 40, [3, None] * 20, [None] * 300])
def test_a_stream_of_empty_documents_is_an_error_and_not_a_hang(lengths):
    split = Split(documents(lengths))
    with pytest.raises(UserError, match="documents of stream . .of 2. are empty"):
        Batches(split, Coder(), 8, streams=2).next_rows(2)
    assert max(split.reads.values()) <= 4  # found after one epoch


class LongSplit(Split):
    """Documents of 100 kB, made on reading, so that only the loader keeps them."""

    def read(self, b):
        return [text.ljust(100_000) for text in super().read(b)]


def test_long_documents_are_not_kept_in_memory_neither_in_a_run_nor_in_a_resume():
    split = LongSplit(documents([30] * 1000))  # 100 MB
    options = dict(T=9, streams=2, buffer_docs=500)
    loader, again = Batches(split, Coder(), **options), Batches(split, Coder(), **options)
    tracemalloc.start()
    try:
        loader.next_rows(20)
        run = tracemalloc.get_traced_memory()[1]
        state = loader.state_dict()
        tracemalloc.reset_peak()
        again.load_state_dict(state)
        resume = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert run < 35e6 and resume < 10e6  # of 100: the texts of two top-ups of 128; of a few blocks of 10
    assert again.next_rows(20).tolist() == loader.next_rows(20).tolist()


# ---- the thread


def feed_of(loader, *args):
    """A Prefetch whose next() fails where it would wait for ever."""
    feed = module.Prefetch(loader, *args)
    feed.ready.get = functools.partial(feed.ready.get, timeout=30)
    return feed


def toy(**options):
    return Batches(Split(documents([3, 9, 4, 12, 1, 7, 30, 2, 5, 11] * 6)), Coder(), 16, streams=4, buffer_docs=7, **options)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, SETTINGS, st.sampled_from([1, 2, 4, 8]), st.integers(1, 7), st.integers(0, 8), st.integers(1, 5))
def test_prefetching_changes_nothing_and_a_resume_from_it_loses_no_row(lengths, options, world, n, before, after):
    """Rows and states are the plain loader's; the state of the last batch continues with the very next row."""
    if not usable(lengths, options["streams"]) or options["streams"] % world:
        return
    split, place = Split(documents(lengths)), dict(rank=world - 1, world=world)
    plain_loader, first, second = (Batches(split, Coder(), **options, **place) for _ in range(3))
    state = first.state_dict()
    feed = feed_of(first, n)
    for loader, batches in ((None, before), (second, after)):
        if loader:
            loader.load_state_dict(json_copy(state))
            feed = feed_of(loader, n)
        for _ in range(batches):
            rows, state = feed.next()
            assert rows.dtype == torch.int64 and rows.tolist() == plain_loader.next_rows(n).tolist()
            assert state == plain_loader.state_dict()
        while feed.ready.empty():  # it has run ahead
            time.sleep(0.0002)
        assert state == plain_loader.state_dict()  # and has not changed the state that it gave
        feed.close()


class Panic(BaseException):
    """As tiktoken and rustbpe end when their Rust code panics: no Exception."""


@pytest.mark.parametrize("error", [UserError("shard_00003.parquet is damaged"), Panic("called `Option::unwrap()`")])
def test_an_error_in_the_thread_reaches_the_caller_after_the_good_batches_and_the_thread_ends(error, monkeypatch):
    monkeypatch.setattr(module, "TOP_UP", 10)
    split, want = Split(documents([5] * 40)), Batches(Split(documents([5] * 40)), Coder(), 16, streams=1, buffer_docs=1)
    read = split.read_block
    split.read_block = lambda b: read(b) if b < 3 else (_ for _ in ()).throw(error)
    feed = feed_of(Batches(split, Coder(), 16, streams=1, buffer_docs=1), 2)
    with pytest.raises(type(error)) as caught:
        for _ in range(100):
            assert feed.next()[0].tolist() == want.next_rows(2).tolist()
    assert caught.value is error and want.rows == 10  # 30 documents of 6 tokens: 3 a row of 17, 10 rows
    assert not feed.thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        feed.next()


def test_closing_ends_the_thread_whatever_it_does():
    for n, wait in ((200, 0.0), (200, 0.2), (10**8, 0.2)):  # at its start; with a full queue; in a batch that takes minutes
        feed = module.Prefetch(toy(), n)
        time.sleep(wait)
        began = time.perf_counter()
        feed.close()
        feed.close()
        assert not feed.thread.is_alive() and time.perf_counter() - began < 2
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_a_signal_is_handled_while_the_rows_are_awaited():
    loader, arrived = toy(), threading.Event()
    make = loader.next_rows
    loader.next_rows = lambda n: (arrived.wait(20), make(n))[1]  # rows come only after the signal
    old = signal.signal(signal.SIGTERM, lambda *_: arrived.set())
    feed = feed_of(loader, 2)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    began = time.perf_counter()
    try:
        timer.start()
        feed.next()
        assert arrived.is_set() and time.perf_counter() - began < 10
    finally:
        signal.signal(signal.SIGTERM, old)
        feed.close()


def test_a_thread_left_open_does_not_keep_the_interpreter():
    code = "from test_batches import *; feed = module.Prefetch(toy(), 3); feed.next(); module.Prefetch(toy(), 10**8)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_rows_for_a_gpu_are_pinned_by_the_thread_and_copied_without_waiting(monkeypatch, device):
    """Without a GPU the calls are watched; with one, that the memory is pinned. On the CPU nothing is pinned."""
    calls = []
    pin, to = torch.Tensor.pin_memory, torch.Tensor.to
    has_gpu = torch.cuda.is_available()

    def pinned(self):
        calls.append(("pin", threading.current_thread().name))
        return pin(self) if has_gpu else self

    def copied(self, device, non_blocking=False):
        calls.append((torch.device(device).type, non_blocking, self.is_pinned()))
        return to(self, device, non_blocking=non_blocking) if has_gpu else self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "to", copied)
    feed = feed_of(toy(), 5, device)
    rows, _ = feed.next()
    feed.close()
    if device == "cuda":
        assert calls[0] == ("pin", "prefetch") and ("cuda", True, has_gpu) in calls
    else:
        assert calls == [("cpu", False, False)]
    assert rows.tolist() == toy().next_rows(5).tolist()


def test_the_recorded_benchmark_shows_three_times_the_tokens_per_second():
    folder = Path(__file__).resolve().parents[2] / "results" / "2026-11-23_packing"
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for T in (256, 2048):
        found = {way: [x["tokens_per_second"] for x in lines if (x["what"], x["T"], x["way"]) == ("packing", T, way)] for way in ("scan", "sorted")}
        assert all(len(speeds) >= 5 for speeds in found.values())
        scan, ours = (stats.median(speeds) for speeds in found.values())
        assert ours >= 3 * scan and f"| {ours / scan:.1f} |" in readme.split(f"| packing | {T} |")[1].split("\n")[0]
