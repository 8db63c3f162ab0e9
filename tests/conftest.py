"""One Hypothesis profile for all tests: no deadline, since the first call of a kernel compiles it."""

from hypothesis import settings

settings.register_profile("lpgnas", deadline=None)
settings.load_profile("lpgnas")
