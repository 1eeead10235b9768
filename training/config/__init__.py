"""A training run's config: its schema, and how a preset, a file and flags become one `TrainConfig`.

budgets        The `budgets` section: a class for each kind of distribution.
data           The `data` section.
fields         Types of fields, `Section`, `ConfigError`.
loading        From a preset, a file and the command line to a checked config, and back to YAML.
schema         `TrainConfig` and its other sections. `agent` is in agents/, `reward` in rewards/.
trl_arguments  A config as the arguments of TRL and peft.
"""
