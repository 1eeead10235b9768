"""Where samples are drawn and graded.

engines         Where samples are drawn: batched in this process, or over any `Backend` (a vLLM server,
                say).
custom_graders  Graders of an evaluation: those of training, and any function of one's own.
grading         Grading beside drawing: a thread of its own, so that a slow grader never holds up a model.
in_process      Samples drawn in this process, many together in one batch.
served          Samples drawn over any `Backend`, so many under way at a time; begun afresh when the
                upstream fails.
"""
