"""Elastic Reasoning in LangChain and LangGraph.

    from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM

`chat` and `llm` hold the two models, `errors` what they raise.
"""

from __future__ import annotations

from elastic_agent.integrations.langchain.chat import ChatElasticReasoning
from elastic_agent.integrations.langchain.llm import ElasticReasoningLLM

__all__ = ["ChatElasticReasoning", "ElasticReasoningLLM"]
