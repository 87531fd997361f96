"""Models of transformers through our evaluators; skipped where transformers is not installed."""

import json
import sys

import pytest
import torch

from gpt2course import core
from gpt2course.core_tasks import MINI
from gpt2course.fast import core_fast
from gpt2course.files import UserError
from gpt2course.gpt2 import GPT2
from gpt2course.ops import hf


def test_without_transformers_the_error_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'transformers is not installed; install it with: pip install "transformers>=5"'):
        hf.load(tmp_path, "cpu")


@pytest.fixture(params=["llama", "gpt2"])
def folder(request, tmp_path):
    """A tiny random Llama, or GPT-2 in the layout of the released ones, with a tokenizer of single bytes."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, "<s>"])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    inner.pre_tokenizer, inner.decoder = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>").save_pretrained(tmp_path)
    if request.param == "llama":
        config = transformers.LlamaConfig(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                          max_position_embeddings=4096, initializer_range=0.3)  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    else:
        config = transformers.GPT2Config(vocab_size=257, n_embd=64, n_layer=2, n_head=1, n_positions=128, initializer_range=0.3)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_both_evaluators_decide_the_same(folder):
    model, tokenizer = hf.load(folder, "cpu")
    released = json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    assert isinstance(model, GPT2) == released and model.max_len == (128 if released else None)
    assert tokenizer.encode("ab", bos=True)[0] == tokenizer.bos == 256 and len(tokenizer.encode("ab")) == 2
    fast = core_fast.evaluate(model, tokenizer, MINI, max_examples=8, budget=400, max_len=model.max_len)
    slow = core.evaluate(model, tokenizer, MINI, max_examples=8, max_len=model.max_len)
    assert {k: v["accuracy"] for k, v in fast["tasks"].items()} == {k: v["accuracy"] for k, v in slow["tasks"].items()}
    ids = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.hidden(ids)), model(ids))


def test_the_command_scores_a_folder(folder, course_home, capsys, tmp_path):
    hf.main(hf.Released(str(folder), str(MINI), max_examples=2, out=str(tmp_path / "core.json"), device="cpu"))
    assert json.loads((tmp_path / "core.json").read_text())["result"]["n"] == 14 and "on mini-CORE" in capsys.readouterr().out


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is not a causal language model that transformers can read|cannot be read"):
        hf.load(folder, "cpu")
    with pytest.raises(UserError, match="model configuration .* does not exist"):
        hf.load(folder / "nothing", "cpu")
