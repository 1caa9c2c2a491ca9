"""Scorers: what gives each candidate a number, or says why it has none."""
