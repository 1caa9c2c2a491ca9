"""Names of the metrics that a Learner reports of each optimizer step; a file of their own, which needs no torch."""

from __future__ import annotations

GRAD_NORM = "learner/grad_norm"
"""before clipping"""
LEARNING_RATE = "learner/learning_rate"
SKIPPED_STEPS = "learner/skipped_steps"
"""steps not taken because a loss or gradient was not finite"""
TOKENS = "learner/tokens"
"""real tokens, prompts included"""
METRICS = frozenset({GRAD_NORM, LEARNING_RATE, SKIPPED_STEPS, TOKENS})
