"""What people really type and what disks really do: one table of bad inputs, each with the one line it must be answered by.

A line names the thing, the value given, what is allowed, and what to do. In the table "…" stands for what a library or the
machine adds, <home> for GPT2COURSE_HOME, <tmp> for another folder.
"""

import contextlib
import importlib
import io
import json
import math
import random
import re
import shutil
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2course import checkpoint, files
from gpt2course.ops import params, work
from gpt2course.batches import Batches
from gpt2course.core import MINI, read_bundle
from gpt2course.data import from_list, load_corpus
from gpt2course.files import UserError, read_json, write_json
from gpt2course.gpt2 import load_released
from gpt2course.ops.leaderboard import CSV, FIELDS
from gpt2course.ops.leaderboard import read as read_leaderboard
from gpt2course.ops.params import Params
from gpt2course.recipes import LADDER, make_optimizer, resolve
from gpt2course.sample import check, generate
from gpt2course.tokenizer import Tokenizer

TINY = dict(depth=2, width=32, head_dim=16, sequence_len=32, vocab_size=300, batch_tokens=256, steps=3, eval_bytes=1000)
SET = ["--set", *(f"{name}={value}" for name, value in TINY.items())]
ROWS = []


def row(id, value, give, message):
    """value: what the message must repeat."""
    ROWS.append(pytest.param(value, give, message, id=id))


