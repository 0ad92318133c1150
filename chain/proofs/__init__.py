"""Proofs, certificates and copies of the ledger: others check them without trusting a replica."""
