"""Make .venv from nothing, or bring it up to date: `make setup` runs this with the Python it found. Standard library
only.

Versions come from the lock files, with hashes. On Linux the package index's torch is the CUDA build with several GB of
libraries, so a machine without an NVIDIA GPU takes PyTorch's public CPU build instead; set TORCH_INDEX to another
address to take it from there, or to nothing to have the index's build in any case.

A stamp inside .venv says what it was made from. When that still holds, nothing is done; when a lock file has changed,
packages are replaced in place; when a set-up was cut short or the folder was moved, .venv is made anew. One set-up runs
at a time.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "set-up-is-complete"  # its place and what it was made from; empty while a set-up is under way
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
INPUTS = ("pyproject.toml", "requirements.lock", "requirements-torch.lock", "requirements-cuda.lock", "tools/setup.py")
START = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - START:4.0f} s] {text}", flush=True)


def need(ok: bool, text: str) -> None:
    if not ok:
        sys.exit(f"set-up stopped: {text}")


def pip(*args: str, warnings: bool = True) -> bool:
    """Run pip in .venv; warnings=False hides them, and errors, where a failure is expected or is told otherwise."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", *args]
    return subprocess.run(command, cwd=ROOT, stderr=None if warnings else subprocess.DEVNULL).returncode == 0


def output(*args: str) -> str:
    """What a command of .venv's Python prints, without the line end; empty when it fails."""
    result = subprocess.run([PYTHON, *args], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return result.stdout.strip() if result.returncode == 0 else ""


def make_venv() -> None:
    say(f"making {VENV} with Python {platform.python_version()}")
    try:
        if VENV.exists():
            PYTHON.unlink(missing_ok=True)  # first, so that half a deletion is not taken for an environment
            shutil.rmtree(VENV)
        VENV.mkdir()
        STAMP.write_text("", encoding="utf-8")
        venv.create(VENV, with_pip=True)
    except (subprocess.CalledProcessError, OSError) as error:
        version = ".".join(platform.python_version().split(".")[:2])
        mend = f"on Debian and Ubuntu: sudo apt install python{version}-venv"
        need(False, f"Python could not make a virtual environment ({error}); {mend}")


def main() -> None:
    too_old = f"Python {platform.python_version()} is too old; 3.11 or newer is needed: make setup PYTHON=python3.12"
    need(sys.version_info >= (3, 11), too_old)
    intel_mac = sys.platform == "darwin" and platform.machine() == "x86_64"
    no_build = "PyTorch has no build for this Python, one for Intel Macs; with Apple silicon install an arm64 Python"
    need(not intel_mac, no_build)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a read-only clone, or a file system without locks
            # to write, because NFS does not lock a file that is open to read
            lock = stack.enter_context(open(ROOT / "pyproject.toml", "a", encoding="utf-8"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another set-up of this folder to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
        set_up()


def set_up() -> None:
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in INPUTS)).hexdigest()
    state = f"{VENV}\n{digest}\n"
    # None: nothing there, or an environment made by hand
    before = STAMP.read_text(encoding="utf-8") if STAMP.exists() else None
    if before == state and PYTHON.exists():
        print(f"{VENV} is up to date")
        return
    cut_short_or_moved = before is not None and not before.startswith(f"{VENV}\n")
    has_pip = any(VENV.glob("lib/python3*/site-packages/pip/__main__.py"))
    if cut_short_or_moved or not PYTHON.exists() or not has_pip:
        make_venv()
    STAMP.write_text("", encoding="utf-8")

    mend = "check the connection to your package index, then run the same again"
    unreachable = f"packages could not be installed (see above); {mend}"
    say("installing the packages of requirements.lock")
    need(pip("install", "--quiet", "--require-hashes", "-r", "requirements.lock"), unreachable)

    torch = ["install", "--require-hashes", "--no-deps", "-r", "requirements-torch.lock"]
    cpu_only = sys.platform == "linux" and not shutil.which("nvidia-smi") and TORCH_INDEX
    say(f"installing torch, the CPU build of {TORCH_INDEX}" if cpu_only else "installing torch")
    if not (cpu_only and pip(*torch, "--index-url", TORCH_INDEX, "--retries", "0", "--timeout", "15", warnings=False)):
        if cpu_only:
            say(
                "the CPU build cannot be had there; taking the build of your package index, "
                "which may need several GB of CUDA libraries"
            )
        need(pip(*torch), unreachable)
    cuda = output("-c", "import importlib.metadata as m; print('+cpu' not in m.version('torch'))") == "True"
    if sys.platform == "linux" and cuda:
        say("installing the CUDA libraries of requirements-cuda.lock, several GB")
        need(pip("install", "--require-hashes", "--no-deps", "-r", "requirements-cuda.lock"), unreachable)

    package = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", "."]
    ask = f"`{PYTHON} -m pip {' '.join(package)}` says why"
    need(pip(*package, warnings=False), f"gpt2course could not be installed; {ask}")  # the backend warns at length
    # The kernel's description lies inside .venv and names .venv's Python by its full path, so Jupyter, papermill and
    # nbval find this environment without anything in the home folder, and never another one.
    kernel = ["-m", "ipykernel", "install", "--sys-prefix", "--name", "gpt2course", "--display-name", "gpt2course"]
    need(output(*kernel) != "", "the Jupyter kernel could not be registered inside .venv (see above)")
    need(pip("check"), "the installed packages do not fit together (see above); run: make clean setup")
    ask = "import gpt2course, platform, torch; print(f'Python {platform.python_version()}, torch {torch.__version__}')"
    versions = output("-c", ask)
    need(versions != "", "torch or gpt2course cannot be imported (see above)")
    STAMP.write_text(state, encoding="utf-8")
    say(f"{VENV} is ready: {versions}")
    say("commands that begin with python, papermill or torchrun need it: source .venv/bin/activate")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("set-up interrupted; the same command begins it anew")
