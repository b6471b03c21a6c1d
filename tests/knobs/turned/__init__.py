"""Every option of every class that a config can name, with a change of it and what that change is to be seen by."""
