"""Frames between processes over mutual TLS."""
