"""How other software meets Elastic Agent: LangChain, the gateway, the commands, reports, dashboards."""
