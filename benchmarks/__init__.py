"""One script a claim; each prints a table, then JSON on its last line with the ratio to a baseline of the same run."""
