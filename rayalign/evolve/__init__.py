"""Evolving prompts: which prompts teach most, and how new ones are made from them (Ye 2024, eva, arXiv 2411.00062)."""
