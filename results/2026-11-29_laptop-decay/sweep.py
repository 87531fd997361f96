"""The weight decay of the laptop run: recipe jan29 with profile laptop, by decay and number of steps.

The recipe's rule, 0.2 (12 / depth)^2, was tuned at depth 12 and more; at depth 4 it gives 1.8. Each run is one line of
runs.jsonl; a run that is there is not repeated. First one seed for every cell, then two more for the best decay and for the
recipe's own.

    OMP_NUM_THREADS=1 python results/2026-11-29_laptop-decay/sweep.py
"""

import json
import sys
from pathlib import Path

from gpt2course.load import run_config
from gpt2course.runlog import read_metrics
from gpt2course.train import Train, train

HERE = Path(__file__).parent
CELLS = [(decay, 1300) for decay in (0.02, 0.2, 0.06, 0.0)] + [(decay, 2000) for decay in (0.02, 0.06)]


def one(decay: float, steps: int, seed: int) -> dict:
    """Train one model; returns its line."""
    name = f"laptop-decay-{decay:g}-{steps}-s{seed}"
    settings = (f"weight_decay={decay}", f"steps={steps}")
    run = train(Train("jan29", profile="laptop", set=settings, name=name, seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
    config, metrics = run_config(str(run)), read_metrics(run)
    done, final = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
    machine = config["machine"]
    return {
        "recipe": "jan29", "profile": "laptop", "seed": seed, "decay": decay, "steps": steps,
        "applied_decay": config["plan"]["groups"]["matrices"]["weight_decay"],
        "val_bpb": final["val_bpb"], "val_bytes": final["val_bytes"], "val_sha256": config["val_sha256"],
        "tokens": done["tokens"], "flops": done["flops"], "seconds": done["seconds"],
        "device": machine["device"], "cpu_threads": machine["cpu_threads"], "torch": machine["torch"],
        "commit": config["commit"], "command": f"python results/{HERE.name}/sweep.py",
    }  # fmt: skip


def main() -> None:
    out = HERE / "runs.jsonl"

    def rows():
        return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    def once(decay, steps, seed):
        key = dict(decay=decay, steps=steps, seed=seed)
        if not any(all(row[k] == v for k, v in key.items()) for row in rows()):
            row = one(**key)
            with open(out, "a") as f:
                f.write(json.dumps(row) + "\n")
            print(key, row["val_bpb"], flush=True)

    for cell in CELLS[: int(sys.argv[1])] if sys.argv[1:] else CELLS:
        once(*cell, 1)
    grid = [row for row in rows() if row["steps"] == 1300 and row["seed"] == 1]
    best = min(grid, key=lambda row: row["val_bpb"])["decay"]
    for seed in (2, 3):
        for decay in (best, 0.2):
            once(decay, 1300, seed)


if __name__ == "__main__":
    main()
