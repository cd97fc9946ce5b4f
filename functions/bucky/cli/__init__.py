"""The `bucky` command line; `app.py` puts it together."""
