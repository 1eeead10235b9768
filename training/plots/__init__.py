"""Pictures as SVG, without dependencies: strings to write to a file.

ink        colours, marks, axes' numbers and the frame, for both
panels     the course of a run: small panels of lines (metrics.svg)
accuracy   accuracy against tokens, with intervals (plot.svg)
"""
