"""Training: a painting and photos go in, a checkpoint comes out."""
