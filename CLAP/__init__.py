"""The frozen CLAP encoder: its log-mel, its weights, its embeddings and their cache."""
