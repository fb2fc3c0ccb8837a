"""One pass as a graph of operations, and where the elements of every tensor come from."""
