"""Bits per byte: every byte is scored once, and the number equals one computed a document at a time."""

import lzma
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course.evaluate import bits_per_byte, first_bytes, validation_rows, xz_bits_per_byte
from gpt2course.files import UserError
from gpt2course.model import GPT
from gpt2course.recipes import resolve


class Bytes:
    """A tokenizer whose tokens are bytes; 256 is BOS."""

    bos = 256

    def encode_batch(self, documents):
        return [list(d.encode()) for d in documents]

    def token_bytes(self):
        return np.array([1] * 256 + [0], dtype=np.int32)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=60), min_size=1, max_size=12), st.integers(2, 17))
def test_every_token_is_a_target_exactly_once_with_its_context(documents, T):
    numbered = [[d * 1000 + i for i in range(len(doc))] for d, doc in enumerate(documents)]  # every token tells its place
    inputs, targets = validation_rows(numbered, T, bos=-7)
    assert inputs.shape == targets.shape and inputs.shape[1] == T
    scored = sorted(targets[targets >= 0].tolist())
    assert scored == sorted(t for doc in numbered for t in doc)
    for r, t in zip(*np.nonzero(targets >= 0)):
        token, before = targets[r, t], inputs[r, t]
        assert before == (-7 if token % 1000 == 0 else before)
        if before != -7:
            assert before == token - 1  # predicted from the token before it ...
        else:
            assert token % 1000 == 0  # ... or, at a document's start, from BOS
        depth = next(i for i in range(t, -1, -1) if inputs[r, i] == -7)  # where this piece's BOS stands
        assert t - depth >= min(token % 1000, T // 2)  # at least half a row of context where the document has it


def test_bpb_equals_scoring_a_document_at_a_time():
    plan = resolve("jan29", depth=2, width=32, head_dim=16, sequence_len=16, vocab_size=300, batch_tokens=160, steps=1)
    model = GPT(plan.model).init_weights(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, 0, 0.3)
    documents = ["Hello.", "x", "fifteen letters", "sixteen letters!"]  # each fits a row of 16 with its BOS
    nats = 0.0
    for text in documents:
        ids = torch.tensor([256, *text.encode()])
        logp = torch.log_softmax(model(ids[None, :-1])[0].double(), -1)
        nats -= sum(logp[t, ids[t + 1]].item() for t in range(len(text)))
    alone = [bits_per_byte(model, [d], Bytes(), 16) for d in documents]
    assert sum(b * n for b, n in alone) == pytest.approx(nats / math.log(2), rel=1e-5)
    assert sum(n for _, n in alone) == sum(map(len, documents))


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary():
    plan = resolve("jan29", depth=2, width=32, head_dim=16, sequence_len=16, vocab_size=512, batch_tokens=160, steps=1)
    model = GPT(plan.model).init_weights(0)
    torch.nn.init.zeros_(model.lm_head.weight)
    bpb, n = bits_per_byte(model, ["Any text at all, longer than a row of sixteen.", "é"], Bytes(), 16, batch=1)
    assert bpb == pytest.approx(9.0, rel=1e-6) and n == 46 + 2
    assert model.training  # left as it was found


def test_no_text_is_an_error():
    plan = resolve("jan29", depth=2, width=32, head_dim=16, sequence_len=16, vocab_size=512, batch_tokens=160, steps=1)
    with pytest.raises(UserError, match="no text to evaluate"):
        bits_per_byte(GPT(plan.model).init_weights(0), ["", ""], Bytes(), 16)


def test_first_bytes_does_not_depend_on_the_tokenizer():
    split = ["aaaa", "éé", "cc", "d"]
    assert first_bytes(split, None) == split
    assert first_bytes(split, 4) == ["aaaa"] and first_bytes(split, 5) == ["aaaa", "éé"] and first_bytes(split, 9) == split[:3]
    assert first_bytes(split, 1) == ["aaaa"]


def test_xz_is_the_command_line_tools_level():
    text = ["The quick brown fox. " * 50, "Jumps over. " * 30]
    raw = "".join(text).encode()
    assert xz_bits_per_byte(text) == 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw)
