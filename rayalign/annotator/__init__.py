"""Judges that compare answers; usable without any training."""

from rayalign.annotator.judges.utility import Judge as Judge
from rayalign.annotator.judges.utility import RubricJudge as RubricJudge
