"""What compares audio with text: plain cosine or a trained projector, loaded, checked and exported."""
