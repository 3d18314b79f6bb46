"""From a NetParameter to a Net: phase filter, splits, layers, passes."""
