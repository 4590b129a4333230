"""The control loop: durable state machine, journal and gates."""
