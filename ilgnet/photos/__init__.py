"""Photos: decoding, preprocessing for a net, quality checks, and records of LMDBs."""
