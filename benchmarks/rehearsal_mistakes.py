"""Mistakes that pass `rayalign check`: how many a rehearsal catches, and its false alarms.

python -m benchmarks.rehearsal_mistakes [NAME ...]: those mistakes alone, and nothing is recorded.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import record
from rayalign.config import load_job
from rayalign.data.chat import train_tokenizer
from rayalign.data.templates import DEFAULT_TEMPLATE
from rayalign.errors import InputError
from rayalign.models.miniature import catalogue_config, shrunk, write_miniature
from rayalign.pipeline.checks import check
from rayalign.rehearsal.made_rows import RowMaker, texts
from rayalign.rehearsal.rehearse import rehearse

TABLE = Path(__file__).with_suffix(".yaml")
JOBS = Path("jobs")
ROWS = 60
"""of each split, so that a row at the end is none of those that `check` reads"""
PLACES = ("MODEL", "REWARD", "LARGER", "OTHER_TOKENS", "ROWS")
"""words of the table that stand for a path"""
Row = dict[str, Any]


class Parts:
    """The files of one sound job, which a mistake may change."""

    def __init__(self, folder: Path, whole: Path) -> None:
        shutil.copytree(whole, folder)
        self.folder = folder
        self.places = {
            name: str(folder / name.lower()) for name in ("MODEL", "REWARD", "LARGER", "OTHER_TOKENS", "ROWS")
        }

    def path(self, name: str) -> Path:
        """The folder of a part."""
        return Path(self.places[name])

    def config(self, name: str, **changes: Any) -> None:
        """Change a model's config.json."""
        file = self.path(name) / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def template(self, text: str) -> None:
        """Give the policy another chat template."""
        (self.path("MODEL") / "chat_template.jinja").write_text(text)

    def rows(self, split: str) -> list[Row]:
        """The rows of a split."""
        lines = (self.path("ROWS") / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def write(self, split: str, rows: list[Row]) -> None:
        """Replace the rows of a split."""
        write_rows(self.path("ROWS") / f"{split}.jsonl", rows)


def write_rows(file: Path, rows: list[Row]) -> None:
    """JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_parts(folder: Path) -> None:
    """A policy, a reward model, a larger model, one with another tokenizer, and rows with a system turn in some."""
    tokenizer = train_tokenizer(iter(texts()), 400)
    small = shrunk(catalogue_config("Qwen/Qwen2.5-7B"), len(tokenizer))
    write_miniature(small, tokenizer, folder / "model", scalar=False)
    write_miniature(small, tokenizer, folder / "reward", scalar=True)
    larger = shrunk(catalogue_config("Qwen/Qwen2.5-7B"), len(tokenizer))
    larger.intermediate_size *= 2
    write_miniature(larger, tokenizer, folder / "larger", scalar=False)
    other = train_tokenizer(iter([text[::-1] for text in texts()]), 420)
    write_miniature(shrunk(small, len(other)), other, folder / "other_tokens", scalar=False)
    for number, split in enumerate(("train", "test")):
        rows: list[Row] = []
        while len(rows) < ROWS:
            rows += RowMaker(10 * number + len(rows), room=160).rows("comparisons")
        for place, row in enumerate(rows[:6]):
            row["prompt"].insert(0, {"role": "system", "content": f"be kind {place}"})
        write_rows(folder / "rows" / f"{split}.jsonl", [row for row in rows if row["chosen"]])


def odd_mlp(parts: Parts) -> None:
    """An MLP that two devices cannot share, in a model written so."""
    tokenizer = train_tokenizer(iter(texts()), 400)
    config = shrunk(catalogue_config("Qwen/Qwen2.5-7B"), len(tokenizer))
    config.intermediate_size = 301
    write_miniature(config, tokenizer, parts.path("MODEL"), scalar=False)


def few_positions(parts: Parts) -> None:
    parts.config("MODEL", max_position_embeddings=256)


def drop_weight(parts: Parts) -> None:
    from safetensors.torch import load_file, save_file

    file = parts.path("MODEL") / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file)


def copied_head(parts: Parts) -> None:
    """The output head a second time beside the embeddings that it is tied to, as some tools write it."""
    from safetensors.torch import load_file, save_file

    parts.config("MODEL", tie_word_embeddings=True)
    file = parts.path("MODEL") / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, file)


def wrong_shape(parts: Parts) -> None:
    parts.config("MODEL", intermediate_size=512)


def no_weights(parts: Parts) -> None:
    (parts.path("MODEL") / "model.safetensors").unlink()


def two_outputs(parts: Parts) -> None:
    parts.config("REWARD", id2label={"0": "good", "1": "bad"}, label2id={"good": 0, "bad": 1})


def drop_system(parts: Parts) -> None:
    shown = "{% for message in messages if message.role != 'system' %}"
    parts.template(shown + DEFAULT_TEMPLATE.partition("%}")[2])


def refuse_system(parts: Parts) -> None:
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    parts.template(refusal + DEFAULT_TEMPLATE)


def no_closing(parts: Parts) -> None:
    parts.template(DEFAULT_TEMPLATE.replace("message.content + eos_token", "message.content"))


def no_end(parts: Parts) -> None:
    file = parts.path("MODEL") / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("eos_token")
    file.write_text(json.dumps(settings))
    no_closing(parts)


def extra_token(parts: Parts) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(parts.path("MODEL"))
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save_pretrained(parts.path("MODEL"))


def long_prompt(parts: Parts) -> None:
    """One that fits without the tokens of its template."""
    parts.write("train", [*parts.rows("train"), {"prompt": "zq" * 183, "chosen": "yes", "rejected": "no"}])


def long_answers(parts: Parts) -> None:
    rows = [{**row, "chosen": f"{number} " + "zq" * 250} for number, row in enumerate(parts.rows("train"))]
    parts.write("train", rows)


def long_tests(parts: Parts) -> None:
    rows = [{"prompt": f"{number} " + "zq" * 250, "chosen": "yes", "rejected": "no"} for number in range(ROWS)]
    parts.write("test", rows)


def bad_last_row(parts: Parts) -> None:
    parts.write("train", [*parts.rows("train"), {"prompt": "what?", "chosen": None, "rejected": "no"}])


def bad_role(parts: Parts) -> None:
    turn = {"role": "tool", "content": "42"}
    parts.write("test", [*parts.rows("test"), {"prompt": [turn], "chosen": "yes", "rejected": "no"}])


EDITS: dict[str, Callable[[Parts], None]] = {
    edit.__name__: edit
    for edit in (
        odd_mlp,
        few_positions,
        drop_weight,
        copied_head,
        wrong_shape,
        no_weights,
        two_outputs,
        drop_system,
        refuse_system,
        no_closing,
        no_end,
        extra_token,
        long_prompt,
        long_answers,
        long_tests,
        bad_last_row,
        bad_role,
    )
}


def try_mistake(mistake: Row, job: Row, folder: Path, whole: Path) -> Row:
    """Whether `check` lets a mistake pass, and the rehearsal catches it."""
    parts = Parts(folder, whole)
    if "edit" in mistake:
        EDITS[mistake["edit"]](parts)
    text = yaml.safe_dump(job, sort_keys=False)
    overrides = list(mistake.get("overrides", ()))
    for name, path in parts.places.items():
        text = text.replace(name, path)
        overrides = [override.replace(name, path) for override in overrides]
    file = folder / "job.yaml"
    file.write_text(text, encoding="utf-8")
    outcome: Row = {"name": mistake["name"], "runs": mistake.get("runs", False)}
    try:
        loaded = load_job(file, [*overrides, f"output={folder / 'runs'}"])
        check(loaded)
    except InputError as error:
        return {**outcome, "passed_check": False, "caught": False, "said": str(error)}
    begin = time.monotonic()
    rehearsal = rehearse(loaded, run=outcome["runs"])
    matching = [str(finding) for finding in rehearsal.findings if mistake["finds"] in finding.text]
    said = matching[0] if matching else "; ".join(map(str, rehearsal.findings))
    return {
        **outcome,
        "passed_check": True,
        "caught": bool(matching),
        "said": said.replace(str(folder), ""),
        "seconds": round(time.monotonic() - begin, 1),
    }


def false_alarms(folder: Path) -> list[Row]:
    """What the full-size checks say of each job that is shipped."""
    rows = []
    make_data(folder / "data")
    for path in sorted(JOBS.rglob("*.yaml")):
        overrides = [f"output={folder / path.stem}"]
        data = load_job(path).job.data
        if data.path is None and data.format in ("hh", "gsm8k"):
            overrides.append(f"data.path={folder / 'data' / data.format}")
        loaded = load_job(path, overrides)
        begin = time.monotonic()
        findings = rehearse(loaded, run=False).findings
        seconds = round(time.monotonic() - begin, 1)
        rows.append({"job": str(path), "findings": [str(finding) for finding in findings], "seconds": seconds})
    return rows


def make_data(folder: Path) -> None:
    """Rows for jobs that name no data: enough of them for their batches."""
    for form in ("hh", "gsm8k"):
        for number, split in enumerate(("train", "test")):
            rows: list[Row] = []
            while len(rows) < 3000:
                rows += RowMaker(10_000 * number + len(rows), room=60).rows(form)
            write_rows(folder / form / f"{split}.jsonl", rows)


def main() -> None:
    """Try all mistakes, or those named on the command line."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    names = sys.argv[1:]
    mistakes = [mistake for mistake in table["mistakes"] if not names or mistake["name"] in names]
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        make_parts(whole)
        outcomes = []
        for mistake in mistakes:
            outcomes.append(try_mistake(mistake, table["job"], Path(scratch) / mistake["name"], whole))
            print(json.dumps(outcomes[-1]), flush=True)
        if names:
            return
        alarms = false_alarms(Path(scratch) / "jobs")
    caught = sum(outcome["caught"] for outcome in outcomes)
    figures = {"mistakes": len(outcomes), "caught": caught, "rows": outcomes, "shipped_jobs": alarms}
    record("rehearsal_mistakes", figures)


if __name__ == "__main__":
    main()
