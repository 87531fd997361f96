"""Bits per byte: every byte is scored once, and the number equals one computed a document at a time."""

import json
import lzma
import math

import numpy as np
import pytest
import torch
from helpers import SIZE, on_ranks, write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course.evaluate import Evaluate, bits_per_byte, first_bytes, main, validation_rows, xz_bits_per_byte
from gpt2course.files import UserError
from gpt2course.model import GPT
from gpt2course.ranks import Ranks
from gpt2course.recipes import resolve
from gpt2course.train import Train, train


class Bytes:
    """A tokenizer whose tokens are bytes; 256 is BOS."""

    bos = 256

    def encode_batch(self, documents):
        return [list(d.encode()) for d in documents]

    def token_bytes(self):
        return np.array([1] * 256 + [0], dtype=np.int32)


def tiny_model():
    plan = resolve("jan29", depth=2, width=32, head_dim=16, sequence_len=16, vocab_size=300, batch_tokens=160, steps=1)
    return GPT(plan.model).init_weights(0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=60), min_size=1, max_size=12), st.integers(2, 17))
def test_every_token_is_a_target_exactly_once_with_its_context(documents, T):
    numbered = [[d * 1000 + i for i in range(len(doc))] for d, doc in enumerate(documents)]  # every token tells its place
    inputs, targets = validation_rows(numbered, T, bos=-7)
    assert inputs.shape == targets.shape and inputs.shape[1] == T
    shares = [validation_rows([np.array(doc) for doc in numbered], T, -7, slice(rank, None, 3)) for rank in range(3)]  # of three ranks
    assert all(np.array_equal(x[rank::3], share[i]) for rank, share in enumerate(shares) for i, x in enumerate((inputs, targets)))
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
    model = tiny_model()
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
    assert sum(n for _, n in alone) == sum(map(len, documents)) and model.training  # left as it was found


class Counting(Bytes):
    def __init__(self):
        self.seen = []

    def encode_batch(self, documents):
        self.seen += documents
        return super().encode_batch(documents)


def twice(rank, world):
    """Two evaluations of one model on the same documents: (bpb of both, documents tokenized by this rank)."""
    model, tokenizer = tiny_model(), Counting()
    documents = first_bytes(["some words", "", "a text of more than sixteen bytes", "x", "éé"], 1000)
    found = [bits_per_byte(model, documents, tokenizer, 16, 2, None, Ranks(rank, world))[0] for _ in range(2)]
    return found, tokenizer.seen


def test_each_rank_tokenizes_its_share_of_the_documents_and_only_once(tmp_path):
    (one, every), two = twice(0, 1), on_ranks(2, tmp_path / "run", twice)
    assert every == ["some words", "", "a text of more than sixteen bytes", "x", "éé"]
    assert [seen for _, seen in two] == [every[::2], every[1::2]]
    assert [bpb for found, _ in two for bpb in found] == pytest.approx([one[0]] * 4, rel=1e-6) and one[0] == one[1]


def test_no_text_is_an_error():
    with pytest.raises(UserError, match="no text to evaluate"):
        bits_per_byte(tiny_model(), ["", ""], Bytes(), 16)


def test_first_bytes_does_not_depend_on_the_tokenizer():
    split = ["aaaa", "éé", "cc", "d"]
    assert first_bytes(split, 100) == split
    assert first_bytes(split, 4) == ["aaaa"] and first_bytes(split, 5) == ["aaaa", "éé"] and first_bytes(split, 9) == split[:3]
    assert first_bytes(split, 1) == ["aaaa"]


def test_xz_is_the_command_line_tools_level():
    text = ["The quick brown fox. " * 50, "Jumps over. " * 30]
    raw = "".join(text).encode()
    assert xz_bits_per_byte(text) == 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw)


# ---- the command


@pytest.fixture
def run(course_home, tmp_path, monkeypatch):
    """A run trained from a folder whose corpus was given by a relative path."""
    folder = tmp_path / "here" / "gen"
    folder.mkdir(parents=True)
    texts = [f"line {i} of a text about {i * 7 % 11} things" for i in range(300)]
    write_corpus(folder / "a.jsonl", texts)
    monkeypatch.chdir(folder.parent)
    train(Train("jan29", name="a", corpus="gen/a.jsonl", set=SIZE, device="cpu", stop_after=3))
    return folder / "a.jsonl", texts


def measured(**flags):
    main(Evaluate("a", device="cpu", out="e.json", **flags))
    return json.loads(open("e.json").read())


def test_the_result_is_printed_and_written(run, capsys):
    found = measured()
    out = capsys.readouterr().out
    assert f"model {found['val_bpb']:.4f} bits per byte, xz -9e {found['xz_bpb']:.4f}" in out and f"bits than xz -9e on the same {found['val_bytes']:,} bytes" in out
    assert found["whole"] and found.keys() == {"val_bpb", "xz_bpb", "val_bytes", "documents", "whole", "val_name", "val_sha256"}
    few = measured(max_bytes=100)
    assert not few["whole"] and few["val_bytes"] < 400 and "the first of more" in capsys.readouterr().out
    with pytest.raises(UserError, match="max_bytes = 0 is not allowed; it must be a whole number from 1"):
        measured(max_bytes=0)


CHANGED = {
    "shortened": lambda texts: texts[:250], "another order": lambda texts: texts[::-1], "one letter": lambda texts: [*texts[:-1], texts[-1].replace("t", "T")],
    "one document": lambda texts: [*texts[:-2], texts[-2] + texts[-1]],
}  # fmt: skip


@pytest.mark.parametrize("how", CHANGED)
def test_other_text_than_the_recorded_is_not_measured(run, how):
    """The corpus as somebody may have changed it since the training."""
    path, texts = run
    recorded = measured()["val_sha256"]
    write_corpus(path, CHANGED[how](texts))
    with pytest.raises(UserError, match=f"has sha256 [0-9a-f]{{64}}, the run recorded {recorded}; .* --any-text"):
        measured()
    assert measured(any_text=True)["val_sha256"] != recorded


def test_the_text_does_not_depend_on_the_folder_one_stands_in(run, tmp_path, monkeypatch):
    expected = measured()
    other = tmp_path / "elsewhere"
    (other / "gen").mkdir(parents=True)
    write_corpus(other / "gen" / "a.jsonl", ["Another text.", "It has the same name."] * 40)
    monkeypatch.chdir(other)
    assert measured() == expected
    with pytest.raises(UserError, match="--any-text"):
        measured(corpus="gen/a.jsonl")
