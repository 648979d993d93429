"""A text as it leaves: with what the law adds on its channel, and whether all of it still fits."""

from __future__ import annotations

from recllm.adcopy.channels import channel_named
from recllm.adcopy.mandatory import Sender, complete
from recllm.campaigns.file import CampaignFile
from recllm.campaigns.plan_types import Doubt

TEMPLATE = "template"


def message(file: CampaignFile, text: str, *, channel: str, locale: str, generator: str) -> str:
    """generator: whose words they are; those of a model are marked as such."""
    sender, generated = file.sender or Sender(name=""), generator != TEMPLATE
    return complete(text, channel=channel, locale=locale, sender=sender, generated=generated)


def overlong(whole: str, channel: str) -> tuple[Doubt, ...]:
    """A warning for each slot of a finished message that is longer than the channel's limit: a second short message is
    a second price, which a person should agree to."""
    found = []
    for slot, words in channel_named(channel).split(whole):
        length, limit = slot.length_and_limit(words)
        if length > limit:
            said = f"with what the law adds, the {slot.name} takes {length} where {limit} fit"
            found.append(Doubt(rule="G6", message=said))
    return tuple(found)
