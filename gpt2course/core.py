"""CORE: one number for what a base model can do, from 22 tasks read in context. Lesson 10 builds it.

Each task asks questions in one of three ways, and the model is never trained on them: it only reads a prompt and is
scored on what it finds likely. A task's accuracy is centred, so that 0 is guessing and 1 is perfect; CORE is the plain
mean of the 22.

Metric: DCLM (arXiv 2406.11794), 22 "low variance" tasks. Rendering, few-shot draws and scoring follow nanochat's
reading of it (karpathy/nanochat, commit 92d63d4) to the last decision, so that GPT-2 XL's 0.256525 means the same here.
Centring uses the baselines "DCLM v1" of nanochat's bundle; DCLM's later v2 changes three of them, and
GPT-2 XL would read 0.2309.

This is the plain evaluator: one example a call, nothing shared, nothing cached. core_fast.py decides the same, sooner.
"""

import math
import random
import sys
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
import tyro

from gpt2course.core_tasks import (  # noqa: F401, some only for those who import core
    CORE,
    GPT2,
    GPT2_CENTRED,
    GPT2_MEANS,
    MINI,
    Bundle,
    Task,
    default_bundle,
    load_bundle,
    read_bundle,
)
from gpt2course.files import UserError, command, home, write_json

NAN_LOGITS = "the model's logits are NaN: it has diverged; use an earlier checkpoint or a lower learning rate"

# ---- from an example to prompts, to tokens, to a decision


def sampled(task: Task, max_examples: int | None = None) -> tuple[Task, int]:
    """The task with its examples shuffled (always the same way), and how many of them, from the first, are scored.

    Few-shot examples come from those kept, as in nanochat, so a small `max_examples` also shrinks what the shots are
    drawn from: it changes the prompts, not only the number of questions, and biases the score. Where no more than
    `num_fewshot` are kept there is nothing left to draw from; nanochat stops with an error there (its issue #550), we
    draw from all examples, so that a quick look at a few questions works.
    """
    examples = list(task.examples)
    random.Random(1337).shuffle(examples)
    n = len(examples) if max_examples is None else min(max_examples, len(examples))
    return replace(task, examples=examples[:n] if n > task.num_fewshot else examples), n


def few_shot(task: Task, i: int) -> list[int]:
    """Indices of the solved examples shown before example i: never i itself, and always the same for the same i.

    `task.draw` 0 draws as nanochat does, 1, 2 and so on draw others: the spread of CORE over draws is noise.
    """
    others = range(len(task.examples) - 1)  # stands for the list without i, which need not be built
    numbers = random.Random(f"{task.draw} {i}" if task.draw else 1234 + i)
    return [j + (j >= i) for j in numbers.sample(others, task.num_fewshot)]


def render(task: Task, i: int, shots: list[int]) -> list[str]:
    """The prompts of example i after the solved examples `shots`: one for each choice, context option, or, for language
    modelling, the prompt without and with its continuation."""
    shown, example, gap = [task.examples[j] for j in shots], task.examples[i], task.delimiter
    if task.kind == "multiple_choice":
        before = "".join(f"{e['query']}{gap}{e['choices'][e['gold']]}\n\n" for e in shown)
        return [f"{before}{example['query']}{gap}{choice}" for choice in example["choices"]]
    if task.kind == "schema":
        before = "".join(f"{e['context_options'][e['gold']]}{gap}{e['continuation']}\n\n" for e in shown)
        return [f"{before}{context}{gap}{example['continuation']}" for context in example["context_options"]]
    before = "".join(f"{e['context'].strip()}{gap}{e['continuation']}\n\n" for e in shown)
    prompt = f"{before}{example['context'].strip()}{gap}"
    return [prompt.strip(), prompt + example["continuation"]]  # stripped: a last space belongs to the next token


