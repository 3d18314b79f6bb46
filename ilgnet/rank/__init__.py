"""Ranking of a folder of photos, with its cache, gallery, picks and rating sidecars."""
