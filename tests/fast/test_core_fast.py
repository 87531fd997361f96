"""The fast evaluator against the plain one: the same tokens, the same losses, the same decisions, on all that can be odd."""

import functools
import json
import math
import random

import pytest
import torch
from helpers import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import core
from gpt2course.core_tasks import GPT2_CENTRED, MINI, Task
from gpt2course.fast import core_fast
from gpt2course.files import UserError
from gpt2course.gpt2 import GPT2, GPT2Config
from gpt2course.model import GPT
from gpt2course.ranks import Ranks
from gpt2course.recipes import LADDER, resolve


class Chars:
    """One token a character, BOS is 0."""

    bos, sha256 = 0, "chars"

    def encode(self, text, bos=False):
        return [0] * bos + [ord(c) for c in text]


class Pairs(Chars):
    """Two newlines join with the letter after them, so that blocks of text can never be put together."""

    sha256 = "pairs"

    def encode(self, text, bos=False):
        ids, i = [0] * bos, 0
        while i < len(text):
            n = 3 if text[i : i + 2] == "\n\n" and i + 2 < len(text) else 1
            ids.append(ord(text[i]) if n == 1 else 128 + ord(text[i + 2]) % 64)
            i += n
        return ids


def model(recipe="jan29", V=256, seed=0, spread=0.08):
    """A small model with weights that make its decisions lively."""
    if recipe == "gpt2":
        made = GPT2(GPT2Config(V, 512, 2, 2, 32)).init_weights(seed)
    else:
        plan = resolve(recipe, depth=3, width=32, head_dim=16, sequence_len=64, vocab_size=max(V, 266), batch_tokens=640, steps=5,
                       short_window_divisor=8, short_window_tile=1)  # fmt: skip
        made = GPT(plan.model).init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * spread)
    return made.eval()


def plain(forward, tokenizer, task, n, max_len=None):
    """Losses (or hits) of every option of every example, by core.py's own functions."""
    found = {}
    for i in range(n):
        rows, spans = core.tokens_and_spans(task.kind, core.render(task, i, core.few_shot(task, i)), tokenizer)
        if max_len is not None:
            rows, spans = core.crop(rows, spans, max_len)
        with torch.no_grad():
            found[i] = core.score(forward, rows, spans, tokenizer.bos)
    return found


def agree(m, tokenizer, task, n, max_len, budget, wanted):
    """Every loss and every decision of the fast evaluator equal the plain one's."""
    answers = {}
    reader = core_fast.Reader(m, tokenizer.bos, budget)
    prompts = core_fast.Prompts(task, n, tokenizer)
    found = [r for i in range(n) for r in core_fast.readings(task.kind, i, *prompts.rows(i), max_len)]
    for (i, options), value in reader(core_fast.merge(found)).items():
        answers |= {(i, c): value for c in options}
    for i, (losses, hits) in wanted.items():
        for c, (loss, hit) in enumerate(zip(losses, hits)):
            assert answers[i, c][0] == pytest.approx(loss, abs=2e-5, nan_ok=True)
            assert answers[i, c][1] == hit
    right = core_fast.score_task(task, range(n), n, tokenizer, reader, max_len)
    for i in set(range(n)) - too_close(answers, task, n):
        assert right[i] == core.is_right(m, tokenizer, task, i, max_len)


def too_close(answers, task, n):
    """The examples whose two lowest losses are one to rounding: which of them wins depends on the place of a row in the
    plain evaluator's batch, even for two equal rows, and on the machine."""
    ties = set()
    for i in range(n) if task.kind != "language_modeling" else ():
        losses = sorted(loss for (j, _), (loss, _) in answers.items() if j == i)
        if not any(map(math.isnan, losses)) and losses[1] - losses[0] < 4e-5:
            ties.add(i)
    return ties


# ---- properties


TEXT = st.text("ab \n.x", max_size=8)
CHOICE = st.text("ab", min_size=1, max_size=4)  # prefixes of each other and equal ones come often


@st.composite
def tasks(draw):
    kind = draw(st.sampled_from(["multiple_choice", "schema", "language_modeling"]))
    shots = draw(st.integers(0, 3))
    examples = []
    for _ in range(shots + draw(st.integers(1, 3))):
        options = draw(st.lists(CHOICE, min_size=2, max_size=4))
        gold = draw(st.integers(0, len(options) - 1))
        if kind == "multiple_choice":
            examples.append(dict(query=draw(TEXT), choices=options, gold=gold))
        elif kind == "schema":
            examples.append(dict(context_options=options, continuation=draw(CHOICE), gold=gold))
        else:
            examples.append(dict(context=draw(TEXT), continuation=draw(CHOICE)))
    return Task("t", kind, shots, draw(st.sampled_from([" ", "\nAnswer: "])), 0.25, examples)


