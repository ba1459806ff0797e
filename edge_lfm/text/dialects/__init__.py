"""How families write tool calls: a file for each form. A form is chosen by marks in the chat template."""

from edge_lfm.text.dialects.deepseek import DEEPSEEK, DEEPSEEK_BARE
from edge_lfm.text.dialects.dialect import Call, Channels, Dialect, Parameters
from edge_lfm.text.dialects.glm_xml import GLM_TIGHT, GLM_XML
from edge_lfm.text.dialects.harmony import HARMONY
from edge_lfm.text.dialects.hermes import HERMES
from edge_lfm.text.dialects.hunyuan import HUNYUAN
from edge_lfm.text.dialects.minimax_xml import MINIMAX_XML
from edge_lfm.text.dialects.pythonic import PYTHONIC
from edge_lfm.text.dialects.qwen_xml import QWEN_XML

DIALECTS: tuple[Dialect, ...] = (
    HARMONY,
    DEEPSEEK,
    DEEPSEEK_BARE,
    GLM_TIGHT,
    GLM_XML,
    MINIMAX_XML,
    QWEN_XML,
    HUNYUAN,
    HERMES,
    PYTHONIC,
)
"""In the order of trying: a template of Qwen-Coder has the marks of Hermes too."""

__all__ = [
    "DEEPSEEK",
    "DEEPSEEK_BARE",
    "DIALECTS",
    "GLM_TIGHT",
    "GLM_XML",
    "HARMONY",
    "HERMES",
    "HUNYUAN",
    "MINIMAX_XML",
    "PYTHONIC",
    "QWEN_XML",
    "Call",
    "Channels",
    "Dialect",
    "Parameters",
    "dialect_of",
]


def dialect_of(template: str) -> Dialect:
    """The form of calls that a chat template teaches; `PYTHONIC` if it shows none."""
    return next((dialect for dialect in DIALECTS if dialect.fits(template)), PYTHONIC)
