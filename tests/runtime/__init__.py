"""The conformance suite of lambda_stream: one set of stories, told to several Runtime APIs."""
