"""codex, OpenAI's coding agent, at /v1/responses. Of its tools those that are no functions are left out by a header.
An answer that is cut by its length is an error to it, and all that is wanted here."""

from headless import home, run
from scenarios import MODEL, QUESTION, V1, report

HEADERS = '{"X-Unknown-Tools"="omit"}'
PROVIDER = f'model_providers.edge={{name="edge", base_url="{V1}", wire_api="responses", http_headers={HEADERS}}}'


def agent():
    with home() as folder:
        options = ("--skip-git-repo-check", "-c", 'model_provider="edge"', "-c", PROVIDER, "-m", MODEL)
        return run(folder, "codex", "exec", *options, QUESTION, until="max_output_tokens", CODEX_HOME=str(folder))


report(agent)
