"""A lab that stays up, and what its operator does with it: see testbed/README.md."""
