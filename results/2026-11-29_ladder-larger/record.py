"""The ladder at a larger size: does an effect of results/2026-11-29_ladder-seeds grow or shrink?

Depth 4 as there; width 192 for 128, vocabulary 4,096 for 2,048, 1,465 steps for 450 (3.0 million tokens for 0.9), and another text: six
shards of a public English corpus in parquet, named by GPT2COURSE_DEV_DATA, the last of them validation (its sha256 is in each line; the
first 500 kB are scored). T 256 with windows of 128 (the recipes' half of T), batches of 2,048 tokens, and the matrices' rates and decays
are those of the other script; nothing was swept at this size. `windows 64` has windows of 64. `muon` and `windows` also run at T 1,024
(windows of 512). Runs of one seed are paired.

Each run is one line of runs.jsonl; a run that is there is not repeated. Name arms to run only these:

    GPT2COURSE_DEV_DATA=... OMP_NUM_THREADS=1 python results/2026-11-29_ladder-larger/record.py muon windows
"""

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
SPEC = importlib.util.spec_from_file_location("ladder", HERE.parent / "2026-11-29_ladder-seeds" / "record.py")
ladder = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ladder)
ladder.ARMS["windows 64"] = ("windows", (*ladder.MUON, "short_window_divisor=4"))
SIZE = ("depth=4", "width=192", "head_dim=64", "vocab_size=4096", "batch_tokens=2048", "steps=1465")
ARMS = ("muon", "windows", "jan29", "lambdas", "wide", "modern", "record", "windows 64")
RUNS = [  # arm, seed, T
    *((arm, seed, 256) for seed in (1, 2) for arm in ARMS),
    *((arm, 1, 1024) for arm in ("muon", "windows")),
]


def one(arm: str, seed: int, T: int) -> dict:
    """Train one model; returns its line."""
    ladder.SIZE = (*SIZE, f"sequence_len={T}")
    corpus = f"{os.environ['GPT2COURSE_DEV_DATA']}/corpus"
    ladder.Train = functools.partial(ladder.Train, corpus=corpus, final_eval_bytes=500_000, save_minutes=3)
    with ladder.replaced(arm):  # the folder of a run begins with `seeds-`
        row = ladder.train_one(f"{arm}-larger-{T}", *ladder.ARMS[arm], seed)
    return row | {"arm": arm, "T": T, "command": f"python results/{HERE.name}/record.py"}


def main(arms: list[str]) -> None:
    out = HERE / "runs.jsonl"
    for run in RUNS:
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        if run[0] in arms and not any((r["arm"], r["seed"], r["T"]) == run for r in rows):
            row = one(*run)
            with open(out, "a") as f:
                f.write(json.dumps(row) + "\n")
            print(*run, row["val_bpb"], row["seconds"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(ARMS))
