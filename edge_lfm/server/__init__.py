"""A local server with OpenAI's, Anthropic's and Ollama's interfaces: HTTP with streams, a WebSocket, metrics, a page.

    serve.py        the socket, uvicorn, signals
    supervisor.py   a process that starts the server again when it dies
    connections.py  heads that come in time, not too many at once
    logs.py  request_log.py    what is written to standard error, and a line of it for each request
    app.py          routes
    settings.py     what the command line says
    hosting.py      the model: loaded on demand, unloaded when idle
    batch.py  batch_lines.py  batch_output.py    a file of requests, without a socket
    batch_cluster.py    the same on many machines
    choices.py      the answers that one request asks for
    guard.py        who may come in: hosts, origins, keys, sizes
    schemas.py      requests, checked as they are decoded
    failures.py  error_forms.py    every error as JSON, in the form of the route's clients
    sse.py          event streams that end when the client leaves
    chat.py  completions.py  responses.py  socket.py  texts.py    one file per interface
    anthropic*.py  ollama*.py    theirs: what comes in becomes a chat, and its answer goes out in their form
    metrics.py      Prometheus
    page/           a chat page

Needs the extra `server`. Knows the Python API and HTTP; does not know how answers are made.
"""
