"""Text to token ids: markers, chat templates, user text that stays text, and counts.

control_strings  Law 7, user text is data: where a text could become a control token, and how it is
                 kept from becoming one.
counting         How many tokens a prompt has for a model that somebody else hosts, whose chat
                 template we don't have.
markers          Where thinking ends: markers as token-id sequences, resolved from the model's own
                 tokenizer.
model_files      What a model's files say beside its weights: its tokenizer, and the tokens that end
                 and start a turn.
token_bytes      What each id of a tokenizer stands for, as bytes: markers are looked for in these,
                 across tokens.
tokenizer        Text to ids for Hugging Face models: chat template, markers, and user text that stays
                 text.
"""
