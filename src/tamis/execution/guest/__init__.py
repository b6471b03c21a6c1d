"""What runs in the sandbox's servers and their children: standard library alone, nothing of tamis outside here."""
