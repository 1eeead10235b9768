"""A training run's config: its schema, and how a preset, a file and flags become one `TrainConfig`.

May import budgets, whose distributions it checks. What makes things of a config stands in the rooms above.

agent          The `agent` section.
budgets        The `budgets` section: a class for each kind of distribution.
data           The `data` section.
fields         Types of fields, `Section`, `ConfigError`.
observe        The `validation` and `sample_table` sections: what a run shows while it runs.
loading        From a preset, a file and the command line to a checked config, and back to YAML.
processes      What the launcher says: which process this is, and of how many.
reward         The `reward` section.
schema         `TrainConfig` and its other sections.
trl_arguments  A config as the arguments of TRL and peft.
trl_fields     Which fields of TRL may stand in the `trl` section, and what the others are called here.
"""
