"""From the model of 2019 to the modern one at toy size, one change at a time, with one learning rate for all weights.

Lesson 03 once compared the two at a single rate, far below the modern model's best, and said that architecture matters little.
Here every model has its rate swept, on both sides of its best value. Size, data and evaluation are lab.train's with lab.TOY:
2 layers of width 64, 50 steps of 1,024 tokens, 50 KB of validation text.

The chain: `2019` is the recipe gpt2. Each arm after it keeps all changes before it and adds one of STEPS; the last is the
recipe modern but for its rates. `without` takes one change back from the modern model. `own rates` is the recipe modern with its
three rates (matrices 0.003, head 0.004, table 0.3), all times a factor. Model is a GPT with a switch for each change;
`same_as_package` checks that with no change it computes what GPT2 does, and with all what GPT does.

The rate is the recipe's setting; at width 64 the rule multiplies it by (64 / 768)^-0.5 = 3.46. The weight decay is 0, or
for the two ends the recipe's own too. Rates double. An arm is swept outwards until the best mean over seeds 1 and 2 has two
worse ones on each side (2019 and modern) or one (the rest), then the best rate runs with seed 3. The modern model also runs at
the low rates that lesson 03 began with. Each run is one line of runs.jsonl; a run that is there is not repeated.

    OMP_NUM_THREADS=1 nice -n 15 python results/2026-11-29_toy-2019/sweep.py
"""

import json
import math
import statistics
import subprocess
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from gpt2course.attention import attention
from gpt2course.course import lab
from gpt2course.gpt2 import GPT2, GPT2Config, LayerNorm
from gpt2course.losses import cross_entropy, softcap
from gpt2course.model import GPT, GPTConfig, norm, rope, rope_tables
from gpt2course.optim import Group, MuonAdamW
from gpt2course.recipes import group_of

