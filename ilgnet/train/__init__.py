"""Training runs, with their time estimates and logs."""
