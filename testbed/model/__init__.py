"""What can be computed instead of measured: small authentication groups, time to consensus."""
