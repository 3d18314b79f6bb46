"""What nets are made of: blobs and their memory, the layer contract, Python layers, precision."""
