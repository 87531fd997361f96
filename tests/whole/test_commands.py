"""Every command's --help is complete, and every command that a text of this project names exists, with its options.

Those of the troubleshooting page are read as a person types them, with their values.
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import io
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

import gpt2course
from gpt2course import files
from gpt2course.recipes import LADDER, PROFILES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(gpt2course.__file__).parent
MODULES = sorted(
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts)
    for p in PACKAGE.rglob("*.py")
    if re.search(r"(?m)^ +(?:return )?(?:files\.)?command\(\w+\)", p.read_text(encoding="utf-8"))
)
PLACES = ["*.md", "Makefile", "gpt2course/**/*.py", "runbooks/*.py", "runbooks/*.md", "launch/*", "lessons/*.py", "solutions/*.py", "tools/*.py"]
TEXTS = {p.relative_to(ROOT): p.read_text(encoding="utf-8") for place in PLACES for p in ROOT.glob(place) if p.is_file() and p.name != "LOG.md"}
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXTS[Path("TROUBLESHOOTING.md")], re.S)
TROUBLE = [line for block in BLOCKS for line in block.splitlines()]


@functools.cache
def help_of(module, *words):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as m, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        m.setattr(sys, "argv", [module, *words, "--help"])
        m.setenv("COLUMNS", "500")
        files.command(importlib.import_module(f"gpt2course.{module}").main)
    return " ".join(out.getvalue().split())


def commands():
    """(module, words, dataclass) of every command line: a module's own settings, or one for each of its words."""
    for module in MODULES:
        first, *_ = [*inspect.signature(importlib.import_module(f"gpt2course.{module}").main).parameters.values(), None]
        if first is None:  # course.mine, which has no options of its own
            continue
        kinds = getattr(first.annotation, "__args__", (first.annotation,))
        for kind in filter(dataclasses.is_dataclass, kinds):
            yield module, [kind.__name__.lower()] if len(kinds) > 1 else [], kind


@pytest.mark.parametrize("module,words,kind", list(commands()), ids=lambda v: v if isinstance(v, str) else None)
def test_help_gives_every_option_with_its_default(module, words, kind):
    text = help_of(module, *words)
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")
    for f in dataclasses.fields(kind):
        option = f"--{f.name.replace('_', '-')}"
        assert option in text or f.name.upper() in text or "positional" in text, option
        if option in text and isinstance(f.default, (int, float, str)) and not isinstance(f.default, bool) and f.default != "":
            assert re.search(rf"{option} [^-].*?\(default: '?{re.escape(str(f.default))}'?\)", text), (option, f.default)


@pytest.mark.parametrize("path", [p for p, text in TEXTS.items() if "-m gpt2course" in text], ids=str)
def test_every_command_that_a_text_names_exists(path):
    for module, rest in re.findall(r"-m gpt2course\.([\w.]*\w)([^`\"'\n\\;)|]*)", TEXTS[path]):
        assert module in MODULES, (module, rest)
        if module == "course.mine" and rest.split() and rest.split()[0] in MODULES:  # runs that command
            module = rest.split()[0]
        for option in re.findall(r"(?<!-)--([a-z]+(?:-[a-z]+)*)", rest.split("#")[0]):
            words = [w for w in re.findall(r"^ ([a-z]+)", rest) if any(m == module and w in ws for m, ws, _ in commands())]
            assert f"--{option}" in help_of(module, *words), (module, option)


@pytest.mark.parametrize("command", sorted({c for c in TROUBLE if c.startswith("python -m gpt2course")}))
def test_every_command_of_the_troubleshooting_page_is_understood(command):
    _, _, module, *argv = shlex.split(command)
    main = importlib.import_module(module).main
    parameters = list(inspect.signature(main).parameters.values())
    one = len(parameters) == 1 and dataclasses.is_dataclass(parameters[0].annotation)
    parse = parameters[0].annotation if one else functools.wraps(main)(lambda *a, **k: None)
    tyro.cli(parse, args=argv, config=(tyro.conf.OmitArgPrefixes,))  # SystemExit where an option does not exist


def test_every_make_target_of_the_troubleshooting_page_exists():
    targets = set(re.findall(r"^([a-z]+):", TEXTS[Path("Makefile")], re.M))
    named = [word for c in TROUBLE if c.startswith("make ") for word in c.split()[1:] if "=" not in word]
    assert named and set(named) <= targets


def test_lists_of_recipes_and_profiles_are_the_ladder_and_the_profiles():
    found = 0
    for path, text in TEXTS.items():
        for pattern, names in ((r"((?:`?\w+`?, ){3,}`?\w+`? or `?record`?)", LADDER), (r"(`?laptop`?, (?:`?\w+`?, )*`?\w+`? or `?\w+`?)", PROFILES)):
            for listed in re.findall(pattern, text):
                found += 1
                assert re.findall(r"\w+", listed.replace(" or ", " ")) == list(names), (path, listed)
    assert found >= 4
