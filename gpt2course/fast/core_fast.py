"""CORE, fast: the decisions of core.py's plain evaluator from a fraction of its work. Lesson 10 shows the plain one.

What is saved, and where it comes from (22 tasks, 160 million tokens if every choice is read in full):
- the choices of a question share their prompt, which is read once; each choice then goes on from its cache of keys and
  values;
- a choice of one token is read off the last position of the shared prompt, with no further reading;
- a prompt that is the beginning of another (coqa: many questions on one story) is read with it;
- the head runs only at the positions that are scored, and the last token of a row, whose successor nobody asks for, is
  not read;
- every solved example is tokenized once, and prompts are put together from these blocks;
- prompts of like length share a forward pass, up to a budget of tokens.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from gpt2course import core
from gpt2course.attention import Cache
from gpt2course.core_tasks import Task
from gpt2course.files import UserError, read_json, write_json

CHECKED = 16  # examples of a task whose prompts are also encoded whole, to see that blocks give the same tokens
HEAD = 1 << 24  # most logits at a time: 64 MB in float32


@dataclass
class Reading:
    """One row for the model to read, and what is to be read off it.

    `inside` are answers within the row: (answer, the position that predicts its first token, its tokens). `after` are
    answers that follow the row's last token: (answer, its tokens). An answer is (example, its options): equal options
    are read once, so that a tie between them is a tie to the last bit.
    """

    row: np.ndarray  # int32
    inside: list = field(default_factory=list)
    after: list = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        return any(len(tokens) > 1 for _, tokens in self.after)

    @property
    def cost(self) -> int:
        """Tokens in memory while it is read: each answer of several tokens needs its own copy of the row's cache."""
        lengths = [len(tokens) for _, tokens in self.after]
        copies = max(1, sum(length > 1 for length in lengths))
        return copies * (len(self.row) + max(lengths, default=0))


# ---- from examples to rows of tokens


class Prompts:
    """The token rows of a task's examples, equal to `core.tokens_and_spans` of their prompts, from blocks."""

    def __init__(self, task: Task, n: int, tokenizer):
        self.task, self.tokenizer, self.blocks = task, tokenizer, {}
        self.gap = None  # the tokens of "\n\n" where a tokenizer keeps them apart from the text before
        draw = random.Random(0)
        sample = sorted(draw.sample(range(n), min(CHECKED, n)))
        for self.joined in (True, False, None):  # blocks with their "\n\n", without; None: every prompt whole
            self.blocks.clear()
            if self.joined is None or all(self.rows(i) == self.whole(i) for i in sample):
                break

    def whole(self, i: int):
        """(rows, spans) of example i the plain way."""
        prompts = core.render(self.task, i, core.few_shot(self.task, i))
        return core.tokens_and_spans(self.task.kind, prompts, self.tokenizer)

    def block(self, j: int) -> list[int]:
        """The tokens of example j as a solved one."""
        if j not in self.blocks:
            e, gap = self.task.examples[j], self.task.delimiter
            if self.task.kind == "multiple_choice":
                text = f"{e['query']}{gap}{e['choices'][e['gold']]}"
            elif self.task.kind == "schema":
                text = f"{e['context_options'][e['gold']]}{gap}{e['continuation']}"
            else:
                text = f"{e['context'].strip()}{gap}{e['continuation']}"
            if self.joined:
                self.blocks[j] = self.tokenizer.encode(text + "\n\n")
            else:
                self.blocks[j] = self.tokenizer.encode(text) + self.tokenizer.encode("\n\n")
        return self.blocks[j]

    def rows(self, i: int):
        """(rows, spans) of example i."""
        shots = core.few_shot(self.task, i)
        last = core.render(self.task, i, [])  # the prompts without solved examples
        if self.joined is None or shots and self.task.kind == "language_modeling" and last[1][:1].isspace():
            return self.whole(i)  # an empty question: `render` strips what would not be stripped after solved examples
        rows, spans = core.tokens_and_spans(self.task.kind, last, self.tokenizer)  # each begins with BOS
        if not shots:
            return rows, spans
        before = [self.tokenizer.bos] + [t for j in shots for t in self.block(j)]
        n = len(before) - 1
        return [before + row[1:] for row in rows], [(start + n, end + n) for start, end in spans]


