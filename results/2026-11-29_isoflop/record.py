"""An IsoFLOP grid at laptop size that is wide enough to learn from: five budgets, and a sixth kept back for scoring.

Recipe `muon` at vocabulary 512, T 64, batches of 1,024 tokens of the embedded corpus, as in results/2026-11-23_isoflop-laptop. New:
depth is 2 everywhere, so that size is width alone; both arms of every curve are there; budgets span a factor of 16, and the sixth is
four times the largest of them (64 times the smallest); the decay of the matrices is the one that the sweep of
results/2026-11-28_rate-and-decay found best (0.02 by the recipe's rule at depth 4, so 0.18), the same for all sizes; their rate is swept
at two sizes; and one size is trained with four depths. Every run is scored on the first 200 kB of validation text.

    grid       5 budgets x 6 widths x 2 seeds
    held back  1 budget x 6 widths x 2 seeds, for the game of lesson 09
    rate       budget 1.2e11, widths 24 and 64, the matrices' rate 0.01, 0.04 and 0.08 (the grid has 0.02), 2 seeds
    depth      budget 1.2e11, depths 1, 4 and 10 at about the N of depth 2 and width 32, 2 seeds

Each run is one line of runs.jsonl; a run that is there is not repeated:

    OMP_NUM_THREADS=1 python results/2026-11-29_isoflop/record.py
"""

import json
from pathlib import Path

from gpt2course.load import run_config
from gpt2course.recipes import resolve, settings_from_text
from gpt2course.runlog import read_metrics
from gpt2course.train import Train, train

HERE = Path(__file__).parent
SIZE = ("head_dim=8", "sequence_len=64", "vocab_size=512", "batch_tokens=1024", "weight_decay_rule=fixed", "weight_decay=0.18")
GRID = {  # budget in FLOPs -> widths
    3e10: (8, 16, 24, 32, 48, 64),
    6e10: (8, 16, 24, 32, 48, 64),
    1.2e11: (16, 24, 32, 48, 64, 96),
    2.4e11: (16, 24, 32, 48, 64, 96),
    4.8e11: (24, 32, 48, 64, 96, 128),
}
HELD_BACK = {1.92e12: (48, 64, 80, 96, 128, 160)}
DEPTHS = {1: 40, 4: 24, 10: 16}  # depth -> width
RATES = (0.01, 0.04, 0.08)


def cells(role: str, seed: int, budgets=GRID) -> list[tuple]:
    """(role, seed, budget, depth, width, rate) of one part of the list."""
    if role == "rate":
        return [(role, seed, 1.2e11, 2, width, rate) for width in (24, 64) for rate in RATES]
    if role == "depth":
        return [(role, seed, 1.2e11, depth, width, 0.02) for depth, width in DEPTHS.items()]
    return [(role, seed, budget, 2, width, 0.02) for budget in budgets for width in budgets[budget]]


SMALL, LARGEST = {b: w for b, w in GRID.items() if b < 4e11}, {b: w for b, w in GRID.items() if b > 4e11}
RUNS = [  # the lesson can be built from what is there at any time: one seed of everything first, a budget's large models first
    *cells("grid", 1, SMALL), *cells("grid", 1, LARGEST)[:0:-1], *cells("depth", 1), *cells("rate", 1),
    *cells("held back", 1, HELD_BACK)[::-1], *cells("grid", 1, LARGEST)[:1], *cells("grid", 2, SMALL), *cells("grid", 2, LARGEST)[::-1],
    *cells("held back", 2, HELD_BACK)[::-1], *cells("depth", 2), *cells("rate", 2),
]  # fmt: skip


def one(role: str, seed: int, budget: float, depth: int, width: int, rate: float) -> dict:
    """Train one model; returns its line."""
    settings = (*SIZE, f"depth={depth}", f"width={width}", f"matrix_lr={rate}")
    step = resolve("muon", **settings_from_text((*settings, "steps=1"))).flops
    settings = (*settings, f"steps={round(budget / step)}")
    name = f"isoflop-{budget:g}-d{depth}-w{width}-r{rate:g}-s{seed}".replace("+", "")
    run = train(Train("muon", set=settings, name=name, seed=seed, eval_every=10**6, final_eval_bytes=200_000,
                      save_minutes=3, keep=1, log_seconds=60, device="cpu"))  # fmt: skip
    config, metrics = run_config(str(run)), read_metrics(run)
    done, final = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
    plan, machine = config["plan"], config["machine"]
    return {
        "role": role, "recipe": "muon", "set": settings, "seed": seed, "budget": budget, "depth": depth, "width": width,
        "rate": rate, "n": plan["params"]["scaling"], "params": plan["params"], "tokens": done["tokens"], "flops": done["flops"],
        "steps": done["step"], "epochs": done["epochs"], "val_bpb": final["val_bpb"], "val_bytes": final["val_bytes"],
        "val_sha256": config["val_sha256"], "seconds": done["seconds"], "device": machine["device"],
        "cpu_threads": machine["cpu_threads"], "torch": machine["torch"], "commit": config["commit"],
        "command": f"python results/{HERE.name}/record.py",
    }  # fmt: skip


def main() -> None:
    out = HERE / "runs.jsonl"
    for number, cell in enumerate(RUNS, 1):
        key = dict(zip(("role", "seed", "budget", "depth", "width", "rate"), cell))
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        if not any(all(row[k] == v for k, v in key.items()) for row in rows):
            row = one(*cell)
            with open(out, "a") as f:
                f.write(json.dumps(row) + "\n")
            print(f"[{number}/{len(RUNS)}]", *cell, row["n"], f"{row['val_bpb']:.4f}", f"{row['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
