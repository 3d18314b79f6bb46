"""Plots, drawings and summaries of nets, and HTML pages."""
