"""Sensor boards on hosts: finding them by identity, flashing them. One small file per kind."""
