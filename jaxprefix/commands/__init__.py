"""Commands of the command line, one a file: `run(args)` parses what follows the command's name and returns the exit
code."""
