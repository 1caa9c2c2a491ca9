"""Win rates and intervals, pure numpy; importable by anyone's own code."""

from rayalign.evaluation.intervals import Interval as Interval
from rayalign.evaluation.intervals import mean_interval as mean_interval
from rayalign.evaluation.intervals import paired_difference as paired_difference
from rayalign.evaluation.intervals import share_interval as share_interval
from rayalign.evaluation.winrate import WinRate as WinRate
from rayalign.evaluation.winrate import win_rate as win_rate
