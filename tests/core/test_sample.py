"""Sampling: the right distribution, the right context, whole characters, and a terminal that nothing can upset."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import checkpoint, sample
from gpt2course.files import UserError, write_json
from gpt2course.gpt2 import GPT2, GPT2Config
from gpt2course.model import GPT
from gpt2course.recipes import make_optimizer, resolve
from gpt2course.sample import Sample, generate, pick, probabilities, prompt_generator, stream
from gpt2course.tokenizer import Tokenizer

TOKENIZER = Tokenizer([bytes([b]) for b in range(256)] + [b"th", b"he", b"in"])  # 259 ordinary tokens, 9 special ones
V, BOS = TOKENIZER.vocab_size, TOKENIZER.bos


class Toy(torch.nn.Module):
    """A model made of a function: rule(tokens before and at a position) -> logits (V,). Keeps the row it knew at each step."""

    def __init__(self, rule, T=1000):
        super().__init__()
        self.rule, self.config, self.shown = rule, SimpleNamespace(sequence_len=T), []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, idx, cache=None):
        assert self.weight.requires_grad and not torch.is_grad_enabled()
        T = idx.size(1)
        if cache is not None:
            cache.advance(T)
            idx = torch.cat([cache.past[self][0], idx], dim=1) if self in cache.past else idx
            cache.past[self] = idx, idx
        [row] = idx.tolist()
        self.shown.append(row)
        return torch.stack([self.rule(row[: len(row) - t]) for t in reversed(range(T))])[None]


def only(token):
    """Logits that leave no choice."""
    return torch.full((V,), -torch.inf).index_fill(0, torch.tensor([token]), 0.0)


def says(tokens):
    """A model that says `tokens` after the prompt "x" (with BOS two tokens), then BOS."""
    return Toy(lambda row: only(tokens[len(row) - 2] if 0 <= len(row) - 2 < len(tokens) else BOS))


def random_gpt(T=16, seed=0, recipe="jan29"):
    plan = resolve(recipe, depth=2, width=32, head_dim=16, sequence_len=T, vocab_size=V, batch_tokens=10 * T, steps=1)
    model = GPT(plan.model).init_weights(seed)
    torch.manual_seed(seed + 1)
    for p in model.parameters():
        torch.nn.init.normal_(p, 0, 0.3)
    return model, plan


# ---- the sampling step


def softmax_by_hand(logits, temperature, top_k):
    """The distribution in plain Python; where logits are tied the lower id goes first."""
    kept = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[: top_k or len(logits)]
    if temperature == 0:
        return [float(i == kept[0]) for i in range(len(logits))]
    weights = [math.exp((logits[i] - max(logits)) / temperature) if i in kept else 0.0 for i in range(len(logits))]
    return [w / sum(weights) for w in weights]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 0.5, 2.0, 7.25]), min_size=1, max_size=12),  # few values: many ties
    st.sampled_from([0, 0.1, 0.8, 1.0, 3.0]),
    st.sampled_from([None, 0, 1, 2, 3, 5, 12, 50]),
)
def test_probabilities_are_those_of_the_definition(logits, temperature, top_k):
    p = probabilities(torch.tensor(logits), temperature, top_k)
    assert p.dtype == torch.float64
    assert p.tolist() == pytest.approx(softmax_by_hand(logits, temperature, top_k), abs=1e-12)
    if temperature == 0 or top_k == 1:
        assert p[torch.tensor(logits).argmax()] == 1


def test_extreme_logits():
    assert probabilities(torch.tensor([1e30, 0.0]), 1e-300).tolist() == [1, 0]
    assert probabilities(torch.tensor([5.0, 5.0, 4.0]), 5e-324).tolist() == [0.5, 0.5, 0]
    assert probabilities(torch.tensor([-torch.inf, 3.0]), 2.0).tolist() == [0, 1]
    for bad in ([float("nan"), 0.0], [float("inf"), 0.0], [-float("inf")] * 2):
        with pytest.raises(UserError, match="logits are not all finite.*earlier checkpoint"):
            probabilities(torch.tensor(bad), 0.8, 5)


def chi_square_is_plausible(counts, p):
    """The counts as draws from p: nothing where p is 0, and chi-square below its 1 - 1e-6 quantile (Wilson-Hilferty)."""
    n = sum(counts)
    assert all(c == 0 for c, q in zip(counts, p) if q == 0)
    terms = [(c - n * q) ** 2 / (n * q) for c, q in zip(counts, p) if q > 0]
    k = len(terms) - 1
    if k == 0:
        return
    assert min(n * q for q in p if q > 0) >= 5  # or the statistic is not chi-square
    limit = k * (1 - 2 / (9 * k) + 4.753 * math.sqrt(2 / (9 * k))) ** 3
    assert sum(terms) < limit


LOGITS = [1.0, 0.0, 2.0, -1.0, 1.0, 0.5]


def full(logits):
    """LOGITS for the letters a, b, ..., nothing else."""
    z = torch.full((V,), -1000.0)
    z[97 : 97 + len(logits)] = torch.tensor(logits)
    return z


def test_continuations_of_one_prompt_and_tokens_of_one_continuation_follow_it_too():
    model = Toy(lambda row: full(LOGITS))
    p = softmax_by_hand(LOGITS, 0.8, 4)
    first = generate(model, TOKENIZER, ["x"] * 3000, max_tokens=1, temperature=0.8, top_k=4)
    chi_square_is_plausible([first.count(c) for c in "abcdef"], p)
    model = Toy(lambda row: full(LOGITS), T=4)
    long = generate(model, TOKENIZER, ["x"], max_tokens=3000, temperature=0.8, top_k=4)[0]
    chi_square_is_plausible([long.count(c) for c in "abcdef"], p)
    pairs = list(itertools.pairwise(long))  # and each token is drawn anew, whatever came before it
    kinds = list(itertools.product("abcdef", repeat=2))
    chi_square_is_plausible([pairs.count(kind) for kind in kinds], [p[ord(a) - 97] * p[ord(b) - 97] for a, b in kinds])


# ---- seeds


def test_a_continuation_depends_on_its_prompt_alone():
    model, _ = random_gpt(T=16)
    kw = dict(max_tokens=24, temperature=1.0, top_k=0)
    prompts = ["the", "", "a long prompt that is longer than T", "é", "the", "the"]
    together = generate(model, TOKENIZER, prompts, **kw)
    assert generate(model, TOKENIZER, prompts[3::-1], **kw) == together[3::-1]
    the = [together[0], together[4], together[5]]
    assert len(set(the)) == 3  # the same prompt again gets another continuation
    assert the == ["".join(stream(model, TOKENIZER, "the", **kw, number=n)) for n in range(3)]
    assert len({prompt_generator(s, i, n).initial_seed() for s in (0, 1) for i in ([], [1], [0, 1]) for n in (0, 1)}) == 12


def test_global_random_state_is_left_alone():
    model, _ = random_gpt()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = generate(model, TOKENIZER, ["x"], max_tokens=3)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    assert generate(model, TOKENIZER, ["x"], max_tokens=3) == a


# ---- the context


@pytest.mark.parametrize("recipe", ["modern", "windows", "jan29", "record", "2019"])
@pytest.mark.parametrize("temperature, top_k", [(0, None), (1.0, 0)])
@pytest.mark.parametrize("T", [8, 24])
def test_generation_equals_the_loop_written_down(recipe, temperature, top_k, T):
    """Without a cache, cropped by hand: texts that end (BOS), stay below T, and grow past it."""
    model = in_float64(T, recipe)  # where rounding does not change a draw
    lengths = set()
    for prompt in ["", "ab", "the thing", "the prompt is much longer than T, which is eight or 24"]:
        ids = list(TOKENIZER.encode(prompt))
        g, out = prompt_generator(3, ids), []
        for _ in range(40):
            last = model(torch.tensor([[BOS] + (ids + out)[-(T - 1) :]]))[0, -1].detach()
            logits = last.clone()
            logits[TOKENIZER.token_bytes() == 0] = -torch.inf
            logits[BOS] = last[BOS]
            token = pick(logits, temperature, top_k, g)
            if token == BOS:
                break
            out.append(token)
        lengths.add(len(out))
        assert generate(model, TOKENIZER, [prompt], max_tokens=40, temperature=temperature, top_k=top_k, seed=3) == [TOKENIZER.decode(out)]
    assert max(lengths) > 3


def in_float64(T, recipe):
    if recipe == "2019":
        model = GPT2(GPT2Config(vocab_size=V, sequence_len=T, n_layer=2, n_head=2, n_embd=32))
        torch.manual_seed(1)
        for p in model.parameters():
            torch.nn.init.normal_(p, 0, 0.3)
    else:
        model, _ = random_gpt(T, recipe=recipe)
    head = model.wte if recipe == "2019" else model.lm_head
    head.weight.data[BOS] *= 3  # so that BOS is drawn now and then
    model.compute_dtype = torch.float64
    return model.double()


# ---- the cache


class Counted(torch.nn.Module):
    """A model whose calls are counted: (positions that are new, whether a cache was given)."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.calls = model, model.config, []

    def forward(self, idx, cache=None):
        self.calls.append((idx.size(1), cache is not None))
        return self.model(idx) if cache is None else self.model(idx, cache=cache)


