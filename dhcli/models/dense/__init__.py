"""Detectors of one stage: features → towers → a score and a box of every prior → a rule."""
