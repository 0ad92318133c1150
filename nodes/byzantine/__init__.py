"""Replicas that lie on purpose: a wrapper around an honest replica, put there when a campaign
asks."""
