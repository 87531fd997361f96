"""The exercises' checks: one module for each lesson, one function for each exercise.

A check calls the learner's answer on inputs of its own (seeded, on the CPU, in float32) and compares the result with
hand-computed values and with the package. A right answer passes silently. A wrong one stops the check with one line:
what came out, what was expected, and where to look; for a known mistake, the line names the mistake. In a notebook,
a check cell is

    from gpt2course.course.checks import check
    check("5.2", orthogonal)

which prints one fixed line, or raises one line without a traceback.
"""

import contextlib
import copy
import importlib
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gpt2course.files import UserError

# lesson -> the name of its module here and in figures/, and of its files: lessons/05_muon.ipynb
LESSONS = {"00": "story", "01": "tokenizer", "02": "data", "03": "gpt", "04": "training", "05": "muon"}
MISSING = "the answer returned None: is the return missing?"


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
    """A wrong answer: one line for the learner."""

    def _render_traceback_(self):  # what IPython shows in place of a traceback
        return [str(self)]


class Nowhere(io.TextIOBase):
    """Drops what an answer prints: an endless loop of prints must not fill the memory."""

    def write(self, text: str) -> int:
        return len(text)


# ---- what every check is made of


def need(ok, message: str) -> None:
    """Stop the check with the message unless ok."""
    if not ok:
        raise Wrong(message)


def need_close(got, wanted, message: str, atol: float = 1e-5) -> None:
    """Stop the check unless two tensors (or numbers) have one shape and agree within atol + 1e-4 of the wanted size."""
    need(got is not None, MISSING)
    try:
        got = torch.as_tensor(got, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"expected numbers, got {type(got).__name__}") from None
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    need(got.shape == wanted.shape, f"shape {tuple(got.shape)}, expected {tuple(wanted.shape)}: {message}")
    need(torch.allclose(got, wanted, rtol=1e-4, atol=atol, equal_nan=True), message)


def tensor(got, shape, what: str, hint: str = "") -> torch.Tensor:
    """The answer as a tensor in float64, of the expected shape."""
    need(got is not None, MISSING)
    try:
        got = torch.as_tensor(got)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what} came out as a {type(got).__name__}, expected a tensor") from None
    line = f"{what} came out with the shape {tuple(got.shape)}, expected {tuple(shape)}"
    need(got.shape == tuple(shape), f"{line}: {hint}" if hint else line)
    return got.double()


def several(got, n: int | None, what: str) -> list:
    """The answer as a list of n things (None: of any number)."""
    need(got is not None, MISSING)
    try:
        found = None if isinstance(got, (str, bytes, dict, set)) else list(got)
    except TypeError:  # a number
        found = None
    need(found is not None, f"the answer came out as {type(got).__name__}, expected {what}")
    need(n is None or len(found) == n, f"{len(found)} values came out, expected {what}")
    return found


def plain(got, what: str):
    """The answer as a plain number or (nested) list of numbers, whether it is a tensor, an array, a tuple or a list."""
    need(got is not None, MISSING)
    if hasattr(got, "tolist"):
        got = got.tolist()
    if isinstance(got, (list, tuple)):
        return [plain(x, what) for x in got]
    need(isinstance(got, (int, float)), f"{what} came out as {type(got).__name__} {got!r:.40}, expected a number")
    return got


def ids(got, what: str) -> list[int]:
    """The answer as a list of whole numbers, whatever holds it."""
    got = several(got, None, f"a list of ids for {what}")
    whole = all(not isinstance(i, (str, bytes, float, list, tuple)) for i in got)
    need(whole, f"{what} came out as {got!r:.60}, expected whole numbers")
    return [int(i) for i in got]


def number(got, what: str) -> float:
    """The answer as one number, whatever holds it."""
    got = plain(got, what)
    while isinstance(got, list) and len(got) == 1:
        got = got[0]
    need(not isinstance(got, list), f"{what} came out as {got!r:.60}, expected one number")
    return got


def close(a, b, rtol: float = 2e-4) -> bool:
    """Whether two plain values agree: numbers within rtol, lists item by item."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(close(x, y, rtol) for x, y in zip(a, b))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= rtol * max(abs(b), 0.1) or math.isnan(a) and math.isnan(b)
    return a == b


def text(value, figures: int = 6) -> str:
    """A plain value for a message."""
    if isinstance(value, list):
        return f"[{', '.join(text(x, 4) for x in value[:12])}{', ...' if len(value) > 12 else ''}]"
    return f"{value:.{figures}g}" if isinstance(value, float) else str(value)


def known(got, wanted, what: str, errors=(), otherwise: str = "", rtol: float = 2e-4) -> None:
    """Compare an answer with a number or a list of numbers; a result that a known mistake gives gets its own hint.

    errors: {the result of a mistake: hint}, or pairs of these. otherwise: the hint for any other wrong result.
    """
    got = plain(got, what) if isinstance(wanted, list) else number(got, what)
    if close(got, wanted, rtol):
        return
    line = f"{what} came out as {text(got)}, expected {text(wanted)}"
    for wrong, hint in errors.items() if isinstance(errors, dict) else errors:
        need(not close(got, wrong, rtol), f"{line}: {hint}")
    raise Wrong(f"{line}: {otherwise}" if otherwise else line)


def call(f, *args, keep: str = "", **kw):
    """The result of f(*args); an answer that changes its arguments is wrong. keep: what they are, for the message."""
    kept = copy.deepcopy(args)
    got = f(*args, **kw)
    need(_equal(args, kept), f"your answer changed {keep or 'its arguments'} in place; work on a copy")
    return got


def _equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def ask(f, table, keep: str = "", rtol: float = 2e-4) -> None:
    """Compare f with a table of (arguments, expected result, what was asked, errors, otherwise); see `known`."""
    for args, wanted, what, errors, otherwise in table:
        known(call(f, *args, keep=keep), wanted, what, errors, otherwise, rtol)


# ---- exercises by id


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

    What the answer prints is dropped. The caller's random numbers, gradient mode and default dtype stay as they are.
    """
    exercise = find(id)
    head, dtype = f"[{id}] {exercise.title} - ", torch.get_default_dtype()
    out, err = contextlib.redirect_stdout(Nowhere()), contextlib.redirect_stderr(Nowhere())
    try:
        with out, err, torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            torch.set_default_dtype(torch.float32)
            exercise.check(*answer)
    except Wrong as e:
        return head + " ".join(str(e).split())
    except NotImplementedError:
        return head + "not attempted yet"
    except Exception as e:  # raised by the learner's code
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
    """The learner's answer if it is right, else the package's, so that later cells run whatever the answer is."""
    return package if run(id, answer) else answer
