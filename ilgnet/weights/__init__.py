"""Published weights, and weight surgery."""
