"""The bundle of CORE: 22 tasks as files, downloaded once, read in place and checked to the last byte. Lesson 10 builds
on it.

    python -m gpt2course.core_tasks

A bundle is a folder or a zip with core.yaml (the tasks), eval_meta_data.csv (their baselines) and eval_data/. That of
CORE is nanochat's (karpathy/nanochat, MIT); it holds more files than CORE needs, so what is checked is not the zip but
each file that is read, against the list below. Another bundle may be scored in the same way, but not under CORE's name.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

import tyro
import yaml

from gpt2course.ops.download import fetch
from gpt2course.files import UserError, command, home, shown
from gpt2course.files import sha256 as digest_of

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"  # where nanochat has it from
VARIABLE = "GPT2COURSE_CORE_BUNDLE"
AGAIN = "get the bundle again"
LARGEST = 200_000_000  # bytes of a member; the largest of CORE has 18,588,497
MINI = Path(__file__).with_name("core_bundle")  # our own small bundle, packaged with the code: mini-CORE

# The 22 tasks in CORE's order: baseline in percent (DCLM v1), then the centred scores of the four GPT-2 models as
# nanochat's bundle gives them (openai-community-gpt2*.csv). Small was scored on all examples, the others on at most
# 1,000 a task.
GPT2 = ("GPT-2 small", "GPT-2 medium", "GPT-2 large", "GPT-2 XL")
CORE = {
    "hellaswag_zeroshot": (25, 0.078006, 0.186667, 0.253333, 0.336000),
    "jeopardy": (0, 0.001889, 0.044000, 0.045000, 0.092000),
    "bigbench_qa_wikidata": (0, 0.282663, 0.428000, 0.480000, 0.531000),
    "arc_easy": (25, 0.216611, 0.306667, 0.380000, 0.460000),
    "arc_challenge": (25, -0.037543, 0.016000, 0.018667, 0.065333),
    "copa": (50, 0.200000, 0.320000, 0.340000, 0.340000),
    "commonsense_qa": (20, 0.030508, -0.005000, 0.087500, 0.033750),
    "piqa": (50, 0.245919, 0.340000, 0.396000, 0.450000),
    "openbook_qa": (25, 0.037333, 0.077333, 0.090667, 0.128000),
    "lambada_openai": (0, 0.322919, 0.426000, 0.488000, 0.523000),
    "hellaswag": (25, 0.077209, 0.193333, 0.258667, 0.349333),
    "winograd": (50, 0.157509, 0.311355, 0.377289, 0.428571),
    "winogrande": (50, -0.027624, 0.042000, 0.082000, 0.138000),
    "bigbench_dyck_languages": (0, 0.155000, 0.170000, 0.225000, 0.247000),
    "agi_eval_lsat_ar": (20, 0.032609, 0.038043, 0.070652, 0.092391),
    "bigbench_cs_algorithms": (0, 0.419697, 0.456000, 0.440000, 0.417000),
    "bigbench_operators": (0, 0.085714, 0.100000, 0.114286, 0.157143),
    "bigbench_repeat_copy_logic": (0, 0.031250, 0.062500, 0.062500, 0.093750),
    "squad": (0, 0.058278, 0.169000, 0.235000, 0.309000),
    "coqa": (0, 0.133659, 0.227000, 0.230000, 0.280000),
    "boolq": (62, -0.178175, -0.036842, -0.139474, -0.002632),
    "bigbench_language_identification": (9.1, 0.182178, 0.195820, 0.187019, 0.174917),
}
GPT2_CENTRED = {model: {label: row[m] for label, row in CORE.items()} for m, model in enumerate(GPT2, 1)}
GPT2_MEANS = (0.113891, 0.184903, 0.214641, 0.256525)  # the last is the bar of the whole course
DCLM_V1 = {label: row[0] for label, row in CORE.items()}
DCLM_V2 = DCLM_V1 | {
    "commonsense_qa": 40.3,
    "bigbench_language_identification": 25,
    "agi_eval_lsat_ar": 25,
}  # DCLM issue #114

FIELDS = {  # what an example of each kind of task holds
    "multiple_choice": ("query", "choices", "gold"),  # which choice follows the query?
    "schema": ("context_options", "continuation", "gold"),  # after which context is the continuation likely?
    "language_modeling": ("context", "continuation"),  # is the continuation what the model would write?
}

# The files that CORE needs, and nanochat's results of the four GPT-2 models, with their sha256; those in folders lie
# below eval_data/. Both hellaswag tasks read one file. The data files are byte for byte those of mosaicml/llm-foundry
# at commit 8c8dd48, scripts/eval/local_data, and eval_meta_data.csv is mlfoundations/dclm's eval/eval_meta_data_v1.csv.
LIST = """
463f6ae0aa127fbd41fa655f8919e136858f4849eef176922a3be96e102ce7e7 core.yaml
84e279cdc0d836c9ea3a6e55a99102f8ee18f72809fe7aa6ac5a1fe630aa492f eval_meta_data.csv
ee79a88dc99126fb609f71b94b73c0baf8849494b19834222a7c12f086b39990 openai-community-gpt2-large.csv
9f4b9ca80cf26944f051250b16aa0e5d8d162d493e03f2521a80da3fcca63c48 openai-community-gpt2-medium.csv
09be65b165b2510bd6003e999572613d69b9863b797ffb7090180b30cd43ae4d openai-community-gpt2-xl.csv
d37cf6f03a5b554f32dcb415f4c7ec25750da046fdb0ce0d6224ac3f4a2d44d0 openai-community-gpt2.csv
2771f63f8127c0725b1f6b0ef2cd2ef6469168ae5875fc8d276b25b4f32c8c1a commonsense_reasoning/commonsense_qa.jsonl
595dca44dec54c849490bd403a3e24a29e3b944065783222ebb0eb1a55298846 commonsense_reasoning/copa.jsonl
adb2e5c7f8db810ddad4d6b2bf53dcc86dcc545499f7aafcaf42a8e179476c09 commonsense_reasoning/openbook_qa.jsonl
d2870e73aec5154df3faf259b7700876e11608eebdf69e9d6667435673dbe4e0 commonsense_reasoning/piqa.jsonl
80c98d8e7ab8213513d1643886229c05c40a6837353b07c19ac7bd860668954e language_understanding/bigbench_language_identification.jsonl
52a31d32b14dff7713a705be664cbeff77eb66edcf7f8b0a5e9408633929b448 language_understanding/hellaswag.jsonl
411bfbe5b9054346b6a19299c0242670adbefb9162efd958593cbc0290b8c9dc language_understanding/lambada_openai.jsonl
746336c27cd2e39a554cb1b8b4869d0f1ae2577ac5bfe799842d26bca5a5bf5e language_understanding/winograd_wsc.jsonl
ea1592526f3bfdd0948ed3acb1b4dfa3f83d23698917118688ee1df7f8d4b8d7 language_understanding/winogrande.jsonl
454ff101e614370bb1807fe7ebbda6fdb57e794b9662cc1ccae211bf1ff626c8 reading_comprehension/boolq.jsonl
0c2b8029776a138f755d065b9506eb8e91bbd38c44dce321a75f9987bb7875aa reading_comprehension/coqa.jsonl
41fe6c43e725c0dc9161465066932c46edc390bf4019c361c500bbc4b766a350 reading_comprehension/squad.jsonl
9ffd73480b51746c11627e56239f8b87035eb255cb92c3a58fd64e2e4b65fb56 symbolic_problem_solving/agi_eval_lsat_ar.jsonl
8485683a8c7e7e6c9fc6ca3cc81140fd85edb27f34406a6736d1539cf7ebcb3a symbolic_problem_solving/bigbench_cs_algorithms.jsonl
106ba9ac7507c7ab385c5e59c49cd57aa83025abf080d9b2a2661c0d6c6dbcc5 symbolic_problem_solving/bigbench_dyck_languages.jsonl
41e2964ad619c49edd97c22b2c50f922a0241255d906a754bf81a20f4f66b85f symbolic_problem_solving/bigbench_operators.jsonl
8febd2c0080a15680cd17f92bfa30d87abcfac021e646e55d0b8ad69f0cfa767 symbolic_problem_solving/bigbench_repeat_copy_logic.jsonl
1ae3aeedf1951d881cbd5c2e3a31e78a1993d251479afbe4cb413b6707244636 world_knowledge/arc_challenge.jsonl
d2d12e59543acf9a5ef6079634a72b30215e36c2fd4236fff3bc855d287b87f5 world_knowledge/arc_easy.jsonl
bb0d22727cb25beffb022c8e8c0c3e1159c8b3c7bd7284603c0d6491f8616265 world_knowledge/bigbench_qa_wikidata.jsonl
187e7f270a440c63d6cf11a57459fdc7e0bce889338225e42cc88e24ee13d52e world_knowledge/jeopardy_all.jsonl
"""
SHA256 = {
    f"eval_data/{name}" if "/" in name else name: digest for digest, name in map(str.split, LIST.strip().splitlines())
}

SOURCES = (
    "tasks, prompts and baselines: DCLM (arXiv 2406.11794; mlfoundations/dclm, MIT)",
    f"bundle: karpathy/nanochat (MIT), {URL}",
    "data files: as in mosaicml/llm-foundry, scripts/eval/local_data (Apache-2.0); the data sets have licences of their own, "
    "of which these are known: HellaSwag MIT, SQuAD CC BY-SA 4.0",
)


# ---- the bundle: read and checked


@dataclass(frozen=True)
class Task:
    """One task of a bundle, its examples in the order of the file."""

    label: str
    kind: str  # multiple_choice, schema or language_modeling
    num_fewshot: int  # solved examples shown before the question
    delimiter: str  # stands between a question and its answer
    random_baseline: float  # accuracy of a guesser, as a fraction
    examples: list[dict]  # the fields of FIELDS[kind]
    sha256: str = ""  # of its data file
    draw: int = 0  # which draw of the few-shot examples; 0 is the published one


@dataclass(frozen=True)
class Bundle:
    """The tasks chosen from a bundle, and what their mean may be called."""

    name: str  # "CORE" for its 22 tasks, "CORE v2" with DCLM's later baselines, "mini-CORE" for our own, else the bundle's name
    baselines: str  # "DCLM v1", "DCLM v2", or what the bundle says of its own
    labels: tuple[str, ...]  # all tasks of the bundle
    tasks: list[Task]


def escapes(name: str) -> bool:
    """Whether a path inside a bundle would lead out of it, on any system."""
    path = PureWindowsPath(name)  # splits at / and at \, and knows drives
    return bool(path.drive or path.root or ".." in path.parts)


@contextlib.contextmanager
def bundle_root(path):
    """Yield (folder that holds core.yaml, its name) of a bundle folder or zip; a zip is read in place, nothing is
    unpacked."""
    path = Path(path).expanduser()
    if path.is_dir():
        yield path, path.resolve().name
    elif not path.exists():
        raise UserError(
            f"evaluation bundle {path} does not exist; give a folder or zip with core.yaml, or {MINI} for mini-CORE"
        )
    elif not zipfile.is_zipfile(path):
        raise UserError(f"evaluation bundle {path} is neither a folder nor a zip; give a folder or zip with core.yaml")
    else:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for info in archive.infolist():
                wrong = (
                    "leads out of it" if escapes(info.filename)
                    else "stands in it twice" if names.count(info.filename) > 1
                    else "is a link" if stat.S_ISLNK(info.external_attr >> 16)
                    else "needs a password" if info.flag_bits & 1
                    else "is packed in a way of its own" if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                    else None
                )  # fmt: skip
                if wrong:
                    what = f"evaluation bundle {path} has a member {info.filename!r} that {wrong}"
                    raise UserError(f"{what}; do not use this file, {AGAIN}")
            found = [name for name in names if name == "core.yaml" or name.endswith("/core.yaml")]
            if len(found) != 1:
                raise UserError(
                    f"evaluation bundle {path} holds {len(found)} files core.yaml, must be one; get the bundle again"
                )
            parent = found[0].removesuffix("core.yaml")
            yield zipfile.Path(archive, parent), parent.rstrip("/").split("/")[-1] or path.stem


def wrong_field(kind: str, example) -> str | None:
    """What is wrong with an example, or None."""
    if not isinstance(example, dict):
        return "is not a JSON object"
    options = example.get("choices" if kind == "multiple_choice" else "context_options")
    for field in FIELDS[kind]:
        value = example.get(field)
        if field in ("choices", "context_options"):
            fine, allowed = isinstance(value, list) and len(value) >= 2, "a list of at least two non-empty texts"
            fine = fine and all(isinstance(text, str) and text.strip() for text in value)
        elif field == "gold":
            fine, allowed = (
                type(value) is int and 0 <= value < len(options),
                f"a whole number from 0 to {len(options) - 1}",
            )
        elif field == "continuation":
            fine, allowed = isinstance(value, str) and bool(value.strip()), "a non-empty text"
        else:
            fine, allowed = isinstance(value, str), "a text"
        if not fine:
            return f"field {field!r} is {repr(value)[:60] if field in example else 'missing'}, must be {allowed}"
    return None


def member(root, name: str) -> bytes | None:
    """The bytes of a file of a bundle, None if there is none; never more than LARGEST, whatever a zip says or holds."""
    if not (root / name).is_file():
        return None
    with (root / name).open("rb") as f:
        data = f.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UserError(
            f"{name} in the evaluation bundle has more than {LARGEST:,} bytes; do not use this bundle, {AGAIN}"
        )
    return data


def genuine(name: str, found: str, problem: str | None = None) -> None:
    """Raise UserError unless CORE's file has this sha256; `problem` says what else is known to be wrong with it."""
    if found != SHA256.get(name):
        raise UserError(f"{name} is not that of CORE: its sha256 is {found}, must be {SHA256.get(name)}"
                        f"{f' ({problem})' if problem else ''}; {AGAIN}, with python -m gpt2course.core_tasks, "
                        "or give the tasks of a bundle of your own other labels")  # fmt: skip


