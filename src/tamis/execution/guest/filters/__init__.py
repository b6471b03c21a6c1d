"""The syscall filters as bytes, one for each kind of machine; ``generate.py`` says what is in them and why."""
