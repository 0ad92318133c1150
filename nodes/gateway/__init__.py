"""The gateway process and the broker process."""
