"""Weights: published files, and surgery that moves them between nets."""
