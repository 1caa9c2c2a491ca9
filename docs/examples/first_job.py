# %% [markdown]
# # A job from Python
#
# The cells below do from Python what `rayalign check`, `run` and `report` do in a shell. Run the file whole
# (`python first_job.py`), or cell by cell in an editor that knows `# %%`. It takes a minute on two cores and writes
# into the folder where it starts.

# %%
from __future__ import annotations

import json
from pathlib import Path

import rayalign

# %% [markdown]
# ## The job
#
# A job is a mapping with the keys of a job file. This one makes a small model, teaches it the answers of the embedded
# world, and measures both models on the same prompts. `load_job("job.yaml", ["seed=3"])` reads the same from a file.

# %%
JOB = {
    "name": "first",
    "rollout": {"engine": "local", "engines": 1, "context": 96},
    "stages": {
        "base": {"kind": "pretrain", "model": "preset:nano", "data": {"limit": 200}},
        "sft": {
            "kind": "train",
            "algorithm": {"name": "sft"},
            "model": "stage:base",
            "data": {"split": "sft", "limit": 64},
            "learner": {"learning_rate": 1e-3, "minibatch": 32},
        },
        "test": {
            "kind": "evaluate",
            "models": {"base": "stage:base", "sft": "stage:sft"},
            "data": {"limit": 16},
            "sampling": {"max_tokens": 16},
        },
    },
}

# %% [markdown]
# ## Check and plan
#
# `check` raises an InputError with one line for each problem, and says what is near where a name is not known. `plan`
# shows what would run where, and which stages are finished already.


# %%
def problems(job: dict[str, object]) -> str:
    """What `check` says of a job; nothing where it is sound."""
    try:
        rayalign.check(job)
    except rayalign.InputError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print(problems({**JOB, "sed": 3}))
    rayalign.check(JOB)
    print(rayalign.plan(JOB))

# %% [markdown]
# ## Run
#
# `run` returns the run's folder. The same call goes on where a run was interrupted, and does nothing twice: a second
# call returns at once.

# %%
if __name__ == "__main__":
    folder = rayalign.run(JOB)

# %% [markdown]
# ## Look
#
# `summary.json` holds the figures; `write_report` makes the page anew, also while a run is going on.

# %%
if __name__ == "__main__":
    summary = json.loads(Path(folder, "summary.json").read_text())
    for row in summary["results"]:
        print(f"{row['name']}: {row['metric']} {row['mean']:.3f} over {row['n']} prompts")
    print(rayalign.write_report(folder))
