"""Table 4's timings, and the same nets on other engines."""
