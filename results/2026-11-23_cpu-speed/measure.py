"""The training step, the optimizer's step, memory and 200 steps of loss beside nanochat 92d63d4, on a CPU. Needs NANOCHAT (see nanochat.py),
and for the times a quiet machine.

OMP_NUM_THREADS=1 NANOCHAT=nanochat python results/2026-11-23_cpu-speed/measure.py              all for `record`, each under 5 minutes
OMP_NUM_THREADS=1 NANOCHAT=nanochat python results/2026-11-23_cpu-speed/measure.py step-d4      one of them

parity-jan29 is for a checkout of 348fbb3, and only runs when it is named.
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
    "parity-record": ("parity", "--rows", "4", "--set", "depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=4096", "steps=200"),
    "parity-jan29": ("parity", "--recipe", "jan29", "--rows", "4", "--set", "depth=4", "width=128", "head_dim=64", "sequence_len=256", "vocab_size=4096", "steps=200"),
    "optimizer-d4-compiled": ("optimizer", "--compile", "True", "--rows", "8", "--set", *D4, "sequence_len=256", "vocab_size=4096"),
}

for name in sys.argv[1:] or [name for name in MEASUREMENTS if name != "parity-jan29"]:
    more = ["--device", "cpu", "--rounds", "40", "--seconds", "150", "--against", str(HERE / "nanochat.py"), "--out", str(HERE), "--name", name]
    what, *sizes = MEASUREMENTS[name]
    recipe = [] if "--recipe" in sizes else ["--recipe", "record"]
    subprocess.run([sys.executable, "-m", "gpt2course.bench", what, *more, *recipe, *sizes], check=True)