def readings(kind: str, i: int, rows, spans, max_len: int | None, shares: bool = True) -> list[Reading]:
    """How to read example i: rows and spans as of `core.tokens_and_spans`. shares: whether the model has a cache."""
    whole = max_len is None or max(map(len, rows)) <= max_len
    if not whole:
        rows, spans = core.crop(rows, spans, max_len)  # each by its own overflow: they no longer share a beginning
    options = {}  # what differs -> the options that are it
    for c, (row, span) in enumerate(zip(rows, spans)):
        options.setdefault((tuple(row), span), []).append(c)
    distinct = [((i, tuple(which)), list(row), span) for (row, span), which in options.items()]
    if kind == "multiple_choice" and whole and (shares or max(end - start for start, end in spans) == 1):
        start = spans[0][0]
        after = [(answer, row[start:]) for answer, row, _ in distinct]
        return [Reading(np.array(rows[0][:start], np.int32), after=after)]
    found = []
    for answer, row, (start, end) in distinct:
        start = start or end  # see core.score: nothing comes before the first token
        found.append(Reading(np.array(row[: end - 1], np.int32), inside=[(answer, start - 1, row[start:end])]))
    return found


def merge(found: list[Reading]) -> list[Reading]:
    """Rows that are the beginning of another row are read with it."""
    kept = []
    in_order = lambda r: r.row.astype(">u4").tobytes()  # backwards, a beginning comes right after its longer row
    for r in sorted(found, key=in_order, reverse=True):
        longer, n = kept[-1] if kept else None, len(r.row)
        if longer and not r.after and not longer.after and np.array_equal(longer.row[:n], r.row):
            longer.inside += r.inside
        else:
            kept.append(r)
    return kept


# ---- reading


