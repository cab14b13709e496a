"""From the rows of a parquet folder, and from texts, to the frozen encoder's vectors: each computed once, ever."""
