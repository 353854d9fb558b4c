"""Checkpoints and adapter folders: whole or absent, verified by digests."""
