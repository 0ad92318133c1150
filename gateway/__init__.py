"""The gateway between devices and the chain: MQTT, serial lines, brokers and the bridge itself."""
