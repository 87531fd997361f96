"""Rehearse at many sizes, one line of points.jsonl for each, and the page of each compiled run of depth 24.

    python results/2026-11-29_rehearsal/make.py          # all of them: hours on a busy machine
    python results/2026-11-29_rehearsal/make.py 4 8      # these depths

It continues where it stopped. A change of the package that moves memory needs a new folder.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tools"), str(HERE.parents[1])]
import rehearse as R  # noqa: E402

from gpt2course.recipes import resolve  # noqa: E402

RECIPES, BITS, DEPTHS = ("jan29", "record"), (False, True), (4, 6, 8, 12, 16, 20, 24, 28)
# (recipe, depth, world, device batch, fp8, compiled): each depth compiled and eager, with more batches at depths 4 and 24
POINTS = [(r, d, 8, B, f, True) for d in DEPTHS for r in RECIPES for B in (16, 32, 8) for f in BITS if d == 4 or B == 16 or (d, B) == (24, 32)]
POINTS += [(r, d, w, 16, f, False) for d in DEPTHS for r in RECIPES for w in (8, 1) for f in BITS]
POINTS += [(r, d, 8, B, f, False) for d in (4, 24) for r in RECIPES for B in (8, 32) for f in BITS]


def main(depths: list[int]) -> None:
    R.fake_cuda()
    file = HERE / "points.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    seen = {(p["recipe"], p["depth"], p["world"], p["B"], p["fp8"], p["compiled"]) for p in done}
    for recipe, depth, world, B, fp8, compiled in POINTS:
        plan = resolve(recipe, depth=depth)
        rows = plan.batch_tokens // plan.model.sequence_len // world
        B = min(B, rows)
        if depth not in depths or rows % B or (recipe, depth, world, B, fp8, compiled) in seen:
            continue
        seen.add((recipe, depth, world, B, fp8, compiled))
        args = R.Rehearse(recipe, depth, world, B, fp8, "fa3", compiled)
        found = R.rehearse(args, 0)
        with file.open("a") as out:
            out.write(json.dumps(point(args, found, rows // B)) + "\n")
        if compiled and depth == 24:
            with (HERE / "pages_d24.txt").open("a") as out:
                out.write("\n".join(R.page(args, found)) + "\n\n")
        print(recipe, depth, world, B, fp8, compiled, R.problems(args, found), flush=True)


def point(args, found: dict, pieces: int) -> dict:
    """The line of one rehearsal."""
    sizes = {name: value for name, value in asdict(args).items() if name in ("recipe", "depth", "world", "fp8", "kernel")}
    made = {"torch": R.torch.__version__, "commit": R.git_commit()}
    return sizes | {
        "B": args.device_batch, "pieces": pieces, "compiled": args.compile, "recompute": found["recompute"],
        "peak_bytes": found["peak"]["bytes"], "phase": found["peak"]["phase"], "kept_a_layer": found["kept"]["a_layer"],
        "estimate_bytes": found["estimate"]["bytes"], "phases": {p: sum(by.values()) for p, by in found["phases"].items()},
        "communication": found["communication"], "graphs": found["graphs"], "made": made,
    }  # fmt: skip


if __name__ == "__main__":
    main([int(a) for a in sys.argv[1:]] or list(DEPTHS))
