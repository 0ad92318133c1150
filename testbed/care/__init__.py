"""Hosts are never left broken, and never trusted unwatched: see testbed/README.md."""
