"""A running lab under seeded disturbances, and what became of it: see README.md."""
