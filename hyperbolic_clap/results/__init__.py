"""Results files: one evaluation, reading, comparing with intervals."""
