"""What everything else stands on: it knows nothing of shops, models or marketing.

`errors`: what may go wrong, in words with a remedy. `files`: whole or not at all. `documents`: a TOML or JSON
document as a frozen class. `schema`: tables, columns, protocols. `questions`, `messages`: what is asked, and sent.
`policy`: consent and purposes. `settings`: what a shop may set. `stats`: intervals, probabilities, ranking figures.
`words`: the sentences that people read, in both languages.
"""
