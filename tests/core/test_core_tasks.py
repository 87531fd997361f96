"""The bundle of CORE: damaged, forged and hostile ones refused with an error that says where; ours and the real one read."""

import hashlib
import http.server
import importlib.util
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from gpt2course import core_tasks as b
from gpt2course import core
from gpt2course.core_tasks import MINI, default_bundle, ensure_bundle, load_bundle, read_bundle
from gpt2course.files import UserError

DEV_DATA = os.environ.get("GPT2COURSE_DEV_DATA")
REAL = Path(DEV_DATA or ".") / "core" / "eval_bundle.zip"
needs_real = pytest.mark.skipif(not (DEV_DATA and REAL.exists()), reason="GPT2COURSE_DEV_DATA has no core/eval_bundle.zip")


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    """No bundle of this machine, and no variable that names one."""
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path / "home"))
    for name in (b.VARIABLE, "GPT2COURSE_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


# ---- our own bundle


def load_script():
    path = Path(__file__).parents[1] / "tools" / "make_core_bundle.py"
    spec = importlib.util.spec_from_file_location("make_core_bundle", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_script_reproduces_the_packaged_bundle(tmp_path):
    load_script().make(tmp_path / "bundle")
    assert files_of(tmp_path / "bundle") == files_of(MINI)


def test_the_packaged_bundle_is_what_it_says():
    tasks = load_bundle(MINI)
    assert {t.kind for t in tasks} == set(b.FIELDS) and {t.num_fewshot for t in tasks} == {0, 3, 5}
    assert {t.delimiter for t in tasks} == {" ", "\nAnswer: "}
    for task in tasks:
        assert 40 <= len(task.examples) <= 100
        assert len({json.dumps(e, sort_keys=True) for e in task.examples}) == len(task.examples)  # no example twice
        for e in task.examples:
            options = e.get("choices") or e.get("context_options") or []
            assert len(set(options)) == len(options) and (not options or task.random_baseline == 1 / len(options))
            assert all(text == text.strip() for value in e.values() if isinstance(value, str) for text in [*options, value])


# ---- reading bundles


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(MINI, folder)
    return folder


def change(file, old, new, count=1):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, count), encoding="utf-8", newline="\n")


def set_line(file, number, text):
    lines = file.read_bytes().split(b"\n")
    lines[number - 1] = text if isinstance(text, bytes) else text.encode()
    file.write_bytes(b"\n".join(lines))


MC = '{"query": "q", "choices": ["a", "b"], "gold": 0}'


@pytest.mark.parametrize(("label", "line", "text", "says"), [
    ("agreement", 3, "{not json}", "not a JSON object in UTF-8"),
    ("agreement", 5, "", "not a JSON object"),
    ("agreement", 64, b'{"query": "\xff", "choices": ["a", "b"], "gold": 0}', "utf-8"),
    ("agreement", 1, "[1, 2]", "is not a JSON object"),
    ("agreement", 2, MC.replace("query", "question"), "field 'query' is missing"),
    ("agreement", 2, MC.replace('"q"', "7"), "field 'query' is 7, must be a text"),
    ("agreement", 2, MC.replace('["a", "b"]', '["a"]'), "field 'choices' is .* at least two"),
    ("agreement", 2, MC.replace('"b"', "2"), "field 'choices'"),
    ("agreement", 2, MC.replace('"b"', '" "'), "field 'choices'"),
    ("agreement", 2, MC.replace("0}", "2}"), "field 'gold' is 2, must be a whole number from 0 to 1"),
    ("agreement", 2, MC.replace("0}", "-1}"), "field 'gold' is -1"),
    ("agreement", 2, MC.replace("0}", "true}"), "field 'gold' is True"),
    ("agreement", 2, MC.replace("0}", '"0"}'), "field 'gold' is '0'"),
    ("pronouns", 7, '{"continuation": "c", "gold": 0}', "field 'context_options' is missing"),
    ("pronouns", 7, '{"context_options": ["a", "b"], "continuation": "", "gold": 0}', "field 'continuation' is ''"),
    ("collocations", 9, '{"context": "a"}', "field 'continuation' is missing"),
])  # fmt: skip
def test_a_damaged_line_names_task_file_and_line(bundle, label, line, text, says):
    set_line(bundle / "eval_data" / f"{label}.jsonl", line, text)
    with pytest.raises(UserError, match=rf"^task {label}: eval_data/{label}.jsonl line {line}: .*{says}") as e:
        load_bundle(bundle)
    assert "\n" not in str(e.value)


