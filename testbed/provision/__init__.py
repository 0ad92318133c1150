"""From an inventory to running processes: the same steps on this machine and over SSH."""
