"""Lesson 10. CORE with the decisions of core.py's plain evaluator, in a fraction of the time.

    python -m gpt2course.fast.core_fast RUN

Read in full, the choices of CORE's 22 tasks are 160 million tokens. What saves work:
- The choices of a question share their prompt. The prompt is read once, and each choice continues from the prompt's
  cache of keys and values. A choice of one token needs only the last position of the prompt.
- If one prompt is a prefix of another (coqa asks many questions on one story), one forward pass serves both.
- The head runs only at scored positions. The last token of a row is not read, since its successor is not scored.
- Each solved example is tokenized once, and prompts are put together from these blocks.
- Prompts of similar length share a forward pass, up to a budget of tokens.
"""

import contextlib
import hashlib
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from gpt2course import core
from gpt2course.attention import Cache
from gpt2course.core_tasks import GPT2_CENTRED, Task, default_bundle, read_bundle
from gpt2course.files import Progress, UserError, command, duration, home, read_json, write_json
from gpt2course.load import load_model
from gpt2course.ranks import Ranks, join, part, pick_device

CHECKED = 16  # examples of a task whose prompts are also encoded whole, to see that blocks give the same tokens
HEAD = 1 << 24  # most logits at a time: 64 MB in float32


@dataclass
class Reading:
    """One row for the model to read, and the answers whose tokens are scored on it.

    `inside` are answers within the row: (answer, the position that predicts its first token, its tokens). `after` are
    answers that follow the row's last token: (answer, its tokens). An answer is (example, its options): equal options
    are read once, so that they tie to the last bit.
    """

    row: np.ndarray  # int32
    inside: list = field(default_factory=list)
    after: list = field(default_factory=list)

    @property
    def continues(self) -> bool:
        """Whether an answer needs a second forward pass, from the row's cache."""
        return any(len(tokens) > 1 for _, tokens in self.after)

    @property
    def cost(self) -> int:
        """Tokens in memory during the reading: each answer of several tokens needs its own copy of the row's cache."""
        lengths = [len(tokens) for _, tokens in self.after]
        copies = max(1, sum(length > 1 for length in lengths))
        return copies * (len(self.row) + max(lengths, default=0))


# ---- from examples to rows of tokens


class Prompts:
    """The token rows of a task's examples, made from blocks. They equal `core.tokens_and_spans` of whole prompts."""

    def __init__(self, task: Task, n: int, tokenizer):
        self.task, self.tokenizer, self.blocks = task, tokenizer, {}
        sample = sorted(random.Random(0).sample(range(n), min(CHECKED, n)))
        self.fits = True  # whether blocks give the tokens of whole prompts
        self.fits = all(self.rows(i) == self.whole(i) for i in sample)

    def whole(self, i: int):
        """(rows, spans) of example i as the plain evaluator makes them."""
        prompts = core.render(self.task, i, core.few_shot(self.task, i))
        return core.tokens_and_spans(self.task.kind, prompts, self.tokenizer)

    def block(self, j: int) -> list[int]:
        """The tokens of example j as a solved one."""
        if j not in self.blocks:
            self.blocks[j] = self.tokenizer.encode(core.solved(self.task, j) + "\n\n")
        return self.blocks[j]

    def rows(self, i: int):
        """(rows, spans) of example i."""
        shots = core.few_shot(self.task, i)
        last = core.render(self.task, i, [])  # the prompts without solved examples
        if not self.fits or shots and self.task.kind == "language_modeling" and last[1][:1].isspace():
            return self.whole(i)  # an empty question: `render` strips a space here but not after solved examples
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
        rows, spans = core.crop(rows, spans, max_len)  # rows lose different numbers of tokens: no common prefix
    options = {}  # (row, span) -> the options that have it
    for c, (row, span) in enumerate(zip(rows, spans)):
        options.setdefault((tuple(row), span), []).append(c)
    distinct = [((i, tuple(which)), list(row), span) for (row, span), which in options.items()]
    if kind == "multiple_choice" and whole and (shares or max(end - start for start, end in spans) == 1):
        start = spans[0][0]
        after = [(answer, row[start:]) for answer, row, _ in distinct]
        return [Reading(np.array(rows[0][:start], np.int32), after=after)]
    found = []
    for answer, row, (start, end) in distinct:
        start = start or end  # see core.score: no token precedes the first one
        found.append(Reading(np.array(row[: end - 1], np.int32), inside=[(answer, start - 1, row[start:end])]))
    return found


