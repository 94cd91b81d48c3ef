"""Where experiments run: child processes of this machine."""
