"""Write the three lock files from pyproject.toml. Needs uv and a package index; run it when a dependency changes.

    python tools/lock.py

requirements.lock        everything but torch and what only torch's CUDA build needs
requirements-torch.lock  torch itself, the index's builds and the public CPU builds
requirements-cuda.lock   what torch's CUDA build on Linux needs beside that, and flash-attn-4
Every line has hashes, and every file serves all platforms and Pythons.

`kernels`, which brings FlashAttention 3 (fast/kernels.py), is not locked: it needs 23 more packages, and downloads its
build when a run starts. flash-attn-4 is one wheel. A Hopper GPU uses it until a person installs what fa3 needs.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
# CPU builds for Linux at download.pytorch.org/whl/cpu, by their published sha256: the index's own build there is the
# CUDA one.
CPU_BUILDS = {
    "cp311 x86_64": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "cp312 x86_64": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    "cp313 x86_64": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
    "cp314 x86_64": "d20fa53ee744502fa4c69818a720b05ca0d37abd055d4f6e66cae155114bc691",
    "cp311 aarch64": "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
    "cp312 aarch64": "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
    "cp313 aarch64": "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
    "cp314 aarch64": "ca021f9eb2f8345c83fa03e3a04587308afb8df71bd472670b3ece00df58621c",
}
CUDA_ONLY = re.compile(r"^(nvidia-|cuda-|triton|flash-attn-4|quack-kernels|apache-tvm-ffi|torch-c-dlpack-ext|einops)")


def main() -> None:
    with tempfile.TemporaryDirectory() as tmp:
        extra = Path(tmp) / "extra.in"
        extra.write_text(f"pip\nsetuptools>=77\ntorch=={TORCH}\n", encoding="utf-8")
        command = [
            "uv", "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-header",
            "--no-annotate", "--quiet", "--prerelease", "if-necessary-or-explicit",
            "--extra", "course", "--extra", "dev", "--extra", "gpu", "pyproject.toml", str(extra),
        ]  # fmt: skip
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    packages = re.split(r"\n(?=[a-z0-9])", text.strip())
    parts = {"requirements.lock": [], "requirements-torch.lock": [], "requirements-cuda.lock": []}
    for package in packages:
        name = package.split("==")[0]
        if name == "torch":
            package += "".join(f" \\\n    --hash=sha256:{digest}" for digest in CPU_BUILDS.values())
        part = "-torch" if name == "torch" else "-cuda" if CUDA_ONLY.match(name) else ""
        parts[f"requirements{part}.lock"].append(package)
    for file, lines in parts.items():
        lines.insert(0, "# Made by tools/lock.py from pyproject.toml; do not edit.")
        (ROOT / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{file}: {len(lines)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()
