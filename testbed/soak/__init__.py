"""A running lab under seeded violence, and what became of it: see README.md."""
