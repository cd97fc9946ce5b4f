"""Gives instances to OpenFaaS functions and keeps what they make."""
