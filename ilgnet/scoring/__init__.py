"""Scoring photos with a net, and averaging over several views of each."""
