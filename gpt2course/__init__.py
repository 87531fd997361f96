"""gpt2course: the package behind the lessons and behind the 8xH100 run. Start with `recipes.py` and `train.py`."""

__version__ = "0.1.0"
