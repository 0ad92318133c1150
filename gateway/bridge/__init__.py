"""The bridge between devices and the chain: requests go up, proven answers come down."""
