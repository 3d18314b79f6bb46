"""From AVA's ratings and photos to what a net trains on: labels, splits, LMDBs, mean; also a demo set."""
