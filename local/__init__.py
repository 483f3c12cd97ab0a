"""The one-machine stack: the functions, their stores and a model, run as on AWS."""
