"""Rows of tokens for training: documents packed by best fit, every row starting with BOS, exactly resumable. Built in lesson 02.

The packing is nanochat's (commit 348fbb3). A row has T+1 tokens (T inputs, T targets). Documents wait in a buffer of about 1000; the
largest one that fits into what is left of the row goes in, again and again; when none fits, the shortest is cropped to fill the row
exactly and its rest is dropped. No padding, and attention can look back to the start of the row's last document, at a price: at T=2048
about 35 % of the tokens of web text are cropped away. Long documents suffer most: one longer than a row keeps at most T+1 tokens.

The order does not depend on the number of ranks. Document i goes to stream i % streams; each stream packs its own rows; global row j
comes from stream j % streams; rank r of w serves the rows with j % w == r. So w ranks together see what one rank would.
"""

from bisect import bisect_left, bisect_right, insort

import numpy as np

from gpt2course.files import UserError

TOP_UP = 128  # documents tokenized at a time
STATE_VERSION = 1


class _Stream:
    """One stream's documents, buffer and counters. Documents s, s + S, s + 2S, ... of the split, again and again."""

    def __init__(self, split, tokenizer, T: int, index: int, streams: int, buffer_docs: int):
        self.split, self.tokenizer, self.row, self.index, self.streams = split, tokenizer, T + 1, index, streams
        self.documents = len(range(index, len(split), streams))  # in an epoch
        self.target = min(buffer_docs, self.documents)  # a buffer of several epochs would hold every document several times
        self.epoch = 0
        self.next = 0  # position in the stream of the next document to read
        self.arrivals = 0
        self.keys: list[tuple[int, int]] = []  # (length, arrival) of the buffered documents, sorted
        self.buffer: dict[int, tuple[int, np.ndarray]] = {}  # arrival -> (document index, its first T+1 tokens), in order of arrival
        self.skipped = 0  # empty documents met
        self.placed_documents = 0  # documents put into rows, whole or cropped
        self.cropped_documents = 0
        self.cropped_tokens = 0
        self._block: tuple[int, list[str]] = (-1, [])

    def add(self, index: int, tokens: list[int]) -> None:
        insort(self.keys, (len(tokens), self.arrivals))
        self.buffer[self.arrivals] = (index, np.array(tokens[: self.row], dtype=np.int32))  # no row holds more of it
        self.arrivals += 1

    def top_up(self) -> None:
        """Read batches of at most 128 documents, none across the end of an epoch, until the buffer has its target."""
        empty = 0
        while len(self.keys) < self.target:
            last = min(self.next + TOP_UP, self.documents)
            indices = [self.index + p * self.streams for p in range(self.next, last)]
            self.next = last
            if self.next == self.documents:
                self.next, self.epoch = 0, self.epoch + 1
            texts = read_documents(self.split, indices)
            kept = [(i, text) for i, text in zip(indices, texts) if text]
            self.skipped += len(texts) - len(kept)
            for (i, _), tokens in zip(kept, self.tokenizer.encode_batch([text for _, text in kept], bos=True)):
                self.add(i, tokens)
            empty = 0 if kept else empty + len(texts)
            if empty >= self.documents:
                raise UserError(f"all {self.documents} documents of stream {self.index} are empty; use fewer streams or other text")

    def pick(self, arrival_key: int) -> tuple[int, np.ndarray]:
        length, arrival = self.keys.pop(arrival_key)
        self.placed_documents += 1
        return length, self.buffer.pop(arrival)[1]

    def fill(self, row: np.ndarray) -> None:
        """Fill `row` (T+1,) with the stream's next row."""
        at = 0
        while at < len(row):
            self.top_up()
            space = len(row) - at
            fits = bisect_right(self.keys, (space, self.arrivals))  # keys before this one are documents that fit
            if fits:
                largest = self.keys[fits - 1][0]
                length, tokens = self.pick(bisect_left(self.keys, (largest, -1)))  # the first to arrive among equals
                row[at : at + length] = tokens
                at += length
            else:
                length, tokens = self.pick(0)  # the shortest, the first to arrive among equals
                row[at:] = tokens[:space]
                at += space
                self.cropped_documents += 1
                self.cropped_tokens += length - space


