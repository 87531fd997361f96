"""An exported folder is the run's model, whole, checked, and enough to run it without the run."""

import hashlib
import json
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gpt2course import checkpoint, core, evaluate, gpt2
from gpt2course.ops import export, jobs
from gpt2course.files import UserError, read_json, write_json
from gpt2course.recipes import Plan
from gpt2course.sample import Sample, generate
from gpt2course.tokenizer import Tokenizer
from gpt2course.train import Train, train

SIZE = ("depth=3", "width=32", "head_dim=16", "sequence_len=32", "vocab_size=400", "batch_tokens=256", "steps=6", "eval_bytes=2000")
RECIPES = ("jan29", "record", "gpt2")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a run of every kind of architecture, trained for a few steps on sentences of a small grammar."""
    folder = tmp_path_factory.mktemp("export")
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstv" for b in ("a", "e", "i", "o", "an", "er", "ing")]
    words = (["the cat", "a dog", "the old man", "my friend"], ["sees", "likes", *("".join(draw.choices(syllables, k=3)) for _ in range(90))], ["the sea", "12345 naïve cafés"])
    with open(folder / "toy.jsonl", "w") as f:
        for _ in range(300):
            text = ". ".join(" ".join(draw.choice(part) for part in words) for _ in range(draw.randint(1, 9)))
            f.write(json.dumps({"text": text}) + "\n")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("GPT2COURSE_HOME", str(folder))
        for recipe in RECIPES:
            train(Train(recipe=recipe, name=recipe, set=SIZE, corpus=str(folder / "toy.jsonl"), device="cpu", log_seconds=1e9, device_batch=4, price_per_hour=3.0))
    return folder


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(home))
    torch.set_num_threads(1)


IDS = torch.tensor([[5, 77, 300, 12, 12, 399, 0, 256] * 4])  # (1, 32)


def final(home, recipe) -> Path:
    return home / "runs" / recipe / "checkpoints" / "step_00000006"


@pytest.mark.parametrize("recipe", RECIPES)
def test_float32_is_the_run_to_the_last_bit(home, recipe, tmp_path):
    made = export.export(recipe, tmp_path / "x", "float32")
    run, tokenizer, plan = checkpoint.load_model(recipe, "cpu")
    model, read, same = checkpoint.load_model(made["folder"], "cpu")
    with torch.no_grad():
        assert torch.allclose(model(IDS), run(IDS), rtol=0, atol=1e-6) and made["kl"] < 1e-9 and made["max_difference"] < 1e-6
    assert all(torch.equal(p, q) for p, q in zip(model.state_dict().values(), run.state_dict().values())) and not model.training
    assert read.sha256 == tokenizer.sha256 and same == plan
    assert generate(model, read, ["the cat"], 8, seed=1) == generate(run, tokenizer, ["the cat"], 8, seed=1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_bfloat16_is_the_run_rounded_once(home, recipe, tmp_path):
    made = export.export(recipe, tmp_path / "x")
    before = load_file(final(home, recipe) / "model.safetensors")
    rounded = {n: t.bfloat16().to(t.dtype) if t.ndim >= 2 else t for n, t in before.items()}
    run = checkpoint.load_model(recipe, "cpu")[0]
    with torch.no_grad():
        exact = run(IDS)
        run.load_state_dict(rounded)
        model = checkpoint.load_model(made["folder"], "cpu")[0]
        assert torch.allclose(model(IDS), run(IDS), rtol=0, atol=1e-6)
        difference = (model(IDS) - exact).abs().max().item()
    assert 0 < difference < 0.1 and 0 < made["kl"] < 1e-3 and 0 < made["max_difference"] < 0.1
    after = load_file(tmp_path / "x" / "model.safetensors")
    assert {t.dtype for t in after.values() if t.ndim >= 2} == {torch.bfloat16} and all(t.dtype == torch.float32 for t in after.values() if t.ndim < 2)
    assert made["bytes"] < 0.6 * (final(home, recipe) / "model.safetensors").stat().st_size


def test_bfloat16_embeddings_stay_as_they_were_trained_in_a_float32_export(home, tmp_path):
    """Runs on GPUs keep their embeddings in bfloat16; nothing is gained by widening them."""
    shutil.copytree(home / "runs" / "jan29", tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step_00000006"
    tensors = {n: t.bfloat16() if n.startswith(("wte", "value_embeds")) else t for n, t in load_file(path / "model.safetensors").items()}
    save_file(tensors, path / "model.safetensors")
    state = read_json(path / "state.json")
    state["sha256"]["model.safetensors"] = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    write_json(path / "state.json", state)
    made = export.export(str(path), tmp_path / "x", "float32")
    after = load_file(tmp_path / "x" / "model.safetensors")
    assert after.keys() == tensors.keys() and all(after[n].dtype == t.dtype and torch.equal(after[n], t) for n, t in tensors.items()) and made["max_difference"] < 1e-6


def test_embeddings_are_mapped_and_matrices_are_held_once(home, tmp_path):
    export.export("jan29", tmp_path / "x")
    model = checkpoint.load_model(str(tmp_path / "x"), "cpu")[0]
    kinds = {n: p.dtype for n, p in model.named_parameters()}
    assert {d for n, d in kinds.items() if n.startswith(("wte", "value_embeds"))} == {torch.bfloat16} and kinds["lm_head.weight"] == kinds["blocks.0.mlp.c_fc.weight"] == torch.float32
    if sys.platform == "linux":
        spans = [tuple(int(x, 16) for x in line.split()[0].split("-")) for line in open("/proc/self/maps") if line.rstrip().endswith(str(tmp_path / "x" / "model.safetensors"))]
        inside = lambda p: any(a <= p.data_ptr() < b for a, b in spans)  # noqa: E731
        assert {n for n, p in model.named_parameters() if inside(p)} >= {n for n in kinds if n.startswith(("wte", "value_embeds"))}
        assert not any(inside(p) for n, p in model.named_parameters() if n.startswith("blocks") and p.ndim == 2)
    plan = checkpoint.load_model("jan29", "cpu")[2]
    held = sum(4 * p.numel() for n, p in model.named_parameters() if not n.startswith(("wte", "value_embeds")))
    assert export.held(plan) == held


def test_the_configuration_says_everything(home, tmp_path):
    made = export.export("jan29", tmp_path / "x")
    config, run = read_json(tmp_path / "x" / "config.json"), read_json(home / "runs" / "jan29" / "config.json")
    assert all(config[k] == v for k, v in run.items() if k != "dtype") and config["trained_dtype"] == run["dtype"] == "float32" and config["dtype"] == "bfloat16"
    plan = Plan.from_json(config["plan"])
    assert (config["format"], config["format_version"], config["recipe"], config["step"], config["run"]) == ("gpt2course export", 1, "jan29", 6, "jan29")
    assert config["tokens"] == 6 * 256 and config["flops"] == 6 * 256 * plan.flops_per_token and plan.model.n_layer == 3
    assert config["checkpoint_sha256"] == hashlib.sha256((final(home, "jan29") / "model.safetensors").read_bytes()).hexdigest()
    assert config["generation"] == {"temperature": Sample.temperature, "top_k": Sample.top_k, "max_tokens": Sample.max_tokens, "bos": Tokenizer.load(tmp_path / "x" / "tokenizer").bos}
    sums = dict(reversed(line.split("  ")) for line in (tmp_path / "x" / "SHA256SUMS").read_text().splitlines())
    files = {str(p.relative_to(tmp_path / "x")): p for p in (tmp_path / "x").rglob("*") if p.is_file() and p.name != "SHA256SUMS"}
    assert sums == {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()} and made["sha256"] == sums["model.safetensors"]
    assert set(files) == {"config.json", "model.safetensors", "tokenizer/tokenizer.json", "tokenizer/ranks.tiktoken", "tokenizer.json", "README.md", "LICENSE.md"}
    assert all(p.stat().st_mode & 0o044 == 0o044 for p in files.values())


# ---- damaged, foreign, in the way


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", export.NEEDED)
def test_damage_is_found_and_named(home, name, tmp_path):
    export.export("jan29", tmp_path / "x")
    path = tmp_path / "x" / name
    good = path.read_bytes()
    for damage in (lambda: path.write_bytes(good[:-1]), lambda: path.write_bytes(good + b" "), lambda: flip(path), path.unlink):
        path.write_bytes(good)
        damage()
        with pytest.raises(UserError, match=r"(damaged or was changed|missing|not valid JSON|no model that this course|has no config.json|checksum).*") as e:
            checkpoint.load_model(str(tmp_path / "x"), "cpu")
        assert "\n" not in str(e.value) and Path(name).name in str(e.value)
    path.write_bytes(good)
    (tmp_path / "x" / "README.md").write_text("my own words")  # a card is there to be edited
    checkpoint.load_model(str(tmp_path / "x"), "cpu")


def test_foreign_folders_get_one_clear_line(home, tmp_path):
    x = tmp_path / "x"
    export.export("jan29", x)
    config = (x / "config.json").read_text()
    for text, message in ((config.replace('"format_version": 1', '"format_version": 2'), r"has format version 2, this package reads 1"), ("[1]", "is neither the configuration of a run"),
                          ("{}", "is neither the configuration of a run"), ("{", "is not valid JSON")):  # fmt: skip
        (x / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            checkpoint.load_model(str(x), "cpu")
    (x / "config.json").write_text(config)
    (x / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="has no readable SHA256SUMS"):
        checkpoint.load_model(str(x), "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no config.json, so it is neither a run nor an exported model"):
        checkpoint.load_model(str(tmp_path / "empty"), "cpu")
    with pytest.raises(UserError, match="no model that this course exported"):
        export.load(home / "runs" / "jan29", "cpu")


def test_weights_of_another_model_are_named(home, tmp_path):
    plan = checkpoint.load_model("jan29", "cpu")[2]
    tensors = load_file(final(home, "jan29") / "model.safetensors")
    for change, message in (
        ({"wte.weight": None}, "tensor wte.weight is missing"), ({"more": torch.zeros(1)}, "tensor more does not belong to it"),
        ({"lm_head.weight": torch.zeros(2, 2)}, r"tensor lm_head.weight has shape \[2, 2\], expected \[400, 32\]"),
    ):  # fmt: skip
        save_file({n: t for n, t in (tensors | change).items() if t is not None}, tmp_path / "m.safetensors")
        with pytest.raises(UserError, match=message):
            export.mapped(plan, tmp_path / "m.safetensors", "cpu", torch.float32)
    (tmp_path / "m.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="no whole safetensors file"):
        export.mapped(plan, tmp_path / "m.safetensors", "cpu", torch.float32)


def test_nothing_else_is_overwritten_and_a_failure_leaves_nothing(home, tmp_path, monkeypatch):
    x = tmp_path / "x"
    x.mkdir()
    (x / "thesis.txt").write_text("mine")
    for out in (x, x / "thesis.txt"):
        with pytest.raises(UserError, match="holds something else"):
            export.export("jan29", out)
    (x / "thesis.txt").unlink()
    export.export("jan29", x)  # an empty folder will do
    made = export.export("jan29", x, "float32")  # and an older export is replaced
    assert read_json(x / "config.json")["dtype"] == "float32"
    before, real = (x / "SHA256SUMS").read_bytes(), export.load

    def other(folder, device):
        model, *rest = real(folder, device)
        with torch.no_grad():
            next(p for p in model.parameters() if p.ndim == 1).add_(1.0)
        return model, *rest

    monkeypatch.setattr(export, "load", other)
    for dtype in export.DTYPES:
        with pytest.raises(UserError, match="given up: read back, its predictions are not those of the run's weights"):
            export.export("jan29", x, dtype)
    monkeypatch.setattr(export, "load", real)
    monkeypatch.setattr(export, "KL_MOST", 1e-12)
    with pytest.raises(UserError, match=r"given up: rounded to bfloat16, its predictions differ from the run's by .*; try --dtype float32"):
        export.export("jan29", x)
    assert (x / "SHA256SUMS").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x"] and made["step"] == 6
    with pytest.raises(UserError, match="dtype = 'int4' is not allowed; it must be bfloat16 or float32"):
        export.export("jan29", x, "int4")
    with pytest.raises(UserError, match="there is no run 'nobody'"):
        export.export("nobody")


def test_the_stage_of_the_runbook(home):
    made = export.do_export({"checkpoint": "jan29/checkpoints/step_00000006", "step": 6, "weights": "abc", "dtype": "float32"})
    assert made["folder"] == str(home / "runs" / "jan29" / "export") and made["dtype"] == "float32" and json.loads(json.dumps(made)) == made
    assert export.do_export({"run": "jan29"})["dtype"] == "bfloat16"
    with pytest.raises(UserError, match="is an exported folder already|no good checkpoint|neither a run"):
        export.export(str(home / "runs" / "jan29" / "export"))


# ---- away from the run


def test_the_folder_alone_is_enough(home, tmp_path, monkeypatch, capsys):
    """On another machine, without the run: sample, core and evaluate take the folder as they take a run."""
    x = tmp_path / "elsewhere"
    assert export.export("record", x)["step"] == 6
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path / "laptop"))
    argv = [sys.executable, "-m", "gpt2course.sample", str(x), "--prompt", "the cat", "--number", "1", "--max-tokens", "6"]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, env=jobs.environment()).stdout
    model, tokenizer, plan = checkpoint.load_model(str(x), "cpu")
    assert out == "the cat" + generate(model, tokenizer, ["the cat"], 6, Sample.temperature, Sample.top_k)[0] + "\n"
    core.main(core.Core(str(x), bundle=str(core.MINI), max_examples=3, tasks=("agreement",), keep=False, device="cpu"))
    evaluate.main(evaluate.Evaluate(str(x), corpus=str(home / "toy.jsonl"), max_bytes=500, device="cpu"))
    told = capsys.readouterr().out
    assert "mini-CORE" in told and re.search(r"model \d\.\d{4} bits per byte", told)


# ---- other people's readers


@pytest.fixture(scope="module")
def theirs(home, tmp_path_factory):
    """(ours, Hugging Face's) tokenizer of the same folder."""
    tokenizers = pytest.importorskip("tokenizers")
    path, ours = tmp_path_factory.mktemp("hf") / "tokenizer.json", Tokenizer.load(home / "runs" / "jan29" / "tokenizer")
    path.write_text(json.dumps(export.huggingface_tokenizer(ours), ensure_ascii=False), encoding="utf-8")
    return ours, tokenizers.Tokenizer.from_file(str(path))


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.text(alphabet="aeth ocsd'\n12<|>", max_size=200),
        st.lists(st.sampled_from(["the", " cat", "  ", "\r\n", "<|bos|>", "9", "é", "'LL"]), max_size=30).map("".join),
    )
)
def test_hugging_faces_tokenizer_cuts_the_same(theirs, text):
    ours, other = theirs
    ids = ours.encode(text)
    assert other.encode(text).ids == ids and other.decode(ids, skip_special_tokens=False) == ours.decode(ids)
    assert all(other.token_to_id(name) == i for name, i in ours.special.items()) and other.get_vocab_size() == ours.vocab_size


