"""LMDBs, Datums, image sets, picture files and the DataTransformer."""
