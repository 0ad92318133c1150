"""The two kinds of broker, embedded and Mosquitto, and the logins and rights that they enforce."""
