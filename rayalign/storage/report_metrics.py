"""What each metric is measured in, and whether less of it is better."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Better = Literal["higher", "lower"]


class Metric(NamedTuple):
    """How a metric is read."""

    unit: str = ""
    better: Better | None = None
    """None: neither more nor less of it is better by itself"""

    @property
    def remark(self) -> str:
        """Unit and direction for a caption."""
        direction = f"{self.better} is better" if self.better else ""
        return ", ".join(filter(None, (self.unit, direction)))


_METRICS = {
    # of an evaluation
    r"gold_utility|gold/utility": Metric("0 to 1", "higher"),
    r"reward": Metric("reward", "higher"),
    r"win_rate_bound_.+": Metric("%"),
    r"win_rate_.+": Metric("%", "higher"),
    r"perplexity": Metric("", "lower"),
    r"(.+_)?longer_accuracy": Metric("share of pairs"),
    r"(.+_)?accuracy": Metric("share of pairs", "higher"),
    r"answers_cut": Metric("share of answers", "lower"),
    r"answer_tokens": Metric("tokens"),
    r"answer_repetition": Metric("share of runs of 3 tokens", "lower"),
    r"asked_.+": Metric("share of answers", "higher"),
    r"best_of_n_kl.*": Metric("nats", "lower"),
    r"rank_correlation_.+": Metric("−1 to 1", "higher"),
    # of training
    r"reward/zero_variance": Metric("share of prompts", "lower"),
    r"reward/std": Metric("reward"),
    r"(eval/)?(reward|preference)/(longer_)?accuracy": Metric("share of pairs", "higher"),
    r"reward/.+": Metric("reward", "higher"),
    r"kl/reference": Metric("nats an answer"),
    r"policy/entropy": Metric("nats a token"),
    r"policy/approx_kl": Metric("nats a token"),
    r"policy/clip_fraction": Metric("share of tokens"),
    r"rollout/length_.+": Metric("tokens"),
    r"rollout/eos_rate": Metric("share of answers", "higher"),
    r"eval/loss": Metric("", "lower"),
    r"(eval/)?loss/(sft|reward|critic)": Metric("", "lower"),
    r"critic/explained_variance": Metric("share", "higher"),
    r"preference/.+_logprob": Metric("nats"),
}
_PATTERNS = [(re.compile(pattern), metric) for pattern, metric in _METRICS.items()]


def metric_of(name: str) -> Metric:
    """The first entry that fits a metric's name; of one under a profile, that of the metric itself."""
    bare = name.partition("@")[0]
    return next((metric for pattern, metric in _PATTERNS if pattern.fullmatch(bare)), Metric())