HERE = Path(__file__).parent
COMMIT = subprocess.run(
    ["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True
).stdout.strip()
STEPS = {
    "training": "schedule, betas, eps and clipping of the recipe modern",
    "rope": "RoPE in place of learned positions",
    "norms": "RMSNorm without weights in place of LayerNorm, and no biases",
    "qk_norm": "queries and keys normalised",
    "relu2": "ReLU squared in place of GELU",
    "untied": "a head of its own, which starts at 0.001; the table starts at 1 in place of 0.02",
    "zero": "output projections start at 0",
    "width": "the other matrices start at 1 / sqrt(C) in place of 0.02",
    "softcap": "logits squashed into (-15, 15)",
    "embed_norm": "the embedding normalised",
}
ALL = frozenset(STEPS)
FIRST = 6e-4  # where a sweep starts; all rates are this times a power of 2


class Bare(nn.Module):
    """RMSNorm without weights."""

    def forward(self, x):
        return norm(x)


class Model(nn.Module):
    """A GPT with the changes `on`: sizes as in GPT2Config."""

    def __init__(self, cfg, on: frozenset):
        super().__init__()
        self.cfg, self.on = cfg, on
        V, C, bias = cfg.vocab_size, cfg.n_embd, "norms" not in on
        make_norm = Bare if "norms" in on else lambda: LayerNorm(C)
        self.wte = nn.Embedding(V, C)
        self.wpe = None if "rope" in on else nn.Embedding(cfg.sequence_len, C)
        self.blocks = nn.ModuleList()
        for _ in range(cfg.n_layer):
            block = nn.ModuleDict({"ln_1": make_norm(), "ln_2": make_norm()})
            sizes = dict.fromkeys(("c_q", "c_k", "c_v", "c_proj"), (C, C)) | {
                "c_fc": (C, 4 * C),
                "mlp_c_proj": (4 * C, C),
            }
            block.update({name: nn.Linear(*size, bias=bias) for name, size in sizes.items()})
            self.blocks.append(block)
        self.ln_f = make_norm()
        self.lm_head = nn.Linear(C, V, bias=False) if "untied" in on else None

    @torch.no_grad()
    def init_weights(self, seed: int) -> "Model":
        g, on, C = torch.Generator().manual_seed(seed), self.on, self.cfg.n_embd
        for name, p in self.named_parameters():
            if p.ndim == 1:
                p.fill_(1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0)
            elif name.endswith("c_proj.weight"):
                p.zero_() if "zero" in on else p.normal_(0, 0.02 / (2 * self.cfg.n_layer) ** 0.5, generator=g)
            elif name.startswith("blocks") and "width" in on:
                p.uniform_(-math.sqrt(3 / C), math.sqrt(3 / C), generator=g)
            else:
                std = {"wte.weight": 1.0 if "untied" in on else 0.02, "wpe.weight": 0.01, "lm_head.weight": 0.001}
                p.normal_(0, std.get(name, 0.02), generator=g)
        return self

    def forward(self, idx, targets=None, reduction="mean"):
        (B, T), cfg, on = idx.shape, self.cfg, self.on
        D = cfg.n_embd // cfg.n_head
        x = self.wte(idx) if "rope" in on else self.wte(idx) + self.wpe.weight[:T]
        x = norm(x) if "embed_norm" in on else x
        tables = rope_tables(T, D, 10_000)
        for b in self.blocks:
            h = b["ln_1"](x)
            q, k, v = (b[f"c_{n}"](h).view(B, T, cfg.n_head, D) for n in "qkv")
            q, k = (rope(q, *tables), rope(k, *tables)) if "rope" in on else (q, k)
            q, k = (norm(q), norm(k)) if "qk_norm" in on else (q, k)
            x = x + b["c_proj"](attention(q, k, v).reshape(x.shape))
            h = b["c_fc"](b["ln_2"](x))
            x = x + b["mlp_c_proj"](F.relu(h).square() if "relu2" in on else F.gelu(h, approximate="tanh"))
        x, cap = self.ln_f(x), 15.0 if "softcap" in on else 0.0
        weight = self.wte.weight if self.lm_head is None else self.lm_head.weight
        if targets is None:
            return softcap(x @ weight.T, cap)
        loss = cross_entropy(x.flatten(0, 1), weight, targets.flatten(), cap, reduction)
        return loss.view(targets.shape) if reduction == "none" else loss


def optimizer(model, plan) -> MuonAdamW:
    """The plan's optimizer, for a model that may have parameters which the plan's own does not."""
    groups, members = plan.groups, {}
    for name, p in model.named_parameters():
        members.setdefault(group_of(name), {})[name] = p
    instead = {"wpe": groups["wte"], "lm_head": groups["wte"], "scalars": groups["matrices"] | {"weight_decay": 0.0}}
    return MuonAdamW([Group(name=g, params=m, **groups.get(g, instead.get(g))) for g, m in members.items()],
                     torch.float32, False, plan.recipe.grad_clip, (0, 1))  # fmt: skip


@torch.no_grad()
def same_as_package() -> None:
    """Stop if Model with no change is not GPT2, or with all is not GPT."""
    sizes, idx = dict(vocab_size=300, sequence_len=64, n_layer=3, n_head=3, n_embd=96), torch.randint(300, (2, 40))
    for on, package in ((frozenset(), GPT2(GPT2Config(**sizes))), (ALL, GPT(GPTConfig(**sizes, n_kv_head=3)))):
        package.init_weights(1)
        for p in package.parameters():
            p.add_(0.05 * torch.randn(p.shape))
        state = {}
        for name, p in package.state_dict().items():
            name = name.replace("mlp.c_proj", "mlp_c_proj").replace(".mlp.", ".").replace(".attn.", ".")
            parts = p.chunk(3) if "c_attn" in name else [p]
            state |= dict(zip([name.replace("c_attn", f"c_{n}") for n in "qkv"] if len(parts) == 3 else [name], parts))
        model = Model(GPT2Config(**sizes), on)
        model.load_state_dict(state)
        torch.testing.assert_close(model(idx), package(idx), rtol=1e-4, atol=1e-5)


def one(arm: str, rate: float, decay: float | None, seed: int) -> dict:
    """Train one model; returns its line. decay None: the recipe's."""
    on = arm_changes(arm)
    recipe = "modern" if "training" in on else "gpt2"
    if arm == "own rates":
        settings = dict(matrix_adamw_lr=0.003 * rate, head_lr=0.004 * rate, wte_lr=0.3 * rate)
    else:
        settings = dict(matrix_adamw_lr=rate) | (dict(head_lr=rate, wte_lr=rate) if recipe == "modern" else {})
    if decay is not None:
        settings |= dict(weight_decay=decay) | (dict(wte_weight_decay=decay) if recipe == "gpt2" else {})
    kept = lab.make_model, lab.make_optimizer
    if on and on != ALL:  # the two ends are the package's own models
        cfg = GPT2Config(lab.TOY["vocab_size"], lab.TOY["sequence_len"], lab.TOY["depth"], 2, lab.TOY["width"])
        lab.make_model, lab.make_optimizer = lambda plan, device: Model(cfg, on), optimizer
    try:
        run = lab.train(recipe, seed=seed, steps=50, **settings)
    finally:
        lab.make_model, lab.make_optimizer = kept
    return {
        "arm": arm, "recipe": recipe, "changes": [s for s in STEPS if s in on], "seed": seed, "rate": rate, "decay": decay,
        "settings": settings, "val_bpb": run["val_bpb"], "last_loss": statistics.mean(run["loss"][-5:]),
        "toy": lab.TOY | {"steps": 50}, "val_bytes": lab.VAL_BYTES, "flops_per_token": run["plan"].flops_per_token,
        "seconds": round(run["seconds"], 2), "device": "CPU", "cpu_threads": torch.get_num_threads(),
        "torch": torch.__version__, "commit": COMMIT, "command": f"python results/{HERE.name}/sweep.py",
    }  # fmt: skip


def arm_changes(arm: str) -> frozenset:
    """The changes that an arm has."""
    if arm.startswith("without "):
        return ALL - set(arm.removeprefix("without ").split(" and "))
    if arm.startswith("only "):
        return frozenset({arm.removeprefix("only ")})
    if arm.startswith("+ "):
        names = list(STEPS)
        return frozenset(names[: names.index(arm.removeprefix("+ ")) + 1])
    return frozenset() if arm == "2019" else ALL


def main() -> None:
    out = HERE / "runs.jsonl"
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(r["arm"], r["rate"], r["decay"], r["seed"]): r["val_bpb"] for r in rows}

    def bpb(arm, rate, decay, seed):
        key = (arm, rate, decay, seed)
        if key not in done:
            row = one(*key)
            with open(out, "a") as f:
                f.write(json.dumps(row) + "\n")
            done[key] = row["val_bpb"]
            print(*key, f"{row['val_bpb']:.4f}", flush=True)
        return done[key]

    def sweep(arm, start, decay, beside):
        """Sweep outwards from `start` until the best rate has `beside` worse ones on each side; returns the best."""
        found, best = {}, start
        while True:
            wanted = [float(f"{best * 2.0**k:.6g}") for k in range(-beside, beside + 1)]
            for rate in wanted:
                found[rate] = statistics.mean(bpb(arm, rate, decay, seed) for seed in (1, 2))
            if min(found, key=found.get) == best:
                bpb(arm, best, decay, 3)
                return best
            best = min(found, key=found.get)

    same_as_package()
    oldest = at = sweep("2019", FIRST, 0.0, 2)
    sweep("2019", at, None, 2)
    modern = sweep("modern", at * 8, 0.0, 2)
    sweep("modern", modern, None, 2)
    for rate in (FIRST, FIRST / 2):
        for seed in (1, 2):
            bpb("modern", rate, None, seed)
    sweep("own rates", 1.0, 0.0, 2)
    for name in list(STEPS)[:-1]:  # with the last one it is `modern`
        at = sweep(f"+ {name}", at, 0.0, 1)
    sweep("without untied and embed_norm", oldest, 0.0, 1)  # each may do the other's work
    for name in sorted(STEPS, key=lambda name: name not in ("embed_norm", "untied", "relu2")):
        sweep(f"only {name}", oldest, 0.0, 1)
    for name in STEPS:
        sweep(f"without {name}", modern, 0.0, 1)


if __name__ == "__main__":
    main()
