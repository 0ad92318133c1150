"""What must be refused, tried on a running bench: who refuses it, and in which word."""
