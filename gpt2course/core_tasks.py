"""Lesson 10. The tasks of CORE: names, sizes and baselines, and how a bundle of them is read.

A bundle is a folder or a zip with core.yaml (the tasks), eval_meta_data.csv (their baselines) and eval_data/ (their
examples, JSON lines). CORE's bundle is nanochat's (karpathy/nanochat, MIT); the tasks, prompts and baselines come from
DCLM (arXiv 2406.11794). `python -m gpt2course.ops.download core` fetches it. It holds more files than CORE needs, so
read_bundle checks the sha256 of each file that it reads, and not that of the zip. mini-CORE, a small bundle of our own,
is part of the package.
"""

import csv
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from gpt2course.files import UserError, home, shown

MINI = Path(__file__).with_name("core_bundle")  # mini-CORE
DOWNLOAD = "python -m gpt2course.ops.download core"

# The 22 tasks in CORE's order: examples, baseline in percent (DCLM v1), the centred scores of the four GPT-2 models as
# nanochat's bundle gives them (openai-community-gpt2*.csv), and the first 16 digits of the data file's sha256.
# GPT-2 small was scored on all examples, the other models on at most 1,000 a task: their accuracies are multiples of
# 1 / min(1000, examples). The data files are those of mosaicml/llm-foundry at commit 8c8dd48, scripts/eval/local_data.
# DCLM later changed three baselines (v2, DCLM issue #114): commonsense_qa 40.3, language identification 25, lsat_ar 25.
# Published CORE scores use v1; with v2 GPT-2 XL would score 0.2309.
CORE = {
    "hellaswag_zeroshot": (10042, 25, 0.078006, 0.186667, 0.253333, 0.336000, "52a31d32b14dff77"),
    "jeopardy": (2117, 0, 0.001889, 0.044000, 0.045000, 0.092000, "187e7f270a440c63"),
    "bigbench_qa_wikidata": (20321, 0, 0.282663, 0.428000, 0.480000, 0.531000, "bb0d22727cb25bef"),
    "arc_easy": (2376, 25, 0.216611, 0.306667, 0.380000, 0.460000, "d2d12e59543acf9a"),
    "arc_challenge": (1172, 25, -0.037543, 0.016000, 0.018667, 0.065333, "1ae3aeedf1951d88"),
    "copa": (100, 50, 0.200000, 0.320000, 0.340000, 0.340000, "595dca44dec54c84"),
    "commonsense_qa": (1221, 20, 0.030508, -0.005000, 0.087500, 0.033750, "2771f63f8127c072"),
    "piqa": (1838, 50, 0.245919, 0.340000, 0.396000, 0.450000, "d2870e73aec5154d"),
    "openbook_qa": (500, 25, 0.037333, 0.077333, 0.090667, 0.128000, "adb2e5c7f8db810d"),
    "lambada_openai": (5153, 0, 0.322919, 0.426000, 0.488000, 0.523000, "411bfbe5b9054346"),
    "hellaswag": (10042, 25, 0.077209, 0.193333, 0.258667, 0.349333, "52a31d32b14dff77"),
    "winograd": (273, 50, 0.157509, 0.311355, 0.377289, 0.428571, "746336c27cd2e39a"),
    "winogrande": (1267, 50, -0.027624, 0.042000, 0.082000, 0.138000, "ea1592526f3bfdd0"),
    "bigbench_dyck_languages": (1000, 0, 0.155000, 0.170000, 0.225000, 0.247000, "106ba9ac7507c7ab"),
    "agi_eval_lsat_ar": (230, 20, 0.032609, 0.038043, 0.070652, 0.092391, "9ffd73480b51746c"),
    "bigbench_cs_algorithms": (1320, 0, 0.419697, 0.456000, 0.440000, 0.417000, "8485683a8c7e7e6c"),
    "bigbench_operators": (210, 0, 0.085714, 0.100000, 0.114286, 0.157143, "41e2964ad619c49e"),
    "bigbench_repeat_copy_logic": (32, 0, 0.031250, 0.062500, 0.062500, 0.093750, "8febd2c0080a1568"),
    "squad": (10570, 0, 0.058278, 0.169000, 0.235000, 0.309000, "41fe6c43e725c0dc"),
    "coqa": (7983, 0, 0.133659, 0.227000, 0.230000, 0.280000, "0c2b8029776a138f"),
    "boolq": (3270, 62, -0.178175, -0.036842, -0.139474, -0.002632, "454ff101e614370b"),
    "bigbench_language_identification": (10000, 9.1, 0.182178, 0.195820, 0.187019, 0.174917, "80c98d8e7ab82135"),
}
SHA256 = {"core.yaml": "463f6ae0aa127fbd", "eval_meta_data.csv": "84e279cdc0d836c9"}  # the first 16 digits
GPT2 = ("GPT-2 small", "GPT-2 medium", "GPT-2 large", "GPT-2 XL")
TASKS = {label: row[0] for label, row in CORE.items()}  # examples of each task
GPT2_CENTRED = {model: {label: row[m] for label, row in CORE.items()} for m, model in enumerate(GPT2, 2)}
GPT2_MEANS = dict(zip(GPT2, (0.113891, 0.184903, 0.214641, 0.256525)))
GPT2_CORE = GPT2_MEANS["GPT-2 XL"]  # the bar of the whole course

FIELDS = {  # what an example of each kind of task holds
    "multiple_choice": ("query", "choices", "gold"),  # which choice follows the query?
    "schema": ("context_options", "continuation", "gold"),  # after which context is the continuation likely?
    "language_modeling": ("context", "continuation"),  # is the continuation what the model would write?
}


