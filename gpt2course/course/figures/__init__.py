"""The figures of single lessons, one module for each lesson, in the style of plots.py."""
