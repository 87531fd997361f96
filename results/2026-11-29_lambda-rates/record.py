"""The learned scalars of the recipe `lambdas` at other rates and from other starts, at laptop size, with their values by step.

Size, data and evaluation are those of results/2026-11-29_ladder-seeds, which has the recipe's own arm, `lambdas` (x0 rate 0.5, residual
rate 0.005, x0 from 0.1), and `windows`, the recipe without scalars. Every arm has Muon's rate and decay from there, and every other
rate of the recipe. The residual rate is a hundredth of x0's, but for `one rate`: there the residual scalar is 1 + 100 (r - 1) with the
parameter r. Adam's step does not depend on the size of a gradient, so that scalar moves as with x0's own rate. `values` has the
parameters by step (of `one rate`, r).

Each run is one line of runs.jsonl; a run that is there is not repeated:

    OMP_NUM_THREADS=1 python results/2026-11-29_lambda-rates/record.py
"""

import json
import sys
from pathlib import Path

from gpt2course import model
from gpt2course.load import run_config
from gpt2course.optim import MuonAdamW
from gpt2course.runlog import read_metrics
from gpt2course.train import Train, train

HERE = Path(__file__).parent
SIZE = ("depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=2048", "batch_tokens=2048", "steps=450",
        "matrix_lr=0.02", "weight_decay=0.02")  # fmt: skip
ARMS = {  # name -> settings of `lambdas`
    "rates / 10": ("scalar_lr=0.05",),
    "rates 0": ("scalar_lr=0",),
    "one rate": (),
    "rates / 100": ("scalar_lr=0.005",),
    "x0 alone, rate / 10": ("scalar_lr=0.05", "resid_lambda=none"),
    "residual alone": ("x0_lambda=none",),
    "x0 from 0": ("x0_lambda=0,0",),
    "rates / 10, x0 from 0": ("scalar_lr=0.05", "x0_lambda=0,0"),
}
SEEDS, EVERY = (1, 2), 10  # values are kept after every tenth step, and after the first five


def train_one(arm: str, seed: int) -> dict:
    """Train one model; returns its line."""
    settings, mix = ARMS[arm], model.mix
    values, package = {"step": [], "resid_lambdas": [], "x0_lambdas": []}, MuonAdamW.step

    def step(self, *args, **kw):
        package(self, *args, **kw)
        if self.steps <= 5 or self.steps % EVERY == 0:
            values["step"].append(self.steps)
            for part in self.parts:
                if part.group.name in values:
                    (p,) = part.group.params.values()
                    values[part.group.name].append([round(v, 5) for v in p.tolist()])

    MuonAdamW.step = step
    if arm == "one rate":
        model.mix = lambda x, x0, resid, skip: mix(x, x0, 1 + 100 * (resid - 1), skip)
    try:
        name = "rates-" + "-".join(arm.replace("/", "").replace(",", "").split()) + f"-{seed}"
        run = train(Train("lambdas", set=(*SIZE, *settings), name=name, seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
    finally:
        MuonAdamW.step, model.mix = package, mix
    config, metrics = run_config(str(run)), read_metrics(run)
    done, final = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
    machine = config["machine"]
    return {
        "arm": arm, "recipe": "lambdas", "seed": seed, "settings": settings, "val_bpb": final["val_bpb"],
        "val_bytes": final["val_bytes"], "val_sha256": config["val_sha256"], "tokens": done["tokens"],
        "seconds": done["seconds"], "device": machine["device"], "cpu_threads": machine["cpu_threads"],
        "torch": machine["torch"], "commit": config["commit"], "command": f"python results/{HERE.name}/record.py",
        "values": values,
    }  # fmt: skip


def main(arms: list[str]) -> None:
    out = HERE / "runs.jsonl"
    for seed in SEEDS:
        for arm in arms:
            rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
            if not any(row["arm"] == arm and row["seed"] == seed for row in rows):
                row = train_one(arm, seed)
                with open(out, "a") as f:
                    f.write(json.dumps(row) + "\n")
                print(arm, seed, row["val_bpb"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(ARMS))
