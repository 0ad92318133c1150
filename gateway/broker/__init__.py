"""Brokers behind one port: the embedded one, Mosquitto, and the logins and rights that they
hold."""
