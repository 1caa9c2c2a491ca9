"""The studies that have a page, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.sampling_settings import SETTINGS

ALPACA_FARM = {
    "ppo": (46.8, 55.1),
    "best_of_16": (45.0, 50.7),
    "expert_iteration": (41.9, 45.7),
    "sft": (36.7, 44.3),
    "feedme": (36.6, 37.9),
    "quark": (35.6, None),
    "conditioning": (32.4, None),
}
"""win rates against text-davinci-003 with simulated and with human feedback (Dubois 2023, arXiv 2305.14387, table 2)"""
REAL_DATA = "hh_rlhf"
"""the study that runs only where somebody names its data"""


@dataclass(frozen=True, slots=True)
class Study:
    """A job whose last stage compares models, and what its page says."""

    job: str
    stage: str
    """the evaluation"""
    controls: tuple[str, ...]
    """models that the others are compared with"""
    title: str
    introduction: str
    published: Mapping[str, tuple[float | None, float | None]] | None = None
    """AlpacaFarm's columns, simulated and human, of the models that have them"""
    settings: Mapping[str, str] = field(default_factory=dict)
    """RRHF's table: model -> where its candidates came from"""
    measure: str = "gold utility"
    """what the evaluation's values are"""


STUDIES = {
    "methods": Study(
        job="jobs/small/methods.yaml",
        stage="comparison",
        controls=("sft", "sft_continued"),
        title="All methods in the embedded world",
        introduction=(
            "Every method starts from the same fine-tuned model of a million parameters and learns from the same "
            "verdicts of a noisy pool of simulated annotators, or from the reward model that was trained on them. "
            "`sft_continued` takes as many steps on demonstrations as the longest of the others, each of half as many "
            "rows. Each learning rate is the first one tried, so the rows do not rank the methods at their best. "
            "The order departs from AlpacaFarm's where a sentence below the correlations says so; no setting was tuned "
            "towards it. FeedME beats SFT here and not in the paper: it learns from answers that won a comparison. "
            "Their gold utility was 0.56 in seed 0, and that of the answers that lost 0.38. `sppo_hard` and "
            "`sppo_single` are one loss where each pair has one verdict."
        ),
        published=ALPACA_FARM,
    ),
    "rrhf": Study(
        job="jobs/small/rrhf.yaml",
        stage="gold",
        controls=("sft", "dp"),
        title="RRHF's samplers in the embedded world",
        introduction=(
            "The same ranking loss on candidates of different samplers (Yuan 2023, arXiv 2304.05302, tables 1 and 2). "
            "`no_rank` is `dp` without the ranking term."
        ),
        settings=SETTINGS,
    ),
    "alpacafarm": Study(
        job="jobs/small/alpacafarm.yaml",
        stage="comparison",
        controls=("sft",),
        title="AlpacaFarm's study in the embedded world",
        introduction=(
            "Two answers to each prompt, one verdict of the noisy pool on them, and every method of the paper. People "
            "of the pool who flip no verdict (`panel`) and a second judge, who is the truth itself, compare all models "
            "with the fine-tuned one. The order departs from the paper's where a sentence below the correlations says "
            "so; no setting was tuned towards it. FeedME beats SFT here and not in the paper: it learns from answers "
            "that won a comparison. Their gold utility was 0.56 in seed 0, and that of the answers that lost 0.37."
        ),
        published=ALPACA_FARM,
    ),
    REAL_DATA: Study(
        job="jobs/small/hh_rlhf.yaml",
        stage="final",
        controls=("sft",),
        measure="reward",
        title="DeepSpeed-Chat's three steps on real dialogues",
        introduction=(
            "Dialogues of Anthropic's HH-RLHF, a few thousand of them, and a model of a million parameters that begins "
            "from nothing. The study exercises every step on real data; it does not aim at good answers. The steps "
            "have prompts of their own (2 : 4 : 4), PPO mixes the loss of step 1 in, and `ppo_average` is the moving "
            "average of its weights. The reward is that of the model that step 2 trained, so nothing here says whether "
            "people would agree. The job takes its data from `--set data.path=FOLDER`."
        ),
    ),
}
