"""A folder of photos: ranking, cache, picks, sidecars, gallery."""
