"""Judges of the pool: utilities, simulated humans, and language models with prompts and parsers."""
