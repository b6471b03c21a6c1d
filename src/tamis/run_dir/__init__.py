"""What lies in a run directory; docs/run-directory.md names it file by file."""
