"""What a disk may hold after the power failed: recorded file operations, and images made from them.

`recorder.c` lies under a program and logs each change to files of one directory; `trace.py` runs programs
under it; `images.py` rebuilds the directory as a disk might hold it when the power fails at some point of the
log.
"""
