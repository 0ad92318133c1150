"""What must be refused, tried on a running lab: which layer refuses it, and with which reason."""
