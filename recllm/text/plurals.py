"""The singular of English words, for search and for the checks of ad texts.

Only plurals are joined. A stemmer such as Porter's also joins "natural" with "nature" and "recycled" with "recyclable":
a check that used it would take the name of an item as proof of what the item is not.
"""

from __future__ import annotations

_IRREGULAR = """
aches ache, atlas atlas, atlases atlas, axes axe, beanies beanie, birdies birdie, bonuses bonus, bookshelves bookshelf,
booties bootie, brownies brownie, buses bus, caches cache, cactuses cactus, calories calorie, calves calf, canoes canoe,
canvas canvas, canvases canvas, children child, christmas christmas, cookies cookie, crocuses crocus, feet foot,
foodies foodie, freebies freebie, gases gas, goodies goodie, halves half, headaches headache, hoodies hoodie,
horseshoes horseshoe, knives knife, leaves leaf, lens lens, lenses lens, loaves loaf, magpies magpie, men man,
menus menu, mice mouse, mousses mousse, moustaches moustache, movies movie, news news, niches niche, onesies onesie,
pixies pixie, prairies prairie, quiches quiche, quizzes quiz, scarves scarf, selfies selfie, shelves shelf, shoes shoe,
smoothies smoothie, snowshoes snowshoe, sweeties sweetie, teeth tooth, thieves thief, veggies veggie, viruses virus,
wives wife, wolves wolf, women woman, zombies zombie
"""
"""Plurals that follow no rule below, and singulars that look like a plural, each with the singular."""
_SINGULARS = dict(pair.split() for pair in _IRREGULAR.split(","))


def stem(word: str) -> str:
    """The singular of a folded word: "dresses" -> "dress", "berries" -> "berry"; another word as it is."""
    if word in _SINGULARS:
        return _SINGULARS[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us")):
        return word
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if len(word) > 4 and word.endswith(("ches", "oes", "shes", "sses", "xes", "zzes")) else word[:-1]
