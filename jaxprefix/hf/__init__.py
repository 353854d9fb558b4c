"""Hugging Face folders in and out: configs, tokenizers, weights by byte ranges, fingerprints."""
