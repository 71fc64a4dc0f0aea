"""A policy that LEAPP exported, judged: `description` reads its YAML, `run` holds the model against the checkpoint."""
