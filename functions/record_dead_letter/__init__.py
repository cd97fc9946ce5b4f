"""Makes a delivery that ran out of attempts visible as such."""
