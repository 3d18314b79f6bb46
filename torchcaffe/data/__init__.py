"""LMDBs, datums, image sets, pictures and the transformer between them and a net."""
