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
    # of training; `eval/` stands before what was measured on held-out rows
    r"reward/zero_variance": Metric("share of prompts", "lower"),
    r"reward/std": Metric("reward"),
    r"(reward|preference)/longer_accuracy": Metric("share of pairs"),
    r"(reward|preference)/accuracy": Metric("share of pairs", "higher"),
    r"reward/consistency": Metric("share of pairs", "higher"),
    r"reward/.+": Metric("reward", "higher"),
    r"kl/reference": Metric("nats an answer"),
    r"kl/beta": Metric("reward a nat"),
    r"policy/entropy": Metric("nats a token"),
    r"policy/approx_kl": Metric("nats a token"),
    r"policy/clip_fraction": Metric("share of tokens"),
    r"policy/ratio_(min|max)": Metric("new to old probability"),
    r"rollout/entropy": Metric("nats a token, from the tokens drawn"),
    r"rollout/length_.+": Metric("tokens"),
    r"rollout/eos_rate": Metric("share of answers", "higher"),
    r"rollout/ess": Metric("share of tokens", "higher"),
    r"rollout/mismatch_.+": Metric("nats a token", "lower"),
    r"rollout/absent": Metric("answers", "lower"),
    r"guard/rollbacks": Metric("returns to a checkpoint", "lower"),
    r"guard/learning_rate_factor": Metric("share of the job's learning rate"),
    r"rollout/(rejected|dropped|late)": Metric("groups", "lower"),
    r"rollout/mixed": Metric("answers of several versions"),
    r"rollout/staleness": Metric("versions", "lower"),
    r"rollout/tokens_per_second": Metric("tokens a second", "higher"),
    r"publish/bytes": Metric("bytes"),
    r"publish/seconds": Metric("seconds", "lower"),
    r"publish/restarted": Metric("answers", "lower"),
    r"publish/probe_gap": Metric("nats a token", "lower"),
    r"heldout/count": Metric("rows or pairs"),
    r"heldout/prompts": Metric("prompts"),
    r"eval/loss": Metric("held out", "lower"),
    r"loss/sft": Metric("nats", "lower"),
    r"mixture/sft": Metric("nats a token", "lower"),
    r"loss/reward": Metric("nats a pair", "lower"),
    r"loss/rank": Metric("nats a token, summed over pairs", "lower"),
    r"loss/critic": Metric("reward, squared", "lower"),
    r"loss/policy": Metric("objective of one step"),
    r"critic/explained_variance": Metric("share", "higher"),
    r"preference/.+_logprob": Metric("nats an answer"),
    r"preference/margin": Metric("implicit reward", "higher"),
    r"preference/.+_reward": Metric("implicit reward"),
    r"kto/kl": Metric("nats an answer"),
    r"kto/desirable_reward": Metric("implicit reward", "higher"),
    r"kto/undesirable_reward": Metric("implicit reward", "lower"),
    r"rrhf/violations": Metric("share of pairs", "lower"),
    r"rrhf/pair_accuracy": Metric("share of pairs", "higher"),
    r"quark/best_score": Metric("reward", "higher"),
    r".+/grad_norm": Metric("before clipping"),
    r".+/learning_rate": Metric("of a step"),
    r".+/tokens": Metric("tokens"),
    r".+/padding": Metric("share of what is read", "lower"),
}
_HELD_OUT = "eval/"
_PATTERNS = [(re.compile(pattern), metric) for pattern, metric in _METRICS.items()]


def metric_of(name: str) -> Metric:
    """The first entry that fits a metric's name; of one under a profile or held out, that of the metric itself."""
    bare = name.partition("@")[0]
    for own_name in (bare, bare.removeprefix(_HELD_OUT)):
        for pattern, metric in _PATTERNS:
            if pattern.fullmatch(own_name):
                return metric
    return Metric()
