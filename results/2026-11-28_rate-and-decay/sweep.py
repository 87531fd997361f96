"""AdamW and Muon at laptop size, each swept over rate and weight decay: the same grid of decays for both.

Lesson 05 compared Muon with an AdamW whose rate was swept and whose weight decay was not. Here both sides are swept. Size and
evaluation are those of results/2026-11-23_ladder-laptop (depth 4, width 128, 450 steps of 2,048 tokens, all validation text).
The decay is the recipe's setting `weight_decay`; at depth 4 the rule multiplies it by (12 / 4)^2 = 9.

Each run is one line of runs.jsonl; a run that is there is not repeated. First the grid with seed 1, then the best cell of
each recipe with seeds 2 and 3.

    OMP_NUM_THREADS=1 python results/2026-11-28_rate-and-decay/sweep.py
"""

import json
from pathlib import Path

from gpt2course.load import run_config
from gpt2course.runlog import read_metrics
from gpt2course.train import Train, train

HERE = Path(__file__).parent
SIZE = ("depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=2048", "batch_tokens=2048", "steps=450")
DECAYS = (0.0, 0.02, 0.06, 0.2)
GRID = {  # recipe -> (name of the rate, its values)
    "modern": ("matrix_adamw_lr", (7.5e-4, 1.5e-3, 3e-3, 6e-3)),
    "muon": ("matrix_lr", (0.005, 0.01, 0.02, 0.04)),
}
SEEDS = (1, 2, 3)


def one(recipe: str, rate: float, decay: float, seed: int) -> dict:
    """Train one model; returns its line."""
    setting = GRID[recipe][0]
    name = f"decay-{recipe}-{rate:g}-{decay:g}-s{seed}"
    settings = (*SIZE, f"{setting}={rate}", f"weight_decay={decay}")
    run = train(Train(recipe, set=settings, name=name, seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
    config, metrics = run_config(str(run)), read_metrics(run)
    done, final = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
    machine = config["machine"]
    return {
        "recipe": recipe, "seed": seed, "rate": rate, "decay": decay, "setting": setting,
        "applied_decay": config["plan"]["groups"]["matrices"]["weight_decay"],
        "val_bpb": final["val_bpb"], "val_bytes": final["val_bytes"], "val_sha256": config["val_sha256"],
        "tokens": done["tokens"], "flops": done["flops"], "seconds": done["seconds"],
        "device": machine["device"], "cpu_threads": machine["cpu_threads"], "torch": machine["torch"],
        "commit": config["commit"], "command": f"python results/{HERE.name}/sweep.py",
    }  # fmt: skip


def main() -> None:
    out = HERE / "runs.jsonl"
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    def once(recipe, rate, decay, seed):
        key = dict(recipe=recipe, rate=rate, decay=decay, seed=seed)
        if not any(all(row[k] == v for k, v in key.items()) for row in rows):
            row = one(**key)
            rows.append(row)
            with open(out, "a") as f:
                f.write(json.dumps(row) + "\n")
            print(key, row["val_bpb"], flush=True)

    middle = [(recipe, rate) for recipe, (_, rates) in GRID.items() for rate in rates[1:3]]
    edges = [(recipe, rate) for recipe, (_, rates) in GRID.items() for rate in (rates[0], rates[3])]
    for cells in (middle, edges):  # the cells that matter most first
        for decay in DECAYS:
            for recipe, rate in cells:
                once(recipe, rate, decay, SEEDS[0])
    for recipe in GRID:
        grid = [row for row in rows if row["recipe"] == recipe and row["seed"] == SEEDS[0]]
        best = min(grid, key=lambda row: row["val_bpb"])
        for seed in SEEDS[1:]:
            once(recipe, best["rate"], best["decay"], seed)


if __name__ == "__main__":
    main()
