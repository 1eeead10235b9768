"""`elastic-agent demo`: a LangGraph agent works through a shop's week under a money cap and a deadline."""
