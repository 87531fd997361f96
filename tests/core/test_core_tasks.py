"""Bundles of CORE's tasks: damaged ones are refused with an error that names the place; ours and the real one are read."""

import importlib.util
import json
import random
import shutil
import zipfile
from pathlib import Path

import pytest

from gpt2course.core_tasks import (
    CORE,
    FIELDS,
    GPT2,
    GPT2_CENTRED,
    GPT2_CORE,
    GPT2_MEANS,
    MINI,
    TASKS,
    read_bundle,
)
from gpt2course.files import UserError

BASELINES = {label: row[1] for label, row in CORE.items()}  # percent
MC = '{"query": "q", "choices": ["a", "b"], "gold": 0}'


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def zipped(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files_of(folder).items():
            z.writestr(prefix + name, data)
    return path


@pytest.fixture
def bundle(tmp_path):
    return Path(shutil.copytree(MINI, tmp_path / "copy"))


def change(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8", newline="\n")


# ---- the constants


def test_the_constants_agree_with_each_other():
    assert len(TASKS) == len(BASELINES) == 22 and sum(TASKS.values()) == 91_037
    assert GPT2_CORE == GPT2_MEANS["GPT-2 XL"] == 0.256525
    for model in GPT2:
        assert sum(GPT2_CENTRED[model].values()) / 22 == pytest.approx(GPT2_MEANS[model], abs=2e-6)
        for label, centred in GPT2_CENTRED[model].items():  # the accuracies are whole numbers of right answers
            n = TASKS[label] if model == "GPT-2 small" else min(1000, TASKS[label])
            right = (centred * (1 - BASELINES[label] / 100) + BASELINES[label] / 100) * n
            assert right == pytest.approx(round(right), abs=1.1e-6 * n), (model, label)


# ---- our own bundle


def test_the_script_reproduces_the_packaged_bundle(tmp_path):
    path = Path(__file__).parents[2] / "tools" / "make_core_bundle.py"
    spec = importlib.util.spec_from_file_location("make_core_bundle", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.make(tmp_path / "bundle")
    assert files_of(tmp_path / "bundle") == files_of(MINI)


def test_the_packaged_bundle_has_every_kind_of_task():
    found = read_bundle(MINI)
    assert {t.kind for t in found.tasks} == set(FIELDS) and {t.num_fewshot for t in found.tasks} == {0, 3, 5}
    assert {t.delimiter for t in found.tasks} == {" ", "\nAnswer: "}
    for task in found.tasks:
        assert 40 <= len({json.dumps(e, sort_keys=True) for e in task.examples}) == len(task.examples) <= 100
        for e in task.examples:
            options = e.get("choices") or e.get("context_options") or []
            assert len(set(options)) == len(options) and (not options or task.random_baseline == 1 / len(options))


# ---- reading bundles


@pytest.mark.parametrize("prefix", ["", "eval_bundle/"])
def test_a_zip_reads_as_its_folder_does_and_unpacks_nothing(tmp_path, prefix):
    path = zipped(MINI, tmp_path / "b.zip", prefix)
    assert read_bundle(path) == read_bundle(MINI) and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text, problem", [
    ("{not json}", "Expecting"), ("[1, 2]", "indices"), (MC.replace("query", "question"), "it has no 'query'"), (MC.replace('"q"', "7"), "query = 7"),
    (MC.replace('["a", "b"]', '["a"]'), "choices = "), (MC.replace('"b"', '" "'), "choices = "), (MC.replace("0}", "2}"), "gold = 2"), (MC.replace("0}", "true}"), "gold = True"),
])  # fmt: skip
def test_a_damaged_line_is_named(bundle, text, problem):
    file = bundle / "eval_data" / "agreement.jsonl"
    lines = file.read_text().split("\n")
    file.write_text("\n".join([*lines[:2], text, *lines[3:]]))
    with pytest.raises(UserError, match="eval_data/agreement.jsonl: line 3: .*") as e:
        read_bundle(bundle)
    assert problem in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("file, old, new, problem", [
    ("core.yaml", "icl_task_type: schema", "icl_task_type: essay", "essay"), ("core.yaml", "num_fewshot: [5]", "num_fewshot: [-1]", "num_fewshot = -1"),
    ("core.yaml", "num_fewshot: [5]", "num_fewshot: [100]", "num_fewshot = 100 is not allowed for 60 examples"),
    ("core.yaml", "dataset_uri: next_word.jsonl", "dataset_uri: gone.jsonl", "eval_data/gone.jsonl: the file does not exist"),
    ("core.yaml", "name: mini-CORE", "name: core", "calls itself CORE"), ("eval_meta_data.csv", "next_word,", "next,", "it has no 'next_word'"),
    ("eval_meta_data.csv", ",5,60,25,", ",5,60,100,", "eval_meta_data.csv: each task needs a random baseline"),
    ("eval_meta_data.csv", ",5,60,25,", ",5,60,many,", "eval_meta_data.csv: could not convert"),
])  # fmt: skip
def test_a_damaged_configuration_is_named(bundle, file, old, new, problem):
    change(bundle / file, old, new)
    with pytest.raises(UserError) as e:
        read_bundle(bundle)
    assert problem in str(e.value) and "\n" not in str(e.value)


def test_missing_bundles_name_the_command_that_fetches_one(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    for path in ("nowhere", "empty", "text.zip"):
        with pytest.raises(UserError, match=f"{path}.*python -m gpt2course.ops.download core"):
            read_bundle(tmp_path / path)


def test_flipped_bytes_are_errors_or_change_nothing(tmp_path):
    path = zipped(MINI, tmp_path / "b.zip")
    whole, expected, draw, refused = path.read_bytes(), read_bundle(MINI), random.Random(0), 0
    directory = whole.index(b"PK\x01\x02")
    for n in range(150):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 4))):
            data[draw.randrange(n % 2 * directory, len(data))] ^= 1 << draw.randrange(8)
        if draw.random() < 0.1:
            data = data[: draw.randrange(len(data))]
        path.write_bytes(data)
        try:
            assert read_bundle(path) == expected
        except UserError as e:
            refused += 1
            assert "\n" not in str(e)
    assert refused > 75


