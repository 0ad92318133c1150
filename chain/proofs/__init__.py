"""What others hold and check without trusting a replica: proofs, certificates, copies of the
ledger."""
