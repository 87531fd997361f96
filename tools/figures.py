"""Draw the pictures that the README shows, from the files in results/.

    python tools/figures.py
"""

from pathlib import Path

from gpt2course.course import plots
from gpt2course.files import atomic_file
from gpt2course.ops import leaderboard

HERE = Path(__file__).resolve().parent.parent / "results" / "figures"


def main() -> None:
    with atomic_file(HERE / "leaderboard.png", "wb") as f:
        f.write(plots.png(plots.leaderboard_figure(leaderboard.as_dicts(leaderboard.read()))))


if __name__ == "__main__":
    main()
