"""Campaigns: from a file to an exact schedule, and from the schedule to a bundle of raw files."""
