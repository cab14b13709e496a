"""What a stored row may look like, read into plain values: cells, audio and labels in every form that occurs."""
