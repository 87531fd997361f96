"""Make .venv from nothing: `make setup` calls this with the Python it found. Only the standard library is used.

Versions come from the lock files, with hashes. On Linux the package index's torch is the CUDA build with several GB of
libraries, so a machine without an NVIDIA GPU takes PyTorch's public CPU build instead. Nothing is done when .venv is up to date;
a set-up that was interrupted is completed the next time.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("VENV", ROOT / ".venv"))
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "set-up-is-complete"
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
INPUTS = ("pyproject.toml", "requirements.lock", "requirements-torch.lock", "requirements-cuda.lock", "tools/setup.py")


def pip(*args: str, hide: bool = False) -> bool:
    """Run pip in .venv; hide: show nothing, because a failure is expected or is told otherwise."""
    out = subprocess.DEVNULL if hide else None
    return subprocess.run([str(PYTHON), "-m", "pip", "--disable-pip-version-check", *args], cwd=ROOT, stdout=out, stderr=out).returncode == 0


def need(ok: bool, text: str) -> None:
    if not ok:
        sys.exit(f"set-up stopped: {text}")


def main() -> None:
    need(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]} is too old; 3.11 or newer is needed: make setup PYTHON=python3.12")
    state = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in INPUTS) + str(ROOT).encode()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == state:
        return
    STAMP.unlink(missing_ok=True)
    if not PYTHON.exists() or not pip("--version", hide=True):  # nothing there, or a half-made environment
        print(f"making {VENV} with Python {sys.version.split()[0]}", flush=True)
        try:
            venv.create(VENV, clear=True, with_pip=True)
        except (subprocess.CalledProcessError, OSError) as e:
            need(False, f"Python could not make a virtual environment ({e}); on Debian and Ubuntu: apt install python3-venv")
    unreachable = "the packages could not be installed (see above); check the connection to your package index, then run the same command again"
    need(pip("install", "--quiet", "--require-hashes", "-r", "requirements.lock"), unreachable)
    torch = ["install", "--quiet", "--require-hashes", "--no-deps", "-r", "requirements-torch.lock"]
    small = sys.platform == "linux" and shutil.which("nvidia-smi") is None and TORCH_INDEX
    if not (small and pip(*torch, "--index-url", TORCH_INDEX, "--retries", "0", "--timeout", "15", hide=True)):
        if small:
            print(f"no CPU build of torch for this Python at {TORCH_INDEX}; taking the CUDA build, several GB (Python 3.11 and 3.12 have one)", flush=True)
        need(pip(*torch), unreachable)
    build = subprocess.run([PYTHON, "-c", "import importlib.metadata as m; print(m.version('torch'))"], capture_output=True, text=True).stdout
    if sys.platform == "linux" and "+cpu" not in build:
        need(pip("install", "--quiet", "--require-hashes", "--no-deps", "-r", "requirements-cuda.lock"), unreachable)
    package = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", "."]  # the build backend warns at length, so its output is hidden
    need(pip(*package, hide=True), f"the package itself could not be installed; `{PYTHON} -m pip {' '.join(package)}` says why")
    kernel = [PYTHON, "-m", "ipykernel", "install", "--sys-prefix", "--name", "gpt2course", "--display-name", "gpt2course"]
    need(subprocess.run(kernel, capture_output=True).returncode == 0, "the Jupyter kernel could not be registered inside .venv")
    need(pip("check"), "the installed packages do not fit together (see above); delete .venv and run `make setup` again")
    STAMP.write_text(state)
    print(f"{VENV} is ready", flush=True)


if __name__ == "__main__":
    main()
