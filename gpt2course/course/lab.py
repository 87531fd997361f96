"""What every lesson's notebook uses: compare with the package, train toy models side by side, read recorded runs.

A toy model (`TOY`) trains in seconds on two CPU cores. It shows that a mechanism works and which way an effect points;
how large the effect is at full size, only the recorded runs in results/ can say.
"""

import json
import random
import statistics
import sys
import time
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

import gpt2course
from gpt2course.batches import Batches
from gpt2course.data import from_list, load_corpus
from gpt2course.evaluate import bits_per_byte, first_bytes
from gpt2course.files import UserError
from gpt2course.recipes import LADDER, make_model, make_optimizer, resolve
from gpt2course.tokenizer import Tokenizer, train_or_load

RESULTS = Path(gpt2course.__file__).resolve().parent.parent / "results"

# a model for lessons: 0.3 million parameters, a few seconds for a hundred steps
TOY = dict(depth=2, width=64, head_dim=32, sequence_len=128, vocab_size=1024, batch_tokens=1024, steps=150)
DOCUMENTS = 4000  # of the corpus, drawn anew for each seed
VAL_BYTES = 50_000


def compare(yours: torch.Tensor, ours: torch.Tensor, atol: float = 1e-5) -> None:
    """Print how far two tensors agree, and stop with an error unless they do.

    It prints "exact: True | approximate: True | maxdiff: 0".
    approximate: within atol + 1e-5 of the size of ours, number by number.
    """
    yours, ours = torch.as_tensor(yours).detach(), torch.as_tensor(ours).detach()
    if yours.shape != ours.shape:
        raise AssertionError(f"the shapes differ: {tuple(yours.shape)} and {tuple(ours.shape)}")
    yours, ours = yours.double(), ours.double()
    exact, approximate = torch.equal(yours, ours), torch.allclose(yours, ours, rtol=1e-5, atol=atol)
    maxdiff = (yours - ours).abs().max().item() if yours.numel() else 0.0
    print(f"exact: {exact} | approximate: {approximate} | maxdiff: {maxdiff:.2g}")
    if not approximate:
        raise AssertionError(f"yours and the package's differ by up to {maxdiff:.2g}, more than {atol:g}")


def tokenizer(vocab_size: int = TOY["vocab_size"]) -> Tokenizer:
    """The tokenizer of the embedded corpus, trained at the first call and kept."""
    return train_or_load(load_corpus("embedded"), vocab_size)


def train(recipe: str = "modern", seed: int = 1, progress=None, **settings) -> dict:
    """Train a toy model and measure it: {"val_bpb", "tok_per_sec", "loss" (one a step), "seconds", "plan", "model"}.

    settings: any of the recipe's by name (TOY fills in the sizes). Weights and data depend on the seed alone, so two
    runs with one seed see the same batches. progress is called with nothing after each step.
    """
    plan = resolve(recipe, **(TOY | settings))
    corpus, T = load_corpus("embedded"), plan.model.sequence_len
    tok = tokenizer(plan.model.vocab_size)
    model = make_model(plan, "cpu").init_weights(seed)
    documents = random.Random(seed).sample(range(len(corpus.train)), min(DOCUMENTS, len(corpus.train)))
    optimizer, batches = make_optimizer(model, plan), Batches(from_list([corpus.train[i] for i in documents]), tok, T)
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
    bpb, _ = bits_per_byte(model, first_bytes(corpus.val, VAL_BYTES), tok, T)
    return {
        "val_bpb": bpb, "tok_per_sec": plan.tokens / seconds, "loss": losses, "seconds": seconds,
        "plan": plan, "model": model,
    }  # fmt: skip


def experiment(variants: dict[str, dict], seeds=(1, 2), **settings) -> dict[str, list[dict]]:
    """Train every variant with every seed: {name: [what `train` gives, seed by seed]}.

    variants: name -> settings of `train`, for example {"AdamW": dict(recipe="modern"), "Muon": dict(recipe="muon")};
    settings are common to all. Seeds take turns, so that a change in the machine's pace meets every variant.
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
    """Show an experiment: each variant's validation bits per byte (mean, least to most of the seeds) and tokens/s."""
    from IPython.display import Markdown, display

    lines = ["| | val bpb, mean | over seeds | tokens/s |", "|---|---|---|---|"]
    for name, runs in results.items():
        bpb = [r["val_bpb"] for r in runs]
        speed = statistics.median(r["tok_per_sec"] for r in runs)
        lines.append(f"| {name} | {statistics.mean(bpb):.3f} | {min(bpb):.3f} to {max(bpb):.3f} | {speed:,.0f} |")
    display(Markdown("\n".join(lines)))


def words(lesson: str) -> None:
    """Show the words that a lesson ("05") brings in, from lessons/glossary.yaml."""
    from IPython.display import Markdown, display

    path = RESULTS.parent / "lessons" / "glossary.yaml"
    if not path.is_file():
        raise UserError(
            f"there is no glossary at {path}; it comes with a clone of the course, not with the package alone"
        )
    entries = yaml.safe_load(path.read_text())[lesson]
    display(Markdown("\n".join(f"- **{word}**: {text}" for word, text in entries.items())))


def recorded(what: str) -> list[dict]:
    """The lines of a recorded runs.jsonl, by the name of its folder without the date: `recorded("ladder-laptop")`."""
    if not RESULTS.is_dir():
        raise UserError(
            f"there are no recorded results at {RESULTS}; "
            "they come with a clone of the course, not with the package alone"
        )
    found = sorted(RESULTS.glob(f"*_{what}/runs.jsonl"))
    if not found:
        there = sorted({p.parent.name.split("_", 1)[1] for p in RESULTS.glob("*_*/runs.jsonl")})
        raise UserError(f"there is no recorded result {what!r}; there are {', '.join(there)}")
    return [json.loads(line) for line in found[-1].read_text().splitlines()]


def ladder(upto: str | None = None) -> dict[str, list[float]]:
    """The recorded ladder, laptop size: recipe -> validation bits per byte of each seed.

    The rungs are those up to `upto`, or all there are; one without a recorded run is left out.
    """
    names = list(LADDER)
    if upto is not None and upto not in names:
        raise UserError(f"rung {upto!r} does not exist; the ladder is {', '.join(names)}")
    rungs = names[: names.index(upto) + 1] if upto else names
    rows = [r for r in recorded("ladder-laptop") if r["role"] == "ladder"]
    found = {name: [r["val_bpb"] for r in rows if r["recipe"] == name] for name in rungs}
    return {name: bpb for name, bpb in found.items() if bpb}


def provenance(rows: list[dict]) -> str:
    """One line that says where recorded runs come from: device, torch, commits, seeds, and the command."""

    def each(name):
        return ", ".join(sorted({str(r[name]) for r in rows if r.get(name) is not None}))

    made = f"{len(rows)} runs on {each('device')}, torch {each('torch')}, commit {each('commit')}, seeds {each('seed')}"
    command = each("command")
    return f"{made}; command: {command}" if command else made
