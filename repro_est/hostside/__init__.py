"""What runs on a host, sent there for each run: standard library only, Python 3.8 or newer, by itself."""
