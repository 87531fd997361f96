"""An exported folder is the run's model, whole, checked, and enough to use the model without the run."""

import json
import random
import re
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import write_corpus
from safetensors.torch import load_file, save_file

from gpt2course import checkpoint
from gpt2course.files import UserError, read_json, sha256
from gpt2course.load import EXPORT, SUMS, load_model
from gpt2course.ops import export
from gpt2course.recipes import Plan
from gpt2course.runlog import read_metrics
from gpt2course.sample import generate
from gpt2course.train import Train, train

SIZE = ("depth=3", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=400", "batch_tokens=256", "steps=6", "eval_bytes=2000")
RECIPES = ("jan29", "record", "gpt2")
IDS = torch.tensor([[5, 77, 300, 12, 12, 399, 0, 256] * 4])  # (1, 32)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """GPT2COURSE_HOME with a short run of every kind of architecture."""
    folder = tmp_path_factory.mktemp("export")
    words = ["".join(random.Random(i).choices("abcdefghijklmnopqrst", k=6)) for i in range(100)]
    texts = [" ".join(random.Random(i).choices(words, k=40)) for i in range(300)]
    corpus = write_corpus(folder / "toy.jsonl", texts)
    with pytest.MonkeyPatch.context() as m:
        m.setenv("GPT2COURSE_HOME", str(folder))
        for recipe in RECIPES:
            train(Train(recipe=recipe, name=recipe, set=SIZE, corpus=corpus, device="cpu", log_seconds=1e9))
        yield folder


def predictions(name):
    with torch.no_grad():
        return load_model(str(name), "cpu")[0](IDS)


@pytest.mark.parametrize("recipe", RECIPES)
def test_float32_is_the_run_to_the_last_bit(tmp_path, recipe):
    made = export.export(recipe, tmp_path / "out", "float32")
    assert torch.equal(predictions(tmp_path / "out"), predictions(recipe))
    assert (made["step"], made["max_difference"], made["sha256"]) == (6, 0.0, sha256(tmp_path / "out" / "model.safetensors"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_bfloat16_is_the_run_rounded_once(home, tmp_path, recipe):
    made = export.export(recipe, tmp_path / "out")
    trained, exported = load_file(checkpoint.newest(home / "runs" / recipe)[0] / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert trained.keys() == exported.keys()
    for name, t in exported.items():
        assert torch.equal(t, trained[name].bfloat16() if t.ndim >= 2 else trained[name])
    assert 0 < made["max_difference"] < 0.1 and made["bytes"] < 0.6 * sum(4 * t.numel() for t in trained.values())


def test_a_checkpoint_is_exported_and_its_configuration_kept(home, tmp_path):
    source = checkpoint.newest(home / "runs" / "jan29")[0]
    export.export(str(source), tmp_path / "out")
    config, run = read_json(tmp_path / "out" / "config.json"), read_json(home / "runs" / "jan29" / "config.json")
    assert config == run | {k: config[k] for k in ("format", "model_type", "gpt2course", "run", "step", "weights_dtype", "checkpoint_sha256")}
    assert (config["format"], config["run"], config["step"], config["weights_dtype"]) == (EXPORT, "jan29", 6, "bfloat16")
    assert config["checkpoint_sha256"] == sha256(source / "model.safetensors") and Plan.from_json(config["plan"])
    if shutil.which("sha256sum"):
        assert subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path / "out", capture_output=True).returncode == 0
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {line.split("  ")[1] for line in (tmp_path / "out" / SUMS).read_text().splitlines()} | {SUMS}


def test_the_card_says_what_the_run_was(home, tmp_path):
    run = home / "runs" / "jan29"
    (run / "stages").mkdir(exist_ok=True)
    (run / "stages" / "core.json").write_text(json.dumps({"result": {"result": {"name": "mini-CORE", "core": 0.125, "tasks": {}}}}))
    export.export("jan29", tmp_path / "out")
    card, bpb = (tmp_path / "out" / "README.md").read_text(), [line for line in read_metrics(run) if line["kind"] == "eval"][-1]["val_bpb"]
    assert "recipe `jan29`, depth 3" in card and "step 6 of 6, 1,536 tokens" in card and f"{bpb:.4f} bits per byte, mini-CORE 0.1250" in card
    assert "- your own" in card and not re.search(r"[{}]|None", card)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer/tokenizer.json", "tokenizer/ranks.tiktoken", "README.md"])
def test_damage_is_found_and_named(tmp_path, name):
    export.export("jan29", tmp_path / "out")
    with open(tmp_path / "out" / name, "ab") as f:
        f.write(b" ")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'out' / name} is missing or differs from {SUMS}")):
        load_model(str(tmp_path / "out"), "cpu")


def test_only_an_older_export_is_replaced(home, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / SUMS).write_text("")
    (tmp_path / "mine" / "config.json").write_text("{}")
    for out in (tmp_path / "mine", tmp_path, home / "runs" / "gpt2"):
        with pytest.raises(UserError, match="exists and is not an exported model; choose a new folder with --folder"):
            export.export("jan29", out)
    assert export.export("jan29")["folder"] == export.export("jan29", "", "float32")["folder"] == str(home / "runs" / "jan29" / "export")
    assert load_file(home / "runs" / "jan29" / "export" / "model.safetensors")["lm_head.weight"].dtype == torch.float32


def test_a_failed_check_leaves_nothing(tmp_path, monkeypatch):
    def wrong(tensors, path, metadata):
        save_file({name: t + 1 for name, t in tensors.items()}, path)

    monkeypatch.setattr(export, "save_file", wrong)
    with pytest.raises(UserError, match="the exported model differs from the run's"):
        export.export("jan29", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_folder_alone_is_enough(tmp_path, monkeypatch):
    trained = generate(*load_model("record", "cpu")[:2], ["the"], max_tokens=4, seed=1)
    argv = [sys.executable, "-m", "gpt2course.ops.export", "record", "--folder", str(tmp_path / "out"), "--out", str(tmp_path / "made.json")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 and "try it: python -m gpt2course.sample" in done.stdout, done.stderr
    made = read_json(tmp_path / "made.json")
    assert made.keys() == {"folder", "dtype", "bytes", "step", "sha256", "max_difference"}
    moved = shutil.move(made["folder"], tmp_path / "elsewhere")
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path / "empty"))
    model, tokenizer, _ = load_model(str(moved), "cpu")
    assert generate(model, tokenizer, ["the"], max_tokens=4, seed=1) == trained
