"""Plots, drawings of nets, net summaries, HTML."""
