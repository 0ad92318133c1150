"""The baseline: a centralised service provider that makes and keeps the keys of all devices."""
