"""The frozen CLAP encoder: waveform -> windows -> log-mel -> vector, and the vectors that were computed before."""

SAMPLE_RATE = 48_000  # of every published CLAP
