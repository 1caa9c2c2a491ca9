"""Training: the one online loop with its rollout flow and recovery, and the one offline loop function."""
