"""The orchestrator: from an inventory and a campaign to runs and reports. See README.md."""
