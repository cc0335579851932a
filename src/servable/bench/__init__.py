"""
Load on a server, and what comes back.

The generator itself is in the engine; here are what it sends (`requests`), what it
watches (`processes`), the call (`runner`) and the picture (`plot`).
"""
