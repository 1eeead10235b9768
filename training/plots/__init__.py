"""Pictures as SVG text, without dependencies.

accuracy   Accuracy against tokens, with intervals (plot.svg).
panels     The course of a run: small panels of lines (metrics.svg).
svg        What both share: colours, marks, round numbers for axes, the document.
"""
