"""The recorded band of the laptop's smoke run: the same small run with five seeds. A seed that is there is not run again.

python results/2026-11-23_smoke/record.py
"""

import json
import sys

from gpt2course import smoke


def main() -> None:
    for seed in (1, 2, 3, 4, 5):
        done = [json.loads(line) for line in smoke.RECORD.read_text().splitlines()] if smoke.RECORD.is_file() else []
        if seed in [row["seed"] for row in done]:
            continue
        result = smoke.smoke(smoke.Smoke(seed=seed))
        if result["same"] is None:
            sys.exit(result["findings"][0][2])
        names = ("seed", "same", "loss", "first_loss", "val_bpb", "steps", "tok_per_sec", "seconds", "machine", "commit", "command")
        with open(smoke.RECORD, "a") as f:
            f.write(json.dumps({name: result[name] for name in names}) + "\n")


if __name__ == "__main__":
    main()
