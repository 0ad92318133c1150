"""Reads the traces of processes, puts their clocks on one time line, and finds the steps of a
path."""
