"""A lab that stays up, and the work of its operator: see testbed/README.md."""
