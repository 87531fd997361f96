"""What the notebooks of all lessons share: compare with the package, train toy models, read recorded results.

A toy model (`TOY`) trains in seconds on two CPU cores. It shows that a mechanism works and the direction of its effect.
Only the recorded runs in results/ show the size of the effect at full size.
"""

import copy
import csv
import functools
import inspect
import itertools
import json
import math
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import gpt2course
from gpt2course import evaluate
from gpt2course.batches import Batches
from gpt2course.course import build, checks
from gpt2course.course import mine as pieces
from gpt2course.course.cluster import Cluster, split
from gpt2course.data import Corpus, from_list, load_corpus
from gpt2course.evaluate import first_bytes
from gpt2course.files import UserError, closest, in_clone, read_json, write_json
from gpt2course.recipes import LADDER, make_model, make_optimizer, resolve
from gpt2course.tokenizer import Tokenizer, train_or_load

ROOT = Path(gpt2course.__file__).resolve().parent.parent
RESULTS = ROOT / "results"

# 0.3 million parameters; a hundred steps take a few seconds
TOY = dict(depth=2, width=64, head_dim=32, sequence_len=128, vocab_size=1024, batch_tokens=1024, steps=150)
DOCUMENTS = 4000  # documents of the corpus for one toy run, a new sample for each seed
VAL_BYTES = 50_000
# the columns of results/leaderboard.csv that hold numbers
NUMBERS = "hours seconds core core_runs val_bpb depth ratio steps tokens flops usd".split()


def compare(yours: torch.Tensor, ours: torch.Tensor, atol: float = 1e-5) -> None:
    """Print how closely two tensors agree: "equal, number for number", or the largest difference if it is rounding.

    Rounding: each number differs by at most atol + 1e-5 times its size. If one differs by more, the cell stops.
    """
    yours, ours = torch.as_tensor(yours).detach().double(), torch.as_tensor(ours).detach().double()
    if yours.shape != ours.shape:
        raise AssertionError(f"the shapes differ: {tuple(yours.shape)} and {tuple(ours.shape)}")
    largest = (yours - ours).abs().max().item() if yours.numel() else 0.0
    if not torch.allclose(yours, ours, rtol=1e-5, atol=atol):
        raise AssertionError(f"yours and the package's differ by up to {largest:.2g}, more than {atol:g}")
    print(f"equal up to rounding: largest difference {largest:.1g}" if largest else "equal, number for number")


