"""CORE: one number for what a base model can do, from 22 tasks read in context. Lesson 10 builds it.

Each task asks questions in one of three ways, and the model is never trained on them: it only reads a prompt and is scored on
what it finds likely. A task's accuracy is centred, so that 0 is guessing and 1 is perfect; CORE is the plain mean of the 22.

Metric: DCLM (arXiv 2406.11794), 22 "low variance" tasks. Rendering, few-shot draws and scoring follow nanochat's reading of it
(karpathy/nanochat, commit 92d63d4) to the last decision, so that GPT-2 XL's 0.256525 means the same here. Centring uses the
baselines "DCLM v1" of nanochat's bundle; DCLM's later v2 changes three of them, and GPT-2 XL would read 0.2309.

This is the plain evaluator: one example a call, nothing shared, nothing cached.
"""

import contextlib
import csv
import json
import math
import random
import sys
import time
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

import torch
import torch.nn.functional as F
import tyro
import yaml

from gpt2course.files import UserError, command, home, write_json

MINI = Path(__file__).with_name("core_bundle")  # our own small bundle, packaged with the code: mini-CORE

# The 22 tasks in CORE's order: baseline in percent (DCLM v1), then the centred scores of the four GPT-2 models as nanochat's
# bundle gives them (openai-community-gpt2*.csv). Small was scored on all examples, the others on at most 1,000 a task.
GPT2 = ("GPT-2 small", "GPT-2 medium", "GPT-2 large", "GPT-2 XL")
CORE = {
    "hellaswag_zeroshot": (25, 0.078006, 0.186667, 0.253333, 0.336000),
    "jeopardy": (0, 0.001889, 0.044000, 0.045000, 0.092000),
    "bigbench_qa_wikidata": (0, 0.282663, 0.428000, 0.480000, 0.531000),
    "arc_easy": (25, 0.216611, 0.306667, 0.380000, 0.460000),
    "arc_challenge": (25, -0.037543, 0.016000, 0.018667, 0.065333),
    "copa": (50, 0.200000, 0.320000, 0.340000, 0.340000),
    "commonsense_qa": (20, 0.030508, -0.005000, 0.087500, 0.033750),
    "piqa": (50, 0.245919, 0.340000, 0.396000, 0.450000),
    "openbook_qa": (25, 0.037333, 0.077333, 0.090667, 0.128000),
    "lambada_openai": (0, 0.322919, 0.426000, 0.488000, 0.523000),
    "hellaswag": (25, 0.077209, 0.193333, 0.258667, 0.349333),
    "winograd": (50, 0.157509, 0.311355, 0.377289, 0.428571),
    "winogrande": (50, -0.027624, 0.042000, 0.082000, 0.138000),
    "bigbench_dyck_languages": (0, 0.155000, 0.170000, 0.225000, 0.247000),
    "agi_eval_lsat_ar": (20, 0.032609, 0.038043, 0.070652, 0.092391),
    "bigbench_cs_algorithms": (0, 0.419697, 0.456000, 0.440000, 0.417000),
    "bigbench_operators": (0, 0.085714, 0.100000, 0.114286, 0.157143),
    "bigbench_repeat_copy_logic": (0, 0.031250, 0.062500, 0.062500, 0.093750),
    "squad": (0, 0.058278, 0.169000, 0.235000, 0.309000),
    "coqa": (0, 0.133659, 0.227000, 0.230000, 0.280000),
    "boolq": (62, -0.178175, -0.036842, -0.139474, -0.002632),
    "bigbench_language_identification": (9.1, 0.182178, 0.195820, 0.187019, 0.174917),
}
GPT2_CENTRED = {model: {label: row[m] for label, row in CORE.items()} for m, model in enumerate(GPT2, 1)}
GPT2_MEANS = (0.113891, 0.184903, 0.214641, 0.256525)  # the last is the bar of the whole course
DCLM_V1 = {label: row[0] for label, row in CORE.items()}
DCLM_V2 = DCLM_V1 | {"commonsense_qa": 40.3, "bigbench_language_identification": 25, "agi_eval_lsat_ar": 25}  # DCLM issue #114

FIELDS = {  # what an example of each kind of task holds
    "multiple_choice": ("query", "choices", "gold"),  # which choice follows the query?
    "schema": ("context_options", "continuation", "gold"),  # after which context is the continuation likely?
    "language_modeling": ("context", "continuation"),  # is the continuation what the model would write?
}


# ---- the bundle: read and checked


