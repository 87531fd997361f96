"""The tokenizer against two slow, independent writings of byte-level BPE: one that encodes, one that learns."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
import types
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import tokenizer as module
from gpt2course.files import UserError
from gpt2course.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Show, Tokenizer, Train, default_folder, train_or_load

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's the fox's 12th jump, they'll say; the dog didn't count 1234567 of them.\n",
    "Der schnelle Fuchs springt über den faulen Hund, und über die Brücke. Größe, Straße, über, über.\n\n    indented\ttabs\n",
    "Быстрая лиса прыгает через ленивую собаку, и собака лениво смотрит на лису. 速い茶色の狐は怠け者の犬を飛び越える。狐は犬を見る。\n",
    "🦊🐶🦊 aaaaaaaaaaaaaaaa ---------- ((())) x=1; y==2; <|bos|> <|bos|> e\u0301 \r\n\r\n   \u3000\u3000 fox foxes the then\n",
]

WORDS = st.sampled_from(
    ["the", " fox", "über", "собака", "狐", "🦊", "\n\n", "   ", "'ll", "12", "<|bos|>", "aaaa", "-", "\r\n", "\u3000"]
)
MIXED = st.one_of(st.lists(WORDS, max_size=40).map("".join), st.text("ab '1\n\t", max_size=100))
ANY_TEXT = st.one_of(st.text(max_size=200), MIXED)
# The regex module's Unicode is newer than tiktoken's, so characters assigned since are letters to one and not yet to the other.
BMP = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])
SETTLED = BMP.filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")
SETTLED_TEXT = st.one_of(st.text(SETTLED, max_size=60), MIXED)


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return Tokenizer.train(TEXTS, 420)


def slow_encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Split with the regex module, then in every piece merge the neighbours of lowest rank, leftmost first, until none can be."""
    rank = {token: i for i, token in enumerate(tokenizer.ranks)}
    ids = []
    for piece in regex.findall(tokenizer.pattern, text):
        parts = [bytes([b]) for b in piece.encode()]
        while True:
            found = [(rank[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in rank]
            if not found:
                break
            _, i = min(found)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [rank[part] for part in parts]
    return ids


def slow_train(texts: list[str], merges: int | None = None, pattern: str = SPLIT_PATTERN) -> list[bytes]:
    """Count all pairs anew for each merge; take the most frequent, among equals the smallest pair of ids. Returns the tokens."""
    tokens = [bytes([b]) for b in range(256)]
    words = Counter(piece for text in texts for piece in regex.findall(pattern, text))
    words = {tuple(word.encode()): n for word, n in words.items()}
    while merges is None or len(tokens) < 256 + merges:
        pairs = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merged = {}
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    out.append(len(tokens))
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] = merged.get(tuple(out), 0) + n
        words = merged
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return tokens


# -- training


def test_split_pattern_is_the_record_s():
    # typed again: trainer and encoder take it from one place, so a wrong character would show nowhere else
    words, digits, rest = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+", r"\p{N}{1,2}", r" ?[^\s\p{L}\p{N}]++[\r\n]*"
    assert SPLIT_PATTERN == "|".join([words, digits, rest, r"\s*[\r\n]", r"\s+(?!\S)", r"\s+"])
    assert regex.findall(SPLIT_PATTERN, "I'll pay 12345 €, OK?\n\n  Yes") == [
        "I", "'ll", " pay", " ", "12", "34", "5", " €,", " OK", "?\n\n", " ", " Yes",
    ]  # fmt: skip


def test_training_equals_the_slow_trainer(tok):
    assert tok.ranks == slow_train(TEXTS, 420 - 265)
    assert tok.ranks[:256] == [bytes([b]) for b in range(256)]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.text("ab ", max_size=30), st.text("aé1'\n", max_size=30), SETTLED_TEXT), max_size=6))
