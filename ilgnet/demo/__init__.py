"""The demo set: painted or degraded photographs with synthetic labels."""
