"""From an item to advertisement text whose every claim is checked, in English and Chinese.

    request = CopyRequest(item=item, channel="push", locale="en", now=now)
    for copy in write_copy(request):
        print(copy.text, copy.verified)

`write_copy` writes nothing where no fact carries a text; `review` checks a text that anyone wrote, `read_submissions`
and `judge` do so for a file of texts.
"""
