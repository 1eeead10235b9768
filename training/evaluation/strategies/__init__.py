"""Ways of keeping to a budget, each made of a few passes over a model.

cues        The words that strategies put into a model's mouth, and how a probed answer is read.
passes      What a strategy is made of: passes over a model, and the transcript that they leave. No
            IO, no clock.
steps       The steps that strategies are put together from: open, think, close, probe, solve, or one
            pass for all.
strategies  Every way of keeping to a budget that the paper compares, each as one short procedure.
"""
