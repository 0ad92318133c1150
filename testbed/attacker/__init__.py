"""What an attacker can have: own keys, stolen ones, logins, a place on the wire. For attacks and
refusals alike."""