@dataclass(frozen=True)
class Task:
    """One task of a bundle, its examples in the order of the file."""

    label: str
    kind: str  # multiple_choice, schema or language_modeling
    num_fewshot: int  # solved examples shown before the question
    delimiter: str  # stands between a question and its answer
    random_baseline: float  # accuracy of a guesser, as a fraction
    examples: list[dict]  # the fields of FIELDS[kind]


@dataclass(frozen=True)
class Bundle:
    """The tasks chosen from a bundle, and what their mean may be called."""

    name: str  # "CORE" for exactly the 22 tasks, "mini-CORE" for our own, else the bundle's name
    baselines: str  # "DCLM v1", or which others
    labels: tuple[str, ...]  # all tasks of the bundle
    tasks: list[Task]


def escapes(name: str) -> bool:
    """Whether a path inside a bundle would lead out of it, on any system."""
    path = PureWindowsPath(name)  # splits at / and at \, and knows drives
    return bool(path.drive or path.root or ".." in path.parts)


@contextlib.contextmanager
def bundle_root(path):
    """Yield (folder that holds core.yaml, its name) of a bundle folder or zip; a zip is read in place, nothing is unpacked."""
    path = Path(path).expanduser()
    if path.is_dir():
        yield path, path.resolve().name
    elif not path.exists():
        raise UserError(f"evaluation bundle {path} does not exist; give a folder or zip with core.yaml, or {MINI} for mini-CORE")
    elif not zipfile.is_zipfile(path):
        raise UserError(f"evaluation bundle {path} is neither a folder nor a zip; give a folder or zip with core.yaml")
    else:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if bad := next(filter(escapes, names), None):
                raise UserError(f"evaluation bundle {path} has a member {bad!r} that leads out of it; do not use this file")
            found = [name for name in names if name == "core.yaml" or name.endswith("/core.yaml")]
            if len(found) != 1:
                raise UserError(f"evaluation bundle {path} holds {len(found)} files core.yaml, must be one; get the bundle again")
            parent = found[0].removesuffix("core.yaml")
            yield zipfile.Path(archive, parent), parent.rstrip("/").split("/")[-1] or path.stem


def wrong_field(kind: str, example) -> str | None:
    """What is wrong with an example, or None."""
    if not isinstance(example, dict):
        return "is not a JSON object"
    options = example.get("choices" if kind == "multiple_choice" else "context_options")
    for field in FIELDS[kind]:
        value = example.get(field)
        if field in ("choices", "context_options"):
            fine, allowed = isinstance(value, list) and len(value) >= 2, "a list of at least two non-empty texts"
            fine = fine and all(isinstance(text, str) and text.strip() for text in value)
        elif field == "gold":
            fine, allowed = type(value) is int and 0 <= value < len(options), f"a whole number from 0 to {len(options) - 1}"
        elif field == "continuation":
            fine, allowed = isinstance(value, str) and bool(value.strip()), "a non-empty text"
        else:
            fine, allowed = isinstance(value, str), "a text"
        if not fine:
            return f"field {field!r} is {repr(value)[:60] if field in example else 'missing'}, must be {allowed}"
    return None


def load_examples(root, uri: str, label: str, kind: str, num_fewshot: int) -> list[dict]:
    """The checked examples of one task; an error names task, file and line."""
    file, examples = f"eval_data/{uri}", []
    if escapes(uri) or not (root / file).is_file():
        raise UserError(f"task {label}: {file} is not in the bundle; get the bundle again or mend dataset_uri in core.yaml")
    with (root / file).open("rb") as lines:  # bytes: a line ends at \n alone, whatever else stands in the text
        for number, line in enumerate(lines, 1):
            try:
                wrong = wrong_field(kind, example := json.loads(line.decode("utf-8")))
            except ValueError as e:  # JSON or UTF-8
                wrong = f"is not a JSON object in UTF-8 ({e})"
            if wrong:
                raise UserError(f"task {label}: {file} line {number}: {wrong}; get the bundle again or mend the line")
            examples.append(example)
    if len(examples) <= num_fewshot:
        raise UserError(f"task {label}: {file} ends at line {len(examples)}, but {num_fewshot} shots need at least "
                        f"{num_fewshot + 1} examples; get the bundle again or lower num_fewshot in core.yaml")
    return examples