MODELS = {name: model(name) for name in ("jan29", "record", "gpt2")}


@settings(max_examples=60, deadline=None)
@given(tasks(), st.sampled_from(["jan29", "record", "gpt2"]), st.sampled_from([Chars(), Pairs()]), st.integers(1, 400), st.sampled_from([None, 40]))
def test_any_task_any_model_any_budget(task, name, tokenizer, budget, max_len):
    n = len(task.examples)
    try:
        wanted = plain(MODELS[name], tokenizer, task, n, max_len)
    except UserError:  # a tokenizer that joins prompt and continuation, or a crop into an answer: both must refuse
        with pytest.raises(UserError):
            core_fast.score_task(task, range(n), n, tokenizer, core_fast.Reader(MODELS[name], 0, budget), max_len)
        return
    agree(MODELS[name], tokenizer, task, n, max_len, budget, wanted)


# ---- one property at a time


@pytest.mark.parametrize("recipe", LADDER)
def test_mini_core_is_decided_alike_by_every_architecture(recipe):
    m = model(recipe)
    fast = core_fast.evaluate(m, Chars(), MINI, max_examples=12, budget=300)
    slow = core.evaluate(m, Chars(), MINI, max_examples=12)
    for task in fast["tasks"].values():
        right = task.pop("right")
        assert len(right) == task["n"] and right.count("1") == round(task["accuracy"] * task["n"])
    assert fast == slow


def mc(*choices, gold=0, query="q"):
    return Task("t", "multiple_choice", 0, " ", 0.5, [{"query": query, "choices": list(choices), "gold": gold}])


class Counted:
    """A model whose forward passes are counted; `limit` on tokens a pass stands for the memory of a device."""

    def __init__(self, inner, limit=10**9):
        self.inner, self.limit, self.tokens, self.shapes = inner, limit, 0, []
        self.parameters, self.head, self.eval, self.train, self.training = inner.parameters, inner.head, lambda: self, lambda _: self, False

    def hidden(self, ids, cache=None):
        if ids.numel() > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        self.tokens += ids.numel()
        self.shapes.append(tuple(ids.shape))
        return self.inner.hidden(ids, cache)


def test_a_prompt_that_begins_another_is_read_with_it():
    """Questions on one text, each prompt the beginning of the next, shuffled."""
    text, examples = "once upon a time ", []
    for k in range(6):
        examples.append(dict(context=text + f"q{k}", continuation=f"a{k}"))
        text += f"q{k} a{k} "
    random.Random(0).shuffle(examples)
    m, task = Counted(MODELS["jan29"]), Task("t", "language_modeling", 0, " ", 0.0, examples)
    right = core_fast.score_task(task, range(6), 6, Chars(), core_fast.Reader(m, 0, 10_000))
    longest = max(len(e["context"]) + 1 + len(e["continuation"]) for e in examples)  # BOS more, the last token less
    assert m.tokens == longest and right == {i: core.is_right(m.inner, Chars(), task, i) for i in range(6)}


def test_choices_share_their_prompt_and_single_tokens_cost_nothing_more():
    m = Counted(MODELS["jan29"])
    query = "a long question " * 4
    core_fast.score_task(mc("a", "b", "c", "d", query=query), range(1), 1, Chars(), core_fast.Reader(m, 0, 10_000))
    assert m.shapes == [(1, 1 + len(query) + 1)]
    m = Counted(MODELS["jan29"])
    core_fast.score_task(mc("abc", "bc", "cd", "d", query=query), range(1), 1, Chars(), core_fast.Reader(m, 0, 10_000))
    assert m.shapes == [(1, 1 + len(query) + 1), (3, 2)]


def test_memory_that_runs_out_halves_the_budget_and_changes_nothing(capsys):
    task = Task("t", "multiple_choice", 1, " ", 0.5, [dict(query="q" * (5 + i), choices=["ab", "cd"], gold=i % 2) for i in range(12)])
    small = Counted(MODELS["jan29"], limit=80)
    reader = core_fast.Reader(small, 0, 100_000)
    right = core_fast.score_task(task, range(12), 12, Chars(), reader)
    assert right == core_fast.score_task(task, range(12), 12, Chars(), core_fast.Reader(MODELS["jan29"], 0, 100_000))
    assert "memory ran out" in capsys.readouterr().out and reader.budget < 400 and max(a * b for a, b in small.shapes) <= 80
    with pytest.raises(UserError, match="a prompt of 25 tokens does not fit into memory"):
        core_fast.score_task(mc("a", "b", query="q" * 23), range(1), 1, Chars(), core_fast.Reader(Counted(MODELS["jan29"], 20), 0, 100))


