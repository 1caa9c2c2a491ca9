"""The embedded world: models, data and a judge in minutes of CPU, with the truth known.

`gold` and `tokenizer` are imported by name: the first is for evaluation and judges only, the second needs transformers.
"""

from __future__ import annotations

from rayalign.data.paddock.corpus import corpus
from rayalign.data.paddock.demonstrations import demonstrated, demonstrations
from rayalign.data.paddock.splits import SIZES, prompts

__all__ = ["SIZES", "corpus", "demonstrated", "demonstrations", "prompts"]
