"""Lesson 02. Rows of tokens: documents packed by best fit, every row starting with BOS, exactly resumable.

A row has T+1 tokens: T inputs and T targets, shifted by one. Every document begins with BOS.

The packing is nanochat's (commit 348fbb3). About 1000 documents wait in a buffer. The longest one that fits into the
rest of the row goes in, again and again; when none fits, the shortest one is cropped to fill the row exactly, and the
rest of it is dropped. So there is no padding, and every row starts with a document. The price is the cropped tokens: at
T=2048 about 35 % of web text. A document longer than a row keeps at most T+1 tokens, so documents much longer than T
should be cut before they come here; `statistics` reports the share that was cropped.

The order does not depend on the number of ranks. Document i goes to stream i % streams; each stream packs its own rows;
global row j comes from stream j % streams; rank r of w serves the rows with j % w == r. So w ranks together see the
same rows as one.
"""

import contextlib
import queue
import threading
from bisect import bisect_left, bisect_right, insort

import numpy as np
import torch

from gpt2course.files import UserError

TOP_UP = 128  # documents read and tokenized at a time (nanochat 348fbb3)
VERSION = 1  # of the state


def _head(tokens: list[int], row_tokens: int) -> tuple[int, np.ndarray]:
    """(length of a document, its tokens as far as a row can hold them): all that the buffer keeps of a document."""
    return len(tokens), np.array(tokens[:row_tokens], dtype=np.int32)


class _Stream:
    """Documents s, s + S, s + 2S, ... of the split, epoch after epoch: its buffer, and the counters for a resume."""

    def __init__(self, split, tokenizer, T: int, index: int, streams: int, buffer_docs: int):
        self.split, self.tokenizer, self.row_tokens = split, tokenizer, T + 1
        self.index, self.streams = index, streams  # s and S
        self.documents = len(range(index, len(split), streams))  # in an epoch
        # With fewer documents than buffer_docs, a full buffer would have each one several times: one epoch is enough.
        self.target = min(buffer_docs, self.documents)
        # (length, arrival) of every buffered document, sorted, so that the best fit is found by bisection
        self.keys: list[tuple[int, int]] = []
        # arrival -> (document index, its first T+1 tokens), in order of arrival
        self.buffer: dict[int, tuple[int, np.ndarray]] = {}
        self.arrivals = 0  # documents buffered so far; their numbers
        self.ahead: dict[int, str] = {}  # document index -> text: this stream's documents in the block read last
        self.epoch = 0  # epochs read to the end
        self.next = 0  # position in the stream of the next document to read
        self.skipped = 0  # empty documents met
        self.placed = 0  # documents put into rows, whole or cropped
        self.cropped = 0  # documents cropped
        self.cropped_tokens = 0  # tokens dropped by cropping

    def read(self, indices: list[int]) -> list[str]:
        """The texts of the stream's documents `indices` (ascending). Going through an epoch reads each block once."""
        found = []
        for i in indices:
            if i not in self.ahead:
                block = self.split.block_of(i)
                first, n = self.split.blocks[block]
                texts = self.split.read_block(block)
                self.ahead = {j: texts[j - first] for j in range(i, first + n, self.streams)}
            found.append(self.ahead[i])
        return found

    def add(self, index: int, length: int, tokens: np.ndarray) -> None:
        """Put a document at the end of the buffer; tokens: its first T+1 tokens."""
        insort(self.keys, (length, self.arrivals))
        self.buffer[self.arrivals] = (index, tokens)
        self.arrivals += 1

    def top_up(self) -> None:
        """Add batches of at most 128 documents, none across the end of an epoch, until the buffer is full."""
        empty = 0
        while len(self.keys) < self.target:
            end = min(self.next + TOP_UP, self.documents)
            indices = [self.index + self.streams * position for position in range(self.next, end)]
            documents = [(i, text) for i, text in zip(indices, self.read(indices)) if text]
            self.epoch, self.next = (self.epoch + 1, 0) if end == self.documents else (self.epoch, end)
            self.skipped += len(indices) - len(documents)
            encoded = self.tokenizer.encode_batch([text for _, text in documents], bos=True)
            for (i, _), tokens in zip(documents, encoded):
                self.add(i, *_head(tokens, self.row_tokens))
            empty = 0 if documents else empty + len(indices)
            if empty >= self.documents:
                what = f"all {self.documents} documents of stream {self.index} (of {self.streams}) are empty"
                raise UserError(f"{what}; use fewer streams")

    def take(self, at: int) -> tuple[int, int, np.ndarray]:
        """Remove the document of `keys[at]` from the buffer; returns (its index, its length, its first T+1 tokens)."""
        length, arrival = self.keys.pop(at)
        self.placed += 1
        index, tokens = self.buffer.pop(arrival)
        return index, length, tokens

    def fill(self, row: np.ndarray) -> list[int]:
        """Fill `row` (T+1,) with the stream's next row; returns the indices of its documents."""
        start, documents = 0, []
        while start < len(row):
            self.top_up()
            space = len(row) - start
            fitting = bisect_right(self.keys, (space, self.arrivals))  # how many buffered documents fit
            if fitting:
                longest = self.keys[fitting - 1][0]
                at = bisect_left(self.keys, (longest, 0))  # among equals the first to arrive
                index, length, tokens = self.take(at)
                row[start : start + length] = tokens
                start += length
            else:
                index, length, tokens = self.take(0)  # the shortest, among equals the first to arrive
                row[start:] = tokens[:space]
                start = len(row)
                self.cropped += 1
                self.cropped_tokens += length - space
            documents.append(index)
        return documents