def common_length(rows: list[list[int]]) -> int:
    """How many leading tokens all rows share."""
    length = 0
    for column in zip(*rows):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def tokens_and_spans(kind: str, prompts: list[str], tokenizer) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Rows of tokens, each beginning with BOS, and for each row the span [start, end) that is scored."""
    rows = [tokenizer.encode(prompt, bos=True) for prompt in prompts]
    if kind == "multiple_choice":  # from the first token in which the choices differ
        start = common_length(rows)  # at the end of a row whose choice is the beginning of all others: an empty span
        return rows, [(start, len(row)) for row in rows]
    if kind == "schema":  # the tokens at the end that all rows share
        shared = common_length([row[::-1] for row in rows])
        return rows, [(len(row) - shared, len(row)) for row in rows]
    without, full = rows
    if len(without) >= len(full) or full[: len(without)] != without:
        raise UserError(
            f"the tokens of the prompt {prompts[0][-40:]!r} are not the first tokens of the prompt with its "
            "continuation; this tokenizer joins them, so the example cannot be scored"
        )
    return [full], [(len(without), len(full))]


def crop(rows, spans, max_len: int):
    """Keep the last `max_len` tokens of each row, each by its own overflow, with its span shifted (GPT-2: 1024)."""
    cut = [max(0, len(row) - max_len) for row in rows]
    spans = [(start - c, end - c) for (start, end), c in zip(spans, cut)]
    if any(c and start < 1 for c, (start, _) in zip(cut, spans)):  # the first scored token needs one before it
        allowed = "must be longer than every answer; use a larger one or none"
        raise UserError(f"max_len {max_len} cuts into an answer, {allowed}")
    return [row[c:] for row, c in zip(rows, cut)], spans


def score(forward, rows, spans, bos: int) -> tuple[list[float], list[bool]]:
    """For each row: mean loss of its span (nats per token; NaN if empty), and whether all of it is the argmax."""
    ids = torch.full((len(rows), max(map(len, rows))), bos)  # (B, T), padded on the right, where nothing sees it
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row)
    logits = forward(ids)  # (B, T, V)
    losses, hits = [], []
    for b, (start, end) in enumerate(spans):
        if start == 0:  # identical contexts of a schema: all of the row is shared and nothing comes before it
            start = end
        target = ids[b, start:end].to(logits.device)
        predicting = logits[b, start - 1 : end - 1].float()  # (end - start, V): position t predicts token t + 1
        losses.append(F.cross_entropy(predicting, target, reduction="none").mean().item())
        hits.append(bool((predicting.argmax(dim=-1) == target).all()))
        if math.isnan(losses[-1]) and start < end:
            raise UserError(NAN_LOGITS)
    return losses, hits


@torch.no_grad()
def is_right(forward, tokenizer, task: Task, i: int, max_len: int | None = None) -> bool:
    """Whether the model gets example i right: lowest mean loss at the right option, or every token of the continuation.

    Ties go to the first option. An option that is the beginning of all others has an empty span and NaN for a loss;
    then Python's min() decides: NaN wins as the first option and never as a later one (4 examples of piqa with GPT-2's
    tokens).
    """
    try:
        rows, spans = tokens_and_spans(task.kind, render(task, i, few_shot(task, i)), tokenizer)
        if max_len is not None:
            rows, spans = crop(rows, spans, max_len)
        losses, hits = score(forward, rows, spans, tokenizer.bos)
    except UserError as e:
        raise UserError(f"task {task.label}, example {i} of the shuffled list: {e}") from None
    if task.kind == "language_modeling":
        return hits[0]
    return losses.index(min(losses)) == task.examples[i]["gold"]


def centred(accuracy: float, random_baseline: float) -> float:
    """0 for a guesser, 1 for a perfect score, negative for worse than guessing; baseline as a fraction."""
    return (accuracy - random_baseline) / (1 - random_baseline)


def prepare(bundle, tasks, max_examples, max_len, draw):
    """(bundle, its chosen tasks, for each of these what `sampled` gives), the arguments of `evaluate` checked."""
    for what, value in (("max_examples", max_examples), ("max_len", max_len)):
        if value is not None and value < 1:
            raise UserError(f"{what} is {value}, must be at least 1, or None for no limit")
    if not isinstance(draw, int) or draw < 0:
        raise UserError(f"draw is {draw!r}, must be 0, the published few-shot draw, or 1, 2 and so on for others")
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle, tasks)
    there = [task.label for task in bundle.tasks]
    if unknown := [label for label in tasks or () if label not in there]:
        raise UserError(f"task {unknown[0]} is not in the bundle; it has {', '.join(there)}")
    chosen = [replace(task, draw=draw) for task in bundle.tasks if not tasks or task.label in tasks]
    return bundle, chosen, [sampled(task, max_examples) for task in chosen]


def evaluate(forward, tokenizer, bundle, *, max_examples=None, tasks=None, progress=None, max_len=None, draw=0) -> dict:
    """Score a model on a bundle, one example a call.

    Args: forward(ids (B, T) int64 on the CPU) -> logits (B, T, V) float32, causal; tokenizer with encode(text,
    bos=True) and bos; bundle is a folder, a zip or what `read_bundle` gave; max_examples cuts each task after its fixed
    shuffle, which also changes the few-shot draws (see `sampled`: biased; published runs read about 0.01 high at 500);
    tasks chooses by label; progress(done, total, label) is called after each example; max_len crops to a model's last
    positions; draw: see `few_shot`.
    Returns a dict that JSON can hold: "name" (call it CORE only if this says so), "core" (mean of the centred
    accuracies), "core_se", "core_interval" (95 %), "baselines", "subset" (True if an example or task was left out),
    "n", and "tasks": {label: accuracy, centred, n, se (of the accuracy), centred_se, random_baseline, kind,
    num_fewshot}. Standard errors are binomial: the noise of having asked these questions and not others. The noise of
    training comes on top.
    Errors: UserError for a damaged bundle, an unknown task, NaN logits, or a tokenizer or max_len that cannot score it.
    """
    bundle, chosen, prepared = prepare(bundle, tasks, max_examples, max_len, draw)
    total, done, right = sum(n for _, n in prepared), 0, {}
    for task, n in prepared:
        right[task.label] = []
        for i in range(n):
            right[task.label].append(is_right(forward, tokenizer, task, i, max_len))
            done += 1
            if progress:
                progress(done, total, task.label)
    return result(bundle, chosen, right, max_examples, max_len)


def result(bundle: Bundle, chosen: list[Task], right: dict[str, list[bool]], max_examples=None, max_len=None) -> dict:
    """What `evaluate` returns, from the decisions: for each task, which of its scored examples the model got right."""
    results = {}
    for task in chosen:
        n, b = len(right[task.label]), task.random_baseline
        accuracy = sum(right[task.label]) / n
        se = math.sqrt(accuracy * (1 - accuracy) / n)
        results[task.label] = {
            "accuracy": accuracy, "centred": centred(accuracy, b), "n": n, "se": se, "centred_se": se / (1 - b),
            "random_baseline": b, "kind": task.kind, "num_fewshot": task.num_fewshot,
        }  # fmt: skip
    total = sum(r["n"] for r in results.values())
    core = sum(r["centred"] for r in results.values()) / len(results)
    core_se = math.sqrt(sum(r["centred_se"] ** 2 for r in results.values())) / len(results)
    subset = total < sum(len(task.examples) for task in chosen) or len(chosen) < len(bundle.labels)
    interval = [core - 1.96 * core_se, core + 1.96 * core_se]
    return {
        "name": bundle.name, "core": core, "core_se": core_se, "core_interval": interval, "baselines": bundle.baselines,
        "subset": subset, "max_examples": max_examples, "max_len": max_len, "draw": chosen[0].draw, "n": total,
        "n_tasks": len(chosen), "n_tasks_bundle": len(bundle.labels), "tasks": results,
    }  # fmt: skip


# ---- the command


def table(result: dict) -> str:
    """A result as text: one line a task, beside the GPT-2 models where the tasks are CORE's."""
    beside = GPT2 if result["name"] == "CORE" else ()
    columns = lambda scores: "".join(f" {x:12.4f}" for x in scores)  # noqa: E731
    width = max(map(len, [*result["tasks"], result["name"]]))
    head = f"{'task':{width}}  {'shots':>5} {'n':>6} {'accuracy':>8} {'guess':>6} {'centred':>8} {'+-':>6}"
    lines = [head + "".join(f" {name:>12}" for name in beside)]
    for label, r in result["tasks"].items():
        line = f"{label:{width}}  {r['num_fewshot']:5} {r['n']:6} {r['accuracy']:8.4f} {r['random_baseline']:6.3f} "
        line += f"{r['centred']:8.4f} {r['centred_se']:6.4f}"
        lines.append(line + columns(CORE[label][1:] if beside else ()))
    line = f"{result['name']:{width}}  {'':5} {result['n']:6} {'':8} {'':6} "
    line += f"{result['core']:8.4f} {result['core_se']:6.4f}"
    lines.append(line + columns(GPT2_MEANS if beside and result["n_tasks"] == len(CORE) else ()))
    low, high = result["core_interval"]
    interval = f"95 % interval {low:.4f} to {high:.4f}"
    lines.append(f"{result['name']} {result['core']:.4f}, {interval}; baselines: {result['baselines']}")
    if result.get("draw"):
        lines.append(
            f"few-shot draw {result['draw']}, not the published one: for the noise of the evaluation, "
            "not for comparison with other models"
        )
    if result["subset"]:
        most = f", at most {result['max_examples']} examples a task" if result["max_examples"] else ""
        lines.append(
            f"a subset: {result['n_tasks']} of {result['n_tasks_bundle']} tasks{most}; "
            "not to be compared with scores on the whole bundle"
        )
    return "\n".join(lines)


