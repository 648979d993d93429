"""Who to reach for an item, a set, a category or a text, and which of several campaigns reaches whom."""

from recllm.audiences.assignment import Assignment, Campaign, assign
from recllm.audiences.audience import Audience, Pool, Reached, audience, pool
from recllm.audiences.exclusions import Exclusions
from recllm.audiences.group import Difference
from recllm.audiences.selection import Cut
from recllm.audiences.several import Plan, audiences
from recllm.audiences.targets import Target, category_target, item_target, text_target

__all__ = [
    "Assignment",
    "Audience",
    "Campaign",
    "Cut",
    "Difference",
    "Exclusions",
    "Plan",
    "Pool",
    "Reached",
    "Target",
    "assign",
    "audience",
    "audiences",
    "category_target",
    "item_target",
    "pool",
    "text_target",
]
