"""The frozen backbones, their heads and tables of leaves, and the tuned model."""