@dataclass
class Core:
    """Score a run's newest checkpoint on CORE, or on any bundle in the same layout, and print a table.

    Without --bundle: that of $GPT2COURSE_CORE_BUNDLE, or CORE's in $GPT2COURSE_HOME/eval, to which `python -m
    gpt2course.core_tasks` downloads it, else the small bundle that comes with the code, whose score is called mini-CORE and
    cannot be compared with CORE.

    Example: python -m gpt2course.core laptop --max-examples 50 --tasks winograd copa --out core.json
    """

    # name of a run, or path of a run, a checkpoint or a folder of released GPT-2 weights
    run: tyro.conf.Positional[str]
    bundle: str | None = None  # folder or zip with core.yaml, eval_meta_data.csv and eval_data/
    baselines: Literal["v1", "v2"] = "v1"  # of DCLM; published scores use v1, and with v2 the result is called CORE v2
    max_examples: int | None = None  # at most this many examples a task (a quick, biased look); default: all
    tasks: tuple[str, ...] = ()  # labels of the tasks to score; default: all
    # crop prompts to the last so many tokens; default: what the model can read (GPT-2: 1,024)
    max_len: int | None = None
    draw: int = 0  # another draw of the few-shot examples: 1, 2 and so on; 0 is the published one
    plain: bool = False  # one example a call, as the lesson shows it: the same decisions, several times slower
    keep: bool = True  # keep finished tasks in $GPT2COURSE_HOME/eval, so that an interrupted evaluation goes on
    out: str | None = None  # write the result to this file as JSON
    device: str = "auto"  # auto, cpu, cuda or mps
    attention: str = "auto"  # kernel, as in python -m gpt2course.train --help


