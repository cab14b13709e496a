"""From arrays to numbers, for any weights of the clips: classification, retrieval, calibration, AudioSet's tree."""
