"""Hosts are never left broken, and their state is watched: see testbed/README.md."""
