"""The comparison as one page for a browser: what it says, its clips with their sound, and its template."""
