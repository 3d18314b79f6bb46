"""Errors, log, process state, signals, memory: what every other wing may use."""
