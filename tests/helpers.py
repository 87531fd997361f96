"""What several test files use: a tiny run and its parts. pytest puts this folder on the path (pyproject.toml)."""

import ast
import datetime
import json
import os
import random
import sys
from pathlib import Path

import torch

from gpt2course import checkpoint, ranks
from gpt2course.data import load_corpus
from gpt2course.files import write_json
from gpt2course.runlog import read_metrics

SIZE = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=300", "batch_tokens=256", "steps=24", "eval_bytes=2000")
ROOT = Path(__file__).parents[1]
TIMING = {"seconds", "tok_per_sec", "eta_seconds", "time", "took", "leaderboard_seconds", "mfu", "usd"}


def curve(run) -> list[dict]:
    """Every line of the metrics that must not depend on interruptions: all but checkpoints, without timings."""
    return [{k: v for k, v in line.items() if k not in TIMING} for line in read_metrics(run) if line["kind"] != "checkpoint"]


def weights(run) -> dict:
    """The tensors of a run's newest good checkpoint."""
    from safetensors.torch import load_file

    return load_file(checkpoint.newest(run)[0] / "model.safetensors")


def same(a: dict, b: dict) -> bool:
    """Whether two dicts hold the same tensors to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _worker(rank, world, where, job, seconds):
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=seconds)
    torch.distributed.init_process_group("gloo", init_method=f"file://{where}/rendezvous", rank=rank, world_size=world, timeout=timeout)
    found = job(rank, world)
    torch.save(found, f"{where}/{rank}.pt")  # a test's own file, read below with weights_only
    ranks.part()


def on_ranks(world, where, job, seconds=600):
    """What job(rank, world) returns on each of `world` ranks; an exchange may take so many seconds."""
    where.mkdir()
    torch.multiprocessing.spawn(_worker, (world, str(where), job, seconds), world)
    return [torch.load(where / f"{rank}.pt", weights_only=True) for rank in range(world)]


def write_corpus(path, texts) -> str:
    """A corpus of these documents, as one jsonl file."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def grammar(n=400) -> list[str]:
    """Documents with structure to learn: sentences of a small grammar."""
    draw = random.Random(0)
    subjects, verbs, objects = (["the cat", "a dog", "the old man", "my friend"], ["sees", "likes", "paints"], ["the sea", "a house", "some bread"])
    sentence = lambda: f"{draw.choice(subjects)} {draw.choice(verbs)} {draw.choice(objects)}"  # noqa: E731
    return [". ".join(sentence() for _ in range(draw.randint(1, 9))) for _ in range(n)]


def embedded_corpus(folder, n) -> str:
    """The first documents of the embedded corpus, n to train on and 20 to validate."""
    text = load_corpus("embedded")
    write_corpus(folder / "train.jsonl", [text.train[i] for i in range(n)])
    write_corpus(folder / "val.jsonl", [text.val[i] for i in range(20)])
    return str(folder)


def papermill(home, book, out, *parameters, threads="1"):
    """(command, environment) that run a notebook of runbooks/ as a person does, with `home` as GPT2COURSE_HOME."""
    kernel = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "gpt2course", "language": "python"}
    write_json(home / "jupyter" / "kernels" / "gpt2course" / "kernel.json", kernel)  # where papermill looks first
    argv = [sys.executable, "-m", "papermill", str(ROOT / "runbooks" / f"{book}.ipynb"), str(out), "-k", "gpt2course", "--log-output", "--no-progress-bar"]
    env = os.environ | {"JUPYTER_PATH": str(home / "jupyter"), "GPT2COURSE_HOME": str(home), "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
    return [*argv, *parameters], env


def committed(book):
    """The committed notebook of runbooks/, which must be what its source makes, without outputs."""
    import jupytext
    import nbformat

    path = ROOT / "runbooks" / f"{book}.ipynb"
    made, source = nbformat.read(path, 4), jupytext.read(path.with_suffix(".py"))
    nbformat.validate(made)
    parts = lambda nb: [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in nb.cells]  # noqa: E731
    assert parts(made) == parts(source), f"run: jupytext --to ipynb --update runbooks/{book}.py"
    assert made.metadata.kernelspec.name == "gpt2course" and set(made.metadata) == {"kernelspec"}
    for cell in made.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None and cell.outputs == [] and ast.parse(cell.source)
    return made
