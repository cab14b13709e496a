"""Training a projector on embeddings: the loop, the split, its output folder, its trackers."""
