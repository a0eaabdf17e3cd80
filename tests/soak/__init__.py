"""Soaks: the product under load and faults for as long as somebody likes, by hand: `python -m tests.soak --help`."""
