"""The command line: one command a file, which says its usage and summary and has `run(args)`."""
