"""Intervals, logistic regression, win rates, length control, agreement and ratings: numpy only.

The public names are re-exported by `rayalign.evaluation`.
"""