def clock(f, *args, rounds: int = 3) -> float:
    """The fewest seconds that f(*args) took in so many calls, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        f(*args)
        times.append(time.perf_counter() - began)
    return min(times[1:])


@functools.cache
def embedded() -> Corpus:
    """The embedded corpus, read and verified once in each process."""
    return load_corpus("embedded")


def tokenizer(vocab_size: int = TOY["vocab_size"]) -> Tokenizer:
    """The tokenizer of the embedded corpus. The first call trains it and saves it."""
    return train_or_load(embedded(), vocab_size)


def train(recipe: str = "modern", seed: int = 1, progress=None, tok: Tokenizer | None = None, **settings) -> dict:
    """Train a toy model and measure it: {"val_bpb", "tok_per_sec", "loss" (of each step), "seconds", "plan", "model"}.

    settings: any settings of the recipe, by name; TOY gives the sizes. Weights and data depend only on the seed, so two
    runs with the same seed see the same batches. `progress()` is called after each step. tok: a tokenizer in place of
    the embedded corpus's.
    """
    plan = resolve(recipe, **(TOY | settings))
    corpus, T = embedded(), plan.model.sequence_len
    tok = tok or tokenizer(plan.model.vocab_size)
    model = make_model(plan, "cpu").init_weights(seed)
    texts = random.Random(seed).sample(list(corpus.train), min(DOCUMENTS, len(corpus.train)))
    optimizer, batches = make_optimizer(model, plan), Batches(from_list(texts), tok, T)
    losses, began = [], time.perf_counter()
    for step in range(plan.steps):
        rows = torch.from_numpy(batches.next_rows(plan.batch_tokens // T))  # (B, T + 1)
        loss = model(rows[:, :-1], rows[:, 1:].contiguous())
        loss.backward()
        optimizer.step(plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
        optimizer.zero_grad()
        losses.append(loss.item())
        if progress:
            progress()
    seconds = time.perf_counter() - began
    bpb, _ = evaluate.bits_per_byte(model, first_bytes(corpus.val, VAL_BYTES), tok, T)
    speed = plan.tokens / seconds
    return dict(val_bpb=bpb, tok_per_sec=speed, loss=losses, seconds=seconds, plan=plan, model=model)


def experiment(variants: dict[str, dict], seeds=(1, 2), **settings) -> dict[str, list[dict]]:
    """Train every variant with every seed: {name: [the result of `train` for each seed]}.

    variants: name -> settings of `train`, for example {"AdamW": dict(recipe="modern"), "Muon": dict(recipe="muon")};
    `settings` are common to all variants. All variants of a seed run before the next seed, so that a machine that
    becomes slower or faster affects every variant.
    """
    steps = 0
    for variant in variants.values():
        changes = TOY | settings | variant
        steps += len(seeds) * resolve(changes.pop("recipe", "modern"), **changes).steps
    found = {name: [] for name in variants}
    with tqdm(total=steps, unit="step", mininterval=1, leave=False, file=sys.stdout) as bar:
        for seed in seeds:
            for name, variant in variants.items():
                bar.set_description(f"{name}, seed {seed}")
                found[name].append(train(seed=seed, progress=bar.update, **(settings | variant)))
    return found


def table(results: dict[str, list[dict]]) -> None:
    """Show an experiment: for each variant the validation bits per byte (mean, range over seeds) and tokens/s."""
    from IPython.display import Markdown, display

    lines = ["| | val bpb, mean | over seeds | tokens/s |", "|---|---|---|---|"]
    for name, runs in results.items():
        bpb = [r["val_bpb"] for r in runs]
        speed = statistics.median(r["tok_per_sec"] for r in runs)
        lines.append(f"| {name} | {statistics.mean(bpb):.3f} | {min(bpb):.3f} to {max(bpb):.3f} | {speed:,.0f} |")
    display(Markdown("\n".join(lines)))


# ---- holes in a lesson, your own pieces, predictions

_lent = {}  # name -> source of a function of the course that stands in for yours


def hole(lesson: str, function, *inputs: tuple):
    """Your function, if it does with every tuple of arguments what the course's does; else the course's. Prints which.

    The course's version is the solution in the source of the lesson ("05"). Arguments changed in place count too.
    """
    name = getattr(function, "__name__", "<lambda>")
    if not name.isidentifier():
        raise UserError("write the function with def, under the name that the cell above gives it")
    _lent[name] = pieces.source_of(build.lesson_cells(lesson), name)
    space = {"__name__": f"lesson_{lesson}"}
    exec(_lent[name], space)
    for args in inputs:
        try:
            found = []
            for f in (space[name], function):
                given = copy.deepcopy(args)
                found.append((f(*given), given))
        except Exception as e:
            stopped = f"your code stopped with {type(e).__name__}: {e}{checks.where(e)}"
            problem = "not written yet" if checks.untouched(e) else stopped
        else:
            if alike(*found):
                continue
            wanted, got = (result for result, _ in found)
            what = "changes its arguments otherwise than it should"
            problem = f"with {_short(args)} it {what if alike(wanted, got) else _differ(wanted, got)}"
        print(f"{name}: {problem}. The course's version stands in.")
        return space[name]
    del _lent[name]
    print(f"{name}: yours passes")
    return function


def _short(x) -> str:
    """A value on one line: a tensor of more than eight numbers by its shape."""
    if isinstance(x, list | tuple) and any(isinstance(item, torch.Tensor) for item in x):
        return f"({', '.join(map(_short, x))})"
    large = isinstance(x, torch.Tensor) and x.numel() > 8
    return f"a tensor of shape {tuple(x.shape)}" if large else f"{' '.join(str(x).split()):.200}"


def _differ(wanted, got) -> str:
    """What a function gives, and what is expected; of large tensors the first number that differs."""
    if isinstance(wanted, tuple) and isinstance(got, tuple) and len(wanted) == len(got):
        number, wanted, got = next((n, a, b) for n, (a, b) in enumerate(zip(wanted, got), 1) if not alike(a, b))
        return f"gives as result {number}: {_differ(wanted, got).removeprefix('gives ')}"
    if isinstance(wanted, torch.Tensor) and isinstance(got, torch.Tensor) and wanted.shape == got.shape:
        if wanted.numel() > 8:
            place = next(i for i in itertools.product(*map(range, wanted.shape)) if not alike(wanted[i], got[i]))
            return f"gives {got[place]:.4g} at {list(place)}, expected {wanted[place]:.4g}"
    return f"gives {_short(got)}, expected {_short(wanted)}"


def alike(a, b) -> bool:
    """Whether b may stand for a, the wanted result: tensors and numbers up to rounding, lists and tuples item by item.

    Numbers may come as tensors or numpy's, lists as arrays or ranges, truth values as 0 and 1.
    """
    if isinstance(a, torch.Tensor) and isinstance(b, int | float | np.generic | np.ndarray):
        b = torch.as_tensor(b)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=True)
    b = b.tolist() if hasattr(b, "tolist") else list(b) if isinstance(b, range) else b
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) or a != a and b != b
    return type(a) is type(b) and bool(a == b)


def keep(name: str, function) -> None:
    """Keep a function that you wrote as a piece ("attention"), if it passes, with the imports and helpers it needs.

    A function that calls one of the course's, which stands in for yours, is not kept, and replaces no piece of yours.
    """
    if function.__name__ in _lent:
        print(f"{name} is not kept: {function.__name__} is the course's, as you have not written it yet")
        return
    module = sys.modules[function.__module__]
    cells = vars(module).get("In") or [inspect.getsource(module)]  # In: a notebook's cells, as they were run
    source, wanted = pieces.source_of([*cells, *_lent.values()], function.__name__), pieces.find(name).function
    if standing := [n for n, text in _lent.items() if f"def {n}(" in source]:
        print(f"{name} is not kept: in it, {', '.join(standing)} is the course's, as you have not written it yet")
        return
    source += f"\n\n{wanted} = {function.__name__}\n" * (function.__name__ != wanted)
    print(pieces.keep(name, source, "kept in a lesson"))


def mine(name: str):
    """Your piece of this name, or the course's if none is kept that passes; prints which."""
    function, line = pieces.yours(name)
    print(f"{name}: {line}" if function else f"{name}: {line}".replace("the package's", "the course's", 1))
    return function or pieces.stand_in(name)


