"""What a lab is: its model, its strict loader, its schema, and two inventory files."""
