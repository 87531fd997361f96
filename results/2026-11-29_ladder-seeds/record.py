"""The ladder and what jan29 loses without one thing at a time, with many seeds, at laptop size.

Size and evaluation are those of results/2026-11-28_rate-and-decay, whose best cells give the rate and the decay of the matrices:
Muon 0.02 and 0.02, AdamW 0.0015 and 0. Every arm from `muon` on inherits Muon's two numbers; the other rates of a recipe are as the
recipe has them. Runs with one seed share weights where the shapes are the same, and the data, so differences are paired by seed.

Two arms are no recipes and replace a part of the model here: `jan29 without gates` adds the value embeddings with a factor of 1,
and `wide` is `lambdas` with the parameters of jan29's value embeddings spent on wider MLPs (8 C for 4 C: both are 524,288
numbers), which costs FLOPs. `jan29 without value embeddings` would be `lambdas`.

Each run is one line of runs.jsonl; a run that is there is not repeated. Name arms to run only these:

    OMP_NUM_THREADS=1 python results/2026-11-29_ladder-seeds/record.py muon windows
"""

import contextlib
import json
import sys
from pathlib import Path

import torch
from torch import nn

from gpt2course import model
from gpt2course.load import run_config
from gpt2course.runlog import read_metrics
from gpt2course.train import Train, train

HERE = Path(__file__).parent
SIZE = ("depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=2048", "batch_tokens=2048", "steps=450")
MUON, ADAMW = ("matrix_lr=0.02", "weight_decay=0.02"), ("matrix_adamw_lr=0.0015", "weight_decay=0")
GPT2 = ("matrix_adamw_lr=0.0006", "weight_decay=0.1")
ARMS = {  # name -> (recipe, settings)
    **{name: (name, MUON) for name in ("muon", "windows", "lambdas", "jan29")},
    "record": ("record", (*MUON, "weight_decay_rule=depth", "batch_rule=fixed")),
    "wide": ("lambdas", MUON),
    "jan29 without gates": ("jan29", MUON),
    "jan29 without x0": ("jan29", (*MUON, "x0_lambda=none")),
    "jan29 without residual lambdas": ("jan29", (*MUON, "resid_lambda=none")),
    "jan29 without windows": ("jan29", (*MUON, "window_pattern=L")),
    "jan29 without QK-norm": ("jan29", (*MUON, "qk_norm=false")),
    "jan29 without softcap": ("jan29", (*MUON, "softcap=0")),
    "modern": ("modern", ADAMW),
    "jan29 without Muon": ("jan29", ("matrix_optimizer=adamw", *ADAMW)),
    "gpt2": ("gpt2", GPT2),
}
SEEDS = range(1, 9)


class Ungated(nn.Module):
    """A gate that stays at 2 * sigmoid(0) = 1."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.register_buffer("weight", torch.empty(0), persistent=False)  # init_weights fills it

    def forward(self, x):
        return x.new_zeros(*x.shape[:-1], self.heads)


class Wide(model.MLP):
    def __init__(self, config):
        super().__init__(config)
        self.c_fc = model.Linear(config.n_embd, 8 * config.n_embd)
        self.c_proj = model.Linear(8 * config.n_embd, config.n_embd)


class UngatedAttention(model.Attention):
    def __init__(self, config, layer):
        super().__init__(config, layer)
        if self.ve_gate is not None:
            self.ve_gate = Ungated(config.ve_gate_channels, config.n_kv_head)


PATCHES = {"wide": ("MLP", Wide), "jan29 without gates": ("Attention", UngatedAttention)}


@contextlib.contextmanager
def replaced(arm: str):
    """Inside this context the model has the part of an arm that is no recipe."""
    part, replacement = PATCHES.get(arm, ("MLP", model.MLP))
    original = getattr(model, part)
    setattr(model, part, replacement)
    try:
        yield
    finally:
        setattr(model, part, original)


def train_one(arm: str, recipe: str, settings: tuple, seed: int) -> dict:
    """Train one model; returns its line."""
    name = f"seeds-{arm.replace(' ', '-')}-{seed}"
    run = train(Train(recipe, set=(*SIZE, *settings), name=name, seed=seed, eval_every=10**6, log_seconds=60, device="cpu"))
    config, metrics = run_config(str(run)), read_metrics(run)
    done, final = metrics[-1], [m for m in metrics if m["kind"] == "eval"][-1]
    machine = config["machine"]
    return {
        "arm": arm, "recipe": recipe, "seed": seed, "settings": settings, "val_bpb": final["val_bpb"],
        "val_bytes": final["val_bytes"], "val_sha256": config["val_sha256"], "tokens": done["tokens"],
        "flops": done["flops"], "seconds": done["seconds"], "parameters": config["plan"]["params"]["total"],
        "device": machine["device"], "cpu_threads": machine["cpu_threads"], "torch": machine["torch"],
        "commit": config["commit"], "command": f"python results/{HERE.name}/record.py",
    }  # fmt: skip


def main(arms: list[str]) -> None:
    out = HERE / "runs.jsonl"
    for seed in SEEDS:
        for arm in arms:
            rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
            if not any(row["arm"] == arm and row["seed"] == seed for row in rows):
                with replaced(arm):
                    row = train_one(arm, *ARMS[arm], seed)
                with open(out, "a") as f:
                    f.write(json.dumps(row) + "\n")
                print(arm, seed, row["val_bpb"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(ARMS))
