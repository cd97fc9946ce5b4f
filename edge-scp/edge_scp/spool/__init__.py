"""What is acknowledged and not yet uploaded, on disk.

disk.py            what is asked of the file system
record.py          what is known of an instance, behind its bytes
file.py            one file while it is written; folder.py is where it lies
slots.py           preallocated files, written over and over
group_commit.py    one sync for several instances; sync_queue.py hands it to another process, where syncer.py does it
entries.py         the entries, found again after a crash; entry.py is one
capacity.py        how much room there is, counted in memory that all processes share; alarm.py warns
notifications.py   telling the uploader what is new
"""
