"""Marketing on top of recommendations.

`audiences`: who to reach. `propensity`: who will buy, leave or redeem, and on whom an offer has an effect.
`occasions`: when. `experiments`: what made a difference. `adcopy`: ad text and its checks. `jobs`: the same for a
workspace. `campaigns`: audience, offer, texts, approval and outcome in one folder.
"""
