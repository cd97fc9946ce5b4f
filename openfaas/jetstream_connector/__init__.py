"""Carries JetStream messages to OpenFaaS functions, with acknowledgement, batching and dead letters."""
