"""Pictures, the page to see and hear, the model card."""
