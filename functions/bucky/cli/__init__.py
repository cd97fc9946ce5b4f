"""The `bucky` command line.

app.py          puts it together, with the commands that other packages hang there
access.py       the running stack's address and key; stack_settings.py is what it was started with
api_client.py   requests to the admin API
send_files.py   sending files by C-STORE; local_file.py reads one for `rules test`
output.py       tables and JSON; settings_page.py is the reference table of settings
"""
