"""Weights on the move: checksummed buckets, the probe that proves a transfer, model folders. No Ray."""
