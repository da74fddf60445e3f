"""What if: changes of what agents do and of how they are served, each priced again.

One file a change. A change of what an agent does (:class:`~kvsim.insight.what_if.change.AgentChange`) says what is
different in a few turns; :mod:`~kvsim.insight.what_if.rewriting` makes the rest of the batch follow. A change of the
serving is another :class:`~kvsim.insight.what_if.deployment.Deployment`. :mod:`~kvsim.insight.what_if.savings` prices
both. docs/what_if.md says what each takes for granted.
"""

from kvsim.insight.what_if.change import AgentChange, ServingChange
from kvsim.insight.what_if.compact import Compact
from kvsim.insight.what_if.deployment import Deployment, KeepCache, OnGpu, WithEngine, WithModel, WithPolicy
from kvsim.insight.what_if.drop_call import DropCalls
from kvsim.insight.what_if.merge import Merge
from kvsim.insight.what_if.tool_descriptions import ShortenTools
from kvsim.insight.what_if.truncate import Truncate

__all__ = [
    "AgentChange",
    "Compact",
    "Deployment",
    "DropCalls",
    "KeepCache",
    "Merge",
    "OnGpu",
    "ServingChange",
    "ShortenTools",
    "Truncate",
    "WithEngine",
    "WithModel",
    "WithPolicy",
]
