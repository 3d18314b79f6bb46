"""Photos: decoding, preprocessing, checks, records."""
