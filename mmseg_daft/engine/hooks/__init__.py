"""MMEngine hooks, one a file."""
