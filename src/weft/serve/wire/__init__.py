"""The API's shapes and nothing else: pydantic models of requests and answers, one file per resource."""