def problem(e: Exception) -> str:
    """What an exception says, on one line."""
    return f"it has no {e}" if isinstance(e, KeyError) else " ".join(str(e).split()) or type(e).__name__


@dataclass(frozen=True)
class Task:
    """One task of a bundle, its examples in the order of the file."""

    label: str
    kind: str  # multiple_choice, schema or language_modeling
    num_fewshot: int  # solved examples shown before the question
    delimiter: str  # the text between a question and its answer
    random_baseline: float  # accuracy of a guesser, as a fraction
    examples: list[dict]  # the fields of FIELDS[kind]


@dataclass(frozen=True)
class Bundle:
    """The tasks of a bundle, and what their mean may be called."""

    name: str  # "CORE" for its 22 tasks, "mini-CORE" for our own bundle, else the bundle's name
    baselines: str  # "DCLM v1" for CORE, else what the bundle's core.yaml says
    tasks: list[Task]


def default_bundle() -> Path:
    """CORE's bundle where it has been downloaded, else mini-CORE."""
    path = home() / "eval" / "eval_bundle.zip"
    return path if path.exists() else MINI


def opened(path: Path):
    """(read, name) of a bundle: read(file, sha256) gives the bytes of a file, checked. A zip is read in place."""
    root = path if path.is_dir() else zipfile.Path(path)
    folders = [root, *(child for child in root.iterdir() if child.is_dir())]  # a zip may hold one folder
    inside = next((folder for folder in folders if (folder / "core.yaml").is_file()), root)

    def read(file: str, sha256: str = "") -> bytes:
        if not (inside / file).is_file():
            raise ValueError("the file does not exist")
        data = (inside / file).read_bytes()
        if not hashlib.sha256(data).hexdigest().startswith(sha256):
            raise ValueError(f"the file is not CORE's: its sha256 does not begin with {sha256}")
        return data

    return read, path.stem if inside is root else inside.name


def check_example(kind: str, example: dict) -> None:
    """Raise ValueError or KeyError unless the example has the fields of its kind."""
    for field in FIELDS[kind]:
        value = example[field]
        if field in ("choices", "context_options"):
            options = value
            fine = isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) and v.strip() for v in value)
        elif field == "gold":
            fine = type(value) is int and 0 <= value < len(options)
        else:
            fine = isinstance(value, str) and bool(value.strip() or field != "continuation")
        if not fine:
            raise ValueError(f"{field} = {shown(value)} is not allowed")


def examples_of(data: bytes, kind: str, shots: int, check: bool) -> list[dict]:
    """The examples of a task's file. ValueError names the line that is wrong."""
    examples = []
    for number, line in enumerate(io.BytesIO(data), 1):  # bytes: only \n ends a line
        try:
            examples.append(json.loads(line))
            if check:
                check_example(kind, examples[-1])
        except Exception as e:
            raise ValueError(f"line {number}: {problem(e)}") from None
    if type(shots) is not int or not 0 <= shots < len(examples):
        raise ValueError(f"num_fewshot = {shots} is not allowed for {len(examples)} examples")
    return examples


def read_bundle(path) -> Bundle:
    """Read a bundle. The whole of CORE takes a second.

    Where the tasks are CORE's 22, each file must be CORE's own. The examples of another bundle are checked one by one.
    UserError names the file, and the line that is wrong.
    """
    path, file = Path(path).expanduser(), "the bundle"
    if not path.exists():
        give = f"give a folder or zip with core.yaml, or fetch CORE's with: {DOWNLOAD}"
        raise UserError(f"evaluation bundle {path} does not exist; {give}")
    try:
        read, name = opened(path)
        file = "core.yaml"
        config = yaml.safe_load(read(file))
        entries = {str(entry["label"]): entry for entry in config["icl_tasks"]}
        core = set(entries) == set(CORE)
        sha256 = SHA256 | {label: row[-1] for label, row in CORE.items()} if core else {}
        read(file, sha256.get(file, ""))
        file = "eval_meta_data.csv"
        rows = csv.DictReader(io.StringIO(read(file, sha256.get(file, "")).decode()))
        percent = {row["Eval Task"]: row["Random baseline"] for row in rows}
        guess = {label: 0.01 * float(percent[label]) for label in entries}
        if not entries or not all(0 <= value < 1 for value in guess.values()):
            raise ValueError("each task needs a random baseline from 0 to below 100 percent")
        tasks = []
        for label, entry in entries.items():
            kind, shots, file = entry["icl_task_type"], entry["num_fewshot"][0], f"eval_data/{entry['dataset_uri']}"
            gap = entry.get("continuation_delimiter", " ")
            examples = examples_of(read(file, sha256.get(label, "")), kind, shots, check=not core)
            tasks.append(Task(label, kind, shots, gap, guess[label], examples))
    except Exception as e:  # a damaged zip, YAML, CSV or JSON file can raise anything
        raise UserError(f"evaluation bundle {path}: {file}: {problem(e)}; fetch CORE's with: {DOWNLOAD}") from None
    name = "CORE" if core else str(config.get("name", name))
    if not core and name.strip().upper() == "CORE":
        raise UserError(f"the bundle {path} calls itself CORE, but CORE has exactly 22 tasks; change name in core.yaml")
    return Bundle(name, "DCLM v1" if core else str(config.get("baselines", "its own")), tasks)
