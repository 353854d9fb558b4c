"""A run from its config to its adapter: set-up, steps, evaluation, checkpoints, and how it resumes."""
