"""Our models for LangChain: messages in and out, or text in and out.

chat                `ChatElasticReasoning`: a chat model whose thinking and solution are budgeted apart
llm                 `ElasticReasoningLLM`: the same model for code that wants text
base                what both do: a call's options, its backend, its deltas
fields              their fields, and how a model is saved and read again
options             what one call was asked to do: the fields, with the call's keyword arguments over them
binding             `model.bind(...)` that keeps its options when tools are bound afterwards
structured_output   `with_structured_output`: an answer of a given shape
cache               LangChain's answer cache, made safe for budgets
"""