def main(args: Core) -> None:
    from tqdm import tqdm

    from gpt2course import core_noise as core_report
    from gpt2course.fast import core_fast
    from gpt2course.fast.kernels import choose
    from gpt2course.checkpoint import load_model

    path = args.bundle or default_bundle()
    bundle = read_bundle(path, args.tasks, args.baselines)  # before the model: a damaged bundle is told at once
    model, tokenizer, plan = load_model(args.run, args.device)
    device, began = next(model.parameters()).device, time.perf_counter()
    if plan:
        print("attention by {}: {}".format(*choose(args.attention, device, model.compute_dtype, plan.model.head_dim)))
    shape = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, left {remaining}"
    with tqdm(bar_format=shape, mininterval=0.2 if sys.stderr.isatty() else 15, leave=False) as bar:

        def progress(done, total, label):
            bar.total = total
            bar.set_description(label, refresh=False)
            bar.update(done - bar.n)

        settings = dict(max_examples=args.max_examples, tasks=args.tasks, draw=args.draw)
        settings |= dict(max_len=args.max_len or model.max_len, progress=progress)
        if args.plain:
            result = evaluate(lambda ids: model(ids.to(device)), tokenizer, bundle, **settings)
        else:
            name = core_fast.fingerprint(model)
            keep = (home() / "eval" / "kept" / f"{name[:16]}.json", name) if args.keep else None
            result = core_fast.evaluate(model, tokenizer, bundle, keep=keep, say=bar.write, **settings)
    print(f"{args.run} on {bundle.name} ({path})")
    print(core_report.text(core_report.report(result)))
    print(f"{result['n']:,} examples in {time.perf_counter() - began:.1f} s on {device}")
    if args.out:
        write_json(args.out, result | {"run": args.run, "bundle": str(path)})
        show = f"python -m gpt2course.core_noise {args.out}"
        print(f"written to {args.out}; as a table and a figure, or beside another: {show}")


if __name__ == "__main__":
    command(main)
