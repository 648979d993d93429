"""From an item to advertisement text whose every claim is checked, in English and Chinese.

    copy = write_copy(item, channel="push", locale="en", now=now)
    copy.text, copy.verified

`verify` checks a text that anyone wrote against the facts of an item.
"""

from recllm.adcopy.channels import Channel, channel, channels
from recllm.adcopy.facts import FactSheet, Offer, OfferType
from recllm.adcopy.verify import GUARANTEES, passed, verify
from recllm.adcopy.write import write_copy

__all__ = [
    "GUARANTEES",
    "Channel",
    "FactSheet",
    "Offer",
    "OfferType",
    "channel",
    "channels",
    "passed",
    "verify",
    "write_copy",
]
