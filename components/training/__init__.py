"""Training: TRL trainers inside Ray Train, sharded by DeepSpeed."""
