"""A course on training a GPT-2 grade model for tens of dollars, and the package behind the lessons and the 8xH100 run.

The reading list: every file of the core in the order of the lessons that explain it. Each fits in one sitting, and the
core imports nothing but itself (`train` and `load` alone choose kernels from `fast`).

    cost.py        00 12       what a run costs: FLOPs, hours, dollars, memory
    tokenizer.py   01          text to token ids and back: byte-level BPE
    data.py        02          from the name of a corpus to its documents
    batches.py     02          from documents to rows of tokens, packed, exactly resumable
    gpt2.py        03          the model of 2019
    model.py       03 06 07 08 the modern model, each rung of the ladder a field
    attention.py   03 06 13    causal attention with windows, and the key-value cache
    losses.py      12          cross-entropy without the logits of a whole batch
    recipes.py     04 14       the ladder of recipes and the dial `depth`
    train.py       04          the training loop
    evaluate.py    04          bits per byte
    runlog.py                  what a run records about itself
    checkpoint.py  04          checkpoints, written whole and checked when read
    load.py                    find a run and load its model
    optim.py       05 11       Muon for the matrices, AdamW for the rest
    scaling.py     09          how large, how long: parabolas and power laws
    core_tasks.py  10          the tasks of CORE
    core.py        10          the score, and how far one score can be trusted
    ranks.py       11          the processes that train one model together
    sample.py      13          text from a model
    files.py                   where files live, how they are written and read

Three rooms stand around it: `fast/` gives the same results in less time (lesson 12), `ops/` rents, fetches and runs
(lesson 14), `course/` is the machinery of lessons and exercises.
"""

__version__ = "0.1.0"
