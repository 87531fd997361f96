"""How large should the rates be when a batch holds 2,048 tokens and not 524,288?

The rule of the recipe, rates proportional to the square root of the batch, gives 1/16 of the full rate here. This
sweep trains the same small jan29 model at several shares of the full rates (recipe setting tiny_batch_lr) and at several
weight decays. Every run is one line of runs.jsonl; a run that is there already is not repeated.

    python results/2026-11-23_small-batch-rates/sweep.py
"""

import json
import sys
from pathlib import Path

from gpt2course.checkpoint import run_config
from gpt2course.train import Train, read_metrics, train

HERE = Path(__file__).parent
SIZE = ("depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=4096", "batch_tokens=2048", "steps=250")
GRID = [  # (share of the full rates, weight_decay, seeds); 0.0625 is what the square-root rule gives
    (0.0625, 0.2, (1, 2)), (0.25, 0.2, (1, 2)), (1.0, 0.2, (1, 2)), (2.0, 0.2, (1, 2)), (1.0, 0.05, (1, 2)),
]  # fmt: skip


def main() -> None:
    out = HERE / "runs.jsonl"
    done = {json.loads(line)["name"] for line in out.read_text().splitlines()} if out.exists() else set()
    for share, decay, seeds in GRID:
        for seed in seeds:
            name = f"rates-r{share:g}-w{decay:g}-s{seed}"
            if name in done:
                continue
            changes = (*SIZE, f"tiny_batch_lr={share}", f"weight_decay={decay}")
            run = train(Train("jan29", set=changes, name=name, seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
            last = [m for m in read_metrics(run) if m["kind"] in ("eval", "done")]
            config = run_config(str(run))
            line = dict(name=name, tiny_batch_lr=share, weight_decay=decay, seed=seed, val_bpb=last[-2]["val_bpb"], val_bytes=last[-2]["val_bytes"],
                        seconds=last[-1]["seconds"], tokens=last[-1]["tokens"], val_sha256=config["val_sha256"], torch=config["machine"]["torch"],
                        device=config["machine"]["device"], commit=config["commit"])  # fmt: skip
            with open(out, "a") as f:
                f.write(json.dumps(line) + "\n")
            print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
