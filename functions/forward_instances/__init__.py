"""Sends instances to one destination."""
