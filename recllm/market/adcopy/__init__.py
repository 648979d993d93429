"""From an item to advertisement text whose every claim is checked, in English and Chinese.

    request = CopyRequest(item=item, channel="push", locale="en", now=now)
    (copy,) = write_copy(request)
    copy.text, copy.verified

`write_copy` is the one door to a text, `write_recorded` adds what makes it again, `review` checks a text that anyone
wrote, `read_submissions` and `judge` do so for a file of texts. The eighteen guarantees: `GUARANTEES` on one text,
`variants_differ` on several, `approvable` on how a text came about.
"""