def test_training_to_the_end_equals_the_slow_trainer(texts):
    """Small alphabets give many ties and overlapping pairs (aaa); asking for everything compares every merge that exists."""
    want = slow_train(texts)
    if len(want) > 256:
        assert Tokenizer.train(texts, len(want) + 9).ranks == want
    with pytest.raises(UserError, match=f"ask for 265 to {len(want) + 9}, or train on more text"):
        Tokenizer.train(texts, len(want) + 10)


def test_training_is_deterministic_and_blind_to_order(tok):
    for texts in (TEXTS, TEXTS[::-1], (t for t in TEXTS)):
        again = Tokenizer.train(texts, 420)
        assert again.ranks == tok.ranks and again.sha256 == tok.sha256


def test_vocab_size_counts_bytes_merges_and_specials(tok):
    assert tok.vocab_size == 420 == len(tok.ranks) + 9 and len(SPECIAL_TOKENS) == 9
    assert list(tok.special.items()) == [(name, 411 + i) for i, name in enumerate(SPECIAL_TOKENS)]
    assert tok.bos == 411 and SPECIAL_TOKENS[0] == "<|bos|>"
    assert Tokenizer.train(["x"], 265).vocab_size == 265  # no merges at all
    for size in (264, 0, -1):
        with pytest.raises(UserError, match=f"vocab_size {size} is too small: .* need 265"):
            Tokenizer.train(TEXTS, size)
    with pytest.raises(UserError, match="vocab_size 100000 is too large for this text: its 4.. characters yield"):
        Tokenizer.train(TEXTS, 100_000)


def test_training_reads_no_more_than_its_caps():
    read = []

    def texts():
        for i, text in enumerate(["abcabcabc xyz", "defdefdef", "ghighighi", "never read"]):
            read.append(i)
            yield text

    capped = Tokenizer.train(texts(), 268, doc_cap=6, max_chars=15)
    assert read == [0, 1, 2]
    assert capped.ranks == slow_train(["abcabc", "defdef", "ghi"], 3)
    assert capped.provenance.pop("trained_by").startswith("rustbpe ")
    assert capped.provenance == {"documents": 3, "chars": 15, "max_chars": 15, "doc_cap": 6}
    for caps in ({"doc_cap": 0}, {"max_chars": 0}, {"max_chars": -5}):
        with pytest.raises(UserError, match="is too small: at least 1 character"):
            Tokenizer.train(["abc"], 265, **caps)
    assert Tokenizer.train(["ab" * 5_000 + "cc" * 9_000], 265).provenance["chars"] == 10_000  # the recipe's doc_cap


def test_another_pattern_can_be_compared():
    one = Tokenizer.train(["1234 1234"], 265, pattern=r"\p{N}| ")
    three = Tokenizer.train(["1234 1234"], 267, pattern=r"\p{N}{1,3}| ")
    assert one.pattern == r"\p{N}| " and one.sha256 != Tokenizer.train(["1"], 265).sha256
    assert one.encode("1234") == [ord(c) for c in "1234"]
    assert [three.ranks[i] for i in three.encode("1234")] == [b"123", b"4"]


# -- encoding and decoding


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_round_trip_and_byte_counts(tok, text):
    ids = tok.encode(text)
    assert tok.decode(ids) == text and tok.decode_bytes(ids) == text.encode()
    assert tok.token_bytes()[ids].sum() == len(text.encode())
    assert tok.encode(text, bos=True) == [tok.bos] + ids
    assert all(i < len(tok.ranks) for i in ids)  # no special token, whatever the text


@settings(max_examples=300, deadline=None)
@given(SETTLED_TEXT)
def test_encoding_equals_the_slow_encoder(tok, text):
    assert tok.encode(text) == slow_encode(tok, text)


@settings(max_examples=30, deadline=None)
@given(st.lists(ANY_TEXT, max_size=8), st.booleans(), st.sampled_from([None, 1, 2, 5]))
def test_batch_is_encode_of_each_in_order(tok, texts, bos, threads):
    assert tok.encode_batch(texts, bos=bos, threads=threads) == [tok.encode(text, bos) for text in texts]


