"""The AVA data set: ratings, splits, labels, LMDBs and mean image."""
