"""Does a server behave as OpenAI's clients expect? The suite behind `tunesmith api --selfcheck`.

Small modules of checks, each a function that is given a way to ask; most run twice, once whole and once streamed, with
the same expectations. A check passes, fails with a reason, or is skipped with a reason (the server says that it cannot
do something, as a grammar for tool calls). The same suite runs against any server by URL, so that a wrong check can be
told from a wrong server.
"""
