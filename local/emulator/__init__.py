"""Runs the functions of a SAM template on one machine as AWS Lambda would run them."""
