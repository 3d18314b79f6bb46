"""The report, its tables, TensorBoard."""
