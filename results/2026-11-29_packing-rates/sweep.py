"""Lesson 02's experiment with the learning rate swept for each way of filling rows.

Three ways: one stream cut every T + 1 tokens, one document a row with padding, best fit with 1,000 waiting. Same toy model (the
recipe modern at lab.TOY's size, T = 512), same 4,000 documents a seed, same 50 steps of 1,024 places; the first 500 rows are left
out. `rate` is a factor for all learning rates of the recipe. It doubles until the best mean over seeds 1 and 2 has a worse one on
each side; then the best runs with seed 3. The weight decay is the recipe's and was not swept. Each run is one line of
runs.jsonl; a run that is there is not repeated.

    OMP_NUM_THREADS=1 nice -n 15 python results/2026-11-29_packing-rates/sweep.py
"""

import functools
import json
import random
import statistics
import subprocess
from itertools import islice
from pathlib import Path

import torch

from gpt2course.course import lab
from gpt2course.course.figures.data import train_rows
from gpt2course.data import load_corpus
from gpt2course.recipes import resolve

HERE, T = Path(__file__).parent, 512
COMMIT = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
PLAN = resolve("modern", **(lab.TOY | dict(sequence_len=T, steps=50)))
WANTED = PLAN.steps * PLAN.batch_tokens // T


def stream(documents):
    row = []
    for document in documents:
        for token in document:
            row.append(token)
            if len(row) == T + 1:
                yield row
                row = []


def padded(documents):
    for document in documents:
        yield document[: T + 1] + [-1] * (T + 1 - len(document))


def best_fit(documents):
    waiting, left = [], iter(documents)
    while True:
        row = []
        while len(row) < T + 1:
            if len(waiting) < 1000:  # as the package: 128 at a time, over and over
                more = list(islice(left, 128))
                if not more:
                    left = iter(documents)
                    continue
                waiting += more
                continue
            space = T + 1 - len(row)
            fitting = [i for i, d in enumerate(waiting) if len(d) <= space]
            i = max(fitting, key=lambda i: len(waiting[i])) if fitting else min(range(len(waiting)), key=lambda i: len(waiting[i]))
            row += waiting.pop(i)[:space]
        yield row


WAYS = {"stream": stream, "one document a row": padded, "best fit": best_fit}


@functools.cache
def rows(way, seed):
    corpus = load_corpus("embedded")
    chosen = random.Random(seed).sample(range(len(corpus.train)), 4000)
    documents = lab.tokenizer().encode_batch([corpus.train[i] for i in chosen], bos=True)
    return list(islice(WAYS[way](documents), 500, 500 + WANTED))


def run(way, rate, seed):
    path = HERE / "runs.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for r in done:
        if (r["way"], r["rate"], r["seed"]) == (way, rate, seed):
            return r["val_bpb"]
    found = train_rows(rows(way, seed), PLAN, seed, rate)
    line = {"way": way, "rate": rate, "seed": seed, "val_bpb": found["val_bpb"], "val_bytes": lab.VAL_BYTES, "T": T, "steps": PLAN.steps,
            "device": "CPU", "cpu_threads": torch.get_num_threads(), "torch": torch.__version__, "commit": COMMIT,
            "command": "python results/2026-11-29_packing-rates/sweep.py"}  # fmt: skip
    with open(path, "a") as f:
        f.write(json.dumps(line) + "\n")
    print(way, rate, seed, round(found["val_bpb"], 4), flush=True)
    return found["val_bpb"]


for way in WAYS:
    mean = {}
    for rate in (1.0, 2.0, 4.0, 8.0):
        mean[rate] = statistics.mean(run(way, rate, seed) for seed in (1, 2))
    while (best := min(mean, key=mean.get)) in (min(mean), max(mean)):
        rate = best / 2 if best == min(mean) else best * 2
        mean[rate] = statistics.mean(run(way, rate, seed) for seed in (1, 2))
    run(way, best, 3)
