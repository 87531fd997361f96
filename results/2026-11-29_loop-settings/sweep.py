"""Schedule and batch at equal tokens, with the rate and the weight decay swept for every one of them.

Toy size of the lessons (lab.TOY), 65,536 tokens a run, and 262,144 for the arms whose names end in "long". Every run is
one line of runs.jsonl; a run that is there already is not repeated.

    python results/2026-11-29_loop-settings/sweep.py [ARM ...]
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

from gpt2course.course import lab

HERE = Path(__file__).parent
ARMS = {  # name -> settings; all rates are multiplied by a share, as the recipe setting tiny_batch_lr does
    "constant": dict(recipe="modern", steps=64, warmdown_ratio=0.0),
    "warm-down": dict(recipe="modern", steps=64),
    "large": dict(recipe="modern", steps=16, batch_tokens=4096),
    "muon": dict(recipe="muon", steps=64),
    "muon large": dict(recipe="muon", steps=16, batch_tokens=4096),
    "warm-down long": dict(recipe="modern", steps=256),
    "large long": dict(recipe="modern", steps=64, batch_tokens=4096),
    "muon long": dict(recipe="muon", steps=256),
    "muon large long": dict(recipe="muon", steps=64, batch_tokens=4096),
}
SHARES, DECAYS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0), (0.0, 0.02, 0.2, 0.6)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    out = HERE / "runs.jsonl"
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(r["arm"], r["share"], r["decay"], r["seed"]) for r in lines}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    for seed in (1, 2, 3):
        for arm in names or ARMS:
            for decay in DECAYS:
                for share in SHARES:
                    long = arm.endswith("long")
                    if (arm, share, decay, seed) in done or seed == 3 and not best(out, arm, share, decay) or long and decay not in (0.02, 0.2):
                        continue
                    r = lab.train(seed=seed, **ARMS[arm], tiny_batch_lr=share, weight_decay=decay)
                    line = dict(arm=arm, share=share, decay=decay, seed=seed, val_bpb=r["val_bpb"], seconds=round(r["seconds"], 2),
                                steps=r["plan"].steps, batch_tokens=r["plan"].batch_tokens, tokens=r["plan"].tokens, recipe=r["plan"].recipe.name,
                                torch=torch.__version__, device="one CPU thread", commit=commit)  # fmt: skip
                    with open(out, "a") as f:
                        f.write(json.dumps(line) + "\n")


def best(out: Path, arm: str, share: float, decay: float) -> bool:
    """Whether this is the best cell of its arm, by the mean of seeds 1 and 2: it gets a third seed."""
    cells = {}
    for r in map(json.loads, out.read_text().splitlines()):
        if r["arm"] == arm and r["seed"] < 3:
            cells.setdefault((r["share"], r["decay"]), []).append(r["val_bpb"])
    return min(cells, key=lambda c: sum(cells[c]) / len(cells[c])) == (share, decay)


if __name__ == "__main__":
    main(sys.argv[1:])
