"""Packing documents into rows: a sorted list of lengths against a scan over the whole buffer, side by side in one process.

Both follow the same rules and give the same rows (tests/test_batches.py holds that); only the search differs. Documents are
tokenized beforehand, so packing alone is measured; `whole` adds the tokenizing, as training pays it. Every repeat is one line
of runs.jsonl.

    python results/2026-11-23_packing/bench.py
"""

import json
import random
import sys
import time
from pathlib import Path

import numpy as np

from gpt2course.batches import TOP_UP, Batches
from gpt2course.data import from_list, load_corpus
from gpt2course.tokenizer import train_or_load
from gpt2course.train import cpu_name, git_commit

HERE = Path(__file__).parent
SEED, REPEATS, TOKENS, BUFFER, VOCABULARY = 1, 7, 400_000, 1000, 4096


class Ready:
    """A tokenizer that only looks up what it has tokenized before."""

    def __init__(self, tokenizer, texts):
        self.sha256, self.known = tokenizer.sha256, dict(zip(texts, tokenizer.encode_batch(texts, bos=True)))

    def encode_batch(self, texts, bos):
        return [self.known[text] for text in texts]


def scan(split, tokenizer, T, rows):
    """The plain way: for each document to place, look at the length of every one of the thousand that wait."""
    buffer, at = [], 0
    out = np.empty((rows, T + 1), dtype=np.int64)
    for row in out:
        start = 0
        while start < T + 1:
            while len(buffer) < BUFFER:
                texts = [split[i % len(split)] for i in range(at, at + TOP_UP)]
                buffer += tokenizer.encode_batch(texts, True)
                at += TOP_UP
            space, best, longest, short, shortest = T + 1 - start, -1, 0, 0, 10**9
            for k, document in enumerate(buffer):
                n = len(document)
                if longest < n <= space:
                    best, longest = k, n
                if n < shortest:
                    short, shortest = k, n
            tokens = buffer.pop(best if best >= 0 else short)[:space]
            row[start : start + len(tokens)] = tokens
            start += len(tokens)
    return out


def main() -> None:
    corpus = load_corpus("embedded")
    order = list(range(len(corpus.train)))
    random.Random(SEED).shuffle(order)
    texts = [corpus.train[i] for i in order[:12_000]]
    split, tokenizer = from_list(texts), train_or_load(corpus, VOCABULARY)
    ready = Ready(tokenizer, texts)
    with open(HERE / "runs.jsonl", "w") as f:
        for T in (256, 2048):
            rows = TOKENS // T
            for repeat in range(REPEATS):
                for what, source in (("packing", ready), ("whole", tokenizer)):
                    for way in ("sorted", "scan"):
                        began = time.perf_counter()
                        if way == "sorted":
                            made = Batches(split, source, T, streams=1, buffer_docs=BUFFER).next_rows(rows)
                        else:
                            made = scan(split, source, T, rows)
                        seconds = time.perf_counter() - began
                        if way == "sorted":
                            first = made
                        assert np.array_equal(first, made), "the two ways gave different rows"
                        line = dict(T=T, what=what, way=way, repeat=repeat, seconds=round(seconds, 5), tokens=rows * T, tokens_per_second=round(rows * T / seconds),
                                    seed=SEED, vocabulary=VOCABULARY, device=cpu_name(), python=sys.version.split()[0], commit=git_commit())  # fmt: skip
                        f.write(json.dumps(line) + "\n")
                        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
