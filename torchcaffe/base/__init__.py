"""Errors, log, process state, signals, memory: what every other subpackage may use."""
