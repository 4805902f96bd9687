"""What a face is given: every use case, and nothing behind it."""

from dataclasses import dataclass

from ftd.config import Settings
from ftd.service.chat import Chat
from ftd.service.files import Files
from ftd.service.jobs import Jobs
from ftd.service.keys import Keys
from ftd.service.models import Models
from ftd.service.node import Node
from ftd.service.rates import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    keys: Keys
    rates: Rates
    files: Files
    jobs: Jobs
    models: Models
    node: Node
    chat: Chat
    settings: Settings
