"""What traces of processes say: reading them, laying their clocks together, phases of a path."""
