"""What several test files use: a tiny run and its parts. pytest puts this folder on the path (pyproject.toml)."""

from gpt2course import checkpoint
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
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
