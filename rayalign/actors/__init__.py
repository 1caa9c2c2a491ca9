"""Thin Ray actors, one role each. They hold state that can be lost and made again."""
