"""Figures that are computed instead of measured: the risk of small authentication groups, and time
to consensus."""
