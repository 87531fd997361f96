"""Every command of the two READMEs is run, and every link of the README and the troubleshooting page leads somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2course.ops.parameters import Params
from gpt2course.recipes import PROFILES

ROOT = Path(__file__).resolve().parents[2]
README, RUNBOOKS = ((ROOT / p).read_text(encoding="utf-8") for p in ("README.md", "runbooks/README.md"))
BLOCKS = re.findall(r"```bash\n(.*?)```", README + RUNBOOKS, re.S)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("python -m")]
COMMANDS = [c for c in COMMANDS if "ops.runbook" not in c]  # stop needs a run of the notebook: tests/ops/test_runbook.py
TINY = ["--set", "width=32", "head_dim=16", "sequence_len=64", "batch_tokens=512", "steps=3", "eval_bytes=1000", "vocab_size=512"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return {**os.environ, "GPT2COURSE_HOME": str(tmp_path_factory.mktemp("home")), "COLUMNS": "120"}


def test_the_readme_names_the_commands():
    modules = {c.split()[2].removeprefix("gpt2course.") for c in COMMANDS}
    assert {"data", "tokenizer", "recipes", "train", "evaluate", "fast.core_fast", "sample", "ops.export", "ops.leaderboard"} <= modules


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_runs(command, home):
    """In the README's order; only training is made small, and a prompt is given where a person would type one."""
    argv = [sys.executable, *shlex.split(command)[1:]]
    argv += TINY if ".train" in command else ["--vocab-size", "512"] if ".tokenizer" in command else []
    done = subprocess.run(argv, cwd=ROOT, env=home, input="Hello\n\n", capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 40


def test_every_link_leads_somewhere_and_the_troubleshooting_page_stays_short():
    page = (ROOT / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README + page):
        assert (ROOT / target).exists(), target
    assert page.count("\n") <= 240


def test_the_parameters_of_make_speedrun_are_those_of_the_runbook():
    """The command for a rented node cannot be run here; its parameters are checked as the runbook checks them."""
    lines = [line for block in BLOCKS for line in block.splitlines() if line.startswith("make speedrun") and "PARAMETERS" in line]
    assert lines
    for line in lines:
        profile, given = re.search(r"PROFILE=(\w+)", line)[1], shlex.split(re.search(r'PARAMETERS="(.*)"', line)[1])
        assert profile in PROFILES and set(given[::3]) == {"-r"}
        Params.from_namespace(dict(profile=profile, **dict(zip(given[1::3], given[2::3]))))
