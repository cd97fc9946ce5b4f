"""Serves one function handler over HTTP: `python -m bucky.serve` (docs/reference/function-contract.md).

contract.py           what a handler takes and returns
handlers.py           finding a handler, and the dependencies it declares
app.py                the requests; answering.py runs the handler, cloudevents.py reads what comes
dependencies.py       opening what handlers need, again when it was away
processing_input.py   the instances that a processing function is given
"""
