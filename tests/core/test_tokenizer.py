"""The tokenizer against two slow, independent writings of byte-level BPE: one that encodes, one that learns."""

import base64
import time
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import tokenizer as module
from gpt2course.data import MAX_DOCUMENT, Corpus, from_list
from gpt2course.files import UserError, read_json, write_json
from gpt2course.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer, Train, default_folder, train_or_load

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's the fox's 12th jump, they'll say; the dog didn't count 1234567 of them.\n",
    "Der schnelle Fuchs springt über den faulen Hund, und über die Brücke. Größe, Straße, über, über.\n\n    indented\ttabs\n",
    "Быстрая лиса прыгает через ленивую собаку, и собака лениво смотрит на лису. 速い茶色の狐は怠け者の犬を飛び越える。狐は犬を見る。\n",
    "🦊🐶🦊 aaaaaaaaaaaaaaaa ---------- ((())) x=1; y==2; <|bos|> <|bos|> e\u0301 \r\n\r\n   \u3000\u3000 fox foxes the then\n",
]

WORDS = st.sampled_from(
    ["the", " fox", "über", "собака", "狐", "🦊", "\n\n", "   ", "'ll", "12", "aaaa", "-", "\r\n", "\u3000", *SPECIAL_TOKENS]
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


def slow_train(texts: list[str], merges: int | None = None) -> list[bytes]:
    """Count all pairs anew for each merge; take the most frequent, among equals the smallest pair of ids. Returns the tokens."""
    tokens = [bytes([b]) for b in range(256)]
    words = Counter(piece for text in texts for piece in regex.findall(SPLIT_PATTERN, text))
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


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.text("ab ", max_size=30), st.text("aé1'\n", max_size=30), SETTLED_TEXT), max_size=6))
def test_training_to_the_end_equals_the_slow_trainer(texts):
    """Small alphabets give many ties and overlapping pairs (aaa); asking for everything compares every merge that exists."""
    want = slow_train(texts)
    if len(want) > 256:
        assert Tokenizer.train(texts, len(want) + 9).ranks == want
    with pytest.raises(UserError, match=f"is too large for this text: its .* characters yield .*; ask for 265 to {len(want) + 9}, or train on more text"):
        Tokenizer.train(texts, len(want) + 10)


def test_vocab_size_counts_bytes_merges_and_specials(tok):
    assert tok.vocab_size == 420 == len(tok.ranks) + 9 and len(SPECIAL_TOKENS) == 9
    assert list(tok.special.items()) == [(name, 411 + i) for i, name in enumerate(SPECIAL_TOKENS)]
    assert tok.bos == 411 and SPECIAL_TOKENS[0] == "<|bos|>"
    assert Tokenizer.train(["x"], 265).vocab_size == 265  # no merges at all
    for size in (264, 0, -1):
        with pytest.raises(UserError, match=f"vocab_size {size} is too small: .* need 265"):
            Tokenizer.train(TEXTS, size)


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
@given(st.lists(ANY_TEXT, max_size=8), st.booleans())
def test_batch_is_encode_of_each_in_order(tok, texts, bos):
    assert tok.encode_batch(texts, bos=bos) == [tok.encode(text, bos) for text in texts]


