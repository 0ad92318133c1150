"""What an attacker can have: own keys, stolen keys, logins, a place on the wire. Attacks and
refusals use it."""
