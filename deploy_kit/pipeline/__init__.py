"""What the commands do: the rollout loop they share, collecting, finetuning, flying."""
