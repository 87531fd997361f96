"""The size of the vocabulary at equal FLOPs, at the size of the recorded ladder: bits per byte, two seeds each.

Only the vocabulary changes, and the number of steps with it, so that every run costs as many FLOPs as 450 steps with 2,048 tokens. The
rate is the one the recorded ladder found best for `modern` with 2,048 tokens; it is not swept again for the others. Each run is a line
of runs.jsonl; one that is there is not repeated.

    python results/2026-11-23_vocabulary/sweep.py
"""

import json
from pathlib import Path

from gpt2course.checkpoint import run_config
from gpt2course.recipes import resolve
from gpt2course.train import Train, read_metrics, train

HERE = Path(__file__).parent
SIZE = {"depth": 4, "width": 128, "head_dim": 64, "sequence_len": 256, "batch_tokens": 2048, "matrix_adamw_lr": 1.5e-3}
VOCABULARIES = (512, 1024, 2048, 4096, 8192)
SEEDS = (1, 2)


def main() -> None:
    out = HERE / "runs.jsonl"
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    budget = resolve("modern", **SIZE, vocab_size=2048, steps=450).flops
    for seed in SEEDS:
        for V in VOCABULARIES:
            if any(r["vocab_size"] == V and r["seed"] == seed for r in rows):
                continue
            steps = round(450 * budget / resolve("modern", **SIZE, vocab_size=V, steps=450).flops)
            settings = tuple(f"{name}={value}" for name, value in (SIZE | {"vocab_size": V, "steps": steps}).items())
            run = train(Train("modern", set=settings, name=f"vocabulary-{V}-s{seed}", seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
            config, metrics = run_config(str(run)), read_metrics(run)
            done, final = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
            row = {"vocab_size": V, "seed": seed, "val_bpb": final["val_bpb"], "val_bytes": final["val_bytes"], "val_sha256": config["val_sha256"],
                   "steps": steps, "tokens": done["tokens"], "flops": done["flops"], "parameters": config["plan"]["params"]["total"], "seconds": done["seconds"],
                   "device": config["machine"]["device"], "cpu_threads": config["machine"]["cpu_threads"], "torch": config["machine"]["torch"],
                   "commit": config["commit"], "command": f"python results/{HERE.name}/sweep.py"}  # fmt: skip
            rows.append(row)
            with open(out, "a") as f:
                f.write(json.dumps(row) + "\n")
            print({k: row[k] for k in ("vocab_size", "seed", "steps", "val_bpb", "seconds")}, flush=True)


if __name__ == "__main__":
    main()
