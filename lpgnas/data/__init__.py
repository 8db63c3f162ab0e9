"""The graph that ships inside the package (see `NOTICE.md` beside it)."""