@pytest.mark.parametrize("head, error, text", [
    (lambda x: x.reshape(7, 13), RuntimeError, "shape"),  # not of memory
    (lambda x: torch.full((len(x), 256), torch.nan), UserError, "task t: the model's logits are NaN"),
])  # fmt: skip
def test_an_error_of_the_model_is_not_swallowed(head, error, text):
    m = Counted(MODELS["jan29"])
    m.head = head
    with pytest.raises(error, match=text):
        core_fast.score_task(mc("a", "b"), range(1), 1, Chars(), core_fast.Reader(m, 0, 100))


def test_finished_tasks_are_kept(tmp_path):
    """An evaluation broken off in its third task goes on there; another model, or other questions, begin anew."""
    file, labels = tmp_path / "kept.json", list(core.evaluate(MODELS["jan29"], Chars(), MINI, max_examples=2)["tasks"])
    whole = core_fast.evaluate(MODELS["jan29"], Chars(), MINI, max_examples=8)

    def breaks_off(done, total, label):
        if label == labels[2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        core_fast.evaluate(MODELS["jan29"], Chars(), MINI, max_examples=8, keep=(file, "model a"), progress=breaks_off)
    m = Counted(MODELS["jan29"])
    assert core_fast.evaluate(m, Chars(), MINI, max_examples=8, keep=(file, "model a")) == whole
    again = Counted(MODELS["jan29"])
    assert core_fast.evaluate(again, Chars(), MINI, max_examples=8, keep=(file, "model a")) == whole and again.tokens == 0 < m.tokens
    file.write_text("{")  # damaged: as if there were none
    assert core_fast.evaluate(MODELS["jan29"], Chars(), MINI, max_examples=8, keep=(file, "model a")) == whole
    for changes in (dict(keep=(file, "model b")), dict(max_examples=9), dict(max_len=300)):
        other = Counted(MODELS["jan29"])
        core_fast.evaluate(other, Chars(), MINI, **dict(max_examples=8, keep=(file, "model a")) | changes)
        assert other.tokens > m.tokens


def test_progress_grows_to_the_total():
    seen = []
    core_fast.evaluate(MODELS["jan29"], Chars(), MINI, max_examples=5, budget=100, progress=lambda *a: seen.append(a))
    shares = [done / total for done, total, _ in seen]
    assert shares == sorted(shares) and len({t for _, t, _ in seen}) == 1 and shares[-1] == pytest.approx(1) and len(shares) > 30


def ranked(kept, rank, world):
    return core_fast.evaluate(model(), Chars(), MINI, max_examples=7, keep=(kept, "m"), team=Ranks(rank, world))


def test_ranks_share_the_work(tmp_path):
    found = on_ranks(2, tmp_path / "ranks", functools.partial(ranked, tmp_path / "kept.json"), seconds=120)
    assert found[0] == found[1] == core_fast.evaluate(model(), Chars(), MINI, max_examples=7)


# ---- the command


def test_the_command(course_home, monkeypatch, capsys, tmp_path):
    """A table, its notes, progress, and JSON; a second call reads the decisions that were kept."""
    m = Counted(MODELS["jan29"])
    m.max_len, m.state_dict = None, m.inner.state_dict
    monkeypatch.setattr(core_fast, "load_model", lambda path, device: (m, Chars(), None))
    monkeypatch.setattr("gpt2course.files.EVERY", 0)
    args = core_fast.Core("my-run", max_examples=4, out=str(tmp_path / "core.json"), device="cpu")
    core_fast.main(args)
    printed, found, tokens = capsys.readouterr().out, json.loads((tmp_path / "core.json").read_text()), m.tokens
    assert set(found) == {"result", "table", "gpt2"} and found["gpt2"] == GPT2_CENTRED and found["table"] in printed
    assert "% done, agreement, left " in printed and "28 examples in " in printed and "mini-CORE is not CORE" in printed
    assert found["result"] == core_fast.evaluate(MODELS["jan29"], Chars(), MINI, max_examples=4)
    core_fast.main(args)
    assert m.tokens == tokens and json.loads((tmp_path / "core.json").read_text()) == found
    with pytest.raises(UserError, match="nowhere does not exist"):
        core_fast.main(core_fast.Core("my-run", bundle="nowhere", device="cpu"))
