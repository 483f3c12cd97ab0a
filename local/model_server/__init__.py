"""An Ollama API over one small real model, for machines that have no Ollama."""
