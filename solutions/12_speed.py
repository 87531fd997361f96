# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: gpt2course
#     language: python
#     name: gpt2course
# ---

# %% [markdown]
# # Exercises 12: Speed
#
# Five uses of what the lesson built: Amdahl's law backwards, the fastest full step on your machine, a fair stopwatch, the
# question when a change pays for itself, and 8-bit products with a scale for each row. Replace each `raise NotImplementedError` by
# your answer and run the check below it. The lesson is [12 Speed](../lessons/12_speed.ipynb).
#
# Only answers in work/ are graded: `make start EX=12` puts your copy of this notebook there, `make grade EX=12` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import inspect
import math
import statistics

import torch
import torch.nn.functional as F

from gpt2course.course.checks import pictures
from gpt2course.course.checks.speed import plain_step
from gpt2course.course.figures import speed as figures

print(inspect.getsource(plain_step))  # the slow step of exercise 12.2

# %% [markdown] tags=["ex-12.1"]
# ## 12.1 Amdahl on the head
#
# A profile gives the milliseconds of each part of a step, which add up to the whole. You can make one part `factor` times
# faster. Return three numbers:
#
# 1. how many times faster the whole step becomes;
# 2. the same if that part took no time at all;
# 3. the factor that the part would need for a whole that is `target` times faster, or `math.inf` if no finite factor is enough.
#
# A tiny example: {"head": 25, "rest": 75}, factor 5, target 1.25. The step falls from 100 to 80 ms: 1.25. With a head in no
# time it takes 75 ms: 1.3333. And for 1.25 the head needs the factor 5.
#
# <details><summary>Help: the third number is negative</summary>
#
# The other parts alone take longer than the target allows.
# </details>
#
# The picture shows the whole against the factor, for a head with 6 % of the step (depth 24's share of the FLOPs) and for one with
# 50 %.

# %% tags=["answer", "ex-12.1"]
def head_gain(ms, part, factor, target):
    """ms {name: milliseconds}, part a name, factor and target numbers -> three numbers."""
    ### BEGIN SOLUTION
    total, own = sum(ms.values()), ms[part]
    rest = total - own
    left = total / target - rest  # ms that the part may take
    limit = total / rest if rest else math.inf
    return total / (rest + own / factor), limit, own / left if left > 1e-12 else math.inf
    ### END SOLUTION


# %% tags=["check", "ex-12.1"]
from gpt2course.course.checks import check

check("12.1", head_gain)

# %% tags=["picture", "ex-12.1"]
def draw(f):
    shares = {"head 6 %": {"head": 6.0, "rest": 94.0}, "head 50 %": {"head": 50.0, "rest": 50.0}}
    factors = (1, 1.5, 2, 3, 4, 6, 8)
    return figures.gains({name: [(x, f(ms, "head", x, 1.01)[0]) for x in factors] for name, ms in shares.items()})


pictures("12.1", draw, head_gain)

# %% [markdown] tags=["ex-12.2"]
# ## 12.2 The fastest full step on your machine
#
# `plain_step`, in the first code cell of this notebook, is a whole training step of a small model: a table looked up, attention
# with a window, a head, a loss, gradients, an update. It is right, and it wastes. Write one that gives the same numbers in less time.
#
# The rules: the loss and every new parameter must agree with the plain step's up to rounding, for any window, any number of
# targets that do not count (-1; at least one counts), and lengths that do not divide. Parameters that come in stay as they are. One
# thread. `torch.compile` is not worth it: its seconds count. Your step must be at least **twice as fast** at T 1,024, V
# 4,096, C 64, with a window of 32 and three of four targets -1. The clock is the process's own, each way is warmed up, the two run in
# turns with new tokens each time, and the best of each counts. Eight times as fast is possible with a few lines.
#
# <details><summary>Help: where do I begin?</summary>
#
# With a profile: put clocks between the lines, or count FLOPs and bytes. Which numbers are computed and then multiplied by 0?
# </details>
# <details><summary>Help: it is not faster</summary>
#
# Four places: a product with rows of zeros and one 1; scores that the window hides; logits of rows that do not count; a second
# product with rows of zeros and one 1.
# </details>

# %% tags=["answer", "ex-12.2"]
def fast_step(p, idx, targets, window, rate):
    """p: emb (V, C), qkv (3C, C), out (C, C), head (V, C); idx, targets (T,) -> loss, {name: new parameter}."""
    ### BEGIN SOLUTION
    leaves = {name: w.clone().requires_grad_() for name, w in p.items()}
    T, C, block = len(idx), p["emb"].size(1), 64
    x = leaves["emb"][idx]
    q, k, v = (x @ leaves["qkv"].T).chunk(3, dim=1)
    t, y = torch.arange(T), []
    for start in range(0, T, block):
        rows, keys = t[start : start + block], t[max(0, start - window) : start + block]
        distance = rows[:, None] - keys
        near = slice(int(keys[0]), int(keys[-1]) + 1)
        scores = q[start : start + block] @ k[near].T / math.sqrt(C)
        y.append(scores.masked_fill((distance < 0) | (distance > window), -math.inf).softmax(1) @ v[near])
    counts = targets >= 0
    x = x[counts] + torch.cat(y)[counts] @ leaves["out"].T
    loss = F.cross_entropy(x @ leaves["head"].T, targets[counts])
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return loss.item(), {name: p[name] - rate * g for name, g in zip(leaves, gradients)}
    ### END SOLUTION