def train_with(*names: str, **settings) -> dict:
    """`train` with your pieces of these names in place of the package's."""
    with pieces.installed({name: mine(name) for name in names}):
        return train(**settings)


def _note(key: str = "", **entry) -> dict:
    """All predictions and results by key ("06.loss"), after `entry` is added to one of them."""
    path = build.work() / "predictions.json"
    found = read_json(path, "your predictions") if path.exists() else {}
    if key:
        found[key] = found.get(key, {}) | entry
        write_json(path, found)
    return found


def _told(entry: dict) -> str:
    guess, found = entry.get("prediction"), entry["result"]
    if guess is None:
        return f"no prediction, result {found}"
    if isinstance(guess, str) or isinstance(found, str) or not found:
        return f"{guess}, result {found}, {'right' if guess == found else 'not right'}"
    times = guess / found
    if 1 / 3 < times < 3 or times <= 0:
        return f"{guess:.4g}, result {found:.4g}, {times - 1:+.1%}"
    far = f"{times:.1f} times" if times > 1 else f"1/{1 / times:.1f} of"
    return f"{guess:.4g}, result {found:.4g}, {far} the result"


def predict(key: str, value) -> None:
    """Keep what you expect, a number or a word, before you measure it."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, str) and not (isinstance(value, int | float) and math.isfinite(value)):
        raise UserError(f"{key}: a prediction is one number or one word, not {value!r}")
    late = "result" in _note().get(key, {})
    kept = _note()[key] if late else _note(key, prediction=value)[key]
    again = f"; to predict again, delete its entry in {build.relative(build.work() / 'predictions.json')}"
    print(f"{key}: the result is known: {_told(kept)}{again}" if late else f"{key}: you predict {value}")


def result(key: str, value) -> None:
    """Keep a result beside its prediction, and print both."""
    print(f"{key}: {_told(_note(key, result=value)[key])}")


def predictions() -> None:
    """Show your predictions and their results over the course, and how close the numbers came."""
    from IPython.display import Markdown, display

    both = {key: e for key, e in sorted(_note().items()) if e.keys() >= {"prediction", "result"}}
    done = {key: _told(e) for key, e in both.items()}
    words = [line for line in done.values() if line.endswith("right")]
    off = [abs(e["prediction"] / e["result"] - 1) for key, e in both.items() if done[key] not in words]
    text = f"numbers: {len(off)}, half of them within {statistics.median(off or [0]):.1%}; "
    text += f"words: {len(words)}, right {sum(line.endswith(', right') for line in words)}"
    display(
        Markdown(
            "\n".join(["| | prediction |", "|---|---|", *map("| {} | {} |".format, done, done.values()), "", text])
        )
    )


def verdict(a: list[float], b: list[float]) -> None:
    """Whether two lists of bpb over seeds differ by more than the spread of either: one line."""
    apart, spreads = statistics.mean(b) - statistics.mean(a), [max(x) - min(x) for x in (a, b)]
    larger = abs(apart) > max(spreads) and (max(a) < min(b) or max(b) < min(a))
    what = "larger than the spreads" if larger else "overlap: no difference is shown"
    what = what if min(len(a), len(b)) > 1 else "one seed has no spread: nothing is shown"
    print(f"difference {apart:+.4f} bpb; spreads over seeds {spreads[0]:.4f} and {spreads[1]:.4f}; {what}")


# Student's t: the factor of a 95 % confidence interval from 2 to 16 differences
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def paired(before: dict, after: dict) -> tuple[list[float], float]:
    """(after - before for every seed that both have, half the width of their mean's interval); both {seed: bpb}."""
    apart = [after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())]
    if len(apart) < 2:
        return apart, float("inf")
    return apart, T95[len(apart) - 2] * statistics.stdev(apart) / len(apart) ** 0.5


