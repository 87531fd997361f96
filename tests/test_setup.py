"""The set-up: one list of dependencies, locked with hashes, and commands that exist."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED = [Requirement(r) for r in PROJECT["dependencies"] + EXTRAS["course"] + EXTRAS["dev"]]
LOCKS = {name: (ROOT / name).read_text() for name in ("requirements.lock", "requirements-torch.lock", "requirements-cuda.lock")}


def locked(text: str) -> dict[str, list[tuple[Requirement, int]]]:
    """package -> [(its line, number of hashes)]; a package may stand there for several Pythons."""
    found = {}
    for block in re.split(r"\n(?=[a-z0-9])", text.split("\n", 1)[1].strip()):
        requirement = Requirement(block.split("\\\n")[0].strip())
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, block.count("--hash=sha256:")))
    return found


def version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_line_is_one_version_with_hashes(name):
    for lines in locked(LOCKS[name]).values():
        for requirement, hashes in lines:
            assert version(requirement) and hashes >= 1, requirement
    assert not re.search(r"https?://|find-links|index-url", LOCKS[name])


def test_torch_is_locked_with_the_public_cpu_builds():
    ((torch, hashes),) = locked(LOCKS["requirements-torch.lock"])["torch"]
    assert version(torch) == "2.13.0" and hashes >= 20
    assert "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b" in LOCKS["requirements-torch.lock"]


def test_every_dependency_is_locked_at_a_version_it_allows():
    everything = locked(LOCKS["requirements.lock"]) | locked(LOCKS["requirements-torch.lock"])
    for requirement in INSTALLED:
        lines = everything[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version(line), prereleases=True) for line, _ in lines), requirement
    gpu = locked(LOCKS["requirements-cuda.lock"])
    assert "flash-attn-4" in gpu and "triton" in gpu and not any(name.startswith(("nvidia-", "triton")) for name in everything)


def test_the_lock_is_complete():
    """Whatever an installed locked package requires is locked too: nothing is resolved anew at set-up."""
    from importlib.metadata import PackageNotFoundError, requires

    everything = {name for text in LOCKS.values() for name in locked(text)}
    for name in everything:
        try:
            needed = [Requirement(r) for r in requires(name) or []]
        except PackageNotFoundError:  # of another platform
            continue
        for r in needed:
            if r.marker is None or r.marker.evaluate({"extra": ""}):
                assert canonicalize_name(r.name) in everything, f"{name} needs {r}"


def test_conda_gives_the_same_environment():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in conda["dependencies"] if isinstance(d, dict)]
    assert sorted(r for r in pip if not r.startswith("--")) == sorted(map(str, PROJECT["dependencies"] + EXTRAS["course"] + EXTRAS["dev"]))
    assert "--editable ." in pip and any(str(d).startswith("python>=3.11") for d in conda["dependencies"])
    assert PROJECT["requires-python"] == ">=3.11"


def test_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"\.PHONY: (.*)", makefile)[1].split()
    assert {"setup", "speedrun", "test", "lab", "help", "clean"} <= set(targets)
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in targets:
        assert re.search(rf"^make {target} +\S", printed, re.M), target


def test_the_gate_runs_the_readmes_test_command():
    block = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    commands = [line.split("#")[0].strip() for line in block.splitlines()]
    assert commands == ["make speedrun", "make test"]
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text(), re.M)


def test_set_up_does_nothing_when_it_is_complete_and_names_what_is_wrong(tmp_path):
    run = subprocess.run(["make", "setup", "PYTHON="], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0 and "no Python 3.11 or newer found" in run.stdout
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexec python3 -c 'import sys, runpy; sys.version_info = (3, 8, 0); sys.version = \"3.8.0 (old)\"; sys.argv = [\"tools/setup.py\"]; runpy.run_path(\"tools/setup.py\", run_name=\"__main__\")'\n")  # fmt: skip
    old.chmod(0o755)
    run = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0 and "Python 3.8.0 is too old; 3.11 or newer is needed" in run.stderr


def test_no_line_of_this_project_names_a_place_of_one_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yml", ".csv", ".json", ".jsonl", ".ipynb", ".lock") and path.name != "test_setup.py":
            assert not re.search(r"/(home|root|work|Users)/\w", path.read_text()), name