# %% tags=["check", "ex-12.2"]
from gpt2course.course.checks import check

check("12.2", fast_step)

# %% [markdown] tags=["ex-12.3"]
# ## 12.3 A fair stopwatch
#
# Two functions a and b do the same. How many times as fast is b? Return time of a / time of b. `now()` gives the time in seconds, and
# a() and b() take none, one or several of these liberties, as real ones do:
#
# - their first call takes much longer;
# - the machine becomes slower from call to call, steadily, as a laptop that gets hot;
# - now and then another program takes the processor, and a call takes many times as long.
#
# You may make 100 calls in all. Your result must be right within 4 %.
#
# A tiny example: if a always takes 3 s and b always 2 s, the result is 1.5.
#
# <details><summary>Help: right on a steady machine, wrong on one that gets hot</summary>
#
# If all calls of a come first, b runs on a hotter machine. Take turns, and change who begins.
# </details>
# <details><summary>Help: wrong where another program disturbs</summary>
#
# A mean takes the disturbance in. A median does not, nor does a minimum.
# </details>

# %% tags=["answer", "ex-12.3"]
def times_as_fast(a, b, now):
    """a, b and now: functions without arguments -> time of a / time of b."""
    ### BEGIN SOLUTION
    def timed(f):
        began = now()
        f()
        return now() - began

    a(), b()
    ratios = []
    for n in range(40):
        if n % 2:
            tb, ta = timed(b), timed(a)
        else:
            ta, tb = timed(a), timed(b)
        ratios.append(ta / tb)
    return statistics.median(ratios)
    ### END SOLUTION


# %% tags=["check", "ex-12.3"]
from gpt2course.course.checks import check

check("12.3", times_as_fast)

# %% [markdown] tags=["ex-12.4"]
# ## 12.4 When does a change pay?
#
# A run takes `steps` steps of `ms` milliseconds, on machines of `price` dollars an hour. A change costs `once` seconds at the
# start, for example to compile. It makes each step `faster` times as fast, and the model then needs `more` times as many steps to
# become as good. Return two numbers: the dollars that the change saves in this run (negative if it costs), and the least
# whole number of steps of the plain run from which it saves anything, or `math.inf` if it never does.
#
# A tiny example: 1,000 steps of 500 ms at 24 dollars an hour; once 60 s, faster 1.25, more 1. The run takes 60 + 400 s in place of
# 500 s and saves 40 s, which are 0.2667 dollars. A step saves 0.1 s, so 600 steps come out even and 601 save.
#
# Then compute 8 bits at depth 26, as published: 832 ms a step, 1.17 times as fast, at equal capability only 1.05 times. So `more` is
# 1.17 / 1.05. What if compiling takes 120 s?
#
# <details><summary>Help: the second number is off by one</summary>
#
# At the even point nothing is saved yet.
# </details>

# %% tags=["answer", "ex-12.4"]
def pays(steps, ms, price, once, faster, more):
    """Numbers -> (dollars saved, least steps from which the change saves)."""
    ### BEGIN SOLUTION
    a_step = ms / 1000 * (1 - more / faster)  # seconds saved for a step of the plain run
    saved = (steps * a_step - once) * price / 3600
    return saved, math.floor(once / a_step + 1e-9) + 1 if a_step > 0 else math.inf
    ### END SOLUTION


# %% tags=["check", "ex-12.4"]
from gpt2course.course.checks import check

check("12.4", pays)

# %% [markdown] tags=["ex-12.5"]
# ## 12.5 One scale a row
#
# With one scale for the whole tensor, a single token with large values pushes all others to the bottom of e4m3, where they lose
# digits or become 0. So give each row a scale of its own. x is (M, K), W (N, K); return x Wᵀ (M, N) in float32, where both
# factors are cast to `torch.float8_e4m3fn` after scaling, each row of x and each row of W by its own scale. Multiply the casts
# as float32. A row of zeros must give zeros.
#
# The check looks at the error of each row, with rows a million times apart, and wants real 8 bits.
#
# A tiny example: x [[1e-6], [448]] and W [[1]] give about [[1e-6], [448]]. With one scale the first would be 0.
#
# <details><summary>Help: how do the scales come out again?</summary>
#
# y[m, n] carries the scale of row m of x and that of row n of W. Divide by one along the rows, by the other along the columns.
# </details>
# <details><summary>Help: NaN</summary>
#
# The largest value of a row of zeros is 0. And e4m3 ends at 448.
# </details>

# %% tags=["answer", "ex-12.5"]
def rows8(x, W):
    """x (M, K), W (N, K) -> (M, N) float32: x Wᵀ in e4m3 with a scale for each row of both."""
    ### BEGIN SOLUTION
    def scaled(t):
        scale = torch.exp2(torch.floor(torch.log2(448 / t.abs().amax(1, keepdim=True).clamp(min=1e-12))))
        return (t * scale).to(torch.float8_e4m3fn).float(), scale

    (a, s), (b, t) = scaled(x), scaled(W)
    return a @ b.T / s / t.T
    ### END SOLUTION


# %% tags=["check", "ex-12.5"]
from gpt2course.course.checks import check

check("12.5", rows8)