def test_too_few_examples_for_the_shots(bundle):
    file = bundle / "eval_data" / "next_word.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:6]))
    assert [len(t.examples) for t in load_bundle(bundle)][2] == 6  # 5 shots and one to ask
    file.write_text("".join(lines[:5]))
    with pytest.raises(UserError, match="task next_word: eval_data/next_word.jsonl ends at line 5, .* at least 6"):
        load_bundle(bundle)
    (bundle / "eval_data" / "agreement.jsonl").write_text("")
    with pytest.raises(UserError, match="task agreement: .*at least 1 "):
        load_bundle(bundle)


@pytest.mark.parametrize(("file", "old", "new", "says"), [
    ("core.yaml", "icl_task_type: schema", "icl_task_type: essay", "task pronouns: core.yaml: icl_task_type is 'essay'"),
    ("core.yaml", "num_fewshot: [5]", "num_fewshot: 5", "task next_word: core.yaml: num_fewshot is 5"),
    ("core.yaml", "num_fewshot: [5]", "num_fewshot: [-1]", "task next_word: core.yaml: num_fewshot"),
    ("core.yaml", "label: next_word", "label: agreement", "task agreement: core.yaml names it twice"),
    ("core.yaml", "  label: next_word", "  lebal: next_word", "task number 3: core.yaml: label is None"),
    ("core.yaml", "dataset_uri: next_word.jsonl", "dataset_uri: ../core.yaml", "task next_word: eval_data/../core.yaml is"),
    ("core.yaml", "dataset_uri: next_word.jsonl", "dataset_uri: gone.jsonl", "task next_word: eval_data/gone.jsonl is not in"),
    ("core.yaml", "continuation_delimiter: ", "continuation_delimiter: 7 #", "task knowledge: core.yaml: cont.* is 7"),
    ("core.yaml", "icl_tasks:", "tasks:", "no list 'icl_tasks'"),
    ("core.yaml", "icl_tasks:", "icl_tasks: [", "core.yaml is not YAML"),
    ("core.yaml", "name: mini-CORE", "name: CORE", "calls itself CORE, but CORE has exactly 22 tasks"),
    ("eval_meta_data.csv", "next_word,", "next,", "task next_word: eval_meta_data.csv: Random baseline is missing"),
    ("eval_meta_data.csv", ",5,60,25,", ",5,60,many,", "task next_word: eval_meta_data.csv: Random baseline is many"),
    ("eval_meta_data.csv", ",5,60,25,", ",5,60,100,", "task next_word: eval_meta_data.csv: Random baseline is 100"),
    ("eval_meta_data.csv", "Random baseline", "Baseline", "task agreement: eval_meta_data.csv: Random baseline is missing"),
])  # fmt: skip
def test_a_damaged_configuration_names_the_task(bundle, file, old, new, says):
    change(bundle / file, old, new)
    with pytest.raises(UserError, match=says.replace("[", r"\[")) as e:
        load_bundle(bundle)
    assert "\n" not in str(e.value)


