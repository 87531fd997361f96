"""The rate of the ladder's first rung, GPT-2 with AdamW, when a batch holds 2,048 tokens.

Its published relatives used 6e-4 at half a million tokens a batch and width 768 (arXiv 2005.14165, table 2.1). This sweep trains
the rung at the size of the laptop profile at several multiples of that (recipe setting tiny_batch_lr), since a baseline
that is not tuned proves nothing. Every run is one line of runs.jsonl; a run that is there already is not repeated.

    python results/2026-11-23_gpt2-rate/sweep.py
"""

import json
import sys
from pathlib import Path

from gpt2course.checkpoint import run_config
from gpt2course.train import Train, read_metrics, train

HERE = Path(__file__).parent
SIZE = ("depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=4096", "batch_tokens=2048", "steps=250")
GRID = (0.25, 1), (0.5, 1), (1.0, 1), (2.0, 1), (4.0, 1), (0.5, 2), (1.0, 2), (2.0, 2)  # (share, seed): once over the range, again where it is good


def main() -> None:
    out = HERE / "runs.jsonl"
    done = {json.loads(line)["name"] for line in out.read_text().splitlines()} if out.exists() else set()
    for share, seed in GRID:
        name = f"gpt2-rate-r{share:g}-s{seed}"
        if name in done:
            continue
        run = train(Train("gpt2", set=(*SIZE, f"tiny_batch_lr={share}"), name=name, seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
        last = [m for m in read_metrics(run) if m["kind"] in ("eval", "done")]
        config = run_config(str(run))
        line = dict(name=name, tiny_batch_lr=share, lr=config["plan"]["groups"]["matrices"]["lr"], seed=seed, val_bpb=last[-2]["val_bpb"], val_bytes=last[-2]["val_bytes"],
                    seconds=last[-1]["seconds"], tokens=last[-1]["tokens"], val_sha256=config["val_sha256"], torch=config["machine"]["torch"],
                    device=config["machine"]["device"], commit=config["commit"])  # fmt: skip
        with open(out, "a") as f:
            f.write(json.dumps(line) + "\n")
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
