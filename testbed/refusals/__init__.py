"""Tries on a running lab everything that must be refused, and notes layer and reason of each
refusal."""
