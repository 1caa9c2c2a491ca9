"""Stages in order, each resumable."""
