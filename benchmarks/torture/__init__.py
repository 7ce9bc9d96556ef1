"""Torture: inputs of every kind mutated, runs killed, bad slides among good ones; ``make torture``, for hours."""
