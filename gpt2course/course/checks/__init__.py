"""The exercises' checks: one module for each lesson, one function for each exercise.

A check calls the learner's answer on inputs of its own (seeded, on the CPU, in float32) and compares the result with
hand-computed values and with the package. A right answer passes silently. A wrong one stops the check with one line:
what came out, what was expected, and where to look; for a known mistake, the line names the mistake. In a notebook,
a check cell is

    from gpt2course.course.checks import check
    check("5.2", orthogonal)

which prints one fixed line, or raises one line without a traceback.

While an answer runs, what it asks for cannot be called: the functions in `forbids`, and those of the lesson's module
here, refuse under every name (`refused`). The check itself calls them before and after.
"""

import contextlib
import copy
import importlib
import inspect
import io
import itertools
import math
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import torch
from torch.overrides import TorchFunctionMode

from gpt2course.course import plots
from gpt2course.files import UserError

# lesson -> the name of its module here and in figures/, and of its files: lessons/05_muon.ipynb
LESSONS = {
    "00": "story", "01": "tokenizer", "02": "data", "03": "gpt", "04": "training", "05": "muon", "06": "windows",
    "07": "lambdas", "08": "value_embeddings", "09": "scaling_laws", "10": "core", "11": "distributed", "12": "speed",
    "13": "talking", "14": "speedrun",
}  # fmt: skip
MISSING = "the answer returned None: is the return missing?"
NAN = "look for 0 / 0, infinity minus infinity, or the root or logarithm of a negative number"
INSTALLED = [str(Path(__file__).parent.parent.parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))]


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
    forbids: tuple = ()  # what an answer must not call: functions, classes (all their methods), functions of torch
    reference: Callable | tuple | None = None  # right answers, for the picture beside the learner's
    nan: str = NAN  # where to look if NaN comes out


class Wrong(Exception):
    """A wrong answer: one line for the learner."""

    def _render_traceback_(self):  # what IPython shows in place of a traceback
        return [str(self)]


class Tail(io.TextIOBase):
    """Keeps the end of what an answer prints: an endless loop of prints must not fill the memory."""

    text = ""

    def write(self, text: str) -> int:
        self.text = (self.text + text[-4000:])[-4000:]
        return len(text)

    def lines(self) -> str:
        return "\n".join(self.text.splitlines()[-20:])


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


def tried(f, args, what: str, hint: str):
    """The result of f(*args) on legal but unusual arguments, of which an answer that stops is told."""
    try:
        return call(f, *args, keep="its inputs")
    except Wrong:
        raise
    except Exception as e:
        if untouched(e):
            raise
        line = " ".join(f"{what} stopped your code with {type(e).__name__}: {e}".split())[:160]
        raise Wrong(f"{line}{where(e)}: {hint}") from None


def steady(f, one, other, what: str) -> None:
    """The result for the arguments `one` must be the same before and after a call with `other`."""
    before, _, after = (f(*copy.deepcopy(args)) for args in (one, other, one))
    hint = "does something stay from one call to the next, such as a default argument or a global?"
    need(repr(before) == repr(after), f"{what}: the same call gave {text(after)} after {text(before)}: {hint}")


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


# ---- an answer must be the learner's own


def functions_of(thing) -> list[FunctionType]:
    """The Python functions behind a function, a method or a class, without their decorators."""
    found = vars(thing).values() if isinstance(thing, type) else [thing]
    found = [inspect.unwrap(getattr(x, "__func__", x)) for x in found if callable(x) or hasattr(x, "__func__")]
    return [x for x in found if isinstance(x, FunctionType)]


class _NoTorch(TorchFunctionMode):
    """Some of torch's built-in functions refuse, under every name."""

    def __init__(self, refusals: dict):
        super().__init__()
        self.refusals = refusals

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.refusals:
            refuse(self.refusals[function])
        return function(*args, **(kwargs or {}))


_calls, _passed = [], set()  # what an answer has called in vain; the exercises whose last answer was right


def refuse(line: str):
    _calls.append(line)
    raise Wrong(line)


def _refusing(function: FunctionType, line: str):
    """Code for the function that refuses every call. It runs with the function's own names, so it imports `refuse`."""
    space = {}
    code = f"def f(*args, **kw):\n    from gpt2course.course.checks import refuse\n    refuse({line!r})"
    exec(code, space)
    return space["f"].__code__.replace(co_freevars=function.__code__.co_freevars)


