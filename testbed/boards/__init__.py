"""Sensor boards on hosts: finding them by identity, flashing them; power switches."""
