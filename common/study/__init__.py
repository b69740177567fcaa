"""One study from the command line to its summary."""
