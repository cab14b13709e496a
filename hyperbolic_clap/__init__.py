"""Everything below the scripts: from the rows of a parquet folder to the numbers of a results file."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036, an older Python is named in the error
    sys.exit(f"error: Python 3.10 or newer is needed, and this is {sys.version.split()[0]}")
