"""Prompts and examples: readers of public formats, chat templates, collating, and the embedded world."""
