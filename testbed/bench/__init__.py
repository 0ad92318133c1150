"""Benchmarks that measure against limits found in the same run; see README here."""