def load_examples(root, uri: str, label: str, kind: str, num_fewshot: int, core: bool) -> tuple[list[dict], str]:
    """(checked examples of a task, sha256 of their file); an error names task, file, line. core: only CORE's own will
    do."""
    file, examples, problem = f"eval_data/{uri}", [], None
    data = None if escapes(uri) else member(root, file)
    if data is None:
        raise UserError(f"task {label}: {file} is not in the bundle; {AGAIN} or mend dataset_uri in core.yaml")
    for number, line in enumerate(
        io.BytesIO(data), 1
    ):  # bytes: a line ends at \n alone, whatever else stands in the text
        try:
            wrong = wrong_field(kind, example := json.loads(line.decode("utf-8")))
        except (ValueError, RecursionError) as e:  # JSON or UTF-8
            wrong = f"is not a JSON object in UTF-8 ({e})"
        if wrong:
            problem = f"line {number}: {wrong}; {AGAIN} or mend the line"
            break
        examples.append(example)
    if not problem and len(examples) <= num_fewshot:
        problem = (f"ends at line {len(examples)}, but {num_fewshot} shots need at least {num_fewshot + 1} examples; "
                   f"{AGAIN} or lower num_fewshot in core.yaml")  # fmt: skip
    digest = hashlib.sha256(data).hexdigest()
    try:
        if core:
            genuine(file, digest, problem and problem.partition("; ")[0])
        if problem:
            raise UserError(f"{file} {problem}")
    except UserError as e:
        raise UserError(f"task {label}: {e}") from None
    return examples, digest


