"""The OpenAI API over an engine and a renderer: FastAPI, served by uvicorn.

What happens to a request, in order of the files:
  guard      key, host, origin, size of the body, drain; one line of access log (never a prompt)
  fields, requests, extras   what may be asked: one pydantic model per route; a field nobody can honour is refused
  messages, sampling, tooling   OpenAI's words into Message, ToolSpec and SamplingParams
  run        the engine's pieces as an asynchronous stream; a client that leaves cancels its tickets
  chat, completions, vectors   answers, whole or as server-sent events
  errors     every failure in OpenAI's shape with the status that its clients map to an exception
"""
