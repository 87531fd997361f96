"""The troubleshooting page: its commands exist, its links lead somewhere, and it stays a page."""

import dataclasses
import functools
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("python -m gpt2course")}))
def test_every_command_of_the_page_is_understood(command):
    _, _, module, *argv = shlex.split(command)
    main = importlib.import_module(module).main
    parameters = list(inspect.signature(main).parameters.values())
    one = len(parameters) == 1 and dataclasses.is_dataclass(parameters[0].annotation)
    parse = parameters[0].annotation if one else functools.wraps(main)(lambda *a, **k: None)
    tyro.cli(parse, args=argv, config=(tyro.conf.OmitArgPrefixes,))  # SystemExit where an option does not exist


def test_every_make_target_of_the_page_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = [word for c in COMMANDS if c.startswith("make ") for word in c.split()[1:] if "=" not in word]
    assert named and set(named) <= targets


def test_links_and_length():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", PAGE):
        assert (ROOT / target).exists(), target
    assert PAGE.count("\n") <= 240
