"""Blob and its memory, layers, and the precision of their arithmetic."""
