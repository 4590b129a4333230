"""The control loop: durable states, the ledger of decisions, and the gates."""
