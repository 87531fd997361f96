"""Whatever comes in, the outcome is success or one line of error: never a traceback, never something half-written.

Thousands of draws: settings, damaged corpora, bundles, checkpoints, tokenizers, metrics. The lines that
real people meet stand below as examples. Papermill's parameters and the sizes of a run: tests/ops/test_runbook.py.
"""

import contextlib
import io
import json
import random
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2course import checkpoint, train
from gpt2course.core import evaluate as evaluate_core
from gpt2course.core_tasks import MINI, read_bundle
from gpt2course.data import load_corpus
from gpt2course.files import UserError, coerce, write_json
from gpt2course.load import load_model
from gpt2course.ops.leaderboard import CSV
from gpt2course.ops.leaderboard import read as read_leaderboard
from gpt2course.ops.parameters import Params, open_run
from gpt2course.recipes import (
    LADDER,
    Recipe,
    make_model,
    make_optimizer,
    resolve,
    resolve_run,
    settings_from_text,
)
from gpt2course.runlog import read_metrics
from gpt2course.tokenizer import Tokenizer

TINY = dict(depth=2, width=32, head_dim=16, sequence_len=32, vocab_size=300, batch_tokens=256, steps=3, eval_bytes=1000)
FIELDS = list(Recipe.__dataclass_fields__)
many = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
some = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def outcome(give):
    """What came of it: a value, or the text of the UserError. Anything else is a bug."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return give()
    except UserError as e:
        text = str(e)
        assert text and "\n" not in text and len(text) < 3000, text
        return text


# ---- values

texts = st.one_of(
    st.text(max_size=20), st.sampled_from(["", "none", "None", "null", "true", "True", "1e-3", "1_000", "04", "-1", "0", "nan", "inf", "1e999", "9" * 5000, "[1,2]", "(1, 2)", "1,5", "٣", "../x", "a b", "\x00", "~", "café"])
)  # fmt: skip
values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.lists(st.floats(), max_size=3), st.just(10**5000))
sizes = st.one_of(st.integers(-2, 300), st.sampled_from(["LS", "SX", 2**20, 0.5]))


@many
@given(st.sampled_from([bool, int, float, str, int | None, float | None, tuple[float, float], tuple[float, float] | None]), values)
def test_coerce_gives_the_kind_or_one_line(kind, value):
    found = outcome(lambda: ("ok", coerce("x", value, kind, *([-10, 1000] if kind in (int, float) else []))))
    if isinstance(found, tuple):
        got = found[1]
        if kind is int:
            assert type(got) is int and -10 <= got <= 1000
        if kind is float:
            assert type(got) is float and -10 <= got <= 1000
        if kind is bool:
            assert type(got) is bool
    else:
        assert found.startswith("x = ") and "it must be" in found


@many
@given(st.sampled_from(list(LADDER)), st.dictionaries(st.sampled_from(FIELDS), st.one_of(values, sizes), max_size=3))
def test_settings_of_a_recipe(recipe, changes):
    found = outcome(lambda: resolve(recipe, **(TINY | changes)))
    if not isinstance(found, str):
        assert found.steps >= 1 and found.tokens == found.steps * found.batch_tokens and found.batch_tokens % found.model.sequence_len == 0
        json.dumps(found.to_json(), allow_nan=False)


@many
@given(st.lists(st.tuples(st.one_of(st.sampled_from(FIELDS), st.text(max_size=8)), texts), max_size=3))
def test_settings_as_text(pairs):
    found = outcome(lambda: settings_from_text([f"{a}={b}" for a, b in pairs]))
    assert isinstance(found, (dict, str))


# ---- files

TEXTS = ["The sea is wide. " * 9, "", "A café, a naïve façade, 東京 and 1,234.5.", "one\n\ntwo\r\nthree"] * 8


def damaged(data: bytes, draw: random.Random) -> bytes:
    """One of the things that happen to files."""
    at = draw.randrange(len(data) + 1)
    kinds = [
        lambda: data[:at], lambda: data[at:], lambda: b"", lambda: data[:at] + b"\0" * 40 + data[at:],
        lambda: data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :], lambda: b"\xef\xbb\xbf" + data,
        lambda: data.replace(b"\n", b"\r\n"), lambda: data + data[:at], lambda: data[:at] + b"\xff\xfe" + data[at:],
        lambda: b"<html>404</html>", lambda: data[:at] + data[at + 9 :], lambda: b"null", lambda: b"[]", lambda: b"{}",
    ]  # fmt: skip
    return draw.choice(kinds)()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Good files of every kind, to be damaged."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "home").mkdir()
    patch = pytest.MonkeyPatch()
    patch.setenv("GPT2COURSE_HOME", str(folder / "home"))
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    (folder / "t.txt").write_text("\n\n".join(TEXTS))
    pq.write_table(pa.table({"text": TEXTS}), folder / "t.parquet", row_group_size=10)
    words = random.Random(0)
    corpus = [" ".join("".join(words.choices("aeioubcdfg", k=5)) for _ in range(30)) for _ in range(40)]
    run = folder / "home" / "runs" / "toy"
    tokenizer = Tokenizer.train(corpus, 300)
    tokenizer.save(run / "tokenizer")
    plan = resolve("jan29", **TINY)
    model = make_model(plan).init_weights(0)
    checkpoint.save(run, 3, model, make_optimizer(model, plan).state_dict(), {"clock": 1.0})
    write_json(run / "config.json", {"plan": plan.to_json(), "corpus": str(folder / "t.jsonl"), "seed": 42})
    line = dict(step=3, tokens=768, flops=1e9, seconds=1.0)
    lines = [{"kind": "train", **line, "loss": 3.0}, {"kind": "eval", **line, "val_bpb": 2.5, "val_bytes": 100}, {"kind": "done", **line}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    yield folder
    patch.undo()


def snapshot(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@some
@given(st.sampled_from([".jsonl", ".txt", ".parquet"]), st.integers(0, 10**9), st.booleans())
def test_a_damaged_corpus(made, tmp_path_factory, kind, seed, in_folder):
    folder = tmp_path_factory.mktemp("corpus")
    path = folder / f"part{kind}"
    path.write_bytes(damaged((made / f"t{kind}").read_bytes(), random.Random(seed)))
    before = snapshot(folder)

    def read():
        corpus = load_corpus(str(folder if in_folder else path))
        assert all(isinstance(t, str) for split in (corpus.train, corpus.val) for t in split)
        return corpus

    outcome(read)
    assert snapshot(folder) == before
    shutil.rmtree(folder)


@some
@given(st.integers(0, 10**9), st.booleans())
def test_a_damaged_bundle(tmp_path_factory, seed, zipped):
    draw = random.Random(seed)
    folder = tmp_path_factory.mktemp("bundle") / "b"
    shutil.copytree(MINI, folder)
    victim = draw.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    if draw.random() < 0.2:
        victim.unlink()
    else:
        victim.write_bytes(damaged(victim.read_bytes(), draw))
    path = folder
    if zipped:
        path = folder.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as z:
            for p in folder.rglob("*"):
                z.write(p, p.relative_to(folder))
        if draw.random() < 0.3:
            path.write_bytes(damaged(path.read_bytes(), draw))

    class Chars:
        bos, sha256 = 0, "chars"

        def encode(self, text, bos=False):
            return [0] * bos + [ord(c) % 300 for c in text]

    def score():
        def forward(idx, cache=None):
            return torch.zeros(*idx.shape, 300)

        return evaluate_core(forward, Chars(), read_bundle(path), max_examples=1)

    outcome(score)
    shutil.rmtree(folder.parent)


@some
@given(st.integers(0, 10**9))
def test_a_damaged_run(made, tmp_path_factory, seed):
    draw = random.Random(seed)
    run = tmp_path_factory.mktemp("run") / "toy"
    shutil.copytree(made / "home" / "runs" / "toy", run)
    victim = draw.choice(sorted(p for p in run.rglob("*") if p.is_file()))
    if draw.random() < 0.2:
        victim.unlink()
    else:
        victim.write_bytes(damaged(victim.read_bytes(), draw))
    before = snapshot(run)
    found = outcome(lambda: load_model(str(run)))
    if not isinstance(found, str):
        model, tokenizer, _ = found
        assert torch.isfinite(model(torch.zeros(1, 4, dtype=torch.long))).all() and tokenizer.decode(tokenizer.encode("abc")) == "abc"
    assert isinstance(read_metrics(run), list)
    assert snapshot(run) == before
    shutil.rmtree(run.parent)


@some
@given(st.integers(0, 10**9))
def test_a_damaged_leaderboard(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("board") / "leaderboard.csv"
    path.write_bytes(damaged(CSV.read_bytes(), random.Random(seed)))
    outcome(lambda: read_leaderboard(path))
    shutil.rmtree(path.parent)


# ---- what real people type, each with the part of the line that helps

EXAMPLES = [
    (lambda: resolve("jan30"), "did you mean jan29?"),
    (lambda: resolve("jan29", dept=4), "did you mean depth"),
    (lambda: resolve("jan29", depth=0), "depth = 0 is not allowed"),
    (lambda: resolve("jan29", width=100, head_dim=64), "is not a multiple of head_dim"),
    (lambda: resolve("jan29", batch_tokens=1000), "is not a multiple of sequence_len"),
    (lambda: resolve("jan29", matrix_lr="fast"), "it must be a number"),
    (lambda: resolve_run("jan29", "laptopp", {}), "laptop"),
    (lambda: resolve_run("jan29", "laptop", {}, device_batch=3), "device_batch"),
    (lambda: settings_from_text(["width 32"]), "name=value"),
    (lambda: Params.from_namespace({"max_cost_usd": 5}), "price_per_hour"),
    (lambda: Params.from_namespace({"dept": 5}), "did you mean depth"),
    (lambda: open_run(Params.from_namespace({"name": "../evil"})), "letters, digits"),
    (lambda: Params.from_namespace({"seed": -1}), "seed = -1 is not allowed"),
    (lambda: load_corpus("no/such/place"), "embedded"),
    (lambda: load_corpus("climbmix"), "gpt2course.ops.download"),
    (lambda: load_model("nobody"), "there is no run 'nobody'"),
    (lambda: read_bundle("no/such/bundle"), "core.yaml"),
    (lambda: train.train(train.Train(max_cost_usd=1.0)), "price"),
    (lambda: train.train(train.Train(seed=-1)), "seed"),
    (lambda: train.train(train.Train(name="a/b")), "letters, digits"),
]


@pytest.mark.parametrize("n", range(len(EXAMPLES)))
def test_what_people_type(course_home, n):
    give, helps = EXAMPLES[n]
    found = outcome(give)
    assert isinstance(found, str) and helps in found, found
    assert not list(course_home.glob("runs/*")), "something was written"
