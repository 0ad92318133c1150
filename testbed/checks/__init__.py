"""Independent checkers: they read ledgers and event logs and trust nobody.

Everything here is a function of files. `ledger` verifies the stored databases. `properties`,
`authority`, `attacks` and `faults` judge what happened from files (`evidence`, `records`).
`testbed.report` turns findings into verdicts and reports.
"""
