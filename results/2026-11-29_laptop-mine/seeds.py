"""Nine pieces from the solutions in the recipe jan29 at the size of results/2026-11-29_ladder-seeds, whose arm `jan29` is the package.

    OMP_NUM_THREADS=1 python results/2026-11-29_laptop-mine/seeds.py     # one line of seeds.jsonl a run; goes on where it stopped
"""

import importlib.util
import json
from pathlib import Path

from gpt2course.course import mine

HERE = Path(__file__).parent
NAMES = ("packing", "attention", "rope", "norm", "schedule", "nesterov", "orthogonal", "finish", "bpb")


def main() -> None:
    spec = importlib.util.spec_from_file_location("record", HERE.parent / "2026-11-29_ladder-seeds" / "record.py")
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    pieces, out = {name: mine.stand_in(name) for name in NAMES}, HERE / "seeds.jsonl"
    done = [json.loads(line)["seed"] for line in out.read_text().splitlines()] if out.exists() else []
    for seed in (s for s in record.SEEDS if s not in done):
        with mine.installed(pieces):
            row = record.train_one("pieces", "jan29", record.MUON, seed)
        with open(out, "a") as f:
            f.write(json.dumps(row | {"pieces": NAMES, "command": f"python results/{HERE.name}/seeds.py"}) + "\n")


if __name__ == "__main__":
    main()