def streams_for(documents: int, wanted: int) -> int:
    """How many streams so few documents allow: `wanted`, halved until each stream has one. Ranks play no part."""
    while wanted > max(1, documents):
        wanted //= 2
    return wanted


_COUNTERS = ("epoch", "next", "skipped", "placed", "cropped", "cropped_tokens")


class Batches:
    """Endless rows of T+1 tokens from `split` (data.Split): the rows of one rank out of `world`.

    tokenizer has encode_batch(texts, bos=True) and sha256. streams belongs to the run, not to the machine: keep it when
    the number of ranks changes. buffer_docs: documents in each stream's buffer.
    """

    def __init__(
        self, split, tokenizer, T: int, *, streams: int = 8, rank: int = 0, world: int = 1, buffer_docs: int = 1000
    ):
        if streams % world or len(split) < streams:
            what = f"streams {streams} does not suit {world} ranks and {len(split)} documents"
            raise UserError(f"{what}; it must be a multiple of the ranks, and each stream needs a document")
        self.split, self.tokenizer, self.T, self.buffer_docs = split, tokenizer, T, buffer_docs
        self.streams, self.rank, self.world = streams, rank, world
        self.rows = 0  # rows served by all ranks together; every rank has served equally many
        self.last_documents: list[list[int]] = []  # of each row served last, the indices of its documents
        self._own = {s: self._stream(s) for s in range(rank, streams, world)}

    def _stream(self, index: int) -> _Stream:
        return _Stream(self.split, self.tokenizer, self.T, index, self.streams, self.buffer_docs)

    def next_rows(self, n: int) -> np.ndarray:
        """The rank's next n rows, (n, T+1) int64. Row k of rank r is global row k * world + r."""
        rows = np.empty((n, self.T + 1), dtype=np.int64)
        self.last_documents = []
        for row in rows:
            self.last_documents.append(self._own[(self.rows + self.rank) % self.streams].fill(row))
            self.rows += self.world
        return rows

    def _identity(self) -> dict:
        """What must be equal for a state to fit: the order of the rows depends on each of these."""
        return {"version": VERSION, "documents": len(self.split), "streams": self.streams, "T": self.T,
                "buffer_docs": self.buffer_docs, "tokenizer": self.tokenizer.sha256}  # fmt: skip

    def state_dict(self) -> dict:
        """Where this rank is, as plain JSON values, under 10 kB a stream: counters, and which documents are buffered.

        `merge_states` makes one global state from the states of all ranks; that of a single rank is global already.
        """
        streams = []
        for s, stream in self._own.items():
            counters = {name: getattr(stream, name) for name in _COUNTERS}
            tokens = sum(length for length, _ in stream.keys)  # shows a resume whether the text has changed
            indices = [i for i, _ in stream.buffer.values()]
            streams.append({"stream": s, **counters, "buffer_tokens": tokens, "buffer": indices})
        return {**self._identity(), "rows": self.rows, "stream_states": streams}

    def load_state_dict(self, state: dict) -> None:
        """Continue exactly where `state` was taken, by reading and encoding its buffered documents again.

        The state may be global (from any number of ranks) or this rank's own. UserError, and nothing is changed, when
        it is of another split, T, tokenizer, number of streams or buffer_docs, or when the text has changed.
        """
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                what = f"data state: {name} is {state.get(name)!r} in it and {mine!r} here"
                raise UserError(f"{what}; use the same or start a new run")
        saved = {s["stream"]: s for s in state["stream_states"]}
        if state["rows"] % self.world or not saved.keys() >= self._own.keys():
            what = f"data state: {self.world} ranks cannot continue from {state['rows']} rows of streams {[*saved]}"
            raise UserError(f"{what}; load what merge_states makes of the states of all ranks")

        wanted: dict[int, list[int]] = {}  # block -> documents: each block is read once for all streams
        for i in sorted({i for s in self._own for i in saved[s]["buffer"]}):
            wanted.setdefault(self.split.block_of(i), []).append(i)
        heads: dict[int, tuple[int, np.ndarray]] = {}  # document -> what the buffer keeps of it
        for block, indices in wanted.items():
            first, texts = self.split.blocks[block][0], self.split.read_block(block)
            for at in range(0, len(indices), TOP_UP):
                some = indices[at : at + TOP_UP]
                encoded = self.tokenizer.encode_batch([texts[i - first] for i in some], bos=True)
                heads |= {i: _head(tokens, self.T + 1) for i, tokens in zip(some, encoded)}

        own = {}
        for s in self._own:
            own[s] = self._stream(s)
            for name in _COUNTERS:
                setattr(own[s], name, saved[s][name])
            for i in saved[s]["buffer"]:
                own[s].add(i, *heads[i])
            now, then = sum(length for length, _ in own[s].keys), saved[s]["buffer_tokens"]
            if now != then:
                what = f"data state: the buffered documents of stream {s} had {then} tokens and have {now} now"
                raise UserError(f"{what}, so the text of the corpus has changed; restore it or start a new run")
        self._own, self.rows = own, state["rows"]


