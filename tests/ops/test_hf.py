"""A model of transformers through our evaluators; skipped where transformers is not installed."""

import json

import pytest
import torch

from gpt2course import checkpoint, core
from gpt2course.fast import core_fast
from gpt2course.files import UserError


def test_without_transformers_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match=r'needs the package transformers; install it with: pip install "transformers>=5"'):
        checkpoint.load_model(str(tmp_path), "cpu")


@pytest.fixture
def llama(tmp_path):
    """A folder with a tiny random Llama and a tokenizer of single bytes."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, "<s>"])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    inner.pre_tokenizer, inner.decoder = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>").save_pretrained(tmp_path)
    config = transformers.LlamaConfig(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                      max_position_embeddings=4096, initializer_range=0.3)  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_llama_is_scored_alike_by_both_evaluators(llama):
    model, tokenizer, plan = checkpoint.load_model(str(llama), "cpu")
    assert plan is None and model.max_len is None and tokenizer.encode("ab", bos=True)[0] == 256
    fast = core_fast.evaluate(model, tokenizer, core.MINI, max_examples=8, budget=400)
    slow = core.evaluate(model, tokenizer, core.MINI, max_examples=8)
    assert {k: v["accuracy"] for k, v in fast["tasks"].items()} == {k: v["accuracy"] for k, v in slow["tasks"].items()}
    ids = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.hidden(ids)), model(ids))


def test_a_folder_without_weights_is_refused(llama):
    (llama / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is not a causal language model that transformers can read"):
        checkpoint.load_model(str(llama), "cpu")
