"""Lesson 10. CORE: one number for what a base model can do, from tasks read in context.

Each task asks questions in one of three ways. The model is not trained on them: it reads a prompt, and is scored on
what it finds likely. A task's accuracy is centred, so that 0 is guessing and 1 is perfect. CORE is the mean of the 22.

The metric is DCLM's (arXiv 2406.11794). Rendering, few-shot draws and scoring follow nanochat (karpathy/nanochat,
commit 92d63d4) to the last decision, so that GPT-2 XL's 0.256525 means the same here.

This is the plain evaluator: one example a call, nothing shared, nothing cached. fast/core_fast.py makes the same
decisions in less time; its command is `python -m gpt2course.fast.core_fast RUN`.
"""

import math
import random
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from gpt2course.core_tasks import CORE, GPT2, GPT2_CENTRED, GPT2_CORE, GPT2_MEANS, Bundle, Task, read_bundle
from gpt2course.files import UserError, closest

NAN_LOGITS = "the model's logits are NaN: it has diverged; use an earlier checkpoint or a lower learning rate"
DRAWS = 10_000  # of the bootstrap


# ---- from an example to prompts, to tokens, to a decision


def sampled(task: Task, max_examples: int | None = None) -> tuple[Task, int]:
    """The task with its examples shuffled (always in the same way), and how many of them, from the first, are scored.

    As in nanochat, `max_examples` cuts the list before few-shot examples are drawn from it. A small value therefore
    changes the prompts too, and biases the score. If at most `num_fewshot` examples are left, nanochat stops with an
    error (its issue #550); we draw from all examples, so that a quick look at a few questions works.
    """
    examples = list(task.examples)
    random.Random(1337).shuffle(examples)
    n = len(examples) if max_examples is None else min(max_examples, len(examples))
    return replace(task, examples=examples[:n] if n > task.num_fewshot else examples), n


def few_shot(task: Task, i: int) -> list[int]:
    """Indices of the solved examples shown before example i: without i, and the same ones at each call."""
    others = range(len(task.examples) - 1)  # the positions of the list without i
    return [j + (j >= i) for j in random.Random(1234 + i).sample(others, task.num_fewshot)]


def solved(task: Task, j: int) -> str:
    """Example j with its right answer, as it is shown before a question."""
    example, gap = task.examples[j], task.delimiter
    if task.kind == "multiple_choice":
        return f"{example['query']}{gap}{example['choices'][example['gold']]}"
    if task.kind == "schema":
        return f"{example['context_options'][example['gold']]}{gap}{example['continuation']}"
    return f"{example['context'].strip()}{gap}{example['continuation']}"


def render(task: Task, i: int, shots: list[int]) -> list[str]:
    """The prompts of example i after the solved examples `shots`.

    One for each choice or context option; for language modelling the prompt without and with its continuation.
    """
    example, gap = task.examples[i], task.delimiter
    before = "".join(f"{solved(task, j)}\n\n" for j in shots)
    if task.kind == "multiple_choice":
        return [f"{before}{example['query']}{gap}{choice}" for choice in example["choices"]]
    if task.kind == "schema":
        return [f"{before}{context}{gap}{example['continuation']}" for context in example["context_options"]]
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
        start = common_length(rows)  # a choice that is a prefix of all others has an empty span
        return rows, [(start, len(row)) for row in rows]
    if kind == "schema":  # the tokens at the end that all rows share
        shared = common_length([row[::-1] for row in rows])
        return rows, [(len(row) - shared, len(row)) for row in rows]
    without, full = rows
    if len(without) >= len(full) or full[: len(without)] != without:
        raise UserError(
            f"the tokens of the prompt {prompts[0][-40:]!r} are not the first tokens of the prompt with its "
            "continuation: this tokenizer joins them; use another tokenizer"
        )
    return [full], [(len(without), len(full))]


