"""What is signed, executed and remembered: operations, the registry of identities, admission."""
