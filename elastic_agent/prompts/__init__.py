"""Text to token ids: markers, chat templates, user text that stays text, and counts.

May import `tool_calls` and the root's modules.

chat_template      A conversation as text by the model's template, and what begins and ends an answer.
control_strings    Law 7, user text is data: where a text could become a control token, and how this is
                   prevented.
conversation_texts Which texts of a conversation its sender chose.
counting           How many tokens a prompt has for a hosted model whose chat template is not public.
file_tokenizer     A tokenizer by its files alone, without transformers.
marker_profiles    The known pairs of thinking markers: add a family of models here.
marker_resolution  Finds a model's markers in its vocabulary and its chat template.
markers            The markers of one model, as token ids: where thinking opens and ends.
model_files        A model's tokenizer, and the tokens that end and start a turn.
token_bytes        What each id of a tokenizer stands for, as bytes.
tokenizer          Text to ids for Hugging Face models.
told_budget        The words that tell a model what is left of its budget, and where they stand.
"""
