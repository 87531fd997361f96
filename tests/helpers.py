"""What several test files use: a tiny run and its parts. pytest puts this folder on the path (pyproject.toml)."""

import datetime

import torch

from gpt2course import checkpoint, ranks
from gpt2course.runlog import read_metrics

SIZE = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=300", "batch_tokens=256", "steps=24", "eval_bytes=2000")
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
