"""The decisions of small models on mini-CORE and on CORE's own questions, with several draws of shots and several seeds.

Models of profile laptop, 1,300 steps (results/2026-11-29_laptop-decay trained them): weight decay 0.02 and 0.2, seeds 1
to 3; and one with its first, random weights. Decisions are those of the fast evaluator in float32. A draw d changes
the seed of the solved examples from 1234 to 1234 + 100000 d; draw 0 is CORE's own. On CORE's bundle the first 50
questions of each shuffled task are scored, with shots from the whole task; on mini-CORE all.

    OMP_NUM_THREADS=1 python results/2026-11-29_core-noise/record.py RUNS eval_bundle.zip

RUNS is the folder of the runs laptop-decay-{0.02,0.2}-1300-s{1,2,3}. A second call goes on where the first stopped.
"""

import json
import platform
import random
import sys
from pathlib import Path

import torch

from gpt2course import core
from gpt2course.core_tasks import MINI, read_bundle
from gpt2course.fast.core_fast import Reader, score_task
from gpt2course.load import load_model
from gpt2course.recipes import make_model
from gpt2course.runlog import git_commit

OUT = Path(__file__).with_name("runs.jsonl")
FEW = 50


def shots(draw: int):
    """core.few_shot with another seed; draw 0 is CORE's own."""

    def few_shot(task, i):
        others = range(len(task.examples) - 1)
        return [j + (j >= i) for j in random.Random(1234 + 100_000 * draw + i).sample(others, task.num_fewshot)]

    return few_shot


def jobs():
    """(bundle, arm, seed, draw), the most wanted first."""
    for arm, seeds in (("0.02", (1, 2, 3)), ("0.2", (1, 2, 3)), ("random", (1,))):
        for seed in seeds:
            for draw in range(5 if seed == 1 else 1):
                yield "mini-CORE", arm, seed, draw
    for arm, seed, draw in (("0.02", 1, 0), ("0.02", 1, 1), ("random", 1, 0)):
        yield "CORE", arm, seed, draw


def main(runs: str, bundle: str) -> None:
    made = {(r["bundle"], r["arm"], r["seed"], r["draw"]) for r in map(json.loads, OUT.open())} if OUT.exists() else set()
    bundles = {"mini-CORE": read_bundle(MINI), "CORE": read_bundle(bundle)}
    for name, arm, seed, draw in jobs():
        if (name, arm, seed, draw) in made:
            continue
        run = f"laptop-decay-{'0.02' if arm == 'random' else arm}-1300-s{seed}"
        model, tokenizer, plan = load_model(Path(runs) / run, "cpu")[:3]
        if arm == "random":
            model = make_model(plan, "cpu").init_weights(seed)
        core.few_shot, right = shots(draw), {}
        reader = Reader(model.eval(), tokenizer.bos, 1024)
        for task in bundles[name].tasks:
            task, n = core.sampled(task)
            n = min(n, FEW) if name == "CORE" else n
            found = score_task(task, range(n), n, tokenizer, reader)
            right[task.label] = "".join("01"[found[i]] for i in range(n))
            print(name, arm, seed, draw, task.label, right[task.label].count("1") / n, flush=True)
        row = dict(bundle=name, arm=arm, seed=seed, draw=draw, right=right, steps=0 if arm == "random" else plan.steps)
        row |= dict(device=platform.machine() + " CPU", torch=torch.__version__, commit=git_commit(),
                    command="python results/2026-11-29_core-noise/record.py RUNS eval_bundle.zip")  # fmt: skip
        with OUT.open("a") as f:
            f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
