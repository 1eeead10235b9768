"""Our models for LangChain: chat in, or text in.

binding            `model.bind(...)` that keeps its options when tools are bound afterwards.
cache              LangChain's answer cache, made safe for budgets.
chat               `ChatElasticReasoning`: a chat model whose thinking and solution are budgeted
                   apart.
fields             What the chat model and the text model share: their fields, and how a call is
                   opened from them.
llm                `ElasticReasoningLLM`: the same model for code that wants text in, text out.
options            What one call was asked to do: the model's fields, with the call's own keyword
                   arguments over them.
structured_output  `with_structured_output`: an answer of a given shape, by the engine's guided
                   decoding.
"""
