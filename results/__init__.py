"""From similarities to what is reported: metrics, AudioSet's tree, results files, comparisons, pictures."""
