"""Programs that attacks run on hosts, by the text of these files (`testbed.programs`)."""