def crop(rows, spans, max_len: int):
    """Keep the last `max_len` tokens of each row, and shift its span (GPT-2: 1,024). Rows lose different numbers."""
    cut = [max(0, len(row) - max_len) for row in rows]
    spans = [(start - c, end - c) for (start, end), c in zip(spans, cut)]
    if any(c and start < 1 for c, (start, _) in zip(cut, spans)):  # the first scored token needs one before it
        raise UserError(f"max_len = {max_len} cuts into an answer; use a larger value")
    return [row[c:] for row, c in zip(rows, cut)], spans


def score(forward, rows, spans, bos: int) -> tuple[list[float], list[bool]]:
    """For each row: mean loss of its span (nats per token; NaN if empty), and whether all of it is the argmax."""
    ids = torch.full((len(rows), max(map(len, rows))), bos)  # (B, T), padded on the right: no token sees the padding
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row)
    logits = forward(ids)  # (B, T, V)
    losses, hits = [], []
    for b, (start, end) in enumerate(spans):
        if start == 0:  # a schema with identical contexts: the whole row is shared, and no token precedes it
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
    """Whether the model gets example i right: lowest mean loss at the right option, or all of the continuation.

    A tie goes to the first option. An option that is a prefix of all others has an empty span, so its mean loss is NaN.
    Then Python's min() decides: NaN wins as the first option and never as a later one (4 examples of piqa with GPT-2's
    tokenizer).
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
    """0 for guessing, 1 for a perfect score, negative for worse than guessing. The baseline is a fraction."""
    return (accuracy - random_baseline) / (1 - random_baseline)


def prepare(bundle, tasks, max_examples, max_len):
    """(bundle, its chosen tasks, for each of these what `sampled` gives), the arguments of `evaluate` checked."""
    for what, value in (("max_examples", max_examples), ("max_len", max_len)):
        if value is not None and value < 1:
            raise UserError(f"{what} = {value} is not allowed; it must be at least 1, or None for no limit")
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    there = [task.label for task in bundle.tasks]
    if unknown := [label for label in tasks or () if label not in there]:
        raise UserError(f"task {unknown[0]} is not in the bundle; {closest(unknown[0], there)}")
    chosen = [task for task in bundle.tasks if not tasks or task.label in tasks]
    return bundle, chosen, [sampled(task, max_examples) for task in chosen]


def evaluate(forward, tokenizer, bundle, *, max_examples=None, tasks=None, progress=None, max_len=None) -> dict:
    """Score a model on a bundle, one example a call; returns what `result` makes of the decisions.

    Args: forward(ids (B, T) int64 on the CPU) -> logits (B, T, V) float32, causal; tokenizer with encode(text,
    bos=True) and bos; bundle is a folder, a zip or what `read_bundle` gave; max_examples cuts each task after its fixed
    shuffle, which biases the score (see `sampled`); tasks chooses by label; progress(done, total, label) is called
    after each example; max_len crops a row to the last tokens, for a model with so many positions.
    Errors: UserError for a damaged bundle, an unknown task, NaN logits, or a tokenizer or max_len that cannot score it.
    """
    bundle, chosen, prepared = prepare(bundle, tasks, max_examples, max_len)
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
    """The score from the decisions: for each task, which of its scored examples the model got right.

    A dict that JSON can hold: "name" (call the score CORE only if this says so), "core" (mean of the centred
    accuracies), "core_se" and "core_interval" (95 %), "above_bar" (for CORE in full: the share of the
    bootstrap's draws above GPT-2 XL's score), "subset" (True if an example or a task was left out), "n", and "tasks":
    {label: accuracy, centred, centred_se, n, ...}.
    """
    rows = {}
    for task in chosen:
        n, b = len(right[task.label]), task.random_baseline
        accuracy = sum(right[task.label]) / n
        rows[task.label] = {
            "accuracy": accuracy, "centred": centred(accuracy, b), "n": n,
            "centred_se": math.sqrt(accuracy * (1 - accuracy) / n) / (1 - b),
            "random_baseline": b, "kind": task.kind, "num_fewshot": task.num_fewshot,
        }  # fmt: skip
    draws = bootstrap(rows)
    n = sum(row["n"] for row in rows.values())
    subset = n < sum(len(task.examples) for task in chosen) or len(chosen) < len(bundle.tasks)
    found = {
        "name": bundle.name, "core": sum(row["centred"] for row in rows.values()) / len(rows),
        "core_se": float(draws.std()), "core_interval": np.percentile(draws, (2.5, 97.5)).tolist(),
        "baselines": bundle.baselines, "subset": subset, "max_examples": max_examples, "max_len": max_len, "n": n,
        "n_tasks": len(chosen), "n_tasks_bundle": len(bundle.tasks), "tasks": rows,
    }  # fmt: skip
    return found | ({"above_bar": float((draws > GPT2_CORE).mean())} if bundle.name == "CORE" and not subset else {})


# ---- the noise of a score


def bootstrap(rows: dict[str, dict], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """CORE on `draws` resamplings of the questions (Efron 1979): had other questions of this kind been asked. (draws,)

    rows: {task: its accuracy, n and random_baseline}. The examples of a task are 0 or 1, so the number right among n
    examples drawn with replacement is Binomial(n, accuracy): no example need be drawn one by one.
    """
    rng, total = np.random.default_rng(seed), np.zeros(draws)
    for row in rows.values():
        accuracy = rng.binomial(row["n"], row["accuracy"], draws) / row["n"]  # (draws,)
        total += centred(accuracy, row["random_baseline"])
    return total / len(rows)


# ---- a score as text


def notes(result: dict) -> list[str]:
    """What a score does not show."""
    # 0.0054 is pooled over 5 sets of 39 published runs: nanochat's record 4 and its pull requests 655, 733, 807 and 830
    lines = [
        "The interval is the noise of the questions: other questions of the same kind would give another score. "
        "Training adds its own: over seeds of one recipe, CORE has a standard deviation of about 0.0054."
    ]
    if result["name"] != "CORE":
        lines.append(f"{result['name']} is not CORE. Do not compare it with CORE scores.")
    elif not result["subset"]:
        lines.append("The bar is a measurement too, on at most 1,000 examples a task. Its standard error is 0.0071.")
    if result["subset"]:
        most = f" with at most {result['max_examples']:,} examples each" if result["max_examples"] else ""
        lines.append(
            f"This is a part of {result['name']}: {result['n_tasks']} of {result['n_tasks_bundle']} tasks{most}. "
            "Do not compare it with scores on the whole."
        )
    if result["max_examples"]:
        lines.append(
            "A limit on the examples biases the score: the few-shot examples come from those that are left, so the "
            "prompts differ too. With 500 examples a task, published scores read about 0.01 higher."
        )
    return lines


def table(result: dict) -> str:
    """A result as text: one line a task, beside the GPT-2 models where the tasks are CORE's, and `notes`."""
    beside = GPT2 if result["name"] == "CORE" else ()
    name = result["name"] + " (part)" * result["subset"]
    width = max(map(len, [*result["tasks"], name]))
    head = f"{'task':{width}}  {'shots':>5} {'n':>6} {'accuracy':>8} {'guess':>6} {'centred':>8} {'+-':>6}"
    lines = [head + "".join(f" {model:>12}" for model in beside)]
    for label, row in result["tasks"].items():
        line = f"{label:{width}}  {row['num_fewshot']:5} {row['n']:6} {row['accuracy']:8.4f} "
        line += f"{row['random_baseline']:6.3f} {row['centred']:8.4f} {row['centred_se']:6.4f}"
        lines.append(line + "".join(f" {GPT2_CENTRED[model][label]:12.4f}" for model in beside))
    means = GPT2_MEANS.values() if beside and result["n_tasks"] == len(CORE) else ()
    line = f"{name:{width}}  {'':5} {result['n']:6} {'':8} {'':6} {result['core']:8.4f} {result['core_se']:6.4f}"
    lines.append(line + "".join(f" {mean:12.4f}" for mean in means))
    low, high = result["core_interval"]
    interval = f"95 % interval {low:.4f} to {high:.4f}"
    lines.append(f"{name} {result['core']:.4f}, {interval}; baselines: {result['baselines']}")
    if "above_bar" in result:
        lines.append(f"probability of being above {GPT2_CORE} (GPT-2 XL): {result['above_bar']:.3f}")
    return "\n".join(lines + notes(result))
