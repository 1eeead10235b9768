"""How other people's software meets Elastic Agent: LangChain, the commands, the report."""
