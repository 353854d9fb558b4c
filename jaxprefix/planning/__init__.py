"""A pod without a pod: the steps of a run compiled for a topology, and what they need there."""
