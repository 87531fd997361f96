"""Optimizers at laptop size, each swept over rate and weight decay: the same care for both sides of every comparison.

Lesson 05 compared Muon with an AdamW whose rate was swept and whose weight decay was not. Here every arm has both swept. Size
and evaluation are those of results/2026-11-23_ladder-laptop (depth 4, width 128, 450 steps of 2,048 tokens, all validation
text). The decay is the recipe's setting `weight_decay`; at depth 4 the rule multiplies it by (12 / 4)^2 = 9, but for gpt2,
whose rule is fixed.

The arms from AdamW to Muon, one step at a time: `modern` (AdamW), `orthogonal` (Muon's momentum and its orthogonal update,
ordinary decay), `normuon` (and rows of even size), `muon` (and cautious decay). The two in the middle are no recipes: they
replace one function of the optimizer here. Without decay `normuon` is `muon`, whose runs are taken.

Each run is one line of runs.jsonl; a run that is there is not repeated. First the grid with seed 1, then the best cell of
each arm with seeds 2 and 3. Name arms to run only these:

    OMP_NUM_THREADS=1 python results/2026-11-28_rate-and-decay/sweep.py modern muon
"""

import json
import sys
from pathlib import Path

from gpt2course import optim
from gpt2course.load import run_config
from gpt2course.runlog import read_metrics
from gpt2course.train import Train, train

HERE = Path(__file__).parent
SIZE = ("depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=2048", "batch_tokens=2048", "steps=450")
GRID = {  # arm -> (recipe, name of the rate, its values, decays); cells that matter most come first
    "modern": ("modern", "matrix_adamw_lr", (1.5e-3, 3e-3, 7.5e-4, 6e-3), (0.0, 0.02, 0.06, 0.2)),
    "muon": ("muon", "matrix_lr", (0.02, 0.01, 0.04, 0.005), (0.0, 0.02, 0.06, 0.2)),
    "orthogonal": ("muon", "matrix_lr", (0.02, 0.01, 0.04), (0.0, 0.02, 0.06)),
    "normuon": ("muon", "matrix_lr", (0.02, 0.01, 0.04), (0.02, 0.06)),
    "gpt2": ("gpt2", "matrix_adamw_lr", (6e-4, 3e-4, 1.2e-3), (0.0, 0.1, 0.3)),
}
SEEDS = (1, 2, 3)


def ordinary(p, grad, momentum_buffer, second, lr, momentum, beta2, weight_decay, ns_steps, safety, row_norm, renorm, ns_dtype):
    """optim.muon_update with decay on every entry, as AdamW has it."""
    momentum_buffer.lerp_(grad, 1 - momentum)
    U = optim.polar_express(grad.lerp(momentum_buffer, momentum).to(ns_dtype), ns_steps, safety)
    U = optim.variance_reduction(U, second, beta2).to(p.dtype)
    p.mul_(1 - lr * weight_decay).sub_(lr * U)


def one(arm: str, rate: float, decay: float, seed: int) -> dict:
    """Train one model; returns its line."""
    recipe, setting, _, _ = GRID[arm]
    if arm in ("orthogonal", "normuon"):
        optim.muon_update = ordinary
    if arm == "orthogonal":
        optim.variance_reduction = lambda U, second, beta2: U
    name = f"decay-{arm}-{rate:g}-{decay:g}-s{seed}"
    settings = (*SIZE, f"{setting}={rate}", f"weight_decay={decay}")
    run = train(Train(recipe, set=settings, name=name, seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
    config, metrics = run_config(str(run)), read_metrics(run)
    done, final = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
    machine = config["machine"]
    return {
        "arm": arm, "recipe": recipe, "seed": seed, "rate": rate, "decay": decay, "setting": setting,
        "applied_decay": config["plan"]["groups"]["matrices"]["weight_decay"],
        "val_bpb": final["val_bpb"], "val_bytes": final["val_bytes"], "val_sha256": config["val_sha256"],
        "tokens": done["tokens"], "flops": done["flops"], "seconds": done["seconds"],
        "device": machine["device"], "cpu_threads": machine["cpu_threads"], "torch": machine["torch"],
        "commit": config["commit"], "command": f"python results/{HERE.name}/sweep.py {arm}",
    }  # fmt: skip


def main(arms: list[str]) -> None:
    out = HERE / "runs.jsonl"
    if len(arms) > 1:  # an arm that replaces a function needs a process of its own; this one does them in turn
        import subprocess

        for arm in arms:
            subprocess.run([sys.executable, __file__, arm], check=True)
        return
    (arm,) = arms

    def rows():
        return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    def once(rate, decay, seed):
        key = dict(arm=arm, rate=rate, decay=decay, seed=seed)
        if not any(all(row[k] == v for k, v in key.items()) for row in rows()):
            row = one(**key)
            with open(out, "a") as f:
                f.write(json.dumps(row) + "\n")
            print(key, row["val_bpb"], flush=True)

    _, _, rates, decays = GRID[arm]
    for rate in rates:
        for decay in decays:
            once(rate, decay, SEEDS[0])
    grid = [row for row in rows() if row["arm"] == arm and row["seed"] == SEEDS[0]]
    best = min(grid, key=lambda row: row["val_bpb"])
    for seed in SEEDS[1:]:
        once(best["rate"], best["decay"], seed)


if __name__ == "__main__":
    main(sys.argv[1:] or list(GRID))
