"""One file a command: what it is asked on the command line, what it does, its exit code."""
