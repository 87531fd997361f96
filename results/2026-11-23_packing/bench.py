"""Packing documents into rows: a sorted list of lengths against a scan over the whole buffer, side by side in one process.

Both follow the same rules and must give the same rows; only the search differs. Documents are tokenized beforehand, so
packing alone is measured; `whole` adds the tokenizing, as training pays it. Every repeat is one line of runs.jsonl.

    python results/2026-11-23_packing/bench.py
"""

import json
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from gpt2course.batches import TOP_UP, Batches
from gpt2course.data import from_list, load_corpus
from gpt2course.files import UserError, command
from gpt2course.tokenizer import train_or_load
from gpt2course.train import describe_machine, git_commit, torch

OUT = Path(__file__).parent / "runs.jsonl"
SEED, REPEATS, TOKENS, BUFFER, VOCABULARY = 1, 9, 400_000, 1000, 4096


class Ready:
    """A tokenizer that only looks up what it has tokenized before."""

    def __init__(self, tokenizer, texts):
        self.sha256, self.known = tokenizer.sha256, dict(zip(texts, tokenizer.encode_batch(texts, bos=True)))

    def encode_batch(self, texts, bos):
        return [self.known[text] for text in texts]


def scan(split, tokenizer, T, rows):
    """The plain way: look at every waiting document for the longest that fits and, only when none does, again for the shortest."""
    buffer, at = [], 0
    out = np.empty((rows, T + 1), dtype=np.int64)
    for row in out:
        start = 0
        while start < T + 1:
            while len(buffer) < BUFFER:
                texts = [split[i % len(split)] for i in range(at, at + TOP_UP)]
                buffer += tokenizer.encode_batch(texts, True)
                at += TOP_UP
            space, best, longest = T + 1 - start, -1, 0
            for k, document in enumerate(buffer):
                n = len(document)
                if longest < n <= space:
                    best, longest = k, n
            if best < 0:
                shortest = sys.maxsize
                for k, document in enumerate(buffer):
                    n = len(document)
                    if n < shortest:
                        best, shortest = k, n
            tokens = buffer.pop(best)[:space]
            row[start : start + len(tokens)] = tokens
            start += len(tokens)
    return out


def summary(lines: list[dict]) -> str:
    """The table of README.md: medians (least to most) of the tokens/s in millions, and the ratio of the medians."""
    table = ["| measured | T | scan | sorted | sorted / scan |", "|---|---|---|---|---|"]
    for what in ("packing", "whole"):
        for T in (256, 2048):
            speed = {w: sorted(x["tokens_per_second"] / 1e6 for x in lines if (x["what"], x["T"], x["way"]) == (what, T, w)) for w in ("scan", "sorted")}
            cells = [f"{statistics.median(s):.2f} ({s[0]:.2f} to {s[-1]:.2f})" for s in speed.values()]
            ratio = statistics.median(speed["sorted"]) / statistics.median(speed["scan"])
            table.append(f"| {what} | {T} | {cells[0]} | {cells[1]} | {ratio:.1f} |")
    return "\n".join(table)


def main() -> None:
    if OUT.exists():
        raise UserError(f"{OUT} is recorded already and is never edited; copy bench.py into a new folder results/<date>_<what> and run it there")
    made = {"machine": describe_machine(torch.device("cpu")), "commit": git_commit(), "command": f"python results/{OUT.parent.name}/bench.py"}
    corpus = load_corpus("embedded")
    order = list(range(len(corpus.train)))
    random.Random(SEED).shuffle(order)
    texts = [corpus.train[i] for i in order[:12_000]]
    split, tokenizer = from_list(texts), train_or_load(corpus, VOCABULARY)
    ready = Ready(tokenizer, texts)
    lines = []
    for T in (256, 2048):
        rows = TOKENS // T
        for repeat in range(REPEATS):
            for what, source in (("packing", ready), ("whole", tokenizer)):
                found = {}
                for way in ("sorted", "scan") if repeat % 2 else ("scan", "sorted"):
                    began = time.perf_counter()
                    if way == "sorted":
                        found[way] = Batches(split, source, T, streams=1, buffer_docs=BUFFER).next_rows(rows)
                    else:
                        found[way] = scan(split, source, T, rows)
                    seconds = time.perf_counter() - began
                    lines.append(dict(T=T, what=what, way=way, repeat=repeat, seconds=round(seconds, 5), tokens=rows * T, tokens_per_second=round(rows * T / seconds),
                                      seed=SEED, buffer=BUFFER, tokenizer=tokenizer.sha256, vocabulary=VOCABULARY, **made))  # fmt: skip
                assert np.array_equal(found["sorted"], found["scan"]), "the two ways gave different rows"
    OUT.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(summary(lines))


if __name__ == "__main__":
    command(main)
