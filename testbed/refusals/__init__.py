"""Tries on a running lab what must be refused, and notes which layer refuses it, with which
reason."""