def merge_states(states: list[dict]) -> dict:
    """One global state from the state_dict of every rank, in any order; any number of ranks can load it.

    UserError when the ranks are not at the same row, differ in anything else, or do not have every stream exactly once.
    """
    common = [{name: value for name, value in state.items() if name != "stream_states"} for state in states]
    streams = sorted((s for state in states for s in state["stream_states"]), key=lambda s: s["stream"])
    have = [s["stream"] for s in streams]
    if any(c != common[0] for c in common) or have != list(range(common[0]["streams"])):
        what = f"data state: the states of {len(states)} ranks with streams {have} do not fit together"
        raise UserError(f"{what}; merge those of all ranks at one moment of one run")
    return {**common[0], "stream_states": streams}


def statistics(state: dict) -> dict:
    """What has happened to the documents of the streams in a state (of one rank or merged): documents (placed in rows,
    whole or cropped), cropped (documents), cropped_tokens, cropped_share (of all tokens of the placed documents),
    skipped (empty documents), epoch (float: how often the documents have gone through the buffer)."""
    streams, S = state["stream_states"], state["streams"]
    total = {name: sum(s[name] for s in streams) for name in ("placed", "skipped", "cropped", "cropped_tokens")}
    rows = sum(len(range(s["stream"], state["rows"], S)) for s in streams)
    documents = sum(len(range(s["stream"], state["documents"], S)) for s in streams)  # of these streams, in an epoch
    return {
        "documents": total["placed"],
        "cropped": total["cropped"],
        "cropped_tokens": total["cropped_tokens"],
        "cropped_share": total["cropped_tokens"] / max(1, rows * (state["T"] + 1) + total["cropped_tokens"]),
        "skipped": total["skipped"],
        "epoch": (total["placed"] + total["skipped"]) / documents,
    }


class Prefetch:
    """The rows of the next steps, made by a thread while this step is computed. One thread, so the order stays the
    same. An error in the thread is raised by next(), after the batches made before it."""

    def __init__(self, loader: Batches, n: int, device="cpu"):
        self.loader, self.n, self.device = loader, n, torch.device(device)
        self.ready, self.closed = queue.Queue(maxsize=1), threading.Event()
        self.thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            while not self.closed.is_set():
                made = []
                for _ in range(self.n):  # one by one: close() waits for one row, not for a batch
                    if self.closed.is_set():
                        return
                    made.append(self.loader.next_rows(1))
                rows = torch.from_numpy(np.concatenate(made))
                if self.device.type == "cuda":
                    rows = rows.pin_memory()  # so that the copy runs beside the computation
                self.ready.put((rows, self.loader.state_dict()))
        except BaseException as e:  # the tokenizer's panic is no Exception
            self.ready.put(e)  # so that next() does not wait

    def next(self) -> tuple[torch.Tensor, dict]:
        """(rows (n, T+1) int64 on the device, the loader's state after exactly these rows, for a checkpoint)."""
        if self.closed.is_set():
            raise RuntimeError("this Prefetch is closed")
        item = self.ready.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        rows, state = item
        return rows.to(self.device, non_blocking=self.device.type == "cuda"), state  # MPS would read freed memory

    def close(self) -> None:
        """End the thread; batches that nobody took are dropped, and the loader cannot be used any more."""
        self.closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self.ready.get_nowait()  # a thread that waits for room continues, and then sees `closed`
        self.thread.join(10)
