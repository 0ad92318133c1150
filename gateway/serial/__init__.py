"""Frames and sessions on a serial line. Flashing copies most of these files to the boards."""
