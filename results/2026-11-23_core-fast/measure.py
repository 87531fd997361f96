"""The fast CORE evaluator beside the plain one: the same decisions, and how much sooner.

    python -m gpt2course.train jan29 --profile laptop --name lap --set steps=500
    python -m gpt2course.train jan29 --profile laptop --name narrow --set depth=1 width=32 head_dim=32 vocab_size=1024 softcap=0 steps=500
    python results/2026-11-23_core-fast/measure.py compare lap --bundle eval_bundle.zip --examples 200
    python results/2026-11-23_core-fast/measure.py compare lap --bundle eval_bundle.zip --examples 200 --random
    python results/2026-11-23_core-fast/measure.py compare narrow --bundle eval_bundle.zip
    python results/2026-11-23_core-fast/measure.py speed lap --bundle eval_bundle.zip --examples 40

`compare` adds a line for each task (or each 1000 of its examples) to compare.jsonl and goes on after those that are there; `speed`
adds one for each task to speed.jsonl.
"""

import hashlib
import json
import math
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from gpt2course import core, core_fast
from gpt2course.checkpoint import load_model
from gpt2course.model import GPT
from gpt2course.train import describe_machine, git_commit

HERE = Path(__file__).resolve().parent
MIX = ("hellaswag", "arc_easy", "boolq", "bigbench_language_identification", "squad", "lambada_openai", "winograd")
PART = 1000


@dataclass
class Args:
    what: tyro.conf.Positional[Literal["compare", "speed"]]
    run: tyro.conf.Positional[str]
    bundle: str
    examples: int | None = None  # of each task, default all of them
    random: bool = False  # the run's model as it was before training
    tasks: tuple[str, ...] = ()  # default: all for compare, the mix of seven for speed
    threads: int = 1


def margin(m, tokenizer, task, i) -> float:
    """How far the plain evaluator was from deciding otherwise: between the two lowest losses (nats), or, for language modelling,
    between the highest logit and the next, where they are closest."""
    rows, spans = core.tokens_and_spans(task.kind, core.render(task, i, core.few_shot(task, i)), tokenizer)
    if task.kind == "language_modeling":
        with torch.no_grad():
            logits = m(torch.tensor(rows[0])[None])[0, spans[0][0] - 1 : spans[0][1] - 1]
        top = logits.topk(2, dim=-1).values
        return (top[:, 0] - top[:, 1]).min().item()
    with torch.no_grad():
        losses = sorted(loss for loss in core.score(m, rows, spans, tokenizer.bos)[0] if not math.isnan(loss))
    return losses[1] - losses[0] if len(losses) > 1 else math.inf


def compare(args, m, tokenizer, bundle, made, add, done):
    for task in bundle.tasks:
        task, n = core.sampled(task, args.examples)
        for first in range(0, n, PART):
            part = range(first, min(n, first + PART))
            key = {"task": task.label, "examples": args.examples, "first": first, "model": made["model"]}
            if any(all(line[k] == v for k, v in key.items()) for line in done):
                continue
            t0 = time.perf_counter()
            fast = core_fast.score_task(task, part, n, tokenizer, core_fast.Reader(m, tokenizer.bos, 1024))
            t1 = time.perf_counter()
            plain = {i: core.is_right(m, tokenizer, task, i) for i in part}
            t2 = time.perf_counter()
            different = [[i, margin(m, tokenizer, task, i)] for i in part if plain[i] != fast[i]]
            add(key | {"n": len(part), "right": sum(plain.values()), "different": different, "fast_s": t1 - t0, "plain_s": t2 - t1} | made)


def speed(args, m, tokenizer, bundle, made, add, done):
    """Half of the examples a turn, the two evaluators in turns, so that a change of the machine's pace meets both."""
    for task in bundle.tasks:
        task, n = core.sampled(task)
        seconds = {"fast": [], "plain": []}
        for turn in range(2):
            part = range(turn * args.examples // 2, (turn + 1) * args.examples // 2)
            for what in ("fast", "plain") if turn % 2 else ("plain", "fast"):
                t0 = time.perf_counter()
                if what == "fast":
                    fast = core_fast.score_task(task, part, n, tokenizer, core_fast.Reader(m, tokenizer.bos, 1024))
                else:
                    plain = {i: core.is_right(m, tokenizer, task, i) for i in part}
                seconds[what].append(time.perf_counter() - t0)
            assert fast == plain
        found = core_fast.Prompts(task, n, tokenizer)
        rows = [found.rows(i)[0] for i in range(args.examples)]
        shared = [core_fast.readings(task.kind, i, *found.rows(i), None) for i in range(args.examples)]
        read = sum(len(r.row) + sum(max(0, len(t) - 1) for _, t in r.after) for r in core_fast.merge([r for each in shared for r in each]))
        add({"task": task.label, "n": args.examples, "tokens_plain": sum(len(r) for each in rows for r in each), "tokens_fast": read,
             "fast_s": seconds["fast"], "plain_s": seconds["plain"],
             "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024} | made)  # fmt: skip


def main():
    args = tyro.cli(Args)
    torch.set_num_threads(args.threads)
    m, tokenizer, plan = load_model(args.run, "cpu")
    if args.random:
        m = GPT(plan.model).init_weights(42)
    bundle = core.read_bundle(args.bundle, args.tasks or (MIX if args.what == "speed" else None))
    machine = describe_machine(torch.device("cpu"))
    made = {"model": f"{args.run}{' (random)' * args.random}", "depth": plan.recipe.depth, "width": plan.recipe.width, "vocab_size": plan.recipe.vocab_size,
            "weights": core_fast.fingerprint(m), "bundle_sha256": hashlib.sha256(Path(args.bundle).read_bytes()).hexdigest(),
            "device": machine["device"], "cpu_threads": machine["cpu_threads"], "torch": machine["torch"], "commit": git_commit(), "command": " ".join(sys.argv)}  # fmt: skip
    file = HERE / f"{args.what}.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def add(line):
        with open(file, "a") as f:
            f.write(json.dumps(line) + "\n")
        print(line["task"], line["n"], line.get("different"), line["fast_s"], line["plain_s"], flush=True)

    (compare if args.what == "compare" else speed)(args, m.eval(), tokenizer, bundle, made, add, done)


if __name__ == "__main__":
    main()
