"""Numbers frozen before the redesign of November 2026 (commit c7ce91c). Every one must stay.

A change that moves a number on purpose changes golden.json in the same commit and says why in LOG.md:

    python tests/whole/test_golden.py            # measure everything again and write golden.json

Weights and packed rows are compared by hash. Float results depend on the processor and on torch's build to the last bit, so on
another processor, or with another torch, hashes of weights are left out and curves are compared to a tolerance.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpt2course import core, train
from gpt2course.batches import Batches
from gpt2course.core_tasks import MINI, read_bundle
from gpt2course.data import load_corpus
from gpt2course.evaluate import bits_per_byte, first_bytes
from gpt2course.fast import core_fast
from gpt2course.optim import Group, MuonAdamW
from gpt2course.recipes import LADDER, make_model, resolve
from gpt2course.runlog import cpu_name, read_metrics
from gpt2course.tokenizer import train_or_load

GOLDEN = Path(__file__).with_name("golden.json")
SIZE = ("depth=2", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=300", "batch_tokens=256", "steps=24", "eval_bytes=2000")
CORE_SIZE = dict(depth=2, width=32, head_dim=16, sequence_len=512, vocab_size=512)
REAL = Path(os.environ.get("GPT2COURSE_DEV_DATA", ".")) / "core" / "eval_bundle.zip"


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def weights(run) -> str:
    """A hash of a run's last weights."""
    tensors = load_file(sorted((run / "checkpoints").glob("step_*"))[-1] / "model.safetensors")
    return digest(*(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors)))


def toy_corpus(folder) -> str:
    """Sentences with structure to learn."""
    draw = random.Random(0)
    who, does, what = ["the cat", "a dog", "my friend"], ["sees", "likes", "paints"], ["the sea", "a house", "some bread"]
    path = Path(folder) / "toy.jsonl"
    with open(path, "w") as f:
        for _ in range(400):
            text = ". ".join(f"{draw.choice(who)} {draw.choice(does)} {draw.choice(what)}" for _ in range(draw.randint(1, 9)))
            f.write(json.dumps({"text": text}) + "\n")
    return str(path)


def curve(run) -> dict:
    lines = read_metrics(run)
    return {
        "loss": [line["loss"] for line in lines if line["kind"] == "train"],
        "val_bpb": [line["val_bpb"] for line in lines if line["kind"] == "eval"],
        "weights": weights(run),
    }


def decay(recipe):
    """The recipe's own: the laptop profile, whose other sizes SIZE replaces, has had one of its own since 29 November 2026."""
    return f"weight_decay={LADDER[recipe].weight_decay}"


def train_once(corpus, recipe, name, **changes):
    fixed = dict(set=(*SIZE, decay(recipe)), corpus=corpus, device="cpu", log_seconds=1e9, save_minutes=1e9, device_batch=4, seed=7)
    with contextlib.redirect_stdout(io.StringIO()):
        return train.train(train.Train(recipe, name=name, **(fixed | changes)))


def measure_recipe(corpus, recipe):
    return curve(train_once(corpus, recipe, recipe))


def measure_resumed(corpus):
    train_once(corpus, "record", "resumed", stop_after=11)
    return curve(train_once(corpus, "record", "resumed"))