def losses_and_hits(head: Callable, x: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For states x (N, C) and targets (N,): losses in nats (N,) float32, and if it is the argmax (N,), on the CPU."""
    losses, hits, start, n = [torch.empty(0)], [torch.empty(0, dtype=torch.bool)], 0, None
    while start < len(x):
        logits = head(x[start : start + (n or 1)]).float()  # (n, V); the first time one row, to learn V
        n = n or max(1, HEAD // logits.size(-1))
        t = targets[start : start + len(logits)].to(logits.device)
        losses.append(F.cross_entropy(logits, t, reduction="none").cpu())
        hits.append((logits.argmax(dim=-1) == t).cpu())
        start += len(logits)
    return torch.cat(losses), torch.cat(hits)


def at(x: torch.Tensor, wanted: list) -> torch.Tensor:
    """The states (N, C) that x (B, T, C) has at the rows and positions wanted."""
    index = torch.tensor([w[:2] for w in wanted], dtype=torch.long, device=x.device).reshape(-1, 2)
    return x[index[:, 0], index[:, 1]]


@torch.no_grad()
def read(model, batch: list[Reading], bos: int) -> dict:
    """{answer: (mean loss, whether all of it is the argmax)} of some readings in one or two forward passes.

    model has hidden(ids (B, T), cache) -> (B, T, C) and head(x) -> logits. An empty answer has the loss NaN, as in
    core.score.
    """
    device = next(model.parameters()).device
    longest = max(len(r.row) for r in batch)
    tails = [(b, answer, tokens) for b, r in enumerate(batch) for answer, tokens in r.after if len(tokens) > 1]
    ids = torch.full((len(batch), longest), bos)  # (B, T)
    pad = [longest - len(r.row) if tails else 0 for r in batch]  # before the rows that go on, behind the others
    for b, r in enumerate(batch):
        ids[b, pad[b] : pad[b] + len(r.row)] = torch.from_numpy(r.row)
    cache = Cache(torch.tensor(pad, device=device) if any(pad) else None) if tails else None
    x = model.hidden(ids.to(device), cache) if cache else model.hidden(ids.to(device))  # (B, T, C)

    wanted = []  # (row, position, answer, target)
    for b, r in enumerate(batch):
        for answer, first, tokens in r.inside:
            wanted += [(b, first + k, answer, t) for k, t in enumerate(tokens)]
        wanted += [(b, pad[b] + len(r.row) - 1, answer, tokens[0]) for answer, tokens in r.after if len(tokens)]
    states = [at(x, wanted)]  # (N, C)
    if tails:
        cache.keep([b for b, _, _ in tails])  # one copy of its row for each
        ids = torch.full((len(tails), max(len(tokens) for _, _, tokens in tails) - 1), bos)
        more = []
        for k, (_, answer, tokens) in enumerate(tails):
            ids[k, : len(tokens) - 1] = torch.tensor(tokens[:-1])
            more += [(k, position, answer, t) for position, t in enumerate(tokens[1:])]
        states.append(at(model.hidden(ids.to(device), cache), more))
        wanted += more
    losses, hits = losses_and_hits(model.head, torch.cat(states), torch.tensor([w[3] for w in wanted]))
    if losses.isnan().any():
        raise UserError(core.NAN_LOGITS)

    where = {answer: [] for r in batch for answer in [a for a, *_ in r.inside] + [a for a, _ in r.after]}
    for k, w in enumerate(wanted):
        where[w[2]].append(k)  # in the order of the answer's tokens
    mean = lambda ks: losses[ks].mean().item() if ks else math.nan
    return {answer: (mean(ks), bool(hits[ks].all())) for answer, ks in where.items()}


def out_of_memory(e: Exception) -> bool:
    return isinstance(e, (torch.OutOfMemoryError, MemoryError)) or isinstance(e, RuntimeError) and "alloc" in str(e)


class Reader:
    """Reads batches, smaller ones after memory has run out."""

    def __init__(self, model, bos: int, budget: int, say=print):
        self.model, self.bos, self.budget, self.say = model, bos, budget, say

    def __call__(self, found: list[Reading], progress=None) -> dict:
        answers, done, waiting = {}, 0, sorted(found, key=lambda r: (r.goes_on, len(r.row)))  # the longest first
        while waiting:
            batch = [waiting.pop()]
            cost = batch[0].cost
            while waiting and cost + waiting[-1].cost <= self.budget and waiting[-1].goes_on == batch[0].goes_on:
                cost += waiting[-1].cost
                batch.append(waiting.pop())
            try:
                answers |= read(self.model, batch, self.bos)
                done += sum(len(r.row) for r in batch)
                if progress:
                    progress(done)
            except Exception as e:
                if not out_of_memory(e):
                    raise
                if len(batch) == 1:
                    text = f"a prompt of {len(batch[0].row)} tokens does not fit into memory"
                    raise UserError(f"{text}; use a device with more, or --max-len") from None
                waiting += batch[::-1]
                self.budget = cost // 2
                self.say(f"memory ran out: at most {self.budget:,} tokens at a time from here on")
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return answers


# ---- the evaluation


PART = 20_000_000  # tokens of prompts held at a time: 80 MB


def decide(task: Task, answers: dict) -> dict[int, bool]:
    """{example: whether the model is right}, by the rules of `core.is_right`."""
    options = {}
    for (i, which), (loss, hit) in answers.items():
        options.setdefault(i, {}).update((c, (loss, hit)) for c in which)
    right = {}
    for i, found in options.items():
        if task.kind == "language_modeling":
            right[i] = found[0][1]
        else:
            losses = [found[c][0] for c in range(len(found))]
            right[i] = losses.index(min(losses)) == task.examples[i]["gold"]
    return right


def work(task: Task, n: int) -> int:
    """Characters of text that scoring n examples of a task reads, about: what progress is counted in."""
    length = lambda value: sum(map(len, value)) if isinstance(value, list) else len(str(value))
    sizes = [sum(length(value) for value in e.values()) for e in task.examples]
    return max(1, round(n * (task.num_fewshot + 1) * sum(sizes) / len(sizes)))


def fingerprint(model) -> str:
    """sha256 of a model's weights."""
    digest = hashlib.sha256()
    for name, p in model.state_dict().items():
        digest.update(name.encode() + p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def task_digest(task: Task, n: int) -> str:
    """Of everything that decides a task's prompts."""
    said = json.dumps([task.kind, task.num_fewshot, task.delimiter, task.examples, n], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def score_task(task: Task, indices, n: int, tokenizer, reader: Reader, max_len=None, progress=None) -> dict[int, bool]:
    """{example: whether the model is right} for some of a task's n examples."""
    try:
        prompts, answers, part, size, first = Prompts(task, n, tokenizer), {}, [], 0, 0
        for k, i in enumerate(indices):
            part += readings(task.kind, i, *prompts.rows(i), max_len, getattr(reader.model, "shares", True))
            size += len(part[-1].row)
            if size > PART or k == len(indices) - 1:
                part = merge(part)
                before, tokens = first / len(indices), max(1, sum(len(r.row) for r in part))
                each = (k + 1 - first) / len(indices) / tokens  # share of the task, a token
                answers |= reader(part, progress and (lambda read, a=before, s=each: progress(a + s * read)))
                part, size, first = [], 0, k + 1
    except UserError as e:
        raise UserError(f"task {task.label}: {e}") from None
    return decide(task, answers)


def evaluate(
    model, tokenizer, bundle, *,
    max_examples=None, tasks=None, progress=None, max_len=None, budget=None, keep=None, say=print,
) -> dict:  # fmt: skip
    """What `core.evaluate` returns, with the same decisions, and each task's "right": its decisions, a text of 0 and 1.

    Args as there, but for: model (our GPT or GPT2, or anything with parameters(), hidden(ids, cache) and head(x));
    progress(done, total, label) counts about characters, so that it grows evenly with time; budget is the most tokens
    of a forward pass (default 1,024 on a CPU, 65,536 on a GPU), halved when memory runs out; keep is (a file, what the
    model is): finished tasks are kept there, and an evaluation of the same model, questions and settings goes on after
    them. Under torchrun every rank scores its share and all of them return the whole.
    """
    bundle, chosen, prepared = core.prepare(bundle, tasks, max_examples, max_len)
    device, training = next(model.parameters()).device, model.training
    reader = Reader(model.eval(), tokenizer.bos, budget or (1024 if device.type == "cpu" else 65_536), say)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    amount = [work(task, n) for task, n in prepared]
    total, right = sum(amount), {}
    for at, (task, n) in enumerate(prepared):
        done, size = sum(amount[:at]), amount[at]
        if keep:
            key = {"model": keep[1], "tokenizer": tokenizer.sha256, "task": task_digest(task, n), "max_len": max_len}
            kept = read_json(keep[0], "kept decisions") if Path(keep[0]).exists() else {}
        if keep and kept.get(task.label, {}).get("key") == key:
            right[task.label] = kept[task.label]["right"]
            if progress:
                progress(done + size, total, task.label)
            continue
        advance = lambda share, done=done, size=size, label=task.label: progress(done + share * size, total, label)
        said = progress and advance
        mine = score_task(task, range(rank, n, world), n, tokenizer, reader, max_len, said)
        if world > 1:
            shares = [None] * world
            dist.all_gather_object(shares, mine)
            mine = {i: value for share in shares for i, value in share.items()}
        right[task.label] = "".join("01"[mine[i]] for i in range(n))
        if keep and rank == 0:
            write_json(keep[0], kept | {task.label: {"key": key, "right": right[task.label]}})
    model.train(training)
    decided = {label: [c == "1" for c in text] for label, text in right.items()}
    found = core.result(bundle, chosen, decided, max_examples, max_len)
    for label, text in right.items():
        found["tasks"][label]["right"] = text
    return found
