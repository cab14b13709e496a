"""Everything below the scripts: from the rows of a parquet folder to the numbers of a results file."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036, who has an older one is told
    sys.exit(f"error: Python 3.10 or newer is needed, and this is {sys.version.split()[0]}")
