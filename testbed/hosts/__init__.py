"""Machines as the orchestrator sees them: one port, this machine and machines over SSH."""