class Refused:
    """While it is active, what an exercise asks for cannot be called under any name, nor can its modules be changed.

    The code inside the functions is exchanged, so it does not matter where a name for them was kept.
    """

    def __init__(self, exercise: Exercise):
        own, id = sys.modules[exercise.check.__module__], exercise.id
        line = "your answer calls {}, which does what {} asks for: write it yourself"
        checks = [f for f in vars(own).values() if getattr(f, "__module__", "") == own.__name__ and type(f) is not type]
        mine = sys.modules.get("gpt2course.course.mine")  # and its copies of the course's answers
        pieces = [name for name, piece in mine.PIECES.items() if piece.exercise == id] if mine else []
        lent = [mine.stand_in(name) for name in pieces]
        kept = [f for x in (*exercise.forbids, *checks, *lent) for f in functions_of(x)]
        name = lambda f: f"{f.__module__}.{f.__qualname__}".replace(".<locals>", "").removeprefix("gpt2course.")
        self.codes = [(f, f.__code__, _refusing(f, line.format(name(f), id))) for f in dict.fromkeys(kept)]
        builtin = [f for f in exercise.forbids if not functions_of(f)]
        self.mode = _NoTorch({f: line.format(f"torch's {f.__name__}", id) for f in builtin}) if builtin else None
        self.modules = [sys.modules[f.__module__] for f in kept if f.__module__.startswith("gpt2course.")]
        self.modules = [(m, dict(vars(m))) for m in dict.fromkeys(self.modules)]

    def __enter__(self):
        _calls.clear()
        for function, _, refusing in self.codes:
            function.__code__ = refusing
        if self.mode:
            self.mode.__enter__()

    def __exit__(self, *error):
        if self.mode:
            self.mode.__exit__(*error)
        for function, code, _ in self.codes:
            function.__code__ = code
        for module, before in self.modules:
            for key, value in before.items():
                if vars(module).get(key) is not value:
                    setattr(module, key, value)
                    raise Wrong(f"your answer changed {module.__name__}.{key}: leave the package as it is")
        if _calls:  # also if the answer caught the refusal
            raise Wrong(_calls[0])


def has_nan(x) -> bool:
    """Whether there is NaN in a number, a tensor, or a list of these."""
    if isinstance(x, (list, tuple, dict)):
        return any(map(has_nan, x.values() if isinstance(x, dict) else x))
    if isinstance(x, torch.Tensor):
        return bool(x.isnan().any())
    return isinstance(x, float) and x != x


def made(x):
    """A result with every generator in it run to its end, so that no part of an answer runs later."""
    if isinstance(x, Iterator):
        return [made(y) for y in itertools.islice(x, 1_000_000)]
    return type(x)(map(made, x)) if type(x) in (list, tuple) and any(isinstance(y, Iterator) for y in x) else x


def guarded(exercise: Exercise, answer):
    """The answer as a check calls it: alone, and with NaN reported before anything else."""
    refused = Refused(exercise)

    def call_answer(*args, **kw):
        nan = has_nan(args)
        with refused:
            got = made(answer(*args, **kw))
        need(nan or not has_nan(got), f"NaN came out: {exercise.nan}")
        return got

    return call_answer


def where(error: Exception) -> str:
    """The learner's line that stopped: " (line 5: return p - rate*U)"."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(tuple(INSTALLED))]
    line = " ".join((frames[-1].line or "").split())[:90] if frames else ""
    return f" (line {frames[-1].lineno}{': ' if line else ''}{line})" if frames else ""


def untouched(error: Exception) -> bool:
    """Whether a stub raised this. (torch's NotImplementedError, for what a device cannot do, has a text.)"""
    return isinstance(error, NotImplementedError) and not error.args


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

    If it is wrong, the end of what it printed is shown. The caller's random numbers, gradient mode and default dtype
    stay as they are.
    """
    exercise, printed = find(id), Tail()
    _passed.discard(id)
    head, dtype = f"[{id}] {exercise.title} - ", torch.get_default_dtype()
    out, err = contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed)
    try:
        with out, err, torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            torch.set_default_dtype(torch.float32)
            exercise.check(*(guarded(exercise, f) if callable(f) else f for f in answer))
        _passed.add(id)
        return None
    except Wrong as e:
        line = head + " ".join(str(e).split())
    except Exception as e:  # raised by the learner's code, or by ours on what it returned
        if untouched(e):
            return head + "not attempted yet"
        inside = any(frame.name == "call_answer" for frame in traceback.extract_tb(e.__traceback__))
        what = "your code stopped with" if inside else "what came out cannot be read:"
        line = head + " ".join(f"{what} {type(e).__name__}: {e}".split())[:300] + where(e)
    finally:
        torch.set_default_dtype(dtype)
    if lines := printed.lines():
        print(f"the last lines that your answer printed:\n{lines}")
    return line


def check(id: str, *answer) -> None:
    """Print one fixed line if the answer is right, else raise one line, without a traceback in a notebook."""
    message = run(id, *answer)
    if message:
        raise Wrong(message) from None
    print(f"[{id}] {find(id).title}: passed")


def pictures(id: str, draw: Callable, *answer) -> None:
    """Show draw(answer) and below it draw(the reference): two figures. An answer that cannot be drawn gets a line."""
    reference = find(id).reference
    right = reference if type(reference) is tuple else (reference,)
    for name, functions in (("yours", answer), ("the reference", right)):
        try:
            fig = draw(*functions)
        except Exception as e:
            if untouched(e):
                print("yours: not attempted yet")
                continue
            print(f"{name}: no picture, " + " ".join(f"{type(e).__name__}: {e}".split())[:200] + where(e))
        else:
            print(f"{name}:")
            fig.alt = f"{name.capitalize()}: {fig.alt}"
            plots.show(fig)
