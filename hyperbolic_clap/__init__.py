"""Everything below the scripts: from the rows of a parquet folder to the numbers of a results file."""
