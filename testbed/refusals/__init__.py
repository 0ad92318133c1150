"""What must be refused, tried on a running lab: who refuses it, and in which word."""
