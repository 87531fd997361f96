"""The exercises' checks: one module for each lesson, one function for each exercise.

A check gets the learner's answer, calls it on inputs that it makes itself (seeded, on the CPU, float32), and compares
with hand-computed values and with the package. It says nothing when all is well; otherwise `need` stops it with one
line that says what came out and what to look at. In a notebook a check cell is

    from gpt2course.course.checks import check
    check("5.2", orthogonal)

which prints one fixed line, or raises one line without a traceback.
"""

import contextlib
import importlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gpt2course.files import UserError

# lesson -> the name of its module here and in gpt2course/figures, and of its files: lessons/05_muon.ipynb
LESSONS = {"00": "story", "01": "tokenizer", "02": "data", "03": "gpt", "04": "training", "05": "muon"}


@dataclass(frozen=True)
class Exercise:
    """One exercise: what the learner reads above it, and the function that checks an answer."""

    id: str  # "5.2": lesson and number
    title: str
    check: Callable  # check(*answer) returns if the answer is right, else raises Wrong through `need`
    points: int
    minutes: int
    difficulty: int  # 1 to 5
    importance: int  # 1 to 5


class Wrong(Exception):
    """An answer that is not right: one line for the learner."""

    def _render_traceback_(self):  # what IPython shows in place of a traceback
        return [str(self)]


class Nowhere(io.TextIOBase):
    """Takes what an answer prints and keeps none of it: a loop that prints without end must not fill the memory."""

    def write(self, text: str) -> int:
        return len(text)


def need(ok, message: str) -> None:
    """Stop a check with the message, which says what came out and what to look at, unless ok."""
    if not ok:
        raise Wrong(message)


def need_close(got, wanted, message: str, atol: float = 1e-5) -> None:
    """Stop a check unless two tensors (or numbers) have one shape and agree within atol + 1e-4 of the wanted size."""
    need(got is not None, "the answer returned None: is the return missing?")
    try:
        got = torch.as_tensor(got, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"expected numbers, got {type(got).__name__}") from None
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    need(got.shape == wanted.shape, f"shape {tuple(got.shape)}, expected {tuple(wanted.shape)}: {message}")
    need(torch.allclose(got, wanted, rtol=1e-4, atol=atol, equal_nan=True), message)


def exercises(lesson: str) -> tuple[Exercise, ...]:
    """The exercises of a lesson ("05"), in order."""
    if lesson not in LESSONS:
        raise UserError(f"there is no lesson {lesson!r} with exercises; there are {', '.join(LESSONS)}")
    return importlib.import_module(f"gpt2course.course.checks.{LESSONS[lesson]}").EXERCISES


def find(id: str) -> Exercise:
    """The exercise of an id such as "5.2"."""
    match = re.fullmatch(r"(\d+)\.\d+", id)
    found = [e for e in exercises(match[1].zfill(2)) if e.id == id] if match else []
    if not found:
        raise UserError(f"there is no exercise {id!r}; an id is a lesson and a number, as in 5.2")
    return found[0]


def run(id: str, *answer) -> str | None:
    """Check an answer: None if it is right, else the line that says what is wrong, "[5.2] title - ...".

    What the answer prints is swallowed, and the caller's random numbers, gradients and default dtype stay as they are.
    """
    exercise = find(id)
    head, dtype = f"[{id}] {exercise.title} - ", torch.get_default_dtype()
    try:
        with contextlib.redirect_stdout(Nowhere()), contextlib.redirect_stderr(Nowhere()), torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            torch.set_default_dtype(torch.float32)
            exercise.check(*answer)
    except Wrong as e:
        return head + " ".join(str(e).split())
    except NotImplementedError:
        return head + "not attempted yet"
    except Exception as e:  # the learner's code stopped
        return head + " ".join(f"your code stopped with {type(e).__name__}: {e}".split())[:300]
    finally:
        torch.set_default_dtype(dtype)
    return None


def check(id: str, *answer) -> None:
    """Print one fixed line if the answer is right, else raise one line, without a traceback in a notebook."""
    message = run(id, *answer)
    if message:
        raise Wrong(message) from None
    print(f"[{id}] {find(id).title}: passed")


def best(id: str, answer, package):
    """The learner's answer if it is right, else the package's, so that later cells never depend on an earlier
    answer."""
    return package if run(id, answer) else answer
