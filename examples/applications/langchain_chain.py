"""A chain of LangChain on a server of one's own: python langchain_chain.py COUNTRY [ADDRESS]"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI


def main(country: str, address: str = "http://127.0.0.1:8080") -> None:
    model = ChatOpenAI(model="local", base_url=f"{address}/v1", api_key="none", temperature=0)
    chain = ChatPromptTemplate.from_template("What is the capital of {country}?") | model | StrOutputParser()
    for piece in chain.stream({"country": country}):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
