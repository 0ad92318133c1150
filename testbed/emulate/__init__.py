"""Emulated hosts with real SSH servers, made of namespaces on this machine."""
