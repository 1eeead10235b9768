"""Tool calls as models write them: found in an answer's text, while it streams.

May import nothing of the other rooms.

blocks          Where a call ends: an end tag inside an argument is data.
bodies          What stands between the tags, as calls: picks the reader by the body's look.
formats         The table of formats, and which of them a chat template asks for.
json_bodies     Bodies in JSON: plain, behind a name, in sections, or with bare keys.
python_bodies   Bodies in Python: a list of calls with arguments by name.
schema_values   XML parameters are text: their values as the tool's schema has them.
splitter        Streamed text in; plain text and whole calls out.
written_call    A tool call as the model wrote it, and the error for text that is none.
xml_bodies      Bodies in XML: functions with parameters, invocations, keys and values.

No format is guessed from an answer: the model's chat template names the tags. What stands between the tags is
read by its look (JSON, XML parameters, Python), since one pair of tags has had several bodies.
"""

from .formats import HERMES, ToolFormat, tool_format
from .splitter import ToolCallSplitter, split
from .written_call import WrittenCall

__all__ = ["HERMES", "ToolCallSplitter", "ToolFormat", "WrittenCall", "split", "tool_format"]