def test_missing_bundles_and_files(tmp_path, bundle):
    with pytest.raises(UserError, match="does not exist"):
        load_bundle(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no core.yaml"):
        load_bundle(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        load_bundle(tmp_path / "text.zip")
    (bundle / "eval_meta_data.csv").unlink()
    with pytest.raises(UserError, match="no eval_meta_data.csv"):
        load_bundle(bundle)


def zipped(folder, path, prefix="", extra=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files_of(folder).items():
            z.writestr(prefix + name, data)
        for name in extra:
            z.writestr(name, "x")
    return path


@pytest.mark.parametrize("prefix", ["", "some/bundle/"])
def test_a_zip_reads_as_its_folder_does_and_unpacks_nothing(tmp_path, prefix):
    path = zipped(MINI, tmp_path / "b.zip", prefix)
    assert read_bundle(path) == read_bundle(MINI)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:\\evil", "C:evil", "eval_data/../../../evil.jsonl"])
def test_a_zip_whose_members_escape_is_refused(tmp_path, name):
    path = zipped(MINI, tmp_path / "b.zip", extra=[name])
    with pytest.raises(UserError, match="leads out of it"):
        load_bundle(path)
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_zips(tmp_path):
    path = zipped(MINI, tmp_path / "b.zip", extra=["other/core.yaml"])
    with pytest.raises(UserError, match="2 files core.yaml"):
        load_bundle(path)
    path = zipped(MINI, tmp_path / "c.zip")
    with zipfile.ZipFile(path) as z:
        info = z.getinfo("eval_data/pronouns.jsonl")
        at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot be read|pronouns"):
        load_bundle(path)


def test_names_of_bundles(bundle, tmp_path):
    change(bundle / "core.yaml", "name: mini-CORE\nbaselines: uniform guesser\n", "")
    assert (read_bundle(bundle).name, read_bundle(bundle).baselines) == ("copy", "the bundle's own")
    assert read_bundle(zipped(bundle, tmp_path / "zip.zip")).name == "zip"
    assert read_bundle(zipped(bundle, tmp_path / "zip.zip", "inside/")).name == "inside"


def write_core(folder, percent, labels):
    """A bundle with CORE's 22 labels over one small file."""
    (folder / "eval_data").mkdir(parents=True)
    (folder / "eval_data" / "a.jsonl").write_text(MC + "\n")
    entries = [{"label": t, "dataset_uri": "a.jsonl", "num_fewshot": [0], "icl_task_type": "multiple_choice"} for t in labels]
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": entries, "name": "anything"}))
    rows = ["Eval Task,Random baseline", *(f"{t},{b}" for t, b in percent.items())]
    (folder / "eval_meta_data.csv").write_text("\n".join(rows))
    return folder

# ---- hostile zips


def mini_zip(path, change):
    """The mini bundle as a zip; change(z) adds to it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files_of(MINI).items():
            z.writestr(name, data)
        change(z)
    return path


def link(z):
    info = zipfile.ZipInfo("eval_data/link.jsonl")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    z.writestr(info, "/etc/passwd")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("change", "says"), [
    (link, "a member 'eval_data/link.jsonl' that is a link"),
    (lambda z: z.writestr("core.yaml", "icl_tasks: []"), "a member 'core.yaml' that stands in it twice"),
    (lambda z: z.writestr("x", "x" * 99, zipfile.ZIP_LZMA), "a member 'x' that is packed in a way of its own"),
    (lambda z: z.writestr("x", "x" * 99, zipfile.ZIP_BZIP2), "a member 'x' that is packed in a way of its own"),
])  # fmt: skip
def test_hostile_members_are_refused(tmp_path, change, says):
    path = mini_zip(tmp_path / "b.zip", change)
    with pytest.raises(UserError, match=says):
        load_bundle(path)
    assert list(tmp_path.iterdir()) == [path]


def patch(path, name, offset, value, local=True):
    """Overwrite bytes of a member's entry in the central directory, at `offset` (and in its local header, 4 less)."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        at, directory = z.getinfo(name).header_offset, z.start_dir
    entry = data.index(name.encode(), directory) - 46
    data[entry + offset : entry + offset + len(value)] = value
    if local:
        data[at + offset - 2 : at + offset - 2 + len(value)] = value
    path.write_bytes(data)


def test_a_member_with_a_password(tmp_path):
    path = mini_zip(tmp_path / "b.zip", lambda z: None)
    patch(path, "eval_data/pronouns.jsonl", 8, b"\x01")
    with pytest.raises(UserError, match="'eval_data/pronouns.jsonl' that needs a password"):
        load_bundle(path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(b, "LARGEST", 1_000_000)

    def bomb(z):
        z.writestr("eval_data/bomb.jsonl", b"{}\n" * 10_000_000)  # 30 MB, 29 kB in the zip

    path = mini_zip(tmp_path / "b.zip", bomb)
    assert len(load_bundle(path)) == 7  # it is not read
    folder = tmp_path / "copy"
    shutil.copytree(MINI, folder)
    change(folder / "core.yaml", "agreement.jsonl", "bomb.jsonl")
    path = zipped(folder, tmp_path / "c.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as z:
        bomb(z)
    with pytest.raises(UserError, match="eval_data/bomb.jsonl in the evaluation bundle has more than 1,000,000 bytes"):
        load_bundle(path)
    for lie in (100, 0):  # far larger than stated: read no further than that, and the checksum of the zip is wrong
        patch(path, "eval_data/bomb.jsonl", 24, lie.to_bytes(4, "little"))
        with pytest.raises(UserError, match="cannot be read|bomb.jsonl"):
            load_bundle(path)
    (folder / "eval_data" / "bomb.jsonl").write_bytes(b" " * 1_000_001)
    with pytest.raises(UserError, match="more than 1,000,000 bytes"):
        load_bundle(folder)


def test_a_member_larger_than_stated_in_small(tmp_path):
    """The stated size cuts the file after a whole line: only the checksum of the zip tells."""
    path = mini_zip(tmp_path / "b.zip", lambda z: None)
    lines = (MINI / "eval_data" / "next_word.jsonl").read_bytes().splitlines(keepends=True)
    patch(path, "eval_data/next_word.jsonl", 24, len(b"".join(lines[:30])).to_bytes(4, "little"))
    with pytest.raises(UserError, match="cannot be read.*CRC"):
        load_bundle(path)


def test_flipped_bytes_are_errors_or_nothing(tmp_path):
    whole = mini_zip(tmp_path / "b.zip", lambda z: None).read_bytes()
    expected, rng, refused = read_bundle(MINI), random.Random(0), 0
    directory = whole.index(b"PK\x01\x02")
    for n in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            data[rng.randrange(n % 2 * directory, len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.1:
            data = data[: rng.randrange(len(data))]
        (tmp_path / "b.zip").write_bytes(data)
        try:
            assert read_bundle(tmp_path / "b.zip") == expected
        except UserError as e:
            refused += 1
            assert "\n" not in str(e)
    assert refused > 75


def test_a_directory_that_lies(tmp_path):
    for name, offset, value in [("eval_data/pronouns.jsonl", 42, b"\xff\xff\xff\x0f"), ("core.yaml", 9, b"\x08"), ("core.yaml", 46, b"\xff")]:
        path = mini_zip(tmp_path / "b.zip", lambda z: None)
        patch(path, name, offset, value, local=False)
        if offset == 9:
            patch(path, name, 46, b"\xff", local=False)  # no UTF-8, and said to be
        with pytest.raises(UserError, match="cannot be read|core.yaml"):
            load_bundle(path)
    data = mini_zip(path, lambda z: None).read_bytes()
    end = data.rindex(b"PK\x05\x06")
    path.write_bytes(data[: end + 16] + (2**31).to_bytes(4, "little") + data[end + 20 :])  # it begins before the beginning
    with pytest.raises(UserError, match="cannot be read"):
        load_bundle(path)


# ---- CORE's own files


@pytest.fixture
def small_core(tmp_path, monkeypatch):
    """A bundle with CORE's 22 labels, all over one small file, whose hashes stand for the real ones."""
    folder = write_core(tmp_path / "core", b.DCLM_V1, b.CORE)
    (folder / "eval_data" / "a.jsonl").write_text("".join(MC.replace('"q"', f'"q{i}"') + "\n" for i in range(12)))
    forge(monkeypatch, folder)
    return folder


def forge(monkeypatch, folder):
    monkeypatch.setattr(b, "SHA256", {name: hashlib.sha256(data).hexdigest() for name, data in files_of(folder).items()})


def test_core_is_the_22_tasks_and_names_its_baselines(small_core, tmp_path):
    found = read_bundle(small_core)
    assert (found.name, found.baselines, found.labels) == ("CORE", "DCLM v1", tuple(b.CORE))
    assert [t.random_baseline for t in found.tasks] == [0.01 * percent for percent in b.DCLM_V1.values()]
    assert read_bundle(write_core(tmp_path / "4", b.DCLM_V1, list(b.CORE)[:21])).name == "anything"
    later = read_bundle(small_core, baselines="v2")
    assert (later.name, later.baselines) == ("CORE v2", "DCLM v2")
    assert [t.random_baseline for t in later.tasks] == [0.01 * percent for percent in b.DCLM_V2.values()]
    for wrong, path, says in [("v3", small_core, "baselines = 'v3' .* must be v1 .* or v2"), ("v2", MINI, "is for CORE, and .* is mini-CORE")]:
        with pytest.raises(UserError, match=says):
            read_bundle(path, baselines=wrong)


def guess(ids):
    logits = torch.zeros(*ids.shape, 128)
    logits[..., 127] = 1000
    return logits


class Chars:
    bos = 0

    def encode(self, text, bos=False):
        return [0] * bos + [ord(c) & 127 for c in text]


def test_reports_name_their_baselines(small_core):
    one = core.evaluate(guess, Chars(), small_core, tasks=["boolq"])
    assert one["name"] == "CORE" and one["subset"] and one["core"] == pytest.approx((1 - 0.62) / 0.38)
    assert "not to be compared" in core.table(one) and "0.2565" not in core.table(one)
    whole = core.evaluate(guess, Chars(), small_core)
    assert "GPT-2 XL" in core.table(whole) and "0.2565" in core.table(whole) and "DCLM v1" in core.table(whole)
    later = core.evaluate(guess, Chars(), read_bundle(small_core, baselines="v2"))
    text = core.table(later)
    assert later["name"] == "CORE v2" and "CORE v2 " in text and "baselines: DCLM v2" in text and "GPT-2" not in text  # their scores are of v1
    assert later["tasks"]["commonsense_qa"]["random_baseline"] == pytest.approx(0.403)


@pytest.mark.parametrize(("file", "old", "new"), [
    ("core.yaml", '"num_fewshot": [0]', '"num_fewshot": [1]'),
    ("eval_meta_data.csv", "boolq,62", "boolq,50"),
    ("eval_data/a.jsonl", '"q7"', '"q8"'),
])  # fmt: skip
def test_a_damaged_file_of_core_is_named_with_both_hashes(small_core, file, old, new):
    change(small_core / file, old, new)
    found = hashlib.sha256((small_core / file).read_bytes()).hexdigest()
    for path in (small_core, zipped(small_core, small_core.parent / "b.zip", "eval_bundle/")):
        with pytest.raises(UserError, match=f"{file} is not that of CORE: its sha256 is {found}, must be {b.SHA256[file]}; get the bundle again") as e:
            load_bundle(path)
        assert ("task hellaswag_zeroshot: " in str(e.value)) == file.startswith("eval_data")


def test_a_damaged_line_of_core_is_named_too(small_core):
    set_line(small_core / "eval_data" / "a.jsonl", 5, "{not json}")
    with pytest.raises(UserError, match=r"task hellaswag_zeroshot: eval_data/a.jsonl is not that of CORE: .* \(line 5: is not a JSON object in UTF-8"):
        load_bundle(small_core)


def test_three_examples_of_core(small_core, monkeypatch):
    change(small_core / "core.yaml", '"jeopardy", "dataset_uri": "a.jsonl", "num_fewshot": [0]', '"jeopardy", "dataset_uri": "a.jsonl", "num_fewshot": [10]')
    forge(monkeypatch, small_core)
    load_bundle(small_core)
    (small_core / "eval_data" / "a.jsonl").write_text((MC + "\n") * 3)
    with pytest.raises(UserError, match="is not that of CORE: "):
        load_bundle(small_core)
    with pytest.raises(UserError, match=r"task jeopardy: .* is not that of CORE: .* \(ends at line 3, but 10 shots need at least 11 examples\)"):
        read_bundle(small_core, ["jeopardy"])
    forge(monkeypatch, small_core)
    with pytest.raises(UserError, match="task jeopardy: eval_data/a.jsonl ends at line 3, but 10 shots need at least 11 examples; get the bundle again"):
        load_bundle(small_core)


def test_the_results_of_gpt2_are_checked_where_they_are(small_core, monkeypatch):
    (small_core / "openai-community-gpt2.csv").write_text("results")
    forge(monkeypatch, small_core)
    load_bundle(small_core)
    change(small_core / "openai-community-gpt2.csv", "r", "R")
    with pytest.raises(UserError, match="openai-community-gpt2.csv is not that of CORE"):
        load_bundle(small_core)
    (small_core / "openai-community-gpt2.csv").unlink()
    load_bundle(small_core)


def test_the_list_holds_every_file_that_core_needs():
    assert len(b.SHA256) == 27 and all(len(digest) == 64 and int(digest, 16) for digest in b.SHA256.values())
    assert sum(name.startswith("eval_data/") and name.endswith(".jsonl") for name in b.SHA256) == 21
    lines = "".join(f"{digest} {name}\n" for name, digest in sorted(b.SHA256.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == "5049bc1bfa031b17e197c3ff2445a59fcaa601753912e86eb1245fd07f1baffd"


# ---- where it is: given, found or downloaded


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch, small_core):
    """A mirror that serves the small CORE as eval_bundle.zip; returns its file."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=folder))
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("GPT2COURSE_MIRROR", f"http://127.0.0.1:{httpd.server_port}")
    yield zipped(small_core, folder / "eval_bundle.zip", "eval_bundle/", ["eval_bundle/eval_data/of_no_task.jsonl"])
    httpd.shutdown()
    httpd.server_close()


def eval_files(tmp_path):
    folder = tmp_path / "home" / "eval"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_downloaded_once(tmp_path, mirror, capsys):
    path = ensure_bundle()
    assert path == tmp_path / "home" / "eval" / "eval_bundle.zip" and path.read_bytes() == mirror.read_bytes()
    assert eval_files(tmp_path) == ["eval_bundle.zip", "eval_bundle.zip.sha256"]
    mirror.unlink()
    assert ensure_bundle() == default_bundle() == path and read_bundle(path).name == "CORE"


@pytest.mark.parametrize("what", ["corrupted line", "three examples", "escape", "21 tasks", "no zip", "gone"])
def test_a_wrong_download_leaves_nothing(tmp_path, mirror, small_core, monkeypatch, what):
    says = {"corrupted line": r"sends is not what is wanted: task hellaswag_zeroshot: .*\(line 5: .*; it was deleted", "three examples": "is not that of CORE",
            "escape": "leads out of it", "21 tasks": "with 21 tasks, must be CORE with its 22", "no zip": "neither a folder nor a zip", "gone": "HTTP 404"}[what]  # fmt: skip
    if what == "corrupted line":
        set_line(small_core / "eval_data" / "a.jsonl", 5, "{not json}")
    elif what == "three examples":
        (small_core / "eval_data" / "a.jsonl").write_text((MC + "\n") * 3)
    elif what == "21 tasks":
        shutil.rmtree(small_core)
        write_core(small_core, b.DCLM_V1, list(b.CORE)[1:])
    zipped(small_core, mirror, "eval_bundle/", ["../evil"] if what == "escape" else ())
    if what == "no zip":
        mirror.write_text("<html>please log in</html>")
    elif what == "gone":
        mirror.unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=says) as e:
        ensure_bundle()
    assert "\n" not in str(e.value) and "GPT2COURSE_MIRROR" in str(e.value)
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before] in ([tmp_path / "home", tmp_path / "home" / "eval"], [])
    assert eval_files(tmp_path) == []


def test_a_copy_of_ones_own(tmp_path, monkeypatch, small_core):
    monkeypatch.setenv("GPT2COURSE_MIRROR", "http://127.0.0.1:9")  # nobody is asked
    assert ensure_bundle(small_core) == small_core
    monkeypatch.setenv(b.VARIABLE, str(small_core))
    assert ensure_bundle() == default_bundle() == small_core and ensure_bundle(MINI) == MINI
    monkeypatch.setenv(b.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere does not exist"):
        ensure_bundle()
    monkeypatch.delenv(b.VARIABLE)
    assert default_bundle() == MINI
    shutil.copytree(small_core, tmp_path / "home" / "eval" / "eval_bundle")
    assert ensure_bundle() == default_bundle() == tmp_path / "home" / "eval" / "eval_bundle"


def test_command(tmp_path, monkeypatch, mirror, capsys):
    b.main()
    out = capsys.readouterr().out
    assert "CORE: 22 tasks, 264 examples, baselines DCLM v1" in out and b.SHA256["eval_data/a.jsonl"] in out
    assert hashlib.sha256(mirror.read_bytes()).hexdigest() in out and b.URL in out and "CC BY-SA 4.0" in out
    b.main(baselines="v2")
    assert "CORE v2: 22 tasks" in capsys.readouterr().out
    run = lambda *args: subprocess.run([sys.executable, "-m", "gpt2course.core_tasks", *args], capture_output=True, text=True, cwd=Path(__file__).parents[1])  # noqa: E731
    shown = run("--help").stdout
    assert all(word in shown for word in ("--baselines", "GPT2COURSE_CORE_BUNDLE", "GPT2COURSE_MIRROR"))
    wrong = run(str(tmp_path / "nowhere"))
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: evaluation bundle") and wrong.stderr.count("\n") == 1


def test_reading_a_bundle_does_without_torch():
    code = "import sys, gpt2course.core_tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


# ---- the real bundle


@pytest.fixture(scope="module")
def real():
    return read_bundle(REAL)


@needs_real
def test_the_list_is_that_of_the_real_files():
    with zipfile.ZipFile(REAL) as z:
        found = {name.removeprefix("eval_bundle/"): hashlib.sha256(z.read(name)).hexdigest() for name in z.namelist()}
    assert found == b.SHA256


@needs_real
def test_the_real_bundle_is_core(real):
    assert (real.name, real.baselines, real.labels) == ("CORE", "DCLM v1", tuple(b.CORE))
    assert sum(len(t.examples) for t in real.tasks) == 91_037
    shots = {t.label: t.num_fewshot for t in real.tasks}
    assert shots["hellaswag"] == 10 and shots["agi_eval_lsat_ar"] == 3 and shots["coqa"] == 0
    assert next(t for t in real.tasks if t.label == "boolq").delimiter == "\nAnswer: "

@needs_real
def test_the_real_baselines_are_v1(real):
    assert {t.label: round(100 * t.random_baseline, 9) for t in real.tasks} == b.DCLM_V1
    later = read_bundle(REAL, ["commonsense_qa", "agi_eval_lsat_ar", "bigbench_language_identification", "boolq"], baselines="v2")
    assert [round(100 * t.random_baseline, 9) for t in later.tasks] == [40.3, 25, 62, 25]


@needs_real
def test_one_flipped_bit_of_the_real_bundle(tmp_path):
    """Repacked with every checksum of the zip right: only the list tells."""
    with zipfile.ZipFile(REAL) as z:
        members = {name: z.read(name) for name in z.namelist() if "/eval_data/" not in name or "winograd" in name or "copa" in name}
    name = "eval_bundle/eval_data/language_understanding/winograd_wsc.jsonl"
    for flip, says in [(None, None), (1000, "task winograd: eval_data/language_understanding/winograd_wsc.jsonl is not that of CORE")]:
        data = bytearray(members[name])
        if flip:
            at = data.index(b'"continuation": "') + 18
            data[at] ^= 1
        with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as z:
            for member, content in members.items():
                z.writestr(member, bytes(data) if member == name else content)
        if says is None:
            assert len(read_bundle(tmp_path / "b.zip", ["winograd", "copa"]).tasks) == 2
        else:
            with pytest.raises(UserError, match=says) as e:
                read_bundle(tmp_path / "b.zip", ["winograd", "copa"])
            assert "(line" not in str(e.value)  # every line is still well formed