# ---- recorded results


def recorded(what: str) -> list[dict]:
    """The runs of a recorded result, by the name of its folder without the date: `recorded("ladder-laptop")`."""
    folders = sorted(in_clone(RESULTS).glob("*_*/runs.jsonl"))
    paths = {path.parent.name.split("_", 1)[1]: path for path in folders}  # of several dates, the last
    if what not in paths:
        raise UserError(f"there is no recorded result {what!r}; {closest(what, paths)}")
    return [json.loads(line) for line in paths[what].read_text(encoding="utf-8").splitlines()]


def cluster(flops: float) -> Cluster:
    """The recorded grid of lesson 09 behind an offline cluster with so many FLOPs to spend (cluster.py)."""
    return Cluster([*itertools.chain(*split(recorded("isoflop")))], flops)


def published() -> list[dict]:
    """The rows of results/leaderboard.csv as dicts, fastest first: numbers as floats, None for an unknown number."""
    with open(in_clone(RESULTS / "leaderboard.csv"), newline="", encoding="utf-8-sig") as f:
        rows = list(csv.DictReader(f))
    rows = [row | {name: float(row[name]) if row[name] else None for name in NUMBERS} for row in rows]
    return sorted(rows, key=lambda row: row["hours"])


def ladder(upto: str | None = None) -> dict[str, list[float]]:
    """The recorded ladder at laptop size, up to one of its rungs: recipe -> validation bits per byte of each seed.

    gpt2, modern and muon at the best rate and decay of rate-and-decay (of the cells with three seeds or more the one
    with the least mean); where there is none yet, at the best rate of ladder-laptop. The rungs after them are those of
    ladder-seeds, and so are these where it has as many seeds.
    """
    found = {}
    for r in recorded("ladder-laptop"):
        if r["role"] == "ladder":
            found.setdefault(r["recipe"], []).append(r["val_bpb"])
    swept, later = {}, {}
    for r in recorded("rate-and-decay"):
        swept.setdefault((r["arm"], r["rate"], r["decay"]), []).append(r["val_bpb"])
    for r in recorded("ladder-seeds"):
        later.setdefault(r["arm"], []).append(r["val_bpb"])
    whole = [(arm, bpb) for (arm, _, _), bpb in swept.items() if len(bpb) >= 3]
    found |= dict(sorted(whole, key=lambda cell: -statistics.mean(cell[1])))  # the best of an arm comes last and stays
    found |= {arm: bpb for arm, bpb in later.items() if len(bpb) >= max(3, len(found.get(arm, [])))}
    names = [name for name in LADDER if name in found]
    return {name: found[name] for name in (names[: names.index(upto) + 1] if upto else names)}


def provenance(rows: list[dict]) -> str:
    """One line about the origin of recorded runs: device, torch, commits, seeds, and the command."""

    def each(name):
        values = sorted({str(r[name]) for r in rows if r.get(name) is not None})
        return ", ".join(values) if len(values) <= 8 else f"{values[0]} and {len(values) - 1} others (in its file)"

    made = f"{len(rows)} runs on {each('device')}, torch {each('torch')}, commit {each('commit')}, seeds {each('seed')}"
    command = each("command")
    return f"{made}; command: {command}" if command else made
