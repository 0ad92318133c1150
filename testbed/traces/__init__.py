"""Reading the traces of processes, with their clocks on one time line; the steps of a path."""
