"""
The lifecycle of servables: plain Python, standard library only.

Nothing here knows a file format, a protocol or a flag.  Sources say which
versions are aspired, Loaders know how to load one, and the manager between
them decides what happens next and when.
"""