def test_names_of_special_tokens_in_documents_are_text(tok):
    for name in SPECIAL_TOKENS:
        ids = tok.encode(f"a {name} b")
        assert ids == slow_encode(tok, f"a {name} b") and max(ids) < tok.bos
    assert tok.decode([tok.bos, *tok.encode("hi")]) == "<|bos|>hi"


def test_lone_surrogates_are_replaced(tok):
    assert tok.decode(tok.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"
    assert tok.decode(tok.encode("\ud83e\udd8a")) == "🦊"  # a pair of them is a character
    assert tok.encode_batch(["\udc80x", "y"]) == [tok.encode("\ufffdx"), tok.encode("y")]
    assert Tokenizer.train(["\ud800" * 3], 266).ranks[256] == "\ufffd".encode()[1:]  # of two equal pairs the smaller


def test_bytes_that_are_no_utf8_decode_to_the_replacement_character(tok):
    fox = [0xF0, 0x9F, 0xA6, 0x8A]  # the first 256 ids are the bytes themselves
    assert tok.decode(fox) == "🦊"
    assert tok.decode([97, *fox[:3], 98]) == "a\ufffdb" and tok.decode_bytes(fox[:3]) == bytes(fox[:3])
    assert tok.decode(np.array([104, 105])) == "hi" and tok.decode([]) == ""
    for bad in (420, -1):
        with pytest.raises(UserError, match=f"token id {bad} is outside the vocabulary: 0 to 419"):
            tok.decode([bad])


def test_token_bytes_counts_raw_bytes(tok):
    sizes = tok.token_bytes()
    assert sizes.dtype == np.int32 and sizes.shape == (420,)
    assert sizes[:256].tolist() == [1] * 256 and sizes[411:].tolist() == [0] * 9
    assert sizes[:411].tolist() == [len(tok.decode_bytes([i])) for i in range(411)]
    partial = [i for i in range(411) if "\ufffd" in tok.decode([i])]
    assert any(i >= 256 for i in partial)  # the fixture has such merges, else this test would prove nothing
    assert any(sizes[i] != len(tok.decode([i]).encode()) for i in partial if i >= 256)


@pytest.mark.parametrize("unit", ["a", " ", "\n", "\u3000", "\t ", "é", "7", "!", " \n"])
def test_a_very_long_run_neither_hangs_nor_crashes(tok, unit):
    text = "start" + unit * (1_200_000 // len(unit)) + "end"
    start = time.perf_counter()
    assert tok.decode_bytes(tok.encode(text)) == text.encode()
    assert time.perf_counter() - start < 30


def test_only_white_space_beyond_the_limit_is_cut(tok, monkeypatch):
    monkeypatch.setattr(module, "MAX_SPACE_RUN", 10)
    monkeypatch.setattr(module, "_LONG_SPACE", module.re.compile(r"(?<!\s)\s{11,}"))
    for text in ("a" * 50, "the fox " * 9, " " * 10 + "x" + " " * 10, "x" + "\n " * 5 + "yyyyyyyyyyyy"):
        assert module._parts(text) == [text] and tok.encode(text) == slow_encode(tok, text)
    assert module._parts("ab" + " " * 25 + "cd" + "\t" * 11) == ["ab" + " " * 10, " " * 10, " " * 5 + "cd" + "\t" * 10, "\t"]
    assert module._parts(" " * 20) == [" " * 10] * 2


def test_training_survives_long_white_space():
    text = "x" + " " * 1_100_000 + "y"
    assert Tokenizer.train([text], 266, doc_cap=len(text)).ranks[256] == b"  "


@pytest.mark.skipif("GPT2COURSE_DEV_DATA" not in os.environ, reason="GPT2COURSE_DEV_DATA is not set")
def test_on_web_text():
    import pyarrow.parquet

    path = Path(os.environ["GPT2COURSE_DEV_DATA"]) / "corpus-small" / "shard_00000.parquet"
    texts = pyarrow.parquet.ParquetFile(path).read_row_group(0).column("text").to_pylist()
    tokenizer = Tokenizer.train(texts, 2000)
    assert tokenizer.ranks[: 256 + 40] == slow_train([text[:10_000] for text in texts], 40)
    for text in texts[:20]:
        ids = tokenizer.encode(text)
        assert ids == slow_encode(tokenizer, text) and tokenizer.decode(ids) == text
    assert module.bytes_per_token(tokenizer, texts) > 2.5


# -- files


def test_save_and_load_give_the_same_tokenizer(tok, tmp_path):
    tok = Tokenizer(tok.ranks, tok.pattern, {"corpus": "Übung", "chars": 5})
    folder = tok.save(tmp_path / "new" / "t")
    assert sorted(p.name for p in folder.iterdir()) == ["ranks.tiktoken", "tokenizer.json"]
    again = Tokenizer.load(folder)
    assert (again.ranks, again.pattern, again.special, again.bos) == (tok.ranks, tok.pattern, tok.special, tok.bos)
    assert (again.sha256, again.vocab_size, again.provenance) == (tok.sha256, tok.vocab_size, tok.provenance)
    assert again.encode("".join(TEXTS)) == tok.encode("".join(TEXTS))
    assert again.save(folder) == folder and Tokenizer.load(folder).sha256 == tok.sha256  # over itself
    lines = (folder / "ranks.tiktoken").read_text().splitlines()
    assert lines[97] == "YQ== 97" and len(lines) == 411  # tiktoken's text format


def test_tiktoken_reads_the_ranks_file(tok, tmp_path):
    from tiktoken.load import load_tiktoken_bpe

    path = tok.save(tmp_path / "t") / "ranks.tiktoken"
    assert load_tiktoken_bpe(str(path)) == {token: i for i, token in enumerate(tok.ranks)}


def test_save_refuses_to_replace_other_things(tok, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else .thesis.txt."):
        tok.save(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        tok.save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_fingerprint_sees_ranks_pattern_and_nothing_else(tok):
    same = Tokenizer(tok.ranks, tok.pattern, {"corpus": "another"})
    swapped = tok.ranks[:-2] + tok.ranks[:-3:-1]
    others = [Tokenizer(swapped, tok.pattern), Tokenizer(tok.ranks[:-1], tok.pattern), Tokenizer(tok.ranks, tok.pattern + "|x")]
    assert same.sha256 == tok.sha256 and len({t.sha256 for t in [tok, *others]}) == 4


def _json(key, value):
    def edit(about, ranks):
        about[key] = value
        return ranks

    return edit


def _line(n, new):
    def edit(about, ranks):
        lines = ranks.split(b"\n")
        lines[n : n + 1] = new
        return b"\n".join(lines)

    return edit


REPEATED = base64.b64encode(b"a") + b" 300"
# What is changed, and what the message says. In RESEALED the checksum is made to fit again, so that the check behind it acts.
DAMAGE = {
    "bit": (lambda about, ranks: ranks[:50] + b"?" + ranks[51:], "does not match its checksum"),
    "truncated": (lambda about, ranks: ranks[:-5], "does not match its checksum"),
    "empty": (lambda about, ranks: b"", "does not match its checksum"),
    "pattern": (_json("pattern", SPLIT_PATTERN.replace("{1,2}", "{1,3}")), "pattern does not match the fingerprint"),
    "broken pattern": (_json("pattern", "("), "pattern does not match the fingerprint"),
    "future format": (_json("format", 2), "format 2 is not 1"),
    "no format": (_json("format", None), "format None is not 1"),
    "vocab_size": (_json("vocab_size", 421), "vocab_size 421 is not 420"),
    "vocab_size kind": (_json("vocab_size", "420"), "lacks 'vocab_size' .a int"),
    "provenance": (_json("provenance", None), "lacks 'provenance'"),
    "special ids": (_json("special_tokens", {name: i for i, name in enumerate(SPECIAL_TOKENS)}), "special tokens must be"),
}
RESEALED = {
    "gap": (_line(300, []), "line 301 of ranks.tiktoken has rank 301, not 300"),
    "rank twice": (_line(300, [base64.b64encode(b"zzzzzzz") + b" 299"]), "line 301 of ranks.tiktoken has rank 299, not 300"),
    "order": (_line(0, [b"AQ== 1"]), "line 1 of ranks.tiktoken has rank 1, not 0"),
    "token twice": (_line(300, [REPEATED]), "holds a token twice"),
    "byte missing": (_line(97, [base64.b64encode(b"zzzzzzz") + b" 97"]), "lacks some of the 256 single bytes"),
    "not base64": (_line(300, [b"YW*Jj 300"]), "line 301 of ranks.tiktoken is not a base64 token"),
    "no rank": (_line(300, [b"YQ=="]), "line 301 of ranks.tiktoken is not"),
    "word rank": (_line(300, [b"YQ== three"]), "line 301 of ranks.tiktoken is not"),
    "fewer": (_line(410, []), "special tokens must be .* from id 410"),
}


@pytest.mark.parametrize("name", [*DAMAGE, *RESEALED])
def test_a_damaged_folder_gives_one_clear_error(tok, tmp_path, name):
    folder = tok.save(tmp_path / "t")
    edit, message = (DAMAGE | RESEALED)[name]
    about = json.loads((folder / "tokenizer.json").read_text())
    ranks = edit(about, (folder / "ranks.tiktoken").read_bytes())
    if name in RESEALED:
        about["ranks_sha256"] = hashlib.sha256(ranks).hexdigest()
    (folder / "ranks.tiktoken").write_bytes(ranks)
    (folder / "tokenizer.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=message) as error:
        Tokenizer.load(folder)
    told = str(error.value)
    assert str(folder) in told and "python -m gpt2course.tokenizer train" in told and "\n" not in told


def test_missing_files_give_clear_errors(tok, tmp_path):
    with pytest.raises(UserError, match="there is no tokenizer in .*nowhere .*gpt2course.tokenizer train"):
        Tokenizer.load(tmp_path / "nowhere")
    folder = tok.save(tmp_path / "t")
    (folder / "ranks.tiktoken").unlink()
    with pytest.raises(UserError, match="ranks.tiktoken is missing"):
        Tokenizer.load(folder)
    for text, message in [("{", "not valid JSON"), ("[]", "does not hold an object"), ("{}", "format None")]:
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(UserError, match=message):
            Tokenizer.load(folder)


# -- corpora and command line


def corpus(name="small", texts=TEXTS, val_sha256="0" * 64):
    return types.SimpleNamespace(
        name=name, train=texts, val=TEXTS[:2], licences=("public domain",), val_name="two lines", val_sha256=val_sha256
    )


def test_default_folders_are_plain_and_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    assert default_folder("embedded", 4096) == tmp_path / "tokenizers" / "embedded-4096"
    paths = ["/data/a b", "/data/a-b", "data/a/b", "../../etc", "/", "é" * 300, "/long" * 60]
    folders = {default_folder(path, 300) for path in paths}
    assert len(folders) == len(paths)
    for folder in folders:
        assert folder.parent == tmp_path / "tokenizers" and folder.name.isascii() and len(folder.name) < 80


def test_train_or_load_reuses_exactly_what_it_would_train(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    trained = []
    real = Tokenizer.train.__func__

    def spy(cls, *args, **kwargs):
        trained.append(1)
        return real(cls, *args, **kwargs)

    monkeypatch.setattr(Tokenizer, "train", classmethod(spy))
    first = train_or_load(corpus(), 300)
    assert (tmp_path / "tokenizers" / "small-300" / "tokenizer.json").is_file() and len(trained) == 1
    again = train_or_load(corpus(), 300)
    assert again.sha256 == first.sha256 and again.provenance == first.provenance and len(trained) == 1
    folder = tmp_path / "mine"
    for which, size, options in [
        (corpus("other"), 300, {}), (corpus(texts=TEXTS * 2), 300, {}), (corpus(val_sha256="1"), 300, {}), (corpus(), 301, {}),
        (corpus(), 300, {"max_chars": 400}),
    ]:  # fmt: skip
        train_or_load(corpus(), 300, folder)
        trained.clear()
        made = train_or_load(which, size, folder, **options)
        assert len(trained) == 1 and made.vocab_size == size
        saved = Tokenizer.load(folder)
        assert saved.sha256 == made.sha256 and saved.provenance == made.provenance != first.provenance or size == 301
        train_or_load(which, size, folder, **options)
        assert len(trained) == 1
    for same in ({"pattern": SPLIT_PATTERN}, {"pattern": r"\p{L}+|\P{L}"}):
        Tokenizer.train(TEXTS, 300, provenance=module._source(corpus()), **same).save(folder)
        trained.clear()
        assert train_or_load(corpus(), 300, folder).sha256 == first.sha256 and len(trained) == (same["pattern"] != SPLIT_PATTERN)


def test_train_or_load_makes_a_damaged_one_again(tmp_path, capsys):
    first = train_or_load(corpus(), 300, tmp_path / "t")
    (tmp_path / "t" / "ranks.tiktoken").write_text("junk")
    assert train_or_load(corpus(), 300, tmp_path / "t").sha256 == first.sha256
    assert "does not match its checksum" in capsys.readouterr().out
    assert Tokenizer.load(tmp_path / "t").sha256 == first.sha256


def test_bytes_per_token(tok):
    text = TEXTS[0]
    assert module.bytes_per_token(tok, [text, "", text]) == pytest.approx(len(text.encode()) / len(tok.encode(text)))
    assert module.bytes_per_token(tok, [text, TEXTS[2]], max_bytes=1) == len(text.encode()) / len(tok.encode(text))


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))
    data = types.ModuleType("gpt2course.data")
    data.load_corpus = lambda name: corpus(name)
    monkeypatch.setitem(sys.modules, "gpt2course.data", data)
    monkeypatch.setattr("gpt2course.data", data, raising=False)
    module.main(Train(vocab_size=400))
    out = capsys.readouterr().out
    assert all(part in out for part in ("public domain", "135 merges", "two lines", "bytes per token", "embedded-400"))
    folder = tmp_path / "tokenizers" / "embedded-400"
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.provenance["corpus"] == "embedded" and tokenizer.provenance["max_chars"] == 2_000_000_000
    capsys.readouterr()
    module.main(Show(text="the fox é 🦊 <|bos|>", tokenizer=folder))
    lines = capsys.readouterr().out.splitlines()
    ids = tokenizer.encode("the fox é 🦊 <|bos|>")
    assert [int(line.split()[0]) for line in lines[:-1]] == ids
    assert f"{len(ids)} tokens, 23 bytes" in lines[-1] and any("' fox'" in line for line in lines)
    module.main(Show(text="", tokenizer=folder))
    assert capsys.readouterr().out == "0 tokens, 0 bytes\n"


def test_command_line(tmp_path):
    run = [sys.executable, "-m", "gpt2course.tokenizer"]
    asked = subprocess.run([*run, "show", "--text", "x", "--tokenizer", str(tmp_path)], capture_output=True, text=True)
    assert asked.returncode == 2 and asked.stderr.startswith("error: there is no tokenizer in") and asked.stderr.count("\n") == 1
    for words in (["--help"], ["train", "--help"]):
        shown = subprocess.run([*run, *words], capture_output=True, text=True)
        assert shown.returncode == 0 and "rain" in shown.stdout
