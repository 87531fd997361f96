"""Does a run with the learner's pieces end elsewhere than the package's? Toy size, 300 steps, recipe jan29, eight seeds.

Three arms: the package; the package with one piece, `norm`, which differs from the package's by rounding alone; and with
nine pieces. Each run is a line of seeds.jsonl; a run that is there is not repeated.

    OMP_NUM_THREADS=1 python results/2026-11-29_laptop-mine/seeds.py
"""

import json
from pathlib import Path

import torch

from gpt2course.course import lab, mine
from gpt2course.runlog import git_commit

OUT = Path(__file__).parent / "seeds.jsonl"
NINE = ("packing", "attention", "rope", "norm", "schedule", "nesterov", "orthogonal", "finish", "bpb")
ARMS = {"package": (), "norm alone": ("norm",), "nine pieces": NINE}


def main() -> None:
    done = [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.exists() else []
    done = {(row["arm"], row["seed"]) for row in done}
    for seed in range(1, 9):
        for arm, names in ARMS.items():
            if (arm, seed) in done:
                continue
            with mine.installed({name: mine.load(name, mine.solution(name)) for name in names}):
                run = lab.train("jan29", seed=seed, steps=300)
            row = {"arm": arm, "seed": seed, "steps": 300, "val_bpb": run["val_bpb"], "loss": [round(x, 6) for x in run["loss"][::20]]}
            row |= {"torch": torch.__version__, "commit": git_commit()}
            with OUT.open("a") as f:
                f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
