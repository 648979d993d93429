"""From an item to advertisement text whose every claim is checked, in English and Chinese.

    copy = write_copy(item, channel="push", locale="en", now=now)
    copy.text, copy.verified

`verify` checks a text that anyone wrote against the facts of an item; `read_submissions` and `judge` do so for a file
of texts. The eighteen guarantees: `GUARANTEES` on one text, `variants_differ` on several, `reproducible`, `answered`
and `approvable` on how a text came about.
"""

from recllm.adcopy.channels import Channel, channel, channels
from recllm.adcopy.facts import FactSheet, Offer, OfferType
from recllm.adcopy.mandatory import Sender, complete, missing_parts
from recllm.adcopy.packs import Pack, Rule, load_pack, pack, pack_names
from recllm.adcopy.record import CopyRecord, CopyRequest, replay, write_all_recorded, write_recorded
from recllm.adcopy.submissions import Submission, Verdict, judge, read_submissions
from recllm.adcopy.verify import GUARANTEES, passed, verify
from recllm.adcopy.verify.manner import variants_differ
from recllm.adcopy.verify.process import answered, approvable, reproducible
from recllm.adcopy.voice import Voice, load_voice
from recllm.adcopy.write import write_copy, write_variants

__all__ = [
    "GUARANTEES",
    "Channel",
    "CopyRecord",
    "CopyRequest",
    "FactSheet",
    "Offer",
    "OfferType",
    "Pack",
    "Rule",
    "Sender",
    "Submission",
    "Verdict",
    "Voice",
    "answered",
    "approvable",
    "channel",
    "channels",
    "complete",
    "judge",
    "load_pack",
    "load_voice",
    "missing_parts",
    "pack",
    "pack_names",
    "passed",
    "read_submissions",
    "replay",
    "reproducible",
    "variants_differ",
    "verify",
    "write_all_recorded",
    "write_copy",
    "write_recorded",
    "write_variants",
]