def test_hugging_faces_tokenizer_on_real_text(theirs, dev_data):
    pq = pytest.importorskip("pyarrow.parquet")
    ours, other = theirs
    shard = next(iter(sorted(dev_data.rglob("*.parquet"))))
    texts = pq.ParquetFile(shard).read_row_group(0, columns=["text"]).column("text").to_pylist()[:300]
    assert sum(map(len, texts)) > 100_000
    for text in texts:
        assert other.encode(text).ids == ours.encode(text)


def test_every_cut_of_a_token_is_a_merge(home):
    t = Tokenizer.load(home / "runs" / "jan29" / "tokenizer")
    made = export.huggingface_tokenizer(t)["model"]
    vocab, known = made["vocab"], set(t.ranks)
    assert sorted(vocab.values()) == list(range(t.vocab_size)) and made["ignore_merges"]
    ids = [vocab[a + b] for a, b in made["merges"]]
    assert ids == sorted(ids) and len(ids) == sum(token[:i] in known and token[i:] in known for token in t.ranks for i in range(1, len(token)))
    assert all(len(token) == 1 or any(token[:i] in known and token[i:] in known for i in range(1, len(token))) for token in t.ranks)


def test_gpt2_is_read_as_the_released_models_are(home, tmp_path):
    export.export("gpt2", tmp_path / "x", "float32")
    model, released = checkpoint.load_model("gpt2", "cpu")[0], gpt2.load_released(tmp_path / "x")
    config = read_json(tmp_path / "x" / "config.json")
    assert (config["model_type"], config["n_head"], config["n_positions"]) == ("gpt2", 2, 32) and released.config == model.config
    with torch.no_grad():
        assert torch.equal(released(IDS), model(IDS))


