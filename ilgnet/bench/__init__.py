"""Benchmarks of the nets beside other engines, and Table 4."""