def test_a_token_costs_one_position_until_the_context_slides():
    model = Counted(Toy(lambda row: only(BOS if row[-1] == ord("f") else row[-1] + 1), T=8))
    assert generate(model, TOKENIZER, ["abc", "e"], max_tokens=4) == ["def", "f"]
    assert model.calls == [(4, True), *[(1, True)] * 3, (2, True), (1, True)]
    model.calls.clear()  # nine tokens after the prompt: BOS and seven of them fill the context
    assert generate(model, TOKENIZER, ["Q"], max_tokens=9) == ["RSTUVWXYZ"]
    assert model.calls == [(2, True), *[(1, True)] * 6, *[(8, False)] * 2]


# ---- whole characters


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=8))
def test_no_piece_holds_part_of_a_character(text):
    """Every token is one byte here, so every character but ASCII comes in parts."""
    text = text.encode("utf-8", "replace").decode()
    pieces = list(stream(says(list(text.encode())), TOKENIZER, "x", max_tokens=100))
    assert pieces == list(text)


def test_a_cut_character_is_marked_at_the_end_only():
    earth = "🌍".encode()
    assert list(stream(says([97, *earth]), TOKENIZER, "x", max_tokens=4)) == ["a", "\ufffd"]  # cut by max_tokens
    assert list(stream(says([97, *earth[:2]]), TOKENIZER, "x")) == ["a", "\ufffd"]  # by BOS
    assert list(stream(says([97, *earth[:2], 98]), TOKENIZER, "x")) == ["a", "\ufffdb"]  # the model's own mistake


