"""Renting, fetching, running, exporting: what surrounds a run. Lesson 14. No lesson needs it before."""
