"""Training runs, estimates of their time, their log."""