def load_config(root, where) -> dict:
    """core.yaml, with every task entry checked."""
    data = member(root, "core.yaml")
    if data is None:
        raise UserError(
            f"{where} holds no core.yaml, so it is no evaluation bundle; give a folder or zip with core.yaml"
        )
    try:
        config = yaml.safe_load(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise UserError(f"{where}: core.yaml is not YAML ({' '.join(str(e).split())}); get the bundle again") from None
    entries = config.get("icl_tasks") if isinstance(config, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{where}: core.yaml has no list 'icl_tasks'; get the bundle again")
    shots = lambda v: isinstance(v, list) and v and type(v[0]) is int and v[0] >= 0  # noqa: E731
    rules = {
        "label": (lambda v: isinstance(v, str) and v, "a text"),
        "dataset_uri": (lambda v: isinstance(v, str) and v, "a path below eval_data/"),
        "num_fewshot": (shots, "a list of one whole number"),
        "icl_task_type": (lambda v: v in list(FIELDS), f"one of {', '.join(FIELDS)}"),
        "continuation_delimiter": (lambda v: isinstance(v, str), "a text"),
    }
    seen = set()
    for number, entry in enumerate(entries, 1):
        label = entry.get("label", f"number {number}") if isinstance(entry, dict) else f"number {number}"
        for key, (fine, allowed) in rules.items():
            value = (
                entry.get(key, " " if key == "continuation_delimiter" else None) if isinstance(entry, dict) else None
            )
            if not fine(value):
                raise UserError(f"task {label}: core.yaml: {key} is {value!r}, must be {allowed}; get the bundle again")
        if label in seen:
            raise UserError(f"task {label}: core.yaml names it twice; labels must differ")
        seen.add(label)
    return config


def load_baselines(root, where, labels) -> dict[str, float]:
    """Baselines in percent from eval_meta_data.csv, for the tasks named."""
    data = member(root, "eval_meta_data.csv")
    if data is None:
        raise UserError(f"{where} holds no eval_meta_data.csv with the baselines; get the bundle again")
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
        column = {row.get("Eval Task"): row.get("Random baseline") for row in rows}
    except (csv.Error, UnicodeDecodeError) as e:
        raise UserError(f"{where}: eval_meta_data.csv is not a table in UTF-8 ({e}); get the bundle again") from None
    percent = {}
    for label in labels:
        with contextlib.suppress(TypeError, ValueError):  # no row, no such column, or not a number
            percent[label] = float(column.get(label))
        if not 0 <= percent.get(label, -1) < 100:
            raise UserError(
                f"task {label}: eval_meta_data.csv: Random baseline is {column.get(label) or 'missing'}, "
                "must be a percentage from 0 to below 100; get the bundle again"
            )
    return percent


def read_bundle(path, tasks=None, baselines: str = "v1") -> Bundle:
    """Read a bundle (folder or zip in nanochat's layout: core.yaml, eval_meta_data.csv, eval_data/) and check all of
    it.

    Where its tasks are CORE's 22, every file read must be CORE's own, byte for byte (SHA256). A second for the whole of
    CORE.
    Args: tasks chooses some tasks by label (the others' data are not read); baselines "v2" centres CORE by DCLM's later
    ones. Raises UserError naming the task, file and line.
    """
    if baselines not in ("v1", "v2"):
        raise UserError(
            f"baselines = {shown(baselines)} is not allowed; it must be v1 (what published CORE scores use) or v2"
        )
    try:
        with bundle_root(path) as (root, name):
            config = load_config(root, path)
            entries = {entry["label"]: entry for entry in config["icl_tasks"]}
            core = set(entries) == set(CORE)
            for file in SHA256 if core else ():
                if "/" not in file and (data := member(root, file)) is not None:  # those of the tasks below
                    genuine(file, hashlib.sha256(data).hexdigest())
            percent = load_baselines(root, path, entries)
            if unknown := [label for label in tasks or () if label not in entries]:
                raise UserError(f"task {unknown[0]} is not in {path}; it has {', '.join(entries)}")
            percent = DCLM_V2 if core and baselines == "v2" else percent
            chosen = []
            for label, entry in entries.items():
                if tasks and label not in tasks:
                    continue
                kind, shots = entry["icl_task_type"], entry["num_fewshot"][0]
                examples, digest = load_examples(root, entry["dataset_uri"], label, kind, shots, core)
                gap = entry.get("continuation_delimiter", " ")
                chosen.append(Task(label, kind, shots, gap, 0.01 * percent[label], examples, digest))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, OSError) as e:
        if (
            isinstance(e, OSError) and e.errno != errno.EINVAL
        ):  # which zipfile gives for a place before the beginning of the file
            raise
        raise UserError(f"evaluation bundle {path} cannot be read ({e}); {AGAIN}") from None
    if core:
        return Bundle("CORE" if baselines == "v1" else "CORE v2", f"DCLM {baselines}", tuple(entries), chosen)
    name = str(config.get("name", name))
    if name.strip().upper() in ("CORE", "CORE V2"):
        raise UserError(f"{path} calls itself {name}, but CORE has exactly 22 tasks; give it another name in core.yaml")
    if baselines != "v1":
        raise UserError(
            f"baselines = {baselines!r} is for CORE, and {path} is {name}, with baselines of its own; leave it out"
        )
    return Bundle(name, str(config.get("baselines", "the bundle's own")), tuple(entries), chosen)


def load_bundle(path) -> list[Task]:
    """The tasks of a bundle, checked; see `read_bundle`."""
    return read_bundle(path).tasks


# ---- where it is


def given() -> str | None:
    """The bundle that GPT2COURSE_CORE_BUNDLE names."""
    return os.environ.get(VARIABLE, "").strip() or None


def default_bundle() -> Path:
    """The bundle of GPT2COURSE_CORE_BUNDLE, else CORE's under home()/eval if it is there (folder or zip), else the
    small one."""
    if named := given():
        return Path(named).expanduser()
    found = [path for path in (home() / "eval" / "eval_bundle", home() / "eval" / "eval_bundle.zip") if path.exists()]
    return found[0] if found else MINI


def check_core(path) -> None:
    """Raise UserError unless this is the bundle of CORE, whole."""
    bundle = read_bundle(path)
    if bundle.name != "CORE":
        raise UserError(
            f"{path} is the bundle {bundle.name} with {len(bundle.labels)} tasks, must be CORE with its {len(CORE)}"
        )


def ensure_bundle(path=None, progress=None) -> Path:
    """Where the bundle of CORE is: `path` or GPT2COURSE_CORE_BUNDLE (a folder or zip), else home()/eval.

    It is downloaded once, and used only if every file that CORE needs is genuine; the hash of the zip is then kept
    beside it.
    Errors: UserError for a bundle that is not there or cannot be opened, and as `download.fetch`. `read_bundle` checks
    the rest.
    """
    if path or given():
        path = Path(path or given()).expanduser()
        with bundle_root(path):
            return path
    if (folder := home() / "eval" / "eval_bundle").is_dir():
        return folder
    return fetch(URL, home() / "eval" / "eval_bundle.zip", check=check_core, progress=progress)


def main(path: tyro.conf.Positional[str] = "", baselines: Literal["v1", "v2"] = "v1") -> None:
    """Download the bundle of CORE once, check every file that CORE needs, and list its tasks.

    It goes to $GPT2COURSE_HOME/eval. GPT2COURSE_CORE_BUNDLE names a copy to use instead, GPT2COURSE_MIRROR a mirror to
    ask.

    Args:
        path: A folder or zip to check and list; none is CORE's.
        baselines: Of DCLM: v1, which all published CORE scores use, or v2.
    """
    path = ensure_bundle(path)
    bundle = read_bundle(path, baselines=baselines)
    width = max(len(task.label) for task in bundle.tasks)
    print(f"{'task':{width}}  {'kind':17} {'shots':>5} {'guess':>6} {'examples':>8}  sha256 of its file")
    for task in bundle.tasks:
        line = f"{task.label:{width}}  {task.kind:17} {task.num_fewshot:5} {task.random_baseline:6.3f} {len(task.examples):8,}"
        print(f"{line}  {task.sha256}")
    total = sum(len(task.examples) for task in bundle.tasks)
    print(
        f"{bundle.name}: {len(bundle.tasks)} tasks, {total:,} examples, baselines {bundle.baselines}, all checked: {path}"
    )
    if path.is_file():
        print(f"the zip: {path.stat().st_size:,} bytes, sha256 {digest_of(path)}")
    if bundle.name.startswith("CORE"):
        print("\n".join(SOURCES))


if __name__ == "__main__":
    command(main)
