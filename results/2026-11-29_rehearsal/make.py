"""Rehearse at many sizes, one line of points.jsonl for each; and the pages of depth 24. Hours on a busy machine.

    python results/2026-11-29_rehearsal/make.py      # continues where it stopped; a change of the package needs a new folder
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tools"), str(HERE.parents[1])]
import rehearse as R  # noqa: E402

from gpt2course.recipes import resolve  # noqa: E402

RECIPES, BITS = ("jan29", "record"), (False, True)
# (recipe, depth, world, device batch, fp8, compiled): each depth eager and compiled, and at depths 4 and 24 more batches
POINTS = [(r, d, 8, B, f, False) for d in (4, 24) for r in RECIPES for B in (8, 16, 32) for f in BITS]
POINTS += [(r, d, w, 16, f, False) for d in (4, 8, 12, 16, 20, 24, 28) for r in RECIPES for w in (8, 1) for f in BITS]
POINTS += [(r, d, 8, 8 if (r, d) == ("record", 6) else 16, f, False) for d in (6,) for r in RECIPES for f in BITS]
POINTS += [(r, d, 8, 16, f, True) for d in (4, 8, 12, 16, 20, 24, 28) for r in RECIPES for f in BITS]
POINTS += [(r, 24, 8, 32, f, True) for r in RECIPES for f in BITS]


def main() -> None:
    R.fake_cuda()
    file = HERE / "points.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    seen = {(p["recipe"], p["depth"], p["world"], p["B"], p["fp8"], p["compiled"]) for p in done}
    for recipe, depth, world, B, fp8, compiled in POINTS:
        plan = resolve(recipe, depth=depth)
        rows = plan.batch_tokens // plan.model.sequence_len // world
        if rows % B or (recipe, depth, world, B, fp8, compiled) in seen:
            continue
        seen.add((recipe, depth, world, B, fp8, compiled))
        args = R.Rehearse(recipe, depth, world, B, fp8, "fa3", compiled)
        with file.open("a") as out:
            out.write(json.dumps(point(args, R.rehearse(args, 0), rows // B)) + "\n")


def point(args, found: dict, pieces: int) -> dict:
    """The line of one rehearsal."""
    sizes = {name: value for name, value in asdict(args).items() if name in ("recipe", "depth", "world", "fp8", "kernel")}
    made = {"torch": R.torch.__version__, "commit": R.git_commit()}
    return sizes | {
        "B": args.device_batch, "pieces": pieces, "compiled": args.compile,
        "peak_bytes": found["peak"]["bytes"], "phase": found["peak"]["phase"],
        "phases": {p: sum(by.values()) for p, by in found["phases"].items()},
        "communication": found["communication"], "graphs": found["graphs"], "made": made,
    }  # fmt: skip


if __name__ == "__main__":
    main()
