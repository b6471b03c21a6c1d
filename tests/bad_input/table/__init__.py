"""Cases of bad input by subject, and the good things that they are made of."""
