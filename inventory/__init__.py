"""The model of a lab, its strict loader, its schema, and the inventory files."""
