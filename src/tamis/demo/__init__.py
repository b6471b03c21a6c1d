"""What `make demo` runs: both programs, end to end, with a table and a picture each."""