def read_documents(split, indices: list[int]) -> list[str]:
    """The documents `indices` of `split`, in that order; every block that holds some of them is read once."""
    starts = [first for first, _ in split.blocks]
    texts: dict[int, str] = {}
    block, first, docs = -1, 0, []
    for i in sorted(set(indices)):
        b = bisect_right(starts, i) - 1
        if b != block:
            block, first, docs = b, starts[b], split.read_block(b)
        texts[i] = docs[i - first]
    return [texts[i] for i in indices]


class Batches:
    """Endless rows of T+1 tokens from `split`, for one rank of `world`. Exactly resumable by state_dict and load_state_dict."""

    def __init__(self, split, tokenizer, T: int, *, streams: int = 8, rank: int = 0, world: int = 1, buffer_docs: int = 1000):
        for name, value, least in [("T", T, 1), ("streams", streams, 1), ("world", world, 1), ("buffer_docs", buffer_docs, 1)]:
            if value < least:
                raise UserError(f"{name} {value} is too small: at least {least}")
        if not 0 <= rank < world:
            raise UserError(f"rank {rank} is outside 0 to {world - 1} (world {world})")
        if streams % world:
            allowed = ", ".join(str(w) for w in range(1, streams + 1) if streams % w == 0)
            raise UserError(f"world {world} does not divide {streams} streams; the number of ranks can be {allowed}")
        if len(split) < streams:
            allowed = ", ".join(str(s) for s in range(1, len(split) + 1) if s % world == 0) or "none with this many ranks"
            raise UserError(f"{len(split)} documents cannot fill {streams} streams; streams can be: {allowed}")
        self.split, self.tokenizer, self.T, self.rank, self.world = split, tokenizer, T, rank, world
        self.n_streams, self.buffer_docs = streams, buffer_docs
        self.rows = 0  # served by every rank together, if all are at the same point
        self.streams = {s: _Stream(split, tokenizer, T, s, streams, buffer_docs) for s in range(rank, streams, world)}

    def next_rows(self, n: int) -> np.ndarray:
        """The rank's next n rows: (n, T+1) int64. Row k of rank r is global row k * world + r."""
        out = np.empty((n, self.T + 1), dtype=np.int64)
        for row in out:
            self.streams[(self.rows + self.rank) % self.n_streams].fill(row)
            self.rows += self.world
        return out

    def _identity(self) -> dict:
        return {
            "version": STATE_VERSION, "documents": len(self.split), "streams": self.n_streams, "T": self.T,
            "buffer_docs": self.buffer_docs, "tokenizer": self.tokenizer.sha256,
        }  # fmt: skip

    def state_dict(self) -> dict:
        """Everything needed to go on from here, as plain JSON values: counters and the indices of the buffered documents."""
        return {**self._identity(), "rows": self.rows, "stream_states": [
            {"stream": s, "epoch": st.epoch, "next": st.next, "skipped": st.skipped, "placed_documents": st.placed_documents,
             "cropped_documents": st.cropped_documents, "cropped_tokens": st.cropped_tokens,
             "buffer": [i for i, _ in st.buffer.values()], "buffer_tokens": sum(length for length, _ in st.keys)}
            for s, st in self.streams.items()
        ]}  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        for key, mine in self._identity().items():
            if state.get(key) != mine:
                raise UserError(f"the data state has {key} {state.get(key)!r}, but this run has {mine!r}; they must be equal to resume")
        saved = {st["stream"]: st for st in state["stream_states"]}
        self.rows = state["rows"]
        for s, stream in self.streams.items():
            st = saved[s]
            fresh = _Stream(self.split, self.tokenizer, self.T, s, self.n_streams, self.buffer_docs)
            for key in ("epoch", "next", "skipped", "placed_documents", "cropped_documents", "cropped_tokens"):
                setattr(fresh, key, st[key])
            for at in range(0, len(st["buffer"]), TOP_UP):
                indices = st["buffer"][at : at + TOP_UP]
                for i, tokens in zip(indices, self.tokenizer.encode_batch(read_documents(self.split, indices), bos=True)):
                    fresh.add(i, tokens)
            self.streams[s] = fresh


def merge_states(states: list[dict]) -> dict:
    """One global state from the state_dict of every rank."""
    merged = dict(states[0])
    merged["stream_states"] = sorted((st for state in states for st in state["stream_states"]), key=lambda st: st["stream"])
    return merged
