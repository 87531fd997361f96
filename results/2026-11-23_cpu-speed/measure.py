"""The training step, the optimizer's step and memory beside nanochat 92d63d4, on a CPU. Needs a quiet machine and NANOCHAT (see nanochat.py).

OMP_NUM_THREADS=1 NANOCHAT=nanochat python results/2026-11-23_cpu-speed/measure.py              all five, each under 5 minutes
OMP_NUM_THREADS=1 NANOCHAT=nanochat python results/2026-11-23_cpu-speed/measure.py step-d4      one of them
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
D4 = ("depth=4", "width=256", "head_dim=64")
MEASUREMENTS = {
    "step-d4": ("step", "--rows", "8", "--set", *D4, "sequence_len=256", "vocab_size=4096"),
    "step-d4-windows": ("step", "--rows", "1", "--set", *D4, "sequence_len=2048", "vocab_size=4096"),  # SSSL, the short window 512
    "step-d4-vocabulary": ("step", "--rows", "8", "--set", *D4, "sequence_len=256", "vocab_size=32768"),
    "optimizer-d4": ("optimizer", "--rows", "8", "--set", *D4, "sequence_len=256", "vocab_size=4096"),
    "optimizer-d4-compiled": ("optimizer", "--compile", "--rows", "8", "--set", *D4, "sequence_len=256", "vocab_size=4096"),
}

for name in sys.argv[1:] or MEASUREMENTS:
    more = ["--recipe", "record", "--device", "cpu", "--rounds", "40", "--seconds", "150", "--against", str(HERE / "nanochat.py"), "--out", str(HERE), "--name", name]
    what, *sizes = MEASUREMENTS[name]
    subprocess.run([sys.executable, "-m", "gpt2course.bench", what, *more, *sizes], check=True)
