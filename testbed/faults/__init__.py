"""One module per family of faults; `testbed.campaign.kinds` imports all of them."""