def test_lone_surrogates_are_replaced(tok):
    assert tok.decode(tok.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"
    assert tok.decode(tok.encode("\ud83e\udd8a")) == "🦊"  # a pair of them is a character
    assert tok.encode_batch(["\udc80x", "y"]) == [tok.encode("\ufffdx"), tok.encode("y")]
    assert Tokenizer.train(["\ud800" * 3], 266).ranks[256] == "\ufffd".encode()[1:]  # of two equal pairs the smaller


def test_bytes_that_are_no_utf8_decode_to_the_replacement_character(tok):
    fox = [0xF0, 0x9F, 0xA6, 0x8A]  # the first 256 ids are the bytes themselves
    assert tok.decode(fox) == "🦊"
    assert tok.decode([97, *fox[:3], 98]) == "a\ufffdb" and tok.decode_bytes(fox[:3]) == bytes(fox[:3])
    assert tok.decode(np.array([104, 105])) == "hi" and tok.decode([tok.bos]) == "<|bos|>" and tok.decode([]) == ""
    for bad in (420, -1):
        with pytest.raises(UserError, match=f"token id {bad} is outside the vocabulary: 0 to 419"):
            tok.decode([bad])


def test_token_bytes_counts_raw_bytes(tok):
    sizes = tok.token_bytes()
    assert sizes.dtype == np.int32 and sizes.shape == (420,)
    assert sizes[:256].tolist() == [1] * 256 and sizes[411:].tolist() == [0] * 9
    assert sizes[:411].tolist() == [len(tok.decode_bytes([i])) for i in range(411)]


@pytest.mark.parametrize("unit", ["a", " ", "\n", "7", "!"])
def test_a_very_long_run_neither_hangs_nor_crashes(tok, unit):
    text = ("start" + unit * (1_200_000 // len(unit)))[: MAX_DOCUMENT - 3] + "end"  # what a corpus gives at most
    start = time.perf_counter()
    assert tok.decode_bytes(tok.encode(text)) == text.encode()
    assert time.perf_counter() - start < 30


def test_on_web_text(dev_data):
    path = dev_data / "corpus-small" / "shard_00000.parquet"
    texts = pq.ParquetFile(path).read_row_group(0).column("text").to_pylist()
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


def test_tiktoken_reads_the_ranks_file(tok, tmp_path):
    from tiktoken.load import load_tiktoken_bpe

    path = tok.save(tmp_path / "t") / "ranks.tiktoken"
    assert load_tiktoken_bpe(str(path)) == {token: i for i, token in enumerate(tok.ranks)}


def test_save_refuses_to_replace_other_things(tok, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else .thesis.txt."):
        tok.save(tmp_path)
    with pytest.raises(UserError, match="holds something else .thesis.txt."):
        tok.save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_fingerprint_sees_ranks_pattern_and_nothing_else(tok):
    same = Tokenizer(tok.ranks, tok.pattern, {"corpus": "another"})
    swapped = tok.ranks[:-2] + tok.ranks[:-3:-1]
    others = [Tokenizer(swapped, tok.pattern), Tokenizer(tok.ranks[:-1], tok.pattern), Tokenizer(tok.ranks, tok.pattern + "|x")]
    assert same.sha256 == tok.sha256 and len({t.sha256 for t in [tok, *others]}) == 4


def test_any_damage_is_one_clear_error(tok, tmp_path):
    """Every field of tokenizer.json changed or missing; every kind of damage to the ranks, and random bytes."""
    folder = tok.save(tmp_path / "t")
    about, ranks = read_json(folder / "tokenizer.json"), (folder / "ranks.tiktoken").read_bytes()
    lines = ranks.splitlines(keepends=True)
    other = {"format": 2, "vocab_size": 421, "pattern": "(", "special_tokens": None, "provenance": {}, "sha256": "0" * 64}
    jsons = [about | {key: value} for key, value in other.items() if key not in ("special_tokens", "provenance")]
    jsons += [{k: v for k, v in about.items() if k != key} for key in ("format", "vocab_size", "pattern", "sha256")] + [[], {}, 3]
    files = [b"", ranks[:-5], ranks[:50] + b"?" + ranks[51:], b"".join(lines[:300] + lines[301:]), b"".join(lines[::-1]), b"\xff" * 99]
    files += [b"".join(lines[:300] + [base64.b64encode(b"a") + b" 300\n"] + lines[301:]), b"YQ== three\n", b"\n" * 411]
    for json_, data in [*((j, ranks) for j in jsons), *((about, data) for data in files)]:
        (folder / "ranks.tiktoken").write_bytes(data)
        write_json(folder / "tokenizer.json", json_)
        with pytest.raises(UserError) as error:
            Tokenizer.load(folder)
        assert str(folder) in str(error.value) and "make it again with: python -m gpt2course.tokenizer" in str(error.value)
        assert "\n" not in str(error.value)
    (folder / "ranks.tiktoken").unlink()
    with pytest.raises(UserError, match="is damaged: it does not match its checksum"):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Tokenizer.load(folder)
    with pytest.raises(UserError, match="there is no tokenizer in .*nowhere .*gpt2course.tokenizer"):
        Tokenizer.load(tmp_path / "nowhere")


# -- corpora and command line


def corpus(name="small", texts=TEXTS, val=TEXTS[:2]):
    return Corpus(name, from_list(texts), from_list(val), ("public domain",), "two lines")


def test_default_folders_are_plain_and_apart(course_home):
    assert default_folder("embedded", 4096) == course_home / "tokenizers" / "embedded-4096"
    paths = ["/data/a b", "/data/a-b", "data/a/b", "../../etc", "/", "é" * 300, "/long" * 60]
    folders = {default_folder(path, 300) for path in paths}
    assert len(folders) == len(paths)
    for folder in folders:
        assert folder.parent == course_home / "tokenizers" and folder.name.isascii() and len(folder.name) < 80


@pytest.fixture
def trained(monkeypatch) -> list:
    """Grows by one for each training."""
    found, real = [], Tokenizer.train.__func__
    monkeypatch.setattr(Tokenizer, "train", classmethod(lambda *args, **kw: (found.append(1), time.sleep(0.05), real(*args, **kw))[-1]))
    return found


def test_train_or_load_reuses_exactly_what_it_would_train(tmp_path, course_home, trained):
    first = train_or_load(corpus(), 300)
    again = train_or_load(corpus(), 300)
    assert (course_home / "tokenizers" / "small-300" / "tokenizer.json").is_file() and len(trained) == 1
    assert again.sha256 == first.sha256 and again.provenance == first.provenance
    folder = tmp_path / "mine"
    for which, size, options in [
        (corpus("other"), 300, {}), (corpus(texts=TEXTS * 2), 300, {}), (corpus(val=TEXTS[:1]), 300, {}), (corpus(), 301, {}),
        (corpus(), 300, {"max_chars": 400}),
    ]:  # fmt: skip
        train_or_load(corpus(), 300, folder)
        trained.clear()
        made = train_or_load(which, size, folder, **options)
        assert len(trained) == 1 and made.vocab_size == size and Tokenizer.load(folder).provenance == made.provenance
        train_or_load(which, size, folder, **options)
        assert len(trained) == 1
    Tokenizer.train(TEXTS, 300, provenance=first.provenance, pattern=r"\p{L}+|\P{L}").save(folder)
    assert train_or_load(corpus(), 300, folder).sha256 == first.sha256


def test_a_tokenizer_that_stopped_at_its_characters_serves_a_longer_corpus(course_home, trained):
    """It is trained while later shards are still downloaded, and training finds it."""
    first = train_or_load(corpus(texts=TEXTS), 270, max_chars=300)
    assert train_or_load(corpus(texts=TEXTS + TEXTS), 270, max_chars=300).sha256 == first.sha256 and len(trained) == 1
    train_or_load(corpus(texts=TEXTS[:2]), 270, max_chars=300)  # fewer documents than the first one read
    assert len(trained) == 2


def test_train_or_load_makes_a_damaged_one_again(tmp_path, capsys):
    first = train_or_load(corpus(), 300, tmp_path / "t")
    (tmp_path / "t" / "ranks.tiktoken").write_text("junk")
    assert train_or_load(corpus(), 300, tmp_path / "t").sha256 == first.sha256
    assert "does not match its checksum" in capsys.readouterr().out
    assert Tokenizer.load(tmp_path / "t").sha256 == first.sha256


def test_of_several_at_once_one_trains(tmp_path, trained):
    """Issue 17, row 11: four processes that made one tokenizer at once failed in 12 of 240 cases."""
    with ThreadPoolExecutor(4) as pool:
        for n in range(6):
            made = list(pool.map(lambda _, n=n: train_or_load(corpus(), 300, tmp_path / str(n)).sha256, range(4)))
            assert len(set(made)) == 1 and len(trained) == n + 1
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == [str(n) for n in range(6)]


def test_bytes_per_token(tok):
    text = TEXTS[0]
    assert module.bytes_per_token(tok, [text, "", text]) == pytest.approx(len(text.encode()) / len(tok.encode(text)))
    assert module.bytes_per_token(tok, [text, TEXTS[2]], max_bytes=1) == len(text.encode()) / len(tok.encode(text))


def test_commands(tmp_path, course_home, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_corpus", lambda name, partial: corpus(name))
    module.main(Train(vocab_size=400, out=tmp_path / "out.json"))
    folder, lines = course_home / "tokenizers" / "embedded-400", capsys.readouterr().out.splitlines()
    tokenizer, result = Tokenizer.load(folder), read_json(tmp_path / "out.json")
    assert lines[0] == "public domain" and lines[1].startswith("vocabulary of 400 tokens in ") and str(folder) in lines[1]
    assert f"from {sum(map(len, TEXTS))} characters of 4 documents" in lines[2]
    assert result.keys() == {"vocab_size", "sha256", "folder", "bytes_per_token", "ids", "pieces"}
    assert (result["sha256"], result["folder"]) == (tokenizer.sha256, str(folder)) and tokenizer.provenance["corpus"] == "embedded"
    assert result["ids"] == tokenizer.encode("".join(result["pieces"])) and f"{result['bytes_per_token']:.3f} bytes per token" in lines[3]