def merge(found: list[Reading]) -> list[Reading]:
    """Move the answers of each row that is a prefix of another to the longer row."""
    kept = []
    in_order = lambda r: r.row.astype(">u4").tobytes()  # reversed, a prefix comes right after the longer row
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
    n = max(1, HEAD // head(x[:1]).size(-1))  # rows whose logits are made at a time
    losses, hits = [], []
    for some, target in zip(x.split(n), targets.to(x.device).split(n)):
        logits = head(some).float()  # (n, V)
        losses.append(F.cross_entropy(logits, target, reduction="none").cpu())
        hits.append((logits.argmax(dim=-1) == target).cpu())
    return torch.cat(losses), torch.cat(hits)


def at(x: torch.Tensor, wanted: list) -> torch.Tensor:
    """The states (N, C) that x (B, T, C) has at the rows and positions wanted."""
    index = torch.tensor([w[:2] for w in wanted], dtype=torch.long, device=x.device).reshape(-1, 2)
    return x[index[:, 0], index[:, 1]]


@torch.no_grad()
def read(model, batch: list[Reading], bos: int) -> dict:
    """{answer: (mean loss, whether all of it is the argmax)} of some readings, in one or two forward passes.

    model has hidden(ids (B, T), cache) -> (B, T, C) and head(x) -> logits. An empty answer has the loss NaN, as in
    core.score.
    """
    device = next(model.parameters()).device
    longest = max(len(r.row) for r in batch)
    tails = [(b, answer, tokens) for b, r in enumerate(batch) for answer, tokens in r.after if len(tokens) > 1]
    ids = torch.full((len(batch), longest), bos)  # (B, T)
    pad = [longest - len(r.row) if tails else 0 for r in batch]  # rows that continue are padded on the left
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
        cache.keep([b for b, _, _ in tails])  # a copy of its row's cache for each tail
        ids = torch.full((len(tails), max(len(tokens) for _, _, tokens in tails) - 1), bos)
        more = []
        for k, (_, answer, tokens) in enumerate(tails):
            ids[k, : len(tokens) - 1] = torch.tensor(tokens[:-1])
            more += [(k, position, answer, t) for position, t in enumerate(tokens[1:])]
        states.append(at(model.hidden(ids.to(device), cache), more))
        wanted += more
    targets = torch.tensor([w[3] for w in wanted], dtype=torch.long)
    losses, hits = losses_and_hits(model.head, torch.cat(states), targets)
    if losses.isnan().any():
        raise UserError(core.NAN_LOGITS)

    where = {answer: [] for r in batch for answer, *_ in [*r.inside, *r.after]}
    for k, w in enumerate(wanted):
        where[w[2]].append(k)  # in the order of the answer's tokens
    mean = lambda ks: losses[ks].mean().item() if ks else math.nan
    return {answer: (mean(ks), bool(hits[ks].all())) for answer, ks in where.items()}


class Reader:
    """Reads rows in batches of at most `budget` tokens; halves the budget when memory runs out."""

    def __init__(self, model, bos: int, budget: int):
        self.model, self.bos, self.budget = model, bos, budget

    def __call__(self, found: list[Reading], progress=None) -> dict:
        answers, waiting = {}, sorted(found, key=lambda r: (r.continues, len(r.row)))  # the longest are read first
        done, total = 0, sum(len(r.row) for r in found)
        while waiting:
            batch = [waiting.pop()]
            cost = batch[0].cost
            while waiting and cost + waiting[-1].cost <= self.budget and waiting[-1].continues == batch[0].continues:
                cost += waiting[-1].cost
                batch.append(waiting.pop())
            try:
                answers |= read(self.model, batch, self.bos)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise UserError(f"a prompt of {len(batch[0].row)} tokens does not fit into memory") from None
                waiting += batch[::-1]
                self.budget = cost // 2
                print(f"memory ran out: at most {self.budget:,} tokens a forward pass from here on", flush=True)
                torch.cuda.empty_cache()
                continue
            done += sum(len(r.row) for r in batch)
            if progress:
                progress(done / max(1, total))
        return answers


# ---- the evaluation


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


def score_task(task: Task, indices, n: int, tokenizer, reader: Reader, max_len=None, progress=None) -> dict[int, bool]:
    """{example: whether the model is right} for some of a task's n examples. progress(share of the work)."""
    shares = getattr(reader.model, "shares", True)
    try:
        prompts = Prompts(task, n, tokenizer)
        found = [r for i in indices for r in readings(task.kind, i, *prompts.rows(i), max_len, shares)]
        return decide(task, reader(merge(found), progress))
    except UserError as e:
        raise UserError(f"task {task.label}: {e}") from None


def fingerprint(model) -> str:
    """sha256 of a model's weights."""
    digest = hashlib.sha256()
    for name, p in model.state_dict().items():
        digest.update(name.encode() + p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def key_of(task: Task, n: int, max_len, tokenizer, model: str) -> str:
    """sha256 of all that the decisions on a task depend on."""
    parts = [model, tokenizer.sha256, max_len, task.kind, task.num_fewshot, task.delimiter, task.examples, n]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def evaluate(
    model, tokenizer, bundle, *, max_examples=None, tasks=None, progress=None, max_len=None, budget=None, keep=None,
    team=None,
) -> dict:  # fmt: skip
    """What `core.evaluate` returns, with the same decisions, and each task's "right": its decisions, a text of 0 and 1.

    Args as there, but for: model (our GPT or GPT2, or anything with parameters(), hidden(ids, cache) and head(x));
    progress(done, total, label) estimates the work in characters; budget is the most tokens of a forward pass (default
    1,024 on a CPU, 65,536 on a GPU); keep is (a file, the model's fingerprint): the decisions on finished tasks are
    written to the file, and an evaluation of the same model and questions uses them.
    The ranks of `team` share the examples, and all of them return the whole.
    """
    bundle, chosen, prepared = core.prepare(bundle, tasks, max_examples, max_len)
    team = team or Ranks()
    device, training = next(model.parameters()).device, model.training
    reader = Reader(model.eval(), tokenizer.bos, budget or (1024 if device.type == "cpu" else 65_536))
    sizes = [n * (task.num_fewshot + 1) * len(str(task.examples[0])) for task, n in prepared]  # characters, about
    total = sum(sizes)
    done, right, kept = 0, {}, {}
    with contextlib.suppress(UserError):  # no file, or a damaged one
        kept = read_json(keep[0]) if keep else {}
    for (task, n), size in zip(prepared, sizes):
        key = key_of(task, n, max_len, tokenizer, keep[1]) if keep else None
        if keep and key in kept:
            right[task.label] = kept[key]
        else:
            advance = lambda share, done=done, size=size, label=task.label: progress(done + share * size, total, label)
            indices = range(team.rank, n, team.world)
            mine = score_task(task, indices, n, tokenizer, reader, max_len, progress and advance)
            every = {i: value for share in team.all(mine) for i, value in share.items()}
            right[task.label] = "".join("01"[every[i]] for i in range(n))
            if keep and team.first:
                kept[key] = right[task.label]
                with contextlib.suppress(OSError):  # a home that is read-only, or full
                    write_json(keep[0], kept)
        done += size
        if progress:
            progress(done, total, task.label)
    model.train(training)
    decided = {label: [c == "1" for c in text] for label, text in right.items()}
    found = core.result(bundle, chosen, decided, max_examples, max_len)
    for label, text in right.items():
        found["tasks"][label]["right"] = text
    return found


# ---- the command


@dataclass
class Core:
    """Score a run's newest checkpoint on CORE, or on any bundle in the same layout, and print a table.

    Without --bundle: CORE's, if `python -m gpt2course.ops.download core` has fetched it, else mini-CORE, a small bundle
    that comes with the code. A mini-CORE score cannot be compared with CORE. If the evaluation is interrupted, the same
    command continues after the finished tasks.

    Example: torchrun --standalone --nproc_per_node=8 -m gpt2course.fast.core_fast jan29-d24 --out core.json
    """

    run: tyro.conf.Positional[str]  # name of a run, or path of a run, a checkpoint or an exported folder
    bundle: str | None = None  # folder or zip with core.yaml, eval_meta_data.csv and eval_data/
    max_examples: int | None = None  # at most this many examples a task (a quick, biased look); default: all
    tasks: tuple[str, ...] = ()  # labels of the tasks to score; default: all
    out: str | None = None  # write the result, the table and GPT-2's scores to this file as JSON
    device: str = "auto"  # auto, cpu, cuda or mps


def score(args: Core, load: Callable) -> None:
    """Run the command: load(path, device) gives (model, tokenizer). Several ranks share the work; rank 0 prints."""
    team, began = join(pick_device(args.device).type), time.monotonic()
    path = args.bundle or default_bundle()
    bundle = read_bundle(path)  # before the model: a damaged bundle is an error at once
    model, tokenizer = load(args.run, args.device)
    name, progress = fingerprint(model), Progress() if team.first else None
    found = evaluate(
        model, tokenizer, bundle, max_examples=args.max_examples, tasks=args.tasks, progress=progress,
        max_len=model.max_len, team=team, keep=(home() / "eval" / "kept" / f"{name[:16]}.json", name),
    )  # fmt: skip
    if team.first:
        table = core.table(found)
        print(f"{args.run} on {bundle.name} ({path})\n{table}")
        print(f"{found['n']:,} examples in {duration(time.monotonic() - began)}")
        if args.out:
            write_json(args.out, {"result": found, "table": table, "gpt2": GPT2_CENTRED})
    part(done=True)


def main(args: Core) -> None:
    score(args, lambda path, device: load_model(path, device)[:2])


if __name__ == "__main__":
    command(main)
