"""How long a training step of `jan29` and of `wide` takes beside one of `lambdas`, on one CPU thread, sizes as in record.py.

The machine was busy, so seconds of whole runs do not compare. Here the three arms take turns, a step each, for 21 rounds, in
rotating order, and what counts is the processor time of this process (time.process_time), not the clock on the wall. A step is forward,
backward and optimizer on one batch of 2,048 tokens. The first round is dropped. The line goes to runs.jsonl as the arm "step time".

    OMP_NUM_THREADS=1 python results/2026-11-29_value-embeddings/step_time.py
"""

import json
import time

import torch
from record import DECAY, HERE, SIZE, ladder

from gpt2course.recipes import make_model, make_optimizer, resolve
from gpt2course.runlog import describe_machine, git_commit

ROUNDS = 21


def build(arm: str):
    settings = dict(s.split("=") for s in (*SIZE, "matrix_lr=0.02", DECAY))
    plan = resolve(ladder.ARMS[arm][0], **settings, steps=450)
    with ladder.replaced(arm):
        model = make_model(plan, "cpu").init_weights(1)
    return model, make_optimizer(model, plan)


def step(model, optimizer, rows) -> float:
    began = time.process_time()
    model(rows[:, :-1], rows[:, 1:].contiguous()).backward()
    optimizer.step(1.0, 0.95, 1.0)
    optimizer.zero_grad()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    arms = ("lambdas", "jan29", "wide")
    built, seconds = {arm: build(arm) for arm in arms}, {arm: [] for arm in arms}
    generator = torch.Generator().manual_seed(1)
    for n in range(ROUNDS):
        rows = torch.randint(2048, (8, 257), generator=generator)
        for arm in arms[n % 3 :] + arms[: n % 3]:
            seconds[arm].append(round(step(*built[arm], rows), 5))
    line = {
        "arm": "step time", "seed": 1, "steps": ROUNDS - 1, "settings": [], "cpu_seconds": {arm: times[1:] for arm, times in seconds.items()}, "device": describe_machine(torch.device("cpu"))["device"],
        "cpu_threads": 1, "torch": torch.__version__, "commit": git_commit(), "command": f"python results/{HERE.name}/step_time.py",
    }  # fmt: skip
    with open(HERE / "runs.jsonl", "a") as f:
        f.write(json.dumps(line) + "\n")
    for arm in arms:
        ratios = sorted(a / b for a, b in zip(line["cpu_seconds"][arm], line["cpu_seconds"]["lambdas"]))
        print(arm, ratios[len(ratios) // 2], ratios[2], ratios[-3])


if __name__ == "__main__":
    main()
