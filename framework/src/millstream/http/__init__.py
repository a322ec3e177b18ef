"""The HTTP edge. What handlers name is here; what the runtime builds with is in the modules."""

from ..caller import Caller
from ..service.route import Accepted, Created, Reply
from .problems import Place, Problem
from .requests import Address, Headers

__all__ = ["Accepted", "Address", "Caller", "Created", "Headers", "Place", "Problem", "Reply"]
