"""Draw the pictures that the README shows, from the files in results/.

    python tools/figures.py
"""

from pathlib import Path

from gpt2course.course import lab, plots
from gpt2course.files import atomic_file

HERE = Path(__file__).resolve().parent.parent / "results" / "figures"


def main() -> None:
    with atomic_file(HERE / "leaderboard.png", "wb") as f:
        f.write(plots.png(plots.leaderboard_figure(lab.published())))


if __name__ == "__main__":
    main()
