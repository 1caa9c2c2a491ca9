"""The pages that say what another library's part is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.algorithms.base import algorithm_names

DOCS = Path(__file__).parents[1] / "docs"
PARTS = {
    "AlpacaFarm": [
        "supervised.py", "reward_modeling.py", "rlhf_ppo.py", "rlhf_quark.py", "best_of_n.py", "expiter.sh", "dpo.py",
        "oai_baselines.py", "recover_model_weights", "annotate_pairs", "annotate_samples", "annotate_head2head",
        "p_label_flip",
    ],
    "RRHF and Wombat": [
        "response_gen.py", "split_files.py", "scoring_responses.py", "make_data.py", "train.py", "apply_delta.py",
        "single_sentence_inference.py", "--stop_response", "--only_use_provide", "--only_use_sample",
        "--length_penalty", "--rrhf_weight",
    ],
    "DeepSpeed-Chat": [
        "--offload", "--offload_reference_model", "--ppo_epochs", "--generation_batches", "--max_prompt_seq_len",
        "--max_answer_seq_len", "step2_dpo_finetuning",
    ],
}  # fmt: skip
"""of each library, the scripts and flags that a user looks for"""


def rows(library: str) -> list[list[str]]:
    """The table of a library: what is there, and what is here."""
    page = (DOCS / "coming_from.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {library}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("library", PARTS)
def test_each_part_of_a_library_has_its_row(library: str) -> None:
    table = rows(library)
    assert all(len(row) == 2 and all(row) for row in table)
    named = " ".join(there for there, _ in table)
    assert [part for part in PARTS[library] if part not in named] == []


def test_the_script_that_answers_one_sentence_is_greedy() -> None:
    table = rows("RRHF and Wombat")
    [greedy] = [here for there, here in table if "single_sentence_inference" in there]
    [diverse] = [here for there, here in table if "response_gen" in there]
    assert "--temperature 0" in greedy and "beams" not in greedy
    assert "beams" in diverse


def test_the_table_of_stages_names_every_algorithm() -> None:
    page = (DOCS / "jobs.md").read_text(encoding="utf-8")
    trained = " ".join(line for line in page.splitlines() if line.startswith("| `train`"))
    assert [name for name in algorithm_names() if f"`{name}`" not in trained] == []
