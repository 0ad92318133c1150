"""One module per family of attacks; `testbed.campaign.kinds` imports all of them."""