def load_config(root, where) -> dict:
    """core.yaml, with every task entry checked."""
    if not (root / "core.yaml").is_file():
        raise UserError(f"{where} holds no core.yaml, so it is no evaluation bundle; give a folder or zip with core.yaml")
    try:
        config = yaml.safe_load((root / "core.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{where}: core.yaml is not YAML ({' '.join(str(e).split())}); get the bundle again") from None
    entries = config.get("icl_tasks") if isinstance(config, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{where}: core.yaml has no list 'icl_tasks'; get the bundle again")
    shots = lambda v: isinstance(v, list) and v and type(v[0]) is int and v[0] >= 0  # noqa: E731
    rules = {
        "label": (lambda v: isinstance(v, str) and v, "a text"),
        "dataset_uri": (lambda v: isinstance(v, str) and v, "a path below eval_data/"),
        "num_fewshot": (shots, "a list of one whole number"),
        "icl_task_type": (lambda v: v in list(FIELDS), f"one of {', '.join(FIELDS)}"),
        "continuation_delimiter": (lambda v: isinstance(v, str), "a text"),
    }
    seen = set()
    for number, entry in enumerate(entries, 1):
        label = entry.get("label", f"number {number}") if isinstance(entry, dict) else f"number {number}"
        for key, (fine, allowed) in rules.items():
            value = entry.get(key, " " if key == "continuation_delimiter" else None) if isinstance(entry, dict) else None
            if not fine(value):
                raise UserError(f"task {label}: core.yaml: {key} is {value!r}, must be {allowed}; get the bundle again")
        if label in seen:
            raise UserError(f"task {label}: core.yaml names it twice; labels must differ")
        seen.add(label)
    return config


def load_baselines(root, where, labels) -> dict[str, float]:
    """Baselines in percent from eval_meta_data.csv, for the tasks named."""
    if not (root / "eval_meta_data.csv").is_file():
        raise UserError(f"{where} holds no eval_meta_data.csv with the baselines; get the bundle again")
    try:
        with (root / "eval_meta_data.csv").open("r", encoding="utf-8", newline="") as f:
            column = {row.get("Eval Task"): row.get("Random baseline") for row in csv.DictReader(f)}
    except (csv.Error, UnicodeDecodeError) as e:
        raise UserError(f"{where}: eval_meta_data.csv is not a table in UTF-8 ({e}); get the bundle again") from None
    percent = {}
    for label in labels:
        with contextlib.suppress(TypeError, ValueError):  # no row, no such column, or not a number
            percent[label] = float(column.get(label))
        if not 0 <= percent.get(label, -1) < 100:
            raise UserError(f"task {label}: eval_meta_data.csv: Random baseline is {column.get(label) or 'missing'}, "
                            "must be a percentage from 0 to below 100; get the bundle again")
    return percent


def read_bundle(path, tasks=None) -> Bundle:
    """Read a bundle (folder or zip in nanochat's layout: core.yaml, eval_meta_data.csv, eval_data/) and check all of it.

    Args: tasks chooses some tasks by label (the others' data are not read). Raises UserError naming the task, file and line.
    """
    try:
        with bundle_root(path) as (root, name):
            config = load_config(root, path)
            entries = {entry["label"]: entry for entry in config["icl_tasks"]}
            percent = load_baselines(root, path, entries)
            if unknown := [label for label in tasks or () if label not in entries]:
                raise UserError(f"task {unknown[0]} is not in {path}; it has {', '.join(entries)}")
            chosen = []
            for label, entry in entries.items():
                if tasks and label not in tasks:
                    continue
                kind, shots = entry["icl_task_type"], entry["num_fewshot"][0]
                examples = load_examples(root, entry["dataset_uri"], label, kind, shots)
                chosen.append(Task(label, kind, shots, entry.get("continuation_delimiter", " "), 0.01 * percent[label], examples))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as e:  # RuntimeError: a zip with a password
        raise UserError(f"evaluation bundle {path} cannot be read ({e}); get the bundle again") from None
    if set(entries) == set(CORE):
        version = "DCLM v1" if percent == DCLM_V1 else "DCLM v2" if percent == DCLM_V2 else "neither DCLM v1 nor v2"
        return Bundle("CORE", version, tuple(entries), chosen)
    name = str(config.get("name", name))
    if name.strip().upper() == "CORE":
        raise UserError(f"{path} calls itself {name}, but CORE has exactly 22 tasks; give it another name in core.yaml")
    return Bundle(name, str(config.get("baselines", "the bundle's own")), tuple(entries), chosen)


def load_bundle(path) -> list[Task]:
    """The tasks of a bundle, checked; see `read_bundle`."""
    return read_bundle(path).tasks


# ---- from an example to prompts, to tokens, to a decision


def sampled(task: Task, max_examples: int | None = None) -> tuple[Task, int]:
    """The task with its examples shuffled (always the same way), and how many of them, from the first, are scored.

    Few-shot examples come from those kept, as in nanochat, so a small `max_examples` also shrinks what the shots are drawn
    from: it changes the prompts, not only the number of questions, and biases the score. Where no more than `num_fewshot` are
    kept there is nothing left to draw from; nanochat stops with an error there (its issue #550), we draw from all examples,
    so that a quick look at a few questions works.
    """
    examples = list(task.examples)
    random.Random(1337).shuffle(examples)
    n = len(examples) if max_examples is None else min(max_examples, len(examples))
    return replace(task, examples=examples[:n] if n > task.num_fewshot else examples), n


def few_shot(task: Task, i: int) -> list[int]:
    """Indices of the solved examples shown before example i: never i itself, and always the same for the same i."""
    others = range(len(task.examples) - 1)  # stands for the list without i, which need not be built
    return [j + (j >= i) for j in random.Random(1234 + i).sample(others, task.num_fewshot)]


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
        raise UserError(f"the tokens of the prompt {prompts[0][-40:]!r} are not the first tokens of the prompt with its "
                        "continuation; this tokenizer joins them, so the example cannot be scored")
    return [full], [(len(without), len(full))]


def crop(rows, spans, max_len: int):
    """Keep the last `max_len` tokens of each row, each by its own overflow, with its span shifted (GPT-2: 1024)."""
    cut = [max(0, len(row) - max_len) for row in rows]
    spans = [(start - c, end - c) for (start, end), c in zip(spans, cut)]
    if any(c and start < 1 for c, (start, _) in zip(cut, spans)):  # the first scored token needs one before it
        raise UserError(f"max_len {max_len} cuts into an answer, must be longer than every answer; use a larger one or none")
    return [row[c:] for row, c in zip(rows, cut)], spans


def score(forward, rows, spans, bos: int) -> tuple[list[float], list[bool]]:
    """For each row: the mean loss of its span (nats per token; NaN if empty), and whether the span is the argmax throughout."""
    ids = torch.full((len(rows), max(map(len, rows))), bos)  # (B, T), padded on the right, where nothing before can see it
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
            raise UserError("the model's logits are NaN: it has diverged; use an earlier checkpoint or a lower learning rate")
    return losses, hits


@torch.no_grad()
def is_right(forward, tokenizer, task: Task, i: int, max_len: int | None = None) -> bool:
    """Whether the model gets example i right: lowest mean loss at the right option, or every token of the continuation.

    Ties go to the first option. An option that is the beginning of all others has an empty span and NaN for a loss;
    then Python's min() decides: NaN wins as the first option and never as a later one (4 examples of piqa with GPT-2's tokens).
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


def evaluate(forward, tokenizer, bundle, *, max_examples=None, tasks=None, progress=None, max_len=None) -> dict:
    """Score a model on a bundle, one example a call.

    Args: forward(ids (B, T) int64 on the CPU) -> logits (B, T, V) float32, causal; tokenizer with encode(text, bos=True) and bos;
    bundle is a folder, a zip or what `read_bundle` gave; max_examples cuts each task after its fixed shuffle, which also changes
    the few-shot draws (see `sampled`: biased; published runs read about 0.01 high at 500); tasks chooses by label;
    progress(done, total, label) is called after each example; max_len crops to a model's last positions.
    Returns a dict that JSON can hold: "name" (call it CORE only if this says so), "core" (mean of the centred accuracies),
    "core_se", "core_interval" (95 %), "baselines", "subset" (True if an example or task was left out), "n", and "tasks": {label:
    accuracy, centred, n, se (of the accuracy), centred_se, random_baseline, kind, num_fewshot}. Standard errors are binomial:
    the noise of having asked these questions and not others. The noise of training comes on top.
    Errors: UserError for a damaged bundle, an unknown task, NaN logits, or a tokenizer or max_len that cannot score it.
    """
    for what, value in (("max_examples", max_examples), ("max_len", max_len)):
        if value is not None and value < 1:
            raise UserError(f"{what} is {value}, must be at least 1, or None for no limit")
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle, tasks)
    if unknown := [label for label in tasks or () if label not in [task.label for task in bundle.tasks]]:
        raise UserError(f"task {unknown[0]} is not in the bundle; it has {', '.join(task.label for task in bundle.tasks)}")
    chosen = [task for task in bundle.tasks if not tasks or task.label in tasks]
    prepared = [sampled(task, max_examples) for task in chosen]
    total, done, results = sum(n for _, n in prepared), 0, {}
    for task, n in prepared:
        right = 0
        for i in range(n):
            right += is_right(forward, tokenizer, task, i, max_len)
            done += 1
            if progress:
                progress(done, total, task.label)
        accuracy, b = right / n, task.random_baseline
        se = math.sqrt(accuracy * (1 - accuracy) / n)
        results[task.label] = dict(accuracy=accuracy, centred=centred(accuracy, b), n=n, se=se, centred_se=se / (1 - b),
                                   random_baseline=b, kind=task.kind, num_fewshot=task.num_fewshot)
    core = sum(r["centred"] for r in results.values()) / len(results)
    core_se = math.sqrt(sum(r["centred_se"] ** 2 for r in results.values())) / len(results)
    subset = total < sum(len(task.examples) for task in chosen) or len(chosen) < len(bundle.labels)
    return dict(name=bundle.name, core=core, core_se=core_se, core_interval=[core - 1.96 * core_se, core + 1.96 * core_se],
                baselines=bundle.baselines, subset=subset, max_examples=max_examples, max_len=max_len, n=total,
                n_tasks=len(chosen), n_tasks_bundle=len(bundle.labels), tasks=results)


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
    line = f"{result['name']:{width}}  {'':5} {result['n']:6} {'':8} {'':6} {result['core']:8.4f} {result['core_se']:6.4f}"
    lines.append(line + columns(GPT2_MEANS if beside and result["n_tasks"] == len(CORE) else ()))
    low, high = result["core_interval"]
    interval = f"95 % interval {low:.4f} to {high:.4f}"
    lines.append(f"{result['name']} {result['core']:.4f}, {interval}; baselines: {result['baselines']}")
    if result["subset"]:
        most = f", at most {result['max_examples']} examples a task" if result["max_examples"] else ""
        lines.append(f"a subset: {result['n_tasks']} of {result['n_tasks_bundle']} tasks{most}; "
                     "not to be compared with scores on the whole bundle")
    return "\n".join(lines)


def default_bundle() -> Path:
    """The CORE bundle under home()/eval if it is there (folder or zip), else the packaged mini bundle."""
    found = [path for path in (home() / "eval" / "eval_bundle", home() / "eval" / "eval_bundle.zip") if path.exists()]
    return found[0] if found else MINI


@dataclass
class Core:
    """Score a run's newest checkpoint on CORE, or on any bundle in the same layout, and print a table.

    Without --bundle: the CORE bundle in $GPT2COURSE_HOME/eval/eval_bundle (or eval_bundle.zip), else the small bundle that comes
    with the code, whose score is called mini-CORE and cannot be compared with CORE.

    Example: python -m gpt2course.core laptop --max-examples 50 --tasks winograd copa --out core.json
    """

    run: tyro.conf.Positional[str]  # name of a run, or path of a run or checkpoint folder
    bundle: str | None = None  # folder or zip with core.yaml, eval_meta_data.csv and eval_data/
    max_examples: int | None = None  # at most this many examples a task (a quick, biased look); default: all
    tasks: tuple[str, ...] = ()  # labels of the tasks to score; default: all
    max_len: int | None = None  # crop prompts to the last so many tokens, for models that can read no more; default: never
    out: str | None = None  # write the result to this file as JSON
    device: str = "auto"  # auto, cpu, cuda or mps


def main(args: Core) -> None:
    from tqdm import tqdm

    from gpt2course.checkpoint import load_model

    path = args.bundle or default_bundle()
    bundle = read_bundle(path, args.tasks)  # before the model: a damaged bundle is told at once
    model, tokenizer, _ = load_model(args.run, args.device)
    device, began = next(model.parameters()).device, time.perf_counter()
    with tqdm(unit="example", mininterval=0.2 if sys.stderr.isatty() else 15, leave=False) as bar:

        def progress(done, total, label):
            bar.total = total
            bar.set_description(label, refresh=False)
            bar.update()

        result = evaluate(lambda ids: model(ids.to(device)), tokenizer, bundle, max_examples=args.max_examples,
                          tasks=args.tasks, progress=progress, max_len=args.max_len)
    print(f"{args.run} on {bundle.name} ({path})")
    print(table(result))
    print(f"{result['n']:,} examples in {time.perf_counter() - began:.1f} s on {device}")
    if args.out:
        write_json(args.out, result | {"run": args.run, "bundle": str(path)})
        print(f"written to {args.out}")


if __name__ == "__main__":
    command(main)