# ---- a world to do wrong in


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of 40 documents, a tokenizer, and a run with a checkpoint of a model that has learnt nothing."""
    import torch

    from gpt2course.model import GPT

    folder, draw = tmp_path_factory.mktemp("made"), random.Random(0)
    texts = [" ".join("".join(draw.choices("aeioubcdfg", k=5)) for _ in range(30)) for _ in range(40)]
    (folder / "toy.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    plan = resolve("jan29", **TINY)
    tokenizer = Tokenizer.train(texts, 300)
    run = folder / "toy"
    tokenizer.save(run / "tokenizer")
    torch.manual_seed(0)
    model = GPT(plan.model)
    checkpoint.save(run, 3, model, make_optimizer(model, plan).state_dict(), {"clock": 1.0})
    write_json(run / "config.json", {"plan": plan.to_json(), "corpus": str(folder / "toy.jsonl"), "seed": 42})
    line = dict(step=3, tokens=768, flops=1e9, seconds=1.0)
    (run / "metrics.jsonl").write_text(json.dumps({"kind": "eval", **line, "val_bpb": 2.5, "val_bytes": 100}) + "\n" + json.dumps({"kind": "done", **line}) + "\n")
    return folder


@pytest.fixture
def w(made, tmp_path, monkeypatch):
    """A fresh GPT2COURSE_HOME that holds the run `toy`, a fresh folder, and ways to damage things."""
    from gpt2course import train

    home, tmp = tmp_path / "home", tmp_path / "tmp"
    monkeypatch.setenv("GPT2COURSE_HOME", str(home))
    tmp.mkdir()
    shutil.copytree(made / "toy", home / "runs" / "toy")
    shutil.copy(made / "toy.jsonl", tmp)
    monkeypatch.setattr(params, "ask", lambda what, request: json.loads(json.dumps(work.STAGES[what](request))))

    def reached(*_):
        raise AssertionError("nothing was refused: the training begins")

    monkeypatch.setattr(train, "Trainer", reached)
    return SimpleNamespace(home=home, tmp=tmp, run=home / "runs" / "toy", corpus=str(tmp / "toy.jsonl"), env=lambda value: monkeypatch.setenv("GPT2COURSE_HOME", value),
                           step=home / "runs" / "toy" / "checkpoints" / "step_00000003", patch=monkeypatch.setattr)  # fmt: skip


def cli(module, *argv):
    """A command line, in this process: it must end with exit code 2 and one line on stderr, which is raised."""
    main = importlib.import_module(f"gpt2course.{module}").main
    err, code = io.StringIO(), None
    with pytest.MonkeyPatch.context() as m, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        m.setattr(sys, "argv", [module, *map(str, argv)])
        try:
            files.command(main)
        except SystemExit as e:
            code = e.code
    line = err.getvalue().removesuffix("\n").split("\r")[-1]  # after a bar of progress
    assert code == 2 and line.startswith("error: "), (code, line)
    raise UserError(line.removeprefix("error: "))


def wrote(w, name, data):
    path = w.tmp / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# ---- settings of a recipe: resolve(), `--set`, and the runbook's `settings`

SETTINGS = "`python -m gpt2course.recipes jan29 --depth 24` prints them all"


def setting(id, value, message, name=None):
    name = name or id.split()[0]
    row(f"setting {id}", f"{value}"[:20], lambda w: resolve("jan29", **(TINY | {name: value})), message)


row("recipe that does not exist", "jan30", lambda w: resolve("jan30"), f"recipe 'jan30' does not exist; the ladder is {', '.join(LADDER)}")
row("recipe in capitals", "JAN29", lambda w: resolve("JAN29"), f"recipe 'JAN29' does not exist; the ladder is {', '.join(LADDER)}")
row("setting with a typing error", "widht", lambda w: resolve("jan29", widht=3), f"recipe 'jan29' has no setting 'widht'; did you mean width? {SETTINGS}")
row("setting of no name", "''", lambda w: cli("recipes", "jan29", "--set", "=3"), f"recipe 'jan29' has no setting ''; {SETTINGS}")
row("setting without a value", "width", lambda w: cli("recipes", "jan29", "--set", "width"), "--set 'width': write name=value, for example --set width=192")
row("setting given twice", "steps", lambda w: cli("recipes", "jan29", "--set", "steps=3", "steps=4"), "--set gives steps twice; give it once")
setting("depth 0", 0, "recipe 'jan29': depth = 0 is not allowed; it must be at least 1")
setting("depth of a billion", 10**9, "recipe 'jan29': depth = 1000000000 is not allowed; at most 128 layers", name="depth")
setting("depth as words", "four", "setting depth = 'four' is not allowed; it must be a whole number", "depth")
setting("depth a fraction", 4.5, "setting depth = 4.5 is not allowed; it must be a whole number", "depth")
setting("depth a boolean", True, "setting depth = True is not allowed; it must be a whole number", "depth")
setting("depth a list", "[1,2]", "setting depth = '[1,2]' is not allowed; it must be a whole number", "depth")
setting("steps huge", 10**30, f"recipe 'jan29': steps = {10**30} is not allowed; it must be from 1 to 1000000000, or None to derive it", "steps")
setting(
    "steps of 400 digits",
    "9" * 400,
    f"recipe 'jan29': steps = {'9' * 80}... (400 characters) is not allowed; it must be from 1 to 1000000000, or None to derive it",
    "steps",
)
setting("steps of 5,000 digits", "9" * 5000, f"setting steps = '{'9' * 79}... (5,002 characters) is not allowed; it must be a whole number, or none", "steps")
setting("steps with a comma", "1,000", "setting steps = '1,000' is not allowed; it must be a whole number, or none", "steps")
setting("steps empty", "", "setting steps = '' is not allowed; it must be a whole number, or none", "steps")
setting("width that head_dim does not divide", 100, "width 100 is not a multiple of head_dim 16; set head_dim to a divisor of 100, or width to a multiple of 16", name="width")
setting("width too large for memory", 10**12, f"recipe 'jan29': width = {10**12} is not allowed; it must be from 1 to 65536, or None to derive it", "width")
setting("head_dim odd", 15, "recipe 'jan29': head_dim = 15 is not allowed; it must be even, since RoPE turns pairs of channels", name="head_dim")
setting("n_kv_head that does not divide", 3, "recipe 'jan29': n_kv_head = 3 is not allowed; it must divide the 2 heads of width 32 / head_dim 16", "n_kv_head")
setting("batch_tokens that sequence_len does not divide", 1000, "batch_tokens 1000 is not a multiple of sequence_len 32; the next one is 1024", "batch_tokens")
setting("sequence_len of a billion", 10**6 * 32, f"recipe 'jan29': sequence_len = {10**6 * 32} is not allowed; it must be from 2 to 1048576", "sequence_len")
setting("vocab_size below the bytes", 100, "recipe 'jan29': vocab_size = 100 is not allowed; it must be from 266 to 1048576: 256 bytes, 9 special tokens and one merge", name="vocab_size")
setting(
    "vocab_size beyond 64 bits",
    10**19,
    f"recipe 'jan29': vocab_size = {10**19} is not allowed; it must be from 266 to 1048576: 256 bytes, 9 special tokens and one merge",
    "vocab_size",
)
setting("matrix_lr NaN", "nan", "setting matrix_lr = 'nan' is not allowed; it must be a number", "matrix_lr")
setting("matrix_lr infinite", math.inf, "setting matrix_lr = inf is not allowed; it must be a number", "matrix_lr")
setting("matrix_lr negative", -1, "recipe 'jan29': matrix_lr = -1.0 is not allowed; it must not be negative", name="matrix_lr")
setting("qk_norm perhaps", "perhaps", "setting qk_norm = 'perhaps' is not allowed; it must be true or false", "qk_norm")
setting("x0_lambda with NaN", "[NaN,1]", "setting x0_lambda = '[NaN,1]' is not allowed; it must be two numbers such as [1.0,0.1], or none", "x0_lambda")
setting("x0_lambda of three", "[1,2,3]", "setting x0_lambda = '[1,2,3]' is not allowed; it must be two numbers such as [1.0,0.1], or none", "x0_lambda")
setting("momentum_steps negative", -3, "recipe 'jan29': momentum_steps = -3 is not allowed; it must not be negative", "momentum_steps")
setting("warmdown_ratio", 1.5, "recipe 'jan29': warmdown_ratio = 1.5 is not allowed; it is a share, 0 to 1")
setting("window_pattern", "SLX", "recipe 'jan29': window_pattern = 'SLX' is not allowed; it may hold only S and L")
row("ratio too small for one step", "0.001", lambda w: resolve("jan29", depth=1, ratio=0.001),
    "recipe 'jan29': ratio 0.001 asks for … tokens, less than one batch of 524,288; set steps, or a smaller batch_tokens")  # fmt: skip


# ---- parameters of the runbook, as papermill passes them

CHECK = "(a variable of your own? Restart the kernel, or `del {}`)"


def param(id, value, message, name=None, **more):
    name = name or id.split()[0]
    row(f"parameter {id}", files.shown(value), lambda w: Params.check(**({name: value} | more)), message)


for text in ("four", "4.5", "1,2", "[1,2]", "true", "NaN", "inf", "0", "-4", "1e9", "0x10", "½"):
    comma = ", written without commas" if "," in text else ""
    param(f"depth as text {text}", text, f"parameter depth = '{text}' is not allowed; it must be a whole number from 1 to 128{comma}", "depth")
for value in (True, [1, 2], {"a": 1}, 10**9, math.nan):
    param(f"depth {value}", value, f"parameter depth = {value!r} is not allowed; it must be a whole number from 1 to 128")
param("depth of 5,000 digits", 10**4999, f"parameter depth = {hex(10**4999)[:80]}... (4,154 characters) is not allowed; it must be a whole number from 1 to 128")
param("depth as a list", ["a" * 500], f"parameter depth = ['{'a' * 78}... (504 characters) is not allowed; it must be a whole number from 1 to 128")
param("seed negative", -1, f"parameter seed = -1 is not allowed; it must be a whole number from 0 to {2**63 - 1}")
param("seed with a comma", "1,000", f"parameter seed = '1,000' is not allowed; it must be a whole number from 0 to {2**63 - 1}, written without commas")
param("price_per_hour in dollars", "$24", "parameter price_per_hour = '$24' is not allowed; it must be a number from 0 to 100000")
param("max_hours 0", 0, "parameter max_hours = 0 is not allowed; it must be a number from 1e-06 to 10000")
param("max_cost_usd without a price", 5, "parameter max_cost_usd = 5 needs price_per_hour, the price of the machine in dollars", "max_cost_usd")
for text in ("../x", "a/b", "..", ".", "a b", "-rf", "x" * 101, "ä", "a\nb"):
    param(f"name {text!r}"[:40], text, f"parameter name = {files.shown(text)} is not allowed; it must be {files.RUN_NAME_ALLOWED}", "name")
param("name a number", 1.5, f"parameter name = 1.5 is not allowed; it must be {files.RUN_NAME_ALLOWED}")
param("profile", "laptob", "parameter profile = 'laptob' is not allowed; it must be one of laptop, 1gpu, 8xh100; did you mean laptop?")
param("corpus", [1], "parameter corpus = [1] is not allowed; it must be embedded, climbmix, fineweb-edu, or the path of a file or folder of parquet, jsonl or txt")
param("core_examples", "all", "parameter core_examples = 'all' is not allowed; it must be a whole number from 1 to 1000000")
param("force_stage", "training", f"parameter force_stage = 'training' is not allowed; it must be one of {', '.join(params.STAGES)}, or None")
PAIRS = 'text like "steps=100 matrix_lr=0.03": name=value, separated by spaces, without spaces inside'
param("settings without =", "steps", f"parameter settings = 'steps' is not allowed; it must be {PAIRS}", "settings")
param("settings a dictionary", {"steps": 1}, f"parameter settings = {{'steps': 1}} is not allowed; it must be {PAIRS}", "settings")
param("settings twice the same", "steps=1 steps=2", f"parameter settings = 'steps=1 steps=2' is not allowed; it must be {PAIRS}, each name once", "settings")
row("parameter depth given twice", "depth=6", lambda w: Params.check(depth=4, settings="depth=6"), "parameter depth = 4 and settings = 'depth=6' both set the depth; give it once")
row("parameter with a typing error", "dept", lambda w: Params.check(dept=4), f"parameter dept does not exist; did you mean depth? {CHECK.format('dept')}")
row("parameter like no other", "zzz", lambda w: Params.check(zzz=4), f"parameter zzz does not exist; there are … {CHECK.format('zzz')}")
row(
    "settings through the runbook",
    "100",
    lambda w: Params.check(settings="width=100"),
    "width 100 is not a multiple of head_dim 64; set head_dim to a divisor of 100, or width to a multiple of 64",
)


# ---- the command line of training

def flag(id, value, message, *more):
    option = id.split()[0]
    argv = ["jan29", "--corpus", "CORPUS", "--name", "new", *more, option, value]
    row(f"train {id}", value[:50], lambda w: cli("train", *(w.corpus if a == "CORPUS" else a for a in argv), *SET), message)


row("train a recipe that does not exist", "jan30", lambda w: cli("train", "jan30"), f"recipe 'jan30' does not exist; the ladder is {', '.join(LADDER)}")
row("train a corpus that is not there", "/no/such", lambda w: cli("train", "jan29", "--corpus", "/no/such", *SET),
    "corpus '/no/such' does not exist; give …, or the path of a file or folder of parquet, jsonl or txt")  # fmt: skip
flag("--profile", "laptob", "profile 'laptob' does not exist; there are laptop, 1gpu, 8xh100")
for text in ("../evil", "a/b", "", "x" * 300):
    flag(f"--name {text}"[:20], text, f"run name {files.shown(text)} is not allowed; it must be {files.RUN_NAME_ALLOWED}")
flag("--device", "gpu", "device 'gpu' is not available; this machine has …")
flag("--dtype", "fp16", "dtype 'fp16' is not allowed; auto, float32 or bfloat16")
flag("--seed", "-1", f"seed = -1 is not allowed; it must be a whole number from 0 to {2**63 - 1}")
flag("--seed huge", "1" + "0" * 30, f"seed = {10**30} is not allowed; it must be a whole number from 0 to {2**63 - 1}")
flag("--device-batch", "3", "device_batch = 3 is not allowed; it must divide the 8 rows of a batch: 1, 2, 4, 8")
for option in ("--streams", "--eval-every", "--save-every", "--keep", "--stop-after"):
    flag(option, "0", f"{option[2:].replace('-', '_')} = 0 is not allowed; it must be a whole number from 1")
flag("--keep negative", "-1", "keep = -1 is not allowed; it must be a whole number from 1")
for option, value, allowed in (("--save-minutes", "-1", "above 0"), ("--save-minutes", "nan", "above 0"), ("--log-seconds", "nan", "from 0"), ("--price-per-hour", "-3", "from 0"),
                               ("--price-per-hour", "nan", "from 0"), ("--max-hours", "-1", "above 0"), ("--max-hours", "nan", "above 0")):  # fmt: skip
    flag(f"{option} {value}", value, f"{option[2:].replace('-', '_')} = {float(value)} is not allowed; it must be a number {allowed}")
flag("--max-cost-usd", "5.0", "max_cost_usd 5.0 needs --price-per-hour, the price of the machine in dollars")
flag("--max-cost-usd negative", "-5.0", "max_cost_usd = -5.0 is not allowed; it must be a number above 0", "--price-per-hour", "3")


def other_settings(w):
    config = read_json(w.run / "config.json")
    write_json(w.run / "config.json", config | {"seed": 7})
    cli("train", "jan29", "--corpus", w.corpus, "--name", "toy", *SET)


row("train with other settings than the run's", "seed", other_settings, "run 'toy' was begun with other settings (…seed…); use another --name, or --fresh to start it anew")


# ---- corpora

WHAT = "it must be a file or folder of parquet, jsonl or txt, not compressed"
row("corpus empty folder", "<tmp>/empty", lambda w: load_corpus(str((w.tmp / "empty").mkdir() or w.tmp / "empty")), f"<tmp>/empty holds no text this course reads…; {WHAT}")
row("corpus of another kind", "<tmp>/a.csv", lambda w: load_corpus(str(wrote(w, "a.csv", "x"))), f"<tmp>/a.csv holds no text this course reads…; {WHAT}")
row("corpus of two kinds", ".jsonl and .txt", lambda w: (wrote(w, "two/a.txt", "x"), load_corpus(str(wrote(w, "two/a.jsonl", "{}").parent))),
    "<tmp>/two mixes .jsonl and .txt files; give each kind its own folder")  # fmt: skip
row("corpus of one document", "1 document", lambda w: load_corpus(str(wrote(w, "one.jsonl", '{"text": "a"}\n'))),
    "<tmp>/one.jsonl holds 1 document(s); at least two are needed, one to train on and one to validate")  # fmt: skip
row("corpus cut in a line", "line 2", lambda w: list(load_corpus(str(wrote(w, "cut.jsonl", '{"text": "a"}\n{"text": "b'))).train),
    "<tmp>/cut.jsonl, line 2, is not JSON (…); there must be one object a line, in UTF-8: mend or delete the line")  # fmt: skip
row("corpus with a number for a text", "line 1", lambda w: list(load_corpus(str(wrote(w, "n.jsonl", '{"text": 3}\n{"text": "b"}\n'))).train),
    '<tmp>/n.jsonl, line 1, …; write {"text": "..."}, or delete the line')  # fmt: skip
row(
    "corpus in Latin-1",
    "0xe9",
    lambda w: list(load_corpus(str(wrote(w, "l.txt", b"caf\xe9\n\nb"))).train),
    "<tmp>/l.txt is not UTF-8: byte 0xe9 at offset 3; convert it, for example with…",
)


def parquet(w, table):
    pq.write_table(pa.table(table), w.tmp / "a.parquet")
    return w.tmp / "a.parquet"


row("corpus without a column text", "body, url", lambda w: load_corpus(str(parquet(w, {"body": ["a", "b"], "url": ["c", "d"]}))),
    "<tmp>/a.parquet has no column 'text'; its columns are body, url; write it again with one string column 'text'")  # fmt: skip
row("corpus with a column of numbers", "int64", lambda w: load_corpus(str(parquet(w, {"text": [1, 2]}))),
    "<tmp>/a.parquet: column 'text' is of type int64; it must be string: write the file again with that type")  # fmt: skip
row("corpus cut by a full disk", "<tmp>/b.parquet", lambda w: load_corpus(str(wrote(w, "b.parquet", parquet(w, {"text": ["a"] * 99}).read_bytes()[:-20]))),
    "<tmp>/b.parquet is not a whole parquet file (…); fetch it again or delete it")  # fmt: skip


# ---- tokenizers

AGAIN = "make it again with: python -m gpt2course.tokenizer train"


def tokenizer_with(w, **changes):
    folder = w.run / "tokenizer"
    write_json(folder / "tokenizer.json", read_json(folder / "tokenizer.json") | changes)
    return Tokenizer.load(folder)


def damaged(path, what=lambda raw: raw[:-3] + b"abc"):
    path.write_bytes(what(path.read_bytes()))
    return path.parent


row("tokenizer missing", "<tmp>/none", lambda w: Tokenizer.load(w.tmp / "none"), f"there is no tokenizer in <tmp>/none (tokenizer.json is missing); {AGAIN}")
row("tokenizer without ranks", "ranks.tiktoken", lambda w: ((w.run / "tokenizer" / "ranks.tiktoken").unlink(), Tokenizer.load(w.run / "tokenizer")),
    f"tokenizer <home>/runs/toy/tokenizer: ranks.tiktoken is missing; {AGAIN}")  # fmt: skip
row("tokenizer with damaged ranks", "ranks.tiktoken", lambda w: Tokenizer.load(damaged(w.run / "tokenizer" / "ranks.tiktoken")),
    f"tokenizer <home>/runs/toy/tokenizer: ranks.tiktoken does not match its checksum; {AGAIN}")  # fmt: skip
row("tokenizer of another format", "99", lambda w: tokenizer_with(w, format=99), f"tokenizer <home>/runs/toy/tokenizer: format 99 is not 1, the one this version reads; {AGAIN}")
row("tokenizer with another vocabulary", "4096", lambda w: tokenizer_with(w, vocab_size=4096),
    f"tokenizer <home>/runs/toy/tokenizer: vocab_size 4096 is not 300, what ranks and special tokens make; {AGAIN}")  # fmt: skip
row("tokenizer cut in the middle", "<home>/runs/toy/tokenizer", lambda w: Tokenizer.load(damaged(w.run / "tokenizer" / "tokenizer.json", lambda raw: raw[:40])),
    "tokenizer <home>/runs/toy/tokenizer/tokenizer.json is not valid JSON (…); delete it and make it again")  # fmt: skip
row(
    "tokenizer vocabulary too small",
    "200",
    lambda w: cli("tokenizer", "train", "--corpus", w.corpus, "--vocab-size", 200),
    "vocab_size 200 is too small: 256 bytes and 9 special tokens need 265",
)
row(
    "tokenizer vocabulary larger than the text",
    "9999",
    lambda w: cli("tokenizer", "train", "--corpus", w.corpus, "--vocab-size", 9999),
    "vocab_size 9999 is too large for this text: its … characters yield … merges; ask for 265 to …, or train on more text",
)
row("tokenizer id outside", "300", lambda w: Tokenizer.load(w.run / "tokenizer").decode([1, 300]), "token id 300 is outside the vocabulary: 0 to 299 are allowed")


# ---- runs and checkpoints

row("run that does not exist", "nope", lambda w: cli("sample", "nope"), "there is no run 'nope'; runs in <home>/runs: toy. `python -m gpt2course.train` makes one")
row("run without a checkpoint", "<home>/runs/toy", lambda w: (shutil.rmtree(w.run / "checkpoints"), cli("sample", "toy", "--prompt", "a")),
    "run <home>/runs/toy has no good checkpoint yet; `python -m gpt2course.train --name toy` goes on with it")  # fmt: skip
row("run whose configuration is damaged", "config.json", lambda w: (damaged(w.run / "config.json", lambda raw: raw[:99]), cli("evaluate", "toy")),
    "run configuration <home>/runs/toy/config.json is not valid JSON (…); delete it and make it again")  # fmt: skip
row("run of another version", "Recipe", lambda w: (write_json(w.run / "config.json", {"plan": {"recipe": {"flux": 1}, "model": {}}}), checkpoint.load_model("toy", "cpu")),
    "this is not the plan of a run made by this version of gpt2course (Recipe.…); train again, or use the version that made it")  # fmt: skip
for name in ("model.safetensors", "optimizer.safetensors"):
    row(f"checkpoint with a damaged {name}", name, lambda w, name=name: checkpoint.verify(damaged(w.step / name)),
        f"checkpoint file <home>/runs/toy/checkpoints/step_00000003/{name} is damaged; an earlier checkpoint of the run is used where there is one")  # fmt: skip
row("checkpoint without its weights", "model.safetensors", lambda w: ((w.step / "model.safetensors").unlink(), checkpoint.verify(w.step)),
    "checkpoint file <home>/runs/toy/checkpoints/step_00000003/model.safetensors is missing; an earlier checkpoint of the run is used where there is one")  # fmt: skip
row("checkpoint with a damaged state", "state.json", lambda w: (write_json(w.step / "state.json", read_json(w.step / "state.json") | {"step": 4}), checkpoint.verify(w.step)),
    "checkpoint file <home>/runs/toy/checkpoints/step_00000003/state.json is damaged; an earlier checkpoint of the run is used where there is one")  # fmt: skip
row("checkpoints all damaged", "step_00000003", lambda w: (damaged(w.step / "model.safetensors"), cli("sample", "toy", "--prompt", "a")),
    "every checkpoint of run toy is damaged (step_00000003); `--fresh` trains it anew and keeps the damaged one beside")  # fmt: skip


# ---- evaluation and batches

SPLIT = [f"document {i}" for i in range(40)]
row("evaluate 0 rows", "0", lambda w: cli("evaluate", "toy", "--batch", 0), "batch = 0 is not allowed; it must be a whole number from 1")
row("evaluate on no bytes", "0", lambda w: cli("evaluate", "toy", "--max-bytes", 0), "max_bytes = 0 is not allowed; it must be a whole number from 1")
row(
    "evaluate on another corpus",
    "/no/such",
    lambda w: cli("evaluate", "toy", "--corpus", "/no/such"),
    "corpus '/no/such' does not exist; give …, or the path of a file or folder of parquet, jsonl or txt",
)
row("streams more than documents", "50", lambda w: Batches(from_list(SPLIT), Tokenizer.load(w.run / "tokenizer"), 32, streams=50),
    "streams 50 is too many for 40 documents (one each at least); it can be: 1, 2, …, 40")  # fmt: skip
row("streams that ranks do not divide", "3", lambda w: Batches(from_list(SPLIT), Tokenizer.load(w.run / "tokenizer"), 32, streams=8, world=3),
    "world 3 (the number of ranks) does not divide 8 streams; it can be: 1, 2, 4, 8")  # fmt: skip
row(
    "weights of GPT-2 that are not there",
    "/no/gpt2",
    lambda w: load_released("/no/gpt2"),
    "GPT-2 weights /no/gpt2 do not exist; give a safetensors file, or a folder that holds model.safetensors",
)
row("weights of GPT-2 cut short", "<tmp>/cut.safetensors", lambda w: load_released(wrote(w, "cut.safetensors", (w.step / "model.safetensors").read_bytes()[:99])),
    "GPT-2 weights <tmp>/cut.safetensors: this is no whole safetensors file (…); download it again")  # fmt: skip
row("weights of another model", "wpe.weight", lambda w: load_released(w.step / "model.safetensors"), "GPT-2 weights <home>/…/model.safetensors: tensor wpe.weight is missing")


# ---- samples

TOKENS, MANY = "a whole number of tokens, 0 or more", "a whole number: 0 for all tokens, or how many of the most likely ones"
row("sample max_tokens negative", "-1", lambda w: cli("sample", "toy", "--max-tokens", -1), f"max_tokens = -1 is not allowed; {TOKENS}")
row(
    "sample temperature negative", "-0.5", lambda w: cli("sample", "toy", "--temperature", -0.5), "temperature = -0.5 is not allowed; a finite number, 0 (the most likely token) or more"
)
row("sample temperature NaN", "nan", lambda w: cli("sample", "toy", "--temperature", "nan"), "temperature = nan is not allowed; a finite number, 0 (the most likely token) or more")
row("sample top_k negative", "-5", lambda w: cli("sample", "toy", "--top-k", -5), f"top_k = -5 is not allowed; {MANY}")
row("sample number 0", "0", lambda w: cli("sample", "toy", "--number", 0), "number = 0 is not allowed; 1 or more continuations")
row("sample device", "tpu", lambda w: cli("sample", "toy", "--device", "tpu"), "device 'tpu' is not available; this machine has …")
row("sample seed a text", "'x'", lambda w: check(seed="x"), "seed = 'x' is not allowed; a whole number")
row("sample stop empty", "['']", lambda w: check(stop=[""]), "stop = [''] is not allowed; a list of texts that are not empty, and of token ids, such as ['\\n']")
row("sample prompts a text", "'abc'", lambda w: generate(None, None, "abc"), "prompts = 'abc' is not allowed; a list of texts")


# ---- bundles of questions


def bundle_with(w, file, change):
    """mini-CORE with one file changed: `change` takes and gives its text, or gives None to delete it."""
    folder = w.tmp / "bundle"
    shutil.copytree(MINI, folder)
    path = folder / file
    text = change(path.read_text())
    path.unlink() if text is None else path.write_text(text)
    return read_bundle(folder)


FIRST = read_bundle(MINI).tasks[0]
URI = re.search(rf"label: {FIRST.label}\b.*?dataset_uri: (\S+)", (MINI / "core.yaml").read_text(), re.S)[1]
row("bundle that is not there", "/no/bundle", lambda w: cli("core", "toy", "--bundle", "/no/bundle"),
    f"evaluation bundle /no/bundle does not exist; give a folder or zip with core.yaml, or {MINI} for mini-CORE")  # fmt: skip
row(
    "bundle that is a text file",
    "<tmp>/b.zip",
    lambda w: read_bundle(wrote(w, "b.zip", "hello")),
    "evaluation bundle <tmp>/b.zip is neither a folder nor a zip; give a folder or zip with core.yaml",
)
row(
    "bundle without its list",
    "<tmp>/bundle",
    lambda w: bundle_with(w, "core.yaml", lambda text: None),
    "<tmp>/bundle holds no core.yaml, so it is no evaluation bundle; give a folder or zip with core.yaml",
)
row("bundle without baselines", "eval_meta_data.csv", lambda w: bundle_with(w, "eval_meta_data.csv", lambda text: None),
    "<tmp>/bundle holds no eval_meta_data.csv with the baselines; get the bundle again")  # fmt: skip
row("bundle with a damaged line", "line 2", lambda w: bundle_with(w, f"eval_data/{URI}", lambda text: re.sub(r"\n.{9}", "\n", text, count=1)),
    f"task {FIRST.label}: eval_data/{URI} line 2: is not a JSON object in UTF-8 (…); get the bundle again or mend the line")  # fmt: skip
row("bundle without a task's file", FIRST.label, lambda w: bundle_with(w, f"eval_data/{URI}", lambda text: None),
    f"task {FIRST.label}: eval_data/{URI} is not in the bundle; get the bundle again or mend dataset_uri in core.yaml")  # fmt: skip
row("bundle with too few examples", FIRST.label, lambda w: bundle_with(w, f"eval_data/{URI}", lambda text: text.split("\n")[0] + "\n" if FIRST.num_fewshot else ""),
    f"task {FIRST.label}: eval_data/{URI} ends at line …, but {FIRST.num_fewshot} shots need at least {FIRST.num_fewshot + 1} examples; get the bundle again or lower num_fewshot in core.yaml")  # fmt: skip
row("bundle without the task asked for", "nope", lambda w: read_bundle(MINI, ["nope"]), f"task nope is not in {MINI}; it has {', '.join(read_bundle(MINI).labels)}")
row("core max_examples 0", "0", lambda w: cli("core", "toy", "--max-examples", 0), "max_examples is 0, must be at least 1, or None for no limit")


# ---- the leaderboard


def board_with(w, number=2, **changes):
    """The leaderboard with fields of one line changed."""
    import csv

    rows = list(csv.reader(CSV.read_text(encoding="utf-8").splitlines()))
    for name, value in changes.items():
        rows[number - 1][FIELDS.index(name)] = value
    with open(w.tmp / "board.csv", "w", newline="") as f:
        csv.writer(f).writerows(rows)
    return read_leaderboard(w.tmp / "board.csv")


ENTRY = "leaderboard entry '…': "
row("leaderboard that is not there", "<tmp>/x.csv", lambda w: cli("leaderboard", "show", "--csv", w.tmp / "x.csv"),
    "leaderboard <tmp>/x.csv does not exist; run from a clone of the repository, or name the file with --csv")  # fmt: skip
row("leaderboard with another head", "<tmp>/board.csv", lambda w: board_with(w, 1, who="whom"), f"leaderboard <tmp>/board.csv: the first line must be {','.join(FIELDS)}")
row("leaderboard with words for hours", "'three'", lambda w: board_with(w, hours="three"), "leaderboard <tmp>/board.csv, line 2: hours = 'three' is not a number of type float")
row(
    "leaderboard without hours", "line 2", lambda w: board_with(w, hours="", seconds=""), "leaderboard <tmp>/board.csv, line 2: hours is empty; an entry of the leaderboard needs a time"
)
row("leaderboard with CORE in percent", "25.85", lambda w: board_with(w, core="25.85"), f"{ENTRY}core = 25.85 is not allowed; CORE lies between -1 and 1")
row("leaderboard with a date of no calendar", "2026-02-30", lambda w: board_with(w, date="2026-02-30"),
    f"{ENTRY}date = '2026-02-30' is not allowed; year-month-day, for example 2026-01-29, or year-month, or year")  # fmt: skip
row("leaderboard with somebody", "'me'", lambda w: board_with(w, who="me"), f"{ENTRY}who = 'me' is not allowed; published or unmerged or ours")
row("leaderboard with an id twice", "nanochat-1", lambda w: board_with(w, 3, id="nanochat-1") and board_with(w, 2, id="nanochat-1"),
    "leaderboard entry 'nanochat-1' exists already; give the run another name, or remove the old line")  # fmt: skip
row(
    "leaderboard with a run that is not there",
    "nope",
    lambda w: cli("leaderboard", "show", "--run", "nope"),
    "run 'nope' does not exist: neither <home>/runs/nope nor a folder of that name",
)
row("leaderboard with an unfinished run", "toy", lambda w: ((w.run / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n'), cli("leaderboard", "show", "--run", "toy")),
    "run 'toy' is not finished (step 1); the command that began it goes on with it")  # fmt: skip


# ---- costs, and the runs in the background

row("cost without a device", "--gpu", lambda w: cli("cost", "--flops", 1e19), "neither --gpu nor --peak is given; give one, for example --gpu H100 or --peak 989e12")
row("cost of an unknown device", "TPU", lambda w: cli("cost", "--flops", 1e19, "--gpu", "TPU"), "the peak of gpu 'TPU' is unknown; known are …; or give --peak, such as --peak 989e12")
row("cost at more than the peak", "50.0", lambda w: cli("cost", "--flops", 1e19, "--gpu", "H100", "--mfu", 50),
    "mfu = 50.0 is not allowed; it is a share, greater than 0 and at most 1 (50 % is 0.5)")  # fmt: skip
row("status of no run", "nope", lambda w: cli("speedrun", "status", "nope"), "there is no run 'nope' in <home>/runs; there are toy")
row("status of a folder outside", "../x", lambda w: cli("speedrun", "status", "../x"), f"run name '../x' is not allowed; it must be {files.RUN_NAME_ALLOWED}")
row("follow every 0 seconds", "0", lambda w: cli("speedrun", "follow", "toy", "--every", 0), "every = 0 is not allowed; it must be a number of seconds above 0")
row("stop and wait for nan", "nan", lambda w: cli("speedrun", "stop", "toy", "--wait", "nan"), "wait = nan is not allowed; it must be a number of seconds from 0")


# ---- the environment

PLACE = "set it to a folder that you may write to, for example: export GPT2COURSE_HOME=~/gpt2course"
row("home that is a file", "<tmp>/toy.jsonl", lambda w: (w.env(w.corpus), cli("sample", "toy")), f"GPT2COURSE_HOME = '<tmp>/toy.jsonl' is a file; {PLACE}")
row("home of nobody", "~nobody-here", lambda w: (w.env("~nobody-here/x"), cli("sample", "toy")), f"GPT2COURSE_HOME = '~nobody-here/x' names a user without a home folder; {PLACE}")
row("home below a file", "<tmp>/toy.jsonl/x", lambda w: (w.env(w.corpus + "/x"), cli("tokenizer", "train", "--corpus", w.corpus, "--vocab-size", 280)),
    "<tmp>/toy.jsonl/x… cannot be used (Not a directory); mend that, or choose another place: GPT2COURSE_HOME is <tmp>/toy.jsonl/x")  # fmt: skip


def refuse_writing(error):
    def give(w):
        def mkstemp(dir=None, **_):
            raise OSError(error, __import__("os").strerror(error), str(dir))

        w.patch(files.tempfile, "mkstemp", mkstemp), w.patch(files.tempfile, "mkdtemp", mkstemp)
        cli("tokenizer", "train", "--corpus", w.corpus, "--vocab-size", 280)

    return give


for error, said in ((13, "Permission denied"), (28, "No space left on device"), (30, "Read-only file system")):
    row(f"home: {said}", "<home>", refuse_writing(error), f"<home>/tokenizers cannot be used ({said}); mend that, or choose another place: GPT2COURSE_HOME is <home>")


def runbook_home(w):
    from gpt2course.ops.runbook import open_run

    w.env(w.corpus + "/x")
    open_run(Params.check(settings="steps=3"))


row("home of the runbook below a file", "<tmp>/toy.jsonl/x", runbook_home,
    "run folder <tmp>/toy.jsonl/x/runs/jan29-d4 cannot be made (Not a directory); set GPT2COURSE_HOME to a folder that you may write to")  # fmt: skip


# ---- the tests


@pytest.mark.parametrize("value,give,message", ROWS)
def test_a_bad_input_is_answered_by_its_line(value, give, message, w):
    places = lambda text: text.replace("<home>", str(w.home)).replace("<tmp>", str(w.tmp))  # noqa: E731
    with pytest.raises(UserError) as e:
        give(w)
    said = str(e.value)
    wanted = ".*".join(re.escape(part) for part in places(message).split("…"))
    assert re.fullmatch(wanted, said), f"\nsaid:   {said}\nwanted: {places(message)}"
    assert said.isprintable() and len(said) < 2000 and places(value) in said  # one line, which repeats what was given


def test_the_table_is_long():
    assert len(ROWS) >= 60 and len({r.id for r in ROWS}) == len(ROWS)


TYRO = [("train", "--seed", "four"), ("recipes", "jan29", "--depth", "four"), ("sample", "toy", "--top-k", "many"), ("train", "--sead", "4"), ("core", "toy", "--max-examples", "1.5"),
        ("speedrun", "begin", "toy"), ("leaderboard", "shw"), ("data", "a", "b")]  # fmt: skip


@pytest.mark.parametrize("argv", TYRO, ids=" ".join)
def test_what_tyro_refuses_names_the_option_and_points_to_help(argv, capsys, monkeypatch):
    """These are tyro's own words, in a box."""
    module, *options = argv
    monkeypatch.setattr(sys, "argv", [module, *options])
    with pytest.raises(SystemExit) as e:
        files.command(importlib.import_module(f"gpt2course.{module}").main)
    err = capsys.readouterr().err
    assert e.value.code == 2 and options[-1] in err and "--help" in err and "Traceback" not in err
