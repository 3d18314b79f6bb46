"""AVA: ratings, splits, labels, LMDBs and mean."""