def test_gpt2_is_read_by_transformers(home, tmp_path):
    transformers = pytest.importorskip("transformers")
    export.export("gpt2", tmp_path / "x", "float32")
    model, tokenizer, _ = checkpoint.load_model("gpt2", "cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype=torch.float32)
    with torch.no_grad():
        assert (theirs(IDS).logits - model(IDS)).abs().max() < 1e-5
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "x")
    assert read.encode("the old man likes 12345 naïve cafés", add_special_tokens=False) == tokenizer.encode("the old man likes 12345 naïve cafés") and read.bos_token_id == tokenizer.bos
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x")  # a bfloat16 export too
    export.export("gpt2", tmp_path / "x")
    assert type(other).__name__ == "GPT2LMHeadModel" and transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype="auto").dtype == torch.bfloat16


# ---- the card


def test_the_card_says_what_the_run_was(home, tmp_path):
    shutil.copytree(home / "runs" / "jan29", tmp_path / "run")
    card = lambda: (export.export(str(tmp_path / "run"), tmp_path / "x"), (tmp_path / "x" / "README.md").read_text())[1]  # noqa: E731
    text, config = card(), read_json(tmp_path / "run" / "config.json")
    plan, metrics = config["plan"], jobs.read_metrics(tmp_path / "run")
    bpb = [m for m in metrics if m["kind"] == "eval"][-1]["val_bpb"]
    for words in (f"{plan['params']['total']:,} parameters", "recipe `jan29` at depth 3", "step 6 of 6: 1,536 tokens", f"{bpb:.4f} bits per byte", "CORE was not measured", config["val_sha256"], "| seed | 42 |",
                  config["machine"]["torch"], "your own files: their licence is yours to know", "There is no export to the formats of GPT-2 or Llama", "an hour for", "python -m gpt2course.sample FOLDER"):  # fmt: skip
        assert words in text, words
    assert "transformers import" not in text and "your own files" in (tmp_path / "x" / "LICENSE.md").read_text()
    for file, old, new, words in (("config.json", '"seed": 42', '"seed": 43', "| seed | 43 |"), ("metrics.jsonl", repr(bpb), "9.87654", "9.8765 bits per byte"),
                                  ("log.txt", "licence is yours", "<b>licence</b> is theirs", "&lt;b&gt;licence&lt;/b&gt; is theirs")):  # fmt: skip
        path = tmp_path / "run" / file
        assert words not in text and old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        assert words in card()
    (tmp_path / "run" / "log.txt").unlink()
    assert "not recorded in the run's log" in card() and "not recorded" in (tmp_path / "x" / "LICENSE.md").read_text()
    export.export("gpt2", tmp_path / "y")
    text = (tmp_path / "y" / "README.md").read_text()
    assert "from transformers import AutoModelForCausalLM" in text and "There is no export" not in text


def test_scores_of_another_step_are_not_its_own(home, tmp_path):
    earlier = sorted((home / "runs" / "jan29" / "checkpoints").glob("step_*"))[0]
    step = int(earlier.name[5:])
    assert step < 6
    assert export.export(str(earlier), tmp_path / "x")["step"] == step
    text = (tmp_path / "x" / "README.md").read_text()
    assert f"These are the scores of the end of the run, step 6; the weights here are of step {step} and were not scored." in text and f"step {step} of 6: {step * 256:,} tokens" in text


def test_predictions_are_compared_on_real_text(home):
    ids = Tokenizer.load(home / "runs" / "jan29" / "tokenizer").encode(export.TEXT, bos=True)
    assert len(ids) > 32 and math.isfinite(export.KL_MOST) and export.KL_MOST <= 0.01