# ---- CORE itself


def write_core(folder, labels):
    """A bundle with CORE's labels over one small file."""
    (folder / "eval_data").mkdir(parents=True)
    (folder / "eval_data" / "a.jsonl").write_text(MC + "\n")
    entries = [{"label": t, "dataset_uri": "a.jsonl", "num_fewshot": [0], "icl_task_type": "multiple_choice"} for t in labels]
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": entries, "name": "anything"}))
    (folder / "eval_meta_data.csv").write_text("\n".join(["Eval Task,Random baseline", *(f"{t},{b}" for t, b in BASELINES.items())]))
    return folder


def test_the_22_labels_with_other_files_are_not_core(tmp_path):
    assert read_bundle(write_core(tmp_path / "21", list(CORE)[:21])).name == "anything"
    with pytest.raises(UserError, match="core.yaml: the file is not CORE's"):
        read_bundle(write_core(tmp_path / "22", CORE))


def test_the_real_bundle_is_core(dev_data):
    real = read_bundle(dev_data / "core" / "eval_bundle.zip")
    assert (real.name, real.baselines, [t.label for t in real.tasks]) == ("CORE", "DCLM v1", list(CORE))
    assert {t.label: len(t.examples) for t in real.tasks} == TASKS
    assert {t.label: round(100 * t.random_baseline, 9) for t in real.tasks} == BASELINES
    shots = {t.label: t.num_fewshot for t in real.tasks}
    assert shots["hellaswag"] == 10 and shots["agi_eval_lsat_ar"] == 3 and shots["coqa"] == 0
    assert next(t for t in real.tasks if t.label == "boolq").delimiter == "\nAnswer: "


@pytest.mark.parametrize("file, old, new", [
    ("eval_data/language_understanding/winograd_wsc.jsonl", b"a", b"e"), ("eval_meta_data.csv", b"5", b"6"), ("core.yaml", b"10", b"11"),
])  # fmt: skip
def test_one_changed_character_of_the_real_bundle(dev_data, tmp_path, file, old, new):
    """The zip's own checksums are right."""
    with zipfile.ZipFile(dev_data / "core" / "eval_bundle.zip") as real, zipfile.ZipFile(tmp_path / "b.zip", "w") as copy:
        for name in real.namelist():
            data = real.read(name)
            copy.writestr(name, data.replace(old, new, 1) if name.endswith(file) else data)
    with pytest.raises(UserError, match=f"{file}: the file is not CORE's"):
        read_bundle(tmp_path / "b.zip")
