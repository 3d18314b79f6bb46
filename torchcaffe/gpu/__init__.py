"""Recorded passes: CUDA graphs that replay a net's work."""
