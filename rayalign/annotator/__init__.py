"""Judges that compare answers; usable without any training."""

from rayalign.annotator.judges import Judge as Judge
from rayalign.annotator.judges import RubricJudge as RubricJudge
