"""Links between processes and hosts: shaped, cut, read back and cleared, by several backends."""
