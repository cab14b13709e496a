"""Training a projector on embeddings: the loop, its checkpoints, its output folder, its trackers."""
