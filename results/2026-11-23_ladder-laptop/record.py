"""The ladder at a size that a laptop can run: what each rung buys, each with its own best rate, over three seeds.

Every rung's rate is swept with seed 1 (role "sweep"); then the best one runs with seeds 1, 2 and 3 (role "ladder": of the sweep's runs
the best counts again). The rate is that of the matrices, the rest of each recipe is as it is. Each run is a line of runs.jsonl;
one that is there is not repeated.

    python results/2026-11-23_ladder-laptop/record.py gpt2 modern muon
"""

import json
import sys
from pathlib import Path

from gpt2course.checkpoint import run_config
from gpt2course.train import Train, read_metrics, train

HERE = Path(__file__).parent
SIZE = ("depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=2048", "batch_tokens=2048", "steps=450")
SWEEP = {  # recipe -> (setting, its values)
    "gpt2": ("matrix_adamw_lr", (1.5e-4, 3e-4, 6e-4, 1.2e-3, 2.4e-3)),
    "modern": ("matrix_adamw_lr", (7.5e-4, 1.5e-3, 3e-3, 6e-3)),
    "muon": ("matrix_lr", (0.005, 0.01, 0.02, 0.04)),
}
SEEDS = (1, 2, 3)


def one(recipe: str, setting: str, rate: float, seed: int) -> dict:
    """Train one model, and what to say of it."""
    name = f"ladder-{recipe}-{rate:g}-s{seed}"
    settings = (*SIZE, f"{setting}={rate}")
    run = train(Train(recipe, set=settings, name=name, seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
    config, metrics = run_config(str(run)), read_metrics(run)
    done, final = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
    speed = sorted(m["tok_per_sec"] for m in metrics if m["kind"] == "train")
    return {"recipe": recipe, "seed": seed, "rate": rate, "setting": setting, "applied": config["plan"]["groups"]["matrices"]["lr"], "val_bpb": final["val_bpb"],
            "val_bytes": final["val_bytes"], "val_sha256": config["val_sha256"], "loss": [round(m["loss"], 4) for m in metrics if m["kind"] == "train"][::10],
            "tokens": done["tokens"], "flops": done["flops"], "seconds": done["seconds"], "tok_per_sec": speed[len(speed) // 2], "parameters": config["plan"]["params"]["total"],
            "device": config["machine"]["device"], "cpu_threads": config["machine"]["cpu_threads"], "torch": config["machine"]["torch"], "commit": config["commit"],
            "command": f"python results/{HERE.name}/record.py {recipe}"}  # fmt: skip


def main(recipes: list[str]) -> None:
    out = HERE / "runs.jsonl"
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    def have(**key):
        return next((r for r in rows if all(r[k] == v for k, v in key.items())), None)

    def add(row):
        rows.append(row)
        with open(out, "a") as f:
            f.write(json.dumps(row) + "\n")
        print({k: row[k] for k in ("recipe", "seed", "role", "rate", "val_bpb", "seconds")}, flush=True)

    for recipe in recipes:
        setting, rates = SWEEP[recipe]
        for rate in rates:
            if not have(recipe=recipe, rate=rate, role="sweep"):
                add(one(recipe, setting, rate, SEEDS[0]) | {"role": "sweep"})
        best = min((r for r in rows if r["recipe"] == recipe and r["role"] == "sweep"), key=lambda r: r["val_bpb"])
        for seed in SEEDS:
            if not have(recipe=recipe, seed=seed, role="ladder"):
                add((best if seed == SEEDS[0] else one(recipe, setting, best["rate"], seed)) | {"role": "ladder"})


if __name__ == "__main__":
    main(sys.argv[1:] or list(SWEEP))
