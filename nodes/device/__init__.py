"""The processes of mobile and environmental devices."""
