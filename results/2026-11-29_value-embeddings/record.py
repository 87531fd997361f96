"""Value embeddings and wider MLPs at equal FLOPs, and two rates: runs beside those of results/2026-11-29_ladder-seeds.

That recording has `lambdas`, `jan29` (with value embeddings) and `wide` (as many parameters, spent on the MLPs) at 450 steps. There
`wide` takes 43 % more FLOPs. Here each of the three also runs with the other's FLOPs, its schedule made for that length: `wide` in 314
steps, `lambdas` and `jan29` in 645. And with 450 steps: `wide` at two other Muon rates, and `jan29` at two other rates of its
tables. Sizes, arms and data are the other script's; runs with one seed are paired with its runs.

Each run is one line of runs.jsonl; a run that is there is not repeated.

    OMP_NUM_THREADS=1 python results/2026-11-29_value-embeddings/record.py
"""

import importlib.util
import json
from pathlib import Path

HERE = Path(__file__).parent
SPEC = importlib.util.spec_from_file_location("ladder", HERE.parent / "2026-11-29_ladder-seeds" / "record.py")
ladder = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ladder)
SIZE = tuple(s for s in ladder.SIZE if not s.startswith("steps="))
DECAY = "weight_decay=0.02"
RUNS = [  # arm, seed, steps, settings
    *((arm, seed, steps, ladder.MUON) for seed in (1, 2) for arm, steps in (("wide", 314), ("jan29", 645))),
    *(("lambdas", seed, 645, ladder.MUON) for seed in (1, 2)),
    *(("wide", 1, 450, (f"matrix_lr={rate}", DECAY)) for rate in (0.014, 0.028)),
    *(("jan29", 1, 450, (*ladder.MUON, f"ve_lr={rate}")) for rate in (0.15, 0.6)),
    *((arm, 3, steps, ladder.MUON) for arm, steps in (("wide", 314), ("jan29", 645), ("lambdas", 645))),
]


def one(arm: str, seed: int, steps: int, settings: tuple) -> dict:
    recipe, name = ladder.ARMS[arm][0], "-".join(s.split("=")[1] for s in settings)
    ladder.SIZE = (*SIZE, f"steps={steps}")
    with ladder.replaced(arm):  # the folder of a run begins with `seeds-`
        row = ladder.train_one(f"{arm}-{steps}-{name}", recipe, settings, seed)
    return row | {"arm": arm, "steps": steps, "command": f"python results/{HERE.name}/record.py"}


def main() -> None:
    out = HERE / "runs.jsonl"
    for run in RUNS:
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        if not any((r["arm"], r["seed"], r["steps"], tuple(r["settings"])) == run for r in rows):
            row = one(*run)
            with open(out, "a") as f:
                f.write(json.dumps(row) + "\n")
            print(*run[:3], row["val_bpb"], flush=True)


if __name__ == "__main__":
    main()
