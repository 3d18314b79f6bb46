"""Scorers, and averaging over views."""
