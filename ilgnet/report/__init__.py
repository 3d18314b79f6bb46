"""The report page with its tables, and TensorBoard's event files."""
