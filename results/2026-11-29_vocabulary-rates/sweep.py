"""Lesson 01's experiment with the learning rate and the weight decay swept for each vocabulary.

Toy size of the lessons (lab.TOY), recipe modern. Only the vocabulary changes, and the number of steps with it, so that every
run costs as many FLOPs as 40 steps with 2,048 tokens. All rates of the recipe are multiplied by a share, as its setting
tiny_batch_lr does. Two seeds for every cell (decay 0.6 not with every share), and a third for the best cell of each
vocabulary. Each run is one line of runs.jsonl; a run that is there is not repeated.

    OMP_NUM_THREADS=1 nice -n 19 python results/2026-11-29_vocabulary-rates/sweep.py
"""

import json
import statistics
import subprocess
from pathlib import Path

import torch

from gpt2course.course import lab
from gpt2course.recipes import resolve

HERE = Path(__file__).parent
COMMIT = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
VOCABULARIES, SHARES, DECAYS = (512, 1024, 2048, 4096), (0.5, 1.0, 2.0, 4.0), (0.02, 0.2, 0.6)


def flops(V):
    return resolve("modern", **lab.TOY | {"vocab_size": V, "steps": 40}).flops


def run(V, share, decay, seed):
    path = HERE / "runs.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for r in done:
        if (r["vocab_size"], r["share"], r["decay"], r["seed"]) == (V, share, decay, seed):
            return r["val_bpb"]
    steps = round(40 * flops(2048) / flops(V))
    found = lab.train("modern", seed=seed, vocab_size=V, steps=steps, tiny_batch_lr=share, weight_decay=decay)
    line = {"vocab_size": V, "share": share, "decay": decay, "seed": seed, "val_bpb": found["val_bpb"], "val_bytes": lab.VAL_BYTES,
            "steps": steps, "tokens": found["plan"].tokens, "flops": found["plan"].flops, "device": "CPU",
            "cpu_threads": torch.get_num_threads(), "torch": torch.__version__, "commit": COMMIT,
            "command": f"python results/{HERE.name}/sweep.py"}  # fmt: skip
    with open(path, "a") as f:
        f.write(json.dumps(line) + "\n")
    return found["val_bpb"]


for V in VOCABULARIES:
    mean = {}
    for decay in DECAYS:
        for share in SHARES if decay < 0.6 else (1.0, 2.0):
            mean[share, decay] = statistics.mean(run(V, share, decay, seed) for seed in (1, 2))
    share, decay = min(mean, key=mean.get)
    third = run(V, share, decay, 3)
    print(V, share, decay, round(mean[share, decay], 4), round(third, 4), flush=True)
