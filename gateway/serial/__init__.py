"""Frames and sessions on the serial line to a sensor board. Most of it is copied to boards."""