# ---- bad arguments


values = st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none(), st.lists(st.integers(), max_size=2))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["max_tokens", "temperature", "top_k", "seed"]), values))
def test_any_settings_are_taken_or_refused_in_one_line_before_any_work(settings):
    model = says(list(b"abc"))
    try:
        text = "".join(stream(model, TOKENIZER, "x", **settings))
    except UserError as e:
        assert "\n" not in str(e) and "is not allowed; it must be" in str(e)
        with pytest.raises(UserError):
            generate(model, TOKENIZER, ["x"], **settings)
        assert model.shown == []
    else:
        assert text == "abc"[: int(settings.get("max_tokens", 64))]


# ---- the command


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with one checkpoint of a tiny random model."""
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    model, plan = random_gpt(T=32)
    folder = tmp_path / "runs" / "tiny"
    TOKENIZER.save(folder / "tokenizer")
    write_json(folder / "config.json", {"plan": plan.to_json()})
    checkpoint.save(folder, 1, model, make_optimizer(model, plan).state_dict(), {})
    return model


@pytest.fixture
def scripted(monkeypatch):
    """load_model gives the model that the test puts in; returns a function to do so."""

    def put(model):
        monkeypatch.setattr(sample, "load_model", lambda name, device: (model, TOKENIZER, None))

    return put


def test_command_prints_and_writes_continuations(run, tmp_path, capsys):
    sample.main(Sample("tiny", prompt=("the", "x\ud800"), number=2, max_tokens=6, seed=4, top_k=0, device="cpu", out=str(tmp_path / "s.json")))
    prompts = ["the", "the", "x\ud800", "x\ud800"]
    texts = [t.translate(sample.VISIBLE) for t in generate(run, TOKENIZER, prompts, max_tokens=6, seed=4, top_k=0)]
    assert json.loads((tmp_path / "s.json").read_text()) == {"prompts": ["the", "the", "x\ufffd", "x\ufffd"], "texts": texts} and texts[0] != texts[1]
    out = capsys.readouterr().out
    assert out.startswith("temperature 0.8, top-k 0; the prompt ends at |\n\nthe | ") and "".join(texts[0].split()) in "".join(out.split())


def test_terminal_prompt_with_odd_bytes(run, tmp_path):
    """The real thing: another process, an ASCII terminal, lines that are no UTF-8."""
    env = {"GPT2COURSE_HOME": str(tmp_path), "PYTHONIOENCODING": "ascii:strict", "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-m", "gpt2course.sample", "tiny", "--max-tokens", "5", "--device", "cpu"]
    typed = b"Hello\n\xff\xfe \xed\xa0\x80 caf\xc3\xa9 \x1b[31m\nHello\n\nnever read\n"
    done = subprocess.run(command, input=typed, capture_output=True, env=env, cwd=Path(__file__).parents[1], timeout=120)
    out = done.stdout.decode("ascii")
    assert done.returncode == 0 and done.stderr == b""
    assert "tiny is a base model: it continues the text you begin, it does not answer questions.\n" in out
    assert out.count("> Hello") == 2 and out.count("> ") == 4 and "never read" not in out and "\x1b" not in out
    first, second = (part.split("\n\n> ")[0] for part in out.split("> Hello")[1:])
    assert first != second  # the same line again gets another continuation


def test_ctrl_c_stops_a_continuation_then_the_prompt(scripted, monkeypatch, capsys):
    calls = []

    def rule(row):
        calls.append(row)
        if len(calls) == 4:  # in the middle of the first continuation
            raise KeyboardInterrupt
        return only(ord("!"))

    scripted(Toy(rule))
    lines = iter(["ab", "c"])

    def read(prompt):
        if (line := next(lines, None)) is None:
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr("builtins.input", read)
    sample.main(Sample("toy", max_tokens=3))
    assert capsys.readouterr().out.split("ends.\n")[1] == "ab! [stopped]\n\nc!!!\n\n\n"
    calls.clear()
    with pytest.raises(SystemExit) as end:
        sample.main(Sample("toy", prompt=("ab",), max_tokens=9))
    assert end.value.code == 130


def test_control_characters_cannot_reach_the_terminal():
    assert "a\x1b[2J\r\x07\x7f\x9b\tb\n\ud800é🌍".translate(sample.VISIBLE) == "a␛[2J␍␇␡\ufffd\tb\n\ufffdé🌍"
