"""Tunes a frozen encoder: `python train.py CONFIG.py [--field value ...]`, the same as `jaxprefix train`."""

import sys

from jaxprefix.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
