"""The MQTT client, its link and packets, and the topics of the network."""
