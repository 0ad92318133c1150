"""Puts a running lab under seeded disturbances and judges it: see README.md."""
