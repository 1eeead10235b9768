"""Tool calls as models write them: found in an answer's text, while it streams.

formats    the table of formats, and which of them a chat template asks for
blocks     where a call ends: an end tag inside an argument is data
bodies     what stands between the tags, as calls
splitter   streamed text in; plain text and whole calls out

No format is guessed from an answer: the model's chat template names the tags. What stands between the tags is
read by its look (JSON, XML parameters, Python), since one pair of tags has had several bodies.
"""

from .bodies import WrittenCall
from .formats import HERMES, ToolFormat, tool_format
from .splitter import ToolCallSplitter, split

__all__ = ["HERMES", "ToolCallSplitter", "ToolFormat", "WrittenCall", "split", "tool_format"]
