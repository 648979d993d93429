"""From an item to advertisement text whose every claim is checked, in English and Chinese.

    copy = write_copy(item, channel="push", locale="en", now=now)
    copy.text, copy.verified

`verify` checks a text that anyone wrote against the facts of an item; `read_submissions` and `judge` do so for a file
of texts. The eighteen guarantees: `GUARANTEES` on one text, `variants_differ` on several, `reproducible`, `answered`
and `approvable` on how a text came about.
"""
