"""cline's command line. It asks on until the model calls one of its tools, so only its first answer is looked at."""

from headless import home, run
from scenarios import KEY, MODEL, QUESTION, V1, report

TEXT = '"contentType":"text"'


def agent():
    with home() as folder:
        run(folder, "cline", "auth", "-p", "openai", "-k", KEY, "-m", MODEL, "-b", V1)
        options = ("-P", "openai", "-k", KEY, "-m", MODEL, "--json")
        said = run(folder, "cline", *options, QUESTION, until=TEXT)
        assert TEXT in said, said[-400:]
        return said


report(agent)
