"""A training run's config: its schema, and how a file, a preset and flags become one.

budgets        The `budgets` section of a training config.
data           The `data` section of a training config.
fields         What the sections of a training config are made of.
loading        From a preset, a file and the command line to one checked `TrainConfig`.
schema         What decides a training run, as documented fields: the schema of `elastic-agent train
               --config FILE`.
trl_arguments  A checked config in the terms of TRL and peft.
"""
