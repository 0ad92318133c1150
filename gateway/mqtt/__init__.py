"""The MQTT client, the strict packet reader and the topics of the device network."""