def measure_two_ranks(corpus):
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "gpt2course.train", "record", "--name", "two"]
    argv += ["--corpus", corpus, "--device", "cpu", "--device-batch", "4", "--seed", "7", "--set", *SIZE, decay("record")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return curve(Path(os.environ["GPT2COURSE_HOME"]) / "runs" / "two")


def measure_optimizer():
    """Three steps of Muon (both recipes' switches) and of AdamW on a tall, a wide and a square matrix."""
    found = {}
    for name, kind, switches in (("jan29", "muon", {}), ("record", "muon", dict(row_norm=True, renorm=True, safety=1.01)), ("adamw", "adamw", {})):
        draw = torch.Generator().manual_seed(3)
        params = {str(s): torch.nn.Parameter(torch.randn(*s, generator=draw)) for s in ((24, 8), (8, 24), (16, 16))}
        optimizer = MuonAdamW([Group(name="matrices", kind=kind, params=params, lr=0.02, weight_decay=0.1, **switches)])
        for step in range(3):
            for p in params.values():
                p.grad = torch.randn(p.shape, generator=draw)
            optimizer.step(1.0 - 0.2 * step, 0.9, 0.5)
        found[name] = {key: [round(p.abs().sum().item(), 4), digest(p.detach().numpy().tobytes())] for key, p in params.items()}
    return found


def measure_data():
    """The embedded corpus, a tokenizer, packed rows in order, and bits per byte of an untrained model."""
    corpus = load_corpus("embedded")
    tokenizer = train_or_load(corpus, 512)
    rows = Batches(corpus.train, tokenizer, 64, streams=8).next_rows(96)
    half = Batches(corpus.train, tokenizer, 64, streams=8, rank=1, world=2).next_rows(48)
    model = make_model(resolve("record", **CORE_SIZE, batch_tokens=512, steps=1)).init_weights(5)
    torch.nn.init.normal_(model.lm_head.weight, 0, 0.3, generator=torch.Generator().manual_seed(1))
    bpb, size = bits_per_byte(model, first_bytes(corpus.val, 30_000), tokenizer, 64)
    return {
        "val_sha256": corpus.val_sha256, "documents": len(corpus.train), "tokenizer": tokenizer.sha256,
        "rows": digest(rows.astype("int64").tobytes()), "rows_of_rank_1": digest(half.astype("int64").tobytes()), "bpb": bpb, "bytes": size,
    }  # fmt: skip


def measure_core(path, most):
    """Which examples a random model gets right, by the plain and by the fast evaluator."""
    tokenizer = train_or_load(load_corpus("embedded"), 512)
    bundle = read_bundle(path)
    found = {}
    for recipe in ("gpt2", "record"):
        model = make_model(resolve(recipe, **CORE_SIZE, batch_tokens=512, steps=1)).init_weights(5).eval()
        if recipe == "record":
            torch.nn.init.normal_(model.lm_head.weight, 0, 0.3, generator=torch.Generator().manual_seed(1))
            for block in model.blocks:
                for linear in (block.attn.c_proj, block.mlp.c_proj):
                    torch.nn.init.normal_(linear.weight, 0, 0.2, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            plain = core.evaluate(model, tokenizer, bundle, max_examples=most, max_len=model.max_len)
            fast = core_fast.evaluate(model, tokenizer, bundle, max_examples=most, max_len=model.max_len)
        tasks = {k: [t["n"], round(t["accuracy"] * t["n"])] for k, t in plain["tasks"].items()}
        same = {k: t["accuracy"] for k, t in plain["tasks"].items()} == {k: t["accuracy"] for k, t in fast["tasks"].items()}
        found[recipe] = {"right": tasks, "core": plain["core"], "fast_is_plain": same}
    return found


def where() -> dict:
    """What the last bit of a float depends on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    kind = [line.split(":")[1].strip() for line in info.split("\n\n")[0].splitlines() if line.split("\t")[0] in ("cpu family", "model")]
    return {"cpu": " ".join([cpu_name(), *kind]), "torch": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability()}


def parts(corpus) -> dict:
    """name -> function that measures it."""
    found = {f"train/{name}": (lambda name=name: measure_recipe(corpus, name)) for name in LADDER}
    found |= {"train/resumed": lambda: measure_resumed(corpus), "train/two ranks": lambda: measure_two_ranks(corpus)}
    found |= {"optimizer": measure_optimizer, "data": measure_data, "core/mini": lambda: measure_core(MINI, 25)}
    if REAL.exists():
        found["core/real"] = lambda: measure_core(REAL, 3)
    return found


NAMES = [*(f"train/{name}" for name in LADDER), "train/resumed", "train/two ranks", "optimizer", "data", "core/mini", "core/real"]


def differences(now, then, exact: bool, at: str = "") -> list[str]:
    """Where two measurements differ: to the bit if `exact`, else hashes of weights are left out and floats may be 1e-3 apart."""
    if isinstance(then, dict):
        if not isinstance(now, dict) or now.keys() != then.keys():
            return [f"{at}: keys {sorted(now)} instead of {sorted(then)}"]
        return [d for k in then for d in differences(now[k], then[k], exact, f"{at}/{k}")]
    if isinstance(then, list):
        if len(now) != len(then):
            return [f"{at}: {len(now)} values instead of {len(then)}"]
        return [d for i, (a, b) in enumerate(zip(now, then)) for d in differences(a, b, exact, f"{at}/{i}")]
    if exact or not (isinstance(then, float) or at.startswith(("/optimizer", "/train")) and isinstance(then, str)):
        return [] if now == then else [f"{at}: {now!r} instead of {then!r}"]
    return [] if isinstance(then, str) or abs(now - then) <= 1e-3 * max(1, abs(then)) else [f"{at}: {now} is far from {then}"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    before, threads = os.environ.get("GPT2COURSE_HOME"), torch.get_num_threads()
    os.environ["GPT2COURSE_HOME"] = str(folder)
    torch.set_num_threads(1)
    yield parts(toy_corpus(folder))
    torch.set_num_threads(threads)
    os.environ.pop("GPT2COURSE_HOME")
    if before is not None:
        os.environ["GPT2COURSE_HOME"] = before


SLOW = ("train/two ranks",)  # tests/core/test_ranks.py compares ranks in seconds


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES])
def test_golden(measured, name):
    golden = json.loads(GOLDEN.read_text())
    if name not in measured:
        pytest.skip("GPT2COURSE_DEV_DATA has no core/eval_bundle.zip")
    assert differences(measured[name](), golden[name], where() == golden["where"], f"/{name}") == []


def test_one_run_in_two_pieces_and_on_two_ranks():
    """What the numbers say about each other: a resumed run is the undisturbed one; two ranks agree to what Adam makes of rounding."""
    golden = json.loads(GOLDEN.read_text())
    whole, resumed, two = (golden[f"train/{name}"] for name in ("record", "resumed", "two ranks"))
    assert resumed == whole
    assert max(abs(a - b) for a, b in zip(two["loss"], whole["loss"])) < 1e-3  # eps is 1e-10: see LOG.md


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPT2COURSE_HOME"] = folder
        found = {name: make() for name, make in parts(toy_corpus(folder)).items()}
    GOLDEN.write_text(json.dumps({"where": where()} | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
